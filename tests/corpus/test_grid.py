import functools

import numpy as np
import pyproj
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepsentinel.corpus import grid


@functools.lru_cache(maxsize=1)
def utm_zones():
  """PROJ's own table: (west, south, east, north) of every UTM zone by EPSG code."""
  found = pyproj.database.query_utm_crs_info(datum_name='WGS 84')
  return {int(info.code): info.area_of_use.bounds for info in found}


def zones_by_pyproj(lon, lat):
  return {code for code, (w, s, e, n) in utm_zones().items() if w <= lon <= e and s <= lat <= n}


@settings(max_examples=60, deadline=None)
@given(st.integers(-180_000_000, 179_999_999).map(lambda i: i / 1e6), st.floats(-79.9, 83.9))
def test_centred_on_the_point_and_snapped(lon, lat):
  g = grid.patch_grid(lon, lat, 256, 10.0)
  left, bottom, right, top = g.bounds
  assert left % 10 == bottom % 10 == 0
  assert (right - left, top - bottom) == (2560, 2560)
  x, y = pyproj.Transformer.from_crs(4326, g.epsg, always_xy=True).transform(lon, lat)
  assert abs((left + right) / 2 - x) <= 5.001
  assert abs((bottom + top) / 2 - y) <= 5.001
  # 32V and Svalbard aside, PROJ's own table of UTM zones agrees.
  if not (0 <= lon < 42 and lat >= 56):
    assert g.epsg in zones_by_pyproj(lon, lat)


@pytest.mark.parametrize(
  ('lon', 'lat', 'epsg'),
  [
    (13.4, 52.5, 32633),
    (11.9999, 50.0, 32632),
    (12.0, 50.0, 32633),
    (-70.6, -33.4, 32719),
    (0.0, -0.001, 32731),
    (0.0, 0.0, 32631),
    (179.99, -17.0, 32760),
    (-179.99, -17.0, 32701),
    (180.0, -17.0, 32701),
    (5.3, 60.4, 32632),  # Bergen: 32V
    (15.6, 78.2, 32633),  # Longyearbyen: 33X
    (8.0, 78.0, 32631),
    (9.5, 80.0, 32633),
    (25.0, 84.0, 32635),
    (5.3, 55.9, 32631),
  ],
)
def test_zones_by_hand(lon, lat, epsg):
  assert grid.utm_epsg(lon, lat) == epsg


def test_a_patch_across_the_antimeridian_is_one_square():
  g = grid.patch_grid(179.999, -17.0)
  lon, _ = g.pixel_centres_lonlat()
  assert lon.min() < -179.9
  assert lon.max() > 179.9
  outline = g.outline_lonlat()
  assert outline.is_valid
  assert outline.bounds[2] - outline.bounds[0] < 0.05


@pytest.mark.parametrize('lat', [84.1, -80.5, 90.0, float('nan'), 91.0])
def test_beyond_utm_is_refused(lat):
  with pytest.raises(ValueError, match=r'UTM|no \(longitude'):
    grid.patch_grid(10.0, lat)


def test_pixel_size_of_twenty_metres():
  g = grid.patch_grid(13.4, 52.5, 33, 20.0)
  assert g.x0_m % 20 == 0
  assert np.diff(g.bounds[::2]) == 660

import numpy as np
import pyproj
import pytest
import scipy.spatial
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from deepsentinel.corpus import points


def chord_neighbours_km(lon, lat):
  lon, lat = np.radians(lon), np.radians(lat)
  xyz = np.column_stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])
  return 6371.0 * scipy.spatial.cKDTree(xyz).query(xyz, k=2)[0][:, 1]


def test_all_land_but_antarctica_measures_134_million_km2():
  # Land without Antarctica: 134.9 M km2 (CIA World Factbook: 148.94 less Antarctica's 14.2; lakes included).
  assert points.Region().area_km2() == pytest.approx(134.7e6, rel=0.01)


def test_area_agrees_with_geodesic_area_of_the_polygons():
  table = points.countries().set_index('code')
  geod = pyproj.Geod(ellps='WGS84')
  for code in ('POL', 'BRA', 'NZL'):
    area, _ = geod.geometry_area_perimeter(table.loc[code, 'geometry'])
    assert points.Region(code).area_km2() == pytest.approx(abs(area) / 1e6, rel=2e-3)


def test_points_lie_on_land_in_the_country_they_name():
  drawn = points.land_points(60, seed=3)
  by_code = points.countries().set_index('code')['geometry']
  iso = points.countries().set_index('iso')['geometry']
  inside = [
    shapely.intersects(shapely.union_all(np.atleast_1d(iso.get(c, by_code.get(c)))), shapely.Point(x, y))
    for x, y, c in drawn.itertuples(index=False)
  ]
  assert all(inside)
  assert drawn['lat_deg'].min() > -60


def test_mean_nearest_neighbour_is_that_of_a_poisson_process():
  # A box far from coasts, so that edges matter little: Kazakhstan and southern Russia.
  region = points.Region(bbox='60,45,90,60')
  drawn = region.draw(0, range(8000))
  expected = 0.5 / np.sqrt(8000 / region.area_km2())
  # The mean of n Rayleigh distances has a standard error of 0.26 / sqrt(n density); edges add about 1 %.
  assert chord_neighbours_km(drawn['lon_deg'], drawn['lat_deg']).mean() == pytest.approx(expected, rel=0.03)


def test_uniform_by_area_not_by_degree():
  drawn = points.land_points(20_000, seed=1, bbox='60,40,90,70')
  to_xy = pyproj.Transformer.from_crs(4326, 6933, always_xy=True)
  part = [points.Region(bbox=f'60,{s},90,{s + 10}').area_km2() for s in (40, 50, 60)]
  count = np.histogram(drawn['lat_deg'], [40, 50, 60, 70])[0]
  expected = 20_000 * np.array(part) / sum(part)
  assert (np.abs(count - expected) < 4 * np.sqrt(expected)).all()
  assert np.isfinite(to_xy.transform(drawn['lon_deg'], drawn['lat_deg'])).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 40), st.randoms(use_true_random=False))
def test_a_point_depends_on_its_number_alone(seed, n, shuffler):
  region = points.Region('DEU')
  whole = region.draw(seed, range(n))
  order = list(range(n))
  shuffler.shuffle(order)
  assert region.draw(seed, order).reset_index(drop=True).equals(whole.iloc[order].reset_index(drop=True))
  assert not np.isclose(region.draw(seed, [0], attempt=1)['lon_deg'][0], whole['lon_deg'][0])


def test_points_are_those_of_generators_made_one_by_one():
  region, numbers = points.Region('EU27_GB'), [0, 5, 31, 99_999, 7]
  to_lonlat = pyproj.Transformer.from_crs(points.EQUAL_AREA, 4326, always_xy=True)
  share = np.cumsum(region._size.prod(1)) / region._size.prod(1).sum()
  for attempt in (0, 3):
    drawn = region.draw(11, numbers, attempt)
    for row, number in enumerate(numbers):
      stream = np.random.default_rng([11, points._STREAM, number, attempt])
      while True:
        u = stream.random(3)
        which = int(np.searchsorted(share, u[0], side='right'))
        place = to_lonlat.transform(*(region._corner[which] + u[1:] * region._size[which]))
        if shapely.contains_xy(region.parts[which], *place):
          break
      assert (drawn['lon_deg'][row], drawn['lat_deg'][row]) == place
      assert drawn['country'][row] == region.country[which]


def test_box_across_the_antimeridian():
  drawn = points.land_points(200, 0, bbox='170,-25,-175,-10')
  assert ((drawn['lon_deg'] >= 170) | (drawn['lon_deg'] <= -175)).all()
  assert 'FJI' in set(drawn['country'])


def test_eu27_and_the_united_kingdom_without_overseas_parts():
  assert len(points.EU27_GB) == 29  # 27 states, the United Kingdom, and Aland, which Natural Earth keeps apart
  assert {'HRV', 'GBR', 'FRA', 'CYP', 'MLT'} <= set(points.EU27_GB)
  assert not {'NOR', 'CHE', 'TUR'} & set(points.EU27_GB)
  drawn = points.land_points(3000, 0, 'EU27_GB', points.CORINE_EUROPE)
  assert set(drawn['country']) <= set(points.EU27_GB)
  assert drawn['lon_deg'].between(-31.5, 45).all()
  # 4.23 M km2 in the EU (Eurostat; overseas parts are 0.1 of it) and 0.24 in the United Kingdom.
  assert points.Region('EU27_GB', points.CORINE_EUROPE).area_km2() == pytest.approx(4.38e6, rel=0.02)
  with_overseas = points.Region('EU27_GB')
  assert 'FRA' in set(with_overseas.country_of(np.array([-53.0]), np.array([4.0])))  # French Guiana


@pytest.mark.parametrize(
  ('code', 'hint'),
  [('DEUU', r'DEU \(Germany\)'), ('Germany', r'DEU \(Germany\)'), ('EU27GB', 'EU27_GB'), ('deu', r'DEU \(Germany\)')],
)
def test_a_misspelt_country_names_close_codes(code, hint):
  with pytest.raises(ValueError, match=f'Unknown country code {code!r}.*{hint}'):
    points.land_points(1, 0, code)


@pytest.mark.parametrize('bbox', ['1,2,3', '0,50,10,40', '0,0,400,1', 'a,b,c,d'])
def test_malformed_boxes_are_refused(bbox):
  with pytest.raises(ValueError, match='ounding box'):
    points.parse_bbox(bbox)


def test_a_box_in_the_sea_is_refused():
  with pytest.raises(ValueError, match='There is no land'):
    points.Region(bbox='-40,30,-39,31')


def test_country_of_places():
  codes = points.Region().country_of(np.array([2.35, -30.0, 21.2]), np.array([48.85, 35.0, 42.6]))
  assert list(codes) == ['FRA', '', 'KOS']

"""Patch grids on the whole globe, and scenes."""

import datetime

import hypothesis
import numpy as np
import pyproj
import pytest
import shapely
from hypothesis import strategies as st

from deepsentinel.sources import base

UTC = datetime.UTC


def utm_grid(lon: float, lat: float, size: int = 256) -> base.PatchGrid:
  zone = int((lon + 180) // 6) % 60 + 1
  epsg = (32600 if lat >= 0 else 32700) + zone
  x, y = base.transformer(4326, epsg).transform(lon, lat)
  return base.PatchGrid(epsg, round(x, -1) - size * 5, round(y, -1) + size * 5, size, size)


@hypothesis.given(st.floats(-180, 179.999), st.floats(-80, 84))
@hypothesis.settings(deadline=None, max_examples=60)
def test_outline_holds_the_pixel_centres_everywhere(lon, lat):
  grid = utm_grid(lon, lat, 16)
  outline = grid.outline_lonlat()
  lons, lats = grid.pixel_centres_lonlat()
  middle = shapely.centroid(outline).x
  lons = middle + (lons - middle + 180) % 360 - 180
  assert shapely.contains_xy(shapely.buffer(outline, 1e-9), lons, lats).all()
  # Area on the ellipsoid, independently: 160 m squared, within UTM's scale of 0.9996 to about 1.0014 squared.
  area, _ = pyproj.Geod(ellps='WGS84').geometry_area_perimeter(shapely.geometry.polygon.orient(outline))
  assert 160**2 / 1.0035 < area < 160**2 / 0.998


def test_outline_across_the_antimeridian_stays_in_one_piece():
  grid = utm_grid(179.9999, -16.5)
  west, _, east, _ = grid.outline_lonlat().bounds
  assert east - west < 0.05
  assert west < -180 < east or west < 180 < east
  split = base.split_antimeridian(grid.outline_lonlat())
  assert split.geom_type == 'MultiPolygon'
  assert split.bounds[0] == pytest.approx(-180)
  assert split.bounds[2] == pytest.approx(180)
  assert split.area == pytest.approx(grid.outline_lonlat().area)
  boxes = grid.bounds_in(4326)
  assert len(boxes) == 2
  assert [b[0] < b[2] for b in boxes] == [True, True]


def test_outline_in_the_polar_grid_and_the_southern_zones():
  # North polar stereographic: 256 px around 88 N.
  x, y = base.transformer(4326, 3413).transform(10.0, 88.0)
  grid = base.PatchGrid(3413, x - 1280, y + 1280, 256, 256)
  west, south, east, north = grid.outline_lonlat().bounds
  assert (west, south) < (10, 88) < (east, north)
  south_grid = base.PatchGrid(32736, 617300.0, 9625090.0, 224, 224)
  lons, lats = south_grid.pixel_centres_lonlat()
  assert lats.max() < 0
  assert (lats[0] > lats[-1]).all()
  assert lons.mean() == pytest.approx(34.07, abs=0.02)


def test_pixel_centres_are_half_a_pixel_in():
  grid = base.PatchGrid(32632, 500_000.0, 5_000_000.0, 2, 3, 10.0)
  lon, lat = grid.pixel_centres_lonlat()
  expected = pyproj.Proj('EPSG:32632')(500_015.0, 4_999_985.0, inverse=True)
  assert (lon[1, 1], lat[1, 1]) == pytest.approx(expected, abs=1e-9)
  assert grid.bounds == (500_000.0, 4_999_980.0, 500_030.0, 5_000_000.0)
  assert grid.window(1, 2, 1, 1).bounds == (500_020.0, 4_999_980.0, 500_030.0, 4_999_990.0)


def test_bounds_in_a_tilted_crs_hold_the_whole_grid():
  grid = utm_grid(25.0, 60.0)
  ((left, bottom, right, top),) = grid.bounds_in(3035)
  x, y = base.transformer(grid.epsg, 3035).transform(*shapely.get_coordinates(grid.outline()).T)
  assert left < min(x)
  assert bottom < min(y)
  assert max(x) < right
  assert max(y) < top
  assert right - left < 3500  # a square of 2.56 km, turned


def scene(scene_id='a', hour=10, footprint=None, sensor='sentinel2'):
  return base.Scene(
    scene_id, sensor, footprint or shapely.box(9, 47, 10, 48), datetime.datetime(2020, 6, 1, hour, tzinfo=UTC)
  )


def test_scenes_that_meet_sorts_and_includes_the_start_only():
  scenes = [scene('b', 12), scene('a', 12), scene('c', 8), scene('d', 12, sensor='sentinel1')]
  start, end = datetime.datetime(2020, 6, 1, 8, tzinfo=UTC), datetime.datetime(2020, 6, 1, 12, 0, 1, tzinfo=UTC)
  area = shapely.box(9.5, 47.5, 9.6, 47.6)
  assert [s.id for s in base.scenes_that_meet(scenes, 'sentinel2', area, start, end)] == ['c', 'a', 'b']
  noon = datetime.datetime(2020, 6, 1, 12, tzinfo=UTC)
  assert [s.id for s in base.scenes_that_meet(scenes, 'sentinel2', area, start, noon)] == ['c']
  assert base.scenes_that_meet(scenes, 'sentinel2', shapely.box(20, 0, 21, 1), start, end) == []


def test_scenes_beyond_the_antimeridian_are_found_for_unwrapped_outlines():
  footprint = shapely.union_all([shapely.box(179, -17, 180, -16), shapely.box(-180, -17, -179, -16)])
  start, end = datetime.datetime(2020, 1, 1, tzinfo=UTC), datetime.datetime(2021, 1, 1, tzinfo=UTC)
  outline = shapely.box(180.2, -16.6, 180.3, -16.5)
  assert base.scenes_that_meet([scene(footprint=footprint)], 'sentinel2', outline, start, end)


def test_scene_refuses_what_would_be_misread():
  with pytest.raises(ValueError, match=r"Unknown sensor 'landsat'\. Known: sentinel2, sentinel1"):
    scene(sensor='landsat')
  with pytest.raises(ValueError, match='no timezone'):
    base.Scene('a', 'sentinel2', shapely.box(0, 0, 1, 1), datetime.datetime(2020, 1, 1))


def test_unknown_time_is_the_records_missing_value():
  assert int(base.UNKNOWN_TIME.timestamp()) == -1


def test_patch_storage_follows_its_sensor():
  values = np.full((2, 2, 1), 1500, np.uint16)
  patch = base.Patch(values, np.array([[True, False], [True, True]]), ('B2',), 'reflectance_x1e4_plus1000')
  assert patch.to_storage()[..., 0].tolist() == [[500, 0], [500, 500]]
  radar = base.Patch(np.full((1, 1, 1), 0.1), np.ones((1, 1), bool), ('VV',), 'power')
  assert radar.to_storage().item() == -1000

import datetime

import numpy as np
import pyproj
import pytest
import shapely

from deepsentinel.embedding import area, inputs
from deepsentinel.sources import base
from tests.embedding.small_area import NOON, ArraySource, make_grid


def test_the_grid_holds_the_box_and_little_more():
  grid = area.bounds_grid(11.0, 47.9, 11.2, 48.0)
  assert grid.epsg == 32632
  assert grid.x0_m % 10 == grid.y0_m % 10 == 0
  t = pyproj.Transformer.from_crs(4326, 32632, always_xy=True)
  corners = np.array([t.transform(lon, lat) for lon in (11.0, 11.2) for lat in (47.9, 48.0)])
  left, bottom, right, top = grid.bounds
  assert (np.array([left, bottom]) <= corners.min(0)).all()
  assert (np.array([right, top]) >= corners.max(0)).all()
  assert 0 <= corners[:, 0].min() - left < 10
  assert 0 <= right - corners[:, 0].max() < 10


def test_a_grid_on_another_grids_lattice():
  like = base.PatchGrid(32633, 300_004.0, 5_400_007.0, 10, 10)
  grid = area.bounds_grid(12.3, 48.7, 12.31, 48.71, like=like)
  assert grid.epsg == 32633
  assert (grid.x0_m - 4) % 10 == (grid.y0_m - 7) % 10 == 0


def test_the_antimeridian_and_the_south():
  grid = area.bounds_grid(179.98, -17.01, -179.98, -16.99)
  assert grid.epsg in (32701, 32760)
  assert 400 < grid.width_px < 450  # 0.04 degrees of longitude at 17 degrees south: 4.26 km
  lon, _ = grid.pixel_centres_lonlat()
  assert lon.max() > 179.9
  assert lon.min() < -179.9


@pytest.mark.parametrize(
  ('bounds', 'message'),
  [
    ((11, 48, 11, 49), 'with an area'),
    ((11, 49, 12, 48), 'with an area'),
    ((11, 48, float('nan'), 49), 'with an area'),
    ((0, 0, 20, 1), '20.0 degrees wide'),
  ],
)
def test_boxes_that_are_none(bounds, message):
  with pytest.raises(ValueError, match=message):
    area.bounds_grid(*bounds)


def test_a_coarser_scene_is_taken_at_ten_metres():
  class Coarse:
    def grid(self, scene):
      return base.PatchGrid(32632, 600_000.0, 5_300_000.0, 50, 70, 20.0)

  assert area.scene_grid(Coarse(), None) == base.PatchGrid(32632, 600_000.0, 5_300_000.0, 100, 140, 10.0)


def scenes_source(*scenes):
  source = ArraySource(make_grid(64, 64))
  source.scenes = {s.id: s for s in scenes}
  return source


def test_the_scene_that_shows_most_then_the_nearest_in_time():
  grid = make_grid(64, 64)
  whole, half = shapely.box(0, 40, 20, 60), None
  west, south, east, north = shapely.bounds(grid.outline_lonlat())
  half = shapely.box(west - 1, south - 1, (west + east) / 2, north + 1)
  day = datetime.timedelta(days=1)
  source = scenes_source(
    base.Scene('half', 'sentinel2', half, NOON),
    base.Scene('late', 'sentinel2', whole, NOON + 3 * day),
    base.Scene('early', 'sentinel2', whole, NOON - 2 * day, metadata={'cloud_share': 0.9}),
    base.Scene('radar', 'sentinel1', whole, NOON),
  )
  assert inputs.nearest_scene(source, 'sentinel2', grid, NOON)[0].id == 'early'
  scene, share = inputs.nearest_scene(source, 'sentinel2', grid, NOON, max_cloud=0.5)
  assert (scene.id, share) == ('late', 1.0)
  scene, share = inputs.nearest_scene(source, 'sentinel2', grid, NOON, search_days=1)
  assert (scene.id, round(share, 1)) == ('half', 0.5)
  with pytest.raises(ValueError, match='No sentinel2 scene of the area within 1 days of 2020-07-01'):
    inputs.nearest_scene(source, 'sentinel2', grid, NOON + 30 * day, search_days=1)


def test_a_scene_by_name():
  scenes = list(ArraySource(make_grid(64, 64)).scenes.values())
  assert inputs.named_scene(scenes, 'sentinel1_a', '--s1_scene').id == 'sentinel1_a'
  with pytest.raises(ValueError, match='2 scenes to choose from; name one with --s2_scene'):
    inputs.named_scene(scenes, '', '--s2_scene')
  with pytest.raises(ValueError, match="--s2_scene='x' is not among the scenes: sentinel2_a, sentinel1_a"):
    inputs.named_scene(scenes, 'x', '--s2_scene')

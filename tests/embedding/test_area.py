import datetime

import geopandas
import numpy as np
import pandas
import pyogrio
import pyproj
import pytest
import shapely

from deepsentinel.embedding import area, places, scenes
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


def test_polygons_of_any_file_and_crs(tmp_path):
  """Two rectangles given in UTM 33 N: their union, on the grid around both; a hole stays one."""
  pond = shapely.Point(600_500, 5_300_250).buffer(100)
  shapes = [
    shapely.box(600_000, 5_300_000, 601_000, 5_300_500) - pond,
    shapely.box(602_000, 5_301_000, 602_300, 5_301_300),
  ]
  table = geopandas.GeoDataFrame(geometry=shapes, crs=32632)
  for name, crs in (('a.gpkg', 32632), ('a.geojson', 4326), ('a.parquet', 3035)):
    moved = table.to_crs(crs)
    moved.to_parquet(tmp_path / name) if name.endswith('parquet') else moved.to_file(tmp_path / name)
    polygons = area.read_polygons(tmp_path / name)
    grid = polygons.grid()
    assert grid.epsg == 32632
    assert grid.bounds == pytest.approx((600_000, 5_300_000, 602_300, 5_301_300), abs=10)
    within = polygons.within(32632)
    assert within.area == pytest.approx(table.geometry.area.sum(), rel=1e-3)
    assert not within.contains(shapely.Point(600_500, 5_300_250))


def test_polygons_across_the_antimeridian(tmp_path):
  halves = [shapely.box(179.9, -17, 180, -16.9), shapely.box(-180, -17, -179.9, -16.9)]
  geopandas.GeoDataFrame(geometry=halves, crs=4326).to_file(tmp_path / 'a.gpkg')
  polygons = area.read_polygons(tmp_path / 'a.gpkg')
  assert polygons.outline.bounds == pytest.approx((179.9, -17, 180.1, -16.9))
  assert 2100 < polygons.grid().width_px < 2200


def test_polygons_with_the_flaws_that_people_draw(tmp_path):
  x, y = 600_000, 5_300_000
  bows = [shapely.Polygon([(x, y), (x + 400, y + 400), (x + 400, y), (x, y + 400)])]
  bows.append(shapely.affinity.translate(bows[0], 100))
  expected = shapely.union_all(shapely.make_valid(bows)).area
  geopandas.GeoDataFrame(geometry=bows, crs=32632).to_file(tmp_path / 'bows.gpkg')
  polygons = area.read_polygons(tmp_path / 'bows.gpkg')
  assert polygons.within(32632).area == pytest.approx(expected, rel=1e-3)
  corners = (0, 0), (5000, 0), (5000, 5000), (2500, 5000), (2500, 15_000), (2500, 5000), (0, 5000)
  spike = shapely.Polygon([(x + dx, y + dy) for dx, dy in corners])
  geopandas.GeoDataFrame(geometry=[spike], crs=32632).to_file(tmp_path / 'spike.gpkg')
  polygons = area.read_polygons(tmp_path / 'spike.gpkg')
  assert polygons.within(32632).geom_type == 'Polygon'
  assert abs(polygons.grid().height_px - 500) <= 1
  assert places.read_polygon(tmp_path / 'spike.gpkg').geom_type == 'Polygon'


def test_layers(tmp_path):
  for layer, left in (('a', 600_000), ('b', 700_000)):
    frame = geopandas.GeoDataFrame(geometry=[shapely.box(left, 5_300_000, left + 1000, 5_301_000)], crs=32632)
    frame.to_file(tmp_path / 'l.gpkg', layer=layer)
    if layer == 'a':
      # QGIS keeps its styles so.
      pyogrio.write_dataframe(pandas.DataFrame({'style': ['red']}), tmp_path / 'l.gpkg', layer='layer_styles')
      assert area.read_polygons(tmp_path / 'l.gpkg').grid().x0_m == pytest.approx(600_000, abs=10)
  with pytest.raises(ValueError, match=r'^.*l.gpkg has 2 layers; name one with --layer=... Layers: a, b.$'):
    area.read_polygons(tmp_path / 'l.gpkg')
  assert area.read_polygons(tmp_path / 'l.gpkg', 'b').grid().x0_m == pytest.approx(700_000, abs=10)
  with pytest.raises(ValueError, match="has no layer 'c'"):
    area.read_polygons(tmp_path / 'l.gpkg', 'c')


def test_a_scene_across_the_antimeridian():
  footprint = shapely.union_all([shapely.box(179.9, -17, 180, -16.9), shapely.box(-180, -17, -179.9, -16.9)])
  west, south, east, north = area.bounds_of(footprint)
  assert (west, south, east, north) == pytest.approx((179.9, -17, -179.9, -16.9))
  assert 2100 < area.bounds_grid(west, south, east, north).width_px < 2200
  assert area.bounds_of(shapely.box(-1, 2, 3, 4)) == (-1, 2, 3, 4)


@pytest.mark.parametrize(
  ('shapes', 'crs', 'message'),
  [
    ([shapely.box(0, 0, 1, 1)], None, 'does not say its CRS'),
    ([shapely.Point(1, 1)], 4326, 'holds Point and no polygon'),
    ([shapely.box(0, 0, 12, 1)], 4326, '12.0 degrees wide.*in parts'),
    ([shapely.box(500_000, 0, 600_000, 5_000)], 4326, 'mend its CRS'),
  ],
)
def test_areas_that_are_none(shapes, crs, message, tmp_path):
  geopandas.GeoDataFrame(geometry=shapes, crs=crs).to_file(tmp_path / 'a.gpkg')
  with pytest.raises(ValueError, match=message):
    area.read_polygons(tmp_path / 'a.gpkg')


def test_areas_that_are_no_vector_file(tmp_path):
  (tmp_path / 'a.gpkg').write_text('no vectors')
  with pytest.raises(ValueError, match='cannot be read as a vector file'):
    area.read_polygons(tmp_path / 'a.gpkg')
  with pytest.raises(ValueError, match='is not there'):
    area.read_polygons(tmp_path / 'b.gpkg')


DAY = datetime.timedelta(days=1)
SQUARE = shapely.box(0, 0, 4, 1)


def choose(*found, near=NOON, days=15, outline=SQUARE, **options):
  """Ids and shares of the scenes chosen of `found`, each (id, footprint, days after noon, cloud share, orbit)."""
  source = ArraySource(make_grid(64, 64))
  source.scenes = {
    name: base.Scene(name, 'sentinel2', footprint, NOON + after * DAY, '', orbit, {'cloud_share': cloud})
    for name, footprint, after, cloud, orbit in found
  }
  source.scenes['radar'] = base.Scene('radar', 'sentinel1', SQUARE, NOON)
  chosen = scenes.choose(source, 'sentinel2', outline, NOON - days * DAY, NOON + days * DAY, near=near, **options)
  return [(c.scene.id, round(c.share, 2)) for c in chosen]


def test_the_scene_that_shows_most_then_the_nearest_in_time():
  half = shapely.box(0, 0, 2, 1)
  found = [('half', half, 0, 0, 1), ('late', SQUARE, 3, 0, 2), ('early', SQUARE, -2, 0.9, 3)]
  assert choose(*found) == [('early', 1.0)]
  assert choose(*found, max_cloud=0.5) == [('late', 1.0)]
  assert choose(*found, days=1) == [('half', 0.5)]
  # Without a day that is wanted the clearest.
  assert choose(*found, near=None) == [('late', 1.0)]
  with pytest.raises(ValueError, match=r'from 2020-05-29 to 2020-06-04 \(1 have more cloud than --max_cloud=0.5\)'):
    choose(found[2], max_cloud=0.5, days=3)
  elsewhere = ('elsewhere', shapely.box(4, 0, 5, 1), 0, 0, 1)  # it touches the area, and shows nothing of it
  with pytest.raises(ValueError, match=r'from 2020-05-29 to 2020-06-04\. Pass another'):
    choose(elsewhere, max_cloud=0.5, days=3)
  with pytest.raises(ValueError, match=r'\(1 have more cloud'):
    choose(elsewhere, found[2], max_cloud=0.5, days=3)


def test_neighbouring_tiles_of_a_pass_are_one_mosaic_and_others_fill_it():
  tiles = [('b', shapely.box(1.9, 0, 3, 1), 0.0005, 0.2, 8), ('a', shapely.box(0, 0, 2, 1), 0, 0.2, 8)]
  other = ('other', shapely.box(2.5, 0, 4, 1), -5, 0, 51)
  again = ('again', shapely.box(0, 0, 3, 1), 10, 0.2, 8)
  # 'again' shows as much, later; 'b' adds what 'a' does not show, 'other' the rest.
  assert choose(*tiles, other, again) == [('a', 0.5), ('b', 0.25), ('other', 0.25)]
  # Cloud in the way: the clear pass first.
  cloudy = [(*t[:3], 0.9, 8) for t in tiles]
  assert choose(*cloudy, other, near=None) == [('other', 0.38), ('a', 0.5), ('b', 0.12)]


def test_a_tile_that_came_as_two_products_is_both_of_them():
  start, end = 'S2A_MSIL2A_20200601T101031_N0214_R022_T32TNT_', '20200601T101105'
  older = f'S2A_MSIL2A_20200601T101031_N0212_R022_T32TNT_{end}'
  west, east = (
    (start + end, shapely.box(0, 0, 3, 1), 0, 0, 22),
    (f'{start}20200601T140000', shapely.box(2.9, 0, 4, 1), 0, 0, 22),
  )
  assert choose(west, east, (older, shapely.box(0, 0, 3.02, 1), 0, 0, 22)) == [(west[0], 0.75), (east[0], 0.25)]


def test_scenes_by_name():
  found = list(ArraySource(make_grid(64, 64)).scenes.values())
  assert [s.id for s in scenes.named(found, ['sentinel1_a', 'sentinel2_a'], '--s1_scene')] == [
    'sentinel1_a',
    'sentinel2_a',
  ]
  with pytest.raises(ValueError, match='2 scenes to choose from; name one with --s2_scene'):
    scenes.named(found, [], '--s2_scene')
  with pytest.raises(ValueError, match="--s2_scene='x' is not among the scenes: sentinel2_a, sentinel1_a"):
    scenes.named(found, ['x'], '--s2_scene')

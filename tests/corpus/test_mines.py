"""Mines from hand-made vector files: who is a coal mine, where background lies, what the corpus holds."""

import geopandas
import numpy as np
import pyproj
import pytest
import shapely

from deepsentinel import corpus
from deepsentinel.corpus import blocks, mines, points
from tests.corpus.tiny_config import get_config

GEOD = pyproj.Geod(ellps='WGS84')


def square(lon, lat, half_m=300.0):
  """A square by the geodesic: its edges lie `half_m` from the middle."""
  east, north = GEOD.fwd(lon, lat, 90, half_m)[0] - lon, GEOD.fwd(lon, lat, 0, half_m)[1] - lat
  return shapely.box(lon - east, lat - north, lon + east, lat + north)


def write(path, geometry, crs='EPSG:4326'):
  frame = geopandas.GeoDataFrame(geometry=list(geometry), crs=crs)
  frame.to_parquet(path) if path.suffix == '.parquet' else frame.to_file(path)
  return str(path)


# Two coal mines, a quarry 30 km off, and a mine outside of the box of the tiny corpus (13 to 15 E, 51 to 52 N).
POLYGONS = [square(13.5, 51.5), square(14.2, 51.4), square(14.6, 51.5), square(16.0, 51.5)]
REGISTER = [shapely.Point(13.51, 51.5), shapely.Point(14.2, 51.42), shapely.Point(16.0, 51.5)]


def test_distance_to_a_polygon_is_on_the_ellipsoid():
  # 1,300 m north of the middle of a square of 300 m: 1 km from its edge. Far north a degree of longitude is short.
  for lon, lat in ((13.5, 51.5), (-179.999, 70.0), (25.0, -33.0)):
    polygon = square(lon, lat)
    north = GEOD.fwd(lon, lat, 0, 1300)
    assert len(mines.near([polygon], [north[0]], [north[1]], 1.002)) == 1
    assert len(mines.near([polygon], [north[0]], [north[1]], 0.998)) == 0
    assert mines.near([polygon], [lon], [lat], 0).tolist() == [[0, 0]]


def test_neighbours_across_the_antimeridian_are_found():
  east = square(179.99, -17.0)
  lon = GEOD.fwd(179.99, -17.0, 90, 5300)[0]
  assert lon < -179
  found = mines.near([square(0, 0), east], [10.0, lon], [0.0, -17.0], 5.01)
  assert found.tolist() == [[1, 1]]
  assert len(mines.near([east], [lon], [-17.0], 4.99)) == 0


def test_polygons_near_the_register_are_coal_mines():
  assert mines.matched(np.array(POLYGONS), np.array(REGISTER), 2.0).tolist() == [True, True, False, True]
  # The second point lies some 1.9 km from its polygon.
  assert mines.matched(np.array(POLYGONS), np.array(REGISTER), 1.0).tolist() == [True, False, False, True]


def test_the_centre_lies_in_the_polygon():
  ring = shapely.difference(shapely.Point(14, 51).buffer(0.01), shapely.Point(14, 51).buffer(0.008))
  centre = mines.centres(np.array([POLYGONS[0], ring]))
  np.testing.assert_allclose(centre[0], [13.5, 51.5], atol=1e-6)
  assert shapely.contains_xy(ring, *centre[1])


def test_background_lies_away_from_every_mine():
  rng = np.random.default_rng(0)
  polygons = np.array([square(lon, lat) for lon, lat in rng.uniform((13.0, 51.0), (14.0, 51.6), (60, 2))])
  region = points.Region('DEU,POL,CZE', '12.5,50.5,15,52.5')
  centre = mines.centres(polygons[:20])
  options = {'count': 3, 'min_km': 4.0, 'max_km': 20.0, 'seed': 3}
  found = mines.background(polygons, centre, region, numbers=np.arange(20), **options)
  assert found.shape == (20, 3, 2)
  lon, lat = found[np.isfinite(found).all(2)].T
  assert len(lon) > 50
  to_metres = pyproj.Transformer.from_crs(4326, 32633, always_xy=True)  # an independent way to measure
  flat = [shapely.transform(p, lambda xy: np.column_stack(to_metres.transform(*xy.T))) for p in polygons]
  nearest = shapely.STRtree(flat).query_nearest(shapely.points(*to_metres.transform(lon, lat)), return_distance=True)[1]
  assert nearest.min() > 3990
  own = np.repeat(centre[:, None], 3, 1)[np.isfinite(found).all(2)].T
  away = GEOD.inv(*own, lon, lat)[2]
  assert away.min() > 3999
  assert away.max() < 20001
  assert away.max() > 15000
  # One mine's background depends neither on how many mines there are nor on their order.
  alone = mines.background(polygons, centre[7:8], region, numbers=np.array([7]), **options)
  np.testing.assert_array_equal(alone[0], found[7])


def config_of(tmp_path, polygons=POLYGONS, register=REGISTER, **changes):
  config = get_config()
  config.patches = 0
  config.mines.polygons = write(tmp_path / 'mines.gpkg', polygons)
  config.mines.register = write(tmp_path / 'register.geojson', register) if register else ''
  config.mines.match_km = 3.0
  config.mines.background = 2
  config.mines.max_km = 15.0
  config.update_from_flattened_dict(changes)
  return config


def test_a_corpus_of_mines(tmp_path, capsys):
  made = corpus.run(config_of(tmp_path, **{'split.block_km': 10.0}), tmp_path / 'out')
  assert '4 mine polygons, 3 of them in the region; the register confirms 2' in capsys.readouterr().out
  table = made.manifest().set_index('id')
  assert made.mines
  assert (table['state'] == 'done').all()
  assert table['scene'].value_counts().to_dict() == {1: 4, 2: 2}
  assert set(table['mine']) == {0, 1}
  assert set(table['split']) <= {'train', 'validation', 'test', 'buffer'}
  assert (table.groupby('mine')['block'].nunique() == 1).all()  # the same days
  for row in table.itertuples():
    grid_centre = shapely.Point(row.lon_deg, row.lat_deg)
    if row.scene == 2:
      assert shapely.contains(POLYGONS[row.mine], grid_centre)
    else:
      assert all(p.distance(grid_centre) > 0.04 for p in POLYGONS)  # degrees; 5 km are 0.045
  assert (made.path / 'samples.png').stat().st_size > 1000


def test_without_a_register_every_polygon_counts_and_patches_limits_them(tmp_path):
  made = corpus.run(config_of(tmp_path, register=None, patches=7), tmp_path / 'out')
  assert made.manifest()['scene'].value_counts().to_dict() == {1: 4, 2: 2}  # 7 hold two mines with background


def test_a_mine_without_a_pair_in_its_days_gets_others(tmp_path):
  config = config_of(tmp_path, max_gap_days=0.3)  # 10:30 and 17:00 of one day, which fall together every 30 days
  made = corpus.run(config, tmp_path / 'out')
  table = made.manifest()
  days = blocks.period_blocks(config.period.start, config.period.end)
  rows = mines.plan(config.to_dict(), None, points.Region('', config.points.bbox), days)
  planned = {row['id']: row for row in rows}
  assert (table['gap_hours'] == 6.5).all()
  assert table['attempts'].max() > 1
  for row in table.itertuples():
    assert (row.lon_deg, row.lat_deg) == (planned[row.id]['lon_deg'], planned[row.id]['lat_deg'])


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'mines.polygons': '/absent.gpkg'}, r'mines.polygons names /absent.gpkg, which is not there'),
    ({'mines.register': '/absent.geojson'}, r'mines.register names /absent.geojson, which is not there'),
    ({'points.bbox': '5,45,6,46'}, r'None of the 4 polygons of mines.polygons, which lie in 13.50,51.40,16.00,51.50'),
    ({'mines.match_km': 0.1}, r'No point of mines.register lies within mines.match_km=0.1 of any of the 3 polygons'),
    ({'mines.max_km': 5.2, 'mines.min_km': 5.1, 'points.bbox': '13.49,51.49,13.51,51.51'}, 'no place for background'),
    ({'mines.min_km': 0.1}, r'mines.min_km is 0.1; allowed: 0.23 and above, so that no mine lies in a patch'),
    ({'mines.max_km': 5.0}, r'mines.max_km is 5.0; allowed: above mines.min_km, 5'),
    ({'mines.background': 0}, r'mines.background is 0; allowed: 1 and above'),
    ({'patches': 2}, r'patches is 2; allowed: 3 and above, a mine with its background; 0 takes every mine'),
    ({'mines.polygons': 'source'}, r"the source 'tests.corpus.tiny_source:TinyEarth' writes no mines"),
  ],
)
def test_wrong_settings_are_named(tmp_path, changes, message):
  with pytest.raises(ValueError, match=message):
    corpus.run(config_of(tmp_path, **changes), tmp_path / 'out')
  assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
  ('geometry', 'crs', 'role', 'message'),
  [
    (REGISTER, 'EPSG:4326', 'polygons', 'holds Point; Polygons are expected. Points belong in mines.register'),
    (POLYGONS, 'EPSG:4326', 'register', 'holds Polygon; Points are expected. Polygons belong in mines.polygons'),
    (POLYGONS, None, 'polygons', 'has no CRS; assign one'),
    ([shapely.Polygon()], 'EPSG:4326', 'polygons', 'holds no geometry'),
  ],
)
def test_wrong_files_are_named(tmp_path, geometry, crs, role, message):
  path = write(tmp_path / 'file.parquet', geometry, crs)
  with pytest.raises(ValueError, match=f'mines.{role}: {path} {message}'):
    mines.read(path, role)


def test_what_is_no_vector_file_is_named(tmp_path):
  (tmp_path / 'x.gpkg').write_text('no vectors')
  with pytest.raises(ValueError, match=r'mines.polygons: .*x.gpkg cannot be read as vectors'):
    mines.read(str(tmp_path / 'x.gpkg'), 'polygons')


def test_files_in_any_crs_and_format_are_the_same(tmp_path):
  projected = geopandas.GeoSeries(POLYGONS, crs=4326).to_crs(3035)
  read = [
    mines.read(write(tmp_path / 'a.gpkg', POLYGONS), 'polygons'),
    mines.read(write(tmp_path / 'b.geojson', POLYGONS), 'polygons'),
    mines.read(write(tmp_path / 'c.parquet', projected, 'EPSG:3035'), 'polygons'),
  ]
  for geometry in read:
    assert shapely.equals_exact(geometry, POLYGONS, tolerance=1e-6).all()

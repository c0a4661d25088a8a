"""OpenStreetMap themes by hand on a small extract, and the index that is built once."""

import concurrent.futures
import json
import multiprocessing
import os
import shutil

import numpy as np
import osmium
import pytest

from deepsentinel import legend
from deepsentinel.sources import base, openstreetmap

GRID = base.PatchGrid(32632, 500_000.0, 5_200_000.0, 30, 30)
BIT = {t.name: t.bit for t in legend.OSM_THEMES}


class Extract:
  """Writes an OSM file from pixel positions on GRID."""

  def __init__(self, path):
    self.writer = osmium.SimpleWriter(str(path), overwrite=True)
    self.next_id = 1
    self.waiting = []

  def node(self, col, row, **tags):
    lon, lat = base.transformer(32632, 4326).transform(500_000 + 10 * col, 5_200_000 - 10 * row)
    self.writer.add_node(osmium.osm.mutable.Node(id=self.next_id, location=(lon, lat), tags=tags))
    self.next_id += 1
    return self.next_id - 1

  def way(self, points, closed=False, **tags):
    nodes = [self.node(*p) for p in points]
    self.waiting.append(('way', 1000 + len(self.waiting), nodes + nodes[:1] * closed, tags))
    return 1000 + len(self.waiting) - 1

  def relation(self, members, **tags):
    self.waiting.append(('relation', 1000 + len(self.waiting), members, tags))

  def close(self):
    for kind, osm_id, nodes, tags in self.waiting:
      if kind == 'way':
        self.writer.add_way(osmium.osm.mutable.Way(id=osm_id, nodes=nodes, tags=tags))
    for kind, osm_id, members, tags in self.waiting:
      if kind == 'relation':
        roles = [('w', way, role) for way, role in members]
        self.writer.add_relation(osmium.osm.mutable.Relation(id=osm_id, members=roles, tags=tags))
    self.writer.close()


def square(left, top, right, bottom):
  return [(left, top), (right, top), (right, bottom), (left, bottom)]


@pytest.fixture
def extract(tmp_path):
  path = tmp_path / 'small.osm.pbf'
  out = Extract(path)
  out.node(20.5, 3.5, place='village', name='Dorf')
  outer = out.way(square(2.2, 2.2, 12.2, 12.2), closed=True)
  inner = out.way(square(5.2, 5.2, 8.2, 8.2), closed=True)
  out.relation([(outer, 'outer'), (inner, 'inner')], type='multipolygon', natural='water', name='Teich')
  out.way(square(14.2, 2.2, 17.2, 6.2), closed=True, building='yes')
  out.way(square(14.2, 8.2, 17.2, 10.2), closed=True, building='no')
  out.way([(-5, 20.0), (40, 20.0)], highway='primary')  # 20 m wide, along a pixel border
  out.way([(4.5, 14.5), (4.5, 29.5)], highway='track')
  out.way([(25.5, -3), (25.5, 3.5)], waterway='stream')
  out.way([(0, 25.5), (29, 25.5)], highway='footway')  # in no theme
  out.close()
  return path


def test_themes_by_hand(extract):
  mask = openstreetmap.OpenStreetMap(str(extract)).read(GRID)
  assert mask.dtype == np.uint16

  def theme(name):
    return (mask >> BIT[name] & 1).astype(bool)

  water = np.zeros((30, 30), bool)
  water[2:12, 2:12] = True  # pixel centres between 2.2 and 12.2
  water[5:8, 5:8] = False  # the island
  np.testing.assert_array_equal(theme('water'), water)
  building = np.zeros((30, 30), bool)
  building[2:6, 14:17] = True
  np.testing.assert_array_equal(theme('building'), building)
  road = np.zeros((30, 30), bool)
  road[19:21] = True  # 10 m to either side of row 20's upper border
  np.testing.assert_array_equal(theme('major_road'), road)
  track = np.zeros((30, 30), bool)
  track[14:30, 4] = True
  np.testing.assert_array_equal(theme('minor_road'), track)
  stream = np.zeros((30, 30), bool)
  stream[0:4, 25] = True
  np.testing.assert_array_equal(theme('river'), stream)
  village = np.zeros((30, 30), bool)
  village[3, 20] = True
  np.testing.assert_array_equal(theme('place'), village)
  rest = set(BIT) - {'water', 'building', 'major_road', 'minor_road', 'river', 'place'}
  assert not any(theme(name).any() for name in rest)


def test_a_road_outside_colours_the_edge_it_reaches(extract):
  # The road's axis runs 5 m above this grid's first row, whose centres are 10 m away from it.
  below = base.PatchGrid(32632, 500_000.0, 5_199_795.0, 4, 30)
  mask = openstreetmap.OpenStreetMap(str(extract)).read(below)
  assert (mask[0] >> BIT['major_road'] & 1).all()
  assert not (mask[1] >> BIT['major_road'] & 1).any()


def test_features_as_a_table(extract):
  frame = openstreetmap.OpenStreetMap(str(extract)).features(GRID)
  assert frame.crs.to_epsg() == 32632
  found = {(r.geometry_type, r.themes, r.name) for r in frame.itertuples()}
  assert found == {
    ('point', 'place', 'Dorf'),
    ('line', 'major_road', ''),
    ('line', 'minor_road', ''),
    ('line', 'river', ''),
    ('polygon', 'water', 'Teich'),
    ('polygon', 'building', ''),
  }
  water = frame[frame.themes == 'water'].iloc[0]
  assert water.osm_id < 0  # from a relation
  assert water.geometry.area == pytest.approx(100 * (100 - 9), rel=1e-3)


def test_themes_of_tags():
  assert openstreetmap.themes_of({'building': 'house', 'landuse': 'forest'}, 'polygon') == 1 | 1 << BIT['forest']
  assert openstreetmap.themes_of({'building': 'no'}, 'polygon') == 0
  assert openstreetmap.themes_of({'highway': 'primary'}, 'polygon') == 0
  assert openstreetmap.themes_of({'highway': 'primary'}, 'line') == 1 << BIT['major_road']


def test_index_is_built_once_and_again_when_the_extract_changes(extract, monkeypatch):
  first = openstreetmap.OpenStreetMap(str(extract))
  index = first.build()
  expected = first.read(GRID)
  built = (index / 'index.json').stat().st_mtime_ns
  monkeypatch.setattr(openstreetmap, '_features', lambda path: pytest.fail('read again'))
  np.testing.assert_array_equal(openstreetmap.OpenStreetMap(str(extract)).read(GRID), expected)
  monkeypatch.undo()
  out = Extract(extract)
  out.node(1.5, 1.5, place='hamlet')
  out.close()
  mask = openstreetmap.OpenStreetMap(str(extract)).read(GRID)
  assert (mask[1, 1], np.count_nonzero(mask)) == (1 << BIT['place'], 1)
  assert (index / 'index.json').stat().st_mtime_ns > built


def test_a_killed_build_is_not_taken_for_a_whole_one(extract):
  source = openstreetmap.OpenStreetMap(str(extract))
  expected = source.read(GRID)
  shutil.rmtree(source.index)
  # As kill -9 leaves it: half of the files, no stamp.
  part = source.index.with_suffix('.part')
  part.mkdir()
  (part / 'polygon.gpkg').write_bytes(b'half')
  np.testing.assert_array_equal(openstreetmap.OpenStreetMap(str(extract)).read(GRID), expected)
  assert not part.exists()
  assert json.loads((source.index / 'index.json').read_text())['extract'] == 'small.osm.pbf'


def _read(path):
  return openstreetmap.OpenStreetMap(path).read(GRID)


def test_worker_processes_share_one_build(extract, tmp_path):
  with concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context('fork')) as pool:
    masks = list(pool.map(_read, [str(extract)] * 4))
  for mask in masks:
    np.testing.assert_array_equal(mask, masks[0])
  assert masks[0].any()
  assert not list(tmp_path.glob('*.part'))


def test_wrong_inputs_say_what_to_do(tmp_path):
  with pytest.raises(ValueError, match=r'not found: .*path='):
    openstreetmap.OpenStreetMap(str(tmp_path / 'nothing.osm.pbf'))
  bad = tmp_path / 'bad.osm.pbf'
  bad.write_bytes(b'not a pbf at all' * 100)
  with pytest.raises(ValueError, match=r'bad\.osm\.pbf cannot be read as OpenStreetMap data.*fetch it again'):
    openstreetmap.OpenStreetMap(str(bad)).read(GRID)


def test_a_truncated_extract_is_an_error(real_data, tmp_path):
  whole = (real_data / 'osm' / 'liechtenstein.osm.pbf').read_bytes()
  cut = tmp_path / 'cut.osm.pbf'
  cut.write_bytes(whole[: len(whole) // 2])
  with pytest.raises(ValueError, match=r'cut\.osm\.pbf cannot be read'):
    openstreetmap.OpenStreetMap(str(cut)).build()
  assert not (tmp_path / 'cut.osm-index').exists()


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write anywhere')
def test_a_folder_that_cannot_be_written_names_index_dir(extract):
  extract.parent.chmod(0o500)
  try:
    with pytest.raises(ValueError, match='index_dir='):
      openstreetmap.OpenStreetMap(str(extract)).read(GRID)
  finally:
    extract.parent.chmod(0o700)


def test_real_extract(real_data, tmp_path):
  source = openstreetmap.OpenStreetMap(str(real_data / 'osm' / 'liechtenstein.osm.pbf'), index_dir=str(tmp_path))
  x, y = base.transformer(4326, 32632).transform(9.52, 47.14)  # Vaduz, with the Rhine in the west
  grid = base.PatchGrid(32632, round(x, -1) - 1280, round(y, -1) + 1280, 256, 256)
  mask = source.read(grid)
  share = {name: float((mask >> bit & 1).mean()) for name, bit in BIT.items()}
  assert share['water'] > 0.02
  assert share['forest'] > 0.25
  assert share['residential'] > 0.1
  water = (mask >> BIT['water'] & 1).astype(bool)
  assert np.argwhere(water)[:, 1].mean() < 64
  frame = source.features(grid)
  assert 'Vaduz' in set(frame[frame.themes == 'place'].name)
  # Polygon area by geometry and by pixels agree.
  forest = frame[(frame.themes == 'forest') & (frame.geometry_type == 'polygon')].geometry.union_all()
  import shapely

  area = forest.intersection(shapely.box(*grid.bounds)).area
  assert (mask >> BIT['forest'] & 1).sum() * 100 == pytest.approx(area, rel=0.01)
  assert not source.read(base.PatchGrid(32632, 300_000.0, 5_500_000.0, 16, 16)).any()

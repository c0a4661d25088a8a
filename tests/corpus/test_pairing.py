"""Pairs of a whole corpus at once: those that a patient search point by point finds, each question asked once."""

import datetime
import json
import re
import shutil

import geopandas
import numpy as np
import pytest
import shapely

from deepsentinel import corpus, sensors
from deepsentinel.corpus import blocks, catalogue, grid, manifest, pairs
from deepsentinel.sources import base, sidecar
from tests import commands
from tests.corpus import asked_config as asked_config_file
from tests.corpus.tiny_config import get_config

DAY = datetime.timedelta(days=1)
START = datetime.datetime(2020, 3, 1, tzinfo=datetime.UTC)
BLOCK = blocks.Block(START, START + 12 * DAY)


def random_scenes(rng: np.random.Generator, lon: float, lat: float, count: int) -> list[base.Scene]:
  """Tilted quadrilaterals around a place, some across the antimeridian, some known by their date only."""
  scenes = []
  for k in range(count):
    sensor = sensors.SENSORS[k % 2]
    centre = np.array([lon, lat]) + rng.uniform(-0.6, 0.6, 2)
    corners = centre + np.array([[-0.5, -0.4], [0.5, -0.5], [0.4, 0.5], [-0.6, 0.4]]) + rng.normal(0, 0.05, (4, 2))
    time = START + rng.uniform(-4, 16) * DAY
    metadata = {'date_only': True} if k % 5 == 0 else {}
    footprint = base.split_antimeridian(shapely.Polygon(corners))
    scenes.append(base.Scene(f'{sensor}-{k}', sensor, footprint, time, metadata=metadata))
  return scenes


def patiently(scenes, patch, days):
  """Every pair by every pair."""
  outline = base.split_antimeridian(patch.outline_lonlat())
  covering = [s for s in scenes if shapely.covers(s.footprint, outline)]
  optical = [s for s in covering if s.sensor == 'sentinel2' and BLOCK.start <= s.time < BLOCK.end]
  radar = [s for s in covering if s.sensor == 'sentinel1']
  return {(a.id, b.id) for a in optical for b in radar if pairs.gap(a, b) <= days * DAY}


@pytest.mark.parametrize('place', [(12.0, 48.0), (179.98, -17.0), (-179.9, 66.0), (6.0, 60.0), (33.0, 0.0)])
def test_pairs_are_those_of_a_patient_search(place):
  """At the borders of UTM zones, of hemispheres and of the world."""
  rng = np.random.default_rng(3)
  scenes = random_scenes(rng, *place, 120)
  spots = rng.uniform(-0.3, 0.3, (40, 2)) + place
  patches = [grid.patch_grid((lon + 180) % 360 - 180, lat) for lon, lat in spots]
  windows = pairs.windows(sensors.SENSORS, BLOCK, 3)
  within = {s: [i for i in scenes if i.sensor == s and start <= i.time < end] for s, (start, end) in windows.items()}
  found = pairs.Candidates(within, 3).pairs(patches)
  expected = [patiently(scenes, patch, 3) for patch in patches]
  assert [{(p.s2.id, p.s1.id) for p in of_patch} for of_patch in found] == expected
  assert sum(map(bool, expected)) > 10


def test_outlines_of_many_grids_are_those_of_each():
  rng = np.random.default_rng(0)
  places = [(rng.uniform(-180, 180), rng.uniform(-79, 83)) for _ in range(60)] + [(179.995, 10.0), (-179.995, -10.0)]
  patches = [grid.patch_grid(*place, patch_px=int(rng.integers(16, 600))) for place in places]
  for patch, outline in zip(patches, base.outlines_lonlat(patches), strict=True):
    assert outline.equals_exact(base.split_antimeridian(patch.outline_lonlat()), 1e-12)


def test_cells():
  assert catalogue.cell_of(13.4, 52.5) == '+052+012'
  assert catalogue.cell_of(-0.1, -0.1) == '-002-002'
  assert catalogue.cell_of(180.0, 84.0) == catalogue.cell_of(-180.0, 84.0) == '+084-180'
  assert catalogue.cell_of(540 - 1e-9, 0.0) == '+000+178'
  for cell in ('+052+012', '-002-002', '+084-180'):
    assert catalogue.cell_of(*catalogue.outline(cell).centroid.coords[0]) == cell


def test_a_listing_comes_back_as_it_was(tmp_path):
  footprint = shapely.MultiPolygon([shapely.box(178, -18, 180, -16), shapely.box(-180, -18, -178, -16.1)])
  time = datetime.datetime(2020, 3, 2, 10, 20, 30, 123457, tzinfo=datetime.UTC)
  metadata = {'cloud_share': 0.1, 'hrefs': {'B2': 'https://a/b.tif'}, 'nodata': {'B2': None, 'B3': 0.0}, 'of': 'é'}
  scene = base.Scene('one', 'sentinel2', footprint, time, 'descending', 22, metadata)
  listing = catalogue.Listing(tmp_path, 'sentinel2', BLOCK)
  listing.add('-018+178', [scene])
  listing.add('-018-180', [scene])  # seen from both cells: one scene
  listing.add('+000+000', [])
  listing.write()
  again = catalogue.Listing(tmp_path, 'sentinel2', BLOCK)
  assert again.cells == {'-018+178', '-018-180', '+000+000'}
  assert list(again.scenes.values()) == [scene]
  assert catalogue.find(tmp_path, 'sentinel2', BLOCK, 'one') == scene
  assert catalogue.find(tmp_path, 'sentinel2', BLOCK, 'two') is None
  assert catalogue.find(tmp_path, 'sentinel1', BLOCK, 'one') is None


def test_a_scene_is_found_among_thousands(tmp_path):
  """By its id alone, in a file of several groups, in whatever order the scenes came, and after it is written anew."""
  rng = np.random.default_rng(0)
  scenes = random_scenes(rng, 12.0, 48.0, 3000)[::2]
  listing = catalogue.Listing(tmp_path, 'sentinel2', BLOCK)
  listing.add('+048+012', [scenes[i] for i in rng.permutation(len(scenes))])
  listing.write()
  for k in (0, 1, 700, len(scenes) - 1):
    assert catalogue.find(tmp_path, 'sentinel2', BLOCK, scenes[k].id) == scenes[k]
  for absent in ('', 'sentinel2-1', 'sentinel2-999999', 'z'):
    assert catalogue.find(tmp_path, 'sentinel2', BLOCK, absent) is None
  later = random_scenes(rng, 12.0, 48.0, 3002)[3000]
  listing.add('+048+012', [later])
  listing.write()
  assert catalogue.find(tmp_path, 'sentinel2', BLOCK, later.id) == later
  assert catalogue.Listing(tmp_path, 'sentinel2', BLOCK).scenes == {s.id: s for s in [*scenes, later]}
  # Files of earlier versions are one group, by time.
  path = tmp_path / 'catalogue' / 'sentinel2' / '2020-03-01.parquet'
  geopandas.read_parquet(path).sort_values('time').to_parquet(path)
  assert catalogue.find(tmp_path, 'sentinel2', BLOCK, scenes[700].id) == scenes[700]


def test_cells_without_scenes_are_remembered(tmp_path):
  listing = catalogue.Listing(tmp_path, 'sentinel1', BLOCK)
  listing.add('+000+000', [])
  listing.write()
  assert catalogue.Listing(tmp_path, 'sentinel1', BLOCK).cells == {'+000+000'}


def test_a_damaged_listing_is_named(tmp_path):
  listing = catalogue.Listing(tmp_path, 'sentinel2', BLOCK)
  listing.add('+052+012', [])
  listing.write()
  file = tmp_path / 'catalogue' / 'sentinel2' / '2020-03-01.parquet'
  file.write_bytes(file.read_bytes()[:100])
  with pytest.raises(ValueError, match=r'2020-03-01.parquet is damaged .*Remove it and run the command again'):
    catalogue.Listing(tmp_path, 'sentinel2', BLOCK)
  with pytest.raises(ValueError, match=r'2020-03-01.parquet is damaged .*Remove it and run the command again'):
    catalogue.find(tmp_path, 'sentinel2', BLOCK, 'one')


def asked_config(tmp_path, **arguments):
  config = asked_config_file.get_config()
  config.source.update({'log': str(tmp_path / 'log'), **arguments})
  return config


def questions(tmp_path) -> list[str]:
  return (tmp_path / 'log').read_text().splitlines()


@pytest.fixture(scope='module')
def asked(tmp_path_factory):
  folder = tmp_path_factory.mktemp('asked')
  corpus.run(asked_config(folder), folder / 'corpus')
  return folder


def test_each_cell_and_block_is_asked_for_once(asked):
  lines = questions(asked)
  assert len(set(lines)) == len(lines)
  # Half of the points have no pair and are drawn again; then, no search for a patch.
  table = corpus.Corpus(asked / 'corpus').manifest()
  assert table['attempts'].max() > 1
  assert {json.loads(line)[1] for line in lines} == {12, 14}


def test_a_source_on_this_machine_gives_the_same(asked, tmp_path):
  config = get_config()
  config.source.barren = 14.0
  here = corpus.run(config, tmp_path / 'corpus').manifest()
  assert here.equals(corpus.Corpus(asked / 'corpus').manifest())
  assert not (tmp_path / 'corpus' / 'catalogue').exists()


def test_processes_that_search_give_the_same(asked, tmp_path):
  config = asked_config(tmp_path)
  config.workers = 2
  assert corpus.run(config, tmp_path / 'corpus').manifest().equals(corpus.Corpus(asked / 'corpus').manifest())
  assert sorted(questions(tmp_path)) == sorted(questions(asked))


def test_a_manifest_alone_fetches_the_same(asked, tmp_path):
  """The recipe, handed on: the catalogue is searched for the scenes that it names."""
  out = tmp_path / 'again'
  out.mkdir()
  for name in ('manifest.parquet', 'corpus.json'):
    shutil.copy(asked / 'corpus' / name, out / name)
  before = manifest.read(out)
  again = corpus.run(asked_config(asked), out).manifest()
  assert again.equals(before)
  for row in again.itertuples():
    of_row = [folder / 'patches' / row.id / 's2.tif' for folder in (asked / 'corpus', out)]
    assert of_row[0].read_bytes() == of_row[1].read_bytes()


def test_killed_while_pairing(asked, tmp_path):
  """Three times; of what was written nothing is asked again, and the corpus is that of an undisturbed run."""
  out = tmp_path / 'corpus'
  command = ('deepsentinel.corpus', '--config=tests/corpus/asked_config.py', f'--out={out}')
  options = (f'--config.source.log={tmp_path}/log', '--config.source.search_s=0.15')
  journal = out / 'journal.jsonl'

  def paired() -> int:
    return journal.read_text().count('\n') if journal.exists() else 0

  for least in (2, 4, 6):
    running = commands.Running(*command, *options)
    running.wait_until(lambda least=least: paired() >= least)
    running.kill()
  assert 6 <= paired() < 12
  finished = commands.run(*command, *options)
  assert finished.code == 0, finished.err
  table = corpus.Corpus(out).manifest()
  assert table.equals(corpus.Corpus(asked / 'corpus').manifest())
  # A kill loses at most the block that was at hand.
  lines = questions(tmp_path)
  assert len(lines) - len(set(lines)) <= 3 * 4


def test_a_platform_that_refuses_a_search(asked, tmp_path):
  with pytest.raises(ValueError, match='OSError: the door is closed'):
    corpus.run(asked_config(tmp_path, closed='sentinel1'), tmp_path / 'corpus')
  table = manifest.read(tmp_path / 'corpus')
  assert set(table['reason']) == {'OSError: the door is closed'}
  # The other sensor's answers were kept.
  kept = sorted((tmp_path / 'corpus' / 'catalogue').rglob('*.parquet'))
  assert {path.parent.name for path in kept} >= {'sentinel2'}


def products_of_2020(real_data) -> list[base.Scene]:
  """Every acquisition of 2020 over one plot in Lower Saxony, by its product name; TreeSatAI gives no footprints."""
  h5py = pytest.importorskip('h5py')
  with h5py.File(real_data / 'timeseries' / 'treesatai_Abies_alba_1_1005_WEFL_NLF.h5') as file:
    names = [name.decode() for key in ('sen-1-asc', 'sen-1-des', 'sen-2') for name in file[f'{key}-products'][:]]
  around = shapely.box(8, 51, 10, 53)
  facts = {name: sidecar.from_name(name) for name in names}
  return [base.Scene(name, f.sensor, around, f.time, f.orbit_pass, f.relative_orbit) for name, f in facts.items()]


def test_a_real_year_of_one_place(real_data):
  """Sentinel-1 and Sentinel-2 as both passed in 2020: what 72 hours leave of 146 optical and 137 radar images."""
  scenes = products_of_2020(real_data)
  patch = grid.patch_grid(9.0, 52.0)
  # Written out from the names alone, without a word of ours.
  stamp = {s.id: re.search(r'\d{8}T\d{6}', s.id)[0] for s in scenes}
  when = {i: np.datetime64(datetime.datetime.strptime(t, '%Y%m%dT%H%M%S'), 's') for i, t in stamp.items()}
  optical = sorted(t for i, t in when.items() if i.startswith('S2'))
  radar = np.array(sorted(t for i, t in when.items() if i.startswith('S1')))
  # Nine slices were processed twice, with a start a second or two apart: one acquisition each.
  radar = radar[np.diff(radar, prepend=radar[0] - 60) > np.timedelta64(6, 's')]
  assert len(radar) == 146 - 9
  hours = np.abs(np.subtract.outer(optical, radar) / np.timedelta64(3600, 's'))
  found = []
  for block in blocks.period_blocks('2020-01-01', '2021-01-01'):
    windows = pairs.windows(sensors.SENSORS, block, 3)
    within = {s: base.scenes_that_meet(scenes, s, patch.outline_lonlat(), *windows[s]) for s in windows}
    found += pairs.Candidates(within, 3).pairs([patch])[0]
  assert len(found) == (hours <= 72).sum() == 328
  assert sorted(p.gap_hours for p in found) == pytest.approx(np.sort(hours[hours <= 72]))
  assert len({p.s2.id for p in found}) == (hours <= 72).any(1).sum() == 146

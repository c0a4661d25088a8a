"""The fetch loop on a tiny source: what is written, what is recorded, and that a kill changes nothing."""

import errno
import hashlib
import importlib
import json
import pathlib
import types

import geopandas
import numpy as np
import pytest
import rasterio
import rasterio.warp

from configs.corpora import common
from deepsentinel import corpus, legend, registry, schema
from deepsentinel.corpus import manifest, patchfiles, settings, worker
from deepsentinel.sources import base
from tests import commands
from tests.corpus import tiny_source
from tests.corpus.tiny_config import TINY, get_config

CONFIGS = sorted(p.stem for p in pathlib.Path(common.__file__).parent.glob('*.py') if p.stem != '__init__')


def tiny_config(**source):
  config = get_config()
  config.source.update(source)
  return config


def hashes(folder):
  files = sorted((folder / 'patches').rglob('*.*'))
  return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


@pytest.fixture(scope='module')
def sampled(tmp_path_factory):
  return corpus.run(tiny_config(), tmp_path_factory.mktemp('corpus') / 'tiny')


def test_the_folder_is_as_promised(sampled):
  table = geopandas.read_parquet(sampled.path / 'manifest.parquet')
  assert {s.name for s in schema.SCALARS} <= set(table.columns)
  assert {'state', 'reason', 'split', 'sha256_s2', 'sha256_s1', 'gap_hours', 'geometry'} <= set(table.columns)
  assert len(table) == 12
  assert set(table['state']) == {'done'}
  assert table.crs.to_epsg() == 4326
  assert sampled.card['complete']
  assert sampled.card['counts']['done'] == 12
  assert sampled.card['synthetic'] is True
  assert sampled.card['config']['patches'] == 12
  assert not (sampled.path / 'journal.jsonl').exists()
  assert (sampled.path / 'points.png').stat().st_size > 1000
  assert (sampled.path / 'samples.png').stat().st_size > 1000


def test_patches_are_georeferenced_tiffs_of_the_point(sampled):
  for row in sampled.manifest().itertuples():
    with rasterio.open(sampled.path / 'patches' / row.id / 's2.tif') as file:
      assert (file.height, file.width, file.count) == (32, 32, 3)
      assert file.dtypes[0] == 'uint16'
      assert file.nodata == 0
      assert file.descriptions == ('B2', 'B3', 'B4')
      assert file.crs.to_epsg() == row.epsg
      assert (file.transform.c, file.transform.f, file.transform.a) == (row.x0_m, row.y0_m, 10.0)
      assert file.tags()['s2_scene'] == row.s2_scene
    with rasterio.open(sampled.path / 'patches' / row.id / 's1.tif') as file:
      assert file.dtypes == ('int16', 'int16')
      assert file.nodata == -32768
      assert file.descriptions == ('VV', 'VH')
    x, y = row.geometry.x, row.geometry.y
    assert (x, y) == (row.lon_deg, row.lat_deg)
    assert row.country in ('DEU', 'POL', 'CZE')


def test_pixels_are_those_of_the_source(sampled):
  row = sampled.manifest().iloc[0]
  arrays = sampled.read(row['id'])
  assert arrays['s2'].shape == (32, 32, 3)
  with rasterio.open(sampled.path / 'patches' / row['id'] / 's2.tif') as file:
    x, y = file.xy(5, 7)
    lon, lat = rasterio.warp.transform(file.crs, 'EPSG:4326', [x], [y])
  expected = 0.1 + 0.05 * np.sin(40 * lon[0]) * np.cos(30 * lat[0])
  assert arrays['s2'][5, 7, 0] == pytest.approx(1e4 * expected, abs=1)
  assert arrays['s1'][5, 7, 1] == pytest.approx(100 * (-18 + 3 * (expected - 0.1) / 0.05), abs=1)


def test_pairs_keep_the_gap_and_the_block(sampled):
  table = sampled.manifest()
  gap = (table['s2_time'] - table['s1_time']).abs() / 3600
  assert (gap <= 72).all()
  assert np.allclose(gap, table['gap_hours'])
  start = np.datetime64('2019-01-01') + np.timedelta64(12, 'D') * table['block'].to_numpy()
  day = (table['s2_time'].to_numpy().astype('datetime64[s]') - start) / np.timedelta64(1, 'D')
  assert ((day >= 0) & (day < 12)).all()


def test_nothing_is_left_to_do_the_second_time(sampled, monkeypatch):
  before = hashes(sampled.path)
  monkeypatch.setattr(worker, 'fetch_row', None)  # any fetch would fail
  corpus.run(tiny_config(), sampled.path)
  assert hashes(sampled.path) == before


def test_workers_change_nothing(sampled, tmp_path):
  config = tiny_config()
  config.workers = 2
  other = corpus.run(config, tmp_path / 'other')
  assert hashes(other.path) == hashes(sampled.path)
  assert other.manifest().equals(sampled.manifest())


def test_missing_and_damaged_files_are_fetched_again(tmp_path):
  folder = tmp_path / 'tiny'
  made = corpus.run(tiny_config(), folder)
  before, table = hashes(folder), made.manifest()
  (folder / 'patches' / 'p000003' / 's1.tif').unlink()
  damaged = folder / 'patches' / 'p000005' / 's2.tif'
  damaged.write_bytes(damaged.read_bytes()[:-10])
  with pytest.raises(ValueError, match=r"manifest row 'p000003': file s1.tif is gone: run `python -m deepsentinel.c"):
    made.read('p000003')
  with pytest.raises(ValueError, match=r"manifest row 'p000005': file s2.tif \(\d+ bytes\) is not the one"):
    made.read('p000005')
  again = corpus.run(tiny_config(), folder)
  assert hashes(folder) == before
  assert again.manifest().equals(table)


def test_another_config_over_the_folder_is_refused(sampled):
  config = tiny_config()
  config.seed = 7
  config.points.bbox = '13,51,15,53'
  with pytest.raises(ValueError, match=r"points.bbox: '13,51,15,52' -> '13,51,15,53'; seed: 0 -> 7"):
    corpus.run(config, sampled.path)


def test_a_folder_of_something_else_is_refused(tmp_path):
  (tmp_path / 'thesis.tex').write_text('x')
  with pytest.raises(ValueError, match=r'no corpus, and not empty \(thesis.tex\)'):
    corpus.run(tiny_config(), tmp_path)


def test_failures_are_recorded_and_the_run_goes_on(tmp_path, capsys):
  made = corpus.run(tiny_config(dark=0.4, broken=0.4), tmp_path / 'tiny')
  table = made.manifest()
  failed = table[table['state'] == 'failed']
  reasons = set(failed['reason'])
  assert reasons == {'sentinel2: all pixels are nodata', 'sentinel1: OSError: the archive does not answer'}
  assert (failed['s2_scene'] != '').all()
  assert (failed['sha256_s2'] == '').all()
  assert not any((made.path / 'patches' / i).exists() for i in failed['id'])
  assert (table['state'] == 'done').any()
  assert made.card['counts']['failed'] == len(failed)
  assert 'the archive does not answer' in capsys.readouterr().out


def test_a_full_disk_ends_the_run_and_the_same_call_goes_on(tmp_path, sampled, monkeypatch):
  written = []

  def write(folder, patch_id, *rest):
    if len(written) == 2:
      raise OSError(errno.ENOSPC, 'No space left on device', str(folder))
    written.append(patch_id)
    return patchfiles.write(folder, patch_id, *rest)

  with monkeypatch.context() as m:
    m.setattr(worker, 'patchfiles', types.SimpleNamespace(write=write, remove=patchfiles.remove))
    with pytest.raises(OSError, match='No space left'):
      corpus.run(tiny_config(), tmp_path / 'tiny')
  states = corpus.Corpus(tmp_path / 'tiny').manifest().set_index('id')['state']
  assert dict(states.value_counts()) == {'planned': 10, 'done': 2}
  assert set(states.index[states == 'done']) == set(written)
  again = corpus.run(tiny_config(), tmp_path / 'tiny')
  assert hashes(again.path) == hashes(sampled.path)
  assert again.manifest().equals(sampled.manifest())


def test_retry_failed_fetches_the_recorded_scenes(tmp_path, sampled, monkeypatch):
  folder = tmp_path / 'tiny'
  with monkeypatch.context() as m:
    m.setattr(tiny_source.TinyEarth, '_chance', lambda self, scene: 0.0 if 'T170000' in scene.id[:30] else 1.0)
    with pytest.raises(ValueError, match='Not one of 12 patches'):
      corpus.run(tiny_config(broken=0.4), folder)
  assert set(corpus.Corpus(folder).manifest()['state']) == {'failed'}
  with monkeypatch.context() as m:
    m.setattr(tiny_source.TinyEarth, '_chance', lambda self, scene: 1.0)
    again = corpus.run(tiny_config(broken=0.4), folder, retry_failed=True)
  assert hashes(folder) == hashes(sampled.path)
  assert again.manifest().equals(sampled.manifest())


def test_retry_failed_draws_other_points_for_scenes_without_pixels(tmp_path, capsys):
  folder = tmp_path / 'tiny'
  before = corpus.run(tiny_config(dark=0.4), folder).manifest().set_index('id')
  dark = before.index[before['state'] == 'failed']
  assert '--retry_failed tries them again, with other scenes for those without pixels' in capsys.readouterr().out
  after = corpus.run(tiny_config(dark=0.4), folder, retry_failed=True).manifest().set_index('id')
  assert (after.loc[dark, 'attempts'] > before.loc[dark, 'attempts']).all()
  assert (after.loc[dark, ['lon_deg', 'lat_deg']] != before.loc[dark, ['lon_deg', 'lat_deg']]).all(axis=None)
  assert (after.loc[dark, 'state'] == 'done').any()
  done = before.index[before['state'] == 'done']
  assert after.loc[done].drop(columns='split').equals(before.loc[done].drop(columns='split'))


def test_a_corpus_whose_retry_was_killed_is_not_whole(tmp_path, monkeypatch):
  folder = tmp_path / 'tiny'
  corpus.run(tiny_config(broken=0.4), folder)
  written = []

  def write(*arguments):
    if written:
      raise KeyboardInterrupt
    written.append(arguments)
    return patchfiles.write(*arguments)

  with monkeypatch.context() as m:
    m.setattr(tiny_source.TinyEarth, '_chance', lambda self, scene: 1.0)
    m.setattr(worker, 'patchfiles', types.SimpleNamespace(write=write, remove=patchfiles.remove))
    with pytest.raises(KeyboardInterrupt):
      corpus.run(tiny_config(broken=0.4), folder, retry_failed=True)
  assert not corpus.Corpus(folder).card['complete']
  assert '' in set(corpus.Corpus(folder).manifest().query('state == "done"')['split'])
  whole = corpus.run(tiny_config(broken=0.4), folder)
  assert whole.card['complete']
  assert '' not in set(whole.manifest().query('state == "done"')['split'])


def test_a_buffer_narrower_than_a_patch_is_said(caplog):
  config = tiny_config()
  config.labelled, config.patch_px, config.split.method, config.split.buffer_km = True, 512, 'blocks', 3.7
  settings.checked(config)
  assert '--config.split.buffer_km=7.25 keeps them apart' in caplog.text
  caplog.clear()
  config.split.buffer_km = 7.25
  settings.checked(config)
  assert not caplog.text


def test_a_point_without_a_pair_is_drawn_again(tmp_path):
  made = corpus.run(tiny_config(barren=14.0), tmp_path / 'tiny')
  table = made.manifest()
  assert (table['lon_deg'] < 14.0).all()
  assert table['attempts'].max() > 1
  # Half of the box is barren, so about every second point is turned away.
  assert made.card['acceptance'] == pytest.approx(12 / table['attempts'].sum())
  assert 0.2 < made.card['acceptance'] < 0.9


def test_redraws_are_bounded(tmp_path):
  config = tiny_config(barren=-170.0)
  config.points.max_redraws = 3
  with pytest.raises(ValueError, match='no pair of scenes within 3 days'):
    corpus.run(config, tmp_path / 'tiny')
  assert set(corpus.Corpus(tmp_path / 'tiny').manifest()['attempts']) == {4}


def test_killed_and_started_again_gives_the_same_corpus(tmp_path, sampled):
  command = ['deepsentinel.corpus', '--config=tests/corpus/tiny_config.py', f'--out={tmp_path / "killed"}']
  command += ['--config.workers=2', '--config.source.delay_s=0.12']
  journal = tmp_path / 'killed' / 'journal.jsonl'

  def done():
    return journal.read_text().count('"done"') if journal.exists() else 0

  for least in (3, 7):  # killed twice, at two depths
    process = commands.Running(*command)
    wanted = max(least, done() + 1)
    process.wait_until(lambda: done() >= wanted)  # noqa: B023  # it is waited for at once
    process.kill()
  half = corpus.Corpus(tmp_path / 'killed')
  assert not half.card['complete']
  assert 3 <= (half.manifest()['state'] == 'done').sum() < 12
  with journal.open('a') as f:
    f.write('{"id": "p00')  # a line cut by the kill
  result = commands.run(*command)
  assert result.code == 0, result.err
  assert 'tfds build' in result.out
  assert hashes(tmp_path / 'killed') == hashes(sampled.path)
  assert corpus.Corpus(tmp_path / 'killed').manifest().equals(sampled.manifest())


def test_two_runs_on_one_folder_are_refused(tmp_path):
  from deepsentinel.corpus import sample

  with sample._alone(tmp_path), pytest.raises(ValueError, match='Another process is sampling'), sample._alone(tmp_path):
    pass


def test_placed_sources_bring_their_own_patches(tmp_path):
  config = tiny_config()
  config.source = {'name': 'tests.corpus.tiny_source:TinyPlaces'}
  config.labelled = True
  config.patches = 0
  made = corpus.run(config, tmp_path / 'places')
  table = made.manifest().set_index('id')
  assert list(table['state']) == ['done', 'done', 'failed']
  assert table.loc['place_2', 'reason'] == 'sentinel1: the source has no scene of it here'
  assert table.loc['place_0', 'classes'] == 'Pastures;Mixed forest'
  assert table.loc['place_0', 'epsg'] == 32633
  assert (made.read('place_0')['corine'] == 18).all()
  assert (made.read('place_1')['corine'] == 0).all()
  assert table.loc['place_0', 'agriculture_px'] == 32 * 32
  config.patch_px = 64
  with pytest.raises(ValueError, match='Set patch_px=32'):
    corpus.run(config, tmp_path / 'wrong')


def test_the_journal_overlays_the_manifest(tmp_path):
  rows = [manifest.blank_row() | {'id': f'p{i}', 'number': i} for i in range(3)]
  manifest.write(tmp_path, rows)
  with manifest.open_journal(tmp_path) as journal:
    manifest.append(journal, rows[1] | {'state': 'failed', 'reason': 'x'})
    manifest.append(journal, rows[1] | {'state': 'done'})
    journal.write('{"id": "p2", "state"')
  assert list(manifest.read(tmp_path)['state']) == ['planned', 'done', 'planned']
  with manifest.open_journal(tmp_path) as journal:
    manifest.append(journal, rows[2] | {'state': 'done'})
  assert list(manifest.read(tmp_path)['state']) == ['planned', 'done', 'done']


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'patchs': 3}, r"Unknown setting 'patchs'.*Did you mean 'patches'"),
    ({'patches': 'many'}, 'patches must be of type int'),
    ({'max_gap_days': -1}, 'max_gap_days is -1; allowed: 0 and above'),
    ({'split': {**tiny_config().split.to_dict(), 'draws': 0}}, r'split\.draws is 0; allowed: 1 and above'),
    ({'points': {'countries': 'GER', 'bbox': '', 'max_redraws': 1}}, "Unknown country code 'GER'"),
    ({'labelled': True}, 'A labelled corpus needs its labels'),
    ({'source': {'name': 'synthetik'}}, r"Unknown imagery source 'synthetik'.*Did you mean 'synthetic'"),
    ({'source': {'name': TINY, 'delay': 1}}, 'delay_s'),
    ({'source': {'name': 'tests.corpus.tiny_source:Nothing'}}, "has no 'Nothing'"),
    ({'source': {'name': 'no.such:Thing'}}, "No module named 'no'"),
  ],
)
def test_bad_configs_name_what_is_wrong(tmp_path, change, message):
  config = tiny_config().to_dict() | change
  with pytest.raises(ValueError, match=message):
    corpus.run(config, tmp_path / 'x')


def test_a_setting_that_is_missing_is_named(tmp_path):
  config = tiny_config().to_dict()
  del config['period']['end']
  with pytest.raises(ValueError, match=r"lacks 'period\.end'"):
    corpus.run(config, tmp_path / 'x')


@pytest.mark.parametrize('name', CONFIGS)
def test_every_config_is_whole(name):
  module = importlib.import_module(f'configs.corpora.{name}')
  config = module.get_config()
  assert config.name == name
  checked = settings.checked(config)
  assert json.loads(json.dumps(checked)) == checked
  registry.load('imagery source', checked['source']['name'])
  if name != 'common':
    assert f'--config=configs/corpora/{name}.py' in module.__doc__


@pytest.mark.parametrize('platform', common.PLATFORMS)
def test_the_papers_corpora_come_from_every_platform(platform):
  if platform == 'earthone':
    pytest.importorskip('earthdaily.earthone', reason="EarthOne's client is not installed")
  for name in ('labelled_1k', 'labelled_10k', 'unlabelled_10k', 'unlabelled_100k'):
    config = settings.checked(importlib.import_module(f'configs.corpora.{name}').get_config(platform))
    source = registry.build('imagery source', config['source'])
    assert source.synthetic == (platform == 'synthetic')
    assert source.spec.s2_bands
  with pytest.raises(ValueError, match=r'Unknown platform .* Known: synthetic'):
    common.get_config('earth')


@pytest.mark.parametrize(
  ('argument', 'message'),
  [
    ('--config.patchs=3', 'patchs'),
    ('--config.patches=0', 'patches is 0'),
    ('--config.points.countries=DEUU', r'Did you mean DEU (Germany)'),
  ],
)
def test_the_command_fails_in_one_line(tmp_path, argument, message):
  command = ['deepsentinel.corpus', '--config=tests/corpus/tiny_config.py', f'--out={tmp_path / "x"}']
  assert message in commands.run(*command, argument).error


def test_labels_of_synthetic_earth_come_through_vector_files(tmp_path):
  config = importlib.import_module('configs.corpora.demo_labelled').get_config()
  config.patches, config.patch_px, config.workers = 4, 64, 0
  made = corpus.run(config, tmp_path / 'labelled')
  source = registry.build('imagery source', config.source.to_dict())
  assert len(made.manifest()) == 4
  agreement = []
  for row in made.manifest().itertuples():
    arrays = made.read(row.id)
    assert arrays['s2'].shape == (64, 64, 12)
    assert arrays['corine'].dtype == np.uint8
    assert arrays['osm'].dtype == np.uint16
    assert ((arrays['corine'] >= 1) & (arrays['corine'] <= 44)).all()
    pixels = [getattr(row, f'{name}_px') for name in legend.LEVEL1_NAMES]
    assert sum(pixels) == 64 * 64
    grid = base.PatchGrid(row.epsg, row.x0_m, row.y0_m, 64, 64)
    truth = source.landcover(*grid.pixel_centres_lonlat())
    lookup = legend.level_lookup(1)
    agreement.append((lookup[truth] == lookup[arrays['corine']]).mean())
  # Polygons of 25 ha generalise the cover, but do not move it.
  assert np.mean(agreement) > 0.6


def test_a_place_without_a_corine_class_fails(tmp_path, real_data):
  config = tiny_config()
  config.labelled = True
  config.patches = 2
  config.labels.corine.path = str(real_data / 'corine' / 'clc.gpkg')  # a village in Spain; the points lie in Saxony
  with pytest.raises(ValueError, match='Not one of 2 patches'):
    corpus.run(config, tmp_path / 'x')
  assert set(corpus.Corpus(tmp_path / 'x').manifest()['reason']) == {'corine: not one pixel has a class here'}

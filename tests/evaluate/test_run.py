"""The probes as the command runs them: prepared records and checkpoints in, tables, files and pictures out."""

import csv
import dataclasses
import io
import json

import numpy as np
import PIL.Image
import pytest

from deepsentinel import sensors
from deepsentinel.data.records import RecordSet
from deepsentinel.evaluate import output, run
from deepsentinel.evaluation import cells, vectors
from tests import tiny_records, untrained


@pytest.fixture(scope='module')
def records():
  return tiny_records.tiny_records(patches=24)


@pytest.fixture(scope='module')
def checkpoints(tmp_path_factory):
  folder, kind = tmp_path_factory.mktemp('runs'), {'stage': 'pretrain', 'spec': sensors.SensorSpec()}
  return [str(untrained.save(folder / name, seed=seed, **kind)) for seed, name in enumerate(('one', 'two'))]


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
  return tmp_path_factory.mktemp('cache')


@pytest.fixture(scope='module')
def request_(records, checkpoints, cache):
  return run.Request(checkpoints, str(records), fractions=(0.25, 0.6, 1.0), cache=cache, forest=False, progress=False)


@pytest.fixture(scope='module')
def result(request_):
  return run.evaluate(request_)


def test_every_method_level_probe_and_share_is_there(result):
  methods = ['one', 'two', 'random encoder', 'band statistics', 'majority']
  assert [m['name'] for m in result['methods']] == methods[:3]  # one twin for both, which are of one architecture
  assert result['fractions'] == [0.6, 1.0]
  assert result['caveats'][:2] == [
    'So few patches rank no method above another.',
    'Left out, because fewer than 8 train patches remain: 25 % (4).',
  ]
  assert 'No intervals: its test patches lie in' in result['caveats'][2]
  found = {(r['method'], r['level'], r['probe'], r['fraction']) for r in result['rows']}
  assert len(found) == len(result['rows']) == 2 * 2 * (4 * 2 + 1)
  assert result['synthetic'] is True
  assert all(0 < m['diagnostics']['effective_rank_cells'] <= 64 for m in result['methods'])


def test_band_statistics_of_class_lists_are_standardised_over_all_splits(records, checkpoints, tmp_path, monkeypatch):
  sets = [RecordSet(records, split) for split in ('train', 'test')]
  for one in sets:
    monkeypatch.setitem(one.table, 'classes', ['a', *['b;c'] * (len(one) - 1)])
  monkeypatch.setattr(run.records_lib, 'RecordSet', lambda directory, split: sets[split == 'test'])
  seen = []
  monkeypatch.setattr(run.probes, 'knn_multilabel', lambda vectors, matrix, k: seen.append(vectors))
  request = run.Request(checkpoints[:1], splits=('train', 'test'), cache=tmp_path, progress=False)
  run._with_lists(request, records)
  plain = seen[-1]
  assert len(plain) == sum(map(len, sets))
  np.testing.assert_allclose(plain.mean(0), 0, atol=1e-5)
  assert np.abs(plain[len(sets[0]) :].mean(0)).max() > 0.01  # of a split alone it would be 0


@pytest.mark.parametrize(
  ('labels', 'lists', 'kind'), [(False, True, '_with_lists'), (True, True, '_with_maps'), (False, False, '_with_maps')]
)
def test_class_lists_are_probed_where_the_maps_are_empty(records, monkeypatch, labels, lists, kind):
  sets = {split: RecordSet(records, split) for split in ('train', 'validation', 'test')}
  for one in sets.values():
    monkeypatch.setitem(one.table, 'classes', ['a;b' if lists else ''] * len(one))
    if not labels:
      monkeypatch.setattr(one, 'read', lambda field, index: np.zeros((len(index), 32, 32), np.uint8))
  monkeypatch.setattr(run.records_lib, 'RecordSet', lambda directory, split: sets[split])
  for name in ('_with_maps', '_with_lists'):
    monkeypatch.setattr(run, name, lambda *_, name=name: name)
  assert run.evaluate(run.Request((), str(records), progress=False)) == kind


def test_a_repeat_computes_no_features_and_gives_the_same(request_, result, cache, monkeypatch):
  parts = {p: p.stat().st_mtime_ns for p in cache.rglob('part_*.npz')}
  assert len(parts) == 3 * 3
  monkeypatch.setattr(vectors, '_maps', None)  # would raise
  again = run.evaluate(dataclasses.replace(request_, fractions=(1.0,)))
  assert {p: p.stat().st_mtime_ns for p in cache.rglob('part_*.npz')} == parts
  assert again['rows'] == [row for row in result['rows'] if row['fraction'] == 1]


def test_a_damaged_part_is_computed_again(request_, result, cache):
  records = RecordSet(request_.data, 'test')
  (encoder,) = [e for kind, e in run.encoders(run.load(request_.checkpoints[:1], 'pretrain'), 0) if kind == 'embedding']
  grid = cells.CellGrid(records.patch_px, 16)
  whole = vectors.encode(encoder, records, grid, cache=cache, progress=False)
  assert not np.array_equal(whole.cell[0], whole.cell[1])
  parts = [p for p in cache.rglob('part_*.npz') if np.array_equal(np.load(p)['cell'], whole.cell)]
  assert len(parts) == 1
  parts[0].write_bytes(parts[0].read_bytes()[:100])
  again = vectors.encode(encoder, records, grid, cache=cache, progress=False)
  np.testing.assert_array_equal(again.cell, whole.cell)
  np.testing.assert_array_equal(np.load(parts[0])['patch'], whole.patch)


def test_what_is_written(result, tmp_path):
  said = output.write(result, tmp_path / 'out')
  assert said.endswith('evaluation.json, evaluation.csv, classes.png, efficiency.png')
  assert json.loads((tmp_path / 'out' / 'evaluation.json').read_text())['rows'] == result['rows']
  lines = list(csv.DictReader(io.StringIO((tmp_path / 'out' / 'evaluation.csv').read_text())))
  assert {line['synthetic'] for line in lines} == {'true'}
  assert len(lines) == len(result['rows']) * (3 + len(result['classes']))
  for name in ('classes.png', 'efficiency.png'):
    with PIL.Image.open(tmp_path / 'out' / name) as picture:
      assert picture.width > 800
      assert len(picture.convert('RGB').getcolors(1 << 20)) > 50
  text = output.table(result)
  assert text.startswith('SyntheticEarth, a simulated world')
  assert 'effective rank (Roy and Vetterli 2007)' in text
  assert text.count('\nband statistics ') == 4  # a line for each level and probe


def test_an_encoder_of_other_bands_is_refused_before_anything_is_computed(records, tmp_path, cache):
  contract = sensors.SensorSpec(s1_quantity='gamma0_terrain')
  few = untrained.save(tmp_path / 'gamma0', stage='pretrain', spec=contract)
  before = sorted(cache.rglob('*'))
  with pytest.raises(ValueError, match='trained on radar gamma0_terrain; these pixels are sigma0_ellipsoid'):
    run.evaluate(run.Request([str(few)], str(records), cache=cache, progress=False))
  assert sorted(cache.rglob('*')) == before


@pytest.mark.parametrize(
  ('changes', 'says'),
  [
    ({'target': 'mine'}, '--target=mine is one answer a patch'),
    ({'target': 'landcover'}, "has no 'landcover' maps"),
    ({'target': 'corine'}, 'Unknown finetune.target'),
    ({'fractions': (0.05,)}, 'None of --fractions leaves 8 of the 15 train patches'),
    ({'checkpoints': ('a', 'a')}, 'twice'),
    ({'checkpoints': ()}, '--checkpoint names none'),
  ],
)
def test_wrong_arguments_are_named(request_, changes, says):
  with pytest.raises(ValueError, match=says):
    run.evaluate(dataclasses.replace(request_, **changes))


@pytest.mark.parametrize('texts', [['0'], ['1.5'], ['half'], []])
def test_fractions_are_shares(texts):
  with pytest.raises(ValueError, match='are no shares of the labels'):
    run.parse_fractions(texts)


def test_a_folder_that_cannot_be_written_is_named_first(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(ValueError, match='cannot be written: name a folder'):
    output.require_writable(tmp_path / 'file' / 'out')

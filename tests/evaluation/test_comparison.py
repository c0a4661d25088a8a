"""Methods side by side, on records in memory whose answer is known."""

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from deepsentinel import legend
from deepsentinel.evaluation import baselines, cells, comparison, tags
from tests.data import memory_records

CODES = [legend.CORINE_INDEX[code] for code in (211, 312, 523)]
TARGET = legend.target('corine_level1')
COUNTS = {'train': 40, 'validation': 16, 'test': 24}


def _records(split, seed):
  """Two kinds of cells side by side; the bands tell the class."""
  rng, count = np.random.default_rng(seed), COUNTS[split]
  kind = rng.integers(0, 3, (count, 2, 2)).repeat(16, 1).repeat(16, 2)
  near_infrared = np.array([3000, 1800, 200])[kind] + rng.normal(0, 300, kind.shape)
  s2 = np.stack([rng.integers(300, 900, kind.shape), np.maximum(near_infrared, 1)], -1).astype(np.uint16)
  return memory_records.MemoryRecords(
    count=count, patch_px=32, labelled=True, split=split,
    arrays={'corine': np.array(CODES, np.uint8)[kind], 's2': s2},
  )  # fmt: skip


@pytest.fixture(scope='module')
def task():
  sets = {split: _records(split, seed) for seed, split in enumerate(COUNTS)}
  return comparison.open_task(sets, TARGET, cells.CellGrid(32), np.arange(24) // 2, progress=False)


@pytest.fixture(scope='module')
def rows(task):
  rng = np.random.default_rng(0)
  noise = {s: cells.PerPlace(rng.normal(size=(n, 5)), rng.normal(size=(n, 4, 5))) for s, n in COUNTS.items()}
  known = comparison.band_method(task, progress=False)
  methods = [
    comparison.Method('noise', 'embedding', noise),
    comparison.Method('knows', 'embedding', known.features),
    comparison.Method('majority', 'majority'),
    comparison.Method('random forest', 'forest'),
  ]
  options = {'fractions': (0.25, 1.0), 'levels': ('patch', 'cell', 'pixel'), 'forest_pixels': 2000}
  return comparison.compare(task, methods, progress=False, **options)


def _row(rows, method, level, probe, fraction=1.0):
  wanted = (method, level, probe, fraction)
  (row,) = [r for r in rows if (r['method'], r['level'], r['probe'], r['fraction']) == wanted]
  return row


def test_every_method_is_asked_about_the_same_cells(task, rows):
  assert len(rows) == 2 * (2 * 2 * 2 + 3 * 2)
  assert {r['pixels'] for r in rows if r['level'] == 'cell'} == {24 * 4}
  assert {r['pixels'] for r in rows if r['level'] == 'patch'} == {24}
  assert {(r['method'], r['pixels']) for r in rows if r['level'] == 'pixel'} == {
    ('majority', 24 * 32**2), ('random forest', 24 * 32**2)
  }  # fmt: skip
  assert {r['train_patches'] for r in rows if r['fraction'] == 0.25} == {10}


def test_what_the_bands_tell_is_found_and_noise_is_not(task, rows):
  assert _row(rows, 'knows', 'cell', 'linear')['weighted_iou'] > 0.95
  assert _row(rows, 'random forest', 'cell', '')['weighted_iou'] > 0.95
  assert _row(rows, 'noise', 'cell', 'knn')['weighted_iou'] < 0.5
  gain = _row(rows, 'noise', 'cell', 'linear')['gain']
  assert gain['over'] == 'random forest'
  assert gain['interval'][1] < 0
  said = comparison.verdicts(rows)
  assert sum('noise, cells' in s and 'loses to' in s for s in said) == 2


def test_majority_by_hand(task, rows):
  label = task.labels['test'].cell
  train = task.labels['train'].cell
  most = np.bincount(train.ravel()).argmax()
  row = _row(rows, 'majority', 'cell', '')
  truth = label.ravel()
  assert row['overall_accuracy'] == pytest.approx((truth == most).mean())
  expected = sklearn_metrics.jaccard_score(truth, np.full(truth.shape, most), average='weighted', zero_division=0)
  assert row['weighted_iou'] == pytest.approx(expected)
  low, high = row['intervals']['overall_accuracy']
  assert low < row['overall_accuracy'] < high


def test_every_pixel_of_the_forest_and_of_the_majority_is_scored(task, rows):
  # Cells are of one class here, so that the majority class of their pixels scores what that of cells does.
  pixel, cell = _row(rows, 'majority', 'pixel', ''), _row(rows, 'majority', 'cell', '')
  assert pixel['overall_accuracy'] == pytest.approx(cell['overall_accuracy'])
  label, parts = TARGET.lookup[task.records['test'].read('corine', range(24))], task.records
  confusion = baselines.random_forest(parts['train'], parts['test'], train_pixels=2000, progress=False)
  found = _row(rows, 'random forest', 'pixel', '')
  assert found['overall_accuracy'] == pytest.approx(np.trace(confusion) / label.size)
  assert found['overall_accuracy'] < _row(rows, 'random forest', 'cell', '')['overall_accuracy']


def test_subsets_are_nested_and_stratified(task):
  small, large = (task.share('train', f) for f in (0.25, 0.5))
  assert set(small) < set(large)
  shares = [np.bincount(task.labels['train'].patch[part], minlength=5) / len(part) for part in (small, large)]
  assert np.abs(shares[0] - shares[1]).max() < 0.15


def test_shares_that_leave_too_few_patches_are_left_out_and_said(task):
  taken, said = comparison.fractions_to_take(task, (0.05, 0.1, 1.0))
  assert taken == [1.0]
  assert said == 'Left out, because fewer than 8 train patches remain: 5 % (2), 10 % (4).'
  with pytest.raises(ValueError, match=r'None of --fractions leaves 8 of the 40 train patches'):
    comparison.fractions_to_take(task, (0.05,))


def test_a_split_without_labels_is_refused(task):
  empty = memory_records.MemoryRecords(
    count=3, patch_px=32, labelled=True, arrays={'corine': np.zeros((3, 32, 32), np.uint8)}
  )
  with pytest.raises(ValueError, match='has no label of CORINE level 1'):
    comparison.open_task({'train': empty}, TARGET, cells.CellGrid(32), np.zeros(3), progress=False)


def test_lists_of_classes_score_as_scikit_learn_says():
  rng = np.random.default_rng(0)
  x = {s: rng.normal(size=(n, 4)) for s, n in {'train': 60, 'validation': 20, 'test': 40}.items()}
  labels = {s: np.stack([v[:, 0] > 0, v[:, 1] > 1, v[:, 2] > 9], 1) for s, v in x.items()}
  rows = tags.compare(labels, {'knows': ('embedding', x)}, np.arange(40) // 4, fractions=(0.5, 1.0), progress=False)
  assert [(r['method'], r['fraction'], r['train_patches']) for r in rows[-2:]] == [
    ('prevalence', 0.5, 30), ('prevalence', 1.0, 60),
  ]  # fmt: skip
  truth = labels['test']
  constant = np.broadcast_to(labels['train'].mean(0), truth.shape)
  prior = rows[-1]
  assert prior['average_precision'] == [
    pytest.approx(sklearn_metrics.average_precision_score(truth[:, k], constant[:, k])) for k in (0, 1)
  ] + [None]
  assert prior['micro_map'] == pytest.approx(sklearn_metrics.average_precision_score(truth, constant, average='micro'))
  best = next(r for r in rows if r['probe'] == 'linear' and r['fraction'] == 1.0)
  assert best['macro_map'] > 0.9
  assert best['intervals']['macro_map'][0] < best['macro_map'] <= best['intervals']['macro_map'][1]
  called = np.array([[0.9, 0.2, 0.6], [0.6, 0.7, 0.1], [0.1, 0.1, 0.1]])
  told = np.array([[1, 0, 0], [0, 1, 1], [1, 0, 0]], bool)
  scores = tags.scores(told, called)
  for kind in ('micro', 'macro'):
    expected = sklearn_metrics.f1_score(told, called >= 0.5, average=kind, zero_division=0)
    assert scores[f'{kind}_f1'] == pytest.approx(expected)


def test_the_rarest_class_is_what_subsets_balance():
  labels = np.array([[1, 1, 0], [1, 0, 0], [1, 0, 1], [0, 0, 0], [1, 1, 0]], bool)
  np.testing.assert_array_equal(tags.rarest(labels), [1, 0, 2, -1, 1])

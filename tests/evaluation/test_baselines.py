"""The majority class and the per-pixel forest, on records whose answer is known."""

import numpy as np
import pytest

from deepsentinel import legend, sensors
from deepsentinel.data import records
from deepsentinel.evaluation import baselines, metrics
from tests import tiny_records

ARABLE, FOREST, SEA = (legend.CORINE_INDEX[code] for code in (211, 312, 523))


class Records:
  """What the baselines use of a RecordSet, from arrays."""

  def __init__(self, corine, seed, spec=None):
    rng = np.random.default_rng(seed)
    self.spec = spec or sensors.SensorSpec(('B2', 'B8', 'VV', 'VH'))
    self.patch_px = corine.shape[1]
    near_infrared = np.select([corine == ARABLE, corine == FOREST], [3000, 1800], 200)
    s2 = np.stack([rng.integers(300, 900, corine.shape), near_infrared + rng.integers(-100, 100, corine.shape)], -1)
    self._fields = {
      'corine': corine.astype(np.uint8),
      's2': s2.astype(np.uint16),
      's1': rng.integers(-2000, -500, (*corine.shape, 2)).astype(np.int16),
    }
    self.reads = np.zeros(len(corine), int)

  def __len__(self):
    return len(self._fields['corine'])

  def read(self, field, index):
    if field == 'corine':
      self.reads[index] += 1
    return self._fields[field][index]


def _corine(patches, px, seed):
  return np.random.default_rng(seed).choice([0, ARABLE, FOREST, SEA], (patches, px, px), p=[0.1, 0.5, 0.3, 0.1])


def test_majority_is_chosen_in_training_and_scored_on_test():
  confusion = baselines.majority(np.array([10, 50, 40]), np.array([30, 20, 50]))
  np.testing.assert_array_equal(confusion, [[0, 30, 0], [0, 20, 0], [0, 50, 0]])
  s = metrics.scores(confusion)
  assert s['iou'] == [0, 0.2, 0]
  assert s['weighted_iou'] == pytest.approx(0.2 * 0.2)
  assert s['overall_accuracy'] == pytest.approx(0.2)


def test_majority_without_labels_is_refused():
  with pytest.raises(ValueError, match='no labelled pixel'):
    baselines.majority(np.zeros(3), np.ones(3))


@pytest.mark.parametrize('level', [1, 2, 3])
def test_class_counts(level):
  corine = np.array([[[0, ARABLE], [FOREST, FOREST]], [[SEA, 0], [255, ARABLE]]])
  counts = baselines.class_counts(Records(corine, 0), legend.target(f'corine_level{level}'), progress=False)
  names = legend.level_classes(level)
  expected = dict.fromkeys(names, 0)
  arable, forest, sea = {
    1: ('agriculture', 'natural', 'water'),
    2: ('21', '31', '52'),
    3: ('Non-irrigated arable land', 'Coniferous forest', 'Sea and ocean'),
  }[level]
  expected.update({arable: 2, forest: 2, sea: 1})
  assert dict(zip(names, counts.tolist(), strict=True)) == expected


def test_forest_learns_what_one_pixel_shows_and_counts_each_pixel_once():
  train, test = Records(_corine(6, 32, 0), 0), Records(_corine(5, 32, 1), 1)
  confusion = baselines.random_forest(train, test, train_pixels=2000, trees=8, jobs=1, progress=False)
  assert confusion.sum() == (test.read('corine', np.arange(5)) > 0).sum()
  np.testing.assert_array_equal(
    confusion.sum(1), baselines.class_counts(test, legend.target('corine_level1'), progress=False)
  )
  assert metrics.scores(confusion)['weighted_iou'] > 0.99
  # The radar is noise here, so the radar-only forest cannot be much better than the majority.
  radar = baselines.random_forest(
    train, test, bands=('VV', 'VH'), train_pixels=2000, trees=8, max_depth=4, jobs=1, progress=False
  )
  assert metrics.scores(radar)['weighted_iou'] < 0.5


def test_forest_is_deterministic_and_independent_of_reading_order():
  train, test = Records(_corine(6, 32, 0), 0), Records(_corine(3, 32, 1), 1)
  options = {'bands': ('VV', 'VH'), 'train_pixels': 600, 'trees': 4, 'jobs': 1, 'progress': False}
  first = baselines.random_forest(train, test, **options)
  np.testing.assert_array_equal(first, baselines.random_forest(train, test, **options))
  shuffled = baselines.random_forest(train, test, test_index=np.array([2, 0, 1]), **options)
  np.testing.assert_array_equal(first, shuffled)
  assert (first != baselines.random_forest(train, test, seed=1, **options)).any()


def test_forest_survives_nodata():
  train, test = Records(_corine(4, 16, 0), 0), Records(_corine(4, 16, 1), 1)
  for records_ in (train, test):
    records_._fields['s2'][:2] = sensors.S2_NODATA
    records_._fields['s1'][1:3] = sensors.S1_NODATA
  confusion = baselines.random_forest(train, test, train_pixels=500, trees=4, jobs=1, progress=False)
  assert confusion.sum() == (test.read('corine', np.arange(4)) > 0).sum()
  for records_ in (train, test):
    records_._fields['s1'][:] = sensors.S1_NODATA
  baselines.random_forest(train, test, train_pixels=500, trees=4, jobs=1, progress=False)


def test_forest_refuses_what_it_cannot_do():
  train, test = Records(_corine(2, 8, 0), 0), Records(_corine(2, 8, 1), 1)
  with pytest.raises(ValueError, match='B11'):
    baselines.random_forest(train, test, bands=('B11',), progress=False)
  with pytest.raises(ValueError, match='None of the 2 train patches has a labelled pixel'):
    baselines.random_forest(Records(np.zeros((2, 8, 8), int), 0), test, progress=False)
  other = Records(_corine(2, 8, 1), 1, sensors.SensorSpec(('B2', 'B8', 'VV', 'VH'), s2_level='L1C'))
  with pytest.raises(ValueError, match='one record set'):
    baselines.random_forest(train, other, progress=False)


def test_both_baselines_on_prepared_records():
  directory = tiny_records.tiny_records()
  train, test = (records.RecordSet(directory, split) for split in ('train', 'test'))
  methods = baselines.evaluate(train, test, train_pixels=2000, trees=8, jobs=1, progress=False)
  assert list(methods) == ['majority', 'random_forest']
  labelled = int((legend.level_lookup(1)[test.read('corine', np.arange(len(test)))] >= 0).sum())
  for entry in methods.values():
    assert np.sum(entry['confusion']) == entry['pixels'] == labelled
    assert entry['seconds'] >= 0
  assert methods['random_forest']['weighted_iou'] > methods['majority']['weighted_iou']

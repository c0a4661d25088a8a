"""The block bootstrap against cases worked out by hand and properties that any bootstrap has."""

import numpy as np
import pytest
import scipy.stats

from deepsentinel.evaluation import intervals, metrics

BLOCKS = 12


def _patches(right, block=None, shift=0):
  """Patches of 100 pixels of class 0 and 100 of class 1; right[i] pixels of either are found. IoU r / (200 - r)."""
  right = np.asarray(right)
  confusion = right[:, None, None] * np.eye(2, dtype=int) + (100 - right)[:, None, None] * (1 - np.eye(2, dtype=int))
  block = np.arange(len(right)) if block is None else np.asarray(block)
  return [f'p{i + shift:03d}' for i in range(len(right))], block, confusion


def test_blocks_alike_give_an_interval_without_width():
  runs = [intervals.resample(*_patches([80] * BLOCKS))]
  for metric, value in (('weighted_iou', 80 / 120), ('macro_iou', 80 / 120), ('overall_accuracy', 0.8)):
    interval, reason = intervals.of_score(runs, metric)
    assert (interval.low, interval.high) == pytest.approx((value, value))
    assert reason == ''


def test_accuracy_of_blocks_right_or_wrong_is_binomial():
  """Half of 20 blocks all right, half all wrong: a resample's accuracy is a Binomial(20, 1/2) / 20."""
  resampled = intervals.resample(*_patches([100] * 10 + [0] * 10), resamples=4000)
  interval, _ = intervals.of_score([resampled], 'overall_accuracy')
  tail = scipy.stats.norm.cdf(np.sqrt(20 / 19) * scipy.stats.t.ppf(0.025, 19))
  expected = scipy.stats.binom.ppf([tail, 1 - tail], 20, 0.5) / 20
  assert (interval.low, interval.high) == pytest.approx(tuple(expected), abs=0.05 + 1e-9)  # one block either way
  assert resampled.scores['overall_accuracy'].mean() == pytest.approx(0.5, abs=0.01)
  assert resampled.scores['overall_accuracy'].std() == pytest.approx(np.sqrt(0.25 / 20), rel=0.05)


def test_few_blocks_widen_the_interval_to_the_t_interval():
  """Of the mean of normal values, the expanded percentiles are about Student's interval."""
  found = []
  for number in range(40):
    right = np.random.default_rng(number).normal(50, 10, 8).round().clip(0, 100).astype(int)
    interval, _ = intervals.of_score([intervals.resample(*_patches(right))], 'overall_accuracy')
    half = scipy.stats.t.ppf(0.975, 7) * right.std(ddof=1) / np.sqrt(8) / 100
    found.append((interval.high - interval.low) / (2 * half))
  assert np.mean(found) == pytest.approx(1, abs=0.05)


def test_a_block_is_drawn_whole():
  """Two patches a block, one all right and one all wrong: every draw has half of its pixels right."""
  block = np.repeat(np.arange(BLOCKS), 2)
  resampled = intervals.resample(*_patches([100, 0] * BLOCKS, block))
  np.testing.assert_allclose(resampled.scores['overall_accuracy'], 0.5)


def test_gains_are_paired():
  """A run that is better by the same everywhere gains the same on every draw, however much places differ."""
  right = np.arange(20, 20 + 5 * BLOCKS, 5)
  low, high = (intervals.resample(*_patches(r)) for r in (right, right + 10))
  interval, _ = intervals.of_gain([(high, low), (high, low)], 'overall_accuracy')
  assert (interval.low, interval.high) == pytest.approx((0.1, 0.1))
  assert interval.decided
  score, _ = intervals.of_score([low], 'overall_accuracy')
  assert score.high - score.low > 0.1
  assert not intervals.of_gain([(high, low), (low, high)], 'overall_accuracy')[0].decided


def test_the_same_draws_every_time_and_whatever_the_numbers_of_blocks():
  patches = _patches(np.arange(BLOCKS) * 7)
  once = intervals.resample(*patches).scores['weighted_iou']
  np.testing.assert_array_equal(once, intervals.resample(*patches).scores['weighted_iou'])
  np.testing.assert_array_equal(
    once, intervals.resample(patches[0], patches[1] * 3 + 5, patches[2]).scores['weighted_iou']
  )


def test_too_few_blocks_is_a_reason_and_no_interval():
  few = intervals.resample(*_patches([80] * 40, np.arange(40) % 7))
  assert intervals.of_score([few], 'weighted_iou') == (None, 'its test patches lie in 7 blocks; it takes 8')
  # Blocks without a label are none.
  ids, block, confusion = _patches([80] * BLOCKS)
  confusion[:5] = 0
  assert 'lie in 7 blocks' in intervals.resample(ids, block, confusion).reason
  assert intervals.of_gain([], 'weighted_iou') == (None, 'there is no run')


def test_other_patches_are_not_paired():
  a, b = intervals.resample(*_patches([80] * BLOCKS)), intervals.resample(*_patches([80] * BLOCKS, shift=1))
  assert intervals.of_gain([(a, b)], 'weighted_iou') == (None, 'the runs were tested on different patches')


def test_wrong_shapes_are_named():
  ids, block, confusion = _patches([80] * BLOCKS)
  with pytest.raises(ValueError, match='11 blocks'):
    intervals.resample(ids, block[1:], confusion)
  with pytest.raises(ValueError, match=r'\(12, 2\)'):
    intervals.resample(ids, block, confusion[..., 0])


def test_rates_of_many_are_the_scores_of_each():
  confusion = np.random.default_rng(0).integers(0, 50, (7, 5, 5))
  confusion[3, 2] = confusion[3, :, 2] = 0
  many = metrics.rates(confusion)
  for i, matrix in enumerate(confusion):
    one = metrics.scores(matrix)
    for name in metrics.SCORES:
      assert many[name][i] == pytest.approx(one[name])
    assert [None if np.isnan(v) else v for v in many['iou'][i]] == pytest.approx(one['iou'])

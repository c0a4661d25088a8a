"""Scores against hand-computed values and scikit-learn."""

import json

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, jaccard_score
from sklearn.metrics import confusion_matrix as sklearn_confusion

from deepsentinel.evaluation import metrics

# Three classes, ten pixels: rows are the reference.
BY_HAND = np.array([[3, 1, 0], [1, 4, 0], [0, 1, 0]])


def test_scores_by_hand():
  s = metrics.scores(BY_HAND)
  # IoU: 3 / (4 + 4 - 3), 4 / (5 + 6 - 4), 0 / (1 + 0 - 0).
  assert s['iou'] == pytest.approx([3 / 5, 4 / 7, 0])
  assert s['weighted_iou'] == pytest.approx(0.4 * 3 / 5 + 0.5 * 4 / 7)
  assert s['macro_iou'] == pytest.approx((3 / 5 + 4 / 7) / 3)
  assert s['overall_accuracy'] == pytest.approx(0.7)
  assert s['reference_share'] == pytest.approx([0.4, 0.5, 0.1])
  assert s['pixels'] == 10
  json.dumps(s, allow_nan=False)


def test_class_absent_from_both_is_no_class_of_the_macro_mean():
  confusion = np.zeros((4, 4), int)
  confusion[:3, :3] = BY_HAND
  s = metrics.scores(confusion)
  assert s['iou'][3] is None
  assert s['macro_iou'] == pytest.approx(metrics.scores(BY_HAND)['macro_iou'])
  # Predicted where it never is: the class counts, with 0.
  confusion[0, 3] = 2
  assert metrics.scores(confusion)['iou'][3] == 0


def test_ignored_pixels_change_nothing():
  rng = np.random.default_rng(0)
  label, prediction = rng.integers(0, 5, (2, 40, 30))
  confusion = metrics.confusion_matrix(label, prediction, 5)
  wider = np.concatenate([label, np.full_like(label, -1)]), np.concatenate([prediction, prediction])
  np.testing.assert_array_equal(metrics.confusion_matrix(*wider, 5), confusion)


@pytest.mark.parametrize('classes', [1, 2, 5, 44])
def test_against_sklearn(classes):
  rng = np.random.default_rng(classes)
  label, prediction = rng.integers(0, classes, (2, 3, 20, 20))
  truth, guess = label.ravel(), prediction.ravel()
  confusion = metrics.confusion_matrix(label, prediction, classes)
  np.testing.assert_array_equal(confusion, sklearn_confusion(truth, guess, labels=np.arange(classes)))
  s = metrics.scores(confusion)
  assert s['weighted_iou'] == pytest.approx(jaccard_score(truth, guess, average='weighted', zero_division=0))
  assert s['macro_iou'] == pytest.approx(jaccard_score(truth, guess, average='macro', zero_division=0))
  assert s['overall_accuracy'] == pytest.approx(accuracy_score(truth, guess))


def test_pooled_over_batches_equals_all_at_once():
  rng = np.random.default_rng(1)
  label, prediction = rng.integers(-1, 3, (10, 8)), rng.integers(0, 3, (10, 8))
  parts = sum(metrics.confusion_matrix(a, b, 3) for a, b in zip(label, prediction, strict=True))
  np.testing.assert_array_equal(parts, metrics.confusion_matrix(label, prediction, 3))


def test_no_labelled_pixel_gives_no_score():
  s = metrics.scores(np.zeros((5, 5), int))
  assert s['weighted_iou'] is None
  assert s['macro_iou'] is None
  assert s['overall_accuracy'] is None
  assert s['iou'] == [None] * 5
  json.dumps(metrics.method(np.zeros((5, 5), int)), allow_nan=False)


def test_bad_input_says_what_is_wrong():
  with pytest.raises(ValueError, match='one shape'):
    metrics.confusion_matrix(np.zeros((2, 2), int), np.zeros((2, 3), int), 2)
  with pytest.raises(ValueError, match='prediction lies outside 0 to 1: found -1'):
    metrics.confusion_matrix(np.zeros(3, int), np.array([0, 1, -1]), 2)
  with pytest.raises(ValueError, match='label lies outside'):
    metrics.confusion_matrix(np.array([5]), np.array([0]), 5)
  with pytest.raises(ValueError, match='square'):
    metrics.scores(np.zeros((2, 3)))

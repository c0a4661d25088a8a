"""Scores of scenes by hand."""

import numpy as np
import pytest

from deepsentinel.evaluation import scenes


def test_scores_by_hand():
  label = np.array([1, 1, 1, 0, 0, -1])
  probability = np.array([0.9, 0.6, 0.2, 0.7, 0.1, 0.99])
  found = scenes.scores(label, probability)
  # Called: 0.9, 0.6, 0.7. Pairs of a mine above a background: 0.9 both, 0.6 one, 0.2 one, so 4 of 6.
  assert found['confusion'] == [[1, 1], [1, 2]]
  assert found['precision'] == pytest.approx(2 / 3)
  assert found['recall'] == pytest.approx(2 / 3)
  assert found['accuracy'] == pytest.approx(3 / 5)
  assert found['roc_auc'] == pytest.approx(4 / 6)
  # In order 0.9 mine, 0.7 no, 0.6 mine, 0.2 mine: (1/1 + 2/3 + 3/4) / 3
  assert found['average_precision'] == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
  assert (found['positives'], found['background'], found['prevalence']) == (3, 2, 0.6)


def test_what_is_undefined_is_none():
  found = scenes.scores(np.array([0, 0, -1]), np.array([0.1, 0.5, 0.9]))
  assert found['confusion'] == [[2, 0], [0, 0]]
  assert found['accuracy'] == 1
  assert [found[key] for key in ('precision', 'recall', 'roc_auc', 'average_precision')] == [None] * 4
  assert scenes.scores(np.array([-1]), np.array([0.1]))['prevalence'] is None
  assert scenes.at_half(np.zeros((2, 2))) == {}


def test_the_most_certain_right_and_wrong_are_shown():
  label = np.array([1, 1, 0, 0, 1, 0, 0])
  probability = np.array([0.95, 0.8, 0.01, 0.3, 0.02, 0.9, 0.6])
  # Right: mines 0, 1; background 2, 3. Wrong: mine 4; background 5, 6.
  assert scenes.choose(label, probability, 4).tolist() == [2, 0, 4, 5]
  assert scenes.choose(label, probability, 7).tolist() == [2, 0, 1, 3, 4, 5, 6]
  assert scenes.choose(label, probability, 0).tolist() == []

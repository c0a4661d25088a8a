"""Collapse diagnostics on embeddings whose answer is known."""

import numpy as np
import pytest

from deepsentinel.evaluation import diagnostics


def test_effective_rank_by_hand():
  eye = np.concatenate([np.eye(4), -np.eye(4)])  # centred, four equal singular values
  assert diagnostics.effective_rank(eye) == pytest.approx(4)
  assert diagnostics.effective_rank(eye + 100) == pytest.approx(4)  # an offset is no direction
  assert diagnostics.effective_rank(np.outer([1, -1, 2, -2], [3, 0, 4])) == pytest.approx(1)
  unequal = np.concatenate([np.diag([3.0, 1.0]), -np.diag([3.0, 1.0])])
  assert diagnostics.effective_rank(unequal) == pytest.approx(np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25))))
  assert diagnostics.effective_rank(np.full((5, 3), 2.0)) == 0


def test_alignment_and_uniformity_by_hand():
  x = np.array([[2.0, 0], [0, 5.0]])
  assert diagnostics.alignment(x, 3 * x) == pytest.approx(0)
  assert diagnostics.alignment(x, x[::-1]) == pytest.approx(2)  # at right angles
  assert diagnostics.alignment(x, -x) == pytest.approx(4)
  assert diagnostics.uniformity(np.array([[1.0, 0], [-1.0, 0]])) == pytest.approx(-8)  # exp(-2 * 4)
  assert diagnostics.uniformity(np.ones((4, 3))) == pytest.approx(0)


def test_dead_dimensions_are_counted():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(50, 8))
  x[:, 5:] = 0.25
  assert diagnostics.dead_share(x) == pytest.approx(3 / 8)


def test_everything_at_once():
  rng = np.random.default_rng(0)
  cell = rng.normal(size=(30, 3, 8))
  found = diagnostics.describe(cell.mean(1), cell)
  assert found['dimensions'] == 8
  assert 5 < found['effective_rank_patches'] < 8
  assert found['alignment'] == pytest.approx(2, abs=0.4)
  assert set(diagnostics.describe(cell[:, 0], cell[:, :1])) == set(found) - {'alignment'}

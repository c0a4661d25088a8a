"""The scene objective by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepsentinel.encoders.resnet import ResNet
from deepsentinel.objectives.scene import Scene
from tests.objectives.test_objectives import Mirror

# Two features: the unit says 2 a - b + 0.5.
VARIABLES = {'params': {'header': {'Linear': {'kernel': jnp.array([[2.0], [-1.0]]), 'bias': jnp.array([0.5])}}}}


def batch(labels):
  """Maps of 1 x 2 cells, whose maxima are (1, 3), (0, -1) and (9, 9)."""
  cells = [[[1, 0], [-5, 3]], [[0, -1], [-2, -4]], [[9, 9], [0, 0]]]
  images = np.array(cells, np.float32)[: len(labels), None, None]  # [B, 1, 1, 2, 2]
  return {'images': images, 'labels': np.array(labels, np.int32)}


def test_loss_by_hand_and_an_unknown_label_counts_nothing():
  loss, diagnostics = Scene(Mirror()).apply(VARIABLES, batch([1, 0, -1]), train=False)
  # logits 2 - 3 + 0.5 = -0.5 and 0 + 1 + 0.5 = 1.5
  np.testing.assert_allclose(loss, [np.log1p(np.exp(0.5)), np.log1p(np.exp(1.5)), 0], rtol=1e-6)
  np.testing.assert_array_equal(diagnostics['weight'], [1, 1, 0])
  np.testing.assert_array_equal(diagnostics['accuracy'], [0, 0, 0])
  logits = Scene(Mirror()).apply(VARIABLES, batch([1, 0]), method='predict')
  np.testing.assert_allclose(logits, [[0, -0.5], [0, 1.5]], rtol=1e-6)


def test_a_batch_of_one_and_a_batch_without_labels():
  objective = Scene(Mirror())
  loss, diagnostics = objective.apply(VARIABLES, batch([0]), train=True)
  np.testing.assert_allclose(loss, [np.log1p(np.exp(-0.5))], rtol=1e-6)
  np.testing.assert_array_equal(diagnostics['accuracy'], [1])

  def total(params):
    return objective.apply({'params': params}, batch([-1, -1]), train=True)[0].sum()

  value, gradient = jax.value_and_grad(total)(VARIABLES['params'])
  assert value == 0
  assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize('frozen', [False, True])
def test_a_frozen_encoder_passes_no_gradient(frozen):
  objective = Scene(ResNet(stage_sizes=(1, 1, 1, 1), width=8), frozen_encoder=frozen)
  images = np.random.default_rng(0).normal(size=(4, 1, 32, 32, 3)).astype(np.float32)
  given = {'images': images, 'labels': np.array([0, 1, 1, 0], np.int32)}
  variables = jax.jit(functools.partial(objective.init, train=False))(jax.random.key(0), given)

  def total(params):
    loss, _ = objective.apply({**variables, 'params': params}, given, train=True, mutable=['batch_stats'])
    return loss[0].sum()

  gradient = jax.jit(jax.grad(total))(variables['params'])
  assert any(np.any(leaf) for leaf in jax.tree.leaves(gradient['header']))
  assert any(np.any(leaf) for leaf in jax.tree.leaves(gradient['encoder'])) != frozen

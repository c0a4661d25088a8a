"""Batch norm in training against Flax's own, of which it is a faster form on a CPU."""

import functools

import flax.linen as nn
import jax
import numpy as np
import pytest

from deepsentinel.encoders.batchnorm import BatchNorm

DEVICES, SHAPE = 3, (4, 6, 5, 7)


def outputs_and_gradients(layer, variables, x, weight):
  """Of one device: output, running averages, gradients of the input and of the variables."""

  def loss(params, x):
    y, changed = layer.apply({**variables, 'params': params}, x, mutable=['batch_stats'])
    return (y * weight).sum(), (y, changed['batch_stats'])

  (_, kept), gradients = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(variables['params'], x)
  return kept, gradients


@pytest.mark.parametrize('across', [None, functools.partial(jax.lax.pmean, axis_name='batch')])
def test_it_is_batch_norm(across):
  rng = np.random.default_rng(0)
  x = rng.normal(3, 2, (DEVICES, *SHAPE)).astype(np.float32) * np.arange(1, 8, dtype=np.float32)
  weight = rng.normal(size=x.shape).astype(np.float32)
  variables = {
    'params': {'scale': rng.uniform(0.5, 2, 7).astype(np.float32), 'bias': rng.normal(size=7).astype(np.float32)},
    'batch_stats': {'mean': rng.normal(size=7).astype(np.float32), 'var': rng.uniform(1, 2, 7).astype(np.float32)},
  }
  options = {'use_running_average': False, 'momentum': 0.9, 'axis_name': 'batch' if across else None}
  found, wanted = (
    jax.vmap(functools.partial(outputs_and_gradients, layer, variables), axis_name='batch')(x, weight)
    for layer in (BatchNorm(**options, across=across), nn.BatchNorm(**options))
  )
  for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())
  assert jax.tree.structure(found) == jax.tree.structure(wanted)


def test_a_channel_without_variance_has_no_gradient_and_no_nan():
  x, weight = np.full(SHAPE, 0.1, np.float32), np.ones(SHAPE, np.float32)
  layer = BatchNorm(False)
  (y, _), (_, by_x) = outputs_and_gradients(layer, layer.init(jax.random.key(0), x), x, weight)
  np.testing.assert_allclose(y, 0, atol=1e-4)
  np.testing.assert_allclose(by_x, 0, atol=1e-3)

"""The VAE's losses by hand, and the paper's parameter count."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from deepsentinel.objectives import vae
from deepsentinel.train import models, state


def test_kl_by_hand():
  # One number N(1, e^0) and one N(0, e^1): (1 + 1 - 1 - 0) / 2 = 0.5 and (0 + e - 1 - 1) / 2.
  mean, log_variance = np.array([1.0, 0.0]).reshape(1, 1, 1, 2), np.array([0.0, 1.0]).reshape(1, 1, 1, 2)
  assert vae.kl_divergence(mean, log_variance)[0] == pytest.approx(0.5 + (np.e - 2) / 2)
  assert vae.kl_divergence(np.zeros((1, 2, 2, 3)), np.zeros((1, 2, 2, 3)))[0] == 0


def test_pixels_without_a_measurement_cost_nothing():
  images = np.array([3.0, 7.0, 0.0, 0.0]).reshape(1, 2, 2, 1)
  decoded = np.array([1.0, 8.0, 100.0, np.inf]).reshape(1, 2, 2, 1)
  valid = np.array([True, True, False, False]).reshape(1, 2, 2, 1)
  assert vae.reconstruction_error(images, decoded, valid)[0] == (4 + 1) / 2
  assert vae.reconstruction_error(images, decoded, np.zeros_like(valid))[0] == 0
  gradient = jax.grad(lambda d: vae.reconstruction_error(images, d, valid).sum())(decoded)
  np.testing.assert_allclose(gradient.ravel(), [-2, 1, 0, 0])


def test_parameters_of_the_paper():
  config = common.get_config()
  config.pretrain.objective = 'vae'
  module = models.build(config, 'pretrain')
  shapes = state.variable_shapes(module, models.example_inputs(module, 14))
  assert sum(leaf.size for leaf in jax.tree.leaves(shapes['params'])) == 13_576_814


def _module(**options):
  config = common.get_config('small')
  config.encoder.update({'name': 'resnet10', 'width': 8})
  config.pretrain.objective = 'vae'
  config.pretrain.vae.update(options)
  return models.build(config, 'pretrain')


def _batch(module, size):
  example = models.example_inputs(module, 4)
  images = jax.random.normal(jax.random.key(3), (size, *example['images'].shape[1:]))
  return {
    'images': images, 'valid': jnp.ones_like(images, bool), 'present': jnp.ones((size, 1, 4), bool),
    'key': jax.random.split(jax.random.key(1), size),
  }  # fmt: skip


@functools.partial(jax.jit, static_argnums=(0, 3))
def _apply(module, variables, batch, train):
  return module.apply(variables, batch, train=train, mutable=['batch_stats'])


def _loss(module, variables, batch, train=True):
  (loss, parts), _ = _apply(module, variables, batch, train)
  return loss, parts


def test_weight_0_is_an_autoencoder():
  module = _module(kl_weight=0.0, sample=False)
  batch = _batch(module, 2)
  variables = state.init_variables(module, models.example_inputs(module, 4), jax.random.key(0))
  loss, parts = _loss(module, variables, batch)
  np.testing.assert_array_equal(loss, parts['reconstruction'])
  weighted, parts = _loss(_module(kl_weight=0.5, sample=False), variables, batch)
  np.testing.assert_allclose(weighted, loss + 0.5 * 2 * parts['kl'] / (32 * 32 * 4), rtol=1e-5)


def test_the_draw_is_the_example_s_own():
  module = _module()
  batch = _batch(module, 4)
  variables = state.init_variables(module, models.example_inputs(module, 4), jax.random.key(0))
  eps = vae.normal_like(batch['key'], jnp.zeros((4, 5)))
  np.testing.assert_array_equal(vae.normal_like(batch['key'][2:], jnp.zeros((2, 5))), eps[2:])
  # A different draw changes the loss in training, and nothing at evaluation.
  other = {**batch, 'key': jax.random.split(jax.random.key(2), 4)}
  assert (_loss(module, variables, batch)[0] != _loss(module, variables, other)[0]).all()
  np.testing.assert_array_equal(
    _loss(module, variables, batch, train=False)[0], _loss(module, variables, other, train=False)[0]
  )

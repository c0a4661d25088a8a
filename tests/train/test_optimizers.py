"""Schedules, clipping, accumulation and the precision of the arithmetic."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import common
from deepsentinel.train import models, optimizers, parallel, state
from tests.train import tiny_model


def test_schedules_by_hand():
  assert optimizers.learning_rate(0.1, 'constant', 0, 10) == 0.1
  warm = optimizers.learning_rate(0.1, 'constant', 4, 10)
  np.testing.assert_allclose([warm(s) for s in (0, 2, 4, 9)], [0, 0.05, 0.1, 0.1], rtol=1e-6)
  cosine = optimizers.learning_rate(0.1, 'cosine', 0, 10)
  np.testing.assert_allclose([cosine(s) for s in (0, 5, 10)], [0.1, 0.05, 0], atol=1e-8)
  both = optimizers.learning_rate(0.1, 'cosine', 2, 10)
  np.testing.assert_allclose([both(s) for s in (0, 1, 2, 6, 10)], [0, 0.05, 0.1, 0.05, 0], atol=1e-8)
  with pytest.raises(ValueError, match='warm-up of 10 steps leaves none of 10'):
    optimizers.learning_rate(0.1, 'cosine', 10, 10)
  with pytest.raises(ValueError, match="Unknown schedule 'step'"):
    optimizers.learning_rate(0.1, 'step', 0, 10)


def test_clipping_counts_only_what_is_trained():
  section = {'schedule': 'constant', 'warmup_steps': 0, 'clip_norm': 1.0}
  optimiser = optimizers.from_config(section, 10, frozen=('encoder',))
  params = {'encoder': jnp.zeros(2), 'header': jnp.zeros(2)}
  gradient = {'encoder': jnp.full(2, 1e6), 'header': jnp.array([3.0, 4.0])}
  updates, opt_state = optimiser.update(gradient, optimiser.init(params), params)
  np.testing.assert_array_equal(updates['encoder'], [0, 0])
  moments = [leaf for leaf in jax.tree.leaves(opt_state) if jnp.shape(leaf) == (2,)]
  np.testing.assert_allclose(moments[0], [0.06, 0.08], rtol=1e-5)  # a tenth of the gradient at length 1


def test_accumulated_parts_have_the_gradient_of_the_whole():
  """Without batch statistics in training, a batch in parts is the batch at once."""
  keep = optax.GradientTransformation(lambda p: jax.tree.map(jnp.zeros_like, p), lambda g, s, p: (g, g))
  module = tiny_model.TinyLabels(tiny_model.TinyEncoder(4, norm=tiny_model.frozen_norm))
  start = state.create(jax.device_get(tiny_model.variables(module)), keep)
  given = parallel.replicate((tiny_model.prepare(labels=True, sensor_dropout=0.5), np.float32(1)))
  batch = tiny_model.host_batch(5, 16, 1, labels=True)
  results = []
  for parts in (1, 2, 4):
    step = parallel.parallelise(state.train_step(module, keep, accumulate=parts))
    end, metrics = parallel.unreplicate(step(parallel.replicate(start), parallel.shard(batch), *given))
    results.append({'gradient': end.opt_state, 'metrics': metrics})
  for other in results[1:]:
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), results[0], other)


@pytest.mark.parametrize(
  ('objective', 'stage'), [('vae', 'pretrain'), ('contrastive', 'pretrain'), ('none', 'finetune')]
)
def test_bfloat16_arithmetic_keeps_float32_parameters_and_losses(objective, stage):
  config = common.get_config('small')
  config.encoder.width = 8
  config.pretrain.objective = objective
  losses = {}
  for dtype in ('float32', 'bfloat16'):
    config.dtype = dtype
    module = models.build(config, stage)
    example = models.example_inputs(module, 4)
    if dtype == 'float32':
      variables = state.init_variables(module, example, jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (4, *example['images'].shape[1:]))
    batch = {**jax.tree.map(lambda x: jnp.repeat(x, 4, 0), example), 'images': images}
    loss, _ = jax.jit(functools.partial(module.apply, train=False))(variables, batch)
    assert loss.dtype == jnp.float32
    losses[dtype] = np.asarray(loss)
    shapes = state.variable_shapes(module, example)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype('float32')}
  assert (losses['float32'] != losses['bfloat16']).any()
  np.testing.assert_allclose(losses['bfloat16'], losses['float32'], rtol=0.05, atol=0.02)

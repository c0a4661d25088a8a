import dataclasses

import jax
import numpy as np
import optax
import pytest

from deepsentinel.encoders import base
from deepsentinel.train import inputs, optimizers, parallel, rngs, state
from tests.train import tiny_model


def _variables(width, objective=tiny_model.TinyLabels):
  return jax.device_get(tiny_model.variables(objective(tiny_model.TinyEncoder(width))))


def test_transfer_takes_the_encoder_and_nothing_else():
  source, target = _variables(4), _variables(4)
  source['params']['encoder']['conv']['kernel'] = source['params']['encoder']['conv']['kernel'] + 1
  source['batch_stats']['encoder']['norm']['mean'] = source['batch_stats']['encoder']['norm']['mean'] + 2
  out = state.transfer_encoder({**source, 'params': {'encoder': source['params']['encoder']}}, target)
  np.testing.assert_array_equal(
    out['params']['encoder']['conv']['kernel'], source['params']['encoder']['conv']['kernel']
  )
  np.testing.assert_array_equal(out['batch_stats']['encoder']['norm']['mean'], np.full(4, 2))
  np.testing.assert_array_equal(out['params']['header']['kernel'], target['params']['header']['kernel'])


def test_transfer_of_another_width_lists_both():
  with pytest.raises(ValueError) as error:
    state.transfer_encoder(_variables(8), _variables(4))
  assert 'params/conv/kernel (16, 16, 5, 8)' in str(error.value)
  assert 'params/conv/kernel (16, 16, 5, 4)' in str(error.value)
  assert 'batch_stats/norm/mean (8,)' in str(error.value)


def test_transfer_of_other_keys_lists_both():
  source = _variables(4)
  source['params']['encoder']['extra'] = np.zeros(3)
  del source['params']['encoder']['conv']
  with pytest.raises(ValueError) as error:
    state.transfer_encoder(source, _variables(4))
  found, expected = str(error.value).split('expected')
  assert 'params/extra (3,)' in found
  assert 'params/conv/kernel' in expected


def test_frozen_encoder_does_not_move():
  variables = _variables(4)
  optimiser = optimizers.adam(0.1, frozen=('encoder',))
  gradients = jax.tree.map(np.ones_like, variables['params'])
  updates, _ = optimiser.update(gradients, optimiser.init(variables['params']), variables['params'])
  after = optax.apply_updates(variables['params'], updates)
  jax.tree.map(np.testing.assert_array_equal, after['encoder'], variables['params']['encoder'])
  # Adam's first step is the learning rate.
  np.testing.assert_allclose(after['header']['bias'], variables['params']['header']['bias'] - 0.1, rtol=1e-5)


def test_runs_of_another_seed_rate_and_corpus_share_one_compilation():
  """The persistent cache knows a program by its text."""

  def programs(**changes):
    given = dataclasses.replace(tiny_model.prepare(labels=True, sensor_dropout=0.5), **changes)
    section = {'learning_rate': float(given.seed), 'schedule': 'cosine', 'warmup_steps': 2, 'clip_norm': 1.0}
    module = tiny_model.TinyLabels(tiny_model.TinyEncoder(4, norm=parallel.norm))
    optimiser = optimizers.from_config(section, 10)
    start = parallel.replicate(state.create(_variables(4), optimiser))
    prepare, rate = parallel.replicate((given, np.float32(section['learning_rate'])))
    batch = tiny_model.host_batch(0, 4, 1, labels=True)
    train = parallel.parallelise(state.train_step(module, optimiser))
    evaluation = parallel.parallelise(state.eval_step(module, classes=tiny_model.CLASSES))
    masked = parallel.shard({**batch, 'mask': np.ones(4, bool)})
    return (
      train.lower(start, parallel.shard(batch), prepare, rate).as_text(),
      evaluation.lower(start.variables, masked, prepare).as_text(),
    )

  other = {'seed': 7, 'mean': np.full(5, 0.3, np.float32), 'std': np.full(5, 2, np.float32), 'epochs_per_step': 0.25}
  assert programs() == programs(**other)
  assert programs() != programs(sensor_dropout=0.25)  # the text does tell


def test_keys_depend_on_seed_stream_and_step_alone():
  def draw(*arguments):
    return jax.random.bits(rngs.stream_key(*arguments)).item()

  draws = {draw(seed, stream, step) for seed in (0, 1) for stream in ('a', 'b') for step in (0, 1, 2)}
  assert len(draws) == 12
  assert draw(1, 'a', 2) == draw(1, 'a', np.int32(2))
  key = rngs.stream_key(0, 'a', 0)
  whole = jax.random.key_data(rngs.example_keys(key, 0, 8))
  np.testing.assert_array_equal(whole[4:], jax.random.key_data(rngs.example_keys(key, 4, 4)))


@pytest.mark.parametrize('probability', [0.0, 0.3, 1.0])
def test_sensor_dropout(probability):
  bands = tiny_model.SPEC.bands
  present = np.ones((4000, 1, 5), bool)
  present[:100, :, :3] = False  # only radar
  present[100:200, :, 3:] = False  # only optical
  kept = np.asarray(
    inputs.keep_sensors(rngs.example_keys(rngs.stream_key(0, 'x', 0), 0, 4000), present, bands, probability)
  )
  assert kept[:200].all()
  optical, radar = kept[200:, 0, :3], kept[200:, 0, 3:]
  assert (optical == optical[:, :1]).all()
  assert (radar == radar[:, :1]).all()
  assert (optical[:, 0] | radar[:, 0]).all()
  for lost in (~optical[:, 0], ~radar[:, 0]):
    # Four standard deviations of a binomial share.
    assert abs(lost.mean() - probability / 2) <= 4 * np.sqrt(probability / 2 / 3800) + 1e-9


def test_records_that_lack_a_sensor():
  optical = dataclasses.replace(tiny_model.prepare(labels=False), records=tiny_model.SPEC.select(('B2', 'B3', 'B8')))
  batch = tiny_model.host_batch(0, 2, 1, labels=False)
  out = optical({'s2': jax.numpy.asarray(batch['s2'])}, 0, train=False)
  whole = tiny_model.prepare(labels=False)({k: jax.numpy.asarray(v) for k, v in batch.items()}, 0, train=False)
  np.testing.assert_array_equal(out['present'][:, 0], [[True, True, True, False, False]] * 2)
  np.testing.assert_array_equal(out['images'][..., :3], whole['images'][..., :3])
  assert not out['images'][..., 3:].any()


def test_dropped_sensor_is_zero_and_absent():
  batch = tiny_model.host_batch(0, 8, 1, labels=True)
  prepare = tiny_model.prepare(labels=True, sensor_dropout=1.0)
  out = parallel.parallelise(lambda b: prepare(b, 0, train=True, first=parallel.first_example(2)))(
    parallel.shard(batch)
  )
  out = parallel.unshard({key: out[key] for key in ('images', 'present')})
  present = out['present'][:, 0]
  images = np.asarray(base.drop_absent(out['images'][:, 0], present))  # what the encoder sees
  assert (present.sum(-1) < 5).all()
  assert (np.abs(images).max((1, 2))[~present] == 0).all()
  assert (np.abs(images).max((1, 2))[present] > 0).all()
  # An independent standardisation of one band, nodata as the mean.
  raw = batch['s2'][0, 0, ..., 0] / 1e4
  expected = np.where(batch['s2'][0, 0, ..., 0] == 0, 0, (raw - 0.2) / 0.1)
  whole = prepare({k: jax.numpy.asarray(v) for k, v in batch.items()}, 0, train=False)
  np.testing.assert_allclose(whole['images'][0, 0, ..., 0], expected, atol=1e-5)
  assert (np.asarray(whole['labels'])[::2, :16] == -1).all()

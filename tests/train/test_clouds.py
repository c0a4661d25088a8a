"""Clouds over training examples: their shapes and shares, and what they leave alone."""

import dataclasses

import jax
import numpy as np

from deepsentinel.train import clouds, rngs
from tests.train import tiny_model

BANDS = ('B2', 'B8', 'B11', 'B12', 'VV')

_paint = jax.jit(clouds.paint, static_argnums=(2, 3))
_shade = jax.jit(clouds.shade, static_argnums=(2, 3))


def _prepared(prepare, batch, train=True):
  return jax.jit(lambda batch: prepare(batch, 0, train=train))(batch)


def test_masked_cloud():
  keys = rngs.example_keys(rngs.stream_key(0, 'x', 0), 0, 400)
  hidden = np.asarray(clouds.masks(keys, (2, 32, 32), 0.5))
  share = hidden.mean((2, 3))
  some = share > 0
  assert abs(some.mean() - 0.5) < 0.08  # three standard deviations and more
  # Given that there is cloud, its share is uniform; and cloud is in patches: a neighbour is as one is.
  np.testing.assert_allclose(np.quantile(share[some], [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], atol=0.1)
  assert (hidden[..., 1:] == hidden[..., :-1]).mean() > 0.9
  assert not np.asarray(clouds.masks(keys, (2, 32, 32), 0.0)).any()
  np.testing.assert_array_equal(clouds.masks(keys[200:], (2, 32, 32), 0.5), hidden[200:])


def test_masked_cloud_takes_optical_pixels_alone():
  batch = {k: jax.numpy.asarray(v) for k, v in tiny_model.host_batch(0, 8, 1, labels=True).items()}
  plain = _prepared(tiny_model.prepare(labels=True), batch)
  out = _prepared(dataclasses.replace(tiny_model.prepare(labels=True), masked_cloud=1.0), batch)
  lost = np.asarray(plain['valid'] & ~out['valid'])
  assert lost[..., :3].any((1, 2, 3, 4)).mean() > 0.8
  assert not lost[..., 3:].any()
  assert (lost[..., :3] == lost[..., :1]).all() or np.asarray(~plain['valid'][..., :3]).any()
  assert not np.asarray(out['images'])[lost].any()
  np.testing.assert_array_equal(out['present'], np.asarray(out['valid']).any((2, 3)))


def _painted(probability, examples=300, value=0.05):
  keys = rngs.example_keys(rngs.stream_key(0, 'x', 0), 0, examples)
  values = np.full((examples, 1, 32, 32, len(BANDS)), value, np.float32)
  values[..., -1] = -12
  return values, np.asarray(_paint(keys, values, BANDS, probability))


def test_painted_cloud_is_bright_darker_in_the_short_wave_infrared_and_never_over_radar():
  values, painted = _painted(0.6)
  np.testing.assert_array_equal(painted[..., -1], values[..., -1])
  added = (painted - values)[..., :-1]
  some = added.max((1, 2, 3, 4)) > 0
  assert abs(some.mean() - 0.6) < 0.09  # three standard deviations and more
  np.testing.assert_array_equal(added[~some], 0)
  assert painted[..., :2].min() >= 0.05 - 1e-6
  assert painted.max() < 1.6
  # Blue and near infrared alike, the short-wave infrared never brighter, B12 never brighter than B11.
  np.testing.assert_allclose(painted[..., 0], painted[..., 1], rtol=1e-5)
  assert (added[..., 2] <= added[..., 1] + 1e-6).all()
  assert (added[..., 3] <= added[..., 2] + 1e-6).all()


def test_a_third_of_the_painted_views_are_overcast_and_the_others_of_any_share():
  _, painted = _painted(1.0, examples=400)
  share = (painted[..., 0] > 0.051).mean((1, 2, 3))
  # Those whose cloud is smaller than a rim count as overcast only from a share of 1 on.
  assert abs((share > 0.999).mean() - 1 / 3) < 0.06
  np.testing.assert_allclose(np.quantile(share[share < 0.999], [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], atol=0.1)
  # Overcast is thick: what is below shows nowhere, in most of such views.
  _, dark = _painted(1.0, examples=300, value=0.0)
  _, light = _painted(1.0, examples=300, value=0.25)
  seen = np.abs(light - dark)[..., 0].mean((1, 2, 3)) / 0.25
  assert (seen < 0.01).mean() > 0.2


def test_shadow_darkens_less_the_shorter_the_wave_and_never_the_radar():
  keys = rngs.example_keys(rngs.stream_key(0, 'x', 0), 0, 400)
  values = np.full((400, 2, 32, 32, len(BANDS)), 0.2, np.float32)
  values[..., -1] = -12
  left = np.asarray(_shade(keys, values, BANDS, 0.5)) / values
  np.testing.assert_array_equal(left[..., -1], 1)
  blue, infrared, short_wave = left[..., 0], left[..., 1], left[..., 3]
  some = blue.min((2, 3)) < 1
  assert abs(some.mean() - 0.5) < 0.08
  np.testing.assert_array_equal(blue[~some], 1)
  assert blue.min() >= 0.25 - 1e-6  # sky light alone
  assert short_wave.min() < 0.1
  assert (infrared <= blue).all()
  assert (short_wave <= infrared).all()
  share = (blue < 1).mean((2, 3))[some]
  np.testing.assert_allclose(np.quantile(share, [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], atol=0.1)
  np.testing.assert_array_equal(_shade(keys, values, BANDS, 0.0), values)
  np.testing.assert_allclose(_shade(keys[396:], values[396:], BANDS, 0.5), left[396:] * values[396:], rtol=1e-5)
  # In training alone, before standardising.
  batch = {k: jax.numpy.asarray(v) for k, v in tiny_model.host_batch(0, 8, 1, labels=True).items()}
  prepare = tiny_model.prepare(labels=True)
  plain, shaded = (_prepared(dataclasses.replace(prepare, cloud_shadow=p), batch) for p in (0.0, 1.0))
  np.testing.assert_array_equal(plain['valid'], shaded['valid'])
  np.testing.assert_array_equal(plain['images'][..., 3:], shaded['images'][..., 3:])
  assert (np.asarray(shaded['images'] <= plain['images'])[..., :3]).all()
  assert (np.asarray(shaded['images'] < plain['images'])[..., :3].any((1, 2, 3, 4))).all()


def test_painting_is_the_same_for_an_example_in_any_batch():
  keys = rngs.example_keys(rngs.stream_key(0, 'x', 0), 0, 8)
  values = np.random.default_rng(0).uniform(0, 0.4, (8, 2, 16, 16, len(BANDS))).astype(np.float32)
  whole = np.asarray(_paint(keys, values, BANDS, 0.5))
  np.testing.assert_allclose(_paint(keys[4:], values[4:], BANDS, 0.5), whole[4:], rtol=1e-6)
  np.testing.assert_array_equal(_paint(keys, values, BANDS, 0.0), values)


def test_painted_cloud_comes_before_standardising_and_hides_no_pixel():
  batch = {k: jax.numpy.asarray(v) for k, v in tiny_model.host_batch(0, 8, 1, labels=True).items()}
  prepare = tiny_model.prepare(labels=True)
  plain, painted = (_prepared(dataclasses.replace(prepare, painted_cloud=p), batch) for p in (0.0, 1.0))
  np.testing.assert_array_equal(plain['valid'], painted['valid'])
  np.testing.assert_array_equal(plain['images'][..., 3:], painted['images'][..., 3:])
  assert not np.asarray(painted['images'])[~np.asarray(painted['valid'])].any()
  changed = np.asarray(painted['images'] - plain['images'])[..., :3]
  assert (np.abs(changed).max((1, 2, 3, 4)) > 0).all()
  # Only training sees it.
  still = _prepared(dataclasses.replace(prepare, painted_cloud=1.0), batch, False)
  np.testing.assert_array_equal(still['images'], _prepared(prepare, batch, False)['images'])


def test_a_view_that_lost_its_radar_keeps_the_ground():
  batch = {k: jax.numpy.asarray(v) for k, v in tiny_model.host_batch(0, 16, 1, labels=True).items()}
  dropped = dataclasses.replace(tiny_model.prepare(labels=True), sensor_dropout=1.0)
  plain, clouded = (_prepared(dataclasses.replace(dropped, painted_cloud=p, masked_cloud=p), batch) for p in (0.0, 1.0))
  optical_alone = np.asarray(plain['present'][:, 0, 0] & ~plain['present'][:, 0, 3])
  assert 0 < optical_alone.sum() < 16
  for name in ('images', 'valid', 'present'):
    np.testing.assert_array_equal(clouded[name][optical_alone], plain[name][optical_alone])
  assert not np.array_equal(clouded['valid'][~optical_alone], plain['valid'][~optical_alone])

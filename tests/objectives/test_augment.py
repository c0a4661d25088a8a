"""Augmentations: what they keep, what they do by hand, and their curriculum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepsentinel.objectives import augment

RADAR = np.array([False] * 4 + [True] * 2)


def test_the_curriculum_rises_and_stays():
  curriculum = augment.Curriculum()
  epochs = [0, 4.9, 5, 10, 15, 200]
  assert [float(curriculum.strength(e)) for e in epochs] == [0, 0, 0, 0.5, 1, 1]
  assert float(curriculum.at(curriculum.jitter, 10)) == pytest.approx(0.055)
  assert curriculum.shift_law(0.5)(10) == 1
  assert curriculum.shift_law(0.5)(30) == 16
  for hold in (True, False):
    odd = augment.Curriculum(warmup_epochs=1.3, ramp_epochs=2.7, hold=hold, shift_px=(1, 13))
    law = odd.shift_law(0.0371)
    assert [law(step) for step in range(150)] == [float(odd.at(odd.shift_px, step * 0.0371)) for step in range(150)]
  fallen = augment.Curriculum(hold=False)
  assert [float(fallen.strength(e)) for e in epochs] == [0, 0, 0, 0.5, 1, 0]


def test_a_training_that_ends_before_full_strength_is_said(caplog):
  augment.Curriculum().warn_if_short(3.2)
  assert 'ends after 3.2 epochs, with augmentations at 0 % of their strength' in caplog.text
  caplog.clear()
  augment.Curriculum().warn_if_short(15)
  assert not caplog.text


def test_config_lists_become_pairs():
  assert augment.Curriculum.from_config({'jitter': [0.0, 0.5]}).jitter == (0.0, 0.5)


def _view(seed=0, px=6):
  rng = np.random.default_rng(seed)
  optical = rng.uniform(0.02, 0.4, (px, px, 4))
  return np.concatenate([optical, rng.uniform(-25, -5, (px, px, 2))], -1).astype(np.float32)


def _slow_rounds(key, x, jitter, rounds):
  """The rounds one after the other, pixel by pixel, as a person would write them."""
  x = x.astype(np.float64)
  for i in range(rounds):
    pick, *draws = jax.random.split(jax.random.fold_in(key, i), 8)
    amount = [float(jax.random.uniform(k, minval=-1.0, maxval=1.0)) * jitter for k in draws[:6]]
    brightness, contrast, saturation, hue, level, stretch = amount
    three = np.asarray(jax.random.permutation(pick, np.arange(4)))[:3]
    rgb = x[..., three]
    mean = rgb.mean()
    rgb = (1 + brightness) * (mean + (1 + contrast) * (rgb - mean))
    grey = rgb.mean(-1, keepdims=True)
    rgb = grey + (1 + saturation) * (rgb - grey)
    x[..., three] = rgb @ np.asarray(augment.rotation(hue * 2 * np.pi), np.float64).T
    band = int(jax.random.choice(draws[6], np.array([4, 5])))
    mean = x[..., band].mean()
    x[..., band] = mean + (1 + stretch) * (x[..., band] - mean) + level * augment.DB_PER_UNIT
  return x


@pytest.mark.parametrize('rounds', [1, 2, 5])
def test_one_affine_map_equals_the_rounds_in_turn(rounds):
  x, key = _view(), jax.random.key(7)
  matrix, offset = augment.jitter_map(key, x.mean((0, 1)), RADAR, 0.1, rounds, 6)
  np.testing.assert_allclose(x @ np.asarray(matrix).T + offset, _slow_rounds(key, x, 0.1, rounds), atol=2e-4)


def test_rotation_keeps_grey_and_lengths():
  turn = np.asarray(augment.rotation(0.7))
  np.testing.assert_allclose(turn @ np.ones(3), np.ones(3), atol=1e-6)
  np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-6)
  np.testing.assert_allclose(augment.rotation(0.0), np.eye(3), atol=1e-6)


def test_no_jitter_changes_nothing():
  x = _view()[None, None]
  still = augment.Curriculum(jitter=(0.0, 0.0), band_dropout=(0.0, 0.0))
  out, kept = augment.augment(jax.random.split(jax.random.key(0), 1), x, np.ones_like(x, bool), RADAR, still, 0.0)
  np.testing.assert_allclose(out, x, atol=1e-5)
  assert kept.all()


def test_reflectance_stays_reflectance_and_nodata_leaks_nowhere():
  strong = augment.Curriculum(0, 0, jitter=(0.9, 0.9), rounds=(10, 10))
  x = np.stack([_view(i) for i in range(8)])[:, None]
  valid = np.ones_like(x, bool)
  valid[..., :2, :, 0] = False
  keys = jax.random.split(jax.random.key(0), 8)
  out, _ = augment.augment(keys, np.where(valid, x, 0), valid, RADAR, strong, 3.0)
  assert jnp.isfinite(out).all()
  assert (out[..., :4] >= 1e-4).all()
  other, _ = augment.augment(keys, np.where(valid, x, 60000), valid, RADAR, strong, 3.0)
  np.testing.assert_array_equal(np.asarray(out)[valid], np.asarray(other)[valid])
  # The two views of an example are jittered apart, and every example on its own.
  alone, _ = augment.augment(keys[3:4], np.where(valid, x, 0)[3:4], valid[3:4], RADAR, strong, 3.0)
  np.testing.assert_allclose(alone[0], out[3], rtol=1e-5, atol=1e-5)


def test_radar_moves_by_whole_decibels_at_most():
  x, valid = np.full((64, 1, 2, 2, 6), -12.0, np.float32), np.ones((64, 1, 2, 2, 6), bool)
  x[..., :4] = 0.2
  once = augment.Curriculum(0, 0, jitter=(0.1, 0.1), rounds=(1, 1))
  out, _ = augment.augment(jax.random.split(jax.random.key(0), 64), x, valid, RADAR, once, 1.0)
  moved = np.abs(np.asarray(out)[..., 4:] + 12).max((1, 2, 3))
  assert 0.5 < moved.max() <= 1.0
  assert (moved.min(1) == 0).all()  # one polarisation a round


@pytest.mark.parametrize('probability', [0.0, 0.3, 1.0])
def test_band_dropout(probability):
  present = jnp.array([True, True, True, False])
  keys = jax.random.split(jax.random.key(0), 4000)
  kept = np.asarray(jax.vmap(lambda k: augment.keep_bands(k, present, probability))(keys))
  assert (kept & np.asarray(present)).any(1).all()
  dropped = (~kept[:, :3]).mean()
  # A band survives the rescue of the last one: with all dropped, one of three stays.
  expected = probability - probability**3 / 3
  assert abs(dropped - expected) < 4 * np.sqrt(0.25 / 12000)

"""Augmentations of contrastive sensor fusion, as pure functions on the device: jitter, band dropout, their curriculum.

Jitter acts on physical values: reflectance is multiplied and mixed and stays at or above 0; radar is shifted and
stretched in dB. Everything that one draw does to a view is one affine map over its bands, so ten rounds cost one small
matrix product a pixel.
"""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

DB_PER_UNIT = 10.0  # a radar jitter of 0.1 moves up to 1 dB, Sentinel-1's radiometric accuracy


@dataclasses.dataclass(frozen=True)
class Curriculum:
  """Strengths by epoch; each pair holds the value at strength 0 and at strength 1.

  Attributes:
    warmup_epochs: strength is 0 until then.
    ramp_epochs: then rises to 1 in as many, and stays.
    hold: False lets it fall back to 0 after the ramp, as the paper's code did.
    band_dropout: probability that a band of a view is dropped.
    shift_px: furthest that the second crop lies from the first, on either axis.
    jitter: largest relative change of brightness, contrast and saturation, and of hue in turns.
    rounds: how many times bands are picked and jittered.
  """

  warmup_epochs: float = 5.0
  ramp_epochs: float = 10.0
  hold: bool = True
  band_dropout: tuple[float, float] = (0.01, 0.3)
  shift_px: tuple[int, int] = (1, 16)
  jitter: tuple[float, float] = (0.01, 0.1)
  rounds: tuple[int, int] = (1, 10)

  @classmethod
  def from_config(cls, section: Mapping[str, Any]) -> 'Curriculum':
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in section.items()}
    return cls(**fields)

  def strength(self, epoch: Array | float) -> Array:
    """0 to 1 at an epoch (a fraction counts)."""
    risen = jnp.clip((epoch - self.warmup_epochs) / max(self.ramp_epochs, 1e-9), 0, 1)
    over = epoch > self.warmup_epochs + self.ramp_epochs
    return risen if self.hold else jnp.where(over, 0, risen)

  def at(self, pair: tuple[float, float], epoch: Array | float) -> Array:
    """A pair's value at an epoch."""
    return pair[0] + (pair[1] - pair[0]) * self.strength(epoch)

  def warn_if_short(self, epochs: float) -> None:
    """Says so where training of so many epochs ends before the augmentations have their full strength."""
    if epochs < self.warmup_epochs + self.ramp_epochs:
      logging.warning(
        'Pretraining ends after %.3g epochs, with augmentations at %.0f %% of their strength: '
        'config.pretrain.contrastive.augment has warmup_epochs=%g and then ramp_epochs=%g. Train longer, or shorten '
        'them.', epochs, 100 * self.strength(epochs), self.warmup_epochs, self.ramp_epochs,
      )  # fmt: skip

  def shift_law(self, epochs_per_step: float) -> Callable[[int], float]:
    """Furthest shift of the second crop at a step: `at` on the host, where batches are read while the device works."""
    least, most = self.shift_px

    def law(step: int) -> float:
      epoch = step * epochs_per_step
      risen = np.float32(np.clip((epoch - self.warmup_epochs) / max(self.ramp_epochs, 1e-9), 0, 1))
      if not self.hold and epoch > self.warmup_epochs + self.ramp_epochs:
        risen = np.float32(0)
      return float(np.float32(least) + np.float32(most - least) * risen)

    return law


def augment(
  keys: Array, values: Array, valid: Array, radar: np.ndarray, curriculum: Curriculum, epoch: Array | float
) -> tuple[Array, Array]:
  """Jitters views and drops bands of them.

  Args:
    keys: PRNG keys [B].
    values: f32[B, V, H, W, C], reflectance or dB.
    valid: bool[B, V, H, W, C]; the values elsewhere mean nothing and come back unchanged or changed, as it happens.
    radar: bool[C], which bands are in dB.
    curriculum, epoch: how strong.
  Returns:
    values f32[B, V, H, W, C]; kept bool[B, V, C], False for a dropped band. Every view keeps a valid band that it had.
  """
  views = values.shape[1]
  view_keys = jax.vmap(lambda key: jax.random.split(key, views))(keys)  # [B, V]
  one = jax.vmap(jax.vmap(lambda k, x, v: _augment_view(k, x, v, radar, curriculum, epoch)))
  return one(view_keys, values, valid)


def _augment_view(key, values, valid, radar, curriculum, epoch):
  jitter_key, drop_key = jax.random.split(key)
  count = valid.sum((0, 1))
  mean = jnp.where(valid, values, 0).sum((0, 1)) / jnp.maximum(count, 1)
  matrix, offset = jitter_map(
    jitter_key, mean, radar, curriculum.at(curriculum.jitter, epoch), curriculum.at(curriculum.rounds, epoch),
    max(curriculum.rounds),
  )  # fmt: skip
  # A band without a measurement at a pixel must not leak into the others: its mean stands in for it.
  jittered = jnp.where(valid, values, mean) @ matrix.T + offset
  # Reflectance is never negative; 1e-4 is the smallest that is stored.
  jittered = jnp.where(radar, jittered, jnp.maximum(jittered, 1e-4))
  return jittered, keep_bands(drop_key, count > 0, curriculum.at(curriculum.band_dropout, epoch))


def jitter_map(
  key: Array, mean: Array, radar: np.ndarray, jitter: Array | float, rounds: Array | float, most_rounds: int
) -> tuple[Array, Array]:
  """The affine map over bands of some rounds of jitter.

  A round takes three optical bands and one of radar at random. Of the optical ones it changes brightness (a factor),
  contrast (the distance from the view's mean over the three), saturation (the distance of each band from their pixel's
  mean) and hue (a turn of the three about the grey axis); of the radar band brightness (dB added) and contrast (the
  distance from the view's mean, in dB).

  Args:
    key: PRNG key.
    mean: f32[C], of the view.
    radar: bool[C], host values.
    jitter: largest change.
    rounds: how many, rounded; at most `most_rounds`.
    most_rounds: host number.
  Returns:
    matrix f32[C, C], offset f32[C]: x [..., C] becomes x @ matrix.T + offset.
  """
  bands = len(radar)
  optical, sar = np.flatnonzero(~radar), np.flatnonzero(radar)
  eye = jnp.eye(bands)

  def one_round(i, state):
    matrix, offset, mean = state
    pick, *draws = jax.random.split(jax.random.fold_in(key, i), 8)
    brightness, contrast, saturation, hue, level, stretch = (
      jax.random.uniform(k, minval=-1.0, maxval=1.0) * jitter for k in draws[:6]
    )
    a, b = eye, jnp.zeros(bands)
    if len(optical):
      a, b = _optical_round(pick, optical, mean, 1 + brightness, 1 + contrast, 1 + saturation, hue)
    if len(sar):
      one = jnp.zeros(bands).at[jax.random.choice(draws[6], sar)].set(1.0)
      a = a * (1 - one)[:, None] + jnp.diag(one * (1 + stretch))
      b = b * (1 - one) + one * (level * DB_PER_UNIT - stretch * mean)
    active = i < jnp.round(rounds)
    a, b = jnp.where(active, a, eye), jnp.where(active, b, 0)
    return a @ matrix, a @ offset + b, a @ mean + b

  matrix, offset, _ = jax.lax.fori_loop(0, most_rounds, one_round, (eye, jnp.zeros(bands), mean))
  return matrix, offset


def _optical_round(key, optical, mean, brightness, contrast, saturation, hue) -> tuple[Array, Array]:
  """One round's affine map, matrix f32[C, C] and offset f32[C], for up to three optical bands; the rest stays."""
  bands = len(mean)
  three = jax.random.permutation(key, optical)[:3]
  picked = jnp.zeros(bands).at[three].set(1.0)
  own = jnp.diag(picked)
  grey = jnp.outer(picked, picked) / len(three)  # the mean of the picked bands, for each of them
  turn = own
  if len(three) == 3:
    turn = jnp.zeros((bands, bands)).at[three[:, None], three[None, :]].set(rotation(hue * 2 * np.pi))
  # b (m + c (x - m)), then g + s (x - g), then the turn
  colour = turn @ (grey + saturation * (own - grey))
  matrix = jnp.eye(bands) - own + brightness * contrast * colour
  return matrix, brightness * (1 - contrast) * colour @ grey @ mean


def rotation(angle: Array | float) -> Array:
  """f32[3, 3]: rotation by radians about the grey axis (1, 1, 1), which keeps the sum of the three (Rodrigues)."""
  grey = jnp.full((3, 3), 1 / 3)
  cross = jnp.array([[0, -1.0, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3.0)
  return jnp.cos(angle) * (jnp.eye(3) - grey) + jnp.sin(angle) * cross + grey


def keep_bands(key: Array, present: Array, probability: Array | float) -> Array:
  """bool [C]: bands kept when each is dropped with a probability; of those present, at least one is kept."""
  chance = jax.random.uniform(key, present.shape)
  survivor = jnp.argmax(jnp.where(present, chance, -1))
  return (chance >= probability) | (jnp.arange(len(present)) == survivor)

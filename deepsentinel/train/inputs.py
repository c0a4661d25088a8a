"""From a batch of stored integers to an objective's batch, on the device and inside the step."""

import functools
from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from deepsentinel import sensors
from deepsentinel.encoders.standardise import physical, standardise
from deepsentinel.objectives import augment
from deepsentinel.train import clouds, rngs


def _fixed(**options) -> Any:
  return flax.struct.field(pytree_node=False, **options)


class Prepare(flax.struct.PyTreeNode):
  """Converts, augments, standardises, drops sensors and looks labels up.

  Give it to a compiled function as an argument: its numbers are then no constants of the program, and runs that differ
  in seed, statistics or number of patches alone share one compilation.

  Attributes:
    records: contract of the records that the batches come from.
    bands: the model's bands, in order.
    mean, std: f32[C], in reflectance or dB, of `standardise.checked`.
    seed: of the experiment.
    sensor_dropout: probability that a view of an example loses one whole sensor, in training.
    masked_cloud: probability that a view loses the optical pixels of a part in the shape of cloud, in training; of
      those alone that sensor dropout left their radar.
    painted_cloud: probability that cloud is painted over a part of a view's optical bands, likewise.
    cloud_shadow: probability that the shadow of clouds darkens a part of a view's optical bands, in training.
    curriculum: jitter and band dropout in training; None does without.
    epochs_per_step: what the curriculum counts in.
    label_field: of the records; '' without labels.
    label_lookup: int32 [stored value] -> class or -1.
    shown: bands of the records that the model gets to see; empty: all.
  """

  records: sensors.SensorSpec = _fixed()
  bands: tuple[str, ...] = _fixed()
  mean: ArrayLike
  std: ArrayLike
  seed: ArrayLike
  sensor_dropout: float = _fixed(default=0.0)
  masked_cloud: float = _fixed(default=0.0)
  painted_cloud: float = _fixed(default=0.0)
  cloud_shadow: float = _fixed(default=0.0)
  curriculum: augment.Curriculum | None = _fixed(default=None)
  epochs_per_step: ArrayLike = 0.0
  label_field: str = _fixed(default='')
  label_lookup: ArrayLike | None = None
  shown: tuple[str, ...] = _fixed(default=())

  def __call__(
    self, batch: dict[str, jax.Array], step: jax.Array, *, train: bool, first: jax.Array | int = 0
  ) -> dict[str, jax.Array]:
    """The objective's batch.

    Args:
      batch: stored integers; with `label_field` also labels [B, H, W], or [B] of scenes.
      step: of the run.
      train: whether to augment and to drop sensors.
      first: number in the global batch of the first example of `batch`.
    Returns:
      images f32[B, V, H, W, C], valid bool[B, V, H, W, C], present bool[B, V, C], with labels int32[B, H, W] or
      [B]; in training also example int32[B], numbers in the global batch, and key [B], a PRNG key for each.
    """
    values, valid = self._physical(batch)
    # [B, V, H, W, C] -> [B, V, C]: a band without one valid pixel is absent
    present = valid.any(axis=(2, 3))
    inputs = {}
    if train:
      keys = functools.partial(self._keys, step, first, len(values))
      inputs = {'example': first + jnp.arange(len(values)), 'key': keys('objective')}
      if self.curriculum is not None:
        values, kept = augment.augment(
          keys('augment'), values, valid, radar_bands(self.bands), self.curriculum, step * self.epochs_per_step
        )
        present &= kept
      radar, kept = radar_bands(self.bands), present
      if self.sensor_dropout > 0:
        kept = present & keep_sensors(keys('sensor_dropout'), present, self.bands, self.sensor_dropout)
      # A view that lost its radar is left the ground to look at: of cloud alone it would learn nothing.
      open_sky = (present & ~kept & radar).any(-1)[:, :, None, None]
      present = kept
      if self.cloud_shadow > 0:
        values = clouds.shade(keys('cloud_shadow'), values, self.bands, self.cloud_shadow)
      if self.painted_cloud > 0:
        painted = clouds.paint(keys('painted_cloud'), values, self.bands, self.painted_cloud)
        values = jnp.where(open_sky[..., None], values, painted)
      if self.masked_cloud > 0:
        hidden = clouds.masks(keys('masked_cloud'), valid.shape[1:4], self.masked_cloud) & ~open_sky
        valid &= ~hidden[..., None] | radar
        present &= valid.any(axis=(2, 3))
    images = standardise(values, valid, self.mean, self.std)
    inputs |= {'images': images, 'valid': valid, 'present': present}
    if self.label_lookup is not None and self.label_field in batch:
      inputs['labels'] = jnp.asarray(self.label_lookup)[batch[self.label_field].astype(jnp.int32)]
    return inputs

  def _keys(self, step: jax.Array, first: jax.Array | int, examples: int, stream: str) -> jax.Array:
    return rngs.example_keys(rngs.stream_key(self.seed, stream, step), first, examples)

  def _physical(self, batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """All of the model's bands; one not there or not shown (allowed by `SensorSpec.require` alone) is invalid."""
    held = [i for i, band in enumerate(self.bands) if band in (self.shown or self.records.bands)]
    values, valid = physical(batch, self.records, [self.bands[i] for i in held])
    if len(held) == len(self.bands):
      return values, valid
    shape = (*values.shape[:-1], len(self.bands))
    where = np.asarray(held)
    return jnp.zeros(shape).at[..., where].set(values), jnp.zeros(shape, bool).at[..., where].set(valid)


@jax.jit
def as_stored(prepare: Prepare, batch: Mapping[str, ArrayLike]) -> dict[str, jax.Array]:
  """The objective's batch of stored integers, nothing augmented; compiled once for all statistics."""
  return prepare(dict(batch), jnp.zeros((), jnp.int32), train=False)


def radar_bands(bands: tuple[str, ...]) -> np.ndarray:
  """bool [C]: which bands are Sentinel-1's."""
  return np.array([sensors.BANDS[band].sensor == 'sentinel1' for band in bands])


def keep_sensors(keys: jax.Array, present: jax.Array, bands: tuple[str, ...], probability: float) -> jax.Array:
  """Which bands survive sensor dropout: with `probability` a view loses one sensor, either with equal chance.

  Args:
    keys: PRNG keys [B].
    present: bool [B, V, C]; a view that has only one sensor keeps it.
  Returns:
    bool [B, V, C].
  """
  radar = radar_bands(bands)
  if radar.all() or not radar.any():
    return jnp.ones_like(present)
  has_both = (present & radar).any(-1) & (present & ~radar).any(-1)
  uniform = jax.vmap(lambda key: jax.random.uniform(key, (present.shape[1],)))(keys)
  # One draw decides both: below p/2 the radar goes, from p/2 to p the optical bands.
  lose_radar = has_both & (uniform < probability / 2)
  lose_optical = has_both & (uniform >= probability / 2) & (uniform < probability)
  return ~((lose_radar[..., None] & radar) | (lose_optical[..., None] & ~radar))

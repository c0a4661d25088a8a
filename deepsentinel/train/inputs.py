"""From a batch of stored integers to an objective's batch, on the device and inside the step."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from deepsentinel import sensors
from deepsentinel.encoders.standardise import standardise
from deepsentinel.train import parallel, rngs


@dataclasses.dataclass(frozen=True)
class Prepare:
  """Standardises, drops sensors and looks labels up.

  Attributes:
    records: contract of the records that the batches come from.
    bands: the model's bands, in order.
    mean, std: per band, in reflectance or dB.
    seed: of the experiment.
    sensor_dropout: probability that a view of an example loses one whole sensor, in training.
    label_lookup: int32 [256] stored CORINE index -> class or -1; None without labels.
  """

  records: sensors.SensorSpec
  bands: tuple[str, ...]
  mean: tuple[float, ...]
  std: tuple[float, ...]
  seed: int
  sensor_dropout: float = 0.0
  label_lookup: np.ndarray | None = None

  def __call__(self, batch: dict[str, jax.Array], step: jax.Array, *, train: bool) -> dict[str, jax.Array]:
    """The objective's batch: images f32[B, V, H, W, C], present bool[B, V, C], with labels int32[B, H, W]."""
    images, valid = self._standardised(batch)
    # [B, V, H, W, C] -> [B, V, C]: a band without one valid pixel is absent
    present = valid.any(axis=(2, 3))
    if train and self.sensor_dropout > 0:
      keys = rngs.example_keys(
        rngs.stream_key(self.seed, 'sensor_dropout', step), parallel.first_example(images.shape[0]), images.shape[0]
      )
      kept = keep_sensors(keys, present, self.bands, self.sensor_dropout)
      present &= kept
      images = jnp.where(kept[:, :, None, None, :], images, 0)
    inputs = {'images': images, 'present': present}
    if self.label_lookup is not None and 'corine' in batch:
      inputs['labels'] = jnp.asarray(self.label_lookup)[batch['corine'].astype(jnp.int32)]
    return inputs

  def _standardised(self, batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """All of the model's bands; one that the records lack (allowed by `SensorSpec.require` alone) is invalid."""
    held = [i for i, band in enumerate(self.bands) if band in self.records.bands]
    bands = [self.bands[i] for i in held]
    mean, std = [self.mean[i] for i in held], [self.std[i] for i in held]
    images, valid = standardise(batch, self.records, bands, mean, std)
    if len(held) == len(self.bands):
      return images, valid
    shape = (*images.shape[:-1], len(self.bands))
    where = np.asarray(held)
    return jnp.zeros(shape).at[..., where].set(images), jnp.zeros(shape, bool).at[..., where].set(valid)


def keep_sensors(keys: jax.Array, present: jax.Array, bands: tuple[str, ...], probability: float) -> jax.Array:
  """Which bands survive sensor dropout: with `probability` a view loses one sensor, either with equal chance.

  Args:
    keys: PRNG keys [B].
    present: bool [B, V, C]; a view that has only one sensor keeps it.
  Returns:
    bool [B, V, C].
  """
  radar = np.array([sensors.BANDS[band].sensor == 'sentinel1' for band in bands])
  if radar.all() or not radar.any():
    return jnp.ones_like(present)
  has_both = (present & radar).any(-1) & (present & ~radar).any(-1)
  uniform = jax.vmap(lambda key: jax.random.uniform(key, (present.shape[1],)))(keys)
  # One draw decides both: below p/2 the radar goes, from p/2 to p the optical bands.
  lose_radar = has_both & (uniform < probability / 2)
  lose_optical = has_both & (uniform >= probability / 2) & (uniform < probability)
  return ~((lose_radar[..., None] & radar) | (lose_optical[..., None] & ~radar))

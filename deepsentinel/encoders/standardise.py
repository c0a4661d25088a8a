"""Stored integers to physical values and to standardised channels, on the device."""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from deepsentinel import sensors


def physical(batch: Mapping[str, Array], spec_records: sensors.SensorSpec, bands: Sequence[str]) -> tuple[Array, Array]:
  """Stored integers as reflectance (0 to 1) and dB.

  Args:
    batch: 's2' uint16[B, V, H, W, C2] and 's1' int16[B, V, H, W, C1] in storage units (`sensors`), as the records hold
      them; a sensor of which `bands` names none may be absent.
    spec_records: the contract of the records.
    bands: C names, Sentinel-2 before Sentinel-1, all held by the records.
  Returns:
    values f32[B, V, H, W, C], meaningless where not valid; valid bool[B, V, H, W, C].
  Raises:
    ValueError: a band the records lack.
  """
  s2_index, s1_index = spec_records.indices(bands)
  values, valid = [], []
  for field, index, scale, nodata in (
    ('s2', s2_index, sensors.S2_SCALE, sensors.S2_NODATA),
    ('s1', s1_index, sensors.S1_SCALE, sensors.S1_NODATA),
  ):
    if index:
      stored = batch[field]
      if tuple(index) != tuple(range(stored.shape[-1])):  # or a gather would copy all bands of it
        stored = stored[..., np.asarray(index)]
      values.append(stored.astype(jnp.float32) / scale)
      valid.append(stored != nodata)
  return jnp.concatenate(values, -1), jnp.concatenate(valid, -1)


def standardise(values: Array, valid: Array, mean: ArrayLike, std: ArrayLike) -> Array:
  """Channels with mean 0 and standard deviation 1, invalid pixels 0; to be called inside a jitted step.

  Standardising comes before zero-filling, so that 'missing' means 'mean'.

  Args:
    values, valid: [B, V, H, W, C] of `physical`.
    mean, std: f32[C], reflectance (0 to 1) or dB, of `checked`.
  Returns:
    images f32[B, V, H, W, C].
  """
  return jnp.where(valid, (values - jnp.asarray(mean)) / jnp.asarray(std), 0)


def checked(bands: Sequence[str], mean: Sequence[float], std: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
  """Statistics that can be standardised by.

  Args:
    bands: C names.
    mean, std: float[C], reflectance (0 to 1) or dB.
  Returns:
    both as f32[C].
  Raises:
    ValueError: statistics of another length, or a deviation that is not positive.
  """
  means, stds = np.asarray(mean, np.float32), np.asarray(std, np.float32)
  if means.shape != (len(bands),) or stds.shape != (len(bands),):
    raise ValueError(
      f'{len(bands)} bands need as many means and deviations; found {means.shape} and {stds.shape}. '
      'Select the statistics of the same bands (BandStatistics.select).'
    )
  bad = [b for b, m, s in zip(bands, means, stds, strict=True) if not (np.isfinite(m) and np.isfinite(s) and s > 0)]
  if bad:
    raise ValueError(
      f'Band(s) {bad} have no finite mean or no positive standard deviation: the corpus holds no valid or only '
      'constant pixels of them. Leave them out with --config.data.bands=...'
    )
  return means, stds

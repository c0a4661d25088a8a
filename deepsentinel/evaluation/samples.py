"""samples.npz: a few test patches with their label and prediction, for the report's picture panel."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from deepsentinel import provenance, sensors

TRUE_COLOUR = ('B4', 'B3', 'B2')
RADAR = ('VV', 'VH')
_FIELDS = {'s2': ('uint16', 3), 's1': ('int16', 2), 'label': ('int16', 0), 'prediction': ('int16', 0)}


def choose(count: int, total: int) -> np.ndarray:
  """int64 [min(count, total)]: record numbers evenly spread over `total`, the same for every run on that split."""
  if count <= 0 or total <= 0:
    return np.zeros(0, np.int64)
  return np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(np.int64))


def picture_bands(spec: sensors.SensorSpec, s2: np.ndarray | None, s1: np.ndarray | None) -> tuple:
  """The picture's bands of stored pixels: (uint16 [N, H, W, 3] B4, B3, B2 or None, int16 [N, H, W, 2] VV, VH or None).

  A sensor that `spec` lacks, or has without one of these bands, gives None.
  """
  pictures = []
  for pixels, bands, held in ((s2, TRUE_COLOUR, spec.s2_bands), (s1, RADAR, spec.s1_bands)):
    whole = pixels is not None and set(bands) <= set(held)
    pictures.append(np.asarray(pixels)[..., [held.index(b) for b in bands]] if whole else None)
  return tuple(pictures)


def save_samples(
  path: str | os.PathLike,
  *,
  s2: np.ndarray | None,
  s1: np.ndarray | None,
  label: np.ndarray,
  prediction: np.ndarray,
  id: Sequence[str],
) -> None:
  """Writes samples.npz, whole or not at all.

  Args:
    path: the file to write.
    s2: uint16 [N, H, W, 3], stored B4, B3, B2; None where there is no optical sensor (kept as nodata).
    s1: int16 [N, H, W, 2], stored VV, VH; None where there is no radar (kept as nodata).
    label: [N, H, W] class numbers of the level scored, -1 ignored.
    prediction: [N, H, W] class numbers.
    id: N patch ids.
  Raises:
    ValueError: an array of another shape or type.
  """
  label = np.asarray(label)
  if label.ndim != 3:
    raise ValueError(f'Sample labels are [N, H, W]; found shape {label.shape}.')
  if s2 is None:
    s2 = np.full((*label.shape, 3), sensors.S2_NODATA, np.uint16)
  if s1 is None:
    s1 = np.full((*label.shape, 2), sensors.S1_NODATA, np.int16)
  arrays: dict[str, Any] = {
    's2': np.asarray(s2),
    's1': np.asarray(s1),
    'label': label,
    'prediction': np.asarray(prediction),
  }
  for name, (dtype, channels) in _FIELDS.items():
    expected = (*label.shape, channels) if channels else label.shape
    if arrays[name].shape != expected:
      raise ValueError(f'Sample field {name!r} has shape {arrays[name].shape}; labels ask for {expected}.')
    if channels and arrays[name].dtype != dtype:
      raise ValueError(f'Sample field {name!r} is {arrays[name].dtype}; stored pixels are {dtype}.')
    arrays[name] = arrays[name].astype(dtype)
  if len(id) != len(label):
    raise ValueError(f'{len(id)} ids for {len(label)} samples.')
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  provenance.write_npz(path, {'id': np.asarray(id, dtype=str), **arrays})


def load_samples(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """The arrays that `save_samples` wrote, by name; ValueError names a field that is missing."""
  with np.load(path, allow_pickle=False) as file:
    missing = [name for name in (*_FIELDS, 'id') if name not in file]
    if missing:
      raise ValueError(f'{path} holds no {", ".join(missing)}; run the experiment again to write it anew.')
    return {name: file[name] for name in (*_FIELDS, 'id')}

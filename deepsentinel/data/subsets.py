"""Which patches a run may use together: nested fractions of them, spatial folds, and regions."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from deepsentinel.data import distances, neighbours


def nested_order(dominant: np.ndarray, seed: int) -> np.ndarray:
  """An order of patches whose every beginning holds the classes in about the shares of the whole.

  So the first n are a stratified subset, and a smaller subset is part of every larger one.

  Args:
    dominant: integer [N], the class that covers most of each patch, -1 where nothing is labelled.
    seed: of the draw; the same for every method that is compared.
  Returns:
    int64 [N], patch numbers.
  """
  rng = neighbours.generator(seed, 'label_fraction')
  position = np.zeros(len(dominant))
  for k in np.unique(dominant):
    members = np.flatnonzero(dominant == k)
    # The i-th of n members stands at (i + u) / n: every class is spread evenly over the whole order.
    position[rng.permutation(members)] = (np.arange(len(members)) + rng.random()) / len(members)
  return np.argsort(position, kind='stable')


def first_share(order: np.ndarray, fraction: float) -> np.ndarray:
  """int64 [n]: the first `fraction` of an order, at least one patch, in ascending numbers."""
  return np.sort(order[: max(1, round(fraction * len(order)))])


def regions(lon_deg: np.ndarray, lat_deg: np.ndarray, count: int) -> tuple[np.ndarray, ...]:
  """Cuts points into equally many parts of places that lie together: stretches of a Hilbert curve over the globe.

  Args:
    lon_deg, lat_deg: float64 [N], WGS84.
    count: parts, at most N.
  Returns:
    `count` arrays of point numbers, int64, ascending; their lengths differ by one at most.
  Raises:
    ValueError: fewer points than parts.
  """
  if not 1 <= count <= len(lon_deg):
    raise ValueError(f'{len(lon_deg)} patches cannot be cut into {count} regions; allowed are 1 to {len(lon_deg)}.')
  import geopandas

  points = geopandas.GeoSeries.from_xy(lon_deg, lat_deg, crs='EPSG:4326')
  along = points.hilbert_distance(total_bounds=(-180, -90, 180, 90)).to_numpy()
  return tuple(np.sort(part) for part in np.array_split(np.argsort(along, kind='stable'), count))


@dataclasses.dataclass(frozen=True)
class Fold:
  """One fold of a cross-validation: record numbers to train on and to validate on."""

  train: np.ndarray
  validation: np.ndarray


def spatial_folds(table: pd.DataFrame, fold_of: np.ndarray, buffer_km: float) -> list[Fold]:
  """What each fold trains and validates on; near a fold's patches none are trained on.

  Args:
    table: 'lon_deg' and 'lat_deg' of N patches.
    fold_of: integer [N], the fold that validates on each, numbered from 0.
    buffer_km: how near to a validation patch none is trained on.
  Raises:
    ValueError: a fold that leaves nothing to train on.
  """
  folds = int(fold_of.max()) + 1
  lon, lat = table[['lon_deg', 'lat_deg']].to_numpy().T
  made = []
  for k in range(folds):
    held = fold_of == k
    keep = ~held & distances.exclude_near(lon, lat, lon[held], lat[held], buffer_km)
    if not keep.any():
      raise ValueError(
        f'Fold {k} of config.finetune.folds={folds} leaves no patch to train on that is {buffer_km} km from its own. '
        'Pass more folds, a smaller --config.pretrain.exclude_km (which keeps folds apart too), or use a corpus that '
        'covers more ground.'
      )
    made.append(Fold(np.flatnonzero(keep), np.flatnonzero(held)))
  return made


class Joined:
  """Several splits of one prepared directory read as one record set, one after the other."""

  def __init__(self, sets: Sequence[Any]):
    self.sets = list(sets)
    first = self.sets[0]
    self.directory, self.card, self.spec, self.fields = first.directory, first.card, first.spec, first.fields
    self.patch_px, self.labelled, self.synthetic = first.patch_px, first.labelled, first.synthetic
    self.split = '+'.join(s.split for s in self.sets)
    self.table = pd.concat([s.table for s in self.sets], ignore_index=True)
    self._ends = np.cumsum([len(s) for s in self.sets])

  def __len__(self) -> int:
    return int(self._ends[-1])

  def read(self, field: str, index: Sequence[int] | np.ndarray) -> np.ndarray:
    """As `RecordSet.read`."""
    zeros = np.zeros(len(index), np.int64)
    return self.read_crops(field, index, zeros, zeros, self.patch_px)

  def read_crops(self, field: str, index, row, col, crop_px: int) -> np.ndarray:
    """As `RecordSet.read_crops`."""
    index, row, col = (np.asarray(v) for v in (index, row, col))
    tensor = self.fields[field]
    out = np.empty((len(index), crop_px, crop_px, *tensor.shape[2:]), tensor.dtype)
    owner = np.searchsorted(self._ends, index, side='right')
    for i, part in enumerate(self.sets):
      mine = np.flatnonzero(owner == i)
      if len(mine):
        start = self._ends[i] - len(part)
        out[mine] = part.read_crops(field, index[mine] - start, row[mine], col[mine], crop_px)
    return out

"""Cells of 16 x 16 pixels: the grid of an encoder's feature map, and what labels and bands say of each.

The cells of a patch lie on one grid whatever crop an encoder was trained on, so that every method is asked about the
same ground. Where 16 does not divide the patch, the grid lies in its middle and the margin is left out.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
import tqdm

from deepsentinel import legend, sensors
from deepsentinel.data import neighbours

CELL_PX = 16  # the stride of every encoder
_CHUNK_PX = 1 << 20


@dataclasses.dataclass(frozen=True)
class CellGrid:
  """The cells of every patch of a record set.

  Attributes:
    patch_px: edge of a patch.
    per_patch: cells looked at of each patch, drawn by its number; 0: all.
  """

  patch_px: int
  per_patch: int = 0

  def __post_init__(self):
    if self.patch_px < CELL_PX:
      raise ValueError(f'Patches of {self.patch_px} px hold no cell of {CELL_PX} px; use patches of at least that.')

  @property
  def side(self) -> int:
    """Cells along an edge."""
    return self.patch_px // CELL_PX

  @property
  def count(self) -> int:
    """P, the cells looked at of each patch."""
    return min(self.per_patch or self.side**2, self.side**2)

  @property
  def first_px(self) -> int:
    """Where the first cell begins, from the patch's edge."""
    return self.patch_px % CELL_PX // 2

  def chosen(self, number: int) -> np.ndarray:
    """int64 [P]: which cells of the side x side are looked at, ascending; the same for every method."""
    drawn = neighbours.generator(0, 'cells', int(number)).permutation(self.side**2)[: self.count]
    return np.sort(drawn)

  def take(self, maps: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """The chosen cells [B, P, ...] of maps [B, side, side, ...] of the patches `numbers`."""
    flat = maps.reshape(len(maps), self.side**2, *maps.shape[3:])
    return np.stack([flat[i, self.chosen(n)] for i, n in enumerate(numbers)])

  def split(self, pixels: np.ndarray) -> np.ndarray:
    """Pixels [B, patch_px, patch_px, ...] as [B, side, side, 256, ...], without the margin."""
    own = slice(self.first_px, self.first_px + self.side * CELL_PX)
    inner = pixels[:, own, own]
    shape = (len(pixels), self.side, CELL_PX, self.side, CELL_PX, *pixels.shape[3:])
    parts = np.swapaxes(inner.reshape(shape), 2, 3)  # [B, side, side, 16, 16, ...]
    return parts.reshape(len(pixels), self.side, self.side, CELL_PX**2, *pixels.shape[3:])


@dataclasses.dataclass(frozen=True)
class PerPlace:
  """Something of every patch [N, ...] and of its chosen cells [N, P, ...]."""

  patch: np.ndarray
  cell: np.ndarray


def chunks(records, text: str, progress: bool) -> Iterator[np.ndarray]:
  """Record numbers in groups of a few patches, under a progress bar that counts patches."""
  size = max(1, _CHUNK_PX // records.patch_px**2)
  with tqdm.tqdm(total=len(records), desc=text, unit='patch', leave=False, disable=not progress) as bar:
    for start in range(0, len(records), size):
      numbers = np.arange(start, min(start + size, len(records)))
      yield numbers
      bar.update(len(numbers))


def counted(label: np.ndarray, classes: int) -> np.ndarray:
  """int64 [..., K]: how often each class stands in the last axis of `label` [..., M]; negative counts nowhere."""
  return np.stack([(label == k).sum(-1) for k in range(classes)], -1)


def class_counts(records, grid: CellGrid, target: legend.Target, *, progress: bool = True) -> PerPlace:
  """Labelled pixels per class of every patch, int64 [N, K], and of its chosen cells, int64 [N, P, K]."""
  patch, cell, classes = [], [], len(target.classes)
  for numbers in chunks(records, f'Counting labels of {records.split}', progress):
    label = target.lookup[records.read(target.field, numbers)]
    patch.append(counted(label.reshape(len(label), -1), classes))
    cell.append(grid.take(counted(grid.split(label), classes), numbers))
  return PerPlace(np.concatenate(patch), np.concatenate(cell))


def majority(counts: np.ndarray) -> np.ndarray:
  """int64 [...]: the class of most pixels of counts [..., K], the first of several; -1 where none is labelled."""
  return np.where(counts.any(-1), counts.argmax(-1), -1)


def band_statistics(records, grid: CellGrid, bands: tuple[str, ...] = (), *, progress: bool = True) -> PerPlace:
  """Mean and standard deviation of every band over valid pixels: what an embedding has to beat.

  Args:
    records: of N patches.
    grid: of their cells.
    bands: C names; all that the records hold where empty.
  Returns:
    float32 [N, 2 C] and [N, P, 2 C], reflectance and dB; NaN where no pixel of a band is valid.
  """
  patch, cell = [], []
  for numbers in chunks(records, f'Band statistics of {records.split}', progress):
    pixels = physical(records, numbers, bands or records.spec.bands)  # [B, px, px, C]
    patch.append(_moments(pixels.reshape(len(pixels), -1, pixels.shape[-1])))
    cell.append(grid.take(_moments(grid.split(pixels)), numbers))
  return PerPlace(np.concatenate(patch), np.concatenate(cell))


def physical(records, numbers: np.ndarray, bands: tuple[str, ...]) -> np.ndarray:
  """float32 [B, px, px, C]: reflectance and dB of whole patches, NaN for nodata."""
  parts = []
  for field, index, scale, nodata in zip(
    ('s2', 's1'), records.spec.indices(bands), (sensors.S2_SCALE, sensors.S1_SCALE),
    (sensors.S2_NODATA, sensors.S1_NODATA), strict=True,
  ):  # fmt: skip
    if index:
      stored = records.read(field, numbers)[..., index]
      parts.append(np.where(stored == nodata, np.float32(np.nan), stored / np.float32(scale)))
  return np.concatenate(parts, -1)


def _moments(pixels: np.ndarray) -> np.ndarray:
  """Mean and standard deviation over the axis before the last, NaN pixels left out: [..., M, C] -> [..., 2 C]."""
  valid = ~np.isnan(pixels)
  count = valid.sum(-2)
  some = np.maximum(count, 1)
  mean = np.where(valid, pixels, 0).sum(-2, dtype=np.float64) / some
  spread = np.where(valid, pixels - mean[..., None, :], 0).astype(np.float64)
  std = np.sqrt((spread**2).sum(-2) / some)
  moments = np.concatenate([np.where(count > 0, v, np.nan) for v in (mean, std)], -1)
  return moments.astype(np.float32)

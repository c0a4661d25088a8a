"""Features of every patch and of its cells, computed once: kept on this machine under the checkpoint and the records.

A part of a few hundred patches is written as soon as it is done, so that a killed command loses no more than one.
"""

import hashlib
import json
import pathlib
import zipfile

import numpy as np
import tqdm

from deepsentinel import provenance
from deepsentinel.data import batches, stores
from deepsentinel.evaluation import cells, frozen

_FORMAT = 1
_PART = 128  # patches


def default_cache() -> pathlib.Path:
  """Where features are kept."""
  return stores.cache() / 'features'


def encode(
  encoder: frozen.Frozen,
  records,
  grid: cells.CellGrid,
  *,
  cache: pathlib.Path | None = None,
  batch_size: int = 32,
  progress: bool = True,
) -> cells.PerPlace:
  """Features of every patch, the mean over all its cells, and of its chosen cells.

  Args:
    encoder: whose features.
    records: a RecordSet, or anything with its `spec`, `fields`, `read_crops`, `split` and `fingerprint`.
    grid: of their cells.
    cache: folder to keep features in, and to take them from; None keeps nothing.
    batch_size: crops at a time.
    progress: show a progress bar.
  Returns:
    float32 [N, F] and [N, P, F].
  Raises:
    ValueError: the encoder was not trained for these bands, or its features are not finite.
  """
  features = encoder.open(records.spec)
  folder = None
  if cache is not None:
    about = {
      'format': _FORMAT, 'encoder': encoder.key, 'name': encoder.name, 'crop_px': encoder.crop_px,
      'records': records.fingerprint, 'split': records.split, 'patch_px': grid.patch_px, 'per_patch': grid.count,
    }  # fmt: skip
    named = json.dumps({k: v for k, v in about.items() if k != 'name'}, sort_keys=True)
    folder = cache / hashlib.sha256(named.encode()).hexdigest()[:24]
    folder.mkdir(parents=True, exist_ok=True)
    provenance.write_json(folder / 'about.json', about)
  parts = []
  with tqdm.tqdm(
    total=len(records), desc=f'{encoder.name}: {records.split}', unit=' patches', leave=False, disable=not progress
  ) as bar:
    for start in range(0, len(records), _PART):
      numbers = np.arange(start, min(start + _PART, len(records)))
      path = None if folder is None else folder / f'part_{start:07d}.npz'
      part = _kept(path, len(numbers))
      if part is None:
        maps = _maps(features, encoder.crop_px, records, grid, numbers, batch_size)
        if not np.isfinite(maps).all():
          raise ValueError(f'{encoder.name} gives features that are not finite on split {records.split!r}.')
        part = cells.PerPlace(maps.mean((1, 2)), grid.take(maps, numbers))
        if path is not None:
          with provenance.whole(path) as file:
            np.savez(file, patch=part.patch, cell=part.cell)
      parts.append(part)
      bar.update(len(numbers))
  return cells.PerPlace(np.concatenate([p.patch for p in parts]), np.concatenate([p.cell for p in parts]))


def of_patches(encoder: frozen.Frozen, records, numbers: np.ndarray, *, batch_size: int = 32) -> np.ndarray:
  """Features of some patches, the mean over all their cells: float32 [N, F], in the order of `numbers`.

  ValueError: the encoder was not trained for these bands.
  """
  grid = cells.CellGrid(records.patch_px)
  return _maps(encoder.open(records.spec), encoder.crop_px, records, grid, numbers, batch_size).mean((1, 2))


def _kept(path: pathlib.Path | None, patches: int) -> cells.PerPlace | None:
  """A part that was written before; None where there is none, or it is damaged."""
  if path is None or not path.exists():
    return None
  try:
    with np.load(path, allow_pickle=False) as file:
      part = cells.PerPlace(file['patch'], file['cell'])
  except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
    return None
  return part if len(part.patch) == len(part.cell) == patches else None


def _maps(
  features: frozen.FeatureMap, crop_px: int, records, grid: cells.CellGrid, numbers: np.ndarray, batch_size: int
) -> np.ndarray:
  """float32 [B, side, side, F] of whole patches, put together from crops on the grid's cells."""
  crop = min(crop_px // cells.CELL_PX, grid.side)  # cells
  starts, _ = batches.tiling(grid.side, crop)
  wanted = [(i, r, c) for i in range(len(numbers)) for r in starts for c in starts]
  fields = [field for field in ('s2', 's1') if field in records.fields]
  maps = None
  for begin in range(0, len(wanted), batch_size):
    own = np.array(wanted[begin : begin + batch_size])
    padded = own[np.arange(batch_size) % len(own)]  # of one shape, so that one compilation does
    row, col = (grid.first_px + cells.CELL_PX * padded[:, axis] for axis in (1, 2))
    stored = {f: records.read_crops(f, numbers[padded[:, 0]], row, col, crop * cells.CELL_PX)[:, None] for f in fields}
    found = features(stored)[: len(own)]
    if maps is None:
      maps = np.zeros((len(numbers), grid.side, grid.side, found.shape[-1]), np.float32)
    for (i, r, c), cell in zip(own, found, strict=True):
      maps[i, r : r + crop, c : c + crop] = cell
  assert maps is not None  # there is no part without a patch
  return maps

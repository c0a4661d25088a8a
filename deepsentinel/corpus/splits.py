"""Train, validation and test by blocks of land, so that no test patch has a neighbour in training."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.spatial

from deepsentinel import legend
from deepsentinel.sources import base

SPLITS = ('train', 'validation', 'test')
SHARED = 'shared'  # in every split at once
BUFFER = 'buffer'
# Equal-area grids: Europe's own, and a cylindrical one for the rest. Within its bounds the European one is used, so
# that a block there is a square; elsewhere a block is a rectangle of the same area.
_EUROPE_CRS = 3035
_EUROPE = (-35.58, 24.6, 44.83, 84.73)  # the area of use of EPSG:3035: west, south, east, north
_ELSEWHERE_CRS = 6933
_STREAM = 0x5917
# Which of two patches too close to each other stays: the held-out one, and test before validation.
_PRECEDENCE = {'test': 0, 'validation': 1, 'train': 2}
_EARTH_RADIUS_KM = 6371.0


def block_numbers(lon_deg: np.ndarray, lat_deg: np.ndarray, block_km: float) -> np.ndarray:
  """int64 [N]: which block each point lies in, numbered 0 to K-1 in order of (CRS, column, row)."""
  lon, lat = np.asarray(lon_deg, np.float64), np.asarray(lat_deg, np.float64)
  west, south, east, north = _EUROPE
  europe = (lon >= west) & (lon <= east) & (lat >= south) & (lat <= north)
  cells = np.zeros((len(lon), 3), np.int64)
  for crs, rows in ((_EUROPE_CRS, europe), (_ELSEWHERE_CRS, ~europe)):
    x, y = base.transformer(4326, crs).transform(lon[rows], lat[rows])
    cells[rows] = np.column_stack(
      [np.full(len(x), crs), np.floor(x / (1000 * block_km)), np.floor(y / (1000 * block_km))]
    )
  return np.unique(cells, axis=0, return_inverse=True)[1].reshape(-1)


def assign(
  block: np.ndarray, shares: dict[str, float], seed: int, counts: np.ndarray | None = None, draws: int = 1
) -> np.ndarray:
  """Object [N]: the split of each patch, whole blocks at a time, `shares` counted in patches.

  Blocks are taken in an order drawn by the seed; each goes to the split that lacks most of its patches. A split with
  a share that came away empty gets the smallest block of the split that has most. Blocks differ, and a small split
  holds few: of `draws` such orders the one counts whose splits are most alike (R's blockCV balances its folds so).

  Args:
    block: int [N], of `block_numbers`.
    shares: split -> share of the patches.
    seed: of the run.
    counts: float [N, K], what of each class a patch holds; alike are splits with the same class shares. None: the
      first order counts.
    draws: orders to choose from.
  """
  names = list(shares)
  numbers, member, size = np.unique(block, return_inverse=True, return_counts=True)
  target = np.array([shares[name] for name in names]) * len(block)
  content = None
  if counts is not None and np.any(counts) and draws > 1:
    content = np.zeros((len(numbers), counts.shape[1]))
    np.add.at(content, member.reshape(-1), counts)
  rng = np.random.default_rng([seed, _STREAM])
  drawn = [_in_order(rng.permutation(len(numbers)), size, target) for _ in range(1 if content is None else draws)]
  owner = drawn[0] if content is None else min(drawn, key=lambda o: _unlikeness(o, size, target, content))
  return np.array(names, object)[owner[member.reshape(-1)]]


def _in_order(order: np.ndarray, size: np.ndarray, target: np.ndarray) -> np.ndarray:
  """int64 [blocks]: the split that each block goes to when they are taken in this order."""
  filled = np.zeros(len(target))
  owner = np.zeros(len(size), np.int64)
  for i in order:
    owner[i] = np.argmax(target - filled)
    filled[owner[i]] += size[i]
  for k in np.argsort(-target, kind='stable'):
    richest = np.bincount(owner, minlength=len(target)).argmax()
    if target[k] > 0 and not (owner == k).any() and (owner == richest).sum() > 1:
      mine = np.flatnonzero(owner == richest)
      owner[mine[np.argmin(size[mine])]] = k
  return owner


def _unlikeness(owner: np.ndarray, size: np.ndarray, target: np.ndarray, content: np.ndarray) -> float:
  """How far the splits are from the whole: in class shares (total variation) and in patches, summed over splits."""
  whole = content.sum(0) / content.sum()
  cost = 0.0
  for k in np.flatnonzero(target):
    own = content[owner == k].sum(0)
    cost += 0.5 * np.abs(own / own.sum() - whole).sum() if own.any() else 1.0
    cost += abs(size[owner == k].sum() - target[k]) / size.sum()
  return cost


def class_counts(rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
  """int64 [N, K] of manifest rows: the pixels of each level-1 class, or in a corpus of scenes which one a patch is."""
  scene = np.array([row.get('scene', 0) for row in rows], np.int64)
  if scene.any():
    return (scene[:, None] == np.unique(scene)).astype(np.int64)
  columns = [f'{name}_px' for name in legend.LEVEL1_NAMES]
  return np.array([[row[name] for name in columns] for row in rows], np.int64).reshape(-1, len(columns))


def close_pairs(lon_deg: np.ndarray, lat_deg: np.ndarray, within_km: float) -> np.ndarray:
  """int64 [M, 2]: pairs of points whose geodesic distance is below `within_km`."""
  lon, lat = np.radians(np.asarray(lon_deg, np.float64)), np.radians(np.asarray(lat_deg, np.float64))
  xyz = np.column_stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])
  # The ellipsoid is at most 0.6 % smaller than this sphere on a short distance.
  pairs = scipy.spatial.cKDTree(xyz).query_pairs(1.02 * within_km / _EARTH_RADIUS_KM, output_type='ndarray')
  if not len(pairs):
    return pairs.reshape(0, 2)
  a, b = np.degrees(np.column_stack([lon, lat]))[pairs].transpose(1, 0, 2)
  distance_m = base.GEOD.inv(a[:, 0], a[:, 1], b[:, 0], b[:, 1])[2]
  return pairs[distance_m < 1000 * within_km]


def drop_buffer(split: np.ndarray, lon_deg: np.ndarray, lat_deg: np.ndarray, buffer_km: float) -> np.ndarray:
  """The splits with 'buffer' in place of every patch that lies within `buffer_km` of a held-out one of another split.

  Of train and held-out the train patch goes; of validation and test the validation patch.
  """
  split = np.asarray(split, object).copy()
  rank = np.array([_PRECEDENCE[s] for s in split])
  pairs = close_pairs(lon_deg, lat_deg, buffer_km)
  # Validation first: a validation patch that goes spares the train patches around it.
  for loser in ('validation', 'train'):
    for a, b in ((pairs[:, 0], pairs[:, 1]), (pairs[:, 1], pairs[:, 0])):
      split[a[(split[a] == loser) & (rank[b] < rank[a]) & (split[b] != BUFFER)]] = BUFFER
  return split


def split_patches(
  lon_deg: np.ndarray,
  lat_deg: np.ndarray,
  *,
  method: str,
  block_km: float,
  buffer_km: float,
  shares: dict[str, float],
  seed: int,
  counts: np.ndarray | None = None,
  draws: int = 1,
) -> np.ndarray:
  """The split of every patch.

  Args:
    lon_deg, lat_deg: float64 [N], patch centres, WGS84.
    method: 'blocks', squares of `block_km` (EPSG:3035 in Europe, EPSG:6933 elsewhere) as wholes, and a dropped buffer
      between splits; 'random', patch by patch without a buffer (for comparison: neighbours leak); 'none', all train;
      'shared', every patch in every split (a trial of the chain on too few patches to split: its scores mean nothing).
    buffer_km: least distance of centres between different splits. 3.7 km is above the diagonal of a 2.56 km patch.
    shares: 'train', 'validation', 'test' -> share of the patches, before the buffer is dropped.
    seed: of the run.
    counts, draws: of `assign`: as many orders of the blocks are drawn, and the one is taken whose splits hold the
      classes most alike.
  Returns:
    object [N]: 'train', 'validation', 'test', 'buffer' or 'shared'.
  """
  n = len(lon_deg)
  if method in ('none', SHARED) or not n:
    return np.full(n, 'train' if method == 'none' else SHARED, object)
  if method == 'random':
    return assign(np.arange(n), shares, seed)
  split = assign(block_numbers(lon_deg, lat_deg, block_km), shares, seed, counts, draws)
  return drop_buffer(split, lon_deg, lat_deg, buffer_km)


def summary(manifest: pd.DataFrame) -> str:
  """Patches of every split with their level-1 class shares, or the scenes they are of; warns of an empty split."""
  done = manifest[manifest['state'] == 'done']
  scenes = legend.SCENES if 'scene' in done and done['scene'].any() else ()
  columns = [f'{name}_px' for name in legend.LEVEL1_NAMES]
  with_classes = all(c in done for c in columns) and (not scenes or bool(done[columns].to_numpy().any()))
  lines = [f'{"split":<12}{"patches":>8}' + ''.join(f'{n:>13}' for n in legend.LEVEL1_NAMES if with_classes)]
  lines[0] += ''.join(f'{name:>13}' for name in scenes)
  whole = (done['split'] == SHARED).any()
  for name in (SHARED,) if whole else (*SPLITS, BUFFER):
    rows = done[done['split'] == name]
    line = f'{name:<12}{len(rows):>8}'
    if with_classes:
      pixels = rows[columns].to_numpy(np.float64).sum(0)
      line += ''.join(f'{100 * p:>11.1f} %' if p == p else f'{"-":>13}' for p in pixels / (pixels.sum() or np.nan))
    lines.append(line + ''.join(f'{(rows["scene"] == k).sum():>13}' for k, _ in enumerate(scenes, start=1)))
    if not len(rows) and name in ('validation', 'test'):
      logging.warning('The %s split is empty. A smaller split.block_km gives more blocks to choose from.', name)
  return '\n'.join(lines)

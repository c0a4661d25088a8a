"""Pixel windows of a UTM zone: aligned blocks, and the places of their pixels without a projection per pixel."""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

from deepsentinel.sources import base
from deepsentinel.sources.syntheticearth.lattice import Points

PIXEL_M = 10
_NODE_PX = 128  # a cubic through nodes 1,280 m apart places a pixel to within a micrometre
_COARSE_PX = 6  # a 60 m pixel: blocks hold whole ones
BLOCK_PX = 264


@dataclasses.dataclass(frozen=True)
class Block:
  """A window of 10 m pixels counted from the zone's origin: column to the east, row to the south."""

  epsg: int
  row: int
  col: int
  height: int
  width: int

  @property
  def rows(self) -> np.ndarray:
    return np.arange(self.row, self.row + self.height)

  @property
  def cols(self) -> np.ndarray:
    return np.arange(self.col, self.col + self.width)


def is_native(grid: base.PatchGrid) -> bool:
  """Whether the grid's pixels are pixels of the zone's own 10 m grid."""
  return (
    (32601 <= grid.epsg <= 32660 or 32701 <= grid.epsg <= 32760)
    and grid.pixel_m == PIXEL_M
    and grid.x0_m % PIXEL_M == 0
    and grid.y0_m % PIXEL_M == 0
  )


def block_of(grid: base.PatchGrid) -> Block:
  """The grid as a block; `grid` must be native."""
  return Block(grid.epsg, round(-grid.y0_m / PIXEL_M), round(grid.x0_m / PIXEL_M), grid.height_px, grid.width_px)


def padded(block: Block) -> Block:
  """The block with at least one pixel of margin, on whole 60 m pixels."""
  top = (block.row - 1) // _COARSE_PX * _COARSE_PX
  left = (block.col - 1) // _COARSE_PX * _COARSE_PX
  bottom = -(-(block.row + block.height + 1) // _COARSE_PX) * _COARSE_PX
  right = -(-(block.col + block.width + 1) // _COARSE_PX) * _COARSE_PX
  return Block(block.epsg, top, left, bottom - top, right - left)


def split(window: Block) -> Iterator[Block]:
  """The window in pieces small enough for the processor's cache; a patch is one piece."""
  if max(window.height, window.width) <= BLOCK_PX:
    yield window
    return
  step = BLOCK_PX // 12 * 12
  for row in range(0, window.height, step):
    for col in range(0, window.width, step):
      yield Block(
        window.epsg, window.row + row, window.col + col, min(step, window.height - row), min(step, window.width - col)
      )


def _cubic(first: int, count: int) -> tuple[int, np.ndarray, list[np.ndarray]]:
  """Pixels first..first+count-1: (first node, node offset [count], four Lagrange weights [count])."""
  x = (np.arange(first, first + count) + 0.5) / _NODE_PX
  cell = np.floor(x).astype(np.int64)
  t = x - cell
  weights = [
    -t * (t - 1) * (t - 2) / 6,
    (t + 1) * (t - 1) * (t - 2) / 2,
    -(t + 1) * t * (t - 2) / 2,
    (t + 1) * t * (t - 1) / 6,
  ]
  low = int(cell[0]) - 1
  return low, cell - 1 - low, weights


def interpolated(block: Block, function: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
  """A very smooth field of place, float64 [K, H, W], from nodes tied to the zone.

  Args:
    block: of pixels.
    function: (longitude [M], latitude [M]) at nodes -> [K, M]. Longitudes are unwrapped about the zone.
  """
  top, down, row_weights = _cubic(block.row, block.height)
  left, across, col_weights = _cubic(block.col, block.width)
  node_rows = np.arange(top, top + int(down[-1]) + 4)
  node_cols = np.arange(left, left + int(across[-1]) + 4)
  x, y = np.meshgrid(node_cols * (_NODE_PX * PIXEL_M), -node_rows * (_NODE_PX * PIXEL_M))
  lon, lat = base.transformer(block.epsg, 4326).transform(x.ravel(), y.ravel())
  middle = (block.epsg % 100) * 6 - 183
  lon = middle + (np.asarray(lon) - middle + 180) % 360 - 180
  values = np.asarray(function(lon, np.asarray(lat))).reshape(-1, len(node_rows), len(node_cols))
  wide = sum(values[:, :, across + k] * w for k, w in enumerate(col_weights))
  return sum(wide[:, down + k, :] * w[:, None] for k, w in enumerate(row_weights))


def points_of(block: Block) -> Points:
  """Places of the block's pixel centres, row by row."""
  lon, lat = interpolated(block, lambda lon, lat: np.stack([lon, lat]))
  return Points.of(lon, lat)

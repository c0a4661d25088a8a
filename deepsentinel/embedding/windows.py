"""Which windows the encoder sees of an area, and which cells of each are kept: integers only.

Cells lie on one lattice that starts at the area's upper-left corner, whatever the window. A window holds the kept cells
and a margin on every side. The encoder runs on windows; pixels are read by tiles of several windows, so that small
windows do not read everything four times; a strip, one row of tiles, is the unit of resuming.
"""

import dataclasses
import math

import numpy as np

_TILE_CELLS = 32  # kept cells a side of a tile, about
_BATCH_PIXELS = 1 << 20  # pixels in the encoder at once, where a window is not larger


@dataclasses.dataclass(frozen=True)
class Layout:
  """Attributes, all in cells but the first.

  Attributes:
    stride: pixels a side of a cell.
    rows, cols: of the area.
    window: side of a window, margins included.
    margin: dropped on each side of a window.
    per_side: windows a side of a tile.
  """

  stride: int
  rows: int
  cols: int
  window: int
  margin: int
  per_side: int

  @property
  def kept(self) -> int:
    return self.window - 2 * self.margin

  @property
  def tile(self) -> int:
    return self.kept * self.per_side

  @property
  def strips(self) -> int:
    return -(-self.rows // self.tile)

  @property
  def tiles_a_strip(self) -> int:
    return -(-self.cols // self.tile)

  @property
  def window_px(self) -> int:
    return self.window * self.stride

  @property
  def read_px(self) -> int:
    """Side of what is read for a tile: its kept cells and the margin around them."""
    return (self.tile + 2 * self.margin) * self.stride

  @property
  def batch(self) -> int:
    """Windows in the encoder at once."""
    return max(1, min(self.per_side**2, _BATCH_PIXELS // self.window_px**2))

  def strip_rows(self, strip: int) -> tuple[int, int]:
    """First row of a strip and the one after its last."""
    return strip * self.tile, min((strip + 1) * self.tile, self.rows)

  def tile_cols(self, number: int) -> tuple[int, int]:
    return number * self.tile, min((number + 1) * self.tile, self.cols)

  def read_origin_px(self, strip: int, number: int) -> tuple[int, int]:
    """(row, col) of the pixel of the area where the reading of a tile starts; negative beyond the area's edge."""
    return (strip * self.tile - self.margin) * self.stride, (number * self.tile - self.margin) * self.stride

  def cut(self, pixels: np.ndarray) -> np.ndarray:
    """A tile's pixels [read_px, read_px, C] as its windows [per_side ** 2, window_px, window_px, C]."""
    step = self.kept * self.stride
    at = [i * step for i in range(self.per_side)]
    return np.stack([pixels[r : r + self.window_px, c : c + self.window_px] for r in at for c in at])

  def join(self, windows: np.ndarray, scale: int = 1) -> np.ndarray:
    """The kept centres of a tile's windows [per_side ** 2, s, s, ...] as one array; `scale` values a cell's side."""
    n, m, k = self.per_side, self.margin * scale, self.kept * scale
    centres = windows[:, m : m + k, m : m + k]
    # [n * n, k, k, ...] -> [n, n, k, k, ...] -> [n, k, n, k, ...] -> [n * k, n * k, ...]
    grid = centres.reshape(n, n, *centres.shape[1:]).swapaxes(1, 2)
    return grid.reshape(n * k, n * k, *centres.shape[3:])


def plan(
  height_px: int, width_px: int, *, stride: int, reach_px: int | None, crop_px: int, window_px: int = 0
) -> Layout:
  """The windows of an area.

  Args:
    height_px, width_px: of the area; a last cell that it covers in part is kept.
    stride: pixels a side of a cell.
    reach_px: how far beyond a cell's own pixels the model looks, or None for all of its window (attention).
    crop_px: the crop the model was trained on.
    window_px: side of a window; 0 chooses. Where `reach_px` is a number it changes speed and memory, not the result;
      with attention it is how far the model looks, and 0 takes the training crop.
  Raises:
    ValueError: a window that the model cannot use; says which it can.
  """
  rows, cols = math.ceil(height_px / stride), math.ceil(width_px / stride)
  if reach_px is None:
    window = (window_px or crop_px) // stride
    if window < 1:
      raise ValueError(f'A window of {window_px or crop_px} px is smaller than one cell of {stride} px.')
    if window_px % stride:
      raise ValueError(
        f'--window_px must be a multiple of {stride}; found {window_px}; leave the flag out for the training crop, '
        f'{crop_px // stride * stride} px.'
      )
    # Half of each window overlaps the next one: only the centre is kept.
    margin = min(math.ceil(window / 4), (window - 1) // 2)
    kept = window - 2 * margin
    return Layout(stride, rows, cols, window, margin, max(1, min(_TILE_CELLS // kept, -(-max(rows, cols) // kept))))
  margin = math.ceil(reach_px / stride)
  if window_px:
    window = window_px // stride
    if window_px % stride or window <= 2 * margin:
      raise ValueError(
        f'--window_px must be a multiple of {stride} and hold the margins of {margin * stride} px on either side: at '
        f'least {(2 * margin + 1) * stride}; found {window_px}.'
      )
  else:
    # Four margins wide inside: the margins cost little more than the kept pixels. No wider than the area.
    window = 2 * margin + min(max(4 * margin, 8), max(rows, cols))
  return Layout(stride, rows, cols, window, margin, 1)

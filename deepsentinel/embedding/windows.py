"""Which windows the encoder sees of an area, and what is kept of each: integers, and the weights where windows overlap.

Cells lie on one lattice that starts at the area's upper-left corner, whatever the window. An encoder that looks a fixed
way beyond a cell sees windows with that margin, of which the centre is kept: that is exact. One that looks at all its
window, however large, sees windows of the training crop that overlap by half and are blended, so that no border shows.
The encoder runs on windows; pixels are read by tiles of several windows; a strip, one row of tiles, is the unit of
resuming.
"""

import dataclasses
import math

import numpy as np

from deepsentinel.encoders.attention import raised_cosine

_TILE_PX = 512  # side of a tile of several windows, about
_MOST_KEPT = 64  # cells a side that are kept of a window: what bounds memory
_PART = 4  # cells
_BATCH_SIDE_PX = 1 << 10
_BATCH_PIXELS = _BATCH_SIDE_PX**2  # pixels in the encoder at once, where a window is not larger


@dataclasses.dataclass(frozen=True)
class Layout:
  """Attributes, all in cells but the first.

  Attributes:
    stride: pixels a side of a cell.
    rows, cols: of the area.
    window: side of a window.
    step: from one window to the next.
    lead: how far before its tile the first window begins.
    steps: steps a side of a tile.
    blend: windows are averaged where they overlap; False keeps the centre of each.
  """

  stride: int
  rows: int
  cols: int
  window: int
  step: int
  lead: int
  steps: int
  blend: bool = False

  @property
  def tile(self) -> int:
    return self.step * self.steps

  @property
  def per_side(self) -> int:
    """Windows a side of a tile; blended ones reach into it from before its edge."""
    return self.steps + (1 if self.blend and self.lead else 0)

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
    """Side of what is read for a tile: all of its windows."""
    return ((self.per_side - 1) * self.step + self.window) * self.stride

  @property
  def tile_px(self) -> slice:
    """The tile's own pixels, rows as well as columns, of what is read for it."""
    return slice(self.lead * self.stride, (self.lead + self.tile) * self.stride)

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
    return (strip * self.tile - self.lead) * self.stride, (number * self.tile - self.lead) * self.stride

  def cut(self, pixels: np.ndarray) -> np.ndarray:
    """A tile's pixels [read_px, read_px, ...] as its windows [per_side ** 2, window_px, window_px, ...]."""
    at = [i * self.step * self.stride for i in range(self.per_side)]
    return np.stack([pixels[r : r + self.window_px, c : c + self.window_px] for r in at for c in at])

  def join(self, windows: np.ndarray, scale: int = 1) -> np.ndarray:
    """A tile's windows [per_side ** 2, s, s, ...] as one array [tile * scale, ...]; `scale` values a cell's side."""
    return self._blended(windows, scale) if self.blend else self._centres(windows, scale)

  def _centres(self, windows: np.ndarray, scale: int) -> np.ndarray:
    n, m, k = self.per_side, self.lead * scale, self.step * scale
    centres = windows[:, m : m + k, m : m + k]
    # [n * n, k, k, ...] -> [n, n, k, k, ...] -> [n, k, n, k, ...] -> [n * k, n * k, ...]
    grid = centres.reshape(n, n, *centres.shape[1:]).swapaxes(1, 2)
    return grid.reshape(n * k, n * k, *centres.shape[3:])

  def _blended(self, windows: np.ndarray, scale: int) -> np.ndarray:
    side = ((self.per_side - 1) * self.step + self.window) * scale
    starts = [i * self.step * scale for i in range(self.per_side)]
    weight = raised_cosine(self.window * scale)
    total = np.zeros(side, np.float32)
    for at in starts:
      total[at : at + len(weight)] += weight
    # [w, w, 1, ...]: the same for every channel
    plane = (weight[:, None] * weight).reshape(len(weight), len(weight), *(1,) * (windows.ndim - 3))
    out = np.zeros((side, side, *windows.shape[3:]), np.float32)
    for window, (row, col) in zip(windows, ((r, c) for r in starts for c in starts), strict=True):
      out[row : row + len(weight), col : col + len(weight)] += window * plane
    kept = slice(self.lead * scale, (self.lead + self.tile) * scale)
    total = total[kept]
    return out[kept, kept] / (total[:, None] * total).reshape(len(total), len(total), *plane.shape[2:])


def plan(
  height_px: int,
  width_px: int,
  *,
  stride: int,
  reach_px: int | None,
  crop_px: int,
  window_px: int = 0,
  lattice_px: int = 0,
) -> Layout:
  """The windows of an area.

  Args:
    height_px, width_px: of the area; a last cell that it covers in part is kept.
    stride: pixels a side of a cell.
    reach_px: how far beyond a cell's own pixels the model looks, or None for all of its window (attention).
    crop_px: the crop the model was trained on.
    window_px: side of a window; 0 chooses. Where `reach_px` is a number it changes speed and memory, not the result;
      with attention it is how far the model looks, and 0 takes the training crop.
    lattice_px: windows begin at multiples of it, as the model needs it; 0 takes the stride.
  Raises:
    ValueError: a window that the model cannot use; says which it can.
  """
  rows, cols = math.ceil(height_px / stride), math.ceil(width_px / stride)
  if reach_px is None:
    window = whole_cells(window_px, crop_px, stride)
    step = math.ceil(window / 2)
    steps = max(1, min(_TILE_PX // (step * stride), -(-max(rows, cols) // step)))
    return Layout(stride, rows, cols, window, step, step if window > step else 0, steps, blend=True)
  align = max(lattice_px // stride, 1)
  margin = align * math.ceil(reach_px / stride / align)
  if window_px:
    window = window_px // stride
    if window_px % (stride * align) or window <= 2 * margin:
      raise ValueError(
        f'--window_px must be a multiple of {stride * align} and hold the margins of {margin * stride} px on either '
        f'side: at least {(2 * margin + align) * stride}; found {window_px}.'
      )
  else:
    # The wider inside, the less the margins cost. An area is parted about equally, so that the last windows are not
    # empty, and into few sizes, for each of which the encoder is compiled.
    most = min(max(4 * margin, _BATCH_SIDE_PX // stride - 2 * margin, 8), _MOST_KEPT)
    longest = max(rows, cols)
    parts = math.ceil(longest / most)
    kept = longest if parts == 1 else min(_PART * math.ceil(longest / parts / _PART), most)
    window = 2 * margin + align * math.ceil(kept / align)
  return Layout(stride, rows, cols, window, window - 2 * margin, margin, 1)


def plan_patches(height_px: int, width_px: int, *, stride: int, crop_px: int, window_px: int = 0) -> Layout:
  """Patches side by side, each encoded by itself as a training crop is: here a cell is a whole patch.

  Args:
    height_px, width_px: of the area; a last patch that it covers in part is kept.
    stride: of the encoder; a patch has whole cells of it.
    crop_px: the crop the model was trained on, and the patch where `window_px` is 0.
    window_px: side of a patch.
  Raises:
    ValueError: a patch that the model cannot use; says which it can.
  """
  side = whole_cells(window_px, crop_px, stride) * stride
  rows, cols = math.ceil(height_px / side), math.ceil(width_px / side)
  return Layout(side, rows, cols, 1, 1, 0, max(1, min(_TILE_PX // side, max(rows, cols))))


def whole_cells(window_px: int, crop_px: int, stride: int) -> int:
  """Cells a side of a window of `window_px`, or where that is 0 of the training crop; ValueError if it has none."""
  window = (window_px or crop_px) // stride
  if window < 1:
    raise ValueError(f'A window of {window_px or crop_px} px is smaller than one cell of {stride} px.')
  if window_px % stride:
    raise ValueError(
      f'--window_px must be a multiple of {stride}; found {window_px}; leave the flag out for the training crop, '
      f'{crop_px // stride * stride} px.'
    )
  return window

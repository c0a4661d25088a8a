import numpy as np
import pytest

from deepsentinel.sources import base
from deepsentinel.sources.syntheticearth import windows


@pytest.mark.parametrize(
  ('epsg', 'x', 'y'),
  [
    (32632, 600_000, 5_800_000),
    (32601, 170_000, 100_000),  # west of the antimeridian
    (32660, 830_000, 7_000_000),  # east of it
    (32721, 500_000, 6_200_000),
    (32736, 300_000, 9_999_000),  # across the equator, in the southern zone
    (32633, 450_000, 8_700_000),  # Svalbard
    (32631, 166_100, 0),  # zone border on the equator
  ],
)
def test_pixel_centres_are_those_of_the_projection(epsg, x, y):
  grid = base.PatchGrid(epsg, float(x), float(y), 300, 170)
  points = windows.points_of(windows.block_of(grid))
  lon, lat = grid.pixel_centres_lonlat()
  east = (points.lon - lon.ravel() + 180) % 360 - 180
  assert np.abs(east * np.cos(np.radians(points.lat))).max() < 1e-9  # a tenth of a millimetre
  assert np.abs(points.lat - lat.ravel()).max() < 1e-9


def test_split_covers_a_window_once():
  window = windows.Block(32632, 1001, 77, 700, 530)
  seen = np.zeros((700, 530), int)
  for part in windows.split(window):
    assert max(part.height, part.width) <= windows.BLOCK_PX
    seen[part.row - 1001 : part.row - 1001 + part.height, part.col - 77 : part.col - 77 + part.width] += 1
  assert (seen == 1).all()


@pytest.mark.parametrize('row', [-7, -6, 0, 1, 5, 6])
def test_padding_leaves_a_pixel_on_whole_60_m_pixels(row):
  block = windows.Block(32632, row, row + 3, 20, 31)
  wide = windows.padded(block)
  assert wide.row < block.row
  assert wide.col < block.col
  assert wide.row + wide.height > block.row + block.height
  assert wide.col + wide.width > block.col + block.width
  assert [v % 6 for v in (wide.row, wide.col, wide.height, wide.width)] == [0, 0, 0, 0]


def test_native_grids():
  grid = base.PatchGrid(32632, 600_000.0, 5_800_000.0, 8, 8)
  assert windows.is_native(grid)
  assert not windows.is_native(base.PatchGrid(32632, 600_005.0, 5_800_000.0, 8, 8))
  assert not windows.is_native(base.PatchGrid(32632, 600_000.0, 5_800_000.0, 8, 8, 20.0))
  assert not windows.is_native(base.PatchGrid(3035, 600_000.0, 5_800_000.0, 8, 8))

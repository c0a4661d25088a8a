"""Cells of a patch: the grid, what is labelled in a cell, and its bands."""

import numpy as np
import pytest

from deepsentinel import legend, sensors
from deepsentinel.evaluation import cells
from tests.data import memory_records

ARABLE, FOREST, SEA = (legend.CORINE_INDEX[code] for code in (211, 312, 523))
TARGET = legend.target('corine_level1')  # urban, agriculture, natural, wetland, water


def test_the_grid_lies_in_the_middle_and_every_pixel_in_one_cell():
  grid = cells.CellGrid(patch_px=42)
  assert (grid.side, grid.count, grid.first_px) == (2, 4, 5)
  pixels = np.arange(42 * 42).reshape(1, 42, 42)
  parts = grid.split(pixels)
  assert parts.shape == (1, 2, 2, 256)
  np.testing.assert_array_equal(parts[0, 1, 0].reshape(16, 16), pixels[0, 21:37, 5:21])
  assert len(np.unique(parts)) == 4 * 256


def test_a_patch_smaller_than_a_cell_is_refused():
  with pytest.raises(ValueError, match='Patches of 15 px hold no cell of 16 px'):
    cells.CellGrid(15)


def test_chosen_cells_are_drawn_by_the_number_of_the_patch():
  grid = cells.CellGrid(64, per_patch=5)
  drawn = [grid.chosen(n) for n in range(20)]
  assert all(len(np.unique(d)) == 5 and d.max() < 16 for d in drawn)
  np.testing.assert_array_equal(grid.chosen(7), drawn[7])
  assert len({tuple(d) for d in drawn}) > 15
  maps = np.arange(2 * 16).reshape(2, 4, 4)
  np.testing.assert_array_equal(grid.take(maps, np.array([3, 4])), [drawn[3], 16 + drawn[4]])


def test_classes_of_patches_and_cells_by_hand():
  corine = np.zeros((1, 32, 32), np.uint8)
  corine[0, :16, :16] = ARABLE
  corine[0, :8, :8] = FOREST  # 64 of 256
  corine[0, 16:, 16:] = SEA
  corine[0, 16, 0] = FOREST  # the one labelled pixel of its cell
  records = memory_records.MemoryRecords(count=1, patch_px=32, labelled=True, arrays={'corine': corine})
  counts = cells.class_counts(records, cells.CellGrid(32), TARGET, progress=False)
  np.testing.assert_array_equal(counts.patch, [[0, 192, 65, 0, 256]])
  np.testing.assert_array_equal(cells.majority(counts.cell), [[1, -1, 2, 4]])
  np.testing.assert_array_equal(cells.majority(counts.patch), [4])


def test_band_statistics_leave_nodata_out():
  rng = np.random.default_rng(0)
  s2 = rng.integers(1, 5000, (2, 32, 32, 2)).astype(np.uint16)
  s2[0, :16, :8, 1] = sensors.S2_NODATA
  s2[1, :16, :16, 0] = sensors.S2_NODATA
  s1 = rng.integers(-2500, -500, (2, 32, 32, 1)).astype(np.int16)
  records = memory_records.MemoryRecords(count=2, patch_px=32, arrays={'s2': s2, 's1': s1})
  found = cells.band_statistics(records, cells.CellGrid(32), progress=False)
  assert (found.patch.shape, found.cell.shape) == ((2, 6), (2, 4, 6))
  valid = s2[0, :16, 8:16, 1] / 1e4
  assert found.cell[0, 0, 1] == pytest.approx(valid.mean(), rel=1e-5)
  assert found.cell[0, 0, 4] == pytest.approx(valid.std(), rel=1e-4)
  assert np.isnan(found.cell[1, 0, [0, 3]]).all()
  assert found.patch[1, 5] == pytest.approx((s1[1] / 100).std(), rel=1e-4)

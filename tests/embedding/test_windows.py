import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepsentinel.embedding.windows import plan, plan_patches


def test_a_convolutional_encoder_by_hand():
  # ResNet18 looks 109 px beyond a cell: 7 cells of margin; of 63 cells two windows, which is less than the 50 inside
  # that 1,024 px allow.
  layout = plan(1000, 630, stride=16, reach_px=109, crop_px=128)
  assert (layout.rows, layout.cols, layout.lead, layout.step, layout.window) == (63, 40, 7, 32, 46)
  assert (layout.strips, layout.tiles_a_strip, layout.batch) == (2, 2, 1)
  assert layout.strip_rows(1) == (32, 63)
  assert layout.read_origin_px(1, 0) == ((32 - 7) * 16, -7 * 16)
  large = plan(10_980, 10_980, stride=16, reach_px=109, crop_px=128)
  assert (large.step, large.window, large.strips, large.batch) == (50, 64, 14, 1)
  assert plan(100, 100, stride=16, reach_px=109, crop_px=128).window == 7 + 7 + 7


def test_attention_in_windows_by_hand():
  # The convolutions' 109 px and two windows of 7 cells, in steps of 4: 21 cells are not enough, 24 are on the lattice.
  layout = plan(10_980, 10_980, stride=16, reach_px=109 + 2 * 112, crop_px=112, lattice_px=64)
  assert (layout.lead, layout.step, layout.window) == (24, 64, 112)
  assert layout.read_origin_px(0, 1) == (-24 * 16, 40 * 16)
  assert plan(500, 100, stride=16, reach_px=333, crop_px=112, lattice_px=64).step == 32


def test_an_encoder_that_looks_anywhere_by_hand():
  # The training crop, half of it overlapping: 8 cells, 4 apart; 8 steps a tile, for which 9 windows are needed.
  layout = plan(1000, 1000, stride=16, reach_px=None, crop_px=128)
  assert (layout.window, layout.step, layout.lead, layout.per_side, layout.tile) == (8, 4, 4, 9, 32)
  assert layout.batch == 64
  assert layout.read_px == (4 + 32 + 4) * 16
  assert plan(1000, 1000, stride=16, reach_px=None, crop_px=112).step == 4
  assert plan(1000, 1000, stride=16, reach_px=None, crop_px=16).step == 1
  # It has no fixed length: a window may be asked for.
  asked = plan(360, 240, stride=16, reach_px=None, crop_px=112, window_px=128)
  assert (asked.rows, asked.cols, asked.window, asked.step) == (23, 15, 8, 4)


def test_blended_windows_by_hand():
  # Windows of two cells, one apart, each cell in four: one of ones among zeros leaves a quarter in its own.
  layout = plan(48, 48, stride=16, reach_px=None, crop_px=32)
  values = np.zeros((layout.per_side**2, 2, 2))
  values[layout.per_side * 1 + 1] = 1
  np.testing.assert_allclose(layout.join(values), [[0.25, 0.25, 0], [0.25, 0.25, 0], [0, 0, 0]])


def test_patches_by_hand():
  layout = plan_patches(1000, 600, stride=16, crop_px=120)
  assert (layout.stride, layout.rows, layout.cols, layout.tile, layout.read_px) == (112, 9, 6, 4, 448)
  assert layout.cut(np.zeros((448, 448, 1))).shape == (16, 112, 112, 1)


def test_windows_that_a_model_cannot_use_are_refused():
  with pytest.raises(ValueError, match='at least 240; found 100'):
    plan(500, 500, stride=16, reach_px=109, crop_px=128, window_px=100)
  with pytest.raises(ValueError, match='multiple of 16; found 100; leave the flag out for the training crop, 128 px'):
    plan(500, 500, stride=16, reach_px=None, crop_px=128, window_px=100)
  with pytest.raises(ValueError, match='window of 8 px is smaller than one cell of 16 px'):
    plan(500, 500, stride=16, reach_px=None, crop_px=128, window_px=8)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 700), st.integers(1, 700), st.sampled_from([None, 0, 10, 49]), st.sampled_from([16, 32, 64, 112]))
def test_every_cell_is_kept_once_and_in_its_place(height, width, reach, crop):
  layout = plan(height, width, stride=16, reach_px=reach, crop_px=crop)
  seen = np.zeros((layout.rows, layout.cols), int)
  for strip in range(layout.strips):
    first, after = layout.strip_rows(strip)
    for number in range(layout.tiles_a_strip):
      begin, end = layout.tile_cols(number)
      row, col = layout.read_origin_px(strip, number)
      # Pixels that hold their own position in the area.
      rows, cols = np.mgrid[row : row + layout.read_px, col : col + layout.read_px]
      centres = layout.join(layout.cut(np.stack([rows, cols], -1))[:, ::16, ::16])[: after - first, : end - begin]
      expected = np.mgrid[first:after, begin:end] * 16
      # Blended windows say the same of a place, but for rounding.
      np.testing.assert_allclose(centres, np.moveaxis(expected, 0, -1), atol=0.01)
      seen[first:after, begin:end] += 1
  assert (seen == 1).all()

import numpy as np
import pytest
from sklearn.decomposition import PCA

from deepsentinel import composites, sensors
from deepsentinel.embedding import picture
from deepsentinel.embedding.inputs import SceneReader
from deepsentinel.embedding.strips import Strips
from deepsentinel.embedding.windows import plan
from deepsentinel.sources import base
from tests.embedding.small_area import ArraySource


def test_directions_agree_with_scikit_learn_and_have_one_sign():
  rng = np.random.default_rng(0)
  sample = rng.normal(size=(500, 6)) @ rng.normal(size=(6, 6))
  colours = picture.fit_colours(sample)
  peer = PCA(3, svd_solver='full').fit(sample)
  cosine = (colours.directions * peer.components_).sum(1)
  np.testing.assert_allclose(np.abs(cosine), 1, atol=1e-9)
  np.testing.assert_allclose(colours.explained, peer.explained_variance_ratio_)
  largest = np.take_along_axis(colours.directions, np.abs(colours.directions).argmax(1)[:, None], 1)
  assert (largest > 0).all()
  # Mirroring the order of the sample changes nothing but rounding.
  np.testing.assert_allclose(picture.fit_colours(sample[::-1]).directions, colours.directions, atol=1e-9)


def test_colours_by_hand():
  # One direction, values 0 to 100: the 2nd percentile is black, the 98th white, halfway grey.
  sample = np.zeros((101, 3))
  sample[:, 0] = np.arange(101)
  colours = picture.fit_colours(sample)
  rgb = colours(np.array([[2.0, 0, 0], [50, 0, 0], [98, 0, 0], [np.nan, 0, 0]]))
  np.testing.assert_array_equal(rgb[:3, 0], [0, 128, 255])
  assert tuple(rgb[3]) == composites.NODATA_RGB


@pytest.mark.parametrize('n', [0, 1, 5])
def test_a_constant_or_empty_sample_gives_colours(n):
  assert picture.fit_colours(np.ones((n, 4)))(np.ones((2, 2, 4))).shape == (2, 2, 3)


def test_means_of_cells_agree_with_scipy(tmp_path, monkeypatch):
  from scipy import ndimage

  layout = plan(23 * 16, 9 * 16, stride=16, reach_px=0, crop_px=16, window_px=7 * 16)
  rng = np.random.default_rng(0)
  cells = rng.normal(size=(23, 9, 4)).astype(np.float32)
  cells[5:8, 2:4] = np.nan
  stored = Strips(tmp_path)
  for i in range(layout.strips):
    first, after = layout.strip_rows(i)
    with stored.write(i, {'embedding': ((after - first, 9, 4), np.float32)}) as arrays:
      arrays['embedding'][:] = cells[first:after]
  monkeypatch.setattr(picture, '_BLOCK_CELLS', 4)
  ours = np.full_like(cells, 9)
  for row, col, block in picture.cell_means(stored, layout):
    ours[row : row + block.shape[0], col : col + block.shape[1]] = block
  known = np.isfinite(cells)
  sums = ndimage.convolve(np.where(known, cells, 0), np.ones((3, 3, 1)), mode='constant')
  counts = ndimage.convolve(known.astype(float), np.ones((3, 3, 1)), mode='constant')
  np.testing.assert_allclose(ours, np.where(known, sums / np.maximum(counts, 1), np.nan), rtol=1e-4, atol=1e-5)
  assert len(picture.sample_cells(stored, layout)) == 23 * 9 - 6


def test_previews_by_hand():
  spec = sensors.SensorSpec(('B2', 'B3', 'B4', 'VV', 'VH'))
  s2 = np.zeros((2, 4, 3), np.uint16)
  s2[:, :2] = [[[100, 200, 300], [300, 400, 500]], [[0, 0, 0], [200, 300, 400]]]
  out = picture.preview({'s2': s2}, spec, 2)
  np.testing.assert_array_equal(out, [[[400, 300, 200], [0, 0, 0]]])  # B4, B3, B2; nodata is left out of the mean

  radar = sensors.SensorSpec(('VV', 'VH'))
  s1 = np.full((2, 2, 2), sensors.S1_NODATA, np.int16)
  s1[0, :, 0] = [-1000, -2000]  # power 0.1 and 0.01: 0.055, -12.6 dB
  out = picture.preview({'s1': s1}, radar, 2)
  np.testing.assert_array_equal(out, [[[-1260, sensors.S1_NODATA]]])
  assert picture.preview_bands(sensors.SensorSpec(('B8', 'B11'))) == ('B8',)


@pytest.mark.parametrize(
  ('bands', 'title'),
  [
    (('B2', 'B3', 'B4'), 'Sentinel-2, true colour'),
    (('B4', 'B8'), 'B4'),
    (('VV', 'VH'), 'Sentinel-1, VV, VH, VV - VH'),
    (('VV',), 'VV'),
  ],
)
def test_what_is_named_beside_the_antimeridian(bands, title, tmp_path):
  grid = base.PatchGrid(32760, 817_200.0, 8_000_000.0, 64, 64)  # its centre lies just beyond 180 W
  reader = SceneReader(ArraySource(grid, bands=bands).inputs(), bands)
  layout, strips = plan(64, 64, stride=16, reach_px=0, crop_px=16, window_px=64), Strips(tmp_path)
  shown = picture.preview_bands(reader.spec)
  for i in range(layout.strips):
    with strips.write(i, {'preview': ((64, 64, len(shown)), np.int32)}) as arrays:
      arrays['preview'][:] = 1000
  assert picture._imagery(strips, reader, grid, layout, 1).title == title
  assert grid.outline_lonlat().centroid.x < -180
  assert picture._caption(reader, grid, []).endswith(' 179.999 E')

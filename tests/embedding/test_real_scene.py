"""Real scenes through the embedding, with a model that is made up: grids, seams, nodata."""

import numpy as np
import pytest
import rasterio

from deepsentinel.embedding import area, scene
from deepsentinel.embedding.inputs import SceneInput, SceneReader
from deepsentinel.sources import bigearthnet
from deepsentinel.sources.local import LocalScenes
from tests.embedding.small_area import make_model
from tests.sources.scene_files import write

BANDS = ('B2', 'B3', 'B4')


def embed(source, out, *, attention=False, **options):
  (found,) = source.scenes()
  model = make_model(attention=attention, subsets=[BANDS])
  reader = SceneReader([SceneInput(source, found, 'local')], model.bands)
  return scene.embed(model, reader, area.scene_grid(source, found), out, progress=False, **options)


def values(path):
  with rasterio.open(path) as dataset:
    return np.moveaxis(dataset.read(), 0, -1)


@pytest.mark.parametrize('attention', [False, True])
def test_the_major_tom_cell_wall_to_wall(attention, real_data, tmp_path):
  source = LocalScenes(str(real_data / 'major_tom'), s2_unit='reflectance_x1e4')
  result = embed(source, tmp_path, attention=attention)
  with rasterio.open(result.embedding) as dataset, rasterio.open(next(real_data.glob('major_tom/**/B02.tif'))) as b2:
    assert (b2.crs.to_epsg(), b2.shape) == (32648, (1068, 1068))
    assert dataset.crs == b2.crs
    assert dataset.transform[:6] == (160, 0, b2.bounds.left, 0, -160, b2.bounds.top)
    assert dataset.shape == (67, 67)
    assert np.isfinite(dataset.read()).all()


@pytest.fixture(scope='module')
def ell(real_data, tmp_path_factory):
  """Seven neighbouring BigEarthNet patches as a scene of 480 x 240 px that lacks its upper-left patch."""
  source = bigearthnet.BigEarthNet(str(real_data / 'bigearthnet_v2'), 'v2_lmdb')
  mosaic = np.zeros((3, 480, 240), np.uint16)
  placed = 0
  for place in source.places():
    column, line = (int(v) for v in place.id.split('_')[-2:])
    if place.grid.epsg == 32633 and column in (37, 38) and 87 <= line <= 90:
      pixels = source.read(place.scenes['sentinel2'], place.grid, BANDS).to_storage()
      at = np.s_[:, 120 * (line - 87) : 120 * (line - 86), 120 * (column - 37) : 120 * (column - 36)]
      mosaic[at] = np.moveaxis(pixels, -1, 0)
      placed += 1
  assert placed == 7
  name = 'S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP.tif'
  corner = {'epsg': 32633, 'x': 300_000 + 37 * 1200, 'y': 5_400_000 - 87 * 1200}
  path = write(tmp_path_factory.mktemp('ell') / name, mosaic, names=BANDS, **corner)
  return LocalScenes(path, s2_unit='reflectance_x1e4')


def test_no_seam_between_windows_and_nan_where_there_is_no_patch(ell, tmp_path):
  ours = values(embed(ell, tmp_path / 'small', window_px=160).embedding)  # 2 cells are kept of 10
  assert ours.shape == (30, 15, 64)
  missing = np.zeros((30, 15), bool)
  missing[:7, :7] = True  # the cells that lie in the missing 120 px; the eighth reaches 8 px beyond them
  np.testing.assert_array_equal(np.isnan(ours).any(-1), missing)
  np.testing.assert_array_equal(np.isnan(ours).all(-1), missing)
  wide = values(embed(ell, tmp_path / 'wide', window_px=608).embedding)  # one window holds the whole scene
  np.testing.assert_allclose(ours, wide, atol=2e-5 * np.nanmax(np.abs(wide)), rtol=0)

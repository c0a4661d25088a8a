"""Cloud masks that come with scenes, on a grid: of files written here, and of the real Major TOM scene."""

import numpy as np
import pytest
import rasterio
import rasterio.shutil

from deepsentinel.sources import base, cloudmasks, local
from tests.sources.scene_files import EPSG, GRID, NAME, X, Y, only, random, write

CLASSES = np.arange(12, dtype=np.uint8).reshape(1, 3, 4)
# Of the classification: no data, defective, shadow, cloud of medium and high probability, cirrus.
HIDDEN = np.isin(CLASSES[0], (0, 1, 3, 8, 9, 10))


def doubled(values: np.ndarray) -> np.ndarray:
  """20 m pixels as 10 m pixels."""
  return values.repeat(2, 0).repeat(2, 1)


def scenes_in(folder) -> local.LocalScenes:
  return local.LocalScenes(str(folder), s2_unit='reflectance_x1e4')


@pytest.mark.parametrize(
  ('name', 'kind', 'rest'),
  [
    ('SCL', 'scl', ''),
    ('scl', 'scl', ''),
    ('SCL_20m', 'scl', ''),
    ('T33UUP_20170613T101031_SCL_20m', 'scl', 'T33UUP_20170613T101031'),
    ('cloud_mask', 'cloud_mask', ''),
    ('here_CloudMask', 'cloud_mask', 'here'),
    ('B02', '', 'B02'),
    ('MUSCL', '', 'MUSCL'),
    ('SCL_west', '', 'SCL_west'),
  ],
)
def test_names(name, kind, rest):
  assert cloudmasks.of_name(name) == (kind, rest)


def test_the_scene_classification_of_20_m_on_pixels_of_10_m(tmp_path):
  path = write(tmp_path / 'SCL.tif', CLASSES, pixel=20.0)
  grid = base.PatchGrid(EPSG, X - 20, Y + 20, 10, 12)  # two pixels more on every side
  mask = cloudmasks.read(cloudmasks.CloudMask(path, 'scl'), grid)
  np.testing.assert_array_equal(mask, np.pad(doubled(HIDDEN), 2))


def test_what_is_no_scene_classification(tmp_path):
  values = CLASSES.copy()
  values[0, 2, 3] = 255
  path = write(tmp_path / 'SCL.tif', values, pixel=20.0)
  with pytest.raises(ValueError, match=r'SCL.tif holds 255; a scene classification has classes 0 to 11'):
    cloudmasks.read(cloudmasks.CloudMask(path, 'scl'), GRID)
  path = write(tmp_path / 'warped_SCL.tif', values, pixel=20.0, nodata=255)
  mask = cloudmasks.read(cloudmasks.CloudMask(path, 'scl'), GRID.window(0, 0, 6, 8))
  np.testing.assert_array_equal(mask, doubled(HIDDEN | (values[0] == 255)))


def test_a_mask_of_ones_own_hides_all_but_0(tmp_path):
  values = np.array([[[0, 1, 2, 3, 255, 0]]], np.uint8)
  path = write(tmp_path / 'cloud_mask.tif', values, nodata=255)
  mask = cloudmasks.read(cloudmasks.CloudMask(path, 'cloud_mask'), GRID.window(0, 0, 1, 6))
  assert mask.tolist() == [[False, True, True, True, False, False]]


def test_a_mask_beside_the_bands(tmp_path):
  write(tmp_path / NAME / 'B02.tif', random((1, 6, 8)))
  write(tmp_path / NAME / 'SCL.tif', CLASSES, pixel=20.0)
  source = scenes_in(tmp_path)
  assert source.cloud_mask_of(only(source)) == 'scene classification (SCL)'
  np.testing.assert_array_equal(source.cloud_mask(only(source), GRID.window(0, 0, 6, 8)), doubled(HIDDEN))
  # Somebody's own mask of finer pixels stands above it.
  write(tmp_path / NAME / 'cloud_mask.tif', np.eye(6, 8, dtype=np.uint8)[None])
  source = scenes_in(tmp_path)
  assert source.cloud_mask_of(only(source)) == 'cloud_mask file'
  np.testing.assert_array_equal(source.cloud_mask(only(source), GRID.window(0, 0, 6, 8)), np.eye(6, 8, dtype=bool))


def test_each_scene_of_a_folder_has_its_own_mask_or_none(tmp_path):
  days = ('20200601', '20200611', '20200621')
  for day in days:
    write(tmp_path / f'{NAME.replace("20200601", day)}.tif', random(), names=('B2', 'B3'))
  write(tmp_path / f'{NAME.replace("20200601", days[1])}_SCL.tif', np.full((1, 20, 20), 9, np.uint8), pixel=20.0)
  write(tmp_path / 'SCL.tif', np.full((1, 20, 20), 4, np.uint8), pixel=20.0)  # of which of the three?
  source = scenes_in(tmp_path)
  first, second, _ = source.scenes()
  assert source.cloud_mask(second, GRID).all()
  with pytest.raises(ValueError, match=rf'Scene {first.id} has no cloud mask. Put its scene classification .*beside'):
    source.cloud_mask(first, GRID)


def test_the_mask_of_an_esa_product_lies_in_the_folder_of_20_m(tmp_path):
  folder = tmp_path / 'GRANULE' / 'IMG_DATA'
  name = 'T32TNT_20200601T101031'
  write(folder / 'R10m' / f'{name}_B02_10m.tif', random((1, 64, 64)))
  classes = np.full((1, 32, 32), 5, np.uint8)
  classes[0, :2, :3] = 8
  plain = write(tmp_path / 'plain.tif', classes, pixel=20.0)
  (folder / 'R20m').mkdir()
  rasterio.shutil.copy(
    plain, str(folder / 'R20m' / f'{name}_SCL_20m.jp2'), driver='JP2OpenJPEG', QUALITY=100, REVERSIBLE='YES'
  )
  source = local.LocalScenes(str(folder / 'R10m'), s2_unit='reflectance_x1e4', times={name: '2020-06-01T10:10:31Z'})
  mask = source.cloud_mask(only(source), GRID)
  assert mask.sum() == 4 * 6
  assert mask[:4, :6].all()


def test_a_mask_that_is_a_band_of_the_scenes_file(tmp_path):
  stack = np.stack([*random((2, 6, 8)), np.eye(6, 8, dtype=np.uint16)])
  write(tmp_path / f'{NAME}.tif', stack, names=('B2', 'B3', 'cloud_mask'))
  source = scenes_in(tmp_path)
  assert source.spec.bands == ('B2', 'B3')
  np.testing.assert_array_equal(source.cloud_mask(only(source), GRID.window(0, 0, 6, 8)), np.eye(6, 8, dtype=bool))


def test_the_real_major_tom_mask(real_data):
  source = scenes_in(real_data / 'major_tom')
  scene = only(source)
  assert source.cloud_mask_of(scene) == 'cloud_mask file'
  (file,) = (real_data / 'major_tom').rglob('cloud_mask.tif')
  with rasterio.open(file) as dataset:
    whole = dataset.read(1)
  grid = source.grid(scene)
  np.testing.assert_array_equal(source.cloud_mask(scene, grid), whole != 0)
  assert not whole.any()  # a clear day, as the eye says too

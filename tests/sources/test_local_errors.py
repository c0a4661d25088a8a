"""What the local source says of inputs it cannot use: each names what is wrong and how to mend it."""

import json

import numpy as np
import pytest

from deepsentinel import sensors
from deepsentinel.sources import local
from tests.sources.scene_files import GRID, NAME, only, random, write


def test_what_is_not_known_is_one_clear_error(tmp_path):
  s2 = write(tmp_path / 'a' / f'{NAME}.tif', random(), names=('B2', 'B3'))
  with pytest.raises(ValueError, match=r's2_unit=.*reflectance, reflectance_x1e4, reflectance_x1e4_plus1000'):
    local.LocalScenes(s2)
  with pytest.raises(ValueError, match=r"Unknown s2_unit 'toa'"):
    local.LocalScenes(s2, s2_unit='toa')
  odd = write(tmp_path / 'b' / f'{NAME}.tif', random(), names=('B2', 'B3'), scale=0.5, offset=3.0)
  with pytest.raises(ValueError, match=r'scale 0\.5, offset 3\.0.*match no known'):
    local.LocalScenes(odd)
  s1 = write(tmp_path / 'c' / 's1.tif', np.full((2, 20, 20), -12.0), names=('VV', 'VH'))
  with pytest.raises(ValueError, match=r's1_unit='):
    local.LocalScenes(s1)
  with pytest.raises(ValueError, match=r's1_quantity=.*sigma0_ellipsoid'):
    local.LocalScenes(s1, s1_unit='db')
  with pytest.raises(ValueError, match=r'time is written nowhere.*times='):
    local.LocalScenes(s1, s1_unit='db', s1_quantity='sigma0_ellipsoid')
  with pytest.raises(ValueError, match=r"'yesterday' is no time"):
    local.LocalScenes(s1, s1_unit='db', s1_quantity='sigma0_ellipsoid', times={'s1': 'yesterday'})
  bare = write(tmp_path / 'd' / f'{NAME}.tif', random())
  with pytest.raises(ValueError, match=r'which bands it holds.*s2_bands='):
    local.LocalScenes(bare, s2_unit='reflectance_x1e4')
  source = local.LocalScenes(bare, s2_unit='reflectance_x1e4', s2_bands=['B08', 'B04'])
  assert source.spec.bands == ('B4', 'B8')
  with pytest.raises(ValueError, match=r'no band\(s\) B12; it has B4, B8'):
    source.read(only(source), GRID, ('B4', 'B12'))
  level1 = write(tmp_path / 'e' / f'{NAME.replace("L2A", "L1C")}.tif', random(), names=('B2', 'B3'))
  with pytest.raises(ValueError, match=r"is L1C, L2A is stated\. Pass s2_level='L1C'"):
    local.LocalScenes(level1, s2_unit='reflectance_x1e4')
  with pytest.raises(ValueError, match=r'Nothing found at .*State a folder'):
    local.LocalScenes(str(tmp_path / 'nowhere'))
  (tmp_path / 'empty').mkdir()
  with pytest.raises(ValueError, match='No rasters'):
    local.LocalScenes(str(tmp_path / 'empty'))


def test_a_file_without_georeference(tmp_path):
  path = write(tmp_path / f'{NAME}.tif', random(), names=('B2', 'B3'), epsg=None)
  with pytest.raises(ValueError, match='no georeference'):
    local.LocalScenes(path, s2_unit='reflectance_x1e4')


def test_truncated_and_missing_files_are_named(tmp_path):
  path = write(tmp_path / f'{NAME}.tif', random((2, 400, 400)), names=('B2', 'B3'))
  source = local.LocalScenes(path, s2_unit='reflectance_x1e4')
  scene = only(source)
  file = tmp_path / f'{NAME}.tif'
  whole = file.read_bytes()
  file.write_bytes(whole[: len(whole) // 2])
  far = GRID.window(300, 300, 16, 16)
  with pytest.raises(ValueError, match=rf'{NAME}\.tif cannot be read.*truncated or corrupt: fetch it again'):
    source.read(scene, far, ('B3',))
  file.write_bytes(b'II*\0 this is not a tiff')
  with pytest.raises(ValueError, match='cannot be read'):
    source.read(scene, far, ('B3',))
  with pytest.raises(ValueError, match='cannot be read'):
    local.LocalScenes(path, s2_unit='reflectance_x1e4')


def test_scenes_that_contradict_each_other(tmp_path):
  rows = []
  for i, quantity in enumerate(('gamma0_terrain', 'sigma0_ellipsoid')):
    write(tmp_path / f'{i}.tif', np.full((1, 20, 20), -12.0), names=('VV',))
    rows.append({'id': str(i), 'time': '2020-06-02', 'files': [f'{i}.tif'], 'unit': 'db', 'quantity': quantity})
  (tmp_path / 'scenes.json').write_text(json.dumps(rows))
  with pytest.raises(ValueError, match=r"2 radar quantities together: \['gamma0_terrain', 'sigma0_ellipsoid'\]"):
    local.LocalScenes(str(tmp_path / 'scenes.json'))


def test_nan_pixels_are_nodata_and_do_not_spread(tmp_path):
  values = np.full((1, 20, 20), 0.25, np.float32)
  values[0, 3, 4] = np.nan
  source = local.LocalScenes(write(tmp_path / f'{NAME}.tif', values, names=('B2',)), s2_unit='reflectance')
  stored = source.read(only(source), GRID, ('B2',)).to_storage()[..., 0]
  assert stored[3, 4] == 0
  assert (np.delete(stored.ravel(), 3 * 16 + 4) == 2500).all()
  # 5 m pixels: of the four in a pixel of 10 m one is missing.
  fine = np.full((1, 40, 40), 0.25, np.float32)
  fine[0, 6, 8] = np.nan
  source = local.LocalScenes(write(tmp_path / 'b' / f'{NAME}.tif', fine, 5.0, names=('B2',)), s2_unit='reflectance')
  assert (source.read(only(source), GRID, ('B2',)).to_storage() == 2500).all()


@pytest.mark.parametrize(
  ('low', 'high', 'unit', 'message'),
  [
    (0.01, 0.4, 'reflectance_x1e4', "reach only .* State unit='reflectance'"),
    (100, 4000, 'reflectance', "which is no reflectance .* State unit='reflectance_x1e4'"),
    (50, 1200, 'reflectance_x1e4_plus1000', "would be negative reflectance. State unit='reflectance_x1e4'"),
    (-25, -5, 'power', "no linear power. State unit='db'"),
    (-25, -5, 'amplitude', "no linear amplitude. State unit='db'"),
    (-25, -5, 'db_x100', "dB x 100 is stated. State unit='db'"),
    (0.01, 0.4, 'db', r'never falls below 0\.01 dB .* State the unit'),
    (-2500, -500, 'db', r'median of -\d+\.\d dB .* State the unit'),
    (500, 9000, 'power', r'median of 3\d\.\d dB .* State the unit'),
  ],
)
def test_a_unit_that_the_numbers_contradict(tmp_path, low, high, unit, message):
  values = np.random.default_rng(0).uniform(low, high, (1, 20, 20)).astype(np.float32)
  kind = 's2' if unit in sensors.REFLECTANCE_UNITS else 's1'
  band = 'B2' if kind == 's2' else 'VV'
  path = write(tmp_path / f'{NAME if kind == "s2" else "radar"}.tif', values, names=(band,))
  stated = {f'{kind}_unit': unit} | ({} if kind == 's2' else {'s1_quantity': 'sigma0_ellipsoid'})
  source = local.LocalScenes(path, times={'radar': '2020-06-02'}, **stated)
  with pytest.raises(ValueError, match=message):
    source.read(only(source), GRID, (band,)).to_storage()

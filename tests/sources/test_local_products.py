"""Products as they are downloaded: ESA's .SAFE folders, bands of several scenes in one folder, tiles cut by a swath."""

import datetime
import json
import shutil

import numpy as np
import pytest
import rasterio
import shapely

from deepsentinel.sources import base, footprints, local
from tests.sources.scene_files import EPSG, GRID, X, Y, only, random, write

PRODUCT = 'S2A_MSIL2A_20230601T101031_N0509_R022_T32TNT_20230601T170000.SAFE'
METADATA = """<?xml version="1.0" encoding="UTF-8"?>
<n1:Level-2A_User_Product xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/User_Product_Level-2A.xsd">
  <n1:General_Info>
    <Product_Info>
      <PRODUCT_START_TIME>2023-06-01T10:10:31.024Z</PRODUCT_START_TIME>
      <PROCESSING_LEVEL>Level-2A</PROCESSING_LEVEL>
      <PROCESSING_BASELINE>05.09</PROCESSING_BASELINE>
      <Datatake datatakeIdentifier="GS2A_20230601T101031_041477_N05.09">
        <SENSING_ORBIT_NUMBER>22</SENSING_ORBIT_NUMBER>
        <SENSING_ORBIT_DIRECTION>DESCENDING</SENSING_ORBIT_DIRECTION>
      </Datatake>
    </Product_Info>
    <Product_Image_Characteristics>
      <QUANTIFICATION_VALUES_LIST>
        <BOA_QUANTIFICATION_VALUE unit="none">10000</BOA_QUANTIFICATION_VALUE>
        <AOT_QUANTIFICATION_VALUE unit="none">1000.0</AOT_QUANTIFICATION_VALUE>
      </QUANTIFICATION_VALUES_LIST>
      <BOA_ADD_OFFSET_VALUES_LIST>
        <BOA_ADD_OFFSET band_id="0">{offset}</BOA_ADD_OFFSET>
        <BOA_ADD_OFFSET band_id="1">{offset}</BOA_ADD_OFFSET>
      </BOA_ADD_OFFSET_VALUES_LIST>
    </Product_Image_Characteristics>
  </n1:General_Info>
  <n1:Quality_Indicators_Info>
    <Cloud_Coverage_Assessment>12.5</Cloud_Coverage_Assessment>
  </n1:Quality_Indicators_Info>
</n1:Level-2A_User_Product>
"""


def product(folder, offset='-1000'):
  """An ESA product of bands in two resolutions, with its classification and masks; the pixels of B02."""
  granule = folder / PRODUCT / 'GRANULE/L2A_T32TNT_A041477_20230601T101559'
  start, fine = 'T32TNT_20230601T101031', random((1, 120, 120), 1500, 4000)
  for pixel_m, bands in ((10, ('B02', 'B03', 'TCI')), (20, ('B02', 'B03', 'B05', 'SCL')), (60, ('B01', 'B02', 'B05'))):
    shape = (1, 1200 // pixel_m, 1200 // pixel_m)
    for number, band in enumerate(bands):
      values = random(shape, 1500, 4000, seed=number)
      values = fine if (band, pixel_m) == ('B02', 10) else np.full(shape, 4, np.uint8) if band == 'SCL' else values
      write(granule / f'IMG_DATA/R{pixel_m}m/{start}_{band}_{pixel_m}m.tif', values, pixel=float(pixel_m))
  write(granule / 'QI_DATA/MSK_DETFOO_B01.tif', np.zeros((1, 20, 20), np.uint8), pixel=60.0)
  write(granule / f'QI_DATA/{start}_PVI.tif', random((3, 4, 4)))
  (folder / PRODUCT / 'MTD_MSIL2A.xml').write_text(METADATA.format(offset=offset))
  return fine


def test_a_product_as_esa_distributes_it(tmp_path):
  fine = product(tmp_path)
  for path in (tmp_path, tmp_path / PRODUCT, tmp_path / '*.SAFE', tmp_path / '**' / '*.tif'):
    source = local.LocalScenes(str(path))
    scene = only(source)
    assert scene.id == PRODUCT.removesuffix('.SAFE')
    assert (scene.time.year, scene.relative_orbit, scene.orbit_pass) == (2023, 22, 'descending')
    assert scene.metadata == {'processing_baseline': '05.09', 'cloud_share': 0.125}
    assert source.spec.bands == ('B1', 'B2', 'B3', 'B5')
    assert source.grid(scene).pixel_m == 10
    patch = source.read(scene, GRID, ('B2', 'B5'))
    # Its own metadata say that the numbers have the offset; the finest file of a band is read.
    assert patch.unit == 'reflectance_x1e4_plus1000'
    np.testing.assert_array_equal(patch.values[..., 0], fine[0, :16, :16])
    assert source.cloud_mask_of(scene) == 'scene classification (SCL)'
    assert not source.cloud_mask(scene, GRID).any()


def test_the_bands_folder_of_a_product_is_the_product(tmp_path):
  product(tmp_path, '0')
  source = local.LocalScenes(str(next((tmp_path / PRODUCT).glob('GRANULE/*/IMG_DATA'))))
  assert only(source).id == PRODUCT.removesuffix('.SAFE')
  assert source.read(only(source), GRID, ('B2',)).unit == 'reflectance_x1e4'


def test_a_product_of_several_granules_is_as_many_scenes(tmp_path):
  product(tmp_path)
  granule = next((tmp_path / PRODUCT / 'GRANULE').iterdir())
  for file in sorted((granule / 'IMG_DATA' / 'R10m').iterdir()):
    place = tmp_path / PRODUCT / 'GRANULE' / 'L2A_T32TMT' / 'IMG_DATA' / 'R10m'
    place.mkdir(parents=True, exist_ok=True)
    shutil.copy(file, place / file.name.replace('T32TNT', 'T32TMT'))
  scenes = local.LocalScenes(str(tmp_path)).scenes()
  assert sorted(scene.id for scene in scenes) == ['T32TMT_20230601T101031', 'T32TNT_20230601T101031']
  assert {scene.relative_orbit for scene in scenes} == {22}


def test_metadata_of_a_product_that_state_another_scale(tmp_path):
  product(tmp_path, '-500')
  with pytest.raises(ValueError, match=r'MTD_MSIL2A.xml states offsets \[-500.0\].*State s2_unit'):
    local.LocalScenes(str(tmp_path))
  (tmp_path / PRODUCT / 'MTD_MSIL2A.xml').write_text('<cut')
  with pytest.raises(ValueError, match='is no readable XML'):
    local.LocalScenes(str(tmp_path))


def earth_engine(index: str, day: str, collection: str = 'COPERNICUS/S2_SR', **properties) -> str:
  milliseconds = int(datetime.datetime.fromisoformat(f'{day}T10:10:31+00:00').timestamp() * 1000)
  return json.dumps({
    'system:id': f'{collection}/{index}', 'system:index': index, 'system:time_start': milliseconds, **properties
  })  # fmt: skip


def test_scenes_of_one_folder_have_their_own_metadata(tmp_path):
  for index, day, baseline in (('a', '2021-06-01', '03.00'), ('a1', '2023-06-01', '05.09')):
    for band in ('B2', 'B3'):
      write(tmp_path / f'{index}_{band}.tif', random(low=1500))
    (tmp_path / f'{index}.json').write_text(earth_engine(index, day, PROCESSING_BASELINE=baseline))
  for band in ('VV', 'VH'):
    write(tmp_path / f'{band}.tif', random(low=1, high=9).astype(np.float32) * np.float32(-2))
  (tmp_path / 'properties.json').write_text(earth_engine('radar', '2022-06-01', 'COPERNICUS/S1_GRD'))
  source = local.LocalScenes(str(tmp_path))
  scenes = {scene.id: scene for scene in source.scenes()}
  assert {name: scene.time.year for name, scene in scenes.items()} == {'a': 2021, 'radar': 2022, 'a1': 2023}
  units = {
    name: source.read(scene, GRID, source.spec.s2_bands).unit for name, scene in scenes.items() if name != 'radar'
  }
  assert units == {'a': 'reflectance_x1e4', 'a1': 'reflectance_x1e4_plus1000'}
  assert source.read(scenes['radar'], GRID, ('VV',)).unit == 'db'


def test_the_footprint_is_where_a_scene_has_data(tmp_path):
  """Two halves of a tile, as two orbits leave them: each covers its own."""
  whole, left, right = random((2, 300, 300)), random((2, 300, 300)), random((2, 300, 300))
  left[:, :, 150:], right[:, :, :150] = 0, 0
  left[:, 100, 20] = 0  # a hole is no edge
  for name, values in (('whole', whole), ('left', left), ('right', right)):
    write(tmp_path / f'{name}.tif', values, names=('B2', 'B3'))
  days = {'whole': '2020-06-01', 'left': '2020-06-02', 'right': '2020-06-03'}
  source = local.LocalScenes(str(tmp_path), s2_unit='reflectance_x1e4', times=days)
  outlines = {scene.id: scene.footprint for scene in source.scenes()}
  tile = base.PatchGrid(EPSG, X, Y, 300, 300).outline_lonlat()
  assert shapely.difference(tile, outlines['whole']).area < 1e-6 * tile.area
  for name in ('left', 'right'):
    assert 0.5 <= outlines[name].area / tile.area < 0.52
  assert shapely.difference(tile, shapely.union(outlines['left'], outlines['right'])).area < 1e-6 * tile.area
  middle = base.PatchGrid(EPSG, X + 2000, Y - 500, 32, 32).outline_lonlat()
  at = [datetime.datetime(2020, 6, day, tzinfo=datetime.UTC) for day in (1, 30)]
  assert [scene.id for scene in source.search('sentinel2', middle, *at)] == ['whole', 'right']


def test_the_footprint_of_a_large_scene_is_probed(tmp_path, monkeypatch):
  monkeypatch.setattr(footprints, '_SMALL_PX', 100)
  left = random((1, 300, 300))
  left[:, :, 150:] = 0
  write(tmp_path / 'left.tif', left, names=('B2',))
  source = local.LocalScenes(str(tmp_path), s2_unit='reflectance_x1e4', times={'left': '2020-06-01'})
  tile = base.PatchGrid(EPSG, X, Y, 300, 300).outline_lonlat()
  assert 0.5 <= only(source).footprint.area / tile.area < 0.7
  assert shapely.difference(base.PatchGrid(EPSG, X, Y, 300, 150).outline_lonlat(), only(source).footprint).area < 1e-9


def test_an_image_without_pixels_keeps_its_bounds(tmp_path):
  write(tmp_path / 'empty.tif', np.zeros((1, 40, 40), np.uint16), names=('B2',))
  source = local.LocalScenes(str(tmp_path), s2_unit='reflectance_x1e4', times={'empty': '2020-06-01'})
  assert only(source).footprint.contains(GRID.outline_lonlat().buffer(-1e-6))


def test_an_image_in_the_geometry_of_its_sensor_is_no_map(tmp_path):
  path = tmp_path / 's1a-iw-grd-vv-20230601t052600.tif'
  points = [
    rasterio.control.GroundControlPoint(row, col, 9 + col / 1e4, 47 - row / 1e4) for row in (0, 39) for col in (0, 39)
  ]
  with rasterio.open(
    path, 'w', driver='GTiff', width=40, height=40, count=1, dtype='uint16', gcps=points, crs=4326
  ) as f:
    f.write(random((1, 40, 40)))
  with pytest.raises(ValueError, match=r'ground control points.*Range-Doppler Terrain Correction'):
    local.LocalScenes(str(path), s1_unit='amplitude', s1_bands=['VV'], s1_quantity='sigma0_ellipsoid')

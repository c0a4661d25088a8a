"""EarthOne's real client against a server on loopback that speaks its protocol and fails in every usual way."""

import base64
import datetime
import importlib.util
import json
import os
import pickle
import sys

import numpy as np
import pytest
import rasterio
import shapely

from configs.corpora import common
from deepsentinel.embedding import inputs
from deepsentinel.sources import base, earthone, remote
from tests.sources import fetched

pytestmark = pytest.mark.skipif(
  importlib.util.find_spec('earthdaily') is None, reason="EarthOne's client is not installed (earthdaily-earthone)"
)
GRID = base.PatchGrid(32632, 500_000.0, 5_600_000.0, 32, 32)
SIDE = 1024
APRIL = (datetime.datetime(2020, 4, 1, tzinfo=datetime.UTC), datetime.datetime(2020, 5, 1, tzinfo=datetime.UTC))
FAULTS = ('status:429', 'status:500', 'status:503', 'reset', 'truncated')
OPTICAL, RADAR = 'esa:sentinel-2:l2a:c1:v1', 'esa:sentinel-1:sigma0v:v1'
BLUE = {'name': 'blue', 'type': 'spectral', 'data_type': 'UInt16', 'nodata': 0, 'data_range': [0, 10000],
        'physical_range': [-0.1, 0.9], 'vendor_band_name': 'B02'}  # fmt: skip
VV = {'name': 'vv', 'type': 'microwave', 'data_type': 'UInt16', 'nodata': 0, 'data_range': [1, 4001],
      'physical_range': [-40.0, 0.0], 'physical_range_unit': 'dB'}  # fmt: skip
BANDS = {
  OPTICAL: [
    BLUE,
    {**BLUE, 'name': 'red', 'vendor_band_name': None},
    {'name': 'scl', 'type': 'generic', 'data_type': 'Byte', 'nodata': 0, 'data_range': [0, 11]},
  ],
  RADAR: [VV, {**VV, 'name': 'vh'}],
}


def image(product: str, day: str, **attributes) -> dict:
  name = {
    OPTICAL: f'S2A_MSIL2A_{day.replace("-", "")}T102030_N0500_R065_T32UNA_20230101T000000',
    RADAR: f'S1A_IW_GRDH_1SDV_{day.replace("-", "")}T102030_{day.replace("-", "")}T102055_032000_03B000_AAAA',
  }[product]
  return {
    'id': f'{product}:{name}', 'product_id': product, 'name': name, 'acquired': f'{day}T10:20:30+00:00',
    'geometry': shapely.geometry.mapping(shapely.box(8.8, 50.2, 9.4, 50.7)), 'cloud_fraction': 0.25,
    'incidence_angle': 35.0, **attributes,
  }  # fmt: skip


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp('platform')
  rng = np.random.default_rng(0)
  for name in ('blue', 'red', 'vv', 'vh'):
    array = rng.integers(1001, 4001, (SIDE, SIDE), np.uint16)
    array[100:104, 100:132] = 0  # the four upper rows of the patch are masked
    with rasterio.open(
      path / f'{name}.tif', 'w', driver='GTiff', height=SIDE, width=SIDE, count=1, dtype='uint16', nodata=0,
      crs='EPSG:32632', transform=rasterio.transform.from_origin(GRID.x0_m - 1000, GRID.y0_m + 1000, 10, 10),
    ) as file:  # fmt: skip
      file.write(array[None])
  with rasterio.open(path / 'red.tif') as file:
    profile = file.profile
  with rasterio.open(path / 'scl.tif', 'w', **{**profile, 'dtype': 'uint8'}) as file:
    file.write(np.resize(np.arange(12, dtype=np.uint8), (1, SIDE, SIDE)))
  return path


@pytest.fixture(scope='module')
def running(folder):
  """One server for all tests: the client reads its addresses once, when it is imported."""
  from tests.sources.earthone_server import EarthOneServer

  with EarthOneServer(folder).running() as server:
    part = base64.urlsafe_b64encode(json.dumps({'exp': 4_000_000_000, 'sub': 'x'}).encode()).decode().rstrip('=')
    os.environ |= {
      'EARTHONE_CATALOG_V2_URL': f'{server.url}/catalog', 'EARTHONE_RASTER_URL': f'{server.url}/raster',
      'EARTHONE_PLATFORM_URL': server.url, 'EARTHONE_METADATA_URL': server.url, 'EARTHONE_IAM_URL': server.url,
      'EARTHONE_TOKEN': f'{part}.{part}.x', 'EARTHONE_TOKEN_INFO_PATH': str(folder / 'token.json'),
    }  # fmt: skip
    yield server
    for name in [name for name in os.environ if name.startswith('EARTHONE_')]:
      del os.environ[name]


@pytest.fixture
def server(running):
  days = ('2020-03-31', '2020-04-02', '2020-04-07', '2020-04-12', '2020-05-01')
  running.images = [image(OPTICAL, day) for day in days] + [image(RADAR, '2020-04-08')]
  running.products, running.faults, running.change = dict(BANDS), [], lambda array: array
  running.seen.clear()
  return running


def source(**changes) -> earthone.EarthOne:
  return earthone.EarthOne(**({'s2_bands': ('B2', 'B4'), 'attempts': 4} | changes))


def of_file(folder, name: str) -> np.ndarray:
  with rasterio.open(folder / f'{name}.tif') as file:
    return file.read(1, window=rasterio.windows.Window(100, 100, 32, 32))


def test_the_catalogue(server):
  here = source()
  assert isinstance(here, base.ImagerySource)
  found = here.search('sentinel2', GRID.outline_lonlat(), *APRIL)
  assert [str(scene.time.date()) for scene in found] == ['2020-04-02', '2020-04-07', '2020-04-12']
  assert found[0].relative_orbit == 65
  assert (found[0].metadata['cloud_share'], found[0].metadata['processing_baseline']) == (0.25, '05.00')
  assert len(here.search('sentinel2', GRID.outline_lonlat(), APRIL[0], found[-1].time)) == 2
  assert here.search('sentinel2', shapely.box(20, 20, 21, 21), *APRIL) == []
  (radar,) = here.search('sentinel1', GRID.outline_lonlat(), *APRIL)
  assert (radar.metadata['incidence_deg'], radar.relative_orbit) == (35.0, (32000 - 73) % 175 + 1)


def test_pixels_are_those_of_the_platform(server, folder):
  here = pickle.loads(pickle.dumps(source()))
  scene = here.search('sentinel2', GRID.outline_lonlat(), *APRIL)[0]
  patch = here.read(scene, GRID, ('B4', 'B2'))
  assert (patch.values.dtype, patch.unit) == (np.uint16, 'reflectance_x1e4_plus1000')
  np.testing.assert_array_equal(patch.values, np.stack([of_file(folder, 'red'), of_file(folder, 'blue')], 2))
  assert not patch.valid[:4].any()
  assert patch.valid[4:].all()
  np.testing.assert_array_equal(patch.to_storage()[4:], patch.values[4:] - 1000)
  (radar,) = here.search('sentinel1', GRID.outline_lonlat(), *APRIL)
  patch = here.read(radar, GRID, ('VV',))
  assert patch.unit == 'db'
  # 1 to 4001 are -40 to 0 dB.
  np.testing.assert_allclose(patch.values[4:, :, 0], (of_file(folder, 'vv')[4:] - 1.0) / 100 - 40, atol=1e-5)
  assert np.isnan(patch.values[:4]).all()


def test_the_cloud_mask_is_the_scene_classification(server, folder):
  here = source()
  scene = here.search('sentinel2', GRID.outline_lonlat(), *APRIL)[0]
  inputs.require_cloud_masks(here, 'earthone')
  assert here.cloud_mask_of(scene) == 'scene classification (SCL)'
  mask = pickle.loads(pickle.dumps(here)).cloud_mask(scene, GRID)
  # No data, defective, shadow, cloud of medium and high probability, cirrus.
  np.testing.assert_array_equal(mask, np.isin(of_file(folder, 'scl'), (0, 1, 3, 8, 9, 10)))
  assert 0 < mask.sum() < mask.size

  server.change = lambda array: array * np.uint8(2)
  with pytest.raises(ValueError, match=r'Band scl of esa:sentinel-2:l2a:c1:v1 holds 22; a scene .* Take the scenes'):
    here.cloud_mask(scene, GRID)
  server.products[OPTICAL] = BANDS[OPTICAL][:2]
  with pytest.raises(ValueError, match=r'lists no scene classification \(band "scl"\).*from stac or earthengine'):
    source().cloud_mask_of(scene)


@pytest.mark.parametrize('fault', FAULTS)
def test_a_platform_that_stumbles_gives_the_same(server, folder, fault):
  server.faults = [[pattern, fault, 1] for pattern in ('/catalog/bands', '/catalog/images', '/raster/')]
  here = source()
  scenes = here.search('sentinel2', GRID.outline_lonlat(), *APRIL)
  assert len(scenes) == 3
  np.testing.assert_array_equal(here.read(scenes[0], GRID, ('B4',)).values[..., 0], of_file(folder, 'red'))
  assert server.seen[fault] == 3


def test_what_the_platform_refuses_is_said(server, monkeypatch):
  here = source(attempts=2)
  scene = here.search('sentinel2', GRID.outline_lonlat(), *APRIL)[0]
  server.change = lambda array: array[:, :-1]
  with pytest.raises(ValueError, match=r'\(1, 31, 32\) came, \(1, 32, 32\) was asked for'):
    here.read(scene, GRID, ('B4',))
  server.faults, server.change = [['/raster/', 'status:400', 9]], lambda array: array
  with pytest.raises(remote.BadRequest, match='EarthOne, pixels of esa:sentinel-2'):
    here.read(scene, GRID, ('B4',))
  server.faults = [['/raster/', 'status:429', 9]]
  with pytest.raises(remote.QuotaError, match=r'EarthOne, pixels of esa:sentinel-2.*Fewer --config\.workers'):
    here.read(scene, GRID, ('B4',))
  server.faults = [['/catalog/', 'status:401', 9]]
  with pytest.raises(ValueError, match=r'did not let us in.*earthone auth login'):
    source(attempts=1).connect()
  server.faults = []
  with pytest.raises(ValueError, match=r"no product 'esa:nothing'.*s2_product"):
    source(s2_product='esa:nothing').connect()
  with pytest.raises(ValueError, match=r'has no band.s. B8; of its bands blue, red, scl these are known: B2, B4'):
    source(s2_bands=('B8',)).connect()
  server.products[OPTICAL] = [{**BLUE, 'physical_range': None}]
  with pytest.raises(ValueError, match=r'does not say what the numbers .* are \(blue: x 1 \+ 0 \).*State s2_unit'):
    source(s2_bands=('B2',)).read(scene, GRID, ('B2',))
  assert source(s2_bands=('B2',), s2_unit='reflectance_x1e4').read(scene, GRID, ('B2',)).unit == 'reflectance_x1e4'


def test_bad_arguments_are_named(monkeypatch):
  with monkeypatch.context() as without:
    without.setitem(sys.modules, 'earthdaily.earthone', None)
    without.setitem(sys.modules, 'descarteslabs', None)
    with pytest.raises(ValueError, match=r"pip install -e '.\[earthone\]'"):
      source()
  with pytest.raises(ValueError, match='s2_product or s1_product'):
    earthone.EarthOne(s2_product='', s1_product='')
  with pytest.raises(ValueError, match=r"Unknown s1_unit 'dB'. Known: db, power"):
    source(s1_unit='dB')


def test_a_corpus_from_a_platform_that_stumbles(server, folder, tmp_path):
  config = common.get_config('earthone')
  config.patches, config.patch_px, config.workers = 4, 32, 0
  config.points.bbox = '9.0,50.47,9.09,50.52'
  config.period.start, config.period.end = '2020-04-01', '2020-04-13'
  config.source = {'name': 'earthone', 's2_bands': ['B2', 'B4'], 'attempts': 4}
  server.faults = [['/catalog/', 'status:429', 1], ['/catalog/', 'reset', 1], ['/raster/', 'status:500', 1],
                   ['/raster/', 'truncated', 1], ['/raster/', 'status:400', 1]]  # fmt: skip
  fetched.check(config, tmp_path / 'out', folder / 'red.tif', lambda pixels: np.where(pixels, pixels - 1000, 0))

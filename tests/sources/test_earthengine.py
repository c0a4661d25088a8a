"""Earth Engine's real client against a server on loopback that speaks its protocol and fails in every usual way."""

import datetime
import json
import pickle

import numpy as np
import pytest
import rasterio
import shapely
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from configs.corpora import common
from deepsentinel import corpus
from deepsentinel.corpus import manifest
from deepsentinel.sources import base, earthengine, remote
from tests.sources import fetched
from tests.sources.earthengine_server import EarthEngineServer

GRID = base.PatchGrid(32632, 500_000.0, 5_600_000.0, 32, 32)
SIDE = 1024
APRIL = (datetime.datetime(2020, 4, 1, tzinfo=datetime.UTC), datetime.datetime(2020, 5, 1, tzinfo=datetime.UTC))
FAULTS = ('status:429', 'status:500', 'status:503', 'reset', 'truncated', 'slow')
OPTICAL, RADAR = 'COPERNICUS/S2_SR_HARMONIZED', 'COPERNICUS/S1_GRD'


def image(collection: str, day: str, **properties) -> dict:
  name = f'{day.replace("-", "")}T102030_{day.replace("-", "")}T102030_T32UNA'
  corners = [[8.8, 50.2], [9.4, 50.2], [9.4, 50.7], [8.8, 50.7], [8.8, 50.2]]
  own = {
    OPTICAL: {'PROCESSING_BASELINE': '05.00', 'CLOUDY_PIXEL_PERCENTAGE': 12.5, 'SENSING_ORBIT_NUMBER': 65,
              'SENSING_ORBIT_DIRECTION': 'DESCENDING'},
    RADAR: {'instrumentMode': 'IW', 'transmitterReceiverPolarisation': ['VV', 'VH'],
            'orbitProperties_pass': 'ASCENDING', 'relativeOrbitNumber_start': 15},
  }[collection]  # fmt: skip
  return {
    'type': 'IMAGE', 'name': f'projects/earthengine-public/assets/{collection}/{name}', 'id': f'{collection}/{name}',
    'startTime': f'{day}T10:20:30Z', 'endTime': f'{day}T10:20:55Z', 'properties': own | properties,
    # Sentinel-2's footprint is listed as a ring.
    'geometry': {'type': 'LineString', 'coordinates': corners} if collection == OPTICAL
    else {'type': 'Polygon', 'coordinates': [corners]},
  }  # fmt: skip


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp('platform')
  rng = np.random.default_rng(0)
  arrays = {
    'B2': (rng.integers(1, 9000, (SIDE, SIDE), np.uint16), 0),
    'B4': (rng.integers(1, 9000, (SIDE, SIDE), np.uint16), 0),
    'VV': (rng.normal(-12, 4, (SIDE, SIDE)).astype(np.float32), -999.0),
    'VH': (rng.normal(-18, 4, (SIDE, SIDE)).astype(np.float32), -999.0),
    'cs': (rng.uniform(0, 1, (SIDE, SIDE)).astype(np.float32), -999.0),
    'SCL': (rng.integers(1, 12, (SIDE, SIDE), np.uint8), 0),
  }  # fmt: skip
  for array, nodata in arrays.values():
    array[100:104, 100:132] = nodata  # the four upper rows of the patch are masked
  arrays['VV'][0][104, 100] = 0.0  # a fair value in dB, which Earth Engine also writes for a masked pixel
  for name, (array, nodata) in arrays.items():
    with rasterio.open(
      path / f'{name}.tif', 'w', driver='GTiff', height=SIDE, width=SIDE, count=1, dtype=array.dtype, nodata=nodata,
      crs='EPSG:32632', transform=rasterio.transform.from_origin(GRID.x0_m - 1000, GRID.y0_m + 1000, 10, 10),
    ) as file:  # fmt: skip
      file.write(array[None])
  return path


@pytest.fixture
def server(folder):
  with EarthEngineServer(folder).running() as server:
    days = ('2020-03-31', '2020-04-02', '2020-04-07', '2020-04-12', '2020-05-01')
    server.images = [image(OPTICAL, day) for day in days] + [image(RADAR, '2020-04-08')]
    for listed in server.images:
      names = ('B2', 'B4', 'SCL') if OPTICAL in listed['id'] else ('VV', 'VH')
      server.bands[listed['id']] = {name: f'{name}.tif' for name in names}
    yield server


@pytest.fixture(scope='module')
def private_key():
  key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
  return key.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
  ).decode()


@pytest.fixture
def key_file(server, private_key, tmp_path):
  path = tmp_path / 'key.json'
  path.write_text(json.dumps({
    'type': 'service_account', 'project_id': 'p', 'private_key_id': 'k', 'private_key': private_key,
    'client_email': 'a@p.iam.gserviceaccount.com', 'client_id': '1', 'token_uri': f'{server.url}/token',
  }))  # fmt: skip
  return str(path)


@pytest.fixture
def source(server, key_file):
  def make(**changes) -> earthengine.EarthEngine:
    arguments = {'key_file': key_file, 'url': server.url, 's2_bands': ('B2', 'B4'), 'attempts': 4, 'timeout_s': 0.5}
    return earthengine.EarthEngine(**(arguments | changes))

  return make


def of_file(folder, name: str) -> np.ndarray:
  with rasterio.open(folder / f'{name}.tif') as file:
    return file.read(1, window=rasterio.windows.Window(100, 100, 32, 32))


def test_the_catalogue(server, source):
  here = source()
  assert isinstance(here, base.ImagerySource)
  assert here.spec.bands == ('B2', 'B4', 'VV', 'VH')
  found = here.search('sentinel2', GRID.outline_lonlat(), *APRIL)
  assert [str(scene.time.date()) for scene in found] == ['2020-04-02', '2020-04-07', '2020-04-12']
  scene = found[0]
  assert (scene.orbit_pass, scene.relative_orbit) == ('descending', 65)
  assert (scene.metadata['cloud_share'], scene.metadata['processing_baseline']) == (0.125, '05.00')
  assert shapely.covers(scene.footprint, GRID.outline_lonlat())
  assert len(here.search('sentinel2', GRID.outline_lonlat(), APRIL[0], found[-1].time)) == 2
  assert here.search('sentinel2', shapely.box(20, 20, 21, 21), *APRIL) == []
  server.images += [image(RADAR, '2020-04-09', instrumentMode='EW'),
                    image(RADAR, '2020-04-10', transmitterReceiverPolarisation=['HH', 'HV'])]  # fmt: skip
  (radar,) = here.search('sentinel1', GRID.outline_lonlat(), *APRIL)
  assert (radar.orbit_pass, radar.relative_orbit, radar.metadata['unit']) == ('ascending', 15, 'db')


def test_the_cloud_mask_is_the_scene_classification(server, source, folder):
  here = source()
  scene = here.search('sentinel2', GRID.outline_lonlat(), *APRIL)[0]
  assert here.cloud_mask_of(scene) == 'scene classification (SCL)'
  hidden = np.isin(of_file(folder, 'SCL'), (0, 1, 3, 8, 9, 10))
  np.testing.assert_array_equal(here.cloud_mask(scene, GRID), hidden)
  assert 0 < hidden.mean() < 1
  with pytest.raises(ValueError, match=r'COPERNICUS/S2_HARMONIZED has no scene classification.*S2_SR_HARMONIZED'):
    source(s2_collection='COPERNICUS/S2_HARMONIZED').cloud_mask(scene, GRID)


def test_pixels_are_those_of_the_platform(server, source, folder):
  here = pickle.loads(pickle.dumps(source()))
  scene = here.search('sentinel2', GRID.outline_lonlat(), *APRIL)[0]
  patch = here.read(scene, GRID, ('B4', 'B2'))
  assert (patch.values.dtype, patch.unit) == (np.uint16, 'reflectance_x1e4')
  np.testing.assert_array_equal(patch.values, np.stack([of_file(folder, 'B4'), of_file(folder, 'B2')], 2))
  assert patch.valid[4:].all()
  assert not patch.valid[:4].any()
  (radar,) = here.search('sentinel1', GRID.outline_lonlat(), *APRIL)
  patch = here.read(radar, GRID, ('VV', 'VH'))
  np.testing.assert_array_equal(patch.valid[..., None] & np.isfinite(patch.values), patch.values > -900)
  np.testing.assert_array_equal(patch.values[4:, :, 0], of_file(folder, 'VV')[4:])
  # 0 dB is a value; only what Earth Engine masked is nodata.
  assert patch.valid[4, 0]
  assert patch.to_storage()[4, 0, 0] == 0
  assert (patch.to_storage()[:4] == -32768).all()


def test_more_than_one_answer_may_hold_is_asked_for_in_parts(source, monkeypatch):
  here = source()
  scene = here.search('sentinel2', GRID.outline_lonlat(), *APRIL)[0]
  (radar,) = here.search('sentinel1', GRID.outline_lonlat(), *APRIL)
  whole = [here.read(scene, GRID, ('B4', 'B2')).values, here.read(radar, GRID, ('VV', 'VH')).values]
  asked, pixels = [], here._pixels

  def counted(asset, grid, *rest):
    asked.append((grid.height_px, grid.width_px))
    return pixels(asset, grid, *rest)

  monkeypatch.setattr(here, '_pixels', counted)
  monkeypatch.setattr(earthengine, '_MOST_BYTES', 16 * 16 * 2 * 2)
  np.testing.assert_array_equal(here.read(scene, GRID, ('B4', 'B2')).values, whole[0])
  assert asked.count((16, 16)) == 4
  np.testing.assert_array_equal(here.read(radar, GRID, ('VV', 'VH')).values, whole[1])
  assert asked.count((8, 8)) == 16


@pytest.mark.parametrize('fault', FAULTS)
def test_a_platform_that_stumbles_gives_the_same(server, source, folder, fault):
  server.slow_s = 1.0
  server.faults = [[pattern, fault, 1] for pattern in (':listAssets', ':getPixels', ':computePixels')]
  here = source()
  scenes = here.search('sentinel2', GRID.outline_lonlat(), *APRIL)
  assert len(scenes) == 3
  np.testing.assert_array_equal(here.read(scenes[0], GRID, ('B4',)).values[..., 0], of_file(folder, 'B4'))
  (radar,) = here.search('sentinel1', GRID.outline_lonlat(), *APRIL)
  np.testing.assert_array_equal(here.read(radar, GRID, ('VV',)).values[4:, :, 0], of_file(folder, 'VV')[4:])
  assert server.seen[fault] == 3


def test_a_token_that_ran_out_is_renewed(server, source, folder):
  here = source()
  scene = here.search('sentinel2', GRID.outline_lonlat(), *APRIL)[0]
  server.tokens = ['token1']
  np.testing.assert_array_equal(here.read(scene, GRID, ('B4',)).values[..., 0], of_file(folder, 'B4'))
  assert server.seen['token'] >= 2


def test_what_the_platform_refuses_is_said(server, source, key_file, tmp_path):
  here = source(attempts=2)
  scene = here.search('sentinel2', GRID.outline_lonlat(), *APRIL)[0]
  with pytest.raises(remote.BadRequest, match=r"pixels of COPERNICUS.*Pattern 'B8' did not match any bands"):
    here.read(scene, GRID, ('B8',))
  server.faults = [[':getPixels', 'status:429', 9]]
  with pytest.raises(remote.QuotaError, match=r'Earth Engine, pixels of .*put in.*Fewer --config.workers'):
    here.read(scene, GRID, ('B4',))
  server.faults = [[':getPixels', 'truncated', 9]]
  with pytest.raises(remote.NoAnswer, match='gave no whole answer in 2 attempts'):
    here.read(scene, GRID, ('B4',))
  server.faults = []
  server.change = lambda array: array[:-1]
  with pytest.raises(ValueError, match=r'\(31, 32\).* came, \(32, 32\)'):
    here.read(scene, GRID, ('B4',))
  server.faults = [['/token', 'status:400', 9]]
  with pytest.raises(ValueError, match=r'did not let us in.*earthengine authenticate'):
    source(attempts=1).search('sentinel2', GRID.outline_lonlat(), *APRIL)
  (tmp_path / 'bad.json').write_text('{}')
  with pytest.raises(ValueError, match='is no key of a service account'):
    source(key_file=str(tmp_path / 'bad.json')).connect()


def test_cloud_score_of_the_patch(server, source, folder):
  scene = source().search('sentinel2', GRID.outline_lonlat(), *APRIL)[0]
  assert not hasattr(source(), 'cloud_share')
  server.bands[f'GOOGLE/CLOUD_SCORE_PLUS/V1/S2_HARMONIZED/{scene.id}'] = {'cs': 'cs.tif'}
  score = of_file(folder, 'cs')[::4, ::4][1:]
  assert source(cloud_score=True).cloud_share(scene, GRID) == pytest.approx((score < 0.6).mean())
  server.faults = [[':computePixels', 'status:404', 1]]
  assert source(cloud_score=True).cloud_share(scene, GRID) is None


def test_bad_arguments_are_named():
  with pytest.raises(ValueError, match='s2_collection or s1_collection'):
    earthengine.EarthEngine(s2_collection='', s1_collection='')
  with pytest.raises(ValueError, match='the known ones begin with COPERNICUS/S2'):
    earthengine.EarthEngine(s2_collection='LANDSAT/LC08')
  with pytest.raises(ValueError, match='the known ones are COPERNICUS/S1_GRD'):
    earthengine.EarthEngine(s1_collection='COPERNICUS/S1')


def test_a_corpus_from_a_platform_that_stumbles(server, key_file, folder, tmp_path):
  config = common.get_config('earthengine')
  config.patches, config.patch_px, config.workers = 4, 32, 0
  config.points.bbox = '9.0,50.47,9.09,50.52'
  config.period.start, config.period.end = '2020-04-01', '2020-04-13'
  config.source.update(key_file=key_file, url=server.url, s2_bands=['B2', 'B4'], attempts=4, timeout_s=0.5)
  server.slow_s = 1.0
  # No more in a row than there are attempts.
  server.faults = [[':listAssets', fault, 1] for fault in FAULTS[::2]] + [
    ['Pixels', fault, 1] for fault in FAULTS[1::2]
  ]
  server.faults += [[':getPixels', 'status:404', 1]]
  fetched.check(config, tmp_path / 'out', folder / 'B4.tif', lambda pixels: pixels)
  assert all(server.seen[fault] == 1 for fault in FAULTS)


def test_a_platform_that_lets_no_one_in_fails_before_the_first_patch(server, key_file, tmp_path):
  config = common.get_config('earthengine')
  config.points.bbox, config.workers = '9.0,50.47,9.09,50.52', 0
  config.source.update(key_file=key_file, url=server.url, attempts=1)
  server.faults = [['/token', 'status:400', 9]]
  with pytest.raises(ValueError, match='did not let us in'):
    corpus.run(config, tmp_path / 'out')
  assert (manifest.read(tmp_path / 'out')['state'] == 'planned').all()

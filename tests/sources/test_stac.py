"""STAC sources: the real pystac-client and rasterio against a server on loopback that fails in every usual way."""

import datetime
import json
import os
import pathlib
import pickle

import numpy as np
import pystac
import pytest
import rasterio
import shapely

from configs.corpora import common
from deepsentinel.sources import base, remote, stac
from tests.sources import fetched, scene_files, stac_server

DATA = pathlib.Path(os.environ.get('DEEPSENTINEL_DATA', '../shared/data')) / 'stac'
GRID = base.PatchGrid(32632, 500_000.0, 5_600_000.0, 32, 32)
SIDE = 2048  # more than one piece of a file is fetched
BANDS = ('B2', 'B4', 'VV', 'VH')
SPRING = (datetime.datetime(2020, 4, 1, tzinfo=datetime.UTC), datetime.datetime(2020, 5, 1, tzinfo=datetime.UTC))
FAULTS = ('status:429', 'status:500', 'status:503', 'reset', 'truncated', 'slow')


def write(path: pathlib.Path, values: np.ndarray) -> None:
  with rasterio.open(
    path, 'w', driver='GTiff', height=SIDE, width=SIDE, count=1, dtype=values.dtype, crs='EPSG:32632',
    transform=rasterio.transform.from_origin(GRID.x0_m - 1000, GRID.y0_m + 1000, 10, 10), tiled=True,
    compress='deflate', nodata=0,
  ) as file:  # fmt: skip
    file.write(values[None])


def item(day: str, sensor: str, files: dict[str, str], collection: str = '', **properties) -> dict:
  collection = collection or {'sentinel2': 'sentinel-2-c1-l2a', 'sentinel1': 'sentinel-1-rtc'}[sensor]
  west, south, east, north = 8.8, 50.2, 9.4, 50.7
  scale = [{'nodata': 0, 'scale': 0.0001, 'offset': -0.1, 'spatial_resolution': 10}]
  return {
    'type': 'Feature', 'stac_version': '1.0.0', 'id': f'{sensor}_{day}', 'collection': collection, 'links': [],
    'bbox': [west, south, east, north], 'geometry': shapely.geometry.mapping(shapely.box(west, south, east, north)),
    'properties': {
      'datetime': f'{day}T10:20:30Z', 'platform': f'sentinel-{sensor[-1]}a', 'sat:orbit_state': 'descending',
      'sat:relative_orbit': 65, 'eo:cloud_cover': 12.5, 's2:processing_baseline': '05.00', **properties,
    },
    'assets': {
      key: {'href': href, 'type': 'image/tiff', 'raster:bands': scale if sensor == 'sentinel2' else [{'nodata': 0}]}
      for key, href in files.items()
    },
  }  # fmt: skip


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """The files of a store: two optical bands and two of radar, larger than one piece of a range read."""
  path = tmp_path_factory.mktemp('store')
  rng = np.random.default_rng(0)
  for name in ('blue', 'red'):
    write(path / f'{name}.tif', rng.integers(1001, 6000, (SIDE, SIDE), np.uint16))
  for name in ('vv', 'vh'):
    write(path / f'{name}.tif', rng.gamma(4.4, 0.02, (SIDE, SIDE)).astype(np.float32))
  return path


@pytest.fixture
def server(folder):
  with stac_server.StacServer(folder).running() as server:
    optical = {name: f'{server.url}/data/{name}.tif' for name in ('blue', 'red')}
    radar = {name: f'{server.url}/data/{name}.tif' for name in ('vv', 'vh')}
    days = ('2020-03-31', '2020-04-02', '2020-04-07', '2020-04-12', '2020-04-17', '2020-05-01')
    server.items = [item(day, 'sentinel2', optical) for day in days] + [item('2020-04-08', 'sentinel1', radar)]
    yield server


def source(server, **changes) -> stac.StacScenes:
  arguments = {
    'url': server.url, 's2_collection': 'sentinel-2-c1-l2a', 's1_collection': 'sentinel-1-rtc',
    's2_bands': ('B2', 'B4'), 'attempts': 4, 'timeout_s': 0.5,
  }  # fmt: skip
  return stac.StacScenes(**(arguments | changes))


def outline():
  return GRID.outline_lonlat()


def of_file(folder, name: str) -> np.ndarray:
  with rasterio.open(folder / f'{name}.tif') as file:
    return file.read(1, window=rasterio.windows.Window(100, 100, 32, 32))


def test_pages_are_followed_and_the_end_is_not_included(server):
  here = source(server)
  assert isinstance(here, base.ImagerySource)
  found = here.search('sentinel2', outline(), *SPRING)
  assert [scene.id[-5:] for scene in found] == ['04-02', '04-07', '04-12', '04-17']
  assert here.search('sentinel2', outline(), SPRING[0], found[-1].time)[-1].id.endswith('04-12')
  scene = found[0]
  assert (scene.orbit_pass, scene.relative_orbit) == ('descending', 65)
  assert scene.metadata['cloud_share'] == 0.125
  assert scene.metadata['processing_baseline'] == '05.00'
  assert here.search('sentinel2', shapely.box(20, 20, 21, 21), *SPRING) == []
  assert here.spec.bands == BANDS
  assert here.spec.s1_quantity == 'gamma0_terrain'


def test_pixels_are_those_of_the_files(server, folder):
  here = pickle.loads(pickle.dumps(source(server)))
  (scene, *_) = here.search('sentinel2', outline(), *SPRING)
  patch = here.read(pickle.loads(pickle.dumps(scene)), GRID, ('B4', 'B2'))
  assert patch.unit == 'reflectance_x1e4_plus1000'
  np.testing.assert_array_equal(patch.values, np.stack([of_file(folder, 'red'), of_file(folder, 'blue')], 2))
  np.testing.assert_array_equal(patch.to_storage(), patch.values - 1000)
  (radar,) = here.search('sentinel1', outline(), *SPRING)
  patch = here.read(radar, GRID, ('VV', 'VH'))
  assert patch.unit == 'power'
  np.testing.assert_array_equal(patch.values[..., 0], of_file(folder, 'vv'))
  # A patch is a header and a few tiles, not a file.
  assert server.seen['GET'] <= 2 + 4 * 3


@pytest.mark.parametrize('fault', FAULTS)
def test_a_platform_that_stumbles_gives_the_same(server, folder, fault):
  server.slow_s = 1.0
  server.faults = [['^/search', fault, 1], ['^/data/red', fault, 2], ['^/data/vv', fault, 1]]
  here = source(server)
  (scene, *rest) = here.search('sentinel2', outline(), *SPRING)
  assert len(rest) == 3
  np.testing.assert_array_equal(here.read(scene, GRID, ('B4',)).values[..., 0], of_file(folder, 'red'))
  (radar,) = here.search('sentinel1', outline(), *SPRING)
  np.testing.assert_array_equal(here.read(radar, GRID, ('VV',)).values[..., 0], of_file(folder, 'vv'))
  assert server.seen[fault] == 4


@pytest.mark.parametrize(
  ('fault', 'message'),
  [
    ('status:500', 'red.tif: 500 Internal Server Error in 2 attempts'),
    ('truncated', 'red.tif gave no whole answer in 2 attempts'),
    ('status:404', 'red.tif is not there .404.'),
    ('status:403', r'red.tif is not open to this request .403 Forbidden.*Pass sign='),
  ],
)
def test_a_platform_that_stays_down_is_named(server, fault, message):
  here = source(server, attempts=2)
  (scene, *_) = here.search('sentinel2', outline(), *SPRING)
  server.faults = [['^/data/red', fault, 99]]
  with pytest.raises(ValueError, match=message):
    here.read(scene, GRID, ('B4',))
  server.faults = [['^/search', 'status:500', 99]]
  with pytest.raises(remote.NoAnswer, match=r'http://127.* gave no answer in 2 attempts'):
    here.search('sentinel2', outline(), *SPRING)
  server.faults = [['^/search', 'status:429', 99]]
  with pytest.raises(remote.QuotaError, match=r'http://127.* gave no answer in 2 attempts'):
    here.search('sentinel2', outline(), *SPRING)
  server.faults = [['^/search', 'status:400', 99]]
  with pytest.raises(remote.BadRequest, match=r'http://127.* gave no answer'):
    here.search('sentinel2', outline(), *SPRING)


_TOKENS = ['old', 'new']


def renewed(url: str) -> str:
  """As a signer whose token ran out: the first URL it gives is refused."""
  return f'{url}?token={_TOKENS.pop(0) if len(_TOKENS) > 1 else _TOKENS[0]}'


def test_a_token_that_ran_out_is_renewed_and_never_shown(server, folder):
  server.token = 'new'
  here = source(server, sign='tests.sources.test_stac:renewed')
  (scene, *_) = here.search('sentinel2', outline(), *SPRING)
  np.testing.assert_array_equal(here.read(scene, GRID, ('B4',)).values[..., 0], of_file(folder, 'red'))
  server.token = 'another'
  with pytest.raises(remote.Denied, match='a token that is not taken') as error:
    here.read(scene, GRID, ('B4',))
  assert 'token=' not in str(error.value)
  with pytest.raises(ValueError, match=r"sign='no_such:thing'.*pip install no-such"):
    source(server, sign='no_such:thing').read(scene, GRID, ('B4',))


def test_a_file_that_is_no_raster_is_named(server, folder, tmp_path):
  (folder / 'page.tif').write_text('<html>sorry</html>')
  server.items = [item('2020-04-02', 'sentinel2', {n: f'{server.url}/data/page.tif' for n in ('blue', 'red')})]
  here = source(server)
  (scene,) = here.search('sentinel2', outline(), *SPRING)
  with pytest.raises(ValueError, match=r'page.tif cannot be read.*fetch it again'):
    here.read(scene, GRID, ('B4',))
  with pytest.raises(ValueError, match=r'has no band.s. B8; it has B2, B4'):
    here.read(scene, GRID, ('B8',))


@pytest.mark.parametrize(
  ('properties', 'changes', 'message'),
  [
    ({'earthsearch:boa_offset_applied': False}, {}, 'does not say, or not reliably, in what unit.*State s2_unit'),
    ({}, {'s2_level': 'L1C', 's2_collection': 'sentinel-2-c1-l2a'}, "says L2A; s2_level is 'L1C'"),
    ({'s2:processing_baseline': None}, {'s2_unit': 'product'}, 'does not say its processing baseline'),
    ({'platform': 'sentinel-1a'}, {}, 'is of sentinel1'),
  ],
)
def test_what_an_item_says_is_checked(server, properties, changes, message):
  files = {name: f'{server.url}/data/{name}.tif' for name in ('blue', 'red')}
  server.items = [item('2020-04-02', 'sentinel2', files, **properties)]
  with pytest.raises(ValueError, match=message):
    source(server, **changes).search('sentinel2', outline(), *SPRING)


def test_units_follow_the_catalogue(server):
  def unit(changes: dict, **properties) -> str:
    server.items = [item('2020-04-02', 'sentinel2', dict.fromkeys(('blue', 'red'), 'x'), **properties)]
    (scene,) = source(server, **changes).search('sentinel2', outline(), *SPRING)
    return scene.metadata['unit']

  assert unit({}) == 'reflectance_x1e4_plus1000'
  assert unit({}, **{'earthsearch:boa_offset_applied': True}) == 'reflectance_x1e4'
  assert unit({'s2_unit': 'product'}) == 'reflectance_x1e4_plus1000'
  assert unit({'s2_unit': 'product'}, **{'s2:processing_baseline': '02.14'}) == 'reflectance_x1e4'
  assert unit({'s2_unit': 'reflectance_x1e4'}) == 'reflectance_x1e4'


def test_an_item_of_no_known_baseline_is_left_out_where_its_offset_would_be_guessed(server):
  files = dict.fromkeys(('blue', 'red'), 'x')
  days = {'2020-04-02': '05.00', '2020-04-07': '99.99'}
  server.items = [item(day, 'sentinel2', files, **{'s2:processing_baseline': b}) for day, b in days.items()]
  (scene,) = source(server, s2_unit='product').search('sentinel2', outline(), *SPRING)
  assert scene.id.endswith('04-02')
  assert len(source(server, s2_unit='reflectance_x1e4').search('sentinel2', outline(), *SPRING)) == 2


def test_outlines_that_run_the_wrong_way_round_the_globe(server):
  """A tile across the antimeridian whose outline goes through Greenwich, and one of half the world."""
  files = dict.fromkeys(('blue', 'red'), 'x')
  across, world = item('2020-04-02', 'sentinel2', files), item('2020-04-07', 'sentinel2', files)
  ring = [[179.2, -41], [-179.5, -41], [-179.5, -42], [179.2, -42], [179.2, -41]]
  across['geometry'] = {'type': 'Polygon', 'coordinates': [ring]}
  world['geometry'] = shapely.geometry.mapping(shapely.box(-170, -90, 180, -35))
  server.items = [across, world]
  (scene,) = source(server).search('sentinel2', shapely.box(-180, -90, 180, 90), *SPRING)
  assert scene.footprint.equals(shapely.union(shapely.box(179.2, -42, 180, -41), shapely.box(-180, -42, -179.5, -41)))


def test_an_item_of_stac_1_1_says_the_same(server):
  """As the Copernicus Data Space writes them: finest of several assets a band, scale and nodata in the asset itself."""
  about = {'data_type': 'uint16', 'nodata': 0, 'raster:scale': 0.0001, 'raster:offset': -0.1}
  assets = {
    f'{band}_{m}m': {'href': f's3://eodata/{band}_{m}m.jp2', 'gsd': m, 'bands': [{'name': band}], **about}
    for band in ('B02', 'B04')
    for m in (60, 10, 20)
  }
  made = item('2020-04-02', 'sentinel2', {}, **{'processing:version': '05.11', 's2:processing_baseline': None})
  server.items = [
    {**made, 'stac_version': '1.1.0', 'assets': {'thumbnail': {'href': 'x', 'type': 'image/jpeg'}, **assets}}
  ]
  for arguments in ({}, {'s2_unit': 'product'}):
    (scene,) = source(server, **arguments).search('sentinel2', outline(), *SPRING)
    assert scene.metadata['unit'] == 'reflectance_x1e4_plus1000'
    assert scene.metadata['hrefs'] == {'B2': 's3://eodata/B02_10m.jp2', 'B4': 's3://eodata/B04_10m.jp2'}
    assert scene.metadata['nodata'] == {'B2': 0.0, 'B4': 0.0}


def test_a_server_without_ranges_is_named(server, folder, monkeypatch):
  (scene, *_) = source(server).search('sentinel2', outline(), *SPRING)
  monkeypatch.setattr(stac_server.StacServer, 'ranges', False)
  with pytest.raises(ValueError, match='comes whole only'):
    source(server).read(scene, GRID, ('B4',))


def test_bad_arguments_are_named():
  with pytest.raises(ValueError, match='s2_collection or s1_collection'):
    stac.StacScenes('http://x', s2_collection='')
  with pytest.raises(ValueError, match=r"s1_quantity=... of the collection 'sentinel-1-grd'"):
    stac.StacScenes('http://x', s1_collection='sentinel-1-grd')
  with pytest.raises(ValueError, match='attempts must be 1 or more'):
    stac.StacScenes('http://x', attempts=0)
  with pytest.raises(ValueError, match='Unknown s2_unit'):
    stac.StacScenes('http://x', s2_unit='metres')


def test_a_static_catalogue_is_walked(server, folder, tmp_path):
  catalogue = pystac.Catalog('c', 'c')
  for content in server.items:
    content['assets'] = {
      k: {**a, 'href': str(folder / a['href'].rpartition('/')[2])} for k, a in content['assets'].items()
    }
    catalogue.add_item(pystac.Item.from_dict(content))
  catalogue.normalize_and_save(str(tmp_path / 'c'), pystac.CatalogType.SELF_CONTAINED)
  here = source(server, url=str(tmp_path / 'c' / 'catalog.json'))
  found = here.search('sentinel2', outline(), *SPRING)
  assert [scene.id[-5:] for scene in found] == ['04-02', '04-07', '04-12', '04-17']
  np.testing.assert_array_equal(here.read(found[0], GRID, ('B4',)).values[..., 0], of_file(folder, 'red'))
  items = [{**c, 'assets': {k: {**a, 'href': f'./{pathlib.Path(a["href"]).name}'} for k, a in c['assets'].items()}}
           for c in server.items]  # fmt: skip
  (folder / 'items.json').write_text(json.dumps(items))
  beside = source(server, url=str(folder / 'items.json'))
  (first, *_) = beside.search('sentinel2', outline(), *SPRING)
  np.testing.assert_array_equal(beside.read(first, GRID, ('B4',)).values[..., 0], of_file(folder, 'red'))
  with pytest.raises(ValueError, match=r'has no item of nothing.*its items are of sentinel-1-rtc, sentinel-2-c1-l2a'):
    source(server, url=here.url, s2_collection='nothing', s1_collection='').search('sentinel2', outline(), *SPRING)
  (tmp_path / 'no.json').write_text('{"a": 1}')
  with pytest.raises(ValueError, match='neither a STAC catalogue nor a list'):
    source(server, url=str(tmp_path / 'no.json')).search('sentinel2', outline(), *SPRING)


@pytest.mark.skipif(not DATA.is_dir(), reason='no real STAC items here (DEEPSENTINEL_DATA)')
def test_real_items_are_understood():
  year = (datetime.datetime(2015, 1, 1, tzinfo=datetime.UTC), datetime.datetime(2025, 1, 1, tzinfo=datetime.UTC))
  world = shapely.box(-180, -90, 180, 90)
  here = stac.StacScenes(str(DATA / 'sentinel-2-l2a-pc.json'), s2_unit='product')
  scenes = here.search('sentinel2', world, *year)
  assert len(scenes) == 4
  assert {scene.metadata['unit'] for scene in scenes} == {'reflectance_x1e4_plus1000'}
  assert scenes[0].metadata['hrefs']['B2'].endswith('_B02_10m.tif')
  with pytest.raises(ValueError, match='State s2_unit'):
    stac.StacScenes(here.url).search('sentinel2', world, *year)
  radar = stac.StacScenes(str(DATA / 'sentinel-1-rtc-pc.json'), s2_collection='', s1_collection='sentinel-1-rtc')
  scenes = radar.search('sentinel1', world, *year)
  assert scenes
  assert {(s.metadata['unit'], s.metadata['nodata']['VV']) for s in scenes} == {('power', -32768)}
  series = stac.StacScenes(str(DATA / 'site2-2020_jun_jul-35MNM.geojson'), s2_unit='product')
  scenes = series.search('sentinel2', world, *year)
  assert len(scenes) == 13
  assert {scene.metadata['unit'] for scene in scenes} == {'reflectance_x1e4'}


@pytest.mark.skipif(not DATA.is_dir(), reason='no real STAC items here (DEEPSENTINEL_DATA)')
@pytest.mark.parametrize(
  ('file', 'collection', 'scl'),
  [
    ('sentinel-2-l2a-pc.json', 'sentinel-2-l2a', '_SCL_20m.tif'),
    ('site2-2020_jun_jul-35MNM.geojson', 'sentinel-2-l2a', '_SCL_20m.tif'),
    ('sentinel2_l2a/S2A_T07HFE_20190212T192646_L2A.json', 'sentinel2-l2a-example', '_SCL_20m.tif'),
  ],
)
def test_the_cloud_mask_of_real_items(server, folder, file, collection, scl):
  """Their own words of where the classification lies, served here: signed, by range reads, on the patch's pixels."""
  content = json.loads((DATA / file).read_text())
  (real, *_) = content if isinstance(content, list) else content.get('features', [content])
  x, y = real['assets']['SCL' if 'SCL' in real['assets'] else 'scl']['proj:bbox'][0::3]
  classes = np.random.default_rng(1).integers(0, 12, (40, 40), np.uint8)
  for asset in real['assets'].values():
    asset['href'] = f'{server.url}/data/{asset["href"].rpartition("/")[2]}'
  name = next(a['href'] for a in real['assets'].values() if a['href'].endswith(scl)).rpartition('/')[2]
  epsg = real['properties']['proj:epsg']
  scene_files.write(folder / name, classes[None], pixel=20.0, epsg=epsg, x=x, y=y, nodata=0)
  server.items, server.token = [real], 'new'
  _TOKENS[:] = ['old', 'new']
  here = source(server, s2_collection=collection, s1_collection='', s2_unit='product', s2_bands=('B4',),
                sign='tests.sources.test_stac:renewed')  # fmt: skip
  time = datetime.datetime.fromisoformat(real['properties']['datetime'])
  day = datetime.timedelta(days=1)
  (scene,) = here.search('sentinel2', shapely.geometry.shape(real['geometry']), time - day, time + day)
  scene = pickle.loads(pickle.dumps(scene))
  assert here.cloud_mask_of(scene) == 'scene classification (SCL)'
  mask = here.cloud_mask(scene, base.PatchGrid(epsg, x + 100, y - 60, 30, 32))
  hidden = np.isin(classes, (0, 1, 3, 8, 9, 10)).repeat(2, 0).repeat(2, 1)
  np.testing.assert_array_equal(mask, hidden[6:36, 10:42])
  server.faults = [[f'^/data/{name}', 'status:404', 9]]
  with pytest.raises(ValueError, match=r'SCL_20m.tif is not there'):
    here.cloud_mask(scene, base.PatchGrid(epsg, x + 100, y - 60, 30, 32))


def test_an_item_without_a_classification_has_no_cloud_mask(server):
  (scene, *_) = source(server).search('sentinel2', outline(), *SPRING)
  for asked in (source(server).cloud_mask_of, lambda scene: source(server).cloud_mask(scene, GRID)):
    with pytest.raises(ValueError, match=rf'{scene.id} of .* lists no scene classification.*Take a collection'):
      asked(scene)


def test_a_corpus_through_a_catalogue_that_stumbles(server, folder, tmp_path):
  """Nothing lost, nothing twice, nothing silently wrong; what failed for good is tried again when asked."""
  config = common.get_config()
  config.patches, config.patch_px, config.workers = 4, 32, 0
  config.points.bbox = '9.0,50.45,9.15,50.52'
  config.period.start, config.period.end = '2020-04-01', '2020-04-13'
  config.source = {
    'name': 'stac', 'url': server.url, 's2_collection': 'sentinel-2-c1-l2a', 's1_collection': 'sentinel-1-rtc',
    's2_bands': ['B2', 'B4'], 'attempts': 4, 'timeout_s': 0.5,
  }  # fmt: skip
  server.slow_s = 1.0
  # No more in a row than there are attempts.
  server.faults = [['^/search', fault, 1] for fault in FAULTS[::2]] + [['^/data/', fault, 1] for fault in FAULTS[1::2]]
  server.faults += [['^/data/vh', 'status:404', 1]]
  reason = 'vh.tif is not there (404)'
  fetched.check(config, tmp_path / 'out', folder / 'red.tif', lambda pixels: pixels - 1000, reason)
  assert all(server.seen[fault] == 1 for fault in FAULTS)
  assert json.loads((tmp_path / 'out' / 'corpus.json').read_text())['synthetic'] is False

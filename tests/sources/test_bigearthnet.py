"""BigEarthNet in its three forms: grids, times, units, classes; and the tile arithmetic behind them."""

import concurrent.futures
import json
import multiprocessing
import pickle

import lmdb
import numpy as np
import pandas as pd
import pytest
import rasterio
import safetensors.numpy

from deepsentinel import legend, sensors
from deepsentinel.sources import base, bigearthnet, mgrs, sidecar


@pytest.mark.parametrize(
  ('tile', 'corner'),
  [
    # From product metadata: BigEarthNet's JSON (33UUP, 29UPU, 35VPK), Earth Engine's crs_transform (43RCP),
    # STAC items' proj:transform (35MNM and 07HFE, both south of the equator).
    ('33UUP', (32633, 300_000, 5_400_000)),
    ('T29UPU', (32629, 600_000, 5_900_040)),
    ('35VPK', (32635, 600_000, 7_000_020)),
    ('43RCP', (32643, 300_000, 3_400_020)),
    ('35MNM', (32735, 499_980, 9_200_020)),
    ('07HFE', (32707, 600_000, 6_500_020)),
  ],
)
def test_tile_corners(tile, corner):
  assert mgrs.tile_corner(tile) == corner


@pytest.mark.parametrize('lat', range(-79, 84, 6))
@pytest.mark.parametrize('lon', [-178.5, -122.4, -58.3, 2.9, 9.7, 15.0, 178.5])
def test_tile_corner_from_the_letters_of_a_point(lon, lat):
  # The MGRS name of a point, by the textbook and forwards; the tile it names must hold the point.
  zone = int((lon + 180) // 6) + 1
  epsg = (32600 if lat >= 0 else 32700) + zone
  x, y = base.transformer(4326, epsg).transform(lon, lat)
  band = 'CDEFGHJKLMNPQRSTUVWX'[min((lat + 80) // 8, 19)]
  column = ['STUVWXYZ', 'ABCDEFGH', 'JKLMNPQR'][zone % 3][int(x // 100_000) - 1]
  rows = 'ABCDEFGHJKLMNPQRSTUV'
  row = rows[(int(y // 100_000) + (5 if zone % 2 == 0 else 0)) % 20]
  got_epsg, left, top = mgrs.tile_corner(f'{zone:02d}{band}{column}{row}')
  assert got_epsg == epsg
  assert left <= x <= left + 109_800
  assert top - 109_800 <= y <= top


@pytest.mark.parametrize('name', ['33UU', '00UUP', '61UUP', '33UAP', '33IUP', 'UUP33', ''])
def test_no_tile(name):
  with pytest.raises(ValueError, match=r'tile|square column'):
    mgrs.tile_corner(name)


# A small dataset in each form.

V2_S2 = 'S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_57'
V2_S1 = 'S1B_IW_GRDH_1SDV_20170612T165809_33UUP_26_57'
NATIVE = {'B01': 20, 'B02': 120, 'B03': 120, 'B04': 120, 'B05': 60, 'B06': 60, 'B07': 60, 'B08': 120, 'B8A': 60}
NATIVE |= {'B09': 20, 'B11': 60, 'B12': 60}


@pytest.fixture
def arrays():
  rng = np.random.default_rng(1)
  s2 = {b: rng.integers(1, 5000, (n, n)).astype(np.uint16) for b, n in NATIVE.items()}
  s1 = {b: rng.normal(-12, 3, (120, 120)).astype(np.float32) for b in ('VV', 'VH')}
  s2['B02'][0, 0] = 0
  return s2, s1


def write_bands(folder, arrays, left=331_200.0, top=5_331_600.0, epsg=32633):
  folder.mkdir(parents=True)
  for band, values in arrays.items():
    size = 1200 / len(values)
    profile = {'driver': 'GTiff', 'height': len(values), 'width': len(values), 'count': 1, 'dtype': values.dtype}
    transform = rasterio.Affine(size, 0, left, 0, -size, top)
    with rasterio.open(folder / f'{folder.name}_{band}.tif', 'w', **profile, crs=epsg, transform=transform) as f:
      f.write(values, 1)


def write_table(folder, rows):
  defaults = {
    'split': 'train',
    'country': 'Austria',
    'contains_seasonal_snow': False,
    'contains_cloud_or_shadow': False,
  }
  pd.DataFrame([{**defaults, **r} for r in rows]).to_parquet(folder / 'metadata.parquet')


@pytest.fixture(params=bigearthnet.LAYOUTS)
def dataset(request, tmp_path, arrays):
  s2, s1 = arrays
  if request.param == 'v1':
    s2_name, s1_name = 'S2A_MSIL2A_20170613T101031_26_57', V2_S1
    write_bands(tmp_path / 'BigEarthNet-S2' / s2_name, s2)
    write_bands(tmp_path / 'BigEarthNet-S1' / s1_name, s1)
    common = {'labels': ['Pastures', 'Mixed forest'], 'coordinates': {'ulx': 331200, 'uly': 5331600}}
    item = {
      'tile_source': 'S2A_MSIL1C_20170613T101031_N0205_R022_T33UUP_x.SAFE',
      'acquisition_date': '2017-06-13 10:10:31',
    }
    path = tmp_path / 'BigEarthNet-S2' / s2_name / f'{s2_name}_labels_metadata.json'
    path.write_text(json.dumps(common | item))
    item = {'corresponding_s2_patch': s2_name, 'scene_source': 'x', 'acquisition_time': '2017-06-12T16:58:09'}
    path = tmp_path / 'BigEarthNet-S1' / s1_name / f'{s1_name}_labels_metadata.json'
    path.write_text(json.dumps(common | item))
  else:
    write_table(tmp_path, [{'patch_id': V2_S2, 's1_name': V2_S1, 'labels': ['Pastures', 'Mixed forest']}])
    if request.param == 'v2_geotiff':
      write_bands(tmp_path / 'BigEarthNet-S2' / V2_S2.rsplit('_', 2)[0] / V2_S2, s2)
      write_bands(tmp_path / 'BigEarthNet-S1' / V2_S1.rsplit('_', 3)[0] / V2_S1, s1)
    else:
      with lmdb.open(str(tmp_path / 'ben'), map_size=1 << 24) as environment, environment.begin(write=True) as t:
        t.put(V2_S2.encode(), safetensors.numpy.save(s2))
        t.put(V2_S1.encode(), safetensors.numpy.save(s1))
  return tmp_path, request.param


def test_every_form_gives_the_same_place_and_pixels(dataset, arrays):
  path, layout = dataset
  s2, s1 = arrays
  source = bigearthnet.BigEarthNet(str(path), layout)
  (place,) = source.places()
  assert place.grid == base.PatchGrid(32633, 331_200.0, 5_331_600.0, 120, 120)
  assert place.classes == ('Pastures', 'Mixed forest')
  assert place.scenes['sentinel2'].time.isoformat() == '2017-06-13T10:10:31+00:00'
  assert place.scenes['sentinel1'].time.isoformat() == '2017-06-12T16:58:09+00:00'
  assert source.labels(place) == {}
  assert {source.grid(s) for s in place.scenes.values()} == {place.grid}
  assert isinstance(source, base.PlacedSource)

  radar = source.read(place.scenes['sentinel1'], place.grid, ('VH', 'VV'))
  assert (radar.unit, radar.bands) == ('db', ('VH', 'VV'))
  np.testing.assert_array_equal(radar.values[..., 0], s1['VH'])
  np.testing.assert_array_equal(radar.values[..., 1], s1['VV'])

  optical = source.read(place.scenes['sentinel2'], place.grid, ('B2', 'B8'))
  assert optical.values.dtype == np.uint16
  np.testing.assert_array_equal(optical.values[..., 0], s2['B02'])
  np.testing.assert_array_equal(optical.values[..., 1], s2['B08'])
  assert optical.to_storage()[0, 0, 0] == 0

  everything = source.read(place.scenes['sentinel2'], place.grid, source.spec.s2_bands)
  np.testing.assert_array_equal(np.nan_to_num(everything.values[..., 1]), s2['B02'])
  # 20 m pixels onto 10 m: a new pixel lies a quarter of an old one away from the nearest centre, in both directions.
  b5 = s2['B05'].astype(float)
  row = 0.75 * b5[10] + 0.25 * b5[9]  # the upper half of old row 10
  assert everything.values[20, 41, 4] == pytest.approx(0.75 * row[20] + 0.25 * row[21], rel=1e-5)

  found = source.search('sentinel2', place.scenes['sentinel2'].footprint, *_day('2017-06-13'))
  assert [s.id for s in found] == [place.scenes['sentinel2'].id]
  with pytest.raises(ValueError, match=r'is of sentinel2; bands .*VV'):
    source.read(place.scenes['sentinel2'], place.grid, ('VV',))


def _day(date):
  start = sidecar.parse_time(date, 'test')
  return start, start.replace(hour=23)


def test_a_form_that_is_not_there(tmp_path):
  with pytest.raises(ValueError, match=r"layout 'v3'\. Known: v1, v2_geotiff, v2_lmdb"):
    bigearthnet.BigEarthNet(str(tmp_path), 'v3')
  with pytest.raises(ValueError, match=r"holds no data\.mdb, which layout='v2_lmdb' needs.*layout="):
    bigearthnet.BigEarthNet(str(tmp_path), 'v2_lmdb')
  with pytest.raises(ValueError, match=r'holds no BigEarthNet-S2'):
    bigearthnet.BigEarthNet(str(tmp_path), 'v1')


def test_lmdb_that_lacks_its_table_or_a_patch(tmp_path, arrays):
  with lmdb.open(str(tmp_path / 'ben'), map_size=1 << 24) as environment, environment.begin(write=True) as t:
    t.put(V2_S2.encode(), safetensors.numpy.save(arrays[0]))
  with pytest.raises(ValueError, match=r'no metadata\.parquet in it or beside it'):
    list(bigearthnet.BigEarthNet(str(tmp_path), 'v2_lmdb').places())
  write_table(tmp_path, [{'patch_id': V2_S2, 's1_name': V2_S1, 'labels': ['Pastures']}])
  with pytest.raises(ValueError, match=r'pairs_only=True leaves out those that lack a sensor'):
    list(bigearthnet.BigEarthNet(str(tmp_path), 'v2_lmdb').places())
  source = bigearthnet.BigEarthNet(str(tmp_path), 'v2_lmdb', pairs_only=False)
  (place,) = source.places()
  assert list(place.scenes) == ['sentinel2']
  gone = base.Scene('S1_gone', 'sentinel1', place.scenes['sentinel2'].footprint, place.scenes['sentinel2'].time)
  with pytest.raises(ValueError, match="no patch 'S1_gone'"):
    source.read(gone, place.grid, ('VV',))


# Real data.


@pytest.fixture(scope='module')
def pairs(real_data):
  source = bigearthnet.BigEarthNet(str(real_data / 'bigearthnet_v2'), 'v2_lmdb')
  return source, {place.id: place for place in source.places()}


def test_24_real_pairs(pairs):
  _, places = pairs
  assert len(places) == 24
  for place in places.values():
    s2, s1 = place.scenes['sentinel2'], place.scenes['sentinel1']
    if 'T33UUP' in place.id:
      assert (place.grid.epsg, s2.time.isoformat()) == (32633, '2017-06-13T10:10:31+00:00')
      h, v = map(int, place.id.split('_')[-2:])
      assert (place.grid.x0_m, place.grid.y0_m) == (300_000 + 1200 * h, 5_400_000 - 1200 * v)  # data's README
    else:
      assert (place.grid.epsg, s2.time.isoformat()) == (32635, '2017-11-01T09:41:31+00:00')
      assert s2.metadata['contains_seasonal_snow']
    assert abs((s2.time - s1.time).total_seconds()) < 24 * 3600
    assert place.classes
  cloudy = [i for i, p in places.items() if p.scenes['sentinel2'].metadata['contains_cloud_or_shadow']]
  assert [i[-5:] for i in cloudy] == ['38_58', '38_87', '70_40']


def test_real_units(pairs):
  source, places = pairs
  s2, s1 = [], []
  for place in places.values():
    s2.append(source.read(place.scenes['sentinel2'], place.grid, ('B2', 'B4', 'B8')).to_storage())
    s1.append(source.read(place.scenes['sentinel1'], place.grid, ('VV', 'VH')).to_storage())
  dark = np.percentile(np.stack(s2[:18])[..., 0], 1)
  assert 50 < dark < 500  # an offset would put dark forest above 1,000
  vv, vh = np.median(np.stack(s1).reshape(-1, 2), axis=0) / 100
  assert -14 < vv < -6
  assert 4 < vv - vh < 9
  assert (np.stack(s1) != sensors.S1_NODATA).all()


def test_real_patches_join_without_a_seam(pairs):
  source, places = pairs
  picked = {p.id[-5:]: p for p in places.values() if p.id[-5:] in {f'{h}_{v}' for h in (37, 38) for v in (88, 89, 90)}}
  assert len(picked) == 6
  mosaic = np.zeros((360, 240), float)
  corner = picked['37_88'].grid
  for place in picked.values():
    patch = source.read(place.scenes['sentinel2'], place.grid, ('B8',))
    row = round((corner.y0_m - place.grid.y0_m) / 10)
    col = round((place.grid.x0_m - corner.x0_m) / 10)
    mosaic[row : row + 120, col : col + 120] = patch.values[..., 0]
  assert (mosaic > 0).all()
  # Across a seam pixels differ no more than they do one pixel beside it.
  across, beside = np.abs(np.diff(mosaic, axis=0)), np.abs(np.diff(mosaic, axis=1))
  for steps, at in ((across.mean(axis=1), (119, 239)), (beside.mean(axis=0), (119,))):
    for seam in at:
      others = np.delete(steps[seam - 10 : seam + 11], 10)
      assert steps[seam] < others.mean() + 3 * others.std()


def test_real_labels_lie_on_the_pixels(pairs):
  source, places = pairs
  with_maps = {p.id: source.labels(p) for p in places.values() if source.labels(p)}
  assert list(with_maps) == [V2_S2]
  labels = with_maps[V2_S2]['corine']
  codes = {legend.CORINE[i - 1].code for i in np.unique(labels)}
  assert codes == {211, 231, 311, 313}
  place = places[V2_S2]
  red = source.read(place.scenes['sentinel2'], place.grid, ('B4',)).values[..., 0].astype(float)
  forest = np.isin(labels, [legend.CORINE_INDEX[311], legend.CORINE_INDEX[313]])
  # Forest is darker in red than fields; a label map turned or moved would lose most of the difference.
  difference = red[~forest].mean() - red[forest].mean()
  assert difference > 250
  for wrong in (np.flipud(forest), np.fliplr(forest), np.roll(forest, 30, 1)):
    assert red[~wrong].mean() - red[wrong].mean() < difference


def test_real_version_1(real_data):
  source = bigearthnet.BigEarthNet(str(real_data / 'bigearthnet_v1'), 'v1')
  places = {p.id: p for p in source.places()}
  assert len(places) == 4
  finland = places['S2B_MSIL2A_20170924T93020_69_24']
  assert finland.scenes['sentinel1'].time.isoformat() == '2017-09-25T04:32:56+00:00'
  assert 'Peatbogs' in finland.classes
  for place in places.values():
    folder = real_data / 'bigearthnet_v1' / 'BigEarthNet-S2' / place.id
    with rasterio.open(folder / f'{place.id}_B04.tif') as raster:
      assert raster.transform == place.grid.transform
      assert raster.crs.to_epsg() == place.grid.epsg
      expected = raster.read(1)
    patch = source.read(place.scenes['sentinel2'], place.grid, ('B4',))
    np.testing.assert_array_equal(patch.values[..., 0], expected)
  # Both sensors see the lake.
  s2 = source.read(finland.scenes['sentinel2'], finland.grid, ('B8',)).values[..., 0]
  s1 = source.read(finland.scenes['sentinel1'], finland.grid, ('VV',)).values[..., 0]
  water = s2 < 600
  assert 0.05 < water.mean() < 0.4
  assert s1[water].mean() < s1[~water].mean() - 5


def test_real_version_2_geotiffs_have_the_grid_their_names_say(real_data):
  root = real_data / 'bigearthnet_v2' / 'geotiff'
  source = bigearthnet.BigEarthNet(str(root), 'v2_geotiff', pairs_only=False)
  places = list(source.places())
  assert sorted(p.id[-5:] for p in places) == ['70_48', '75_43']
  for place in places:
    (scene,) = place.scenes.values()
    band = 'B2' if scene.sensor == 'sentinel2' else 'VV'
    (file,) = root.glob(f'*/*/{place.id}/*_{"B02" if band == "B2" else "VV"}.tif')
    with rasterio.open(file) as raster:
      assert raster.transform == place.grid.transform
      np.testing.assert_array_equal(source.read(scene, place.grid, (band,)).values[..., 0], raster.read(1))


def _mean(arguments):
  source, scene, grid = arguments
  return float(source.read(scene, grid, ('VV',)).values.mean())


def test_lmdb_in_worker_processes(pairs):
  source, places = pairs
  work = [(source, p.scenes['sentinel1'], p.grid) for p in list(places.values())[:4]]
  here = [_mean(w) for w in work]  # opened before the fork
  with concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context('fork')) as pool:
    assert list(pool.map(_mean, work)) == here
  assert _mean(pickle.loads(pickle.dumps(work[0]))) == here[0]


def test_mapped_only_keeps_the_patches_with_a_reference_map(real_data):
  source = bigearthnet.BigEarthNet(str(real_data / 'bigearthnet_v2'), 'v2_lmdb', mapped_only=True)
  (place,) = source.places()
  assert place.id.endswith('33UUP_26_57')
  assert set(np.unique(source.labels(place)['corine'])) <= {12, 18, 23, 24, 25}

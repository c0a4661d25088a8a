"""Local rasters: units and nodata, resampling by hand, metadata of many kinds, and what wrong inputs say."""

import csv
import datetime
import json
import pickle

import numpy as np
import pyproj
import pytest
import rasterio
import scipy.ndimage
import shapely

from deepsentinel import sensors
from deepsentinel.corpus import pairs
from deepsentinel.sources import base, local, raster, sidecar
from tests.sources.scene_files import EPSG, GRID, NAME, X, Y, only, random, write


def test_pixels_that_coincide_come_out_as_they_are(tmp_path):
  values = random((3, 60, 50))
  path = write(tmp_path / f'{NAME}.tif', values, x=X - 100, y=Y + 50, names=('B04', 'B08', 'B11'))
  source = local.LocalScenes(path, s2_unit='reflectance_x1e4')
  assert isinstance(source, base.ImagerySource)
  assert source.spec.bands == ('B4', 'B8', 'B11')
  assert source.synthetic is False
  patch = source.read(only(source), GRID, ('B11', 'B4'))
  assert patch.values.dtype == np.uint16
  assert patch.unit == 'reflectance_x1e4'
  np.testing.assert_array_equal(patch.values, values[[2, 0], 5:21, 10:26].transpose(1, 2, 0))
  assert patch.valid.all()
  # A radar file in float64 dB likewise: not through power and back.
  db = np.random.default_rng(1).normal(-12, 4, (2, 40, 40))
  path = write(tmp_path / 's1.tif', db, names=('VV', 'VH'))
  source = local.LocalScenes(path, s1_unit='db', s1_quantity='gamma0_terrain', times={'s1': '2020-06-02'})
  patch = source.read(only(source), GRID, ('VV', 'VH'))
  np.testing.assert_array_equal(patch.values, db[:, :16, :16].transpose(1, 2, 0))
  assert source.spec.s1_quantity == 'gamma0_terrain'


def test_a_patch_that_reaches_beyond_the_scene(tmp_path):
  values = random((1, 20, 20))
  source = local.LocalScenes(write(tmp_path / f'{NAME}.tif', values, names=('B2',)), s2_unit='reflectance_x1e4')
  patch = source.read(only(source), GRID.window(-4, 12, 16, 16), ('B2',))
  inside = np.zeros((16, 16), bool)
  inside[4:16, 0:8] = True
  np.testing.assert_array_equal(patch.valid, inside)
  np.testing.assert_array_equal(patch.to_storage()[..., 0] > 0, inside)
  np.testing.assert_array_equal(patch.values[4:, :8, 0], values[0, :12, 12:])
  away = source.read(only(source), base.PatchGrid(EPSG, X + 1e5, Y, 4, 4), ('B2',))
  assert not away.valid.any()


@pytest.mark.parametrize('unit', sensors.BACKSCATTER_UNITS)
def test_radar_is_averaged_in_power(tmp_path, unit):
  # Columns of -10 and -20 dB at 5 m; mean power is (0.1 + 0.01) / 2 = 0.055, that is -12.596 dB (not -15).
  power = np.tile([0.1, 0.01], (1, 40, 20))
  values = sensors.from_power(power, unit)
  values = np.rint(values).astype(np.int16) if unit == 'db_x100' else values.astype(np.float32)
  path = write(tmp_path / 's1.tif', values, pixel=5.0, names=('VV',))
  source = local.LocalScenes(path, s1_unit=unit, s1_quantity='sigma0_ellipsoid', times={'s1': '2020-06-02T05:00:00Z'})
  patch = source.read(only(source), GRID, ('VV',))
  assert patch.unit == unit
  np.testing.assert_array_equal(patch.to_storage(), np.full((16, 16, 1), round(1000 * np.log10(0.055)), np.int16))


def test_radar_is_interpolated_in_power(tmp_path):
  # 20 m pixels: a 10 m pixel lies a quarter away from its nearest centre: 0.75 x 0.1 + 0.25 x 0.01 = 0.0775.
  power = np.tile([0.1, 0.01], (1, 12, 6))
  path = write(tmp_path / 's1.tif', 10 * np.log10(power), pixel=20.0, names=('VV',))
  source = local.LocalScenes(path, s1_unit='db', s1_quantity='sigma0_ellipsoid', times={'s1': '2020-06-02T05:00:00Z'})
  patch = source.read(only(source), GRID, ('VV',))
  assert patch.values[8, 5, 0] == pytest.approx(10 * np.log10(0.75 * 0.1 + 0.25 * 0.01), abs=1e-4)
  assert patch.values[8, 6, 0] == pytest.approx(10 * np.log10(0.25 * 0.1 + 0.75 * 0.01), abs=1e-4)


def test_reflectance_is_averaged_linearly_and_without_nodata(tmp_path):
  # 5 m pixels in blocks of two: 1000 and 3000 make 2000; beside nodata (0), 1000 alone makes 1000.
  values = np.zeros((1, 40, 40), np.uint16)
  values[0, :, 0::2], values[0, :, 1::2] = 1000, 3000
  values[0, :, 9] = 0  # one of two is missing: half of the weight is enough
  values[0, :, 20:22] = 0  # both are
  path = write(tmp_path / f'{NAME}.tif', values, pixel=5.0, names=('B2',))
  source = local.LocalScenes(path, s2_unit='reflectance_x1e4_plus1000')
  stored = source.read(only(source), GRID, ('B2',)).to_storage()[..., 0]
  expected = np.full(16, 1000)  # 2000 less the offset
  expected[4], expected[10] = 1, 0  # 1000 less the offset is dark; nodata is nodata
  np.testing.assert_array_equal(stored, np.tile(expected, (16, 1)))


def test_nodata_is_decided_on_raw_numbers_before_resampling(tmp_path):
  # 65535 beside 1000 must not bleed in: 20 m pixels, interpolated.
  values = np.full((1, 10, 10), 1000, np.uint16)
  values[0, :, 4:6] = 65535
  path = write(tmp_path / f'{NAME}.tif', values, pixel=20.0, names=('B11',), nodata=65535)
  source = local.LocalScenes(path, s2_unit='reflectance_x1e4')
  stored = source.read(only(source), GRID, ('B11',)).to_storage()[..., 0]
  assert set(np.unique(stored)) == {0, 1000}
  np.testing.assert_array_equal(stored[5] == 0, [False] * 8 + [True] * 4 + [False] * 4)


def test_reprojection_agrees_with_interpolation_at_pixel_centres(tmp_path):
  # Degrees to UTM, against SciPy at positions from pyproj.
  rng = np.random.default_rng(3)
  smooth = scipy.ndimage.gaussian_filter(rng.normal(0, 1, (200, 200)), 3)
  values = (2000 + 8000 * smooth).astype(np.float32)
  lon, lat = pyproj.Proj(f'EPSG:{EPSG}')(X, Y, inverse=True)
  transform = rasterio.Affine(0.00012, 0, lon - 0.008, 0, -0.00009, lat + 0.006)
  path = write(tmp_path / f'{NAME}.tif', values[None], epsg=4326, transform=transform, names=('B8',))
  source = local.LocalScenes(path, s2_unit='reflectance_x1e4')
  patch = source.read(only(source), GRID, ('B8',))
  lons, lats = GRID.pixel_centres_lonlat()
  col, row = ~transform * (lons, lats)
  expected = scipy.ndimage.map_coordinates(values.astype(float), [row - 0.5, col - 0.5], order=1)
  assert np.abs(patch.values[..., 0] - expected).max() < 0.03 * values.std()


def test_large_windows_are_read_in_quarters(tmp_path, monkeypatch):
  # 1 m pixels, tilted CRS.
  x, y = base.transformer(EPSG, 3035).transform(X, Y)
  values = random((2, 500, 500), dtype=np.float32) / 4000
  path = write(tmp_path / 's1.tif', values, pixel=1.0, epsg=3035, x=x - 150, y=y + 150, names=('VV', 'VH'))
  source = local.LocalScenes(path, s1_unit='power', s1_quantity='gamma0_terrain', times={'s1': '2020-06-02'})
  whole = source.read(only(source), GRID, ('VV', 'VH'))
  windows = []
  read = rasterio.io.DatasetReader.read

  def spy(self, *arguments, **keywords):
    windows.append(keywords['window'])
    return read(self, *arguments, **keywords)

  monkeypatch.setattr(raster, '_WINDOW_PX', 4000)
  monkeypatch.setattr(rasterio.io.DatasetReader, 'read', spy)
  parts = source.read(only(source), GRID, ('VV', 'VH'))
  assert len(windows) > 4
  assert max(w.width * w.height for w in windows) <= 4000
  np.testing.assert_allclose(parts.values, whole.values, rtol=0.02)
  np.testing.assert_array_equal(parts.valid, whole.valid)


def test_one_file_a_band_at_their_own_resolutions(tmp_path):
  folder = tmp_path / NAME
  b2, b5, b1 = random((1, 60, 60)), random((1, 30, 30), seed=1), random((1, 10, 10), seed=2)
  write(folder / 'B02.tif', b2)
  write(folder / 'B05.tif', b5, pixel=20.0)
  write(folder / 'B01.tif', b1, pixel=60.0)
  write(folder / 'B10.tif', b1, pixel=60.0)  # not ours
  write(folder / 'cloud_mask.tif', np.zeros((1, 60, 60), np.uint8))
  source = local.LocalScenes(str(tmp_path), s2_unit='reflectance_x1e4')
  scene = only(source)
  assert (scene.id, scene.time.isoformat(), scene.relative_orbit) == (NAME, '2020-06-01T10:10:31+00:00', 22)
  assert scene.metadata['processing_baseline'] == '02.14'
  assert source.spec.bands == ('B1', 'B2', 'B5')
  assert source.grid(scene) == base.PatchGrid(EPSG, X, Y, 60, 60)
  patch = source.read(scene, GRID, source.spec.bands)
  np.testing.assert_array_equal(patch.values[..., 1], b2[0, :16, :16])
  row = 0.75 * b5[0, 2].astype(float) + 0.25 * b5[0, 1]
  assert patch.values[4, 5, 2] == pytest.approx(0.75 * row[2] + 0.25 * row[3], rel=1e-6)


def test_search_by_place_and_time(tmp_path):
  for day in ('20200601', '20200611'):
    write(tmp_path / f'{NAME.replace("20200601", day)}.tif', random(), names=('B2', 'B3'))
  source = local.LocalScenes(str(tmp_path / '*.tif'), s2_unit='reflectance_x1e4')
  start, end = (datetime.datetime(2020, 6, d, tzinfo=datetime.UTC) for d in (5, 30))
  outline = GRID.outline_lonlat()
  assert [s.time.day for s in source.search('sentinel2', outline, start, end)] == [11]
  assert source.search('sentinel1', outline, start, end) == []
  assert source.search('sentinel2', shapely.box(100, 10, 101, 11), start, end) == []
  footprint = source.scenes()[0].footprint
  assert footprint.contains(outline.buffer(-1e-6))
  assert len(pickle.loads(pickle.dumps(source)).scenes()) == 2


# Units and metadata.


@pytest.mark.parametrize(
  ('scale', 'offset', 'unit'), [(1e-4, 0.0, 'reflectance_x1e4'), (1e-4, -0.1, 'reflectance_x1e4_plus1000')]
)
def test_units_from_scale_and_offset_tags(tmp_path, scale, offset, unit):
  path = write(tmp_path / f'{NAME}.tif', random(), names=('B2', 'B3'), scale=scale, offset=offset)
  source = local.LocalScenes(path)
  assert source.read(only(source), GRID, ('B2',)).unit == unit


def test_units_from_gdals_unit_type(tmp_path):
  path = write(tmp_path / 's1.tif', np.full((1, 20, 20), -12.0), names=('VV',), unit='dB')
  source = local.LocalScenes(path, s1_quantity='gamma0_terrain', times={'s1': '2020-06-02'})
  assert source.read(only(source), GRID, ('VV',)).unit == 'db'


def test_catalogue_as_csv_and_json(tmp_path):
  write(tmp_path / 'data' / 'optical.tif', random((3, 40, 40), low=1001))
  write(tmp_path / 'data' / 'vv.tif', np.full((1, 40, 40), 0.1, np.float32))
  write(tmp_path / 'data' / 'vh.tif', np.full((1, 40, 40), 0.02, np.float32))
  rows = [
    {
      'id': 'first', 'sensor': 'sentinel2', 'time': '2022-06-01T10:10:31Z', 'files': 'data/optical.tif',
      'bands': 'B02;B03;B04', 'unit': 'reflectance_x1e4_plus1000', 'cloud_share': '0.25',
      'processing_baseline': '04.00',
    },
    {
      'id': 'second', 'time': '2022-06-02T05:00:00', 'files': 'data/vv.tif;data/vh.tif', 'bands': 'VV;VH',
      'unit': 'power', 'quantity': 'gamma0_terrain', 'orbit_pass': 'descending', 'relative_orbit': '66',
    },
  ]  # fmt: skip
  with open(tmp_path / 'scenes.csv', 'w', newline='') as f:
    writer = csv.DictWriter(f, sorted({k for row in rows for k in row}))
    writer.writeheader()
    writer.writerows(rows)
  as_json = [{k: v.split(';') if k in ('files', 'bands') else v for k, v in row.items()} for row in rows]
  (tmp_path / 'scenes.json').write_text(json.dumps(as_json))
  for name in ('scenes.csv', 'scenes.json'):
    source = local.LocalScenes(str(tmp_path / name))
    assert source.spec == sensors.SensorSpec(('B2', 'B3', 'B4', 'VV', 'VH'), 'L2A', 'gamma0_terrain')
    first, second = source.scenes()
    assert first.metadata == {'cloud_share': 0.25, 'processing_baseline': '04.00'}
    assert (second.sensor, second.orbit_pass, second.relative_orbit) == ('sentinel1', 'descending', 66)
    assert (source.read(second, GRID, ('VV',)).to_storage() == -1000).all()
    patch = source.read(first, GRID, ('B2',))
    np.testing.assert_array_equal(patch.to_storage(), patch.values - 1000)
  dated = [{**as_json[0], 'time': '2022-06-01'}, {**as_json[1], 'time': '2022-06-04T17:00Z'}]
  (tmp_path / 'dated.json').write_text(json.dumps(dated))
  day, moment = local.LocalScenes(str(tmp_path / 'dated.json')).scenes()
  assert (day.metadata['date_only'], 'date_only' in moment.metadata) == (True, False)
  assert pairs.gap(day, moment) == datetime.timedelta(days=3)
  (stated,) = (
    s for s in local.LocalScenes(str(tmp_path / 'dated.json'), times={'second': '2022-06-03'}).scenes()
    if s.id == 'second'
  )  # fmt: skip
  assert stated.metadata['date_only']
  for change, message in [
    ({'colour': 'x'}, r"unknown column\(s\) \['colour'\]\. Known: id"),
    ({'files': []}, '"files" is empty'),
    ({'bands': ['B02', 'red-ish', 'B04']}, r"unknown band\(s\) \['red-ish'\]"),
    ({'bands': ['B02']}, 'has 3 bands; 1 are stated'),
    ({'sensor': 'sentinel1'}, "sensor 'sentinel1' with bands"),
    ({'unit': 'db'}, "Unknown sentinel2 unit 'db'"),
    ({'unit': ''}, '"unit" in the catalogue'),
  ]:
    (tmp_path / 'bad.json').write_text(json.dumps([{**as_json[0], **change}]))
    with pytest.raises(ValueError, match=message):
      local.LocalScenes(str(tmp_path / 'bad.json'))
  (tmp_path / 'bad.json').write_text('[{]')
  with pytest.raises(ValueError, match='no readable JSON'):
    local.LocalScenes(str(tmp_path / 'bad.json'))


def test_stac_items_beside_rasters(tmp_path, real_data):
  (item,) = [json.loads(f.read_text()) for f in (real_data / 'stac' / 'sentinel2_l2a').glob('*.json')]
  facts = sidecar.from_stac(item)
  assert (facts.sensor, facts.unit, facts.level, facts.relative_orbit) == ('sentinel2', 'reflectance_x1e4', 'L2A', 13)
  assert facts.metadata['cloud_share'] == pytest.approx(0.51580326)
  for item in json.loads((real_data / 'stac' / 'sentinel-1-rtc-pc.json').read_text()):
    facts = sidecar.from_stac({**item, 'collection': 'sentinel-1-rtc'})
    assert (facts.sensor, facts.unit, facts.quantity) == ('sentinel1', 'power', 'gamma0_terrain')
    assert facts.relative_orbit == item['properties']['sat:relative_orbit']
  for item in json.loads((real_data / 'stac' / 'sentinel-2-l2a-pc.json').read_text()):
    assert sidecar.from_stac(item).unit == ''  # Planetary Computer's items do not say; so it has to be stated
  item = {
    'type': 'Feature',
    'id': 'stac_item',
    'collection': 'sentinel-2-c1-l2a',
    'properties': {'datetime': '2023-06-01T10:10:31Z', 'platform': 'sentinel-2b'},
    'assets': {'red': {'raster:bands': [{'scale': 0.0001, 'offset': -0.1}]}},
  }
  # Beside one file a band, and beside the one stack of a folder.
  write(tmp_path / 'bands' / 'red.tif', random((1, 40, 40)))
  write(tmp_path / 'stack' / 'clip.tif', random((1, 40, 40)), names=('red',))
  for folder, scene_id in (('bands', 'stac_item'), ('stack', 'clip')):
    (tmp_path / folder / 'item.json').write_text(json.dumps(item))
    source = local.LocalScenes(str(tmp_path / folder))
    assert only(source).id == scene_id
    assert only(source).time.isoformat() == '2023-06-01T10:10:31+00:00'
    assert source.read(only(source), GRID, ('B4',)).unit == 'reflectance_x1e4_plus1000'
  # Two stacks: an item.json could belong to either, so it is taken for neither.
  write(tmp_path / 'stack' / 'other.tif', random((1, 40, 40)), names=('red',))
  with pytest.raises(ValueError, match='s2_unit='):
    local.LocalScenes(str(tmp_path / 'stack'))


# TerraMesh-style stacks.


def test_stacks(tmp_path):
  s2 = random((12, 30, 30), dtype=np.int16)
  s1 = np.random.default_rng(0).normal(-12, 3, (2, 30, 30))
  for place, x in (('a', X + 0.37), ('b', X + 5000.37)):
    write(tmp_path / 'S2L2A' / f'{place}.tif', s2, x=x)
    write(tmp_path / 'S1RTC' / f'{place}.tif', s1, x=x)
  write(tmp_path / 'S2L2A' / 'lonely.tif', s2)
  stated = {
    's2_unit': 'reflectance_x1e4', 's1_unit': 'db', 's1_quantity': 'gamma0_terrain',
    's2_bands': sensors.SENTINEL2_BANDS, 's1_bands': ('VV', 'VH'),
  }  # fmt: skip
  times = {'a': '2020-06-01T10:00:00Z', 'b': {'sentinel2': '2020-06-02', 'sentinel1': '2020-06-03T05:00:00Z'}}
  source = local.PatchStacks(str(tmp_path), times=times, **stated)
  assert isinstance(source, base.PlacedSource)
  assert source.spec == sensors.SensorSpec(sensors.ALL_BANDS, 'L2A', 'gamma0_terrain')
  a, b = source.places()
  assert (a.id, b.id) == ('a', 'b')
  assert a.grid == base.PatchGrid(EPSG, X + 0.37, Y, 30, 30)
  assert b.scenes['sentinel1'].time.isoformat() == '2020-06-03T05:00:00+00:00'
  np.testing.assert_array_equal(
    source.read(a.scenes['sentinel2'], a.grid, ('B8A', 'B1')).values, s2[[8, 0]].transpose(1, 2, 0)
  )
  np.testing.assert_array_equal(source.read(a.scenes['sentinel1'], a.grid, ('VV', 'VH')).values, s1.transpose(1, 2, 0))
  start = datetime.datetime(2020, 6, 1, tzinfo=datetime.UTC)
  found = source.search('sentinel2', a.grid.outline_lonlat(), start, start + datetime.timedelta(1))
  assert [s.id for s in found] == ['a_S2L2A']
  with pytest.raises(ValueError, match=r'time is written nowhere.*times=.*s2_time_folder=.*unknown_times=True'):
    local.PatchStacks(str(tmp_path), **stated)
  unknown = local.PatchStacks(str(tmp_path), unknown_times=True, **stated)
  assert {s.time for p in unknown.places() for s in p.scenes.values()} == {base.UNKNOWN_TIME}
  with pytest.raises(ValueError, match=r's2_bands='):
    local.PatchStacks(str(tmp_path), times=times, **{**stated, 's2_bands': ()})
  with pytest.raises(ValueError, match=r's1_quantity='):
    local.PatchStacks(str(tmp_path), times=times, **{**stated, 's1_quantity': ''})
  with pytest.raises(ValueError, match=r'neither S2/ nor S1/'):
    local.PatchStacks(str(tmp_path), s2_folder='S2', s1_folder='S1')

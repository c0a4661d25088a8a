"""The real scenes and stacks, each against an independent reading of its files."""

import numpy as np
import pytest
import rasterio
import rasterio.enums
import rasterio.warp
import scipy.ndimage

from deepsentinel import sensors
from deepsentinel.sources import base, local, raster
from tests.sources.scene_files import NAME, X, Y, only, write


def test_real_major_tom_scene(real_data):
  source = local.LocalScenes(str(real_data / 'major_tom'), s2_unit='reflectance_x1e4')
  (scene,) = source.scenes()
  assert scene.time.isoformat() == '2020-02-23T03:27:39+00:00'
  assert source.spec.bands == sensors.SENTINEL2_BANDS
  (b2,) = (real_data / 'major_tom').rglob('B02.tif')
  with rasterio.open(b2) as file:
    whole, own = file.read(1), raster.grid_of(file)
  patch = source.read(scene, own.window(300, 500, 256, 256), ('B2',))
  np.testing.assert_array_equal(patch.values[..., 0], whole[300:556, 500:756])
  shifted = base.PatchGrid(own.epsg, own.x0_m + 5000.4, own.y0_m - 3000.4, 64, 64)
  moved = source.read(scene, shifted, ('B2',)).values[..., 0]
  assert np.abs(moved - whole[300:364, 500:564]).mean() < 40  # a twenty-fifth of a pixel away


def test_real_places_in_degrees_from_earth_engine(real_data):
  source = local.LocalScenes(str(real_data / 'ssl4eo_s12'))
  assert source.spec == sensors.SensorSpec()
  scenes = source.scenes()
  with pytest.raises(ValueError, match=r'is no patch grid: .*projected CRS'):
    source.grid(scenes[0])
  assert [(s.sensor[-1], s.time.date().isoformat(), s.orbit_pass) for s in scenes] == [
    ('2', '2020-06-04', 'descending'),
    ('1', '2020-06-07', 'descending'),
    ('2', '2020-08-13', 'descending'),
    ('1', '2020-09-03', 'ascending'),
  ]
  assert [s.relative_orbit for s in scenes][1::2] == [107, 173]
  x, y = base.transformer(4326, 32643).transform(73.3055, 30.464)
  grid = base.PatchGrid(32643, round(x, -1) - 1000, round(y, -1) + 1000, 200, 200)
  lons, lats = grid.pixel_centres_lonlat()
  for scene in scenes:
    band, name = ('B8', 'B8.tif') if scene.sensor == 'sentinel2' else ('VV', 'VV.tif')
    patch = source.read(scene, grid, (band,))
    assert patch.valid.all()
    (file,) = (real_data / 'ssl4eo_s12').rglob(f'{scene.id}/{name}')
    with rasterio.open(file) as f:
      values = f.read(1).astype(float)
      col, row = ~f.transform * (lons, lats)
    values = 10 ** (values / 10) if band == 'VV' else values
    expected = scipy.ndimage.map_coordinates(values, [row - 0.5, col - 0.5], order=1, mode='nearest')
    got = patch.values[..., 0].astype(float)
    got = 10 ** (got / 10) if band == 'VV' else got
    # GDAL's positions are approximate to about 0.02 px.
    assert np.abs(got - expected).mean() < 0.02 * expected.std()
  # Both dates of a place lie on each other: the edges of the fields persist, where their crops do not.
  edges = [
    scipy.ndimage.gaussian_gradient_magnitude(source.read(s, grid, ('B4',)).values[..., 0], 1) for s in scenes[::2]
  ]
  shifts = [(r, c) for r in range(-4, 5) for c in range(-4, 5)]
  inner = np.s_[8:-8, 8:-8]
  fits = [np.corrcoef(np.roll(edges[0], s, (0, 1))[inner].ravel(), edges[1][inner].ravel())[0, 1] for s in shifts]
  assert shifts[int(np.argmax(fits))] == (0, 0)


def test_real_terramesh_stacks(real_data):
  source = local.PatchStacks(
    str(real_data / 'terramesh'), s2_unit='reflectance_x1e4', s1_unit='db', s1_quantity='gamma0_terrain',
    s2_bands=['B01', 'B02', 'B03', 'B04', 'B05', 'B06', 'B07', 'B08', 'B8A', 'B09', 'B11', 'B12'],
    s1_bands=['VV', 'VH'], s2_time_folder='LULC',
  )  # fmt: skip
  tanzania, denmark = source.places()
  assert (denmark.grid.epsg, tanzania.grid.epsg) == (32632, 32736)
  for place, day in ((denmark, '2017-10-30'), (tanzania, '2023-06-10')):
    assert {s.time.date().isoformat() for s in place.scenes.values()} == {day}
    for sensor, folder, bands in (
      ('sentinel2', 'S2L2A', source.spec.s2_bands),
      ('sentinel1', 'S1RTC', source.spec.s1_bands),
    ):
      with rasterio.open(real_data / 'terramesh' / folder / f'{place.id}.tif') as f:
        whole = f.read()
      patch = source.read(place.scenes[sensor], place.grid, bands)
      np.testing.assert_array_equal(patch.values, whole.transpose(1, 2, 0))
  red, near = source.read(denmark.scenes['sentinel2'], denmark.grid, ('B4', 'B8')).to_storage().reshape(-1, 2).T / 1e4
  assert (near > red).mean() > 0.8  # green fields: the band order is right


def test_real_monthly_stack_takes_its_first_step(real_data):
  (path,) = (real_data / 'timeseries').glob('98-togo*.tif')
  source = local.LocalScenes(
    str(path), s2_unit='reflectance_x1e4', s1_unit='db', s1_quantity='sigma0_ellipsoid', s2_level='L1C',
    times={path.stem: '2019-02-06'},
  )  # fmt: skip
  assert source.spec == sensors.SensorSpec(sensors.ALL_BANDS, 'L1C')
  with rasterio.open(path) as f:
    by_name = dict(zip(f.descriptions, f.read(), strict=True))
    lon, lat = f.transform * (8.5, 8.5)
  x, y = base.transformer(4326, 32631).transform(lon, lat)
  grid = base.PatchGrid(32631, x - 5, y + 5, 1, 1)
  s2, s1 = sorted(source.scenes(), key=lambda s: s.sensor, reverse=True)
  assert source.read(s2, grid, ('B8A',)).values.item() == pytest.approx(by_name['B8A'][8, 8], rel=0.01)
  assert source.read(s1, grid, ('VH',)).values.item() == pytest.approx(by_name['VH'][8, 8], abs=0.05)


def test_real_scaled_amplitude(real_data, tmp_path):
  h5py = pytest.importorskip('h5py', reason='reads the NetCDF sample without GDAL')
  with h5py.File(real_data / 'timeseries' / 'worldcereal_preprocessed_inputs.nc') as f:
    vv = np.asarray(f['S1-SIGMA0-VV']).view(np.uint16)  # NetCDF keeps them as signed numbers
    b4 = np.asarray(f['S2-L2A-B04']).view(np.uint16)
  path = write(tmp_path / 'month.tif', vv[:1], epsg=32631, names=('VV',))
  source = local.LocalScenes(
    path, s1_unit='dn_20log10_minus83', s1_quantity='sigma0_ellipsoid', times={'month': '2020-11-01'}
  )
  grid = base.PatchGrid(32631, X, Y, *vv.shape[1:])
  stored = source.read(only(source), grid, ('VV',)).to_storage()[..., 0] / 100
  expected = 20 * np.log10(vv[0].astype(float)) - 83
  np.testing.assert_allclose(stored, expected, atol=0.0051)
  assert -20 < np.median(stored) < -5
  month = int(np.argmax((b4 == 65535).mean(axis=(1, 2))))  # December has no Sentinel-2
  write(tmp_path / NAME / 'B04.tif', b4[month : month + 1], epsg=32631, nodata=65535)
  source = local.LocalScenes(str(tmp_path / NAME), s2_unit='reflectance_x1e4')
  patch = source.read(only(source), grid, ('B4',))
  np.testing.assert_array_equal(patch.to_storage()[..., 0] == 0, b4[month] == 65535)
  assert (patch.to_storage() == 0).any()


def test_real_linear_power(real_data, tmp_path):
  """A forest plot's radar, published as linear power: 6 px, written as GeoTIFF, for it has no georeference."""
  h5py = pytest.importorskip('h5py', reason='reads the HDF5 sample')
  (path,) = (real_data / 'timeseries').glob('treesatai*.h5')
  with h5py.File(path) as f:
    vv, vh = np.asarray(f['sen-1-asc-data'][0], float)[:2]
  path = write(tmp_path / 'plot.tif', np.stack([vv, vh]), epsg=32632, names=('VV', 'VH'))
  stated = {'s1_quantity': 'sigma0_ellipsoid', 'times': {'plot': '2020-01-02'}}
  source = local.LocalScenes(path, s1_unit='power', **stated)
  stored = source.read(only(source), base.PatchGrid(32632, X, Y, 6, 6), ('VV', 'VH')).to_storage() / 100
  np.testing.assert_allclose(stored, 10 * np.log10(np.stack([vv, vh], -1)), atol=0.0051)
  assert -16 < np.median(stored[..., 0]) < -5  # forest
  # Onto pixels of 20 m: the mean of the power, not of the decibels.
  coarse = source.read(only(source), base.PatchGrid(32632, X, Y, 3, 3, 20.0), ('VV',)).to_storage()[..., 0] / 100
  np.testing.assert_allclose(coarse, 10 * np.log10(vv.reshape(3, 2, 3, 2).mean((1, 3))), atol=0.011)


def test_real_scene_in_another_crs(real_data, tmp_path):
  """A piece of the Thai cell warped by rasterio into Web Mercator, read back on its own UTM pixels."""
  (b4,) = (real_data / 'major_tom').rglob('B04.tif')
  with rasterio.open(b4) as file:
    own = raster.grid_of(file)
    piece = own.window(300, 500, 128, 128)
    truth = file.read(1)[300:428, 500:628].astype(float)
    moved, transform = rasterio.warp.reproject(
      file.read(1).astype(np.float32), src_transform=file.transform, src_crs=file.crs, dst_crs='EPSG:3857',
      resampling=rasterio.enums.Resampling.cubic,
    )  # fmt: skip
  assert moved.ndim == 3
  path = write(tmp_path / f'{NAME}.tif', moved, epsg=3857, transform=transform, names=('B04',))
  source = local.LocalScenes(path, s2_unit='reflectance_x1e4')
  patch = source.read(only(source), piece, ('B4',))
  assert patch.valid.all()
  got = patch.values[..., 0]
  assert np.corrcoef(got.ravel(), truth.ravel())[0, 1] > 0.97
  # Not a pixel off: every shift fits worse.
  inner = np.s_[2:-2, 2:-2]
  errors = {(r, c): np.abs(np.roll(got, (r, c), (0, 1)) - truth)[inner].mean() for r in (-1, 0, 1) for c in (-1, 0, 1)}
  assert min(errors, key=errors.get) == (0, 0)

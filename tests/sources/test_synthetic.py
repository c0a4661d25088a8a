"""SyntheticEarth as a source: the same bytes everywhere, no seams, and pictures that hold what the truth says."""

import datetime
import hashlib
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import shapely

from deepsentinel import legend, sensors
from deepsentinel.corpus import grid as corpus_grid
from deepsentinel.sources import base, synthetic

UTC = datetime.UTC
CODES = np.array([0, *(c.code for c in legend.CORINE)])
S2, S1 = sensors.SENTINEL2_BANDS, sensors.SENTINEL1_BANDS
POLAND = (18.45, 52.18)
PLACES = {
  'temperate': POLAND,
  'southern hemisphere': (-63.05, -31.4),
  'antimeridian': (179.995, -16.5),
  'high latitude': (25.0, 69.5),
  'equator': (-60.0, 0.0),
  'Greenwich': (0.0, 51.5),
}


@pytest.fixture(scope='module')
def earth():
  return synthetic.SyntheticEarth(0)


def covers(scene, grid):
  return shapely.covers(scene.footprint, base.split_antimeridian(grid.outline_lonlat()))


def scene_of(source, sensor, grid, start='2019-07-01', days=24, number=0):
  begin = datetime.datetime.fromisoformat(start).replace(tzinfo=UTC)
  outline = base.split_antimeridian(grid.outline_lonlat())
  found = source.search(sensor, outline, begin, begin + datetime.timedelta(days=days))
  return [s for s in found if covers(s, grid)][number]


def clear_reading(source, grid, bands=S2, start='2019-07-01', days=24):
  return source.render(scene_of(source, 'sentinel2', grid, start, days), grid, bands, cloud_share=0.0)


def digest(source, lon, lat):
  grid = corpus_grid.patch_grid(lon, lat, 48)
  parts = [source.read(scene_of(source, s, grid), grid, b).values for s, b in (('sentinel2', S2), ('sentinel1', S1))]
  parts.append(source.landcover(*grid.pixel_centres_lonlat()))
  return hashlib.sha256(b''.join(np.ascontiguousarray(p).tobytes() for p in parts)).hexdigest()


# ---------------------------------------------------------------- the contract of a source


def test_it_is_an_imagery_source_that_says_it_is_synthetic(earth):
  assert isinstance(earth, base.ImagerySource)
  assert earth.synthetic
  assert earth.spec == sensors.SensorSpec(sensors.ALL_BANDS, 'L2A', 'sigma0_ellipsoid')


@pytest.mark.parametrize('name', PLACES)
def test_patches_anywhere_are_whole_and_plausible(earth, name):
  grid = corpus_grid.patch_grid(*PLACES[name], 64)
  optical = earth.read(scene_of(earth, 'sentinel2', grid), grid, S2)
  radar = earth.read(scene_of(earth, 'sentinel1', grid), grid, S1)
  assert optical.valid.all()
  assert radar.valid.all()
  assert (optical.values.shape, optical.values.dtype, optical.unit) == ((64, 64, 12), np.uint16, 'reflectance_x1e4')
  assert (radar.values.shape, radar.values.dtype, radar.unit) == ((64, 64, 2), np.float32, 'db')
  assert optical.values.min() >= 1
  assert optical.values.max() < 12_000
  assert -40 < np.median(radar.values) < 0
  truth = earth.landcover(*grid.pixel_centres_lonlat())
  assert (CODES[truth] > 0).all()
  assert optical.to_storage().dtype == np.uint16
  assert radar.to_storage().dtype == np.int16


def test_bands_come_in_the_order_asked_for(earth):
  grid = corpus_grid.patch_grid(*POLAND, 32)
  scene = scene_of(earth, 'sentinel2', grid)
  whole = earth.read(scene, grid, S2).values
  some = earth.read(scene, grid, ('B8', 'B11', 'B2')).values
  np.testing.assert_array_equal(some, whole[..., [S2.index(b) for b in ('B8', 'B11', 'B2')]])
  scene = scene_of(earth, 'sentinel1', grid)
  whole = earth.read(scene, grid, ('VV', 'VH')).values
  np.testing.assert_array_equal(earth.read(scene, grid, ('VH',)).values, whole[..., 1:])


def test_errors_name_the_fix(earth):
  grid = corpus_grid.patch_grid(*POLAND, 16)
  scene = scene_of(earth, 'sentinel1', grid)
  with pytest.raises(ValueError, match=r"sentinel1 and has no \('B2',\)\. It has VV, VH"):
    earth.read(scene, grid, ('B2',))
  with pytest.raises(ValueError, match='cloud_share must lie in 0'):
    earth.render(scene, grid, S1, cloud_share=1.2)
  foreign = base.Scene('S2A_MSIL2A_20190701T101031_N0212_R022_T33UUP', 'sentinel2', scene.footprint, scene.time)
  with pytest.raises(ValueError, match='not of SyntheticEarth'):
    earth.read(foreign, grid, S2)
  now = datetime.datetime(2019, 1, 1, tzinfo=UTC)
  with pytest.raises(ValueError, match='Known: sentinel2, sentinel1'):
    earth.search('landsat', scene.footprint, now, now)
  with pytest.raises(ValueError, match='footprint is empty'):
    earth.search('sentinel1', shapely.Polygon(), now, now)
  with pytest.raises(ValueError, match='timezone'):
    earth.search('sentinel1', scene.footprint, now.replace(tzinfo=None), now)
  with pytest.raises(ValueError, match='finite'):
    earth.landcover([np.nan], [0.0])
  with pytest.raises(ValueError, match='bounds_lonlat'):
    earth.write_corine('unused.gpkg', (1, 2, 1, 3))


# ---------------------------------------------------------------- the same bytes


def test_another_process_sees_the_same_world(earth):
  here = digest(earth, *POLAND)
  code = (
    'from tests.sources.test_synthetic import digest, POLAND; from deepsentinel.sources.synthetic import '
    'SyntheticEarth; print(digest(SyntheticEarth(0), *POLAND))'
  )
  environment = os.environ | {'PYTHONHASHSEED': '77', 'PYTHONPATH': os.pathsep.join(sys.path)}
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True, env=environment)
  assert done.stdout.strip() == here


def test_order_of_reading_and_pickling_change_nothing(earth):
  fresh = pickle.loads(pickle.dumps(synthetic.SyntheticEarth(0)))
  digest(fresh, *PLACES['high latitude'])
  digest(fresh, POLAND[0] + 0.002, POLAND[1])
  assert digest(fresh, *POLAND) == digest(earth, *POLAND)


def test_another_seed_is_another_world_under_the_same_passes(earth):
  other = synthetic.SyntheticEarth(1)
  grid = corpus_grid.patch_grid(*POLAND, 64)
  scenes = [scene_of(source, 'sentinel2', grid) for source in (earth, other)]
  assert scenes[0].id == scenes[1].id
  a, b = (clear_reading(source, grid).values.astype(float) for source in (earth, other))
  assert np.mean(a == b) < 0.1
  assert np.mean(earth.landcover(*grid.pixel_centres_lonlat()) == other.landcover(*grid.pixel_centres_lonlat())) < 0.9


# ---------------------------------------------------------------- no seams


@pytest.mark.parametrize(('sensor', 'bands'), [('sentinel2', S2), ('sentinel1', S1)])
@pytest.mark.parametrize('name', ['temperate', 'southern hemisphere', 'antimeridian', 'Greenwich'])
def test_adjoining_patches_are_the_large_patch(earth, sensor, bands, name):
  """Also across the blocks in which a large window is rendered: 300 px are four of them."""
  whole = corpus_grid.patch_grid(*PLACES[name], 300)
  scene = scene_of(earth, sensor, whole)
  large = earth.read(scene, whole, bands).values
  for row, col, height, width in ((0, 0, 90, 70), (0, 70, 90, 60), (200, 190, 100, 110), (131, 7, 61, 23)):
    part = earth.read(scene, whole.window(row, col, height, width), bands).values
    np.testing.assert_array_equal(part, large[row : row + height, col : col + width])


def test_tiles_of_one_datatake_agree_where_they_overlap(earth):
  """Two tiles of a zone overlap by 9.8 km: one sky, one ground, each with its own sensor noise."""
  grid = base.PatchGrid(32634, 402_000.0, 5_790_000.0, 48, 48)  # tiles 34UCC and 34UDC
  outline = grid.outline_lonlat()
  start = datetime.datetime(2019, 7, 1, tzinfo=UTC)
  found = [s for s in earth.search('sentinel2', outline, start, start + datetime.timedelta(days=6))
           if covers(s, grid) and s.metadata['epsg'] == 32634]  # fmt: skip
  first = found[0]
  twin = next(
    s for s in found[1:] if s.relative_orbit == first.relative_orbit and s.metadata['tile'] != first.metadata['tile']
  )
  assert abs(twin.time - first.time) < datetime.timedelta(minutes=1)
  np.testing.assert_array_equal(earth.cloud_mask(first, grid), earth.cloud_mask(twin, grid))
  a, b = (earth.read(s, grid, S2).values.astype(float) for s in (first, twin))
  assert np.abs(a - b).mean() < 0.02 * a.mean()


def test_zones_show_the_same_ground(earth):
  """Read in the next zone's grid and moved back, a patch is itself: the world knows no projection."""
  lon, lat = 18.02, 52.2  # near the border of zones 33 and 34
  corners = {epsg: base.transformer(4326, epsg).transform(lon, lat) for epsg in (32633, 32634)}
  grids = [base.PatchGrid(epsg, *(round(v / 10) * 10.0 for v in xy), 64, 64) for epsg, xy in corners.items()]
  scene = scene_of(earth, 'sentinel2', grids[0])
  assert covers(scene, grids[1])
  values = [earth.render(scene, g, ('B4', 'B8'), cloud_share=0.0).values.astype(float) for g in grids]
  x, y = base.transformer(32633, 32634).transform(
    *np.meshgrid(grids[0].x0_m + 10 * (np.arange(64) + 0.5), grids[0].y0_m - 10 * (np.arange(64) + 0.5))
  )
  col, row = np.floor((x - grids[1].x0_m) / 10).astype(int), np.floor((grids[1].y0_m - y) / 10).astype(int)
  inside = (col >= 0) & (col < 64) & (row >= 0) & (row < 64)
  assert inside.mean() > 0.5
  for band in (0, 1):
    a, b = values[0][..., band][inside], values[1][..., band][row[inside], col[inside]]
    assert np.corrcoef(a, b)[0, 1] > 0.8


def test_outside_the_swath_is_nodata(earth):
  grid = corpus_grid.patch_grid(*POLAND, 300)
  outline = grid.outline_lonlat()
  start = datetime.datetime(2019, 7, 1, tzinfo=UTC)
  scene = earth.search('sentinel1', outline, start, start + datetime.timedelta(days=12))[0]
  west, south, east, north = outline.bounds
  half = base.Scene(scene.id, scene.sensor, shapely.box(west - 1, south - 1, (west + east) / 2, north + 1), scene.time,
                    scene.orbit_pass, scene.relative_orbit)  # fmt: skip
  patch = earth.read(half, grid, S1)
  assert patch.valid.mean() == pytest.approx(0.5, abs=0.02)
  assert np.isnan(patch.values[~patch.valid]).all()
  assert np.isfinite(patch.values[patch.valid]).all()
  assert (patch.to_storage()[~patch.valid] == sensors.S1_NODATA).all()


@pytest.mark.parametrize(
  ('grid', 'window'),
  [
    (
      base.PatchGrid(32634, 330_000.0, 5_784_000.0, 30, 30, 20.0),
      base.PatchGrid(32634, 330_000.0, 5_784_000.0, 60, 60),
    ),
    (
      base.PatchGrid(32634, 330_000.0, 5_784_000.0, 10, 10, 60.0),
      base.PatchGrid(32634, 330_000.0, 5_784_000.0, 60, 60),
    ),
  ],
)
def test_coarser_grids_are_averages_of_the_native_one(earth, grid, window):
  factor = int(grid.pixel_m // 10)
  blocks = lambda v: v.reshape(grid.height_px, factor, grid.width_px, factor, -1).mean(axis=(1, 3))  # noqa: E731
  scene = scene_of(earth, 'sentinel2', window)
  coarse, fine = (earth.read(scene, g, ('B4', 'B8')).values.astype(float) for g in (grid, window))
  np.testing.assert_allclose(coarse, blocks(fine), atol=1.5)
  scene = scene_of(earth, 'sentinel1', window)
  coarse, fine = (earth.read(scene, g, S1).values for g in (grid, window))
  np.testing.assert_allclose(coarse, 10 * np.log10(blocks(10 ** (fine / 10))), atol=0.01)  # in power


# ---------------------------------------------------------------- what the pictures show


@pytest.fixture(scope='module')
def summer(earth):
  """(true codes, reflectance [H, W, 12], sigma0 in dB [H, W, 2]) of 8 km without cloud in July."""
  grid = corpus_grid.patch_grid(18.53, 52.19, 800)
  optical = clear_reading(earth, grid).values / 1e4
  radar = earth.read(scene_of(earth, 'sentinel1', grid), grid, S1).values
  return CODES[earth.landcover(*grid.pixel_centres_lonlat())], optical, radar


def power_mean_db(db):
  return 10 * np.log10(np.mean(10 ** (db / 10)))


def test_towns_are_brighter_than_fields_in_sentinel1(summer):
  code, _, radar = summer
  vv = {
    k: power_mean_db(radar[np.isin(code, c), 0])
    for k, c in {'town': (111, 112), 'field': (211,), 'water': (511,)}.items()
  }
  vh = {
    k: power_mean_db(radar[np.isin(code, c), 1]) for k, c in {'forest': (311, 312, 313), 'field': (211, 231)}.items()
  }
  assert vv['town'] > vv['field'] + 3
  assert vv['field'] > vv['water'] + 3
  assert vh['forest'] > vh['field'] + 0.5


def test_vegetation_and_water_look_like_themselves(summer):
  code, optical, _ = summer
  red, nir, swir = (optical[..., S2.index(b)] for b in ('B4', 'B8', 'B11'))
  ndvi = (nir - red) / (nir + red)
  assert np.median(ndvi[np.isin(code, (311, 312, 313))]) > 0.7
  assert np.median(ndvi[code == 231]) > 0.55
  assert np.median(ndvi[np.isin(code, (111, 112))]) < 0.5
  core = code == 511
  assert np.median(nir[core]) < 0.1
  assert np.median(swir[core]) < np.median(swir[code == 211])


def test_snow_in_the_north_in_winter(earth):
  grid = corpus_grid.patch_grid(25.0, 64.0, 64)
  winter, summer = (
    clear_reading(earth, grid, ('B3', 'B11'), start).values.astype(float).reshape(-1, 2)
    for start in ('2019-03-01', '2019-07-01')
  )
  ndsi = [np.median((v[:, 0] - v[:, 1]) / v.sum(axis=1)) for v in (winter, summer)]
  assert ndsi[0] > 0.3 > 0 > ndsi[1]


@pytest.mark.parametrize('share', [0.0, 0.25, 0.7, 1.0])
def test_rendering_again_at_a_chosen_share_of_cloud(earth, share):
  grid = corpus_grid.patch_grid(*POLAND, 200)
  scene = scene_of(earth, 'sentinel2', grid, number=2)
  mask = earth.cloud_mask(scene, grid, cloud_share=share)
  assert mask.mean() == pytest.approx(share, abs=0.005)
  clear, cloudy = (earth.render(scene, grid, ('B2',), cloud_share=c).values[..., 0].astype(int) for c in (0.0, share))
  # In the blue a cloud is brighter than any ground here; elsewhere only shadows and the noise of the sensor differ.
  brighter = cloudy > clear + 600
  assert np.mean(brighter == mask) > 0.97
  if share == 0.0:
    np.testing.assert_array_equal(clear, cloudy)


@pytest.mark.parametrize('number', [0, 6, 12])
def test_shadows_lie_away_from_the_sun(earth, number):
  grid = corpus_grid.patch_grid(*POLAND, 300)
  scene = scene_of(earth, 'sentinel2', grid, number=number)
  clear, cloudy = (earth.render(scene, grid, ('B8',), cloud_share=c).values[..., 0].astype(float) for c in (0.0, 0.2))
  cloud = earth.cloud_mask(scene, grid, cloud_share=0.2)
  shadow = (cloudy < 0.75 * clear) & ~cloud
  assert 0.05 < shadow.mean() < 0.3
  # The shift from cloud to shadow, up to 1.2 km, by circular cross-correlation.
  spectrum = np.fft.ifft2(np.fft.fft2(shadow - shadow.mean()) * np.conj(np.fft.fft2(cloud - cloud.mean()))).real
  shifts = np.fft.fftshift(spectrum)[150 - 120 : 150 + 121, 150 - 120 : 150 + 121]
  row, col = (v - 120 for v in np.unravel_index(shifts.argmax(), shifts.shape))
  bearing = np.degrees(np.arctan2(-col, row)) % 360  # from shadow to cloud; rows count southwards
  assert abs((bearing - scene.metadata['sun_azimuth_deg'] + 180) % 360 - 180) < 10
  height_m = earth._scene_weather(scene).height_m
  assert 10 * np.hypot(row, col) == pytest.approx(
    height_m / np.tan(np.radians(scene.metadata['sun_elevation_deg'])), rel=0.15
  )


def test_stated_cloud_shares_are_those_of_the_pixels(earth):
  start = datetime.datetime(2019, 4, 1, tzinfo=UTC)
  scenes = earth.search('sentinel2', shapely.Point(10.4, 50.2), start, start + datetime.timedelta(days=40))
  scenes = [s for s in scenes if s.metadata['epsg'] == 32632]
  stated, found = [], []
  for scene in scenes:
    rng = np.random.default_rng(0)
    west, south, east, north = scene.footprint.bounds
    shares = []
    while len(shares) < 25:
      lon, lat = rng.uniform(west, east), rng.uniform(south, north)
      if shapely.contains_xy(scene.footprint, lon, lat):
        x, y = base.transformer(4326, 32632).transform(lon, lat)
        shares.append(
          earth.cloud_share(scene, base.PatchGrid(32632, round(x / 60) * 60.0, round(y / 60) * 60.0, 16, 16, 60.0))
        )
    stated.append(scene.metadata['cloud_share'])
    found.append(np.mean(shares))
  assert len(scenes) >= 8
  assert np.abs(np.subtract(stated, found)).mean() < 0.07
  assert np.corrcoef(stated, found)[0, 1] > 0.95


def test_cloud_moves_between_passes_and_the_ground_stays(earth):
  grid = corpus_grid.patch_grid(*POLAND, 64)
  scenes = [scene_of(earth, 'sentinel2', grid, number=n) for n in range(8)]
  shares = [earth.cloud_share(s, grid) for s in scenes]
  assert max(shares) - min(shares) > 0.5
  clear = [earth.render(s, grid, ('B8',), cloud_share=0.0).values.ravel() for s in (scenes[0], scenes[2])]
  assert np.corrcoef(*clear)[0, 1] > 0.85


# ---------------------------------------------------------------- maps


def test_maps_are_kept_and_copied(tmp_path):
  bounds = (18.50, 52.17, 18.53, 52.19)
  source = synthetic.SyntheticEarth(0, str(tmp_path / 'kept'))
  first = source.write_corine(tmp_path / 'deep' / 'a.gpkg', bounds)
  osm = source.write_osm(tmp_path / 'a.osm.pbf', bounds)
  assert sorted(p.suffix for p in (tmp_path / 'kept').iterdir()) == ['.gpkg', '.pbf']
  source.landscape = None  # from here on nothing can be computed
  assert source.write_corine(tmp_path / 'b.gpkg', bounds).read_bytes() == first.read_bytes()
  assert source.write_osm(tmp_path / 'b.osm.pbf', bounds).read_bytes() == osm.read_bytes()

import numpy as np
import pytest

from deepsentinel import sensors
from deepsentinel.sources.syntheticearth import clouds, lattice, materials, optics
from deepsentinel.sources.syntheticearth.landscape import Surface
from deepsentinel.sources.syntheticearth.lattice import Points

BANDS = list(sensors.SENTINEL2_BANDS)
B3, B4, B8, B11 = (BANDS.index(b) for b in ('B3', 'B4', 'B8', 'B11'))
NOON = optics.Sun(60.0, 180.0)


def surface(material, count=400, **changes):
  """Flat, temperate ground of one material; every point a parcel of its own."""
  zero = np.zeros(count, np.float32)
  values = dict.fromkeys((f for f in Surface.__dataclass_fields__), zero)
  values |= {
    'cover': np.zeros(count, np.uint8),
    'material': np.full(count, materials.INDEX[material], np.uint8),
    'parcel': lattice.mix(np.arange(count).astype(np.uint32)),
    'temperature': np.full(count, 10, np.float32),
    'elevation': np.full(count, 100, np.float32),
  }
  return Surface(**(values | {name: np.full(count, v, np.float32) for name, v in changes.items()}))


def places(count=400, lat=50.0):
  return Points.of(np.linspace(10, 10.01, count), lat)


def ground(material, day, lat=50.0, **changes):
  """Mean reflectance [12]."""
  return optics.ground_reflectance(surface(material, **changes), places(lat=lat), day, list(range(12))).mean(axis=1)


def ndvi(spectrum):
  return (spectrum[B8] - spectrum[B4]) / (spectrum[B8] + spectrum[B4])


def test_leaves_come_and_go_and_needles_stay():
  assert ndvi(ground('broadleaf', 190)) > 0.8
  assert ndvi(ground('broadleaf', 20)) < 0.6
  assert ndvi(ground('conifer', 190)) == pytest.approx(ndvi(ground('conifer', 20)), abs=0.03)
  assert ndvi(ground('conifer', 20)) > 0.65


def test_seasons_are_reversed_in_the_south_and_fade_in_the_tropics():
  assert ndvi(ground('broadleaf', 20, lat=-50.0)) > 0.8 > ndvi(ground('broadleaf', 190, lat=-50.0))
  tropics = [ndvi(ground('broadleaf', day, lat=2.0)) for day in (20, 110, 200, 290)]
  assert max(tropics) - min(tropics) < 0.1


def test_crops_grow_ripen_and_leave_bare_soil():
  assert ndvi(ground('winter cereal', 140)) > 0.75
  assert ndvi(ground('winter cereal', 200)) < 0.3  # straw
  assert ndvi(ground('root crop', 100)) < 0.3  # bare
  assert ndvi(ground('root crop', 220)) > 0.75
  flower, leaf = ground('rapeseed', 120), ground('winter cereal', 120)
  assert flower[B4] > 2 * leaf[B4]
  assert flower[B3] > 1.5 * leaf[B3]


@pytest.mark.parametrize('material', ['sea', 'lake', 'river'])
def test_water_is_darker_the_longer_the_wave(material):
  spectrum = ground(material, 190)
  assert spectrum[B8] < 0.03
  assert spectrum[B11] < 0.02
  assert spectrum[B3] > spectrum[B8]
  assert ndvi(spectrum) < 0


def test_vegetation_has_its_red_edge_and_soil_none():
  leaf, soil = ground('broadleaf', 190), ground('bare soil', 190)
  assert leaf[B8] > 8 * leaf[B4]
  assert (np.diff(soil[[1, 2, 3, 4, 5, 6, 7, 8, 10]]) > 0).all()  # rises from blue to the shortwave infrared


def snowy(material, day, temperature=2.0, lat=50.0):
  ground_ = surface(material, temperature=temperature)
  clear = clouds.Sky(*(np.zeros(400, np.float32) for _ in range(4)))
  value = optics.reflectance(
    ground_, places(lat=lat), BANDS, day, NOON, clouds.Weather(1), clear, np.zeros(400, np.float32), 7
  )
  return value.mean(axis=1)


def test_snow_is_white_and_black_in_the_shortwave_infrared():
  winter, summer = snowy('pasture', 25, -3.0), snowy('pasture', 205, -3.0)
  assert winter[B3] > 0.6
  assert (winter[B3] - winter[B11]) / (winter[B3] + winter[B11]) > 0.6  # NDSI
  assert (summer[B3] - summer[B11]) / (summer[B3] + summer[B11]) < 0.1
  assert snowy('conifer', 25, -3.0)[B3] < 0.5 * winter[B3]  # it falls through the branches
  assert snowy('pasture', 205, -3.0, lat=-50.0)[B3] > 0.6
  assert optics.snow_share(surface('pasture', temperature=26.0), places(), 20, 1).max() == 0


def test_slopes_towards_the_sun_are_brighter():
  sun = optics.Sun(40.0, 135.0)  # in the south-east
  light = lambda **slope: optics.illumination(surface('pasture', **slope), sun)[0]  # noqa: E731
  assert light() == pytest.approx(1.0)
  # Ground that falls towards the south-east faces the sun: height decreases to the east and increases to the north.
  assert light(slope_east=-0.3, slope_north=0.3) > 1.2
  assert light(slope_east=0.3, slope_north=-0.3) < 0.8
  assert light(slope_east=0.2, slope_north=0.2) == pytest.approx(1.0, abs=0.06)  # along the beam


def test_shade_dims_and_turns_blue_and_cloud_covers():
  count = 400
  zero, one = np.zeros(count, np.float32), np.ones(count, np.float32)
  args = surface('pasture'), places(), BANDS, 190, NOON, clouds.Weather(1)
  open_sky = clouds.Sky(zero, zero, zero, zero)
  lit, shaded = (optics.reflectance(*args, open_sky, shade, 7).mean(axis=1) for shade in (zero, one))
  ratio = shaded / lit
  assert (ratio < 0.7).all()
  assert ratio[1] > ratio[B8]  # blue sky light reaches into the shadow
  overcast = optics.reflectance(*args, clouds.Sky(one, zero, zero, 0.8 * one), zero, 7)
  assert (overcast[:9] > 0.6).all()
  assert overcast[:9].std() < 0.05


def test_coarse_bands_are_averages_on_their_own_grid():
  value = np.arange(24, dtype=np.float32).reshape(4, 6)
  # 2 x 2 blocks: (0 + 1 + 6 + 7) / 4 = 3.5 and so on.
  blocks = [[3.5, 5.5, 7.5], [15.5, 17.5, 19.5]]
  np.testing.assert_array_equal(optics.coarsen(value, 2), np.kron(blocks, np.ones((2, 2))))


def test_sensor_noise_is_small_unbiased_and_of_its_scene():
  value = np.full((2, 200, 200), 0.25, np.float32)
  rows, cols = np.arange(200), np.arange(200)
  first, again, other = (optics.sensor_noise(rows, cols, salt, value.copy()) for salt in (1, 1, 2))
  np.testing.assert_array_equal(first, again)
  assert first.mean() == pytest.approx(0.25, abs=1e-4)
  assert 0.001 < first.std() < 0.004
  assert abs(np.corrcoef((first - value).ravel(), (other - value).ravel())[0, 1]) < 0.02
  assert abs(np.corrcoef((first - value)[0].ravel(), (first - value)[1].ravel())[0, 1]) < 0.03


def test_mixtures_fill_a_pixel_and_name_what_exists():
  main, contrast = materials.optical_tables()
  assert np.isfinite(main).all()
  assert main.min() >= 0
  assert main.max() < 1
  assert contrast.shape == (len(materials.NAMES), len(materials.SOILS), 12)
  # Bare soil is the soil itself.
  np.testing.assert_allclose(main[materials.INDEX['bare soil'], 2, 50], materials.COMPONENTS['soil pale'], atol=1e-6)

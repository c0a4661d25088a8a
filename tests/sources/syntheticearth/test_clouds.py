import numpy as np
import pyproj
import pytest
import scipy.stats

from deepsentinel.sources.syntheticearth import clouds, lattice
from deepsentinel.sources.syntheticearth.lattice import Points


def weather(number, pass_lon=10.0):
  return clouds.Weather(lattice.salt_of('test', number), pass_lon)


def patch(lon, lat, count=32, step_m=80):
  side = (np.arange(count) - count / 2) * step_m / lattice.METRES_PER_DEGREE
  east, north = np.meshgrid(side / np.cos(np.radians(lat)), side)
  return Points.of(lon + east, lat + north)


@pytest.fixture(scope='module')
def shares():
  """Cloud share of a patch under each of 700 datatakes, at 64 places of it."""
  rng = np.random.default_rng(0)
  return np.array([
    weather(k, rng.uniform(0, 360)).covered(patch(rng.uniform(-180, 180), rng.uniform(-60, 70), 8, 320)).mean()
    for k in range(700)
  ])  # fmt: skip


def test_cloud_shares_are_u_shaped_about_a_mean_near_055(shares):
  assert shares.mean() == pytest.approx(0.55, abs=0.05)
  fifths = np.histogram(shares, 5, (0, 1))[0] / len(shares)
  assert fifths[0] > 0.25
  assert fifths[4] > 0.35
  assert fifths[1:4].max() < 0.12


def test_some_patches_are_clear_and_more_are_overcast(shares):
  assert np.mean(shares == 0) > 0.15
  assert np.mean(shares == 1) > 0.25


def test_weather_persists_over_a_tile_and_changes_between_datatakes():
  here, near = [], []
  for k in range(150):
    here.append(weather(k).covered(patch(10.0, 50.0, 8, 320)).mean())
    near.append(weather(k).covered(patch(10.3, 50.1, 8, 320)).mean())
  assert scipy.stats.spearmanr(here, near).statistic > 0.6
  assert abs(scipy.stats.spearmanr(here[:-1], here[1:]).statistic) < 0.2


@pytest.mark.parametrize('share', [0.0, 0.02, 0.3, 0.5, 0.9, 1.0])
def test_a_chosen_share_is_hit(share):
  points = patch(10.0, 50.0, 96, 30)
  for k in range(4):
    mask = weather(k).at(points, weather(k).threshold_for(points, share)).mask
    assert mask.mean() == pytest.approx(share, abs=0.002)


def test_opacity_by_itself_is_that_of_the_sky():
  points = patch(10.0, 50.0)
  for k in range(3):
    np.testing.assert_array_equal(weather(k).opacity(points), weather(k).at(points).opacity)


def test_more_cloud_keeps_the_cloud_there_was():
  points, sky = patch(10.0, 50.0, 64, 40), weather(5)
  thin, thick = (sky.at(points, sky.threshold_for(points, share)).mask for share in (0.3, 0.6))
  assert (thick | ~thin).all()


@pytest.mark.parametrize('lon', [0.0, 180.0])
def test_no_seam_at_greenwich_or_the_antimeridian(lon):
  lat = np.linspace(-60, 70, 3000)
  step = 2e-6  # degrees
  for k in range(6):
    pass_lon = lon + 20.0
    west, east = (weather(k, pass_lon)._fields(Points.of(lon + side, lat), None) for side in (-step, step))
    assert np.abs(west - east).max() < 0.01


def test_cirrus_is_fibrous_and_thin():
  """Along the wind it resembles itself further than across it."""
  lengths = []
  for k in range(40):
    sky = weather(k)
    angle = np.pi * sky._u('wind')
    # The plane of the fibres has longitudes shortened to 0.65; at 49.5 degrees a degree has that length anyway.
    points = patch(10.0, 49.46, 40, 700)
    along = points.shifted(2500 * np.cos(angle), 2500 * np.sin(angle))
    across = points.shifted(-2500 * np.sin(angle), 2500 * np.cos(angle))
    cirrus = sky._fields(points, None)[1]
    lengths.append([np.corrcoef(cirrus, sky._fields(p, None)[1])[0, 1] for p in (along, across)])
  along, across = np.mean(lengths, axis=0)
  assert along > across + 0.1
  assert max(weather(k).at(patch(10.0, 50.0)).cirrus.max() for k in range(40)) < 0.5


@pytest.mark.parametrize(('elevation', 'azimuth'), [(35.0, 160.0), (60.0, 120.0), (25.0, 10.0)])
def test_the_cloud_stands_towards_the_sun_of_its_shadow(elevation, azimuth):
  shadow = Points.of(np.array([10.0, -63.0]), np.array([50.0, -41.0]))
  cloud = clouds.towards_sun(shadow, 1500.0, elevation, azimuth)
  geod = pyproj.Geod(a=lattice.EARTH_RADIUS_M, f=0)
  bearing, _, distance = geod.inv(shadow.lon, shadow.lat, cloud.lon, cloud.lat)
  np.testing.assert_allclose(distance, 1500 / np.tan(np.radians(elevation)), rtol=1e-3)
  assert np.abs((bearing - azimuth + 180) % 360 - 180).max() < 0.1

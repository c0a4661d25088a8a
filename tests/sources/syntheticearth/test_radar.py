import numpy as np
import pytest
import scipy.stats

from deepsentinel.sources.syntheticearth import materials, radar


@pytest.fixture(scope='module')
def fading():
  """Power of an even scene of 0 dB, float32 [2, 600, 600]."""
  db = np.zeros((2, 602, 602), np.float32)
  return 10 ** (radar.speckled(db, np.arange(602), np.arange(602), 99) / 10)


def test_speckle_has_four_point_four_looks(fading):
  for power in fading:
    looks = power.mean() ** 2 / power.var()
    assert looks == pytest.approx(4.4, rel=0.03)
    assert power.mean() == pytest.approx(1.0, abs=0.01)  # speckle is multiplicative with mean 1


def test_speckle_is_correlated_over_two_pixels(fading):
  def correlation(rows, cols):
    power = fading[0]
    a, b = power[: 600 - rows, : 600 - cols], power[rows:, cols:]
    return np.corrcoef(a.ravel(), b.ravel())[0, 1]

  for lag in ((0, 1), (1, 0)):
    assert correlation(*lag) == pytest.approx(0.5, abs=0.05)
  for lag in ((0, 2), (2, 0)):
    assert 0.03 < correlation(*lag) < 0.15
  for lag in ((0, 3), (3, 0), (7, 7)):
    assert abs(correlation(*lag)) < 0.02


def test_speckle_is_close_to_a_gamma_distribution(fading):
  independent = fading[0, ::3, ::3].ravel()
  looks = 4.4
  assert scipy.stats.kstest(independent, scipy.stats.gamma(looks, scale=1 / looks).cdf).statistic < 0.03


def test_polarisations_fade_independently(fading):
  assert abs(np.corrcoef(fading[0].ravel(), fading[1].ravel())[0, 1]) < 0.01


def test_speckle_is_tied_to_pixels_and_pass():
  db = np.zeros((1, 40, 50), np.float32)
  rows, cols = np.arange(1000, 1040), np.arange(-20, 30)
  whole = radar.speckled(db, rows, cols, 1)
  part = radar.speckled(db[:, 10:30, 5:25], rows[10:30], cols[5:25], 1)
  np.testing.assert_array_equal(whole[:, 10:28, 5:23], part)
  assert abs(np.corrcoef(whole.ravel(), radar.speckled(db, rows, cols, 2).ravel())[0, 1]) < 0.1


def test_nothing_is_darker_than_the_thermal_noise():
  dark = radar.speckled(np.full((1, 302, 302), -60, np.float32), np.arange(302), np.arange(302), 3)
  assert 10 * np.log10(np.mean(10 ** (dark / 10))) == pytest.approx(-27.5, abs=0.2)


def test_backscatter_through_the_year():
  table, growth, _ = materials.radar_tables()
  day = lambda n: n // materials.DAY_STEP  # noqa: E731
  vv, vh = (lambda name, n, band=band: table[materials.INDEX[name], day(n), band] for band in (0, 1))
  # Cereals darken in VV as their stems grow, maize and beet brighten in VH (Veloso et al. 2017).
  assert vv('winter cereal', 150) < vv('winter cereal', 60) - 1.5
  assert vh('summer crop', 220) > vh('summer crop', 100) + 2
  assert vh('conifer', 30) == vh('conifer', 210)
  for name in ('conifer', 'broadleaf'):
    assert vh(name, 200) > vh('pasture', 200) + 2
    assert vv('grey roofs', 200) > vv(name, 200) + 4
    assert vh(name, 200) > vh('lake', 200) + 9
  assert growth.min() >= 0
  assert growth.max() <= 1

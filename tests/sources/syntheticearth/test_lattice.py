import numpy as np
import pyproj
import pytest

from deepsentinel.sources.syntheticearth import lattice
from deepsentinel.sources.syntheticearth.lattice import Points

GEOD = pyproj.Geod(a=lattice.EARTH_RADIUS_M, f=0)


def scattered(count=4000, limit=80, seed=0):
  rng = np.random.default_rng(seed)
  return Points.of(rng.uniform(-180, 180, count), rng.uniform(-limit, limit, count))


def test_noise_has_the_stated_spread_and_no_mean():
  value = lattice.noise(scattered(40_000), 1000, 7)
  assert abs(value.mean()) < 0.01
  assert value.std() == pytest.approx(0.29, abs=0.02)
  assert lattice.fractal(scattered(40_000), 1000, 4, 7).std() == pytest.approx(0.29, abs=0.03)


def test_noise_at_two_places_is_unrelated_beyond_two_cells():
  points = scattered(20_000)
  near, far = points.shifted(100, 0), points.shifted(0, 3000)
  value = lattice.noise(points, 1000, 3)
  assert np.corrcoef(value, lattice.noise(near, 1000, 3))[0, 1] > 0.9
  assert abs(np.corrcoef(value, lattice.noise(far, 1000, 3))[0, 1]) < 0.03


def test_other_salts_give_unrelated_noise():
  points = scattered(20_000)
  assert abs(np.corrcoef(lattice.noise(points, 1000, 1), lattice.noise(points, 1000, 2))[0, 1]) < 0.03


@pytest.mark.parametrize('lon', [0.0, 180.0, -180.0, 71.3])
def test_no_seam_along_a_meridian(lon):
  lat = np.linspace(-79, 79, 2000)
  step = 1e-6  # degrees, a tenth of a metre
  for field in (lambda p: lattice.noise(p, 500, 5), lambda p: lattice.fractal(p, 3000, 3, 5, ridged=True)):
    jump = field(Points.of(lon - step, lat)) - field(Points.of(lon + step, lat))
    assert np.abs(jump).max() < 0.005


def test_no_seam_between_rows():
  grid = lattice.Lattice(500, 5)
  lat = grid.row_lat(np.arange(-9000, 9000, 7))
  lon = np.linspace(-179, 179, len(lat))
  jump = lattice.noise(Points.of(lon, lat - 1e-6), 500, 5) - lattice.noise(Points.of(lon, lat + 1e-6), 500, 5)
  assert np.abs(jump).max() < 0.005


def test_values_do_not_depend_on_the_company_they_are_computed_in():
  points = scattered(500)
  part = Points(points.lon[100:140], points.lat[100:140])
  for field in (lambda p: lattice.noise(p, 900, 2), lambda p: lattice.cells(p, 400, 2, 0.8).edge_m):
    np.testing.assert_array_equal(field(points)[100:140], field(part))
  for smooth in (False, True):
    one = lattice.sampled(points, 700, 2, lambda p: lattice.noise(p, 5000, 1)[None], smooth)[0]
    other = lattice.sampled(part, 700, 2, lambda p: lattice.noise(p, 5000, 1)[None], smooth)[0]
    np.testing.assert_array_equal(one[:, 100:140], other)


@pytest.mark.parametrize('angle', [None, 0.4])
def test_cells_are_the_nearest_seeds(angle):
  rng = np.random.default_rng(3)
  points = Points.of(20 + rng.uniform(0, 0.03, 1500), 50 + rng.uniform(0, 0.02, 1500))
  turn = None if angle is None else np.full(1500, angle, np.float32)
  found = lattice.cells(points, 300, 9, 0.8, turn)
  # Every point of a cell has to point at one and the same seed.
  x = (points.lon - 20.015) * lattice.METRES_PER_DEGREE * np.cos(np.radians(points.lat))
  y = (points.lat - 50.01) * lattice.METRES_PER_DEGREE
  seed = np.column_stack([x - found.dx, y - found.dy])
  ids, first = np.unique(found.id, return_index=True)
  assert len(ids) > 20
  own = seed[first][np.searchsorted(ids, found.id)]
  # A row's cells have the width of its middle, so that far from this frame's origin seeds shift by a metre.
  assert np.hypot(*(seed - own).T).max() < 2
  # And no seed of another cell lies nearer, but for points within a few metres of the border.
  dx, dy = x[:, None] - seed[first][:, 0], y[:, None] - seed[first][:, 1]
  if angle is not None:
    dx, dy = np.cos(angle) * dx + np.sin(angle) * dy, np.cos(angle) * dy - np.sin(angle) * dx
  power = 2 if angle is None else 4
  nearest = ids[np.argmin(dx**power + dy**power, axis=1)]
  assert np.mean(nearest == found.id) > 0.97
  assert found.edge_m.min() >= 0


def test_a_spline_through_a_slope_is_that_slope():
  # The uniform cubic B-spline reproduces linear functions; rows have constant latitude, so latitude is one.
  points = scattered(300, limit=60)
  points = Points(points.lon, 47 + points.lat / 600)
  value, slope = lattice.sampled(
    points, 500, 4, lambda p: ((p.lat - 47) * lattice.METRES_PER_DEGREE)[None], smooth=True, slopes=True
  )
  np.testing.assert_allclose(value[0], (points.lat - 47) * lattice.METRES_PER_DEGREE, atol=0.05)
  np.testing.assert_allclose(slope[1], 1.0, atol=2e-3)
  np.testing.assert_allclose(slope[0], 0.0, atol=2e-3)


def test_shifted_moves_by_metres():
  start = Points.of(np.array([10.0, -179.999, 0.001]), np.array([50.0, 10.0, -70.0]))
  east = start.shifted(1000.0, 0.0)
  north = start.shifted(0.0, 1000.0)
  np.testing.assert_allclose(GEOD.inv(start.lon, start.lat, east.lon, east.lat)[2], 1000, rtol=1e-4)
  np.testing.assert_allclose(GEOD.inv(start.lon, start.lat, north.lon, north.lat)[2], 1000, rtol=1e-9)


def test_longitudes_are_brought_to_one_turn():
  points = Points.of(np.array([-1e-17, -0.5, 360.0, 720.25, -180]), 0.0)
  assert ((points.lon >= 0) & (points.lon < 360)).all()
  np.testing.assert_allclose(points.lon, [0, 359.5, 0, 0.25, 180])

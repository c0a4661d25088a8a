import math

import numpy as np
import pyproj
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepsentinel.data import distances

GEOD = pyproj.Geod(ellps='WGS84')
# Clusters where longitude and latitude behave badly, so that random points have neighbours there.
LON = st.one_of(st.floats(-180, 180), st.sampled_from([-180.0, 180.0, 179.99, -179.99, 0.0]), st.floats(-0.5, 0.5))
LAT = st.one_of(st.floats(-90, 90), st.sampled_from([90.0, -90.0, 89.9, -89.9, 0.0]), st.floats(-0.5, 0.5))
POINTS = st.lists(st.tuples(LON, LAT), max_size=25).map(lambda p: np.array(p, float).reshape(-1, 2).T)


def brute_force(lon, lat):
  """[N, N] geodesic distances in km, infinite on the diagonal."""
  a, b = np.meshgrid(np.arange(len(lon)), np.arange(len(lon)), indexing='ij')
  distance = np.array(GEOD.inv(lon[a].ravel(), lat[a].ravel(), lon[b].ravel(), lat[b].ravel())[2]) / 1000
  distance = distance.reshape(a.shape)
  np.fill_diagonal(distance, np.inf)
  return distance


def row(table, i):
  part = slice(table.offsets[i], table.offsets[i + 1])
  return table.index[part], table.distance_km[part]


@settings(max_examples=150, deadline=None)
@given(POINTS, st.sampled_from([0.0, 1.0, 60.0, 111.195, 2000.0, 25_000.0]))
def test_table_is_what_every_pair_measured_gives(points, radius_km):
  lon, lat = points
  table = distances.nearest_neighbours(lon, lat, max_distance_km=radius_km)
  distance = brute_force(lon, lat) if len(lon) else np.zeros((0, 0))
  assert len(table) == len(lon)
  for i in range(len(lon)):
    index, found = row(table, i)
    expected = np.flatnonzero(distance[i] <= radius_km)
    np.testing.assert_array_equal(index, expected)
    np.testing.assert_allclose(found, distance[i, expected], rtol=1e-6, atol=1e-6)
    assert table.nearest_km[i] == (found.min() if len(found) else np.inf)


@settings(max_examples=80, deadline=None)
@given(POINTS)
def test_mean_nearest_distance_is_what_every_pair_measured_gives(points):
  lon, lat = points
  if len(lon) < 2:
    assert math.isnan(distances.mean_nearest_neighbour_km(lon, lat))
  else:
    expected = brute_force(lon, lat).min(axis=1).mean()
    assert distances.mean_nearest_neighbour_km(lon, lat) == pytest.approx(expected, rel=1e-6, abs=1e-6)


@settings(max_examples=80, deadline=None)
@given(POINTS, POINTS, st.sampled_from([0.0, 3.7, 300.0, 21_000.0]))
def test_exclude_near_is_what_every_pair_measured_gives(points, held, km):
  keep = distances.exclude_near(*points, *held, km)
  expected = [not any(GEOD.inv(lon, lat, x, y)[2] <= km * 1000 for x, y in held.T) for lon, lat in points.T]
  assert keep.tolist() == expected


def test_across_the_antimeridian_and_over_the_pole():
  # 0.2 degrees of longitude on the equator: 0.2 * pi / 180 * 6378.137 km; 0.2 degrees over the pole: 2 * 11.169 km.
  table = distances.nearest_neighbours([179.9, -179.9], [0.0, 0.0])
  assert row(table, 0)[0].tolist() == [1]
  assert table.distance_km[0] == pytest.approx(0.2 * math.pi / 180 * 6378.137, rel=1e-6)
  table = distances.nearest_neighbours([10.0, -170.0], [89.9, 89.9])
  assert table.distance_km[0] == pytest.approx(2 * 11.1694, rel=1e-4)


def test_duplicates_are_neighbours_of_each_other_but_never_of_themselves():
  table = distances.nearest_neighbours([5.0, 5.0, 5.0], [45.0, 45.0, 45.0])
  assert [row(table, i)[0].tolist() for i in range(3)] == [[1, 2], [0, 2], [0, 1]]
  assert table.nearest_km.tolist() == [0, 0, 0]


def test_one_point_has_no_neighbour_and_no_mean():
  table = distances.nearest_neighbours([5.0], [45.0])
  assert (len(table), len(table.index), table.nearest_km.tolist()) == (1, 0, [np.inf])
  assert math.isnan(table.mean_nearest_km)


@pytest.mark.parametrize(
  ('lon', 'lat', 'message'),
  [
    ([0, np.nan], [0, 0], 'Point 1 has longitude nan'),
    ([0, 0], [0, 91], 'Point 1 has latitude 91'),
    ([200, 0], [0, 0], 'Point 0 has longitude 200.*-180 to 180'),
    ([0, 0], [0], r'one length; found \(2,\) and \(1,\)'),
  ],
)
def test_bad_coordinates_are_named(lon, lat, message):
  with pytest.raises(ValueError, match=message):
    distances.nearest_neighbours(lon, lat)


def test_a_table_too_large_for_memory_is_refused(monkeypatch):
  monkeypatch.setattr(distances, '_MAX_PAIRS', 5)
  with pytest.raises(ValueError, match=r'4 points have 12 pairs within max_distance_km=50.*smaller'):
    distances.nearest_neighbours(np.zeros(4), np.zeros(4), max_distance_km=50)


# Five points on the equator and a sixth far away. 0.1 degrees of longitude are 11.1319 km.


def test_a_hundred_thousand_points_are_tabulated_as_theory_has_them():
  # A Poisson process of density d has mean nearest distance 1 / (2 sqrt(d)) and d * pi * r**2 neighbours within r.
  rng = np.random.default_rng(0)
  n, area_km2 = 100_000, 510.066e6
  lon, lat = rng.uniform(-180, 180, n), np.degrees(np.arcsin(rng.uniform(-1, 1, n)))
  table = distances.nearest_neighbours(lon, lat, max_distance_km=50)
  assert table.mean_nearest_km < 50
  assert distances.mean_nearest_neighbour_km(lon, lat) == pytest.approx(0.5 * math.sqrt(area_km2 / n), rel=0.01)
  assert table.counts.mean() == pytest.approx(n / area_km2 * math.pi * 50**2, rel=0.02)

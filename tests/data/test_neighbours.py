import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from deepsentinel.data import distances, neighbours
from tests.data.memory_records import MemoryRecords
from tests.data.test_distances import POINTS, brute_force, row

LINE_LON = np.array([0.0, 0.1, 0.3, 0.6, 5.0, 60.0])
LINE_LAT = np.zeros(6)
DEGREE = math.pi / 180 * 6378.137


def line_sampler(**kwargs):
  return neighbours.NeighbourSampler.from_points(LINE_LON, LINE_LAT, **kwargs)


def chi_square(drawn, probability):
  """p-value of draws against the probabilities of ids; ids of probability 0 must not occur."""
  seen = np.bincount(drawn, minlength=len(probability))
  possible = probability > 0
  assert seen[~possible].sum() == 0
  return scipy.stats.chisquare(seen[possible], probability[possible] * len(drawn)).pvalue


@pytest.mark.parametrize('law', ['near', 'uniform', 'literal'])
def test_neighbours_are_drawn_by_the_law(law):
  # Neighbours of point 0 within 111 km: 1, 2, 3, at 0.1, 0.3 and 0.6 degrees.
  sampler = line_sampler(law=law, scale_km=20.0)
  distance = np.array([0.1, 0.3, 0.6]) * DEGREE
  weight = {'near': np.exp(-distance / 20), 'uniform': np.ones(3), 'literal': np.exp(distance)}[law]
  probability = np.concatenate([[0], weight / weight.sum(), [0, 0]])
  drawn = sampler.draw_neighbour(np.zeros(40_000, int), neighbours.generator(0, 'test', 0))
  if law == 'literal':  # the farthest, all but surely: exp(-33) is left for the others
    assert (drawn == 3).all()
  else:
    assert chi_square(drawn, probability) > 1e-3
  part = slice(sampler.table.offsets[0], sampler.table.offsets[1])
  np.testing.assert_allclose(sampler.probability[part], probability[1:4], rtol=1e-5)


def test_the_literal_law_survives_distances_whose_exponential_overflows():
  # Distances of 2,000 km and more: exp would be infinite.
  sampler = neighbours.NeighbourSampler.from_points([0, 20, 30, 120], np.zeros(4), law='literal', max_distance_km=4000)
  assert np.isfinite(sampler.probability).all()
  assert (sampler.draw_neighbour(np.zeros(50, int), neighbours.generator(0, 'test', 0)) == 2).all()


def test_every_anchor_draws_among_its_own_neighbours():
  rng = np.random.default_rng(0)
  lon, lat = rng.uniform(0, 6, 300), rng.uniform(40, 46, 300)
  table = distances.nearest_neighbours(lon, lat, max_distance_km=60)
  sampler = neighbours.NeighbourSampler.from_points(lon, lat, max_distance_km=60)
  anchor = np.tile(np.arange(300), 20)
  near = sampler.draw_neighbour(anchor, neighbours.generator(0, 'near', 0))
  far = sampler.draw_distant(anchor, neighbours.generator(0, 'far', 0))
  for a, n, f in zip(anchor, near, far, strict=True):
    own = row(table, a)[0]
    assert n in own if len(own) else n == a
    assert f != a
    assert f not in own


@settings(max_examples=60, deadline=None)
@given(POINTS, st.sampled_from([0.0, 60.0, 2000.0]), st.integers(0, 2**31))
def test_distant_is_never_the_anchor_nor_a_neighbour(points, radius_km, seed):
  lon, lat = points
  distance = brute_force(lon, lat) if len(lon) else np.zeros((0, 0))
  try:
    sampler = neighbours.NeighbourSampler.from_points(lon, lat, max_distance_km=radius_km)
  except ValueError:
    assert len(lon) < 2 or any((distance[i] <= radius_km).sum() == len(lon) - 1 for i in range(len(lon)))
    return
  anchor = np.arange(len(lon))
  far = sampler.draw_distant(anchor, neighbours.generator(seed, 'far', 0))
  assert (distance[anchor, far][far != anchor] > radius_km).all()
  assert (far != anchor).all()


def test_distant_is_uniform_over_all_that_are_no_neighbours():
  # Of point 1 the neighbours are 0, 2, 3: distant ones are 4 and 5. Point 5 has no neighbour: all others are distant.
  sampler = line_sampler()
  drawn = sampler.draw_distant(np.full(20_000, 1), neighbours.generator(0, 'test', 0))
  assert chi_square(drawn, np.array([0, 0, 0, 0, 0.5, 0.5])) > 1e-3
  drawn = sampler.draw_distant(np.full(20_000, 5), neighbours.generator(0, 'test', 1))
  assert chi_square(drawn, np.array([0.2] * 5 + [0])) > 1e-3


def test_samplers_of_regions_are_told_of_together():
  # Within 0.25 degrees: 0-1 and 1-2.
  whole = line_sampler(law='uniform', max_distance_km=0.25 * 111.32)
  parts = [
    neighbours.NeighbourSampler.from_points(LINE_LON[p], LINE_LAT[p], law='uniform', max_distance_km=0.25 * 111.32)
    for p in (slice(4), slice(4, 6))
  ]
  apart, together = whole.realised(), neighbours.realised(parts)
  assert together.keys() == apart.keys()
  for name in ('mean_km', 'without_neighbour', 'mean_neighbours'):  # no neighbours are cut apart
    assert together[name] == pytest.approx(apart[name])
  assert math.isnan(together['same_acquisition'])  # unknown
  assert together['without_neighbour'] == pytest.approx(3 / 6)


def test_an_anchor_without_neighbour_gets_itself():
  sampler = line_sampler()
  assert sampler.draw_neighbour(np.array([5, 4]), neighbours.generator(0, 'test', 0)).tolist() == [5, 4]
  assert sampler.realised()['without_neighbour'] == pytest.approx(2 / 6)
  nobody = line_sampler(max_distance_km=1.0)
  assert nobody.draw_neighbour(np.arange(6), neighbours.generator(0, 'test', 0)).tolist() == list(range(6))


def test_same_patch_draws_the_anchor_and_keeps_distant_beyond_the_radius():
  sampler = line_sampler(law='same_patch')
  anchor = np.arange(6).repeat(50)
  assert (sampler.draw_neighbour(anchor, neighbours.generator(0, 'test', 0)) == anchor).all()
  far = sampler.draw_distant(anchor, neighbours.generator(0, 'test', 0))
  assert set(far[anchor == 0]) == {4, 5}
  assert sampler.realised()['mean_km'] == 0


def test_other_acquisition_draws_from_another_pass_where_there_is_one():
  hour = 3600
  # 0 and 1 were sensed in one pass as two tiles; 2 five days later; 3 in the next orbit; 4 and 5 alone.
  time = [0, hour // 60, 120 * hour, 100 * 60, 0, 0]
  sampler = line_sampler(law='other_acquisition', scale_km=20.0, time=time, scene=['a', 'b', 'c', 'd', 'e', 'f'])
  drawn = sampler.draw_neighbour(np.zeros(20_000, int), neighbours.generator(0, 'test', 0))
  weight = np.exp(-np.array([0.3, 0.6]) * DEGREE / 20)
  probability = np.concatenate([[0, 0], weight / weight.sum(), [0, 0]])
  assert chi_square(drawn, probability) > 1e-3
  assert sampler.realised()['same_acquisition'] == 0
  # All of one pass: no other to draw from, so the nearest of the same.
  sampler = line_sampler(law='other_acquisition', scale_km=0.0, time=np.zeros(6))
  assert sampler.draw_neighbour(np.array([0, 3]), neighbours.generator(0, 'test', 0)).tolist() == [1, 2]
  assert sampler.realised()['same_acquisition'] == 1


def test_other_acquisition_needs_times_or_scenes():
  with pytest.raises(ValueError, match=r"needs scene ids or sensing times.*'near'"):
    line_sampler(law='other_acquisition')


def test_realised_is_the_mean_of_many_draws():
  time = np.array([0, 0, 1, 1, 0, 0]) * 1_000_000
  sampler = line_sampler(scale_km=20.0, time=time)
  anchor = np.arange(4).repeat(20_000)  # those that have neighbours
  drawn = sampler.draw_neighbour(anchor, neighbours.generator(0, 'test', 0))
  realised = sampler.realised()
  distance = np.abs(LINE_LON[anchor] - LINE_LON[drawn]) * DEGREE
  assert realised['mean_km'] == pytest.approx(distance.mean(), abs=5 * distance.std() / np.sqrt(len(anchor)))
  assert realised['same_acquisition'] == pytest.approx((time[anchor] == time[drawn]).mean(), abs=0.01)
  assert realised['mean_neighbours'] == pytest.approx(12 / 6)


def test_scale_auto_is_the_mean_distance_to_the_nearest():
  # Nearest of 0, 1, 2, 3: 0.1, 0.1, 0.2, 0.3 degrees; 4 and 5 have none within the radius.
  assert line_sampler().scale_km == pytest.approx(0.7 / 4 * DEGREE, rel=1e-6)
  assert line_sampler(scale_km='2.5').scale_km == 2.5


def test_draws_depend_on_seed_stream_and_step_alone():
  sampler = line_sampler(scale_km=50.0)
  anchor = np.arange(6).repeat(30)

  def draw(*key):
    return sampler.draw_neighbour(anchor, neighbours.generator(*key)).tolist()

  assert draw(3, 'neighbour', 7) == draw(3, 'neighbour', 7)
  assert (
    len({tuple(draw(*k)) for k in [(3, 'neighbour', 7), (4, 'neighbour', 7), (3, 'x', 7), (3, 'neighbour', 8)]}) == 4
  )


def test_everyone_a_neighbour_names_the_setting_and_a_radius_that_works():
  lon, lat = np.array([0.0, 0.1, 0.3]), np.zeros(3)
  with pytest.raises(ValueError, match=r'Every patch has all others within max_distance_km=111.195') as error:
    neighbours.NeighbourSampler.from_points(lon, lat)
  # The farthest from the middle one is at 0.2 degrees, 22.26 km.
  assert '--config.pretrain.tile2vec.max_distance_km below 22.26' in str(error.value)
  neighbours.NeighbourSampler.from_points(lon, lat, max_distance_km=22.2)
  with pytest.raises(ValueError, match=r'1 of 3 patches \(first: 1\) have all others'):
    neighbours.NeighbourSampler.from_points(lon, lat, max_distance_km=25)
  with pytest.raises(ValueError, match=r'at least two patches.*found 1'):
    neighbours.NeighbourSampler.from_points([0.0], [0.0])
  with pytest.raises(ValueError, match=r'Use a corpus that covers more ground'):
    neighbours.NeighbourSampler.from_points([0.0, 0.0], [0.0, 0.0])


@pytest.mark.parametrize(
  ('kwargs', 'message'),
  [
    ({'law': 'nearest'}, "Unknown neighbour law 'nearest'. Known: near, literal"),
    ({'scale_km': 'automatic'}, "neighbour_scale_km is 'automatic'; allowed are 'auto'"),
    ({'scale_km': -1}, 'neighbour_scale_km is -1'),
    ({'max_distance_km': -1}, 'max_distance_km is -1'),
  ],
)
def test_bad_settings_are_named(kwargs, message):
  with pytest.raises(ValueError, match=message):
    line_sampler(**kwargs)


def test_from_records_takes_places_and_times_from_the_table():
  records = MemoryRecords(count=6, lon_deg=LINE_LON, lat_deg=LINE_LAT)
  records.table['s1_time'] = [0, 0, 10**6, 10**6, 0, 0]
  sampler = neighbours.NeighbourSampler.from_records(records.table, np.array([0, 1, 5]))
  assert sampler.table.index.tolist() == [1, 0]
  assert sampler.realised()['same_acquisition'] == 1

import numpy as np
import pyproj
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepsentinel.corpus import splits

SHARES = {'train': 0.7, 'validation': 0.2, 'test': 0.1}
GEOD = pyproj.Geod(ellps='WGS84')


def split(lon, lat, **changes):
  arguments = {'method': 'blocks', 'block_km': 50.0, 'buffer_km': 3.7, 'shares': SHARES, 'seed': 0} | changes
  return splits.split_patches(np.asarray(lon), np.asarray(lat), **arguments)


@st.composite
def clouds_of_points(draw):
  """Points packed so densely that many fall into each other's buffer; anywhere, also across 180 degrees."""
  seed = draw(st.integers(0, 2**31))
  n = draw(st.integers(1, 150))
  rng = np.random.default_rng(seed)
  lon = draw(st.floats(-180, 180)) + rng.uniform(-1, 1, n)
  lat = np.clip(draw(st.floats(-70, 78)) + rng.uniform(-0.5, 0.5, n), -80, 84)
  return (lon + 180) % 360 - 180, lat


@settings(max_examples=60, deadline=None)
@given(clouds_of_points(), st.integers(0, 5), st.sampled_from([3.7, 10.0]))
def test_no_two_patches_of_different_splits_lie_within_the_buffer(points, seed, buffer_km):
  lon, lat = points
  names = split(lon, lat, seed=seed, buffer_km=buffer_km)
  a, b = np.triu_indices(len(lon), 1)
  km = GEOD.inv(lon[a], lat[a], lon[b], lat[b])[2] / 1000
  differ = (names[a] != names[b]) & (names[a] != 'buffer') & (names[b] != 'buffer')
  assert not (differ & (km < buffer_km)).any()


def test_held_out_patches_are_kept_and_train_gives_way():
  lon, lat = np.full(6, 10.0), 50 + np.array([0, 2, 4, 20, 22, 24]) / 111.2
  names = np.array(['train', 'test', 'validation', 'train', 'train', 'validation'], object)
  kept = splits.drop_buffer(names, lon, lat, 3.7)
  # 0 is 2 km from test; 2 is 2 km from test; 4 is 2 km from validation; 3 is 4 km from it.
  assert list(kept) == ['buffer', 'test', 'buffer', 'train', 'buffer', 'validation']


def test_a_validation_patch_that_gives_way_spares_its_neighbours():
  lat = 50 + np.array([0, 3, 6]) / 111.2
  kept = splits.drop_buffer(np.array(['test', 'validation', 'train'], object), np.full(3, 10.0), lat, 3.7)
  assert list(kept) == ['test', 'buffer', 'train']


def test_shares_are_of_patches():
  rng = np.random.default_rng(0)
  lon, lat = rng.uniform(0, 20, 5000), rng.uniform(45, 55, 5000)
  names = split(lon, lat, buffer_km=0.0)
  for name, share in SHARES.items():
    assert (names == name).mean() == pytest.approx(share, abs=0.01)


def test_blocks_are_whole_and_of_50_km():
  rng = np.random.default_rng(0)
  lon, lat = rng.uniform(5, 15, 2000), rng.uniform(45, 55, 2000)
  block = splits.block_numbers(lon, lat, 50.0)
  names = split(lon, lat, buffer_km=0.0)
  assert all(len(set(names[block == k])) == 1 for k in np.unique(block))
  x, y = pyproj.Transformer.from_crs(4326, 3035, always_xy=True).transform(lon, lat)
  for k in np.unique(block):
    assert np.ptp(x[block == k]) <= 50_000
    assert np.ptp(y[block == k]) <= 50_000
  # 10 x 10 degrees there are 0.79 M km2, of which 317 blocks of 2,500 km2 are whole; more are cut by the edge.
  assert 317 <= len(np.unique(block)) <= 420


def test_blocks_elsewhere_have_the_same_area():
  lon, lat = np.meshgrid(np.arange(100, 102, 0.02), np.arange(-1, 1, 0.02))
  number = splits.block_numbers(lon.ravel(), lat.ravel(), 50.0)
  # 0.02 degrees there are 2.2 km: a whole block of 2,500 km2 holds about 507 points of 4.93 km2.
  assert np.bincount(number).max() == pytest.approx(507, rel=0.06)


def test_another_seed_another_split():
  rng = np.random.default_rng(0)
  lon, lat = rng.uniform(0, 20, 500), rng.uniform(45, 55, 500)
  assert (split(lon, lat, seed=0) == split(lon, lat, seed=0)).all()
  assert (split(lon, lat, seed=0) != split(lon, lat, seed=1)).any()


def test_no_split_stays_empty_where_there_are_blocks_enough():
  lon, lat = np.array([0.0, 0.1, 5.0, 5.1, 10.0, 10.1]), np.full(6, 50.0)
  for seed in range(10):
    assert set(split(lon, lat, seed=seed)) == {'train', 'validation', 'test'}


def test_random_and_none():
  lon, lat = np.linspace(0, 1, 100), np.full(100, 50.0)
  names = split(lon, lat, method='random')
  assert [int((names == s).sum()) for s in SHARES] == [70, 20, 10]
  assert set(split(lon, lat, method='none')) == {'train'}
  assert set(split(lon, lat, method='shared')) == {'shared'}
  assert split([], []).shape == (0,)


def test_of_many_draws_the_one_counts_whose_splits_hold_the_classes_most_alike():
  rng = np.random.default_rng(0)
  lon, lat = rng.uniform(11, 14, 400), rng.uniform(51, 54, 400)
  # Farmland in the west, nature in the east, and a little water anywhere.
  east = np.clip((lon - 11) / 3, 0, 1)
  counts = (1000 * np.column_stack([1 - east, east, 0.1 * rng.uniform(size=400)])).astype(int)
  shares = {'train': 0.6, 'validation': 0.15, 'test': 0.25}
  whole = counts.sum(0) / counts.sum()

  def furthest(names):
    parts = [counts[names == name].sum(0) for name in shares]
    return max(np.abs(part / part.sum() - whole).sum() / 2 for part in parts)

  for seed in range(5):
    blind = split(lon, lat, shares=shares, seed=seed, counts=counts)
    balanced = split(lon, lat, shares=shares, seed=seed, counts=counts, draws=200)
    assert furthest(balanced) < 0.05
    assert furthest(balanced) < furthest(blind)
    for name, share in shares.items():
      assert (balanced == name).mean() == pytest.approx(share, abs=0.06)
    block = splits.block_numbers(lon, lat, 50.0)
    assert all(len(set(balanced[block == k]) - {'buffer'}) == 1 for k in np.unique(block))
  again = split(lon, lat, shares=shares, seed=0, counts=counts, draws=200)
  assert (again == split(lon, lat, shares=shares, seed=0, counts=counts, draws=200)).all()
  # One draw is the split that is blind to the classes, and so is any number of draws where there are none.
  assert (split(lon, lat, seed=3, counts=counts) == split(lon, lat, seed=3)).all()
  assert (split(lon, lat, seed=3, counts=0 * counts, draws=200) == split(lon, lat, seed=3)).all()


def test_what_a_row_holds():
  pixels = {f'{name}_px': 0 for name in ('urban', 'agriculture', 'natural', 'wetland', 'water')}
  rows = [{**pixels, 'water_px': 7, 'scene': 0}, {**pixels, 'urban_px': 3, 'scene': 0}]
  assert splits.class_counts(rows).tolist() == [[0, 0, 0, 0, 7], [3, 0, 0, 0, 0]]
  assert splits.class_counts([row | {'scene': 2 - i} for i, row in enumerate(rows)]).tolist() == [[0, 1], [1, 0]]
  assert splits.class_counts([]).shape == (0, 5)

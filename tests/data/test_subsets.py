"""Fractions of labels and spatial folds."""

import numpy as np
import pandas as pd
import pytest

from deepsentinel.corpus import splits
from deepsentinel.data import distances, records, subsets
from tests import tiny_records


def test_fractions_are_nested_and_stratified():
  dominant = np.repeat([0, 1, 2, -1], [100, 60, 30, 10])
  order = subsets.nested_order(dominant, seed=3)
  assert sorted(order) == list(range(200))
  chosen = {f: set(subsets.first_share(order, f)) for f in (0.05, 0.25, 0.5, 1.0)}
  assert [len(c) for c in chosen.values()] == [10, 50, 100, 200]
  assert chosen[0.05] < chosen[0.25] < chosen[0.5] < chosen[1.0]
  for fraction, numbers in chosen.items():
    for k, total in ((0, 100), (1, 60), (2, 30), (-1, 10)):
      assert abs((dominant[list(numbers)] == k).sum() - fraction * total) <= 1
  np.testing.assert_array_equal(subsets.nested_order(dominant, seed=3), order)
  assert (subsets.nested_order(dominant, seed=4) != order).any()
  assert len(subsets.first_share(order, 1e-6)) == 1


def test_folds_share_no_block_and_keep_their_distance():
  rng = np.random.default_rng(0)
  table = pd.DataFrame({'lon_deg': rng.uniform(10, 13, 300), 'lat_deg': rng.uniform(50, 52, 300)})
  block = (table['lon_deg'] // 0.5).astype(int).to_numpy() * 10 + (table['lat_deg'] // 0.5).astype(int).to_numpy()
  fold_of = splits.assign(block, {str(k): 0.25 for k in range(4)}, seed=1).astype(int)
  folds = subsets.spatial_folds(table, fold_of, 5.0)
  assert sorted(np.concatenate([f.validation for f in folds])) == list(range(300))
  for fold in folds:
    assert 40 <= len(fold.validation) <= 110
    assert not set(block[fold.train]) & set(block[fold.validation])
    lon, lat = table[['lon_deg', 'lat_deg']].to_numpy().T
    near = distances.exclude_near(lon[fold.train], lat[fold.train], lon[fold.validation], lat[fold.validation], 5.0)
    assert near.all()
  with pytest.raises(ValueError, match=r'leaves no patch to train on .* Pass more folds'):
    subsets.spatial_folds(table, fold_of, 900.0)


def test_regions_are_places_that_lie_together():
  # Eight points in each quarter of the globe: the first four stretches of a Hilbert curve are its quarters.
  rng = np.random.default_rng(0)
  east, north = rng.permutation(np.tile([[0, 0], [0, 1], [1, 0], [1, 1]], (8, 1))).T
  lon, lat = rng.uniform(1, 179, 32) - 180 * (1 - east), rng.uniform(1, 89, 32) - 90 * (1 - north)
  quarters = {tuple(np.flatnonzero((east == e) & (north == n))) for e in (0, 1) for n in (0, 1)}
  assert {tuple(region) for region in subsets.regions(lon, lat, 4)} == quarters
  for count in (1, 3, 5, 32):
    regions = subsets.regions(lon, lat, count)
    assert sorted(np.concatenate(regions)) == list(range(32))
    assert {len(region) for region in regions} <= {32 // count, -(-32 // count)}
  with pytest.raises(ValueError, match='32 patches cannot be cut into 33 regions; allowed are 1 to 32'):
    subsets.regions(lon, lat, 33)


def test_joined_splits_read_as_their_parts():
  directory = tiny_records.tiny_records()
  parts = [records.RecordSet(directory, split) for split in ('train', 'validation')]
  joined = subsets.Joined(parts)
  assert len(joined) == sum(map(len, parts)) == len(joined.table)
  first = len(parts[0])
  order = np.array([first, 0, len(joined) - 1, 1])
  pixels = joined.read_crops('s2', order, np.arange(4), np.arange(4), 16)
  for i, n in enumerate(order):
    part, number = (parts[0], n) if n < first else (parts[1], n - first)
    np.testing.assert_array_equal(pixels[i], part.read('s2', [number])[0, i : i + 16, i : i + 16])
  assert joined.read('corine', [first])[0].tolist() == parts[1].read('corine', [0])[0].tolist()

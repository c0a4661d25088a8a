"""Detection from a few examples: on made-up vectors, and on SyntheticEarth, whose truth is known."""

import dataclasses
import json

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from sklearn.metrics import roc_auc_score

from deepsentinel.embedding import cells, detection, examples, places
from tests.embedding import cell_maps


def square(row, col, side=1.0):
  """A polygon of cells whose upper-left corner is given in cells."""
  corners = ((row, col), (row, col + side), (row + side, col + side), (row + side, col))
  return shapely.Polygon([cell_maps.lonlat(*corner) for corner in corners])


def point(row, col):
  return shapely.Point(*cell_maps.lonlat(row + 0.5, col + 0.5))


def write(path, geometry, crs=4326, **columns):
  frame = geopandas.GeoDataFrame(columns, geometry=geometry, crs=4326).to_crs(crs)
  return places.write(path, {'examples': frame})


@pytest.fixture(scope='module')
def halves(tmp_path_factory):
  """A map whose western half looks one way and whose eastern half another."""
  vectors = cell_maps.random_vectors(12, 16) * 0.3
  vectors[:, :8, 0] += 1
  vectors[:, 8:, 0] -= 1
  return cells.open_map(cell_maps.write(tmp_path_factory.mktemp('halves') / 'm', vectors), mean_cells=1)


def read(there, tmp_path, geometry, crs=4326, column='label', **columns):
  return examples.read(write(tmp_path / 'e.gpkg', geometry, crs, **columns), '', column, there)


def test_every_feature_is_one_example(halves, tmp_path):
  geometry = [square(2, 2, 3), point(9, 1), point(9, 12), square(3, 10, 2)]
  found = read(halves, tmp_path, geometry, crs=3035, label=['positive', 'positive', 'negative', 'negative'])
  assert len(found.label) == 9 + 1 + 1 + 4
  assert np.bincount(found.group).tolist() == [9, 1, 1, 4]
  assert found.label.sum() == 10
  assert found.used.all()
  expected = halves.at(np.array([9]), np.array([12]))[0]
  np.testing.assert_array_equal(found.vectors[found.group == 2][0], expected)


def test_examples_that_share_a_cell_are_one(halves, tmp_path):
  geometry = [square(2, 2, 2), square(3, 3, 2), point(9, 1), point(9, 12)]
  found = read(halves, tmp_path, geometry, label=[1, 1, 1, 0])
  assert len(found.label) == 4 + 4 - 1 + 2
  assert [len(found.groups(kind)) for kind in (True, False)] == [2, 1]


def test_examples_whose_means_share_a_cell_are_one(halves, tmp_path):
  geometry = [point(5, 1), point(7, 3), point(5, 6), point(5, 4), point(9, 12)]
  found = read(dataclasses.replace(halves, mean_cells=3), tmp_path, geometry, label=[1, 1, 1, 0, 0])
  assert [len(found.groups(kind)) for kind in (True, False)] == [2, 2]  # the first two, two rows and columns apart
  assert found.group[found.label].tolist() == [0, 1, 0]  # in the order of cells
  assert any(text.startswith('5 examples count as 4') for text in detection.caveats(halves, found, {'auc': 1.0}))


def test_white_noise_is_told_apart_by_no_pair_left_out(tmp_path):
  there = cells.open_map(cell_maps.write(tmp_path / 'm', cell_maps.random_vectors(30, 40, 64, seed=5)), mean_cells=3)
  twice = [point(row, col + step) for step in (0, 1) for row in (4, 20) for col in range(4, 36, 6)]
  found = read(there, tmp_path, twice, label=[1, 0] * len(twice[::2]))
  assert [len(found.groups(kind)) for kind in (True, False)] == [6, 6]
  scores = detection.score(found, *detection.moments(there), progress=False)
  assert scores['auc'] < 0.8  # 0.9 and more where one of two neighbours is left out and the other is fitted


def test_examples_from_the_command_line(halves):
  found = examples.of_points(
    [cell_maps.lonlat(5.5, 1.5), cell_maps.lonlat(6.5, 1.5)], [(100, 10), cell_maps.lonlat(5, 12)], halves
  )
  assert found.label.tolist() == [True, False, True]  # in the order of cells
  assert found.used.tolist() == [True, True, False, True]
  with pytest.raises(ValueError, match=r'no negative example within .*Add --negative=LON,LAT'):
    examples.of_points([cell_maps.lonlat(5.5, 1.5)], [], halves)


def test_labels_in_a_side_file_are_other_examples(halves, tmp_path):
  found = []
  for label in ([1, 0], [0, 1]):  # of a Shapefile they are in .dbf
    geometry = [point(9, 1), point(9, 12)]
    geopandas.GeoDataFrame({'label': label}, geometry=geometry, crs=4326).to_file(tmp_path / 'e.shp')
    found.append((examples.read(tmp_path / 'e.shp', '', 'label', halves).sha256, (tmp_path / 'e.shp').read_bytes()))
  assert found[0][0] != found[1][0]
  assert found[0][1] == found[1][1]


def test_examples_without_data_are_left_out(halves, tmp_path):
  geometry = [point(1, 2), point(5, 1), point(5, 12), shapely.Point(100, 10)]
  found = read(halves, tmp_path, geometry, label=[True, True, False, False])
  assert found.used.tolist() == [False, True, True, False]
  scores = {'auc': 1.0}
  assert '2 example(s) lie outside the map' in ' '.join(detection.caveats(halves, found, scores))


INSIDE = [point(5, 1), point(5, 12)]


@pytest.mark.parametrize(
  ('geometry', 'columns', 'message'),
  [
    (INSIDE, {'name': ['a', 'b'], 'kind': [1, 0]}, r"no column 'label'. Columns: name, kind. Name one with --label"),
    (INSIDE, {'label': [1, 2]}, r'feature 2: label is 2. Allowed: 1 or positive, 0 or negative'),
    (INSIDE, {'label': ['yes', 'no']}, r"feature 1: label is 'yes'. Allowed"),
    (INSIDE, {'label': [1, None]}, r'feature 2: label is (nan|None). Allowed'),
    (INSIDE, {'label': [1, 1]}, r'no negative example .*Add one with label = 0.*deepsentinel.search --polygon'),
    (INSIDE, {'label': [0, 0]}, r'no positive example .*Add one with label = 1'),
    (
      [point(1, 2), point(5, 12)],
      {'label': [1, 0]},
      r'no positive example .*1 lie outside the map, or where it has no',
    ),
    ([shapely.Point(100, 10)] * 2, {'label': [1, 0]}, r'All 2 examples .* lie within 11\.8\d+,52.*Give examples there'),
    ([square(2, 2, 3), point(3, 3)], {'label': [1, 0]}, r'features 1, 2 say of one cell that it is positive and neg'),
  ],
)
def test_examples_that_say_nothing(halves, tmp_path, geometry, columns, message):
  with pytest.raises(ValueError, match=message):
    read(halves, tmp_path, geometry, **columns)


def made(group, label, seed=0, features=4):
  """Examples around +1 or -1 in the first dimension."""
  rng = np.random.default_rng(seed)
  label = np.asarray(label, bool)
  vectors = 0.5 * rng.normal(size=(len(label), features)).astype(np.float32)
  vectors[:, 0] += np.where(label, 1, -1)
  return examples.Examples(vectors, label, np.asarray(group), [], np.zeros(0, bool), np.zeros(0, bool))


MEAN, SPREAD = np.zeros(4), 2.0


def test_a_large_polygon_counts_as_one_example():
  few = made([0, 1, 2, 3], [1, 1, 0, 0])
  again = np.array([0] * 50 + [1, 2, 3])
  many = dataclasses.replace(few, vectors=few.vectors[again], label=few.label[again], group=again)
  one, two = (detection.fit(e, MEAN, SPREAD, refits=2) for e in (few, many))
  np.testing.assert_allclose(one.weights[:, 0], two.weights[:, 0], atol=2e-3)
  np.testing.assert_allclose(one.bias[0], two.bias[0], atol=2e-3)


def test_more_negatives_move_no_border():
  # Two of one kind and twenty of the other, all alike: the middle between them is undecided.
  label = np.array([True] * 2 + [False] * 20)
  vectors = np.where(label[:, None], [1.0, 0, 0, 0], [-1.0, 0, 0, 0]).astype(np.float32)
  some = dataclasses.replace(made(np.arange(22), label), vectors=vectors)
  probability, spread = detection.fit(some, MEAN, SPREAD, refits=5)(np.array([[0.0, 0, 0, 0], [1.0, 0, 0, 0]]))
  assert probability[0] == pytest.approx(0.5, abs=1e-3)
  assert probability[1] > 0.8
  np.testing.assert_allclose(spread, 0, atol=1e-3)  # whichever are drawn, they are the same


def test_the_spread_is_that_of_refits():
  some = made(np.arange(12), [1] * 6 + [0] * 6)
  detector = detection.fit(some, MEAN, SPREAD, refits=20)
  assert detector.weights.shape == (4, 21)
  near, far = np.array([0.0, 2, 0, 0]), np.array([3.0, 0, 0, 0])
  probability, spread = detector(np.stack([near, far, np.full(4, np.nan)]))
  each = 1 / (1 + np.exp(-((near / SPREAD) @ detector.weights + detector.bias)))
  assert probability[0] == pytest.approx(each[0], abs=1e-6)
  assert spread[0] == pytest.approx(each[1:].std(), abs=1e-6)
  assert spread[0] > 3 * spread[1]
  assert np.isnan([probability[2], spread[2]]).all()
  np.testing.assert_array_equal(detection.fit(some, MEAN, SPREAD, refits=20).weights, detector.weights)


def test_a_pair_left_out_is_not_seen():
  # Vectors of pure noise: examples that were fitted would be told apart, those that were left out are not.
  aucs = []
  for seed in range(12):
    vectors = np.random.default_rng(seed).normal(size=(6, 10))
    noise = dataclasses.replace(made(np.arange(6), [1] * 3 + [0] * 3), vectors=vectors)
    scores = detection.score(noise, np.zeros(10), 10**0.5, progress=False)
    assert scores['pairs'] == 9
    aucs.append(scores['auc'])
    fitted, _ = detection.fit(noise, np.zeros(10), 10**0.5, refits=2)(vectors)
    assert roc_auc_score(noise.label, fitted) > 0.85
  assert 0.25 < np.mean(aucs) < 0.75
  apart = detection.score(made(np.arange(8), [1] * 4 + [0] * 4), MEAN, SPREAD, progress=False)
  assert apart['pairs'] == 16
  assert apart['auc'] > 0.9


def test_one_of_each_is_enough_and_says_what_it_cannot_know(halves, tmp_path):
  found = read(halves, tmp_path, [point(5, 1), point(5, 12)], label=[1, 0])
  about, again = detection.detect(halves, found, tmp_path / 'out', asked={}, progress=False)
  assert not again
  assert about['score'] == {'auc': None, 'balanced_accuracy': None, 'pairs': 0, 'method': detection.SCORE}
  assert 'neither a score nor an uncertainty can be known' in about['caveats'][0]
  with rasterio.open(tmp_path / 'out' / 'detection.tif') as file:
    probability, uncertainty = file.read()
  assert np.isnan(uncertainty).all()
  known = np.isfinite(probability)
  assert np.argwhere(~known).tolist() == [[1, 2]]
  west = np.zeros((12, 16), bool)
  west[:, :8] = True
  assert roc_auc_score(west[known], probability[known]) > 0.9


def test_areas_by_hand(halves):
  probability = np.full((12, 16), 0.1, np.float32)
  probability[2:4, 3:6] = 0.8  # six cells
  probability[2, 3] = 0.5
  probability[4, 6] = 0.9  # touches them at a corner only
  probability[9, 9] = np.nan
  found = detection.areas(halves, probability, probability / 2, 0.5, 1)
  assert found['cells'].tolist() == [6, 1]
  np.testing.assert_allclose(found['area_km2'], [6 * 0.0256, 0.0256])
  np.testing.assert_allclose(found['mean_probability'], [(5 * 0.8 + 0.5) / 6, 0.9], rtol=1e-6)
  np.testing.assert_allclose(found['mean_uncertainty'], [(5 * 0.4 + 0.25) / 6, 0.45], rtol=1e-6)
  left, top = cell_maps.LEFT, cell_maps.TOP
  assert found.geometry[0].equals(shapely.box(left + 480, top - 640, left + 960, top - 320))
  assert len(detection.areas(halves, probability, probability, 0.5, 2)) == 1
  assert len(detection.areas(halves, probability, probability, 0.95, 1)) == 0


@pytest.fixture(scope='module')
def earth(tmp_path_factory):
  home = tmp_path_factory.mktemp('earth')
  sea, town = cell_maps.write_synthetic_earth(home / 'maps')
  return cells.open_map(home / 'maps'), sea, town


def test_six_examples_find_sea_and_town_on_synthetic_earth(earth, tmp_path):
  there, *truth = earth
  rng = np.random.default_rng(0)
  for share, least in zip(truth, (0.97, 0.85), strict=True):
    scores = []
    for i in range(5):
      chosen = [rng.choice(np.argwhere(pure), 3, replace=False) for pure in (share > 0.9, share < 0.05)]
      lon, lat = there.centres_lonlat(*np.concatenate(chosen).T)
      path = write(tmp_path / f'{i}_{least}.gpkg', shapely.points(lon, lat), label=[1, 1, 1, 0, 0, 0])
      found = examples.read(path, '', 'label', there)
      probability, _ = detection.predict(
        there, detection.fit(found, *detection.moments(there), refits=2), progress=False
      )
      scores.append(roc_auc_score((share > 0.5).ravel(), probability.ravel()))
    assert np.mean(scores) > least


def test_the_folder_of_results(earth, tmp_path):
  there, sea, _ = earth
  chosen = [np.argwhere(sea > 0.9)[[5, 40, 80]], np.argwhere(sea < 0.05)[[5, 300, 600]]]
  lon, lat = there.centres_lonlat(*np.concatenate(chosen).T)
  geometry = [p.buffer(0.003) if i == 0 else p for i, p in enumerate(shapely.points(lon, lat))]
  path = write(tmp_path / 'e.gpkg', geometry, label=[1, 1, 1, 0, 0, 0])
  found = examples.read(path, '', 'label', there)
  out = tmp_path / 'out'
  about, _ = detection.detect(there, found, out, asked={'sha256': 'a'}, refits=20, progress=False)
  with rasterio.open(out / 'detection.tif') as file, rasterio.open(there.path) as source:
    assert (file.shape, file.transform, file.crs) == (source.shape, source.transform, source.crs)
    assert file.descriptions == ('probability', 'uncertainty')
    assert file.tags()['synthetic'] == 'true'
    probability, uncertainty = file.read()
  assert (uncertainty >= 0).all()
  assert uncertainty.max() > 0
  detected = geopandas.read_file(out / 'detections.gpkg', layer='detected')
  assert detected['cells'].sum() == (probability >= 0.5).sum()
  assert about['detected']['km2'] == pytest.approx(detected['area_km2'].sum())
  assert about['examples']['positive']['groups'] == 3
  assert about['score']['auc'] > 0.8
  assert about['synthetic']
  assert any('few' in caveat for caveat in about['caveats'])
  assert any('simulated world' in caveat for caveat in about['caveats'])
  assert (out / 'detection.png').read_bytes().startswith(b'\x89PNG')
  assert json.loads((out / 'detection.json').read_text()) == about
  again, was_there = detection.detect(there, found, out, asked={'sha256': 'a'}, refits=20, progress=False)
  assert was_there
  assert again == about
  with pytest.raises(ValueError, match=r'holds a detection with other sha256. Pass another --out'):
    detection.detect(there, found, out, asked={'sha256': 'b'}, refits=20, progress=False)


def test_a_map_of_nothing(tmp_path):
  there = cells.open_map(cell_maps.write(tmp_path / 'm', np.full((3, 3, 4), np.nan)))
  with pytest.raises(ValueError, match='has no embedding in any cell'):
    detection.moments(there)

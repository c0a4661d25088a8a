"""Queries, ranking and the folder of results; on made-up vectors, and on SyntheticEarth, whose truth is known."""

import json

import geopandas
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely

from deepsentinel import composites
from deepsentinel.data import distances
from deepsentinel.embedding import cells, chips, index, places, queries, results, rows, similar
from deepsentinel.sources import base
from tests.embedding import cell_maps
from tests.embedding.small_area import make_model
from tests.tiny_records import tiny_records


def build(out, folder, mean_cells=1):
  return index.build([rows.of_embedding(folder, mean_cells)], out, mean_cells=mean_cells, progress=False)[0]


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  home = tmp_path_factory.mktemp('made up')
  return build(home / 'index', cell_maps.write(home / 'm', cell_maps.random_vectors(12, 10)))


@pytest.fixture(scope='module')
def earth(tmp_path_factory):
  """The index of a map of SyntheticEarth, its folder, and the shares of sea and of built-up land."""
  home = tmp_path_factory.mktemp('earth')
  sea, town = cell_maps.write_synthetic_earth(home / 'maps')
  return build(home / 'index', home / 'maps', mean_cells=3), home / 'maps', sea, town


def test_a_point_is_the_row_that_holds_it(made):
  query = queries.at_point(made, *cell_maps.lonlat(4.2, 7.9))
  assert made.rows['id'].iloc[query.own].tolist() == ['m/4_7']
  np.testing.assert_allclose(query.vector, made.vectors(query.own)[0], atol=1e-6)
  assert query.agreement == pytest.approx(1)
  assert queries.of_row(made, 'm/4_7').own.tolist() == query.own.tolist()


def test_a_polygon_is_the_mean_of_its_rows(made, tmp_path):
  corners = [cell_maps.lonlat(*p) for p in ((1.1, 1.1), (1.1, 3.9), (2.9, 3.9), (2.9, 1.1))]
  frame = geopandas.GeoDataFrame(geometry=[shapely.Polygon(corners)], crs=4326).to_crs(3035)
  places.write(tmp_path / 'p.gpkg', {'a': frame})
  query = queries.in_polygon(made, places.read_polygon(tmp_path / 'p.gpkg'), 'p.gpkg')
  ids = made.rows['id'].iloc[query.own].tolist()
  assert ids == ['m/1_1', 'm/1_3', 'm/2_1', 'm/2_2', 'm/2_3']  # (1, 2) is nodata
  mean = made.vectors(query.own).mean(0)
  np.testing.assert_allclose(query.vector, mean / np.linalg.norm(mean), atol=1e-6)
  assert query.agreement == pytest.approx(np.linalg.norm(mean), abs=1e-6)
  speck = shapely.Point(*cell_maps.lonlat(5.1, 5.1)).buffer(1e-5)
  assert made.rows['id'].iloc[queries.in_polygon(made, speck, 'speck').own].tolist() == ['m/5_5']


def test_places_without_a_row_are_refused(made):
  where = r'lies in no row of the index, whose 119 rows lie within 11\.8\d+,52\.\d+,11\.\d+,52\.\d+ .*Give a place'
  with pytest.raises(ValueError, match=r'Point 100,10 ' + where):
    queries.at_point(made, 100, 10)
  with pytest.raises(ValueError, match=where):
    queries.at_point(made, *cell_maps.lonlat(1.5, 2.5))  # nodata
  with pytest.raises(ValueError, match=r'The polygon of x.gpkg ' + where):
    queries.in_polygon(made, shapely.box(100, 10, 101, 11), 'x.gpkg')
  with pytest.raises(ValueError, match=r'--patch=m/1_2 is not in the index. It has 119 rows, such as m/0_0'):
    queries.of_row(made, 'm/1_2')


@pytest.mark.parametrize('text', ['11.9', 'east,north', '200,10', '10,91', 'nan,1', '1,2,3'])
def test_what_is_no_point(text):
  with pytest.raises(ValueError, match=r'is no LON,LAT in degrees'):
    queries.parse_point(text)


def test_a_query_from_another_map(made, tmp_path):
  point = shapely.Point(*cell_maps.lonlat(0.5, 0.5))
  vectors = cell_maps.random_vectors(12, 10)
  other = cell_maps.write(tmp_path / 'other', vectors[::-1, ::-1])  # its first cell is the last of the index
  query = queries.in_another_map(made, cells.open_map(other, 1), point, 'point')
  assert made.rows['id'].iloc[made.nearest(query.vector, 1)[1][0]] == 'm/11_9'
  assert query.own.size == 0
  for folder, kwargs, message in (
    ('sha', {'sha': 'cd' * 32}, r'is of checkpoint cdcdcdcdcdcd, the index of abababababab: .*Embed it with'),
    ('wide', {}, r'has vectors of 9 dimensions, the index of 8'),
    ('away', {'corner': (0.0, 0.0)}, r'lies outside .*Give a place in its area'),
  ):
    features = 9 if folder == 'wide' else 8
    bad = cell_maps.write(tmp_path / folder, cell_maps.random_vectors(3, 3, features), **kwargs)
    with pytest.raises(ValueError, match=message):
      queries.in_another_map(made, cells.open_map(bad, 1), point, 'point')


@pytest.mark.parametrize(('min_km', 'apart_km'), [(0, 0), (0.5, 0), (0, 0.4), (0.6, 0.4)])
def test_the_rank_is_that_of_one_by_one(made, min_km, apart_km):
  query = queries.at_point(made, *cell_maps.lonlat(6.5, 5.5))
  found = results.rank(made, query, 8, min_km=min_km, apart_km=apart_km)
  lon, lat = made.rows['lon_deg'].to_numpy(), made.rows['lat_deg'].to_numpy()

  def km(i, j_lon, j_lat):
    return distances.geodesic_km(lon[[i]], lat[[i]], np.array([j_lon]), np.array([j_lat]))[0]

  cosine, chosen = made.similarities(query.vector), []
  for i in np.argsort(-cosine):
    far = km(i, query.lon_deg, query.lat_deg) >= min_km and i not in query.own
    if far and all(km(i, lon[j], lat[j]) >= apart_km for j in chosen):
      chosen.append(i)
  np.testing.assert_array_equal(found.number, chosen[:8])
  np.testing.assert_allclose(found.similarity, cosine[chosen[:8]], atol=1e-6)


def test_a_polygon_keeps_its_distance(made):
  corners = [cell_maps.lonlat(*p) for p in ((3, 3), (3, 6), (6, 6), (6, 3))]
  query = queries.in_polygon(made, shapely.Polygon(corners), 'p')
  found = results.rank(made, query, 5, min_km=0.3, apart_km=0)
  row, col = made.rows['row'].to_numpy()[found.number] + 0.5, made.rows['col'].to_numpy()[found.number] + 0.5
  outside = np.hypot(np.maximum(abs(row - 4.5) - 1.5, 0), np.maximum(abs(col - 4.5) - 1.5, 0)) * 0.16
  np.testing.assert_allclose(found.distance_km, outside, rtol=0.01)
  assert (found.distance_km >= 0.3).all()


def test_distances_from_a_slanted_edge_far_north(tmp_path):
  """Against the edge cut into many points: at 70 degrees a degree of longitude is a third of one of latitude."""
  x, y = base.transformer(4326, 32633).transform(15.5, 70.0)
  folder = cell_maps.write(tmp_path / 'm', cell_maps.random_vectors(20, 20), corner=(x, y), epsg=32633)
  there = build(tmp_path / 'index', folder)
  corners = base.transformer(32633, 4326).transform([x, x + 3200, x], [y, y - 3200, y - 3200])
  query = queries.in_polygon(there, shapely.Polygon(np.column_stack(corners)), 'p')
  number = np.arange(len(there))
  edge = shapely.get_coordinates(shapely.segmentize(query.geometry.exterior, 1e-4))
  lon, lat = (there.rows[name].to_numpy() for name in ('lon_deg', 'lat_deg'))
  pairs = [np.broadcast_to(v, (len(there), len(edge))).ravel() for v in (lon[:, None], lat[:, None], *edge.T)]
  expected = distances.geodesic_km(*pairs).reshape(len(there), -1).min(1)
  expected[shapely.contains_xy(query.geometry, lon, lat)] = 0
  np.testing.assert_allclose(results._away(query, there, number), expected, atol=0.01)


def test_across_the_antimeridian(tmp_path):
  x, y = base.transformer(4326, 32760).transform(180.0, -17.0)
  x, y = x // 160 * 160 - 6.5 * 160, y // 160 * 160
  fiji = cell_maps.write(tmp_path / 'fiji', cell_maps.random_vectors(10, 20), corner=(x, y), epsg=32760)
  x2, y2 = base.transformer(4326, 32733).transform(15.0, -17.0)
  namibia = cell_maps.write(tmp_path / 'namibia', cell_maps.random_vectors(10, 20), corner=(x2, y2), epsg=32733)
  alone = build(tmp_path / 'alone', fiji)
  parts = shapely.get_parts(alone.rows.geometry.to_numpy())
  assert np.ptp(shapely.bounds(parts)[:, [0, 2]], axis=1).max() < 0.01
  assert 0 < sum(g.geom_type == 'MultiPolygon' for g in alone.rows.geometry) <= 12
  with pytest.raises(ValueError, match='lies in no row of the index'):
    queries.at_point(alone, 15.0, -17.0)
  both = [rows.of_embedding(folder, 1) for folder in (fiji, namibia)]
  there, _ = index.build(both, tmp_path / 'both', mean_cells=1, progress=False)
  place = base.transformer(32733, 4326).transform(x2 + 80, y2 - 80)
  assert there.rows['id'].iloc[queries.at_point(there, *place).own].tolist() == ['namibia/0_0']
  # A box over the middle columns of Fiji's, drawn in its own CRS.
  drawn = shapely.box(x + 3 * 160, y - 5 * 160, x + 12 * 160, y - 2 * 160)
  geopandas.GeoDataFrame(geometry=[drawn], crs=32760).to_file(tmp_path / 'p.gpkg')
  query = queries.in_polygon(alone, places.read_polygon(tmp_path / 'p.gpkg'), 'p.gpkg')
  assert alone.rows['id'].iloc[query.own].tolist() == [f'fiji/{r}_{c}' for r in range(2, 5) for c in range(3, 12)]
  assert abs(abs(query.lon_deg) - 180) < 0.02
  split = next(i for i, g in enumerate(alone.rows.geometry) if g.geom_type == 'MultiPolygon')
  query = queries.of_row(alone, alone.rows['id'].iloc[split])
  assert abs(query.lon_deg) > 179.99
  found = results.rank(alone, query, 5, min_km=0, apart_km=0)
  assert found.distance_km.max() < 4


def test_more_than_there_is(made, tmp_path):
  query = queries.of_row(made, 'm/4_7')
  with pytest.raises(ValueError, match=r'--k=119: the index has 118 rows beside the query. Pass --k=1 to 118'):
    results.rank(made, query, 119)
  found = similar.search(made, query, tmp_path, k=100, apart_km=0.7, with_map=False, with_chips=False)
  assert len(found.found.number) < 100
  assert 'lower --apart_km or --min_km for more' in found.about['notes'][0]
  assert found.about['found'] == len(pd.read_csv(tmp_path / 'results.csv'))


def test_an_approximate_index_widens_its_search(tmp_path, monkeypatch):
  folder = cell_maps.write(tmp_path / 'm', cell_maps.random_vectors(40, 40))
  source = rows.of_embedding(folder, 1)
  near, _ = index.build([source], tmp_path / 'index', mean_cells=1, kind='approximate', progress=False)
  monkeypatch.setattr(results, '_FIRST', 2)
  near.searcher.nprobe = near.searcher.nlist  # so that it is exact, and can be compared
  exact = build(tmp_path / 'exact', folder)
  query = queries.of_row(exact, 'm/20_20')
  expected = results.rank(exact, query, 12)
  np.testing.assert_array_equal(results.rank(near, query, 12).number, expected.number)


def test_an_approximate_index_finds_as_many_as_an_exact_one(tmp_path):
  """Of vectors in clusters that lie together, the lists looked through hold nothing far enough away."""
  rng = np.random.default_rng(0)
  middles = rng.normal(size=(10, 10, 8)).repeat(8, 0).repeat(8, 1)
  folder = cell_maps.write(tmp_path / 'm', middles + 0.05 * rng.normal(size=(80, 80, 8)))
  source = rows.of_embedding(folder, 1)
  near, _ = index.build([source], tmp_path / 'index', mean_cells=1, kind='approximate', progress=False)
  assert near.searcher.nprobe < near.searcher.nlist
  exact = build(tmp_path / 'exact', folder)
  query = queries.of_row(exact, 'm/20_20')
  found = results.rank(near, query, 20, apart_km=1.5)
  np.testing.assert_array_equal(found.number, results.rank(exact, query, 20, apart_km=1.5).number)


def test_like_finds_like_on_synthetic_earth(earth):
  there, _, *truth = earth
  number, row, col = np.arange(len(there)), there.rows['row'].to_numpy(), there.rows['col'].to_numpy()
  for share, least in zip(truth, (0.9, 0.6), strict=True):
    share = share[row, col]
    pure = number[share > 0.9]
    means = []
    for i in pure[:: max(1, len(pure) // 10)]:
      query = queries.of_row(there, there.rows['id'].iloc[i])
      found = results.rank(there, query, 10, apart_km=0.3)
      means.append(share[found.number].mean())
    assert np.mean(means) > least > 3 * share.mean()


def test_the_folder_of_results(earth, tmp_path):
  there, folder, sea, _ = earth
  row, col = np.argwhere(sea > 0.99)[40]
  query = queries.of_row(there, f'maps/{row}_{col}')
  done = similar.search(there, query, tmp_path / 'out', k=6, progress=False)
  out = tmp_path / 'out'
  assert [path.name for path in done.files] == [
    'results.csv', 'results.gpkg', 'similarity_maps.tif', 'similarity_maps.png', 'chips.png'
  ]  # fmt: skip
  table = pd.read_csv(out / 'results.csv')
  assert list(table.columns) == list(results.COLUMNS)
  assert table['rank'].tolist() == [1, 2, 3, 4, 5, 6]
  assert table['similarity'].is_monotonic_decreasing
  layer = geopandas.read_file(out / 'results.gpkg', layer='results')
  assert layer['id'].tolist() == table['id'].tolist()
  assert geopandas.read_file(out / 'results.gpkg', layer='query')['name'].tolist() == [f'maps/{row}_{col}']
  with rasterio.open(out / 'similarity_maps.tif') as file, rasterio.open(folder / 'embedding.tif') as source:
    assert (file.shape, file.transform, file.crs) == (source.shape, source.transform, source.crs)
    assert file.tags()['synthetic'] == 'true'
    similarity = file.read(1)
  assert similarity[row, col] == pytest.approx(1, abs=1e-5)
  best = there.rows.set_index('id').loc[table['id'][0]]
  assert similarity[best['row'], best['col']] == pytest.approx(table['similarity'][0], abs=1e-5)
  assert similarity[sea > 0.99].mean() > similarity[sea < 0.01].mean() + 0.3
  about = json.loads((out / 'search.json').read_text())
  assert about['synthetic']
  assert about['notes'] == []  # chips have their pixels
  again = similar.search(there, query, out, k=6, progress=False)
  assert again.again
  with pytest.raises(ValueError, match=r'holds the results of another search .*Pass another --out'):
    similar.search(there, query, out, k=7, progress=False)


def test_chips_are_the_ground(earth):
  there, _, sea, _ = earth
  row, col = np.argwhere(sea > 0.99)[40]
  (number,) = np.flatnonzero(there.rows['id'] == f'maps/{row}_{col}')
  (picture,), shown, why = chips.of_rows(there, [number], {}, progress=False)
  assert (shown, why) == ('Sentinel-2, true colour', '')
  assert picture.shape == (96, 96, 3)
  assert not (picture == composites.NODATA_RGB).all(-1).any()
  middle = picture[40:56, 40:56].astype(int)
  assert (middle[..., 2] > middle[..., 0]).mean() > 0.9  # water is blue


@pytest.mark.parametrize(
  ('journal', 'why'),
  [
    (None, r'embedding.json cannot be read'),
    ({}, r'embedding.json names no scene'),
    ({'source': 'local', 'scene': 'a'}, r'embedding.json keeps no path; pass --s2=SCENE'),
    ({'source': 'synthetic', 'scene': 'gone'}, r'does not list scene gone any more'),
    ({'source': 'nothing', 'scene': 'a'}, r"Unknown imagery source 'nothing'"),
    ({'source': 'synthetic', 'scene': 'a', 'bands': ['B8']}, r'neither B4, B3, B2 nor VV, VH'),
  ],
)
def test_chips_that_cannot_be_had_are_said_to_be_missing(journal, why, tmp_path):
  folder = cell_maps.write(tmp_path / 'm', cell_maps.random_vectors(3, 3))
  if journal is not None:
    item = {'sensor': 'sentinel2', 'time': '2018-06-16T10:29:30Z', 'bands': ['B4', 'B3', 'B2'], **journal}
    (folder / 'embedding.json').write_text(json.dumps({'job': {'inputs': [item] if journal else []}}))
  there = build(tmp_path / 'index', folder)
  pictures, _, said = chips.of_rows(there, [0, 1], {}, progress=False)
  assert pictures == [None, None]
  assert why in said
  if journal is None:
    options = {'k': 2, 'min_km': 0, 'apart_km': 0, 'progress': False}
    done = similar.search(there, queries.of_row(there, 'm/0_0'), tmp_path / 'out', **options)
    assert done.about['notes'] == [f'Chips without pixels: {said}.']
    assert (tmp_path / 'out' / 'chips.png').exists()


def test_a_place_without_a_scene_leaves_the_others_their_chips(tmp_path, monkeypatch):
  folder = cell_maps.write(tmp_path / 'm', cell_maps.random_vectors(3, 3))
  item = {'sensor': 'sentinel2', 'time': '2018-06-16T10:29:30Z', 'bands': ['B4', 'B3', 'B2'], 'source': 'synthetic'}
  (folder / 'embedding.json').write_text(json.dumps({'job': {'inputs': [{**item, 'scene': 'a'}]}}))
  there = build(tmp_path / 'index', folder)
  asked = []

  def read(self, grid):
    asked.append(grid)
    if len(asked) == 2:
      raise chips.NothingHere('nothing there')
    return np.zeros((4, 4, 3), np.uint8)

  monkeypatch.setattr(chips.ScenePixels, 'read', read)
  pictures, _, why = chips.of_rows(there, range(5), {}, progress=False)
  assert [picture is not None for picture in pictures] == [True, False, True, True, True]
  assert why == 'nothing there'


def test_results_of_a_map_that_was_made_anew_are_others(made, tmp_path):
  point = shapely.Point(*cell_maps.lonlat(0.5, 0.5))
  options = {'k': 2, 'with_map': False, 'with_chips': False, 'progress': False}
  vectors = cell_maps.random_vectors(12, 10)
  for again, change in ((False, 0), (True, 0), (None, 1)):
    other = cell_maps.write(tmp_path / 'other', vectors + change)
    query = queries.in_another_map(made, cells.open_map(other, 1), point, 'point')
    if again is None:
      with pytest.raises(ValueError, match='holds the results of another search'):
        similar.search(made, query, tmp_path / 'out', **options)
    else:
      assert similar.search(made, query, tmp_path / 'out', **options).again is again


def test_chips_of_a_local_scene(tmp_path):
  grid = base.PatchGrid(cell_maps.EPSG, cell_maps.LEFT, cell_maps.TOP, 160, 160)
  values = np.random.default_rng(0).integers(200, 3000, (3, 160, 160)).astype(np.uint16)
  (tmp_path / 'S2_20200601').mkdir()
  profile = {'driver': 'GTiff', 'height': 160, 'width': 160, 'count': 3, 'dtype': 'uint16', 'crs': 'EPSG:32632'}
  with rasterio.open(tmp_path / 'S2_20200601' / 'S2_20200601.tif', 'w', transform=grid.transform, **profile) as file:
    file.write(values)
    file.descriptions = ('B2', 'B3', 'B4')
  folder = cell_maps.write(tmp_path / 'm', cell_maps.random_vectors(10, 10))
  item = {
    'source': 'local', 'sensor': 'sentinel2', 'scene': 'S2_20200601', 'time': '2020-06-01T10:00:00Z',
    'bands': ['B2', 'B3', 'B4'],
    'stated': {'s2_unit': 'reflectance_x1e4', 'times': {'S2_20200601': '2020-06-01T10:00:00Z'}},
  }  # fmt: skip
  (folder / 'embedding.json').write_text(json.dumps({'job': {'inputs': [item]}}))
  there = build(tmp_path / 'index', folder)
  (number,) = np.flatnonzero(there.rows['id'] == 'm/4_5')
  paths = {'sentinel2': str(tmp_path / 'S2_20200601')}
  (picture,), _, why = chips.of_rows(there, [number], paths, progress=False)
  assert why == ''
  # The middle of cell (4, 5) lies at pixel 72, 88; a chip is 96 pixels wide.
  expected = composites.true_colour(np.moveaxis(values[::-1], 0, -1)[24:120, 40:136])
  np.testing.assert_array_equal(picture, expected)


def test_chips_of_records(tmp_path):
  directory = tiny_records(patches=12, patch_px=32, labelled=False)
  spec = rows.records_lib.RecordSet(directory).spec
  (source,) = rows.of_records(make_model(bands=spec.bands, crop_px=32), directory, [])
  there, _ = index.build([source], tmp_path / 'index', mean_cells=3, progress=False)
  done = similar.search(there, queries.of_row(there, 'tiny_00003'), tmp_path / 'out', k=3, progress=False)
  assert done.about['notes'] == []
  assert [path.name for path in done.files] == ['results.csv', 'results.gpkg', 'similarity_patches.png', 'chips.png']

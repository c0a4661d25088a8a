"""The cells of an embedding.tif as unit vectors, and where they lie."""

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from scipy import ndimage

from deepsentinel.embedding import cells, places
from tests.embedding import cell_maps


def whole(there: cells.CellMap) -> np.ndarray:
  out = np.full((there.rows, there.cols, there.features), 9, np.float32)
  for row, col, block in there.blocks():
    out[row : row + block.shape[0], col : col + block.shape[1]] = block
  return out


def test_a_block_is_unit_vectors_and_leaves_out_what_is_not_known(tmp_path):
  vectors = cell_maps.random_vectors(5, 7)
  vectors[4, 6] = 0  # no direction
  there = cells.open_map(cell_maps.write(tmp_path / 'm', vectors), mean_cells=1)
  found = whole(there)
  missing = np.isnan(found).all(-1)
  assert np.argwhere(missing).tolist() == [[1, 2], [4, 6]]
  kept = vectors[~missing]
  np.testing.assert_allclose(found[~missing], kept / np.sqrt((kept**2).sum(-1, keepdims=True)), atol=1e-6)
  assert (there.name, there.rows, there.cols, there.features, there.cell_m) == ('m', 5, 7, 8, 160)


def test_means_do_not_know_of_blocks(tmp_path, monkeypatch):
  vectors = cell_maps.random_vectors(9, 11)
  there = cells.open_map(cell_maps.write(tmp_path / 'm', vectors), mean_cells=3)
  known = np.isfinite(vectors)
  kernel = np.ones((3, 3, 1))
  sums = ndimage.convolve(np.where(known, vectors, 0).astype(np.float64), kernel, mode='constant')
  means = sums / np.maximum(ndimage.convolve(known.astype(float), kernel, mode='constant'), 1)
  expected = np.where(known, means / np.linalg.norm(means, axis=-1, keepdims=True), np.nan)
  np.testing.assert_allclose(whole(there), expected, atol=1e-5)
  monkeypatch.setattr(cells, '_BLOCK_CELLS', 4)
  assert there.block_count == 9
  np.testing.assert_allclose(whole(there), expected, atol=1e-5)
  row, col = np.array([8, 1, 0]), np.array([10, 2, 5])
  np.testing.assert_allclose(there.at(row, col), expected[row, col], atol=1e-5)


def test_places_and_cells(tmp_path):
  there = cells.open_map(cell_maps.write(tmp_path / 'm', cell_maps.random_vectors(6, 8)))
  lon, lat = np.transpose([cell_maps.lonlat(2.5, 3.5), cell_maps.lonlat(5.99, 0.01), cell_maps.lonlat(-0.1, 3)])
  np.testing.assert_array_equal(there.locate(lon, lat), [[2, 5, -1], [3, 0, -1]])
  np.testing.assert_allclose(there.centres_lonlat(2, 3), [lon[0], lat[0]], atol=1e-9)
  assert shapely.contains_xy(there.outlines_lonlat(np.array([2]), np.array([3]))[0], lon[0], lat[0])
  square = shapely.Polygon([cell_maps.lonlat(*p) for p in ((1.2, 1.2), (1.2, 4.2), (3.2, 4.2), (3.2, 1.2))])
  # Centres at 1.5 and 2.5, 1.5 to 3.5.
  assert sorted(zip(*map(np.ndarray.tolist, there.holding(square)), strict=True)) == [
    (1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)
  ]  # fmt: skip
  speck = shapely.Point(*cell_maps.lonlat(4.1, 6.1)).buffer(1e-5)
  np.testing.assert_array_equal(there.holding(speck), [[4], [6]])
  assert there.holding(shapely.box(100, 10, 101, 11))[0].size == 0


def test_a_map_is_written_on_the_same_cells(tmp_path):
  there = cells.open_map(cell_maps.write(tmp_path / 'm', cell_maps.random_vectors(6, 8)))
  layer = np.arange(48.0).reshape(6, 8)
  layer[0, 0] = np.nan
  cells.write_map(tmp_path / 'x.tif', there, {'one': layer, 'two': -layer}, {'synthetic': 'true'})
  with rasterio.open(tmp_path / 'x.tif') as file, rasterio.open(there.path) as source:
    assert (file.transform, file.crs, file.shape) == (source.transform, source.crs, source.shape)
    assert file.descriptions == ('one', 'two')
    assert file.tags(ns='IMAGE_STRUCTURE')['LAYOUT'] == 'COG'
    assert file.tags()['synthetic'] == 'true'
    np.testing.assert_array_equal(file.read(1), layer.astype(np.float32))


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (lambda p: p / 'nowhere', 'is not there. .*deepsentinel.embed'),
    (lambda p: cell_maps.write(p / 'm', np.ones((2, 2, 3)), sha=None), 'no tag checkpoint_sha256.*deepsentinel.embed'),
    (lambda p: (p / 'embedding.json').write_text('{}') and p, 'not finished: run'),
    (lambda p: (p / 'x.tif').write_text('no raster') and p / 'x.tif', 'cannot be read as a raster'),
  ],
)
def test_what_is_no_map_is_refused(tmp_path, make, message):
  with pytest.raises(ValueError, match=message):
    cells.open_map(make(tmp_path))


def test_an_even_square_is_refused(tmp_path):
  with pytest.raises(ValueError, match='is odd: 1, 3, 5'):
    cells.open_map(tmp_path, mean_cells=2)


def frame(*geometry, crs=4326, **columns) -> geopandas.GeoDataFrame:
  return geopandas.GeoDataFrame(columns, geometry=list(geometry), crs=crs)


def test_places_come_in_any_crs(tmp_path):
  box = shapely.box(693_000, 5_830_000, 694_000, 5_831_000)
  places.write(tmp_path / 'a.gpkg', {'utm': frame(box, crs=32632), 'empty': frame(shapely.Point())})
  found = places.read_polygon(tmp_path / 'a.gpkg', 'utm')
  assert found.contains(shapely.Point(*cell_maps.lonlat(10, 3)))
  assert places.read(tmp_path / 'a.gpkg', 'utm').crs == 4326


SQUARE = shapely.box(11, 52, 12, 53)


@pytest.mark.filterwarnings("ignore:'crs' was not provided")
@pytest.mark.parametrize(
  ('layers', 'layer', 'message'),
  [
    ({'a': frame(SQUARE), 'b': frame(SQUARE)}, '', '2 layers; name one with --layer=.* a, b'),
    ({'a': frame(SQUARE)}, 'c', "no layer 'c'. Layers: a"),
    ({'a': frame(SQUARE, crs=None)}, '', 'does not say its CRS. Set it'),
    ({'a': frame(shapely.Polygon())}, '', 'no feature with a geometry'),
    ({'a': frame(shapely.LineString([(0, 0), (1, 1)]))}, '', 'LineString; only points and polygons'),
    ({'a': frame(shapely.Point(0, 0))}, '', '--polygon wants polygons. Give a place as --point'),
    ({'a': frame(shapely.Polygon([(0, 0), (1, 1), (0, 0)]))}, '', 'without an area|only points and polygons'),
  ],
)
def test_polygons_that_say_no_place(tmp_path, layers, layer, message):
  places.write(tmp_path / 'a.gpkg', layers)
  with pytest.raises(ValueError, match=message):
    places.read_polygon(tmp_path / 'a.gpkg', layer)


def test_files_without_places(tmp_path):
  with pytest.raises(ValueError, match=r'is not there.*Check the path'):
    places.read(tmp_path / 'a.gpkg')
  (tmp_path / 'a.gpkg').write_text('no package')
  with pytest.raises(ValueError, match='is no vector file'):
    places.read(tmp_path / 'a.gpkg')
  (tmp_path / 'a.csv').write_text('lon,lat\n1,2\n')
  with pytest.raises(ValueError, match='has no geometry, only a table'):
    places.read(tmp_path / 'a.csv')

import numpy as np
import pyogrio
import pytest
import rasterio.features
import shapely

from deepsentinel import legend
from deepsentinel.sources import base, corine
from deepsentinel.sources.syntheticearth import corinemap, landscape

BOUNDS = (18.42, 52.12, 18.64, 52.25)


@pytest.fixture(scope='module')
def land():
  return landscape.Landscape(0)


@pytest.fixture(scope='module')
def path(land, tmp_path_factory):
  path = tmp_path_factory.mktemp('corine') / 'corine.gpkg'
  corinemap.write(land, path, BOUNDS)
  return path


@pytest.fixture(scope='module')
def polygons(path):
  meta, _, wkb, (codes,) = pyogrio.raw.read(path, columns=['Code_18'])
  return meta, shapely.from_wkb(wkb), codes


@pytest.fixture(scope='module')
def both(land, path):
  """(CORINE, truth) uint8 [H, W] on a UTM grid of 10 km, 20 m pixels, inside the box."""
  x, y = base.transformer(4326, 32634).transform(18.53, 52.185)
  grid = base.PatchGrid(32634, round(x / 20) * 20 - 5000.0, round(y / 20) * 20 + 5000.0, 500, 500, 20.0)
  lon, lat = grid.pixel_centres_lonlat()
  truth = land.cover(landscape.Points.of(lon, lat)).reshape(lon.shape)
  return corine.CorineVectors(str(path)).read(grid), truth


def test_it_is_an_inventory_in_the_european_projection(polygons):
  meta, geometry, codes = polygons
  assert meta['crs'] == 'EPSG:3035'
  assert {str(c) for c in codes} <= {str(c.code) for c in legend.CORINE}
  assert shapely.is_valid(geometry).all()
  assert len(set(codes)) >= 6


def test_polygons_leave_no_gap_and_do_not_overlap(polygons):
  _, geometry, _ = polygons
  assert shapely.coverage_is_valid(geometry)
  whole = shapely.union_all(geometry)
  assert whole.area == pytest.approx(shapely.area(geometry).sum(), rel=1e-9)
  assert not shapely.get_rings(whole)[1:].size  # one ring: no hole
  west, south, east, north = BOUNDS
  outline = shapely.segmentize(shapely.box(west, south, east, north), 0.01)
  box = shapely.transform(outline, lambda c: np.column_stack(base.transformer(4326, 3035).transform(*c.T)))
  assert whole.contains(box)


def test_polygons_have_at_least_25_hectares(polygons):
  _, geometry, _ = polygons
  edge = shapely.union_all(geometry).boundary
  inside = geometry[shapely.distance(geometry, edge) > 0]
  assert len(inside) > 15
  assert shapely.area(inside).min() >= corinemap.MINIMUM_CELLS * corinemap.CELL_M**2
  assert corinemap.MINIMUM_CELLS * corinemap.CELL_M**2 == 250_000  # EEA: 25 ha


def test_neighbours_have_different_codes(polygons):
  _, geometry, codes = polygons
  tree = shapely.STRtree(geometry)
  first, second = tree.query(geometry, predicate='touches')
  shared = shapely.length(shapely.intersection(geometry[first], geometry[second]))
  assert (codes[first] != codes[second])[shared > 0].all()


def test_it_agrees_with_the_truth_as_a_generalised_map_does(both):
  drawn, truth = both
  assert (drawn > 0).all()
  level1, level3 = legend.level_lookup(1), lambda v: v
  agree = {name: np.mean(f(drawn) == f(truth)) for name, f in (('1', level1.__getitem__), ('3', level3))}
  # EEA states 85 % thematic accuracy for CORINE; small objects are lost by design.
  assert 0.75 < agree['1'] < 0.99
  assert 0.55 < agree['3'] < 0.95
  assert agree['3'] < agree['1']


def test_it_lies_where_the_land_does(both):
  """Moved by 300 m in any direction the map agrees less: its axes and its projection are right."""
  drawn, truth = both
  inner = (slice(20, -20), slice(20, -20))
  here = np.mean(drawn[inner] == truth[inner])
  for rows, cols in ((15, 0), (-15, 0), (0, 15), (0, -15)):
    moved = np.roll(drawn, (rows, cols), (0, 1))
    assert np.mean(moved[inner] == truth[inner]) < here - 0.02


def test_writing_again_gives_the_same_bytes(land, path, tmp_path):
  corinemap.write(landscape.Landscape(0), tmp_path / 'again.gpkg', BOUNDS)
  assert (tmp_path / 'again.gpkg').read_bytes() == path.read_bytes()


def test_majority_by_hand():
  cover = np.array([[1, 1, 1, 2, 2], [1, 2, 1, 2, 2], [1, 1, 1, 2, 2], [3, 3, 3, 3, 2]], np.uint8)
  out = corinemap.majority(cover)
  assert out[1, 1] == 1  # one 2 among eight 1
  assert out[1, 3] == 2  # three 1, six 2
  np.testing.assert_array_equal(corinemap.majority(np.full((4, 4), 7, np.uint8)), 7)


def test_polygons_of_a_raster_by_hand():
  cover = np.array([[1, 1, 2], [1, 1, 2], [3, 3, 2]], np.uint8)
  grid = base.PatchGrid(3035, 4_000_000.0, 3_000_000.0, 3, 3, 100.0)
  geometry, index = corinemap.polygons(cover, grid, 0.0)
  areas = dict(zip(index.tolist(), shapely.area(geometry).tolist(), strict=True))
  assert areas == {1: 40_000, 2: 30_000, 3: 20_000}
  back = rasterio.features.rasterize(zip(geometry, index, strict=True), (3, 3), transform=grid.transform, dtype='uint8')
  np.testing.assert_array_equal(back, cover)

"""CORINE rasters against an independent rasterisation, by hand, and the wrong inputs."""

import concurrent.futures
import multiprocessing

import geopandas
import numpy as np
import pyproj
import pytest
import rasterio
import rasterio.features
import shapely

from deepsentinel import legend
from deepsentinel.sources import base, corine

GRID = base.PatchGrid(32632, 500_000.0, 5_200_000.0, 20, 30)


def box(left, top, right, bottom):
  """A box in pixels of GRID as a polygon in its CRS."""
  return shapely.box(500_000 + 10 * left, 5_200_000 - 10 * bottom, 500_000 + 10 * right, 5_200_000 - 10 * top)


def write(path, polygons, codes, crs=3035, column='Code_18', layer='U2018_CLC2018', driver='GPKG'):
  frame = geopandas.GeoDataFrame({column: codes}, geometry=polygons, crs=32632).to_crs(crs)
  frame.to_file(path, layer=layer, driver=driver)
  return str(path)


@pytest.mark.parametrize(
  ('name', 'driver', 'crs', 'column', 'as_type'),
  [
    ('clc.gpkg', 'GPKG', 3035, 'Code_18', str),
    ('clc.gpkg', 'GPKG', 25832, 'CODE_18', int),
    ('clc.gpkg', 'GPKG', 4326, 'code_18', float),
    ('clc.gpkg', 'GPKG', 3044, 'Code_18', str),  # ETRS89 / UTM 32N (N-E): northing comes first in its definition
    ('clc.gdb', 'OpenFileGDB', 3035, 'Code_18', str),
  ],
)
def test_pixel_centres_in_any_crs_and_spelling(tmp_path, name, driver, crs, column, as_type):
  # A third of a pixel off the grid: the centre decides, whatever the CRS does to the edges (millimetres).
  polygons = [box(2.3, 1.3, 12.3, 9.3), box(15.6, 5.6, 25.6, 18.6)]
  path = write(tmp_path / name, polygons, [as_type(211), as_type(512)], crs, column, driver=driver)
  expected = np.zeros((20, 30), np.uint8)
  expected[1:9, 2:12] = legend.CORINE_INDEX[211]
  expected[6:19, 16:26] = legend.CORINE_INDEX[512]
  source = corine.CorineVectors(path)
  np.testing.assert_array_equal(source.read(GRID), expected)
  far = base.PatchGrid(32632, 600_000.0, 5_200_000.0, 8, 8)
  assert not source.read(far).any()


def test_holes_unclassified_and_overlaps(tmp_path):
  ring = box(0, 0, 20, 20).difference(box(5, 5, 10, 10))
  island = box(12, 12, 16, 16)
  polygons, codes = [island, ring, box(22, 0, 26, 4)], ['112', '312', '999']
  for i, order in enumerate(([0, 1, 2], [2, 1, 0])):
    path = write(tmp_path / f'{i}.gpkg', [polygons[k] for k in order], [codes[k] for k in order], crs=32632)
    labels = corine.CorineVectors(path).read(GRID)
    assert (labels[5:10, 5:10] == 0).all()  # the hole
    assert (labels[12:16, 12:16] == legend.CORINE_INDEX[112]).all()  # the smaller polygon, whatever the order
    assert (labels[0:4, 0:20] == legend.CORINE_INDEX[312]).all()
    assert (labels[:, 20:] == 0).all()


def test_a_long_straight_edge_follows_its_own_crs(tmp_path):
  # One edge of 400 km in EPSG:3035, where it is straight; in UTM it bends by many pixels.
  to_laea = base.transformer(32632, 3035)
  x, y = to_laea.transform(500_150.0, 5_199_900.0)
  polygon = shapely.Polygon([(x - 2e5, y), (x + 2e5, y), (x + 2e5, y - 2e5), (x - 2e5, y - 2e5)])
  frame = geopandas.GeoDataFrame({'Code_18': ['523']}, geometry=[polygon], crs=3035)
  frame.to_file(tmp_path / 'sea.gpkg', layer='clc')
  grid = base.PatchGrid(32632, 500_000.0 + 150_000, 5_200_000.0 + 5_000, 1000, 20)
  labels = corine.CorineVectors(str(tmp_path / 'sea.gpkg')).read(grid)
  xs = grid.x0_m + (np.arange(20) + 0.5) * 10
  ys = grid.y0_m - (np.arange(1000) + 0.5) * 10
  _, north = to_laea.transform(*np.meshgrid(xs, ys))
  np.testing.assert_array_equal(labels == 44, north < y)
  assert 0 < (labels == 44).mean() < 1


def test_wrong_inputs_say_what_to_do(tmp_path):
  with pytest.raises(ValueError, match=r'not found: .*nothing\.gpkg.*path='):
    corine.CorineVectors(str(tmp_path / 'nothing.gpkg'))
  path = write(tmp_path / 'a.gpkg', [box(0, 0, 5, 5)], ['2'], column='class')
  with pytest.raises(ValueError, match=r"no polygon layer with a column 'CODE_18'.*'class'.*code_column="):
    corine.CorineVectors(path)
  with pytest.raises(ValueError, match=r"unknown CORINE code\(s\) \['2'\].*code_column"):
    corine.CorineVectors(path, code_column='CLASS').read(GRID)
  with pytest.raises(ValueError, match=r"no layer 'clc'\. Layers: U2018_CLC2018"):
    corine.CorineVectors(path, layer='clc')
  geopandas.GeoDataFrame({'Code_18': ['211']}, geometry=[box(0, 0, 5, 5)], crs=32632).to_file(path, layer='one')
  geopandas.GeoDataFrame({'Code_18': ['211']}, geometry=[box(0, 0, 5, 5)], crs=32632).to_file(path, layer='two')
  with pytest.raises(
    ValueError, match=r"several CORINE layers \['one', 'two'\] of the same ground; pass layer=.*layer='\*'"
  ):
    corine.CorineVectors(path)
  assert corine.CorineVectors(path, layer='two').read(GRID).any()
  broken = tmp_path / 'broken.gpkg'
  broken.write_bytes((tmp_path / 'a.gpkg').read_bytes()[:3000])
  with pytest.raises(ValueError, match=r'broken\.gpkg'):
    corine.CorineVectors(str(broken)).read(GRID)


def test_every_layer_is_read_in_its_own_crs(tmp_path):
  # As in the EEA's geodatabase: Europe in EPSG:3035, Guadeloupe (UTM 20N) and Reunion (UTM 40S) in layers of their own.
  path = write(tmp_path / 'clc.gpkg', [box(2, 1, 12, 9)], ['211'], 3035, layer='U2018_CLC2018_V2020_20u1')
  overseas = {}
  for name, crs, x0, y0, code in (
    ('FR_GLP', 5490, 650_000, 1_790_000, '311'),
    ('FR_REU', 2975, 340_000, 7_660_000, '523'),
  ):
    piece = shapely.box(x0 + 20, y0 - 90, x0 + 120, y0 - 10)
    frame = geopandas.GeoDataFrame({'CODE_18': [code]}, geometry=[piece], crs=crs)
    frame.to_file(path, layer=f'U2018_CLC2018_V2020_20u1_{name}')
    overseas[code] = base.PatchGrid(crs, x0, y0, 20, 30)
  geopandas.GeoDataFrame({'note': ['x']}, geometry=[box(0, 0, 5, 5)], crs=32632).to_file(path, layer='remarks')
  source = corine.CorineVectors(path)
  assert [layer.code_column for layer in source.layers] == ['Code_18', 'CODE_18', 'CODE_18']
  for code, grid in {'211': GRID, **overseas}.items():
    expected = np.zeros((20, 30), np.uint8)
    expected[1:9, 2:12] = legend.CORINE_INDEX[int(code)]
    np.testing.assert_array_equal(source.read(grid), expected)
  alone = corine.CorineVectors(path, layer='U2018_CLC2018_V2020_20u1_FR_GLP')
  assert alone.read(overseas['311']).any()
  assert not alone.read(overseas['523']).any()


def test_all_layers_of_the_same_ground_are_drawn_in_order(tmp_path):
  path = write(tmp_path / 'clc.gpkg', [box(0, 0, 20, 20)], ['211'], 32632, layer='first')
  write(path, [box(5, 5, 30, 30)], ['311'], 4326, layer='second')  # larger, and still on top
  labels = corine.CorineVectors(path, layer='*').read(GRID)
  assert (labels[:5, :20] == legend.CORINE_INDEX[211]).all()
  assert (labels[5:, 5:] == legend.CORINE_INDEX[311]).all()
  assert (labels[5:, :5] == legend.CORINE_INDEX[211]).all()


def test_an_old_datum_is_shifted(tmp_path):
  """Guadeloupe 1948 lies some 400 m off WGS84: labels go where EPSG's 'Guadeloupe 1948 to WGS 84 (2)' puts them."""
  # In the geocentric frame of the International ellipsoid: 'position vector' rotations in arc seconds, scale in ppm.
  shift_m, turn, scale = np.array([-472.29, -5.63, -304.12]), np.array([0.4362, -0.8374, 0.2563]), 1.8984e-6
  rx, ry, rz = np.radians(turn / 3600)
  rotation = np.array([[1, -rz, ry], [rz, 1, -rx], [-ry, rx, 1]])
  old = pyproj.Transformer.from_pipeline(
    '+proj=pipeline +step +inv +proj=utm +zone=20 +ellps=intl +step +proj=cart +ellps=intl'
  )
  new = pyproj.Transformer.from_pipeline(
    '+proj=pipeline +step +inv +proj=cart +ellps=WGS84 +step +proj=utm +zone=20 +ellps=WGS84'
  )
  x, y = 650_000.0, 1_790_000.0
  geocentric = shift_m + (1 + scale) * rotation @ np.array(old.transform(x, y, 0.0))
  east, north, _ = new.transform(*geocentric)
  assert np.hypot(east - x, north - y) > 300
  frame = geopandas.GeoDataFrame({'CODE_18': ['311']}, geometry=[shapely.box(x - 50, y - 50, x + 50, y + 50)], crs=2970)
  frame.to_file(tmp_path / 'old.gpkg')
  grid = base.PatchGrid(32620, round(east) - 200.0, round(north) + 200.0, 400, 400, 1.0)
  row, col = np.nonzero(corine.CorineVectors(str(tmp_path / 'old.gpkg')).read(grid))
  assert len(row) == pytest.approx(100 * 100, rel=0.01)
  assert grid.x0_m + col.mean() + 0.5 == pytest.approx(east, abs=1)
  assert grid.y0_m - row.mean() - 0.5 == pytest.approx(north, abs=1)


def _read(source):
  return source.read(GRID)


def test_worker_processes_read_the_same(tmp_path):
  source = corine.CorineVectors(write(tmp_path / 'clc.gpkg', [box(2, 2, 9, 9)], ['311']))
  here = source.read(GRID)  # opened before the fork
  with concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context('fork')) as pool:
    for there in pool.map(_read, [source] * 4):
      np.testing.assert_array_equal(there, here)
  assert sorted(p.name for p in tmp_path.iterdir()) == ['clc.gpkg']  # read-only: no journal is left beside it


def write_raster(path, values, crs, transform, nodata=None):
  profile = {'driver': 'GTiff', 'height': values.shape[0], 'width': values.shape[1], 'count': 1, 'dtype': values.dtype}
  with rasterio.open(path, 'w', **profile, crs=crs, transform=transform, nodata=nodata) as raster:
    raster.write(values, 1)
  return str(path)


def test_pixel_map_by_code_and_by_index(tmp_path):
  transform = rasterio.transform.from_origin(500_000, 5_200_000, 100, 100)
  codes = write_raster(
    tmp_path / 'codes.tif', np.array([[111, 523, 999], [0, 312, 7777]], np.uint16), 32632, transform, 7777
  )
  index = write_raster(tmp_path / 'index.tif', np.array([[1, 44, 48], [0, 24, 255]], np.uint8), 32632, transform)
  expected = np.repeat(np.repeat(np.array([[1, 44, 0], [0, 24, 0]], np.uint8), 10, 0), 10, 1)
  np.testing.assert_array_equal(corine.CorineRaster(codes, 'code').read(GRID), expected)
  np.testing.assert_array_equal(corine.CorineRaster(index, 'index').read(GRID), expected)
  with pytest.raises(ValueError, match=r"codes='code'.*codes='index'"):
    corine.CorineRaster(codes)
  with pytest.raises(ValueError, match=r"holds \[111, 312, 523, 999\].*codes='index' does not have.*codes='code'"):
    corine.CorineRaster(codes, 'index').read(GRID)
  with pytest.raises(ValueError, match=r"codes='code' does not have"):
    corine.CorineRaster(index, 'code').read(GRID)
  shifted = base.PatchGrid(32632, 499_990.0, 5_200_010.0, 20, 30)
  moved = corine.CorineRaster(codes, 'code').read(shifted)
  assert not moved[0].any()
  assert not moved[:, 0].any()
  np.testing.assert_array_equal(moved[1:, 1:], expected[:-1, :-1])


def test_real_vectors_agree_with_an_independent_raster(real_data):
  # Rasterised at 25 m by the terra package (josesamos/clc); EPSG:3042 puts northing first, 25830 easting.
  vectors = corine.CorineVectors(str(real_data / 'corine' / 'clc.gpkg'))
  assert [layer[:2] for layer in vectors.layers] == [('clc', 'CODE_18')]
  pixels = corine.CorineRaster(str(real_data / 'corine' / 'clc.tif'), 'code')
  grid = base.PatchGrid(25830, 453239.0, 4099639.0, 745, 474, 25.0)
  ours, theirs = vectors.read(grid), pixels.read(grid)
  assert (ours == theirs)[theirs > 0].mean() > 0.999
  patch = base.PatchGrid(32630, 456_000.0, 4_090_000.0, 256, 256)
  ours, theirs = vectors.read(patch), pixels.read(patch)
  assert (ours == theirs).mean() > 0.95  # 10 m against 25 m pixels: they differ along borders only
  assert len(np.unique(ours)) >= 5


def test_real_overseas_layer_beside_a_european_one(real_data, tmp_path):
  """The two real files in one GeoPackage, as the EEA ships them: each layer gives what its file alone gives."""
  raster = real_data / 'corine' / 'U2018_CLC2018_V2020_20u1_FR_GLP.tif'
  with rasterio.open(raster) as file:
    index, transform, crs = file.read(1), file.transform, file.crs
  classed = (index > 0) & (index <= 44)
  pieces = list(rasterio.features.shapes(index, mask=classed, transform=transform))
  europe = geopandas.read_file(real_data / 'corine' / 'clc.gpkg')
  guadeloupe = geopandas.GeoDataFrame(
    {'CODE_18': [str(legend.CORINE[int(i) - 1].code) for _, i in pieces]},
    geometry=[shapely.geometry.shape(piece) for piece, _ in pieces],
    crs=crs,
  )
  europe.to_file(tmp_path / 'both.gpkg', layer='U2018_CLC2018_V2020_20u1')
  guadeloupe.to_file(tmp_path / 'both.gpkg', layer='U2018_CLC2018_V2020_20u1_FR_GLP')
  both = corine.CorineVectors(str(tmp_path / 'both.gpkg'))
  assert len({layer.crs for layer in both.layers}) == 2
  spain = base.PatchGrid(32630, 456_000.0, 4_090_000.0, 256, 256)
  alone = corine.CorineVectors(str(real_data / 'corine' / 'clc.gpkg'))
  np.testing.assert_array_equal(both.read(spain), alone.read(spain))
  basse_terre = base.PatchGrid(32620, 640_000.0, 1_790_000.0, 256, 256)
  ours, theirs = both.read(basse_terre), corine.CorineRaster(str(raster), 'index').read(basse_terre)
  assert len(np.unique(theirs)) >= 3
  assert (ours == theirs).mean() > 0.999  # pixel centres on an edge of 100 m cells may go either way


def test_real_grid_index_raster_knows_sea_from_land(real_data):
  source = corine.CorineRaster(str(real_data / 'corine' / 'U2018_CLC2018_V2020_20u1_FR_GLP.tif'), 'index')
  names = [c.name for c in legend.CORINE]

  def at(lon, lat):
    x, y = base.transformer(4326, 32620).transform(lon, lat)
    return names[source.read(base.PatchGrid(32620, x - 5, y + 5, 1, 1)).item() - 1]

  assert at(-61.85, 16.15) == 'Sea and ocean'
  assert at(-61.72, 16.10).endswith('forest')  # the national park of Basse-Terre
  assert at(-61.535, 16.241).endswith('urban fabric')  # Pointe-a-Pitre

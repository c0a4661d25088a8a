"""Maps of classes as labels: pixels by hand in several CRSs, tiles, legends, and the wrong inputs."""

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from deepsentinel import legend, registry
from deepsentinel.sources import base, labelraster

GRID = base.PatchGrid(32736, 500_000.0, 9_000_000.0, 20, 30)  # 33 E, 9 S
LEGEND = """value,name,colour,corine_level1
0,,,
10,Tree cover,#006400,natural
40,Cropland,#f096ff,agriculture
80,Water,#0064c8,water
"""


def write(path, values, crs=32736, transform=None, nodata=None, palette=None):
  values = np.asarray(values)
  profile = {'driver': 'GTiff', 'height': values.shape[0], 'width': values.shape[1], 'count': 1, 'dtype': values.dtype}
  profile |= {'photometric': 'palette'} if palette else {}
  transform = transform or from_origin(500_000, 9_000_000, 100, 100)
  with rasterio.open(path, 'w', **profile, crs=crs, transform=transform, nodata=nodata) as file:
    if palette:
      file.write_colormap(1, palette)
    file.write(values, 1)
  return str(path)


@pytest.fixture
def own(tmp_path):
  (tmp_path / 'legend.csv').write_text(LEGEND)
  return str(tmp_path / 'legend.csv')


def test_numbers_become_places_in_the_legend(tmp_path, own):
  path = write(tmp_path / 'map.tif', np.array([[10, 40, 7777], [0, 80, 10]], np.uint16), nodata=7777)
  source = registry.build('label source', {'name': 'raster', 'path': path, 'legend': own})
  assert isinstance(source, base.LabelSource)
  assert [c.name for c in source.classes] == ['Tree cover', 'Cropland', 'Water']
  assert source.classes[1] == legend.MapClass('Cropland', (240, 150, 255), (40,), 'agriculture')
  expected = np.repeat(np.repeat(np.array([[1, 2, 0], [0, 3, 1]], np.uint8), 10, 0), 10, 1)
  np.testing.assert_array_equal(source.read(GRID), expected)
  assert source.read(GRID).dtype == np.uint8
  # Half a map pixel to the west and north: what lies outside has no label.
  shifted = base.PatchGrid(32736, 499_950.0, 9_000_050.0, 20, 30)
  moved = source.read(shifted)
  assert not moved[:5].any()
  assert not moved[:, :5].any()
  np.testing.assert_array_equal(moved[5:, 5:], expected[:-5, :-5])
  assert not source.read(base.PatchGrid(32636, 500_000.0, 5_000_000.0, 8, 8)).any()  # another hemisphere


@pytest.mark.parametrize('crs', [4326, 3857, 5070, 32735, 6933, 3042])
def test_the_map_may_be_in_any_crs(tmp_path, own, crs):
  """A chequerboard in the map's own CRS, its squares found again at each pixel's centre with pyproj."""
  grid = base.PatchGrid(32616, 500_000.0, 4_300_000.0, 64, 64) if crs == 5070 else GRID
  grid = base.PatchGrid(32630, 500_000.0, 4_200_000.0, 64, 64) if crs == 3042 else grid
  left, bottom, right, top = grid.bounds_in(crs)[0]
  size = max(right - left, top - bottom) / 16
  transform = from_origin(left - 2 * size, top + 2 * size, size, size)
  values = np.where(np.indices((24, 24)).sum(0) % 2, 10, 40).astype(np.uint8)
  source = labelraster.LabelRaster(write(tmp_path / 'map.tif', values, crs, transform), own)
  lon, lat = grid.pixel_centres_lonlat()
  x, y = base.transformer(4326, crs).transform(lon, lat)
  col, row = (x - transform.c) / size, (transform.f - y) / size
  expected = np.where((np.floor(col) + np.floor(row)) % 2 == 1, 1, 2)
  labels = source.read(grid)
  edge = np.minimum(np.abs(col - np.round(col)), np.abs(row - np.round(row))) < 1e-6
  assert ((labels == expected) | edge).all()
  assert set(np.unique(labels)) == {1, 2}


@pytest.mark.parametrize('extent', ['from -180', 'from 0', 'tiles'])
def test_across_the_antimeridian(tmp_path, own, extent):
  """Maps of the Earth, whichever longitude they begin with, and tiles of 3 degrees: crops east of it, sea west."""
  (tmp_path / 'map').mkdir()
  if extent == 'tiles':
    write(tmp_path / 'map' / 'S18E177.tif', np.full((30, 30), 40, np.uint8), 4326, from_origin(177, -15, 0.1, 0.1))
    write(tmp_path / 'map' / 'S18W180.tif', np.full((30, 30), 80, np.uint8), 4326, from_origin(-180, -15, 0.1, 0.1))
  else:
    first, columns = (-180, [80, 40]) if extent == 'from -180' else (0, [40, 80])
    values = np.repeat(np.array([columns], np.uint8), 36, axis=1).repeat(36, axis=0)
    write(tmp_path / 'map' / 'earth.tif', values, 4326, from_origin(first, 90, 5, 5))
  x, y = base.transformer(4326, 32701).transform(180.0, -16.5)
  grid = base.PatchGrid(32701, round(x, -1) - 1280.0, round(y, -1), 64, 256)
  lon, _ = grid.pixel_centres_lonlat()
  assert 0.4 < (lon > 0).mean() < 0.6
  np.testing.assert_array_equal(labelraster.LabelRaster(str(tmp_path / 'map'), own).read(grid), np.where(lon > 0, 2, 3))


def test_a_window_too_large_is_read_in_parts(tmp_path, own, monkeypatch):
  rng = np.random.default_rng(0)
  path = write(tmp_path / 'fine.tif', rng.choice([10, 40, 80], (200, 300)).astype(np.uint8),
               transform=from_origin(500_000, 9_000_000, 1, 1))  # fmt: skip
  whole = labelraster.LabelRaster(path, own).read(GRID)
  monkeypatch.setattr(labelraster.raster, '_WINDOW_PX', 500)
  np.testing.assert_array_equal(labelraster.LabelRaster(path, own).read(GRID), whole)
  with rasterio.open(path) as file:  # 1 m pixels under the centres of 10 m pixels
    expected = file.read(1)[5::10, 5::10]
  np.testing.assert_array_equal(np.array([0, 10, 40, 80])[whole], expected)


def test_tiles_of_a_folder_or_a_pattern(tmp_path, own):
  """As WorldCover comes: tiles in degrees, here in two folders and with nodata in one where the other has a class."""
  tiles = tmp_path / 'tiles'
  (tiles / 'east').mkdir(parents=True)
  write(tiles / 'a_Map.tif', np.array([[10, 10], [0, 10]], np.uint8), nodata=0)
  write(tiles / 'b_Map.tif', np.full((2, 2), 80, np.uint8))
  lon, lat = base.transformer(32736, 4326).transform(500_200, 8_999_900)
  write(tiles / 'east' / 'C_Map.TIF', np.full((1, 1), 40, np.uint8), 4326, from_origin(lon, lat + 1e-2, 2e-2, 2e-2))
  (tiles / 'readme.txt').write_text('no raster')
  for path in (tiles, tiles / '**' / '*_Map.*'):
    labels = labelraster.LabelRaster(str(path), own).read(GRID)
    assert (labels[:10, :20] == 1).all()
    assert (labels[10:, :10] == 3).all()  # where the first tile has none, the second
    assert (labels[10:, 10:20] == 1).all()
    assert (labels[:, 21:] == 2).all()
  assert not labelraster.LabelRaster(str(tiles / 'east' / '*.TIF'), own).read(GRID)[:, :19].any()


def test_rows_of_one_name_are_one_class(tmp_path, own):
  path = write(tmp_path / 'map.tif', np.array([[1, 2, 3]], np.int16))
  (tmp_path / 'merged.csv').write_text('value,name,colour\n2,Forest,#00ff00\n3,Town,#ff0000\n1,Forest,#00FF00\n')
  source = labelraster.LabelRaster(path, str(tmp_path / 'merged.csv'))
  assert source.classes == (
    legend.MapClass('Forest', (0, 255, 0), (2, 1)),
    legend.MapClass('Town', (255, 0, 0), (3,)),
  )
  np.testing.assert_array_equal(source.read(GRID)[0, 5::10], [1, 1, 2])
  restored = legend.map_classes([c.to_dict() for c in source.classes])
  assert restored == source.classes


_NAMES = '<CategoryNames><Category></Category><Category>Corn</Category><Category>Rice</Category></CategoryNames>'
_TABLE = (
  '<GDALRasterAttributeTable>'
  '<FieldDefn index="0"><Name>Value</Name><Type>0</Type><Usage>5</Usage></FieldDefn>'
  '<FieldDefn index="1"><Name>Class_Name</Name><Type>2</Type><Usage>2</Usage></FieldDefn>'
  '<Row index="0"><F>1</F><F>Corn</F></Row><Row index="1"><F>2</F><F>Rice</F></Row></GDALRasterAttributeTable>'
)


@pytest.mark.parametrize('names', [_NAMES, _TABLE, _NAMES + _TABLE], ids=['category names', 'table', 'both'])
def test_a_raster_with_its_own_names_and_colours(tmp_path, names):
  """As the Cropland Data Layer comes: a palette, and the names in an attribute table beside it."""
  path = write(tmp_path / 'cdl.tif', np.array([[1, 2, 2]], np.uint8), palette={1: (255, 211, 0), 2: (0, 168, 229)})
  with pytest.raises(ValueError, match=r'cdl\.tif has no names of classes in itself\. State the legend.*legend='):
    labelraster.LabelRaster(path)
  (tmp_path / 'cdl.tif.aux.xml').write_text(f'<PAMDataset><PAMRasterBand band="1">{names}</PAMRasterBand></PAMDataset>')
  source = labelraster.LabelRaster(path)
  assert source.classes == (
    legend.MapClass('Corn', (255, 211, 0), (1,)),
    legend.MapClass('Rice', (0, 168, 229), (2,)),
  )
  np.testing.assert_array_equal(source.read(GRID)[0, 5::10], [1, 2, 2])


def test_ready_legends(tmp_path):
  path = write(tmp_path / 'map.tif', np.array([[10, 95, 100]], np.uint8))
  worldcover = labelraster.LabelRaster(path, 'worldcover')
  assert [c.values[0] for c in worldcover.classes] == [10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 100]
  assert {c.level1 for c in worldcover.classes} == set(legend.LEVEL1_NAMES)
  np.testing.assert_array_equal(worldcover.read(GRID)[0, 5::10], [1, 10, 11])
  cdl = labelraster.LabelRaster(write(tmp_path / 'cdl.tif', np.array([[1, 131, 81]], np.uint8)), 'cdl')
  by_name = {c.name: c for c in cdl.classes}
  assert by_name['Corn'] == legend.MapClass('Corn', (255, 211, 0), (1,), 'agriculture')
  assert by_name['Barren'].values == (65, 131)  # NASS has two of that name
  assert by_name['Developed/Open Space'].level1 == 'urban'
  assert max(max(c.values) for c in cdl.classes) == 254
  labels = cdl.read(GRID)[0, 5::10]
  assert [cdl.classes[labels[0] - 1].name, cdl.classes[labels[1] - 1].name, labels[2]] == ['Corn', 'Barren', 0]


@pytest.mark.parametrize(
  ('text', 'says'),
  [
    ('value,name\n1,a\n', r'has no column colour; its first line must name value,name,colour'),
    ('', r'has no column value, name, colour.*Found: nothing'),
    ('value,name,colour\n1,a,#00ff00\n1,b,#0000ff\n', r"line 3: value 1 is there twice, as 'a' and as 'b'"),
    ('value,name,colour\n1,a,#00ff00\n1,,\n', r"line 3: value 1 is there twice, as 'a' and as 'no class'"),
    ('value,name,colour\n1.5,a,#00ff00\n', r"line 2: value '1\.5' is no whole number"),
    ('value,name,colour\n1,a,green\n', r"line 2: colour 'green' of 'a' must be written as '#rrggbb'"),
    ('value,name,colour\n1,a\n', r"line 2: colour '' of 'a'"),
    ('value,name,colour,corine_level1\n1,a,#00ff00,forest\n', r"line 2: unknown corine_level1 'forest' of 'a'. Known"),
    ('value,name,colour\n1,a,#00ff00\n2,a,#0000ff\n', r"line 3: 'a' has another colour or corine_level1"),
    ('value,name,colour\n0,,\n', r'has 0 classes; 1 to 255 can be stored'),
    (
      'value,name,colour\n' + ''.join(f'{i},c{i},#00ff00\n' for i in range(256)),
      r'has 256 classes; 1 to 255 can be stored\. Give classes that belong together one name',
    ),
  ],
)  # fmt: skip
def test_a_wrong_legend_is_named_with_its_line(tmp_path, text, says):
  path = write(tmp_path / 'map.tif', np.array([[1]], np.uint8))
  (tmp_path / 'wrong.csv').write_text(text)
  with pytest.raises(ValueError, match=says):
    labelraster.LabelRaster(path, str(tmp_path / 'wrong.csv'))


def test_wrong_inputs_say_what_to_do(tmp_path, own):
  path = write(tmp_path / 'map.tif', np.array([[10, 40, 20], [30, 30, 10]], np.uint8))
  with pytest.raises(ValueError, match=r'map\.tif holds 20, 30, which the legend lacks \(.*legend\.csv\).*Add a line'):
    labelraster.LabelRaster(path, own).read(GRID)
  with pytest.raises(ValueError, match=r'Label raster not found: .*absent.*path='):
    labelraster.LabelRaster(str(tmp_path / 'absent'), own)
  (tmp_path / 'empty').mkdir()
  with pytest.raises(ValueError, match=r'Label raster not found: .*empty'):
    labelraster.LabelRaster(str(tmp_path / 'empty'), own)
  with pytest.raises(
    ValueError, match=r"Legend 'worldcovr' is neither a file nor a ready legend. Ready: cdl, worldcover"
  ):
    labelraster.LabelRaster(path, 'worldcovr')
  (tmp_path / 'binary.csv').write_bytes(b'\xff\xfe\x00II*')
  with pytest.raises(ValueError, match=r'binary\.csv is no text'):
    labelraster.LabelRaster(path, str(tmp_path / 'binary.csv'))
  with pytest.raises(ValueError, match=r'plain\.tif has no georeference.*gdal_edit'):
    labelraster.LabelRaster(write(tmp_path / 'plain.tif', np.ones((2, 2), np.uint8), crs=None), own)
  profile = {'driver': 'GTiff', 'height': 2, 'width': 2, 'count': 3, 'dtype': 'uint8', 'crs': 32736}
  with rasterio.open(tmp_path / 'rgb.tif', 'w', transform=from_origin(500_000, 9e6, 100, 100), **profile) as file:
    file.write(np.ones((3, 2, 2), np.uint8))
  with pytest.raises(ValueError, match=r'rgb\.tif has 3 bands; a map of classes has one.*gdal_translate'):
    labelraster.LabelRaster(str(tmp_path / 'rgb.tif'), own)
  cut = tmp_path / 'cut.tif'
  rng = np.random.default_rng(0)
  write(cut, rng.choice([10, 40], (200, 300)).astype(np.uint8), transform=from_origin(500_000, 9_000_000, 1, 1))
  cut.write_bytes(cut.read_bytes()[:30_000])
  with pytest.raises(ValueError, match=r'cut\.tif cannot be read.*truncated or corrupt'):
    labelraster.LabelRaster(str(cut), own).read(GRID)
  with pytest.raises(ValueError, match=r"label source 'raster'.*'path'"):
    registry.build('label source', {'name': 'raster', 'legend': own})


def test_real_land_cover_of_two_continents(real_data, tmp_path):
  """TerraMesh's land-use maps (Esri's ten classes) as a folder of tiles, against their own pixels."""
  names = ('water', 'trees', 'flooded vegetation', 'crops', 'built', 'bare', 'snow or ice', 'clouds', 'rangeland')
  rows = [f'{i},{name},#0000{i:02x}' for i, name in enumerate(names, start=1)]
  (tmp_path / 'esri.csv').write_text('\n'.join(['value,name,colour', '0,,', *rows]))
  folder = real_data / 'terramesh' / 'LULC'
  source = labelraster.LabelRaster(str(folder), str(tmp_path / 'esri.csv'))
  for name in ('38D_378R_2_3', '637U_59R_1_3'):
    with rasterio.open(folder / f'{name}.tif') as file:
      stored, left, top, epsg = file.read(1), file.transform.c, file.transform.f, file.crs.to_epsg()
    labels = source.read(base.PatchGrid(epsg, left, top, *stored.shape))
    np.testing.assert_array_equal(labels, stored)
    assert len(np.unique(labels)) >= 2

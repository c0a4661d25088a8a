"""What else is made of an area than the map: land cover, the header's channels, patches; and areas that are no box."""

import json

import geopandas
import jax
import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
import scipy.stats
import shapely

from deepsentinel import legend, sensors
from deepsentinel.embedding import levels, scene
from deepsentinel.embedding.area import Polygons
from deepsentinel.embedding.inputs import SceneReader
from deepsentinel.sources import base
from tests.embedding.small_area import NOON, ArraySource, make_grid, make_model
from tests.embedding.test_scene import COLS, GRID, ROWS, run, standardised, values

HOLE = np.s_[100:110, 60:75]
PAD = 8 * 16


class Cloudy(ArraySource):
  """Knows a cloud over the upper 20 pixels."""

  def cloud_mask(self, scene_, grid):
    row = round((self.grid_.y0_m - grid.y0_m) / 10) + np.arange(grid.height_px)
    return np.repeat(row[:, None] < 20, grid.width_px, 1)


@pytest.fixture(scope='module')
def finetuned():
  return make_model(stage='finetune')


@pytest.fixture(scope='module')
def source():
  made = Cloudy(GRID)
  for sensor, nodata in (('sentinel2', 0), ('sentinel1', sensors.S1_NODATA)):
    made.pixels[sensor][HOLE] = nodata
  made.pixels['sentinel1'][:, 150:] = sensors.S1_NODATA
  return made


@pytest.fixture(scope='module')
def decoded(finetuned, source):
  """The whole area at once: the header's channels and the probabilities."""
  whole = standardised(source, slice(-PAD, ROWS * 16 + PAD), slice(-PAD, COLS * 16 + PAD))
  out = finetuned.decode(whole, np.ones((1, 5), bool))
  return tuple(np.asarray(x)[0, PAD:-PAD, PAD:-PAD][: GRID.height_px, : GRID.width_px] for x in out[1:])


def test_land_cover_and_how_sure_it_is(finetuned, source, decoded, tmp_path):
  result = run(finetuned, source, tmp_path / 'a', level='landcover')
  with rasterio.open(result.landcover) as dataset:
    ours = dataset.read(1)
    assert (dataset.nodata, dataset.dtypes[0]) == (0, 'uint8')
    assert dataset.transform == GRID.transform
    assert ours.shape == (GRID.height_px, GRID.width_px)
    assert dataset.tags()['class_2'] == 'agriculture'
    assert dataset.tags()['checkpoint_sha256'] == finetuned.sha256
    palette = dataset.colormap(1)
  assert [palette[i + 1][:3] for i in range(5)] == [tuple(rgb) for rgb in legend.LEVEL1_RGB]
  _, probabilities = decoded
  theirs = probabilities.argmax(-1) + 1
  theirs[HOLE] = 0
  assert (ours == theirs).mean() > 0.9999  # a tie of two classes may fall either way
  assert set(np.unique(ours[HOLE])) == {0}

  with rasterio.open(result.quality) as dataset:
    entropy, optical, radar, cloud = dataset.read()
    assert (dataset.nodata, dataset.scales[0], dataset.transform) == (255, 0.01, GRID.transform)
    assert [what.name for what in dataset.colorinterp] == ['gray'] + ['undefined'] * 3  # none is an alpha band
    assert dataset.descriptions[0].startswith('entropy of the class probabilities')
    assert dataset.descriptions[1:3] == ('optical observation', 'radar observation')
  known = np.ones(ours.shape, bool)
  known[HOLE] = False
  expected = 100 * scipy.stats.entropy(probabilities, axis=-1) / np.log(5)
  np.testing.assert_allclose(entropy[known], expected[known], atol=0.51)
  assert set(np.unique(entropy[~known])) == {255}
  np.testing.assert_array_equal(optical, known)
  np.testing.assert_array_equal(radar, known & (np.arange(COLS * 16 - 9) < 150))
  np.testing.assert_array_equal(cloud, np.where(known, np.arange(len(cloud))[:, None] < 20, 255))
  with rasterio.open(result.embedding) as dataset:
    assert dataset.count == 64


def test_the_headers_channels(finetuned, source, decoded, tmp_path):
  result = run(finetuned, source, tmp_path / 'a', level='header')
  with rasterio.open(result.header) as dataset:
    assert (dataset.count, dataset.dtypes[0], dataset.transform) == (8, 'float32', GRID.transform)
    assert dataset.tags(1, ns='IMAGE_STRUCTURE')['NBITS'] == '16'
    assert dataset.tags(ns='IMAGE_STRUCTURE')['LAYOUT'] == 'COG'
    assert dataset.descriptions[0] == 'header_00'
    assert dataset.tags()['checkpoint_sha256'] == finetuned.sha256
  ours, (theirs, probabilities) = values(result.header), decoded
  missing = np.zeros(ours.shape[:2], bool)
  missing[HOLE] = True
  np.testing.assert_array_equal(np.isnan(ours), np.repeat(missing[..., None], 8, 2))
  np.testing.assert_allclose(ours[~missing], theirs[~missing], rtol=1e-3, atol=1e-3 * theirs.max())
  # They are what the last layer sees.
  last = finetuned.variables['params']['header']['Conv1']
  np.testing.assert_allclose(
    jax.nn.softmax(theirs @ last['kernel'][0, 0] + last['bias']), probabilities, rtol=1e-3, atol=1e-4
  )


def test_entropy_by_hand():
  np.testing.assert_allclose(
    levels.entropy(np.array([[0.25] * 4, [1, 0, 0, 0], [0.5, 0.5, 0, 0]])), [1, 0, 0.5], atol=1e-6
  )


def test_patches_are_what_training_sees(tmp_path):
  model, source = make_model(), ArraySource(GRID)
  for sensor, nodata in (('sentinel2', 0), ('sentinel1', sensors.S1_NODATA)):
    source.pixels[sensor][:64, 64:128] = nodata  # patch (0, 1)
    source.pixels[sensor][64:80, :64] = nodata  # a quarter of patch (1, 0)
  result = run(model, source, tmp_path, level='patch')
  assert result.embedding is None
  table = geopandas.read_parquet(result.patches)
  stated = json.loads(pq.read_schema(result.patches).metadata[b'geo'])['columns']['geometry']['bbox']
  np.testing.assert_array_equal(stated, table.total_bounds)
  assert list(table.columns) == ['id', 'row', 'col', 'clear', 'embedding', 'geometry']
  places = [(r, c) for r in range(4) for c in range(3) if (r, c) != (0, 1)]
  assert list(zip(table['row'], table['col'], strict=True)) == places
  assert table.crs.to_epsg() == 32632
  row = table[(table['row'] == 1) & (table['col'] == 0)].iloc[0]
  assert row['id'] == '32632_600010_5299380'
  assert row['clear'] == 0.75
  assert row.geometry.equals(shapely.box(600_010, 5_298_740, 600_650, 5_299_380))
  alone = standardised(source, slice(64, 128), slice(0, 64))
  np.testing.assert_allclose(row['embedding'], np.asarray(model.encode(alone).embedding)[0], rtol=2e-4, atol=1e-4)
  stored = pq.read_schema(result.patches)
  assert stored.metadata[b'checkpoint_sha256'].decode() == model.sha256
  assert stored.metadata[b'level'] == b'patch'
  assert str(stored.field('embedding').type) == 'list<element: float>'


def test_an_area_that_is_no_box(tmp_path):
  """Cells that it does not touch are nodata, the others as if all were embedded; a strip outside is not read."""
  model, whole = make_model(), ArraySource(GRID)
  full = values(run(model, whole, tmp_path / 'full', window_px=160).embedding)
  x, y = GRID.x0_m, GRID.y0_m
  triangle = shapely.Polygon([(x + 173, y - 173), (x + 818, y - 173), (x + 173, y - 811)])
  within = shapely.union_all([triangle, shapely.box(x + 1290, y - 900, x + 1590, y - 650)])
  lonlat = shapely.transform(
    within, lambda xy: np.column_stack(base.transformer(32632, 4326).transform(xy[:, 0], xy[:, 1]))
  )
  source = ArraySource(GRID)
  area = Polygons('triangle and box', lonlat)
  ours = values(run(model, source, tmp_path / 'part', window_px=160, area=area).embedding)
  centres = shapely.contains_xy(
    within, *np.meshgrid(x + 10 * np.arange(COLS * 16) + 5, y - 10 * np.arange(ROWS * 16) - 5)
  )
  inside = centres.reshape(ROWS, 16, COLS, 16).any((1, 3))
  assert 10 < inside.sum() < 40
  np.testing.assert_array_equal(np.isfinite(ours).all(-1), inside)
  np.testing.assert_array_equal(ours[inside], full[inside])
  assert source.reads < whole.reads / 2
  # The area is part of what a result is.
  with pytest.raises(ValueError, match=r'another embedding \(area: '):
    run(model, source, tmp_path / 'part', window_px=160)


class Halves(ArraySource):
  """Its optical scene as two that overlap a little, west and east."""

  def __init__(self, grid):
    super().__init__(grid)
    west, south, east, north = grid.outline_lonlat().bounds
    middle = (west + east) / 2
    parts = {'west': shapely.box(west, south, middle, north), 'east': shapely.box(middle - 1e-4, south, east, north)}
    optical = {name: base.Scene(name, 'sentinel2', outline, NOON) for name, outline in parts.items()}
    self.scenes = {**optical, 'radar': self.scenes['sentinel1']}

  def read(self, scene_, grid, bands):
    patch = super().read(scene_, grid, bands)
    if scene_.sensor == 'sentinel2':
      lon, _ = grid.pixel_centres_lonlat()
      west, _, east, _ = scene_.footprint.bounds
      patch.values[(lon < west) | (lon > east)] = 0
    return patch


def test_a_mosaic_is_embedded_as_one_scene(tmp_path):
  model, source = make_model(), Halves(GRID)
  one = values(run(model, ArraySource(GRID), tmp_path / 'one', window_px=160).embedding)
  result = run(model, source, tmp_path / 'two', window_px=160, check_bands=False)
  np.testing.assert_array_equal(values(result.embedding), one)
  with rasterio.open(result.embedding) as dataset:
    assert dataset.tags()['scenes'] == 'west,east,sentinel1_a'
  reader = SceneReader(source.inputs(), model.bands)
  pixels = reader.read(GRID.window(0, 0, 64, GRID.width_px))
  np.testing.assert_array_equal(pixels['s2'], source.pixels['sentinel2'][:64])
  # A scene is not read where there is nothing left to fill, or where it does not reach.
  for col in (0, 140):
    source.reads = 0
    reader.read(GRID.window(0, col, 32, 32))
    assert source.reads == 2


def test_unknown_levels(finetuned, source, tmp_path):
  with pytest.raises(ValueError, match=r"Unknown level 'embedding'\. Known: map, patch, header, landcover"):
    scene.embed(finetuned, SceneReader(source.inputs(), finetuned.bands), GRID, tmp_path, level='embedding')


def test_bands_in_another_order_are_refused(tmp_path):
  """A scene whose file says B2, B3, B4 of what are B4, B3 and B2, to a model that knows dark blue and bright red."""
  model = make_model()
  model.statistics.update(mean=[0.05, 0.1, 0.2, -10.0, -17.0], std=[0.02, 0.02, 0.02, 2.0, 2.0])
  grid = make_grid(64, 64)
  source = ArraySource(grid)
  source.pixels['sentinel2'][:] = [2000, 1000, 500]
  source.pixels['sentinel1'][:] = [-1000, -1700]
  with pytest.raises(ValueError, match='look far more like B4, B3, B2, VV, VH: they seem to be permuted'):
    run(model, source, tmp_path / 'a', grid)
  assert not (tmp_path / 'a').exists()
  source.pixels['sentinel2'][:] = [500, 1000, 2000]
  run(model, source, tmp_path / 'a', grid)

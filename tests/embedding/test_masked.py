"""Optical pixels under a scene's cloud mask are missing to the model: what lies there changes nothing."""

import logging

import geopandas
import numpy as np
import pytest
import rasterio

from deepsentinel import sensors
from deepsentinel.embedding import inputs, levels, scene
from deepsentinel.embedding.inputs import SceneReader
from deepsentinel.sources import base
from deepsentinel.sources.local import LocalScenes
from tests.embedding.small_area import NOON, ArraySource, make_grid, make_model
from tests.embedding.test_scene import values

GRID = make_grid(128, 112)
CLOUD = np.zeros((128, 112), bool)
CLOUD[30:90, 20:101] = True  # whole cells and parts of cells


class Masked(ArraySource):
  """Knows its clouds, as an array of the scene's own pixels."""

  def __init__(self, grid=GRID, cloud=CLOUD, **options):
    super().__init__(grid, **options)
    self.cloud = cloud

  def cloud_mask(self, scene_, grid):
    row = round((self.grid_.y0_m - grid.y0_m) / 10)
    col = round((grid.x0_m - self.grid_.x0_m) / 10)
    rows, cols = row + np.arange(grid.height_px), col + np.arange(grid.width_px)
    inside = (rows >= 0)[:, None] & (rows < 128)[:, None] & (cols >= 0) & (cols < 112)
    return inside & self.cloud[np.ix_(rows.clip(0, 127), cols.clip(0, 111))]


def trained(**options):
  """A model that says it was trained for masked pixels."""
  model = make_model(**options)
  model.config[model.stage]['masked_cloud'] = 0.3
  return model


def run(model, source, out, mask_clouds=True, level='map'):
  reader = SceneReader(source.inputs(), model.bands, mask_clouds=mask_clouds)
  window_px = 160 if level == 'map' else 0
  return scene.embed(model, reader, GRID, out, level=level, progress=False, check_bands=False, window_px=window_px)


@pytest.fixture(scope='module')
def model():
  return trained(stage='finetune')


@pytest.fixture(scope='module')
def whitened():
  """The same scenes with other clouds in the same places."""
  made = Masked()
  made.pixels['sentinel2'][CLOUD] = 9000
  return made


def test_what_lies_under_the_cloud_changes_nothing(model, whitened, tmp_path):
  first = run(model, Masked(), tmp_path / 'a', level='landcover')
  second = run(model, whitened, tmp_path / 'b', level='landcover')
  for name in ('embedding', 'landcover', 'quality'):
    np.testing.assert_array_equal(values(getattr(first, name)), values(getattr(second, name)))
  assert np.isfinite(values(first.embedding)).all()  # the radar is there
  # It is as if the scene had no data there, and not as if nothing was masked.
  holes = Masked()
  holes.pixels['sentinel2'][CLOUD] = 0
  third = run(model, holes, tmp_path / 'c', mask_clouds=False)
  np.testing.assert_array_equal(values(third.embedding), values(first.embedding))
  fourth = run(model, Masked(), tmp_path / 'd', mask_clouds=False)
  assert np.abs(values(fourth.embedding) - values(first.embedding)).max() > 0.01

  quality = values(first.quality)
  np.testing.assert_array_equal(quality[..., 1] == 1, ~CLOUD)  # an optical observation
  np.testing.assert_array_equal(quality[..., 3] == 1, CLOUD)
  assert (quality[..., 2] == 1).all()
  with rasterio.open(first.landcover) as dataset:
    tags = dataset.tags()
  assert tags['clouds_masked_by'] == "array's own cloud mask"
  assert float(tags['masked_share']) == pytest.approx(CLOUD.mean(), abs=1e-4)
  assert tags['masked_cloud_in_training'] == '0.3'
  with rasterio.open(fourth.embedding) as dataset:
    assert not [tag for tag in dataset.tags() if 'mask' in tag]


def test_without_radar_the_masked_ground_is_nodata(tmp_path):
  bands = ('B2', 'B3', 'B4')
  model = trained(stage='finetune', bands=bands)
  result = run(model, Masked(bands=bands), tmp_path / 'a', level='landcover')
  cells = CLOUD.reshape(8, 16, 7, 16).all((1, 3))
  assert cells.any()
  np.testing.assert_array_equal(np.isnan(values(result.embedding)).all(-1), cells)
  np.testing.assert_array_equal(values(result.landcover)[..., 0] == 0, CLOUD)
  result = run(model, Masked(bands=bands), tmp_path / 'b', level='patch')
  table = geopandas.read_parquet(result.patches)
  assert table['clear'].iloc[0] == pytest.approx(1 - CLOUD[:64, :64].mean())


def test_clear_of_patches_leaves_masked_cloud_out(tmp_path):
  table = geopandas.read_parquet(run(trained(), Masked(), tmp_path, level='patch').patches)
  expected = [1 - CLOUD[r : r + 64, c : c + 64].sum() / 64**2 for r in (0, 64) for c in (0, 64)]
  expected = [share - beyond for share, beyond in zip(expected, (0, 0.25, 0, 0.25), strict=True)]  # 112 = 64 + 48
  np.testing.assert_allclose(table['clear'], expected, atol=1e-6)


class Twice(Masked):
  """The same ground twice: cloud west in the first scene, north in the second, whose pixels are all 777."""

  def __init__(self):
    super().__init__()
    whole = self.scenes['sentinel2'].footprint
    second = base.Scene('second', 'sentinel2', whole, NOON)
    self.scenes = {'first': self.scenes['sentinel2'], 'second': second, 'radar': self.scenes['sentinel1']}

  def read(self, scene_, grid, bands):
    patch = super().read(scene_, grid, bands)
    if scene_.id == 'second':
      patch.values[patch.valid] = 777
    return patch

  def cloud_mask(self, scene_, grid):
    assert grid == GRID
    row, col = np.indices(CLOUD.shape)
    return row < 40 if scene_.id == 'second' else col < 50


def test_what_one_scene_has_under_cloud_a_further_one_fills():
  source = Twice()
  pixels = SceneReader(source.inputs(), ('B2', 'B3', 'B4', 'VV', 'VH'), mask_clouds=True).read(GRID, clouds=True)
  s2, cloud = pixels['s2'], pixels['cloud']
  np.testing.assert_array_equal(s2[:, 50:], source.pixels['sentinel2'][:, 50:])
  assert (s2[40:, :50] == 777).all()
  assert (s2[:40, :50] == sensors.S2_NODATA).all()
  assert cloud[:40, :50].all()
  assert not cloud[40:].any()
  assert not cloud[:, 50:].any()
  plain = SceneReader(source.inputs(), ('B2', 'B3', 'B4', 'VV', 'VH')).read(GRID, clouds=True)
  np.testing.assert_array_equal(plain['s2'], source.pixels['sentinel2'])
  np.testing.assert_array_equal(plain['cloud'], np.broadcast_to(np.arange(112) < 50, (128, 112)))


def test_a_model_that_never_saw_missing_pixels_is_refused(tmp_path, caplog):
  with pytest.raises(ValueError, match=r'--mask_clouds: this checkpoint has never seen missing optical pixels.*under_'):
    run(make_model(), Masked(), tmp_path / 'a')
  assert not (tmp_path / 'a').exists()
  # Sensor dropout shows a model the case of no optical pixel, but not that of a few: that much is said.
  dropped = make_model(subsets=[('B2', 'B3', 'B4'), ('VV', 'VH')])
  for model, said in ((dropped, True), (trained(), False)):
    caplog.clear()
    levels.require(model, 'map', mask_clouds=True)
    with caplog.at_level(logging.WARNING):
      levels.warn_of_masks(model, SceneReader(Masked().inputs(), model.bands, mask_clouds=True))
    assert ('not with a part of their pixels missing' in caplog.text) == said


def test_scenes_without_a_mask_are_refused(model):
  bare = ArraySource(GRID)
  with pytest.raises(ValueError, match=r"--mask_clouds: 'array' has no cloud masks.*Leave the flag out"):
    SceneReader(bare.inputs(), model.bands, mask_clouds=True)
  radar = [i for i in Masked().inputs() if i.scene.sensor == 'sentinel1']
  with pytest.raises(ValueError, match='--mask_clouds: there is no optical band'):
    SceneReader(radar, model.bands, mask_clouds=True)
  np.testing.assert_array_equal(SceneReader(bare.inputs(), model.bands).read(GRID, clouds=True)['cloud'], 255)


def test_a_mask_that_cannot_be_read_stops_nothing_that_does_not_need_it(model, caplog):
  class Broken(Masked):
    def cloud_mask(self, scene_, grid):
      raise ValueError('SCL.tif cannot be read')

  reader = SceneReader(Broken().inputs(), model.bands)
  with caplog.at_level(logging.WARNING):
    np.testing.assert_array_equal(reader.read(GRID, clouds=True)['cloud'], inputs.CLOUD_UNKNOWN)
    reader.read(GRID, clouds=True)
  assert caplog.text.count('stays unknown: SCL.tif cannot be read') == 1
  with pytest.raises(ValueError, match=r'SCL.tif cannot be read'):
    SceneReader(Broken().inputs(), model.bands, mask_clouds=True).read(GRID)


def test_an_interrupted_run_is_not_gone_on_with_unmasked(model, whitened, tmp_path):
  with pytest.raises(OSError, match='the disk is gone'):
    run(model, Masked(fail_after=8), tmp_path)
  with pytest.raises(ValueError, match=r'\(clouds_masked_by: "array.s own cloud mask" there, null now\)'):
    run(model, Masked(), tmp_path, mask_clouds=False)
  again = run(model, whitened, tmp_path)
  assert 0 < again.resumed < 4
  whole = run(model, Masked(), tmp_path / 'whole')
  np.testing.assert_array_equal(values(again.embedding), values(whole.embedding))
  assert float(rasterio.open(again.embedding).tags()['masked_share']) == pytest.approx(CLOUD.mean(), abs=1e-4)


def test_the_real_major_tom_scene(real_data, tmp_path):
  """Its own mask is clear and changes nothing; with one that hides a town, the town's pixels change nothing."""
  bands = ('B2', 'B3', 'B4')
  model = trained(bands=bands)

  def embed(source, out, mask_clouds, area=None):
    (found,) = source.scenes()
    reader = SceneReader([inputs.SceneInput(source, found, 'local')], bands, mask_clouds=mask_clouds)
    grid = area or source.grid(found)
    return scene.embed(model, reader, grid, out, progress=False, check_bands=False, window_px=160)

  source = LocalScenes(str(real_data / 'major_tom'), s2_unit='reflectance_x1e4')
  (found,) = source.scenes()
  own = source.grid(found).window(400, 400, 128, 128)
  plain, masked = (embed(source, tmp_path / name, name == 'masked', own) for name in ('plain', 'masked'))
  np.testing.assert_array_equal(values(plain.embedding), values(masked.embedding))
  with rasterio.open(masked.embedding) as dataset:
    assert dataset.tags()['clouds_masked_by'] == 'cloud_mask file'
    assert float(dataset.tags()['masked_share']) == 0

  results = []
  for change in (0, 3000):
    folder = tmp_path / f'plus{change}' / found.id
    folder.mkdir(parents=True)
    pixels = source.read(found, own, bands).values
    cloud = np.zeros(pixels.shape[:2], np.uint8)
    cloud[50:110, 20:80] = 1
    pixels[cloud == 1] += np.uint16(change)
    profile = {
      'driver': 'GTiff', 'height': own.height_px, 'width': own.width_px, 'count': 1, 'crs': own.epsg,
      'transform': own.transform,
    }  # fmt: skip
    for name, plane in (*zip(('B02', 'B03', 'B04'), np.moveaxis(pixels, -1, 0), strict=True), ('cloud_mask', cloud)):
      with rasterio.open(folder / f'{name}.tif', 'w', dtype=plane.dtype, **profile) as file:
        file.write(plane[None])
    changed = LocalScenes(str(folder), s2_unit='reflectance_x1e4')
    results.append(embed(changed, tmp_path / f'out{change}', mask_clouds=True))
  first, second = (values(result.embedding) for result in results)
  np.testing.assert_array_equal(first, second)
  assert np.isnan(first).any()
  assert np.isfinite(first).any()

import dataclasses
import json

import numpy as np
import pytest
import rasterio

from benchmarks import embed_scene
from deepsentinel import sensors
from deepsentinel.embedding import scene, windows
from deepsentinel.embedding.inputs import SceneReader
from tests import commands
from tests.embedding.small_area import BANDS, ArraySource, make_grid, make_model

ROWS, COLS = 16, 12  # cells
GRID = make_grid(ROWS * 16 - 5, COLS * 16 - 9)  # the last cells are covered in part


@pytest.fixture(scope='module')
def model():
  return make_model()


def run(model, source, out, grid=GRID, **options):
  reader = SceneReader(source.inputs(), model.bands)
  return scene.embed(model, reader, grid, out, progress=False, **options)


def values(path):
  with rasterio.open(path) as dataset:
    return np.moveaxis(dataset.read(), 0, -1)


def standardised(source, rows, cols):
  """Pixels of an area as the encoder sees them, beyond the scene 0."""
  grid = GRID.window(rows.start, cols.start, rows.stop - rows.start, cols.stop - cols.start)
  parts = []
  for item, nodata, scale, mean, std in zip(
    source.inputs(), (0, sensors.S1_NODATA), (10_000, 100), (0.2, -15.0), (0.1, 5.0), strict=True
  ):
    held = source.spec.s2_bands if item.scene.sensor == 'sentinel2' else source.spec.s1_bands
    stored = source.read(item.scene, grid, held).to_storage()
    parts.append(np.where(stored == nodata, 0, (stored.astype(np.float32) / scale - mean) / std))
  return np.concatenate(parts, -1)[None].astype(np.float32)


def test_windows_equal_the_whole_image_and_the_georeference_is_exact(model, tmp_path):
  source = ArraySource(GRID)
  result = run(model, source, tmp_path / 'a', window_px=160)  # kept cells: 10 - 2 * 4
  ours = values(result.embedding)
  assert ours.shape == (ROWS, COLS, 64)
  # The whole area at once, padded wide enough that zeros of the layers' own padding stay outside.
  pad = 8 * 16
  whole = standardised(source, slice(-pad, ROWS * 16 + pad), slice(-pad, COLS * 16 + pad))
  theirs = np.asarray(model.encode(whole).feature_map)[0, 8:-8, 8:-8]
  np.testing.assert_allclose(ours, theirs, atol=2e-5 * np.abs(theirs).max(), rtol=0)
  # And the bare image, whose borders the layers pad with zeros: the same away from them.
  bare = np.asarray(model.encode(standardised(source, slice(0, ROWS * 16), slice(0, COLS * 16))).feature_map)[0]
  inside = np.s_[4:-4, 4:-4]
  np.testing.assert_allclose(ours[inside], bare[inside], atol=2e-5 * np.abs(bare).max(), rtol=0)

  with rasterio.open(result.embedding) as dataset:
    assert dataset.crs.to_epsg() == 32632
    assert dataset.transform[:6] == (160, 0, 600_010, 0, -160, 5_300_020)
    assert dataset.dtypes[0] == 'float32'
    assert np.isnan(dataset.nodata)
    assert dataset.descriptions[:2] == ('embedding_000', 'embedding_001')
    tags = dataset.tags()
    assert dataset.tags(ns='IMAGE_STRUCTURE')['LAYOUT'] == 'COG'
  assert tags['checkpoint_sha256'] == model.sha256
  assert tags['bands'] == ','.join(BANDS)
  assert tags['source'] == 'array'
  assert tags['scenes'] == 'sentinel2_a,sentinel1_a'
  assert tags['synthetic'] == 'true'
  assert 'NaN where none' in tags['nodata_rule']
  assert not (tmp_path / 'a' / 'strips').exists()
  with rasterio.open(result.picture) as dataset:
    assert dataset.width > dataset.height > 300


def test_the_window_does_not_change_the_result(model, tmp_path):
  source = ArraySource(GRID)
  small = values(run(model, source, tmp_path / 'small', window_px=160).embedding)
  chosen = values(run(model, source, tmp_path / 'chosen').embedding)
  np.testing.assert_allclose(small, chosen, atol=2e-5 * np.abs(chosen).max(), rtol=0)


def test_the_lattice_follows_the_areas_corner(model, tmp_path):
  """The same ground embedded as part of a larger area, whole cells away: the same cells."""
  source = ArraySource(GRID)
  whole = values(run(model, source, tmp_path / 'whole', window_px=160).embedding)
  part = values(run(model, source, tmp_path / 'part', GRID.window(48, 32, 96, 64), window_px=160).embedding)
  np.testing.assert_allclose(part, whole[3:9, 2:6], atol=2e-5 * np.abs(whole).max(), rtol=0)


def test_attention_looks_at_windows_of_the_training_crop_and_tiles_leave_no_trace(tmp_path, monkeypatch):
  model = make_model(attention=True)
  source = ArraySource(GRID)
  ours = values(run(model, source, tmp_path / 'a').embedding)
  # The whole area at once, by the encoder whose attention looks at windows of 64 px; its convolutions see all.
  local = dataclasses.replace(model, module=model.module.clone(encoder=model.module.encoder.local(64)))
  pad = 16 * 16
  whole = standardised(source, slice(-pad, ROWS * 16 + pad), slice(-pad, COLS * 16 + pad))
  theirs = np.asarray(local.encode(whole).feature_map)[0, 16:-16, 16:-16]
  np.testing.assert_allclose(ours, theirs, atol=2e-5 * np.abs(theirs).max(), rtol=0)
  monkeypatch.setattr(windows, '_MOST_KEPT', 4)
  small = values(run(model, source, tmp_path / 'b').embedding)
  np.testing.assert_allclose(small, ours, atol=2e-5 * np.abs(theirs).max(), rtol=0)


def test_an_encoder_that_looks_anywhere_is_blended(tmp_path, monkeypatch):
  """One of a user's own, which knows no windows: crops that overlap by half, each weighted by a raised cosine."""
  model = make_model(attention=True)
  monkeypatch.setattr(type(model.module.encoder), 'local', lambda self, window_px: None)
  source = ArraySource(GRID)
  ours = values(run(model, source, tmp_path / 'a').embedding)
  # Cell (5, 7) of windows of 4 cells, 2 apart: of those that begin at rows 2 and 4, columns 4 and 6.
  edge, middle = np.sin(np.pi * np.array([0.5, 1.5]) / 4) ** 2
  expected = 0
  for row, row_weight in ((2, edge), (4, middle)):
    for col, col_weight in ((4, edge), (6, middle)):
      window = standardised(source, slice(row * 16, row * 16 + 64), slice(col * 16, col * 16 + 64))
      features = np.asarray(model.encode(window).feature_map)[0, 5 - row, 7 - col]
      expected = expected + row_weight * col_weight * features
  np.testing.assert_allclose(ours[5, 7], expected, atol=2e-5 * np.abs(ours).max(), rtol=0)


def test_cells_without_a_valid_pixel_are_nan(model, tmp_path):
  source = ArraySource(GRID)
  reference = values(run(model, source, tmp_path / 'full', window_px=160).embedding)
  for sensor, nodata in (('sentinel2', 0), ('sentinel1', sensors.S1_NODATA)):
    source.pixels[sensor][32:64, 48:80] = nodata  # cells (2..3, 3..4): no sensor
  source.pixels['sentinel2'][128:160, 0:32] = 0  # cells (8..9, 0..1): radar alone
  ours = values(run(model, source, tmp_path / 'holes', window_px=160).embedding)
  missing = np.zeros((ROWS, COLS), bool)
  missing[2:4, 3:5] = True
  np.testing.assert_array_equal(np.isnan(ours).all(-1), missing)
  np.testing.assert_array_equal(np.isnan(ours).any(-1), missing)
  assert np.abs(ours[9, 1] - reference[9, 1]).max() > 0
  # 49 px beyond the hole nothing has changed.
  np.testing.assert_allclose(ours[12:, 8:], reference[12:, 8:], atol=2e-5 * np.abs(reference).max(), rtol=0)


def test_an_area_larger_than_the_scene(model, tmp_path):
  source = ArraySource(make_grid(64, 64))
  ours = values(run(model, source, tmp_path / 'a', make_grid(128, 160), window_px=160).embedding)
  seen = np.zeros((8, 10), bool)
  seen[:4, :4] = True
  np.testing.assert_array_equal(np.isfinite(ours).all(-1), seen)


def test_a_scene_that_knows_its_edges_is_mirrored_there(model, tmp_path):
  """No false edge: the encoder sees the scene's own pixels again beyond it, whatever the windows."""
  known = make_grid(11 * 16 + 3, 9 * 16)

  class Bounded(ArraySource):
    def grid(self, scene_):
      return known

  source = Bounded(known)
  ours = values(run(model, source, tmp_path / 'a', make_grid(14 * 16, 10 * 16), window_px=160).embedding)
  pad = 8 * 16
  inside = standardised(source, slice(0, known.height_px), slice(0, known.width_px))
  beyond = ((0, 0), (pad, pad + 3 * 16 - 3), (pad, pad + 16), (0, 0))
  theirs = np.array(model.encode(np.pad(inside, beyond, 'symmetric')).feature_map)[0, 8:-8, 8:-8]
  theirs[12:], theirs[:, 9:] = np.nan, np.nan  # there is no scene
  np.testing.assert_allclose(ours, theirs, atol=2e-5 * np.nanmax(np.abs(theirs)), rtol=0)
  other = values(run(model, source, tmp_path / 'b', make_grid(14 * 16, 10 * 16)).embedding)
  np.testing.assert_allclose(ours, other, atol=2e-5 * np.nanmax(np.abs(theirs)), rtol=0)


def test_land_cover_needs_a_fine_tuned_model(model, tmp_path):
  for level in ('landcover', 'header'):
    with pytest.raises(ValueError, match=f'--level={level} needs a fine-tuned model; this is the pretrain stage'):
      run(model, ArraySource(GRID), tmp_path, level=level)


def test_a_missing_sensor_is_an_error_unless_the_model_was_trained_for_it(model, tmp_path):
  source = ArraySource(GRID, bands=('B2', 'B3', 'B4'))
  with pytest.raises(ValueError, match='these pixels have no VV, VH'):
    run(model, source, tmp_path / 'a')
  able = make_model(subsets=[('B2', 'B3', 'B4')])
  ours = values(run(able, source, tmp_path / 'b', window_px=160).embedding)
  full = standardised(ArraySource(GRID), slice(-128, ROWS * 16 + 128), slice(-128, COLS * 16 + 128))
  theirs = np.asarray(able.encode(full, np.array([[True] * 3 + [False] * 2])).feature_map)[0, 8:-8, 8:-8]
  np.testing.assert_allclose(ours, theirs, atol=2e-5 * np.abs(theirs).max(), rtol=0)


def test_extra_bands_are_left_out_and_other_bands_refused(model, tmp_path):
  source = ArraySource(GRID, bands=('B1', *BANDS))
  reader = SceneReader(source.inputs(), BANDS)
  assert reader.spec.bands == BANDS
  with pytest.raises(ValueError, match='these scenes have none of them'):
    SceneReader(ArraySource(GRID, bands=('B9',)).inputs(), BANDS)
  with pytest.raises(ValueError, match='A scene is given twice'):
    SceneReader(source.inputs() * 2, BANDS)


def test_both_sensors_may_call_a_place_the_same():
  found = [
    dataclasses.replace(item, scene=dataclasses.replace(item.scene, id='site')) for item in ArraySource(GRID).inputs()
  ]
  assert [item.scene.sensor for item in found] == ['sentinel2', 'sentinel1']
  assert SceneReader(found, BANDS).spec.bands == BANDS


def test_an_interrupted_run_goes_on_to_the_same_result(model, tmp_path):
  whole = run(model, ArraySource(GRID), tmp_path / 'whole', window_px=160)
  with pytest.raises(OSError, match='the disk is gone'):
    run(model, ArraySource(GRID, fail_after=40), tmp_path / 'broken', window_px=160)
  finished = list((tmp_path / 'broken' / 'strips').glob('embedding_*.npy'))
  assert 0 < len(finished) < 8
  assert not (tmp_path / 'broken' / 'embedding.tif').exists()
  source = ArraySource(GRID)
  again = run(model, source, tmp_path / 'broken', window_px=160)
  assert again.resumed == len(finished)
  assert source.reads == 2 * 6 * (8 - len(finished))  # two sensors, six tiles a strip
  np.testing.assert_array_equal(values(again.embedding), values(whole.embedding))
  assert again.picture.read_bytes() == whole.picture.read_bytes()
  # Finished: nothing is read.
  source = ArraySource(GRID)
  assert run(model, source, tmp_path / 'broken', window_px=160).resumed == 8
  assert source.reads == 0


def test_kill_9_and_the_same_command_again(tmp_path):
  area = 'tests.embedding.small_area'
  assert commands.run(area, tmp_path / 'whole', 0).code == 0
  strips = tmp_path / 'killed' / 'strips'
  process = commands.Running(area, tmp_path / 'killed', 0.05)
  process.wait_until((strips / 'embedding_00002.npy').exists)
  process.kill()
  assert not (tmp_path / 'killed' / 'embedding.tif').exists()
  before = (strips / 'embedding_00000.npy').stat().st_mtime_ns
  assert before
  assert commands.run(area, tmp_path / 'killed', 0).code == 0
  np.testing.assert_array_equal(
    values(tmp_path / 'killed' / 'embedding.tif'), values(tmp_path / 'whole' / 'embedding.tif')
  )
  assert json.loads((tmp_path / 'killed' / 'embedding.json').read_text())['complete']


def test_a_folder_that_holds_something_else_is_not_touched(model, tmp_path):
  source = ArraySource(GRID)
  run(model, source, tmp_path, window_px=160)
  before = (tmp_path / 'embedding.tif').read_bytes()
  with pytest.raises(ValueError, match=r'another embedding \(grid: .*Pass another --out'):
    run(model, source, tmp_path, make_grid(160, 160), window_px=160)
  with pytest.raises(ValueError, match='checkpoint_sha256: "0123abcd" there, "4567cdef" now'):
    run(make_model(attention=True), source, tmp_path)
  assert (tmp_path / 'embedding.tif').read_bytes() == before
  (tmp_path / 'embedding.json').unlink()
  with pytest.raises(ValueError, match='of unknown origin'):
    run(model, source, tmp_path, window_px=160)


def test_memory_stays_bounded_by_windows_and_strips():
  """Nothing has the size of the area: tile, window and strip of a scene of 10,980 px and of one ten times as wide."""
  small, large = (windows.plan(side, side, stride=16, reach_px=109, crop_px=128) for side in (10_980, 109_800))
  assert small.read_px == large.read_px == 1024
  assert small.batch == large.batch


@pytest.mark.slow
def test_a_scene_of_four_times_the_pixels_takes_hardly_more_memory(tmp_path, monkeypatch):
  """Measured as the operating system does it, in a process that reads GeoTIFFs."""
  monkeypatch.setenv('GDAL_CACHEMAX', '16')  # the 128 MB that it may keep are filled by the larger scene alone
  # Of both the windows are the same.
  peak_mb = [embed_scene.measure(tmp_path, height, 512, 'resnet10', 8)[1] for height in (1600, 6400)]
  # As float32 alone, of which reading makes several copies, the pixels that were added are 138 MB.
  assert peak_mb[1] - peak_mb[0] < 100, peak_mb
  assert peak_mb[1] < 1500

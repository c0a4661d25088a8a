"""The documented command on real Sentinel-1/2 samples, at its tiny size: is every unit, grid, label and date right?

What comes out is compared with the source files, read here with lmdb, safetensors, pandas and rasterio alone.
"""

import json
import os
import pathlib
import subprocess
import sys

import lmdb
import numpy as np
import pandas as pd
import pytest
import rasterio
import safetensors.numpy
import scipy.ndimage

from deepsentinel import legend, sensors
from deepsentinel.data.records import RecordSet
from tests import commands

pytestmark = pytest.mark.slow

S2_KEYS = ('B01', 'B02', 'B03', 'B04', 'B05', 'B06', 'B07', 'B08', 'B8A', 'B09', 'B11', 'B12')
MAPPED = 'S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_57'


def launch(repository, served, out, data, *arguments):
  environment = {
    **os.environ,
    'DEEPSENTINEL_DATA': str(data),
    **served,
    'PATH': f'{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}',
    'XLA_FLAGS': commands.QUICK_XLA,  # one device: compiles once for all of it
  }
  command = ['bash', 'launch/real_data.sh', str(out), *arguments]
  return subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, timeout=900)


@pytest.fixture(scope='module')
def out(repository, served, real_data, tmp_path_factory):
  """The folder that the whole command filled."""
  folder = tmp_path_factory.mktemp('real') / 'real data'
  done = launch(repository, served, folder, real_data, 'tiny')
  assert done.returncode == 0, done.stderr[-4000:]
  return folder


@pytest.fixture(scope='module')
def published(real_data):
  """Of every BigEarthNet v2 pair: its row of the tables and its arrays."""
  folder = real_data / 'bigearthnet_v2'
  rows = pd.concat([pd.read_parquet(f) for f in sorted(folder.glob('metadata*.parquet'))]).drop_duplicates('patch_id')
  pairs = {}
  lmdb_folder = str(folder / 'BigEarthNet-V2-LMDB')
  with lmdb.open(lmdb_folder, readonly=True, lock=False) as environment, environment.begin() as transaction:
    for row in rows.to_dict('records'):
      s2, s1 = (transaction.get(row[key].encode()) for key in ('patch_id', 's1_name'))
      if s2 and s1:
        pairs[row['patch_id']] = (row, safetensors.numpy.load(s2), safetensors.numpy.load(s1))
  assert len(pairs) == 24
  return pairs


@pytest.fixture(scope='module')
def unlabelled(out):
  return RecordSet(out / 'tensorflow_datasets' / 'deepsentinel_unlabelled' / 'custom' / '1.0.0')


def interpolated(values, factor):
  """Bilinear at the centres of `factor` times finer pixels, edges held: SciPy's, not GDAL's."""
  at = (np.arange(len(values) * factor) + 0.5) / factor - 0.5
  at = np.meshgrid(at, at, indexing='ij')
  return scipy.ndimage.map_coordinates(values.astype(float), at, order=1, mode='nearest')


def test_pixels_are_those_of_the_published_arrays(unlabelled, published):
  assert unlabelled.spec == sensors.SensorSpec(sensors.ALL_BANDS, 'L2A', 'sigma0_ellipsoid')
  assert not unlabelled.synthetic
  assert len(unlabelled) == 24
  for i, name in enumerate(unlabelled.table['id']):
    _, s2, s1 = published[name]
    stored = {field: unlabelled.read(field, [i])[0] for field in ('s2', 's1')}
    for channel, key in enumerate(S2_KEYS):
      ours = stored['s2'][..., channel].astype(int)
      factor = 120 // len(s2[key])
      # 10 m numbers as they are, no offset; coarser ones interpolated, to the rounding of a number and of a weight.
      difference = np.abs(ours - interpolated(s2[key], factor))
      assert difference.max() <= (0 if factor == 1 else 1), (name, key)
    for channel, key in enumerate(('VV', 'VH')):
      np.testing.assert_allclose(stored['s1'][..., channel] / 100, s1[key], atol=0.00501)


def test_places_dates_classes_and_pairs(unlabelled, published):
  for row in unlabelled.table.to_dict('records'):
    table, _, _ = published[row['id']]
    tile, column, line = row['id'].split('_')[-3:]
    epsg, x0_m, y0_m = {'T33UUP': (32633, 300_000, 5_400_000), 'T35VNJ': (32635, 499_980, 6_900_000)}[tile]
    corner = (x0_m + 1200 * int(column), y0_m - 1200 * int(line))
    assert (row['epsg'], row['x0_m'], row['y0_m']) == (epsg, *corner)
    assert row['classes'].split(';') == sorted(table['labels'])
    assert (row['s2_scene'], row['s1_scene']) == (table['patch_id'], table['s1_name'])
    taken = [pd.Timestamp(row[key].split('_')[part], tz='UTC') for key, part in (('s2_scene', 2), ('s1_scene', 4))]
    assert [row['s2_time'], row['s1_time']] == [int(t.timestamp()) for t in taken]
    assert abs(taken[0] - taken[1]) < pd.Timedelta(days=1)
  assert (unlabelled.table['s2_scene'].str.contains('20170613T101031')).sum() == 21


def test_corine_is_the_reference_map_pixel_for_pixel(out, real_data, unlabelled):
  (path,) = real_data.rglob(f'{MAPPED}_reference_map.tif')
  with rasterio.open(path) as file:
    codes, transform, crs = file.read(1), file.transform, file.crs
  position = unlabelled.table['id'].tolist().index(MAPPED)
  for split in ('train', 'validation', 'test'):
    records = RecordSet(out / 'tensorflow_datasets' / 'deepsentinel_labelled' / 'custom' / '1.0.0', split)
    assert records.table['id'].tolist() == [MAPPED]
    ours = np.array([0, *(c.code for c in legend.CORINE)])[records.read('corine', [0])[0]]
    np.testing.assert_array_equal(ours, codes)
    row = records.table.iloc[0]
    assert (row.x0_m, row.y0_m, row.epsg) == (transform.c, transform.f, crs.to_epsg())
    for field in ('s2', 's1'):
      np.testing.assert_array_equal(records.read(field, [0]), unlabelled.read(field, [position]))


def test_neighbours_probe_and_report_say_what_they_rest_on(out, unlabelled):
  assert json.loads((out / 'runs' / 'bigearthnet' / 'test.json').read_text())['also_trained_on'] == 1
  assert '1 of 1 test patch stood in the training split too' in (out / 'report.html').read_text()
  notes = json.loads((out / 'runs' / 'bigearthnet' / 'experiment.json').read_text())
  assert notes['synthetic'] is False
  assert notes['neighbours']['mean_km'] < 3  # max_distance_km
  scores = json.loads((out / 'knn.json').read_text())
  lists = [value.split(';') for value in unlabelled.table['classes']]
  assert (scores['patches'], scores['synthetic']) == (24, False)
  assert scores['classes'] == sorted({name for row in lists for name in row})
  assert 'rank no method' in scores['caveat']
  assert scores['embedding']['leave_one_out']
  truth = np.array([[name in row for name in scores['classes']] for row in lists])
  # The prior by hand: classes that at least half of the 23 others have.
  prior = (truth.sum(0) - truth) / 23 >= 0.5
  f1 = 2 * (prior & truth).sum() / (prior.sum() + truth.sum())
  for method in ('embedding', 'band_statistics'):
    assert scores[method]['prior']['micro_f1'] == pytest.approx(f1)
    assert 0.3 < scores[method]['micro_f1'] < 0.95


def test_the_mosaic_and_its_embedding_lie_where_the_patches_lie(out, published):
  with rasterio.open(out / 'mosaic' / 'S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP.tif') as file:
    assert (file.crs.to_epsg(), file.shape) == (32633, (360, 240))
    near = file.read(8)
  with rasterio.open(out / 'mosaic' / 'S1B_IW_GRDH_1SDV_20170612T165809_33UUP.tif') as file:
    vv = file.read(1) / 100
  for name, (_, s2, s1) in published.items():
    column, line = map(int, name.split('_')[-2:])
    if 'T33UUP' in name and column in (37, 38) and line in (88, 89, 90):
      place = np.s_[120 * (line - 88) :, 120 * (column - 37) :]
      np.testing.assert_array_equal(near[place][:120, :120], s2['B08'])
      np.testing.assert_allclose(vv[place][:120, :120], s1['VV'], atol=0.00501)
  with rasterio.open(out / 'maps' / 'mosaic' / 'embedding.tif') as file:
    assert (file.crs.to_epsg(), file.shape) == (32633, (23, 15))
    assert file.transform[:6] == (160, 0, 300_000 + 37 * 1200, 0, -160, 5_400_000 - 88 * 1200)
    assert file.tags(ns='IMAGE_STRUCTURE')['LAYOUT'] == 'COG'
    assert file.tags()['times'] == '2017-06-13T10:10:31Z,2017-06-12T16:58:09Z'
    assert file.tags()['synthetic'] == 'false'
    assert np.isfinite(file.read()).all()


def test_the_major_tom_scene_is_embedded_wall_to_wall(out, real_data):
  (b2,) = (real_data / 'major_tom').rglob('B02.tif')
  with rasterio.open(b2) as scene, rasterio.open(out / 'maps' / 'major_tom' / 'embedding.tif') as file:
    assert (scene.crs.to_epsg(), scene.shape) == (32648, (1068, 1068))
    assert file.crs == scene.crs
    assert file.shape == (67, 67)  # 1068 / 16 and a part
    assert file.transform[:6] == (160, 0, scene.bounds.left, 0, -160, scene.bounds.top)
    assert file.is_tiled
    assert (file.dtypes[0], np.isnan(file.nodata)) == ('float32', True)
    assert file.tags()['bands'] == ','.join(sensors.SENTINEL2_BANDS)
    assert file.tags()['model_bands'] == ','.join(sensors.ALL_BANDS)
    values = file.read()
    assert np.isfinite(values).all()
    assert (values.std((1, 2)) > 0).sum() > 32  # the land differs from place to place
  for name in ('mosaic', 'major_tom'):
    with rasterio.open(out / 'maps' / name / 'embedding.png') as picture:
      assert picture.width > 800


def test_terramesh_is_gamma0_on_its_own_grids(out, real_data):
  records = RecordSet(out / 'tensorflow_datasets' / 'terramesh' / 'deepsentinel_unlabelled' / 'custom' / '1.0.0')
  assert records.spec.s1_quantity == 'gamma0_terrain'
  assert len(records) == 2
  for i, row in enumerate(records.table.to_dict('records')):
    assert row['epsg'] == {'637U_59R_1_3': 32632, '38D_378R_2_3': 32736}[row['id']]
    with rasterio.open(real_data / 'terramesh' / 'S1RTC' / f'{row["id"]}.tif') as file:
      assert (file.crs.to_epsg(), file.transform.c, file.transform.f) == (row['epsg'], row['x0_m'], row['y0_m'])
      np.testing.assert_allclose(np.moveaxis(records.read('s1', [i])[0], -1, 0) / 100, file.read(), atol=0.00501)
    with rasterio.open(real_data / 'terramesh' / 'S2L2A' / f'{row["id"]}.tif') as file:
      np.testing.assert_array_equal(np.moveaxis(records.read('s2', [i])[0], -1, 0), np.maximum(file.read(), 0))
  notes = json.loads((out / 'runs' / 'terramesh' / 'experiment.json').read_text())
  assert (notes['status'], notes['spec']['s1_quantity']) == ('finished', 'gamma0_terrain')


def test_a_model_of_one_radar_quantity_refuses_the_other(out, real_data):
  """TerraMesh's gamma0 into the model of BigEarthNet's sigma0: one sentence, no map."""
  place = '637U_59R_1_3.tif'
  done = commands.run(
    'deepsentinel.embed', f'--checkpoint={out}/runs/bigearthnet', f'--out={out}/maps/wrong',
    f'--s1={real_data}/terramesh/S1RTC/{place}', '--s1_unit=db', '--s1_quantity=gamma0_terrain',
    '--option=s1_bands=["VV","VH"]', '--option=times={"637U_59R_1_3": "2017-10-30"}',
  )  # fmt: skip
  assert done.error.startswith(
    'error: The checkpoint was trained on radar sigma0_ellipsoid; these pixels are gamma0_terrain.'
  )
  assert not (out / 'maps' / 'wrong').exists()


def test_the_finished_command_says_so(out, real_data, repository, served):
  done = launch(repository, served, out, real_data, 'tiny')
  assert done.returncode == 0
  assert 'is finished' in done.stdout


def test_without_the_data_it_says_what_is_missing(repository, served, tmp_path):
  done = launch(repository, served, tmp_path / 'out', tmp_path)
  assert done.returncode != 0
  assert 'bigearthnet_v2 holds no data.mdb' in done.stderr

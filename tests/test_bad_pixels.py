"""NaN pixels, nodata pixels and patches of nothing but nodata, followed from the files to the embedding."""

import json
import pathlib

import numpy as np
import pandas as pd
import pytest
import rasterio

from deepsentinel import corpus, sensors
from deepsentinel.data import records, statistics
from tests import broken_inputs, commands, trials

PATCH_PX = 64
PLACES = ('clean', 'nan_block', 'nodata_block', 'other', 'all_nan', 'all_nodata')
SPEC = sensors.SensorSpec(s1_quantity='sigma0_ellipsoid')
BLOCK = np.s_[:, 16:48, 0:32]  # of nan_block and nodata_block, in both sensors
CONFIG = """
from configs.corpora import common


def get_config():
  config = common.get_config()
  config.name = 'stacks'
  config.patches, config.patch_px, config.workers = 0, {patch_px}, 0
  config.source = {{
    'name': 'stacks', 'path': {path!r}, 's2_unit': 'reflectance', 's1_unit': 'db', 's1_quantity': 'sigma0_ellipsoid',
    'unknown_times': True,
  }}
  return config
"""


def pixels(place: str) -> dict[str, np.ndarray]:
  """Reflectance and dB [C, H, W] of a place, with NaN and nodata (-9999) as its name says."""
  rng = np.random.default_rng(PLACES.index(place))
  s2 = rng.uniform(0.02, 0.4, (len(SPEC.s2_bands), PATCH_PX, PATCH_PX)).astype(np.float32)
  s1 = rng.uniform(-22, -6, (len(SPEC.s1_bands), PATCH_PX, PATCH_PX)).astype(np.float32)
  for values in (s2, s1):
    if place in ('nan_block', 'nodata_block'):
      values[BLOCK] = np.nan if place == 'nan_block' else -9999
    if place in ('all_nan', 'all_nodata'):
      values[:] = np.nan if place == 'all_nan' else -9999
  return {'S2L2A': s2, 'S1RTC': s1}


def write(path: pathlib.Path, values: np.ndarray, bands: tuple[str, ...], number: int = 0) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  with rasterio.open(
    path, 'w', driver='GTiff', height=PATCH_PX, width=PATCH_PX, count=len(values), dtype='float32', crs='EPSG:32633',
    nodata=-9999, transform=rasterio.Affine(10, 0, 3e5 + 6000 * number, 0, -10, 54e5),
  ) as file:  # fmt: skip
    file.write(values)
    file.descriptions = bands


@pytest.fixture(scope='module')
def stacks(tmp_path_factory) -> pathlib.Path:
  """Six places in files, and the config that samples them."""
  folder = tmp_path_factory.mktemp('stacks')
  for number, place in enumerate(PLACES):
    for name, values in pixels(place).items():
      write(folder / name / f'{place}.tif', values, SPEC.s2_bands if name == 'S2L2A' else SPEC.s1_bands, number)
  (folder / 'config.py').write_text(CONFIG.format(patch_px=PATCH_PX, path=str(folder)))
  return folder


@pytest.fixture(scope='module')
def sampled(stacks, tmp_path_factory) -> pathlib.Path:
  out = tmp_path_factory.mktemp('corpora') / 'stacks'
  finished = commands.run('deepsentinel.corpus', f'--config={stacks}/config.py', f'--out={out}')
  assert finished.code == 0, finished.err
  assert '2 of 6 patches failed; --retry_failed tries them again' in finished.out
  return out


@pytest.fixture(scope='module')
def prepared(sampled, tmp_path_factory) -> pathlib.Path:
  data_dir = tmp_path_factory.mktemp('tfds')
  flags = ['--config=custom', f'--data_dir={data_dir}', f'--manual_dir={sampled}']
  finished = commands.run(commands.TFDS, 'build', 'tfds_builders/deepsentinel_unlabelled', *flags)
  assert finished.code == 0, finished.err
  return data_dir / 'deepsentinel_unlabelled' / 'custom' / '1.0.0'


@pytest.fixture(scope='module')
def run(prepared, tmp_path_factory) -> pathlib.Path:
  """A run pretrained on those records."""
  workdir = tmp_path_factory.mktemp('runs') / 'run'
  flags = [f for f in broken_inputs.TRAINING if '{made}' not in f]
  flags += ['--config.data.labelled=', f'--config.data.unlabelled={prepared}', f'--workdir={workdir}']
  finished = commands.run('deepsentinel.main', *flags, '--config.pretrain.tile2vec.max_distance_km=7')
  assert finished.code == 0, finished.err
  return workdir


def test_the_manifest_says_which_patches_failed_and_why(sampled):
  table = corpus.Corpus(sampled).manifest().set_index('id')
  assert dict(table['state']) == {p: 'failed' if p.startswith('all') else 'done' for p in PLACES}
  assert table.loc['all_nan', 'reason'] == 'sentinel2: all pixels are nodata'
  assert table.loc['all_nodata', 'reason'] == 'sentinel2: all pixels are nodata'
  assert not (sampled / 'patches' / 'all_nan').exists()


def test_patch_files_hold_nodata_where_the_source_had_none(sampled):
  made = corpus.Corpus(sampled)
  for place in ('clean', 'nan_block', 'nodata_block'):
    block = np.zeros((PATCH_PX, PATCH_PX), bool)
    if place != 'clean':
      block[BLOCK[1:]] = True
    arrays = made.read(place)
    np.testing.assert_array_equal(arrays['s2'] == sensors.S2_NODATA, np.repeat(block[..., None], 12, 2))
    np.testing.assert_array_equal(arrays['s1'] == sensors.S1_NODATA, np.repeat(block[..., None], 2, 2))


def test_statistics_are_those_of_the_valid_pixels(prepared):
  """Against NumPy over the valid numbers of the source's files, which storing rounds to 1e-4 and to 0.01 dB."""
  found = statistics.band_statistics(records.RecordSet(prepared, 'train'), progress=False)
  sound = [pixels(place) for place in PLACES[:4]]
  values = np.concatenate(
    [np.stack([p['S2L2A'] for p in sound], 1), np.stack([p['S1RTC'] for p in sound], 1)]
  )  # [C, place, H, W]
  valid = np.isfinite(values) & (values != -9999)
  rounding = np.array([1e-4] * 12 + [1e-2] * 2)
  np.testing.assert_array_equal(found.count, valid.sum((1, 2, 3)))
  for i, band in enumerate(values):
    assert found.mean[i] == pytest.approx(band[valid[i]].mean(dtype=np.float64), abs=rounding[i])
    assert found.std[i] == pytest.approx(band[valid[i]].std(dtype=np.float64), abs=rounding[i])


@pytest.mark.slow
def test_training_on_them_has_a_finite_loss(run):
  rows = pd.read_csv(run / 'pretrain' / 'metrics.csv')
  loss = rows[rows['name'] == 'loss']['value']
  assert len(loss)
  assert np.isfinite(rows['value']).all()
  assert json.loads((run / 'experiment.json').read_text())['status'] == 'finished'


@pytest.mark.slow
@pytest.mark.parametrize('place', ['nan_block', 'nodata_block'])
def test_the_embedding_has_nodata_where_no_pixel_has_data(run, place, tmp_path):
  flags = [f'--{s}={tmp_path}/{s}_20180615' for s in ('s2', 's1')]
  for s, name in (('s2', 'S2L2A'), ('s1', 'S1RTC')):
    bands = SPEC.s2_bands if s == 's2' else SPEC.s1_bands
    write(tmp_path / f'{s}_20180615' / f'{s}_20180615.tif', pixels(place)[name], bands)
  finished = commands.run(
    'deepsentinel.embed', f'--checkpoint={run}', f'--out={tmp_path}/out', '--noprogress', *flags, '--s1_unit=db',
    '--s2_unit=reflectance', '--s1_quantity=sigma0_ellipsoid',
    '--option=times={"s2_20180615":"2018-06-15","s1_20180615":"2018-06-15"}',
  )  # fmt: skip
  assert finished.code == 0, finished.err
  with rasterio.open(tmp_path / 'out' / 'embedding.tif') as file:
    cells = file.read()
    assert np.isnan(file.nodata)
  expected = np.zeros((4, 4), bool)  # cells of 16 x 16 pixels
  expected[1:3, 0:2] = True
  np.testing.assert_array_equal(np.isnan(cells), np.broadcast_to(expected, cells.shape))


@pytest.mark.parametrize(
  ('change', 'reason', 'mend'),
  [
    ("'s2_unit': 'reflectance_x1e4'", 'reach only 0.4', "State unit='reflectance'"),
    ("'s1_unit': 'power'", 'which is no linear power', "State unit='db'"),
    ("'s1_unit': 'db_x100'", 'dB x 100 is stated', "State unit='db'"),
  ],
  ids=['reflectance as numbers', 'dB as power', 'dB as hundredths'],
)
def test_wrong_units_fail_every_patch_with_the_unit_to_state(stacks, tmp_path, change, reason, mend, request):
  key = change.partition(':')[0]
  text = (stacks / 'config.py').read_text()
  right = {"'s2_unit'": "'s2_unit': 'reflectance'", "'s1_unit'": "'s1_unit': 'db'"}[key]
  (tmp_path / 'config.py').write_text(text.replace(right, change))
  finished = commands.run('deepsentinel.corpus', f'--config={tmp_path}/config.py', f'--out={tmp_path}/out')
  assert 'Not one of 6 patches could be fetched' in finished.error
  assert reason in finished.error
  assert mend in finished.error
  table = corpus.Corpus(tmp_path / 'out').manifest().set_index('id')
  assert set(table['state']) == {'failed'}
  assert reason in table.loc['clean', 'reason']
  name = request.node.callspec.id
  trials.check_row(
    'Pixels', name, f'python -m deepsentinel.corpus, source stacks with {change}',
    trials.plain(finished.error, stacks, tmp_path / 'out'),
  )  # fmt: skip

"""Inputs for trials: tiny sound ones, and copies of them, each broken in one way."""

import json
import pathlib
import shutil
from typing import Any

import numpy as np
import rasterio

from deepsentinel import sensors
from tests import commands, tiny_records

# A run small enough to be trained in seconds.
TRAINING = (
  '--config=configs/quickstart.py', '--noprogress', '--config.data.labelled={made}/labelled',
  '--config.data.unlabelled={made}/unlabelled', '--config.data.crop_px=32', '--config.encoder.name=resnet10',
  '--config.encoder.width=8', '--config.pretrain.batch_size=4', '--config.pretrain.duration.steps=2',
  '--config.finetune.batch_size=4', '--config.finetune.duration.steps=2', '--config.evaluation.batch_size=4',
  '--config.evaluation.random_forest=False', '--config.checkpoint.every_steps=1',
  '--config.pretrain.tile2vec.max_distance_km=10',
)  # fmt: skip


def make(made: pathlib.Path) -> None:
  """Fills `made` with corpora, records, runs and scenes."""
  for kind in ('labelled', 'unlabelled'):
    shutil.copytree(tiny_records.tiny_records(labelled=kind == 'labelled'), made / kind)
  train(made, made / 'run')
  _records(made)
  _few_bands(made)
  _runs(made)
  scene(made / 'S2_colours', ('B2', 'B3', 'B4'), np.full((3, 64, 64), 1500, np.uint16))
  spec = sensors.SensorSpec()
  scene(made / 'S2_whole', spec.s2_bands, np.full((12, 64, 64), 1500, np.uint16))
  scene(made / 'S1_whole', spec.s1_bands, np.full((2, 64, 64), -12, np.float32))
  scene(made / 'S1_elsewhere', spec.s1_bands, np.full((2, 64, 64), -12, np.float32), x=6e5)
  scene(made / 'S2_floating', spec.s2_bands, np.full((12, 64, 64), 1500, np.uint16), crs=None)
  # What the run was trained on, on average, from the last band to the first.
  mean = json.loads((made / 'run' / 'experiment.json').read_text())['statistics']['mean'][:12]
  permuted = np.rint(1e4 * np.array(mean)[::-1, None, None]).astype(np.uint16)
  scene(made / 'S2_permuted', spec.s2_bands, np.broadcast_to(permuted, (12, 64, 64)))
  shutil.copy(made / 'S2_whole' / 'S2_whole.tif', made / 'S2A_MSIL1C_20180615T101031_N0206_R022_T33UUP.tif')
  (made / 'file').write_text('not a folder')
  (made / 'folder').mkdir()
  (made / 'syntax.py').write_text('def get_config(:\n')
  (made / 'typo.py').write_text(
    'from configs import common\n\n\ndef get_config():\n  config = common.get_config()\n  config.encoder.widht\n'
  )


def train(made: pathlib.Path, workdir: pathlib.Path, *arguments: str) -> None:
  flags = [a.format(made=made) for a in TRAINING]
  finished = commands.run('deepsentinel.main', *flags, f'--workdir={workdir}', *arguments)
  assert finished.code == 0, finished.err


def change_json(path: pathlib.Path, **changes: Any) -> None:
  path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _records(made: pathlib.Path) -> None:
  """Prepared records, broken."""
  labelled = made / 'labelled'

  def copy(name: str) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(labelled, made / name))

  shard = next(copy('cut_shard').glob('*-train.tfrecord-*'))
  shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
  next(copy('lost_shard').glob('*-train.tfrecord-*')).unlink()
  (copy('foreign_records') / 'metadata.json').write_text('{}')
  (copy('damaged_records') / 'dataset_info.json').write_text('{"name": "deeps')
  splits = json.loads((labelled / 'dataset_info.json').read_text())['splits']
  change_json(copy('no_test_split') / 'dataset_info.json', splits=[s for s in splits if s['name'] != 'test'])
  card = json.loads((labelled / 'metadata.json').read_text())['card']
  gamma = {**card, 'spec': {**card['spec'], 's1_quantity': 'gamma0_terrain'}}
  change_json(copy('gamma0_records') / 'metadata.json', card=gamma)
  shutil.copytree(made / 'unlabelled', made / 'gamma0_unlabelled')
  change_json(made / 'gamma0_unlabelled' / 'metadata.json', card={**gamma, 'labelled': False})


def _few_bands(made: pathlib.Path) -> None:
  """Records of B2, B3, B4 and VV."""
  spec = sensors.SensorSpec(('B2', 'B3', 'B4', 'VV'))
  corpus = tiny_records.write_corpus(made / 'few_bands_corpus', spec=spec)
  flags = ['--config=custom', f'--data_dir={made}/tfds', f'--manual_dir={corpus}']
  finished = commands.run(commands.TFDS, 'build', 'tfds_builders/deepsentinel_labelled', *flags)
  assert finished.code == 0, finished.err
  (made / 'tfds' / 'deepsentinel_labelled' / 'custom' / '1.0.0').rename(made / 'few_bands')


def _runs(made: pathlib.Path) -> None:
  """Run directories, broken or half finished."""

  def copy(name: str) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(made / 'run', made / name))

  for child in (copy('empty_run') / 'finetune' / 'checkpoints').iterdir():
    shutil.rmtree(child)
  for file in (copy('damaged_run') / 'finetune' / 'checkpoints').rglob('variables/**/*'):
    if file.is_file():
      file.write_bytes(file.read_bytes()[:-40])
  (copy('damaged_journal') / 'experiment.json').write_text('{"name"')
  older = copy('older_run')
  pretrain = json.loads((older / 'config.json').read_text())['pretrain']
  del pretrain['cloud_shadow']
  change_json(older / 'config.json', pretrain=pretrain)
  begun = copy('begun_run')
  change_json(begun / 'experiment.json', status='running', stages={})
  data = json.loads((begun / 'config.json').read_text())['data']
  gamma0 = {'labelled': str(made / 'gamma0_records'), 'unlabelled': str(made / 'gamma0_unlabelled')}
  change_json(begun / 'config.json', data={**data, **gamma0})


def scene(
  folder: pathlib.Path, bands: tuple[str, ...], values: np.ndarray, x: float = 3e5, crs: str | None = 'EPSG:32633'
) -> None:
  """A GeoTIFF scene of values [C, H, W] in UTM zone 33 N, at 10 m, its left edge at `x`."""
  folder.mkdir()
  with rasterio.open(
    folder / f'{folder.name}.tif', 'w', driver='GTiff', height=values.shape[1], width=values.shape[2],
    count=len(values), dtype=values.dtype, crs=crs, transform=rasterio.Affine(10, 0, x, 0, -10, 54e5),
  ) as file:  # fmt: skip
    file.write(values)
    file.descriptions = bands

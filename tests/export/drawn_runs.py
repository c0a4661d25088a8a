"""Runs whose checkpoints hold numbers drawn with NumPy instead of trained ones: real files, made in a second."""

import json
import pathlib

import jax
import numpy as np

from configs import common
from deepsentinel import sensors
from deepsentinel.train import checkpoint, models, state

BANDS = ('B2', 'B3', 'B4', 'B8', 'VV', 'VH')


def write(
  run: pathlib.Path,
  *,
  stage: str = 'finetune',
  encoder: str = 'resnet18',
  width: int = 8,
  target: str = 'corine_level1',
  synthetic: bool = True,
  seed: int = 0,
  subsets: list[list[str]] | None = None,
) -> pathlib.Path:
  """A run of one stage with its checkpoint of step 3, and what a finished experiment says of it."""
  config = common.get_config('small')
  config.encoder.update({'name': encoder, 'width': width})
  config.data.update({'data_dir': '/home/someone/tfds', 'crop_px': 32})
  config.pretrain.objective = 'tile2vec'
  config.finetune.target = target
  config.seed = seed
  config = json.loads(json.dumps(config.to_dict()))
  module = models.build(config, stage)
  shapes = state.variable_shapes(module, models.example_inputs(module, len(BANDS)))
  rng = np.random.default_rng(1 + seed)

  def draw(path, leaf):
    if leaf.ndim == 4:
      return rng.normal(0, (2 / np.prod(leaf.shape[:3])) ** 0.5, leaf.shape).astype(np.float32)
    # No norm scale, running statistic, bias or gate is at its initial value.
    return np.asarray((path[-1].key in ('var', 'scale')) + rng.uniform(-0.3, 0.3, leaf.shape), np.float32)

  variables = jax.tree_util.tree_map_with_path(draw, shapes)
  spec = sensors.SensorSpec(BANDS)
  statistics = {'bands': list(BANDS), 'mean': [0.1, 0.2, 0.2, 0.3, -12.0, -18.0],
                'std': [0.1, 0.1, 0.2, 0.15, 4.0, 5.0], 'count': [9] * 6}  # fmt: skip
  alone = [list(spec.s1_bands), list(spec.s2_bands)]
  about = checkpoint.describe(
    stage=stage, config=config, spec=spec, statistics=statistics, subsets=alone if subsets is None else subsets,
    synthetic=synthetic,
  )  # fmt: skip
  checkpoints = checkpoint.Checkpoints(run / stage / 'checkpoints', about)
  checkpoints.save(
    state.TrainState(np.asarray(3, np.int32), variables['params'], variables['batch_stats'], ()), {'best': None}
  )
  checkpoints.close()
  data = {use: {'directory': '/home/someone/records', 'name': 'tiny', 'patches': 12} for use in ('train', 'test')}
  facts = {
    'name': 'drawn', 'pretrained_objective': 'tile2vec', 'data': data, 'git_commit': 'abc', 'versions': {},
    'stages': {stage: {'steps': 3, 'epochs': 1.0, 'batch_size': 4, 'best': None, 'parameters': {}}},
  }  # fmt: skip
  (run / 'experiment.json').write_text(json.dumps(facts))
  return run

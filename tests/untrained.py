"""Runs and models whose weights are drawn with NumPy instead of trained: real files, made in a second."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from configs import common
from deepsentinel import sensors
from deepsentinel.train import checkpoint, models, state

BANDS = ('B2', 'B3', 'B4', 'B8', 'VV', 'VH')


def draw(shapes: Any, seed: int = 0) -> Any:
  """Variables of these shapes: no norm scale, running statistic, bias or gate has its initial value."""
  rng = np.random.default_rng(seed)

  def leaf_of(path, leaf):
    if leaf.ndim == 4:
      return rng.normal(0, (2 / np.prod(leaf.shape[:3])) ** 0.5, leaf.shape).astype(np.float32)
    return np.asarray((path[-1].key in ('var', 'scale')) + rng.uniform(-0.3, 0.3, leaf.shape), np.float32)

  return jax.tree_util.tree_map_with_path(leaf_of, shapes)


def statistics(bands: Sequence[str]) -> dict[str, Any]:
  """Means and deviations as land has them, about: reflectance and dB."""
  radar = [sensors.BANDS[band].sensor == 'sentinel1' for band in bands]
  return {
    'bands': list(bands), 'mean': [-15.0 if r else 0.2 for r in radar], 'std': [5.0 if r else 0.1 for r in radar],
    'count': [9] * len(bands),
  }  # fmt: skip


def save(
  run: pathlib.Path,
  *,
  stage: str = 'finetune',
  encoder: str = 'resnet10',
  width: int = 8,
  crop_px: int = 32,
  objective: str = 'tile2vec',
  target: str = 'corine_level1',
  bands: str = '',
  spec: sensors.SensorSpec | None = None,
  subsets: list[list[str]] | None = None,
  synthetic: bool = True,
  seed: int = 0,
) -> pathlib.Path:
  """A run of one stage with its checkpoint of step 3, and what a finished experiment says of it.

  Args:
    run: its directory, which is returned.
    spec: its contract; None takes BANDS.
    subsets: bands it was also trained with; None takes each sensor alone.
    bands: config.data.bands.
    stage, encoder, width, crop_px, objective, target, synthetic, seed: of the experiment.
  """
  spec = spec or sensors.SensorSpec(BANDS)
  config = common.get_config('small')
  config.encoder.update({'name': encoder, 'width': width})
  config.data.update({'data_dir': '/home/someone/tfds', 'crop_px': crop_px})
  config.data.bands = bands
  config.pretrain.objective = objective
  config.finetune.target = target
  config.seed = seed
  config = json.loads(json.dumps(config.to_dict()))
  module = models.build(config, stage)
  variables = draw(state.variable_shapes(module, models.example_inputs(module, len(spec.bands))), 1 + seed)
  alone = [list(bands) for bands in (spec.s1_bands, spec.s2_bands) if 0 < len(bands) < len(spec.bands)]
  about = checkpoint.describe(
    stage=stage, config=config, spec=spec, statistics=statistics(spec.bands),
    subsets=alone if subsets is None else subsets, synthetic=synthetic,
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

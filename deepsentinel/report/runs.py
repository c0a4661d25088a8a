"""Run directories, read without trusting them: whatever is missing or broken becomes a sentence, never a crash."""

import dataclasses
import json
import os
import pathlib
from typing import Any

import numpy as np
import pandas as pd

from deepsentinel import legend
from deepsentinel.evaluation import samples

METRIC_COLUMNS = ('step', 'epoch', 'split', 'name', 'value', 'seconds')
STAGES = ('pretrain', 'finetune')
OBJECTIVES = {  # in the order of the paper's Table 9
  'none': 'no pretraining',
  'vae': 'VAE pretraining',
  'tile2vec': 'Tile2Vec pretraining',
  'contrastive': 'contrastive pretraining',
}
ENCODERS = {'resnet10': 'ResNet10', 'resnet18': 'ResNet18', 'resnet34': 'ResNet34', 'resnet18attn': 'ResNet18-Attn'}


@dataclasses.dataclass(frozen=True)
class Run:
  """One run directory.

  Attributes:
    path: the directory, as given.
    config: config.json flattened, 'pretrain.objective' -> 'tile2vec'.
    experiment: experiment.json; {} without one.
    metrics: stage -> metrics.csv in long form (METRIC_COLUMNS), stages without one left out.
    test: test.json, checked; {} where the run has not been tested.
    problem: why there is no test result, as the end of a sentence; '' for a finished run.
    notes: other things that are missing or broken.
    scenes: test.json of a run that labels whole patches, checked; its `test` is then empty.
  """

  path: pathlib.Path
  config: dict[str, Any]
  experiment: dict[str, Any]
  metrics: dict[str, pd.DataFrame]
  test: dict[str, Any]
  problem: str
  notes: tuple[str, ...] = ()
  scenes: dict[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def name(self) -> str:
    return self.path.resolve().name

  @property
  def objective(self) -> str:
    """'none', 'tile2vec', ...; '' where no config says."""
    if self.config.get('pretrain.from_checkpoint'):
      inherited = self.experiment.get('pretrained_objective') or self.config.get('pretrain.objective')
      return inherited if inherited and inherited != 'none' else 'pretrained'
    return str(self.config.get('pretrain.objective', ''))

  @property
  def label(self) -> str:
    """What a reader would call the run: its pretraining, or failing that its directory's name."""
    if self.objective == 'pretrained':
      return f'pretraining from {pathlib.Path(self.config["pretrain.from_checkpoint"]).name}'
    return OBJECTIVES.get(self.objective, f'{self.objective} pretraining' if self.objective else self.name)

  @property
  def encoder(self) -> str:
    name = self.config.get('encoder.name', '')
    width = self.config.get('encoder.width', 64)
    return f'{ENCODERS.get(name, name)}{f", width {width}" if width != 64 else ""}' if name else ''

  @property
  def label_fraction(self) -> float:
    """Share of the labels that fine-tuning was given."""
    return float(self.config.get('finetune.label_fraction', 1.0))

  @property
  def synthetic(self) -> bool | None:
    """None where neither test.json nor experiment.json says."""
    for source in (self.test, self.scenes, self.experiment):
      if 'synthetic' in source:
        return bool(source['synthetic'])
    return None

  @property
  def data(self) -> str:
    """Name of the labelled record set."""
    return str(self.test.get('data') or self.record_set('train').get('name') or self.config.get('data.labelled', ''))

  def record_set(self, use: str) -> dict[str, Any]:
    """What experiment.json says of the records used as 'train', 'validation', 'test' or 'pretrain'; {} if nothing."""
    about = self.experiment.get('data')
    found = about.get(use) if isinstance(about, dict) else None
    return found if isinstance(found, dict) else {}

  def series(self, stage: str, name: str, split: str) -> pd.DataFrame:
    """Rows (step, value, ...) of one metric in order of steps; of a step logged twice (a resumed run), the last."""
    frame = self.metrics.get(stage)
    if frame is None:
      return pd.DataFrame(columns=list(METRIC_COLUMNS))
    rows = frame[(frame['name'] == name) & (frame['split'] == split)]
    return rows.drop_duplicates('step', keep='last').sort_values('step')

  def scene_samples(self) -> dict[str, np.ndarray] | None:
    """scenes.npz, or None where it is missing or broken."""
    try:
      with np.load(self.path / 'scenes.npz') as file:
        return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError):
      return None

  def samples(self) -> dict[str, np.ndarray] | None:
    """samples.npz, or None where it is missing or broken."""
    try:
      return samples.load_samples(self.path / 'samples.npz')
    except (OSError, ValueError, EOFError):
      return None


def flatten(tree: dict[str, Any], prefix: str = '') -> dict[str, Any]:
  """{'a': {'b': 1}} as {'a.b': 1}; an empty branch stays."""
  flat: dict[str, Any] = {}
  for key, value in tree.items():
    name = f'{prefix}{key}'
    flat.update(flatten(value, f'{name}.') if isinstance(value, dict) and value else {name: value})
  return flat


def read_run(path: str | os.PathLike) -> Run:
  """A run directory, finished or not."""
  path = pathlib.Path(path)
  notes: list[str] = []
  if not path.is_dir():
    planned = (path.parent.parent / 'grid.json').exists()
    return Run(path, {}, {}, {}, {}, 'has not begun' if planned else 'there is no such directory')
  config = _read_json(path / 'config.json', notes)
  experiment = _read_json(path / 'experiment.json', notes)
  metrics = {}
  for stage in STAGES:
    frame = _read_metrics(path / stage / 'metrics.csv', notes)
    if frame is not None:
      metrics[stage] = frame
  test = _read_json(path / 'test.json', notes)
  problem, scenes = '', {}
  if test:
    of_scenes = test.get('target') in legend.TARGETS and legend.target(test['target']).is_scene
    wrong = _wrong_scenes(test) if of_scenes else _wrong_test(test)
    if wrong:
      problem, test = f'its test.json {wrong}', {}
    elif of_scenes:
      scenes, test = test, {}
  elif config.get('data', {}).get('labelled') == '' and metrics:
    problem = 'pretrains only, so there is nothing to score'
  elif not (config or experiment or metrics):
    problem = 'the directory holds no run'
  elif folds := experiment.get('cross_validation'):
    scores = ', '.join(f'{name} {folds["mean"][name]:.3f} ± {folds["std"][name]:.3f}' for name in sorted(folds['mean']))
    problem = f'is a cross-validation over {folds["folds"]} folds, so it has no test ({scores})'
  elif experiment.get('stages', {}).get('finetune') and config.get('evaluation', {}).get('test') is False:
    problem = 'was not to be tested (evaluation.test is False)'
  else:
    problem = _how_far(config, metrics)
  return Run(path, flatten(config), experiment, metrics, test, problem, tuple(notes), scenes)


def _read_json(path: pathlib.Path, notes: list[str]) -> dict[str, Any]:
  if not path.exists():
    return {}
  try:
    content = json.loads(path.read_text())
  except (OSError, ValueError) as error:
    notes.append(f'{path.name} cannot be read ({error})')
    return {}
  if not isinstance(content, dict):
    notes.append(f'{path.name} holds no JSON object')
    return {}
  return content


def _read_metrics(path: pathlib.Path, notes: list[str]) -> pd.DataFrame | None:
  if not path.exists():
    return None
  try:
    frame = pd.read_csv(path, on_bad_lines='skip')
  except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
    notes.append(f'{path.parent.name}/{path.name} cannot be read ({error})')
    return None
  missing = [c for c in METRIC_COLUMNS if c not in frame]
  if missing:
    notes.append(f'{path.parent.name}/{path.name} has no column {", ".join(missing)}')
    return None
  # A line cut by a kill has a missing or a broken number: it is dropped, the rest counts.
  for column in ('step', 'value'):
    frame[column] = pd.to_numeric(frame[column], errors='coerce')
  return frame.dropna(subset=['step', 'split', 'name', 'value'])


def _wrong_test(test: dict[str, Any]) -> str:
  """What keeps a test.json from being shown, '' if nothing does."""
  for key in ('target', 'classes', 'methods'):
    if key not in test:
      return f'has no {key!r}'
  if not isinstance(test['methods'], dict) or 'model' not in test['methods']:
    return "holds no scores of the model ('methods.model')"
  classes = len(test['classes'])
  for name, entry in test['methods'].items():
    if np.shape(entry.get('confusion', ())) != (classes, classes):
      return f'has no {classes} x {classes} confusion matrix for {name!r}'
    if len(entry.get('iou', ())) != classes:
      return f'has no IoU of each of the {classes} classes for {name!r}'
    if not {'weighted_iou', 'macro_iou', 'overall_accuracy'} <= set(entry):
      return f'lacks a score of {name!r}'
  return ''


def _wrong_scenes(test: dict[str, Any]) -> str:
  """As `_wrong_test`, of a run that labels whole patches."""
  methods = test.get('methods')
  if not isinstance(methods, dict) or 'model' not in methods:
    return "holds no scores of the model ('methods.model')"
  needed = ('precision', 'recall', 'roc_auc', 'average_precision', 'positives', 'background', 'prevalence')
  for name, entry in methods.items():
    if missing := [key for key in needed if key not in entry]:
      return f'lacks {", ".join(missing)} of {name!r}'
  return ''


def _how_far(config: dict, metrics: dict[str, pd.DataFrame]) -> str:
  """'did not finish (...)', from whatever was logged last."""
  for stage in reversed(STAGES):
    frame = metrics.get(stage)
    if frame is not None and len(frame):
      planned = config.get(stage, {}).get('duration', {}).get('steps', 0)
      of = f' of {planned}' if planned else ''
      return f'did not finish (last heard of in {stage} at step {int(frame["step"].max())}{of})'
  return 'did not finish (it logged no step)'

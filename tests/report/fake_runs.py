"""Plausible run directories, made of arithmetic: for the report's tests, and to look at its design."""

import csv
import json
import pathlib

import numpy as np
from scipy import ndimage

from deepsentinel import legend, sensors
from deepsentinel.evaluation import metrics, samples

_REFLECTANCE = np.array([[1500, 1400, 1300], [900, 1000, 700], [350, 550, 320], [600, 700, 550], [250, 400, 450]])
_BACKSCATTER = np.array([[-400, -1000], [-1050, -1750], [-850, -1400], [-1250, -2050], [-2000, -2800]])


def confusion(rng: np.random.Generator, reference: np.ndarray, skill: float) -> np.ndarray:
  """int [K, K]: rows sum to `reference`; a share `skill` of each row is right, the rest falls on frequent classes."""
  share = reference / reference.sum()
  matrix = np.zeros((len(reference),) * 2, np.int64)
  for k, n in enumerate(reference):
    hit = skill * min(1, 3 * share[k]) * rng.uniform(0.9, 1.0)
    probabilities = (1 - hit) * share
    probabilities[k] += hit
    matrix[k] = rng.multinomial(n, probabilities / probabilities.sum())
  return matrix


def label_maps(rng: np.random.Generator, count: int, px: int, classes: int) -> np.ndarray:
  noise = ndimage.gaussian_filter(rng.normal(size=(count, classes, px, px)), (0, 0, px / 9, px / 9))
  return (noise - 0.004 * np.arange(classes)[None, :, None, None]).argmax(1)


def write_run(
  path: pathlib.Path,
  *,
  objective: str = 'tile2vec',
  skill: float = 0.7,
  seed: int = 0,
  level: int = 1,
  synthetic: bool = True,
  forest: float | None = 0.55,
  steps: int = 150,
  samples_px: int = 64,
  config: dict | None = None,
) -> pathlib.Path:
  """Writes a finished run and returns its path."""
  rng = np.random.default_rng([seed, len(objective)])
  path.mkdir(parents=True)
  settings = {
    'name': 'quickstart',
    'seed': seed,
    'data': {'labelled': 'deepsentinel_labelled/demo', 'unlabelled': 'deepsentinel_unlabelled/demo', 'data_dir': ''},
    'encoder': {'name': 'resnet18attn', 'width': 16},
    'pretrain': {'objective': objective, 'batch_size': 16, 'duration': {'steps': steps}, 'from_checkpoint': ''},
    'finetune': {'learning_rate': 5e-4, 'batch_size': 16, 'duration': {'steps': steps}},
  }
  for section, values in (config or {}).items():
    settings[section] = {**settings.get(section, {}), **values} if isinstance(values, dict) else values
  (path / 'config.json').write_text(json.dumps(settings))
  stages = {'finetune': {'steps': steps, 'seconds': 212.4}}
  if objective != 'none':
    realised = {'mean_km': 9.42, 'same_acquisition': 0.81, 'without_neighbour': 0.0, 'mean_neighbours': 31.5}
    stages['pretrain'] = {'steps': steps, 'seconds': 180.2, 'excluded_patches': 22, 'neighbours': realised}
  experiment = {
    'name': 'quickstart',
    'status': 'finished',
    'synthetic': synthetic,
    'data': {},
    'spec': sensors.SensorSpec().to_dict(),
    'parameters': {'encoder': 728_369, 'header': 142_519},
    'git_commit': '0123abc',
    'versions': {'deepsentinel': '0.1.0', 'jax': '0.10.0', 'flax': '0.12.0'},
    'stages': stages,
  }
  (path / 'experiment.json').write_text(json.dumps(experiment))
  for stage in ('pretrain', 'finetune') if objective != 'none' else ('finetune',):
    _write_metrics(path / stage / 'metrics.csv', rng, steps, 0.1 if stage == 'pretrain' else 1.6)

  classes = legend.level_classes(level)
  share = np.array([0.09, 0.46, 0.33, 0.0, 0.12]) if level == 1 else 0.85 ** np.arange(len(classes))
  reference = np.round(share / share.sum() * 50 * 256 * 256).astype(int)
  fixed = np.random.default_rng(99)  # the same test split for every run
  train = fixed.multinomial(10**7, share / share.sum())
  majority = np.zeros((len(classes),) * 2, int)
  majority[:, train.argmax()] = reference
  methods = {'model': metrics.method(confusion(rng, reference, skill)), 'majority': metrics.method(majority)}
  if forest is not None:
    methods['random_forest'] = metrics.method(confusion(fixed, reference, forest))
  test = {
    'target': f'corine_level{level}',
    'classes': list(classes),
    'methods': methods,
    'test_patches': 50,
    'synthetic': synthetic,
    'data': 'deepsentinel_labelled/demo' if synthetic else 'bigearthnet_v2',
    'nodata_share': 0.0213,
  }
  (path / 'test.json').write_text(json.dumps(test, allow_nan=False))
  _write_samples(path / 'samples.npz', rng, samples_px, skill, min(5, len(classes)))
  return path


def _write_metrics(path: pathlib.Path, rng: np.random.Generator, steps: int, start: float) -> None:
  path.parent.mkdir(parents=True)
  with path.open('w', newline='') as file:
    rows = csv.writer(file)
    rows.writerow(['step', 'epoch', 'split', 'name', 'value', 'seconds'])
    for step in range(5, steps + 1, 5):
      loss = start * (0.35 + 0.65 * np.exp(-step / 60)) * rng.normal(1, 0.07)
      rows.writerow([step, step / 12, 'train', 'loss', loss, step * 1.3])
      rows.writerow([step, step / 12, 'train', 'patches_per_s', rng.normal(12.3, 0.5), step * 1.3])
      if step % 25 == 0:
        rows.writerow([step, step / 12, 'validation', 'loss', loss * 1.1, step * 1.3])
        rows.writerow([step, step / 12, 'validation', 'weighted_iou', 0.5 - 0.3 * np.exp(-step / 50), step * 1.3])


def _write_samples(path: pathlib.Path, rng: np.random.Generator, px: int, skill: float, classes: int) -> None:
  fixed = np.random.default_rng(7)
  label = label_maps(fixed, 4, px, classes)
  s2 = _REFLECTANCE[label] * fixed.normal(1, 0.08, (*label.shape, 1)) + fixed.normal(0, 25, (*label.shape, 3))
  s2[1] += 3500 * np.clip(ndimage.gaussian_filter(fixed.normal(size=(px, px)), px / 8) * px / 6, 0, 1)[..., None]
  s1 = _BACKSCATTER[label] + fixed.normal(0, 130, (*label.shape, 2))
  wrong = ndimage.gaussian_filter(rng.normal(size=label.shape), (0, px / 20, px / 20))
  prediction = np.where(wrong > np.quantile(wrong, skill), np.roll(label, px // 3, 2), label)
  label[:, : px // 16] = -1
  samples.save_samples(
    path,
    s2=np.clip(s2, 1, 65535).astype(np.uint16),
    s1=s1.astype(np.int16),
    label=label,
    prediction=prediction,
    id=[f'demo_{i:05d}' for i in range(len(label))],
  )

"""Plausible run directories, made of arithmetic: for the report's tests, and to look at its design."""

import csv
import itertools
import json
import pathlib
import shutil
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from deepsentinel import legend, sensors
from deepsentinel.evaluation import metrics, samples

_REFLECTANCE = np.array([[1500, 1400, 1300], [900, 1000, 700], [350, 550, 320], [600, 700, 550], [250, 400, 450]])
BLOCK = 5  # patches a block
_BACKSCATTER = np.array([[-400, -1000], [-1050, -1750], [-850, -1400], [-1250, -2050], [-2000, -2800]])


def confusion(rng: np.random.Generator, reference: np.ndarray, skill: float) -> np.ndarray:
  """int [N, K, K] of patches: rows sum to `reference` [N, K]; a share of each row is right, the rest as is frequent.

  That share is `skill` on average, the same classes and blocks of five patches being harder for every run.
  """
  share = reference.sum(0) / reference.sum()
  matrix = np.zeros((*reference.shape, reference.shape[1]), np.int64)
  eases = np.random.default_rng(3).uniform(0.8, 1.2, -(-len(reference) // BLOCK))
  for k in range(len(share)):
    hit = np.clip(skill * min(1, 3 * share[k]) * rng.uniform(0.95, 1.0) * eases.repeat(BLOCK), 0, 0.99)[
      : len(reference)
    ]
    probabilities = (1 - hit[:, None]) * share
    probabilities[:, k] += hit
    matrix[:, k] = rng.multinomial(reference[:, k], probabilities / probabilities.sum(1, keepdims=True))
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
  patches: int = 50,
  config: dict | None = None,
) -> pathlib.Path:
  """Writes a finished run and returns its path."""
  rng = np.random.default_rng([seed, len(objective), len(str(config)), round(1000 * skill)])
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
  fixed = np.random.default_rng(99)  # the same test split for every run
  mix = fixed.dirichlet(np.full(patches, 0.7), len(classes))
  whole = np.round(share / share.sum() * patches * 256 * 256).astype(int)
  reference = fixed.multinomial(whole, mix).T  # [N, K]
  train = fixed.multinomial(10**7, share / share.sum())
  majority = np.zeros((len(classes),) * 2, int)
  majority[:, train.argmax()] = whole
  per_patch = confusion(rng, reference, skill)
  np.savez_compressed(
    path / 'test_patches.npz', id=[f'demo_{i:05d}' for i in range(patches)], confusion=per_patch,
    block=np.arange(patches) // BLOCK,
  )  # fmt: skip
  methods = {'model': metrics.method(per_patch.sum(0)), 'majority': metrics.method(majority)}
  if forest is not None:
    methods['random_forest'] = metrics.method(confusion(fixed, reference, forest).sum(0))
  test = {
    'target': f'corine_level{level}',
    'classes': list(classes),
    'methods': methods,
    'test_patches': patches,
    'synthetic': synthetic,
    'data': 'deepsentinel_labelled/demo' if synthetic else 'bigearthnet_v2',
    'nodata_share': 0.0213,
  }
  (path / 'test.json').write_text(json.dumps(test, allow_nan=False))
  _write_samples(path / 'samples.npz', rng, samples_px, skill, min(5, len(classes)))
  return path


def write_grid(
  out: pathlib.Path,
  *,
  objectives: Sequence[str] = ('none', 'vae', 'tile2vec', 'contrastive'),
  encoders: Sequence[str] = ('resnet18', 'resnet34', 'resnet18attn'),
  seeds: Sequence[int] = (0, 1, 2),
  fractions: Sequence[float] = (1.0, 0.25, 0.05),
  samples_px: int = 32,
) -> pathlib.Path:
  """Writes a grid of finished runs, OUT/grid.json and OUT/runs/NAME; the fewer labels, the more pretraining does."""
  plan = []
  for objective, encoder, seed, fraction in itertools.product(objectives, encoders, seeds, fractions):
    rng = np.random.default_rng([seed, len(objective), len(encoder), round(100 * fraction)])
    gain = {'none': 0, 'vae': 0.03, 'tile2vec': 0.09, 'contrastive': -0.03}[objective] * (1.3 - fraction)
    skill = 0.62 + 0.06 * np.log10(fraction) + {'resnet34': 0.03, 'resnet18attn': 0.05}.get(encoder, 0) + gain
    name = f'{objective}_{encoder}_seed{seed}_fraction{fraction!r}'
    first = f'{out}/runs/{objective}_{encoder}_seed{seed}_fraction{max(fractions)!r}'
    inherits = objective != 'none' and fraction != max(fractions)
    config = {
      'encoder': {'name': encoder},
      'pretrain': {'from_checkpoint': first if inherits else ''},
      'finetune': {'label_fraction': fraction},
    }
    write_run(
      out / 'runs' / name, objective=objective, skill=skill + rng.normal(0, 0.006), seed=seed, config=config,
      patches=100, samples_px=samples_px, forest=0.55 + 0.05 * np.log10(fraction),
    )  # fmt: skip
    if inherits:
      shutil.rmtree(out / 'runs' / name / 'pretrain')
    command = ['python', '-m', 'deepsentinel.main', f'--config=configs/{objective}_{encoder}.py:small']
    command += [
      f'--workdir={out}/runs/{name}',
      f'--config.seed={seed}',
      f'--config.finetune.label_fraction={fraction!r}',
    ]
    command += [f'--config.pretrain.from_checkpoint={first}'] if inherits else []
    plan.append(
      {'name': name, 'workdir': f'{out}/runs/{name}', 'command': [*command, '--noprogress'], 'depends_on': ''}
    )
  (out / 'grid.json').write_text(json.dumps(plan))
  return out


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
        rows.writerow(
          [
            step,
            step / 12,
            'validation',
            'weighted_iou',
            start * (rng.normal(0.3, 0.01) - 0.2 * np.exp(-step / 50)),
            step * 1.3,
          ]
        )


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

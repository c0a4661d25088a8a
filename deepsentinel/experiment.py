"""One experiment: pretrain, fine-tune, test, report; in one directory, resumable at any point.

WORKDIR/config.json                          the configuration
WORKDIR/experiment.json                      what was done, on which data, by which code
WORKDIR/{pretrain,finetune}/                 metrics.csv, tensorboard/, checkpoints/
WORKDIR/fold_K/finetune/                     the same of each fold of a cross-validation, which is not tested
WORKDIR/test.json, test_patches.npz          scores on the test split, and the confusion matrix of every patch
WORKDIR/samples.npz, report.html             predictions to look at, and the page
WORKDIR/scenes.npz                           in place of samples.npz where a patch has one label as a whole
"""

import contextlib
import json
import pathlib
import time
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import logging

from deepsentinel import curriculum, provenance
from deepsentinel.corpus import splits
from deepsentinel.data import batches, records
from deepsentinel.evaluation import baselines, intervals, metrics, samples, scenes
from deepsentinel.report import html
from deepsentinel.train import checkpoint, inputs, loop, parallel, settings
from deepsentinel.train.journal import Journal
from deepsentinel.train.trained import Trained

TEST = 'test.json'


def run(
  config: ml_collections.ConfigDict,
  workdir: str | pathlib.Path,
  *,
  progress_bar: bool = True,
  profile: bool = False,
) -> pathlib.Path:
  """Runs an experiment to its end, from wherever an earlier call stopped.

  Args:
    config: see configs/common.py.
    workdir: the experiment's directory; made if it is not there.
    progress_bar: show progress.
    profile: write a trace of a few steps of each stage.
  Returns:
    path of report.html.
  Raises:
    ValueError: a wrong configuration, a directory of another experiment, no prepared records (names the commands that
      make them), records that do not fit, a loss that is not finite.
  """
  plain = json.loads(json.dumps(config.to_dict()))
  settings.check(plain)
  plain = settings.with_legend(plain)
  workdir = pathlib.Path(workdir).expanduser()
  with contextlib.closing(Journal(workdir, plain)) as journal:
    return _run(plain, workdir, journal, progress_bar, profile)


def _run(
  plain: dict[str, Any], workdir: pathlib.Path, journal: Journal, progress_bar: bool, profile: bool
) -> pathlib.Path:
  report = workdir / 'report.html'
  ended = {name: stage for name, stage in journal['stages'].items() if stage['status'] == 'finished'}
  whole = all(_is_whole(workdir / name, stage) for name, stage in ended.items())
  if journal['status'] == 'finished' and report.exists() and whole:
    _say(f'{workdir} is finished: {report}')
    return report
  pretrains = plain['pretrain']['objective'] != 'none' and not plain['pretrain']['from_checkpoint']
  for name in ('finetune', 'evaluation', *(['pretrain'] if pretrains else [])):
    parts = plain[name].get('accumulate', 1)
    parallel.check_batch_size(plain[name]['batch_size'], key=f'{name}.batch_size', parts=parts)
  data = curriculum.open_data(plain, progress_bar and parallel.is_chief())
  facts = _facts(plain, data)
  journal.require_same_data(facts)
  journal.update(facts)
  if data.unlabelled is not None:
    stage, realised = curriculum.pretraining(plain, data, workdir)
    journal.update({'neighbours': realised} if realised else {})
    _train(stage, journal, progress_bar, profile)
  changed = False
  for fold in range(len(data.folds)):
    changed |= _train(curriculum.finetuning(plain, data, workdir, fold), journal, progress_bar, profile)
  if len(data.folds) > 1:
    journal.update({'cross_validation': cross_validation(journal['stages'])})
  elif data.labelled and plain['evaluation']['test'] and (changed or not (workdir / TEST).exists()):
    score = score_test_scenes if curriculum.target_of(plain).is_scene else score_test_split
    score(plain, data, workdir, progress_bar=progress_bar)
  if parallel.is_chief():
    html.write_report([workdir], report)
  journal.update({'status': 'finished'})
  _say(f'Finished: {report}')
  return report


def _say(text: str) -> None:
  if parallel.is_chief():
    print(text, flush=True)


def _facts(config: dict[str, Any], data: curriculum.Data) -> dict[str, Any]:
  """What experiment.json says before the first step."""
  about: dict[str, Any] = {
    split: {'directory': str(r.directory), 'name': r.card['name'], 'patches': len(r), 'sha256': r.fingerprint}
    for split, r in data.labelled.items()
  }
  if len(data.folds) == 1:
    for split, used in (('train', data.folds[0].train_index), ('validation', data.folds[0].validation_index)):
      about[split]['used'] = len(used)
  if data.unlabelled is not None:
    about['pretrain'] = {
      'directory': str(data.unlabelled.directory), 'name': data.unlabelled.card['name'], 'patches': len(data.index),
      'sha256': data.unlabelled.fingerprint,
      'excluded_near_heldout': data.excluded, 'exclude_km': config['pretrain']['exclude_km'],
    }  # fmt: skip
  source = data.source
  return {
    'status': 'running',
    'synthetic': data.synthetic,
    'data': about,
    'spec': data.spec.to_dict(),
    'shown_bands': list(data.shown),
    'statistics': data.statistics.to_dict(),
    'encoder': dict(config['encoder']),
    'pretrained_objective': (source.config if source else config)['pretrain']['objective'],
    'pretrained_from': {'sha256': source.sha256, 'step': source.step} if source else None,
    'git_commit': provenance.git_commit(),
    'versions': provenance.versions(),
    'devices': parallel.describe_devices(),
  }


def _train(stage: loop.Stage, journal: Journal, progress_bar: bool, profile: bool) -> bool:
  """Trains a stage unless it is finished and its model still there, and notes how it ended.

  Returns:
    whether it was finished before with another model, of which the test scores then are: they are removed.
  """
  before = journal['stages'].get(stage.name, {})
  if before.get('status') == 'finished' and _is_whole(stage.directory, before):
    return False
  outcome = loop.train(stage, progress_bar=progress_bar, profile=profile)
  trained = checkpoint.load_trained(stage.directory)
  parameters = {group: int(sum(np.size(leaf) for leaf in jax.tree.leaves(tree)))
                for group, tree in trained.variables['params'].items()}  # fmt: skip
  changed = before.get('sha256', trained.sha256) != trained.sha256
  if changed and parallel.is_chief():
    (journal.path.parent / TEST).unlink(missing_ok=True)
  journal.finish_stage(
    stage.name,
    {'steps': outcome.steps, 'epochs': stage.epoch(outcome.steps), 'best': outcome.best, 'seconds': outcome.seconds,
     'stopped_early': outcome.stopped_early, 'parameters': parameters, 'sha256': trained.sha256,
     'batch_size': stage.batch_size, 'resident': outcome.resident_bytes > 0, 'resident_bytes': outcome.resident_bytes},
  )  # fmt: skip
  journal.update({'parameters': parameters})
  return changed


def cross_validation(stages: dict[str, Any]) -> dict[str, Any]:
  """Mean and standard deviation over the folds of the best validation scores."""
  best = [about['best'] for name, about in stages.items() if name.startswith('fold_')]
  # A score that a fold has not (precision where nothing is called positive) has no mean.
  common = [key for key in best[0] if key not in ('step', 'epoch') and all(key in fold for fold in best)]
  scores = {key: [fold[key] for fold in best] for key in common}
  return {
    'folds': len(best),
    'mean': {key: float(np.mean(values)) for key, values in scores.items()},
    'std': {key: float(np.std(values, ddof=1)) for key, values in scores.items()},
  }


def _is_whole(stage_directory: pathlib.Path, about: dict[str, Any]) -> bool:
  """Whether the model of a finished stage is there, and no other; says so if not."""
  try:
    found = checkpoint.load_trained(stage_directory).sha256
    if found == about.get('sha256', found):
      return True
    error: str | ValueError = f'{stage_directory} holds an earlier model than the one it ended with.'
  except ValueError as refused:
    error = refused
  logging.warning('%s The %s stage is trained on from what is left.', error, stage_directory.name)
  return False


def score_test_split(
  config: dict[str, Any], data: curriculum.Data, workdir: pathlib.Path, *, progress_bar: bool = True
) -> None:
  """Scores the best fine-tuned checkpoint on the test split, once, beside the baselines: test.json, samples.npz."""
  began = time.monotonic()
  trained = checkpoint.load_trained(workdir, 'finetune')
  split, target = data.labelled['test'], curriculum.target_of(config)
  show = progress_bar and parallel.is_chief()
  evaluate = loop.evaluator(
    trained.module, curriculum.prepare_inputs(config, data, split.spec, 'finetune'), classes=len(trained.classes)
  )
  means, confusions = evaluate(
    parallel.replicate(trained.variables), curriculum.one_pass(config, split), 'test' if show else None
  )
  if not parallel.is_chief():
    return
  seconds = round(time.monotonic() - began, 2)
  # Crops are in the order of patches: [N * crops, K, K] -> [N, K, K]
  crops = batches.crops_per_patch(split.patch_px, config['data']['crop_px'])
  per_patch = confusions[: len(split) * crops].reshape(len(split), crops, *confusions.shape[1:]).sum(1)
  confusion = per_patch.sum(0)
  lon, lat = split.table['lon_deg'].to_numpy(), split.table['lat_deg'].to_numpy()
  block = splits.block_numbers(lon, lat, intervals.BLOCK_KM)
  provenance.write_npz(
    workdir / 'test_patches.npz', {'id': split.table['id'].to_numpy(str), 'confusion': per_patch, 'block': block}
  )
  methods = {
    'model': metrics.method(confusion, seconds=seconds, loss=means['loss'], step=trained.step),
    **baselines.evaluate(
      data.labelled['train'], split, target=target, forest=config['evaluation']['random_forest'],
      bands=data.held(split.spec),
      seed=config['seed'], progress=show, train_index=data.folds[0].train_index,
    ),
  }  # fmt: skip
  numbers = samples.choose(config['evaluation']['sample_patches'], len(split))
  if len(numbers):
    _save_samples(config, data, trained, split, numbers, workdir / 'samples.npz')
  total = len(split) * split.patch_px**2
  provenance.write_json(
    workdir / TEST,
    {'target': target.name, 'classes': list(trained.classes), 'methods': methods, 'test_patches': len(split),
     'also_trained_on': len(set(split.table['id']) & set(data.labelled['train'].table['id'])),
     'synthetic': data.synthetic, 'data': split.card['name'], 'nodata_share': float(1 - confusion.sum() / total)},
  )  # fmt: skip


def score_test_scenes(
  config: dict[str, Any], data: curriculum.Data, workdir: pathlib.Path, *, progress_bar: bool = True
) -> None:
  """As `score_test_split`, for a target of one label a patch: test.json, test_patches.npz, scenes.npz."""
  began = time.monotonic()
  trained = checkpoint.load_trained(workdir, 'finetune')  # which all processes do together
  if not parallel.is_chief():
    return
  split, target = data.labelled['test'], curriculum.target_of(config)
  label = target.lookup[split.table[target.field]]
  prepare = curriculum.prepare_inputs(config, data, split.spec, 'finetune')
  probability = scenes.probabilities(
    trained, split, prepare, config['data']['crop_px'], config['evaluation']['batch_size'], progress=progress_bar
  )
  seconds = round(time.monotonic() - began, 2)
  train, used = data.labelled['train'], data.folds[0].train_index
  guesses = scenes.band_statistics(
    train, used, target.lookup[train.table[target.field][used]], split, data.held(split.spec),
    config['data']['crop_px'], seed=config['seed'],
  )  # fmt: skip
  lon, lat = split.table['lon_deg'].to_numpy(), split.table['lat_deg'].to_numpy()
  block = splits.block_numbers(lon, lat, intervals.BLOCK_KM)
  provenance.write_npz(
    workdir / 'test_patches.npz',
    {'id': split.table['id'].to_numpy(str), 'label': label, 'probability': probability, 'block': block},
  )
  scenes.save_samples(
    workdir / 'scenes.npz', split, scenes.choose(label, probability, config['evaluation']['sample_patches']), label,
    probability,
  )  # fmt: skip
  provenance.write_json(
    workdir / TEST,
    {'target': target.name, 'classes': list(target.classes), 'test_patches': int((label >= 0).sum()),
     'methods': {
       'model': {**scenes.scores(label, probability), 'seconds': seconds, 'step': trained.step},
       'band_statistics': scenes.scores(label, guesses),
     },
     'bands': list(data.held(split.spec)), 'synthetic': data.synthetic, 'data': split.card['name'],
     'also_trained_on': len(set(split.table['id']) & set(train.table['id']))},
  )  # fmt: skip


def _save_samples(
  config, data: curriculum.Data, trained: Trained, split: records.RecordSet, numbers, path: pathlib.Path
) -> None:
  """Predictions of whole patches, put together from the same crops that are scored."""
  prepare = curriculum.prepare_inputs(config, data, split.spec, 'finetune')
  crop_px, position = config['data']['crop_px'], {int(n): i for i, n in enumerate(numbers)}
  prediction = np.zeros((len(numbers), split.patch_px, split.patch_px), np.int16)
  size = min(config['evaluation']['batch_size'], 8)
  for batch in batches.evaluation_batches(split, batch_size=size, crop_px=crop_px, index=numbers):
    ready = inputs.as_stored(prepare, {field: batch[field] for field in ('s2', 's1') if field in batch})
    crops = np.asarray(trained.predict(ready['images'][:, 0], ready['present'][:, 0]))
    for i in np.flatnonzero(batch['mask']):
      number, row, col = (int(batch[key][i, 0]) for key in ('index', 'row', 'col'))
      place = prediction[position[number], row : row + crop_px, col : col + crop_px]
      place[batch['count'][i]] = crops[i][batch['count'][i]]
  target = curriculum.target_of(config)
  label = target.lookup[split.read(target.field, numbers)]
  pixels = {field: split.read(field, numbers) if field in split.fields else None for field in ('s2', 's1')}
  s2, s1 = samples.picture_bands(split.spec, pixels['s2'], pixels['s1'])
  samples.save_samples(
    path, s2=s2, s1=s1, label=label, prediction=prediction, id=[str(i) for i in split.table['id'].iloc[numbers]]
  )

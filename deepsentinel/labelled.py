"""The labelled records of an experiment: all splits, checked, and the patches of them that fine-tuning uses."""

import dataclasses
from typing import Any

import numpy as np

from deepsentinel import legend
from deepsentinel.corpus import splits
from deepsentinel.data import records, stores
from deepsentinel.data import subsets as subsets_lib
from deepsentinel.evaluation import baselines, intervals

SPLITS = ('train', 'validation', 'test')


@dataclasses.dataclass(frozen=True)
class Fold:
  """Labelled patches that one stage of fine-tuning uses.

  Attributes:
    train, validation: record sets.
    train_index, validation_index: record numbers in them.
  """

  train: records.RecordSet | subsets_lib.Joined
  validation: records.RecordSet | subsets_lib.Joined
  train_index: np.ndarray
  validation_index: np.ndarray


def open_splits(directory: stores.Folder, threads: int, target: legend.Target) -> dict[str, records.RecordSet]:
  """Every split of config.data.labelled; ValueError where labels or a split are not there."""
  there = records.splits(directory)
  if there and not target.is_scene and not records.RecordSet(directory, there[0]).labelled:
    raise ValueError(
      f'config.data.labelled names {directory}, whose records hold no labels. Name records that `tfds build '
      'tfds_builders/deepsentinel_labelled` made, or leave it empty (--config.data.labelled=) to pretrain only.'
    )
  absent = [split for split in SPLITS if split not in there]
  if absent:
    raise ValueError(
      f'{directory} has no patch in split {", ".join(absent)} (splits: {", ".join(there) or "none"}). Sample more '
      'patches, or in smaller blocks (--config.split.block_km of `python -m deepsentinel.corpus`), and run '
      '`tfds build` with --overwrite.'
    )
  found = {split: records.RecordSet(directory, split, threads) for split in SPLITS}
  if not target.is_scene and not baselines.has_labels(found['train'], target):
    raise ValueError(
      f'No train patch of {directory} has a label of config.finetune.target={target.name!r}. Choose a target that the '
      f'corpus was labelled for, one of {", ".join(legend.TARGETS)}.'
    )
  for split, own in found.items() if target.is_scene else ():
    if len(set(own.table[target.field]) - {0}) < 2:
      raise ValueError(
        f'config.finetune.target={target.name!r} needs patches of {" and of ".join(target.classes)}; split {split} of '
        f'{directory} lacks one of them. Name records that `tfds build tfds_builders/deepsentinel_mines` made, of more '
        'patches or of smaller blocks (--config.split.block_km of `python -m deepsentinel.corpus`).'
      )
  return found


def folds(config: dict[str, Any], labelled: dict[str, records.RecordSet], progress: bool = True) -> tuple[Fold, ...]:
  """What fine-tuning trains and validates on: the two splits, or folds of both; or the label fraction of either."""
  own, seed = config['finetune'], config['seed']
  chosen = {split: _share(own, labelled[split], seed, progress) for split in SPLITS[:2]}
  if not own['folds']:
    return (Fold(labelled['train'], labelled['validation'], chosen['train'], chosen['validation']),)
  joined = subsets_lib.Joined([labelled['train'], labelled['validation']])
  used = np.concatenate([chosen['train'], len(labelled['train']) + chosen['validation']])
  table = joined.table.iloc[used]
  block = splits.block_numbers(table['lon_deg'].to_numpy(), table['lat_deg'].to_numpy(), intervals.BLOCK_KM)
  blocks = len(np.unique(block))
  if blocks < own['folds']:
    fewer = f'Pass --config.finetune.folds={blocks} or less, or use' if blocks > 1 else 'Use'
    raise ValueError(
      f'config.finetune.folds={own["folds"]}, but the train and validation patches lie in {blocks} blocks of '
      f'{intervals.BLOCK_KM:g} km. {fewer} a corpus that covers more ground.'
    )
  fold_of = splits.assign(block, {str(k): 1 / own['folds'] for k in range(own['folds'])}, seed).astype(int)
  parts = subsets_lib.spatial_folds(table, fold_of, config['pretrain']['exclude_km'])
  return tuple(Fold(joined, joined, used[fold.train], used[fold.validation]) for fold in parts)


def _share(own: dict[str, Any], split: records.RecordSet, seed: int, progress: bool) -> np.ndarray:
  """Record numbers of a split that `finetune.label_fraction` leaves; nested and stratified by the main class."""
  if own['label_fraction'] == 1:
    return np.arange(len(split))
  target = legend.target_of(own)
  if target.is_scene:
    dominant = target.lookup[split.table[target.field]]
  else:
    counts = baselines.patch_class_counts(split, target, progress=progress)
    dominant = np.where(counts.any(1), counts.argmax(1), -1)
  chosen = subsets_lib.first_share(subsets_lib.nested_order(dominant, seed), own['label_fraction'])
  classes = set(dominant[chosen].tolist()) - {-1}
  if len(classes) < (2 if target.is_scene and split.split == 'train' else 1):
    raise ValueError(
      f'config.finetune.label_fraction={own["label_fraction"]:g} leaves {len(chosen)} {split.split} patches, '
      f'{"all of one class" if classes else "none of them labelled"}. Pass a larger one, or another --config.seed.'
    )
  return chosen

"""The curriculum of an experiment: which records, which bands, and the two stages of training."""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from deepsentinel import legend, sensors
from deepsentinel.data import batches, neighbours, records, statistics
from deepsentinel.evaluation import metrics
from deepsentinel.train import checkpoint, inputs, loop, models, optimizers, parallel, rngs, settings, state
from deepsentinel.train.trained import Trained

SPLITS = ('train', 'validation', 'test')


@dataclasses.dataclass(frozen=True)
class Data:
  """The records of an experiment, and how its model sees them.

  Attributes:
    unlabelled: what pretraining reads; None without pretraining here.
    index: record numbers of `unlabelled` to pretrain on (the held-out ones left out); empty without it.
    excluded: how many were left out.
    labelled: split -> records; empty if nothing is fine-tuned.
    spec: the model's sensor contract.
    subsets: band subsets that a pretrained encoder taken from elsewhere was trained for.
    statistics: of the model's bands.
    source: the pretrained encoder taken from elsewhere, or None.
  """

  unlabelled: records.RecordSet | None
  index: np.ndarray
  excluded: int
  labelled: dict[str, records.RecordSet]
  spec: sensors.SensorSpec
  subsets: list[list[str]]
  statistics: statistics.BandStatistics
  source: Trained | None

  @property
  def synthetic(self) -> bool:
    sets = [*self.labelled.values(), *([self.unlabelled] if self.unlabelled else [])]
    return any(s.synthetic for s in sets) or bool(self.source and self.source.synthetic)


def open_data(config: dict[str, Any], progress: bool = True) -> Data:
  """Opens the records, decides the bands, and computes or takes over the statistics."""
  where = config['data']
  labelled: dict[str, records.RecordSet] = {}
  if where['labelled']:
    labelled = _open_labelled(records.resolve(where['labelled'], where['data_dir']), where['read_threads'])
  source = unlabelled = None
  index, excluded = np.zeros(0, np.int64), 0
  if config['pretrain']['from_checkpoint']:
    source = checkpoint.load_trained(config['pretrain']['from_checkpoint'], 'pretrain')
  elif config['pretrain']['objective'] != 'none':
    directory = records.resolve(where['unlabelled'], where['data_dir'])
    unlabelled = records.RecordSet(directory, 'train', where['read_threads'])
    index, excluded = _pretraining_index(config, unlabelled, labelled)
  for split in [*labelled.values(), *([unlabelled] if unlabelled is not None else [])]:
    if where['crop_px'] > split.patch_px:
      raise ValueError(
        f'config.data.crop_px={where["crop_px"]} does not fit the patches of {split.patch_px} px in {split.directory}. '
        f'Pass --config.data.crop_px={split.patch_px // settings.STRIDE_PX * settings.STRIDE_PX}.'
      )
  wanted = settings.band_list(where['bands'])
  if source is not None:
    if wanted and wanted != source.bands:
      raise ValueError(
        f'config.data.bands asks for {list(wanted)}; the encoder of config.pretrain.from_checkpoint was trained on '
        f'{list(source.bands)}. Leave config.data.bands empty.'
      )
    spec, subsets = source.spec, source.subsets
    stats = statistics.BandStatistics.from_dict(source.statistics)
  else:
    base, used = (unlabelled, index) if unlabelled is not None else (labelled['train'], None)
    spec, subsets = base.spec.select(wanted or base.spec.bands), []
    if config['pretrain']['objective'] != 'none' and config['pretrain']['sensor_dropout'] > 0:
      subsets = sensor_subsets(spec)
    stats = statistics.band_statistics(base, used, progress, spec.bands)
  if labelled:
    spec.require(labelled['train'].spec, subsets=subsets)
    if source is not None or unlabelled is not None:
      held = [band for band in spec.bands if band in labelled['train'].spec.bands]
      stats.warn_if_far(statistics.band_statistics(labelled['train'], None, progress, held))
  return Data(unlabelled, index, excluded, labelled, spec, subsets, stats, source)


def _open_labelled(directory: pathlib.Path, threads: int) -> dict[str, records.RecordSet]:
  """Every split of config.data.labelled; ValueError where labels or a split are not there."""
  there = records.splits(directory)
  if there and not records.RecordSet(directory, there[0]).labelled:
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
  return {split: records.RecordSet(directory, split, threads) for split in SPLITS}


def sensor_subsets(spec: sensors.SensorSpec) -> list[list[str]]:
  """What sensor dropout leaves of a contract: each sensor alone; nothing if it has only one."""
  return [list(spec.s2_bands), list(spec.s1_bands)] if len(spec.sensors) == 2 else []


def _pretraining_index(
  config: dict[str, Any], unlabelled: records.RecordSet, labelled: dict[str, records.RecordSet]
) -> tuple[np.ndarray, int]:
  """(record numbers to pretrain on, how many are left out near validation and test patches)."""
  keep = np.ones(len(unlabelled), bool)
  if labelled and config['pretrain']['exclude_heldout']:
    lon, lat = unlabelled.table[['lon_deg', 'lat_deg']].to_numpy().T
    held = [labelled[split].table[['lon_deg', 'lat_deg']].to_numpy() for split in SPLITS[1:]]
    held_lon, held_lat = np.concatenate(held).T
    keep = neighbours.exclude_near(lon, lat, held_lon, held_lat, config['pretrain']['exclude_km'])
    if not keep.any():
      raise ValueError(
        f'All {len(keep)} unlabelled patches lie within config.pretrain.exclude_km='
        f'{config["pretrain"]["exclude_km"]} of validation or test patches. Use a corpus of other places, or pass '
        '--config.pretrain.exclude_heldout=False and say so.'
      )
  return np.flatnonzero(keep), int((~keep).sum())


def pretraining(
  config: dict[str, Any], data: Data, workdir: pathlib.Path
) -> tuple[loop.Stage, dict[str, float | None]]:
  """The stage that trains the encoder without labels, and what its neighbour law amounts to.

  Returns:
    the stage; mean distance in km, share of the same acquisition and the like, empty where no neighbours are drawn.
  """
  assert data.unlabelled is not None  # `open_data` opens it where something is pretrained
  own, views = config['pretrain'], models.views(config, 'pretrain')
  sampler, realised = None, {}
  if views in ('pair', 'triplet'):
    law = own['tile2vec']
    sampler = neighbours.NeighbourSampler.from_records(
      data.unlabelled.table, data.index, law=law['neighbour'], scale_km=law['neighbour_scale_km'],
      max_distance_km=law['max_distance_km'],
    )  # fmt: skip
    realised = {key: value if np.isfinite(value) else None for key, value in sampler.realised().items()}
  subsets = sensor_subsets(data.spec) if own['sensor_dropout'] > 0 else []
  stage = _stage(
    config, data, workdir, 'pretrain', data.unlabelled, data.index, views=views, subsets=subsets, sampler=sampler
  )
  return stage, realised


def finetuning(config: dict[str, Any], data: Data, workdir: pathlib.Path) -> loop.Stage:
  """The stage that trains encoder and header on land cover, from the pretrained encoder where there is one."""
  own, train = config['finetune'], data.labelled['train']
  held = [band for band in data.spec.bands if band in train.spec.bands]
  subsets = sensor_subsets(data.spec.select(held)) if own['sensor_dropout'] > 0 else []
  subsets += [held] if len(held) < len(data.spec.bands) else []
  stage = _stage(config, data, workdir, 'finetune', train, None, views='labelled', subsets=subsets)
  return dataclasses.replace(
    stage,
    validation=lambda: one_pass(config, data.labelled['validation']),
    validate_every=own['validate_every_steps'],
    patience_epochs=own['patience_epochs'],
    classes=len(models.class_names(config, 'finetune')),
    scores=metrics.scores,
    frozen=('encoder',) if own['frozen_encoder'] else (),
  )


def one_pass(config: dict[str, Any], split: records.RecordSet):
  """One pass over a labelled split: this process's part."""
  return batches.evaluation_batches(
    split, batch_size=config['evaluation']['batch_size'], crop_px=config['data']['crop_px'],
    process_index=parallel.process_index(), process_count=parallel.process_count(),
    threads=config['data']['read_threads'],
  )  # fmt: skip


def prepare_inputs(config: dict[str, Any], data: Data, spec: sensors.SensorSpec, stage: str) -> inputs.Prepare:
  lookup = legend.level_lookup(models.target_level(config['finetune']['target'])) if stage == 'finetune' else None
  return inputs.Prepare(
    records=spec, bands=data.spec.bands, mean=data.statistics.mean, std=data.statistics.std, seed=config['seed'],
    sensor_dropout=config[stage]['sensor_dropout'], label_lookup=lookup,
  )  # fmt: skip


def _stage(config, data, workdir, name, train, index, *, views, subsets, sampler=None) -> loop.Stage:
  own = config[name]
  examples = len(train) if index is None else len(index)
  frozen = ('encoder',) if name == 'finetune' and own['frozen_encoder'] else ()

  def initial_variables():
    module = models.build(config, name)
    key = rngs.stream_key(config['seed'], f'init_{name}', 0)
    variables = state.init_variables(module, models.example_inputs(module, len(data.spec.bands)), key)
    if name == 'finetune':
      source = data.source
      if source is None and data.unlabelled is not None:
        source = checkpoint.load_trained(workdir, 'pretrain')
      variables = state.transfer_encoder(source.variables, variables) if source else variables
    return variables

  def training(start_step: int):
    return batches.training_batches(
      train, views=views, batch_size=own['batch_size'], crop_px=config['data']['crop_px'], seed=config['seed'],
      start_step=start_step, index=index, neighbours=sampler, process_index=parallel.process_index(),
      process_count=parallel.process_count(), threads=config['data']['read_threads'],
    )  # fmt: skip

  return loop.Stage(
    name=name,
    directory=workdir / name,
    module=models.build(config, name, norm=parallel.norm, gather=parallel.gather),
    optimiser=optimizers.adam(own['learning_rate'], frozen=frozen),
    prepare=prepare_inputs(config, data, train.spec, name),
    initial_variables=initial_variables,
    training=training,
    about=checkpoint.describe(
      stage=name, config=config, spec=data.spec, statistics=data.statistics.to_dict(), subsets=subsets,
      synthetic=data.synthetic,
    ),
    total_steps=settings.total_steps(own['duration'], examples, own['batch_size'], f'{name}.duration'),
    batch_size=own['batch_size'],
    examples=examples,
    log_every=config['log_every_steps'],
    save_every=config['checkpoint']['every_steps'],
    keep=config['checkpoint']['keep'],
  )  # fmt: skip

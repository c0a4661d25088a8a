"""The curriculum of an experiment: which records, which bands, and the two stages of training."""

import dataclasses
import functools
import pathlib
from typing import Any

import numpy as np

from deepsentinel import legend, sensors
from deepsentinel.corpus import splits
from deepsentinel.data import batches, distances, download, neighbours, records, statistics, stores
from deepsentinel.data import subsets as subsets_lib
from deepsentinel.evaluation import baselines, during, frozen, intervals, metrics, scenes, sheets
from deepsentinel.objectives import augment
from deepsentinel.train import checkpoint, inputs, loop, models, optimizers, parallel, resident, rngs, settings, state
from deepsentinel.train.trained import Trained

SPLITS = ('train', 'validation', 'test')


@dataclasses.dataclass(frozen=True)
class LabelledFold:
  """Labelled patches that one stage of fine-tuning uses.

  Attributes:
    train, validation: record sets.
    train_index, validation_index: record numbers in them.
  """

  train: records.RecordSet | subsets_lib.Joined
  validation: records.RecordSet | subsets_lib.Joined
  train_index: np.ndarray
  validation_index: np.ndarray


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
    shown: bands that fine-tuning and testing show to the model, of those that the records hold; empty: all.
    folds: what fine-tuning trains on and validates on: one of part or all of the train and validation splits, or
      several for a cross-validation.
    resident: stages whose training records the devices hold.
  """

  unlabelled: records.RecordSet | None
  index: np.ndarray
  excluded: int
  labelled: dict[str, records.RecordSet]
  spec: sensors.SensorSpec
  subsets: list[list[str]]
  statistics: statistics.BandStatistics
  source: Trained | None
  shown: tuple[str, ...] = ()
  folds: tuple[LabelledFold, ...] = ()
  resident: tuple[str, ...] = ()

  @property
  def synthetic(self) -> bool:
    sets = [*self.labelled.values(), *([self.unlabelled] if self.unlabelled else [])]
    return any(s.synthetic for s in sets) or bool(self.source and self.source.synthetic)

  def held(self, records_spec: sensors.SensorSpec) -> tuple[str, ...]:
    """Bands of the model that it gets to see of labelled records, in the model's order."""
    return tuple(band for band in self.spec.bands if band in (self.shown or records_spec.bands))


def open_data(config: dict[str, Any], progress: bool = True) -> Data:
  """Opens the records, decides the bands, and computes or takes over the statistics."""
  where = config['data']
  labelled: dict[str, records.RecordSet] = {}
  if where['labelled']:
    labelled = _open_labelled(_find(where, 'labelled', progress), where['read_threads'], target_of(config))
  source = unlabelled = None
  index, excluded = np.zeros(0, np.int64), 0
  if config['pretrain']['from_checkpoint']:
    source = checkpoint.load_trained(config['pretrain']['from_checkpoint'], 'pretrain')
  elif config['pretrain']['objective'] != 'none':
    unlabelled = records.RecordSet(_find(where, 'unlabelled', progress), 'train', where['read_threads'])
    index, excluded = _pretraining_index(config, unlabelled, labelled)
  for split in [*labelled.values(), *([unlabelled] if unlabelled is not None else [])]:
    if where['crop_px'] > split.patch_px:
      raise ValueError(
        f'config.data.crop_px={where["crop_px"]} does not fit the patches of {split.patch_px} px in {split.directory}. '
        f'Pass --config.data.crop_px={split.patch_px // settings.STRIDE_PX * settings.STRIDE_PX}.'
      )
  wanted = settings.band_list(where['bands'])
  shown: tuple[str, ...] = ()
  if source is not None:
    spec, subsets = source.spec, source.subsets
    shown = wanted if wanted != source.bands else ()
    given = shown or (tuple(b for b in spec.bands if b in labelled['train'].spec.bands) if labelled else spec.bands)
    if frozen.drops_bands(source):
      subsets = [*subsets, list(given)]
    if shown:
      frozen.require_trained_for(source, shown, subsets)
  else:
    base, used = (unlabelled, index) if unlabelled is not None else (labelled['train'], None)
    spec, subsets = base.spec.select(wanted or base.spec.bands), []
    if config['pretrain']['objective'] != 'none' and config['pretrain']['sensor_dropout'] > 0:
      subsets = sensor_subsets(spec)
  if labelled:
    records_spec = labelled['train'].spec
    spec.require(records_spec.select(shown) if shown else records_spec, subsets=subsets)
  folds = labelled_folds(config, labelled, progress) if labelled else ()
  training = [('finetune', _source(config, 'finetune', fold.train, fold.train_index)) for fold in folds]
  training += [('pretrain', _source(config, 'pretrain', unlabelled, index))] if unlabelled is not None else []
  held = resident.choose(where['resident'], training)
  if source is not None:
    stats = statistics.BandStatistics.from_dict(source.statistics)
  else:
    stats = statistics.band_statistics(base, used, progress, spec.bands)
  if labelled and (source is not None or unlabelled is not None):
    seen = [band for band in spec.bands if band in (shown or records_spec.bands)]
    stats.warn_if_far(statistics.band_statistics(labelled['train'], None, progress, seen))
  return Data(unlabelled, index, excluded, labelled, spec, subsets, stats, source, shown, folds, held)


def _source(config: dict[str, Any], stage: str, split, index: np.ndarray, plans=None) -> resident.Source:
  """The records that a stage trains on, as devices would hold them."""
  fields, where = batches.training_fields(split, models.views(config, stage), target_of(config).field), config['data']
  required = where['resident'] == 'always'
  return resident.Source.of(split, index, fields, where['crop_px'], plans=plans, required=required)


def _find(where: dict[str, Any], kind: str, progress: bool) -> stores.Folder:
  """The prepared directory of config.data.labelled or unlabelled."""
  directory = records.resolve(where[kind], where['data_dir'])
  return download.download(directory, progress) if where['download'] else directory


def labelled_folds(
  config: dict[str, Any], labelled: dict[str, records.RecordSet], progress: bool = True
) -> tuple[LabelledFold, ...]:
  """What fine-tuning trains and validates on: the two splits, or folds of both; or the label fraction of either."""
  own, seed = config['finetune'], config['seed']
  chosen = {split: _label_fraction(own, labelled[split], seed, progress) for split in SPLITS[:2]}
  if not own['folds']:
    return (LabelledFold(labelled['train'], labelled['validation'], chosen['train'], chosen['validation']),)
  joined = subsets_lib.Joined([labelled['train'], labelled['validation']])
  used = np.concatenate([chosen['train'], len(labelled['train']) + chosen['validation']])
  table = joined.table.iloc[used]
  block = splits.block_numbers(table['lon_deg'].to_numpy(), table['lat_deg'].to_numpy(), intervals.BLOCK_KM)
  blocks = len(np.unique(block))
  if blocks < own['folds']:
    raise ValueError(
      f'config.finetune.folds={own["folds"]}, but the train and validation patches lie in {blocks} blocks of '
      f'{intervals.BLOCK_KM:g} km. Pass --config.finetune.folds={blocks} or less, or use a corpus that covers more '
      'ground.'
    )
  fold_of = splits.assign(block, {str(k): 1 / own['folds'] for k in range(own['folds'])}, seed).astype(int)
  folds = subsets_lib.spatial_folds(table, fold_of, config['pretrain']['exclude_km'])
  return tuple(LabelledFold(joined, joined, used[fold.train], used[fold.validation]) for fold in folds)


def _label_fraction(own: dict[str, Any], split: records.RecordSet, seed: int, progress: bool) -> np.ndarray:
  """Record numbers of a split that `finetune.label_fraction` leaves; nested and stratified by the main class."""
  if own['label_fraction'] == 1:
    return np.arange(len(split))
  target = legend.target_of(own)
  if target.is_scene:
    dominant = target.lookup[split.table[target.field]]
  else:
    counts = baselines.patch_class_counts(split, target, progress=progress)
    dominant = np.where(counts.any(1), counts.argmax(1), -1)
  return subsets_lib.first_share(subsets_lib.nested_order(dominant, seed), own['label_fraction'])


def _open_labelled(directory: stores.Folder, threads: int, target: legend.Target) -> dict[str, records.RecordSet]:
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
    keep = distances.exclude_near(lon, lat, held_lon, held_lat, config['pretrain']['exclude_km'])
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
  if views == 'triplet':
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
  prepare = prepare_inputs(config, data, data.unlabelled.spec, 'pretrain')

  def pictures():
    crops = _crops(
      config, 'pretrain', data.unlabelled, data.index, views, sampler, batch_size=sheets.EXAMPLES, threads=1
    )
    return sheets.of_views(models.build(config, 'pretrain'), prepare, _pixels(next(crops)))

  def probe():
    split, module = data.labelled['validation'], models.build(config, 'pretrain')
    prepare = prepare_inputs(config, data, split.spec, 'pretrain')
    return during.of_labels(module, prepare, split, target_of(config), config['data']['crop_px'])

  return dataclasses.replace(stage, pictures=pictures, probe=probe, probe_every=own['probe_every_steps']), realised


def finetuning(config: dict[str, Any], data: Data, workdir: pathlib.Path, fold: int = 0) -> loop.Stage:
  """The stage that trains encoder and header on the target, from the pretrained encoder where there is one."""
  own, part = config['finetune'], data.folds[fold]
  train = part.train
  held = list(data.held(train.spec))
  subsets = sensor_subsets(data.spec.select(held)) if own['sensor_dropout'] > 0 else []
  subsets += [held] if len(held) < len(data.spec.bands) else []
  views = models.views(config, 'finetune')
  stage = _stage(config, data, workdir, 'finetune', train, part.train_index, views=views, subsets=subsets)
  if len(data.folds) > 1:
    stage = dataclasses.replace(stage, name=f'fold_{fold}', directory=workdir / f'fold_{fold}' / 'finetune')

  def pictures():
    prepare = prepare_inputs(config, data, part.validation.spec, 'finetune')
    crops = _crops(
      config, 'finetune', part.validation, part.validation_index, views, batch_size=sheets.EXAMPLES, threads=1
    )
    return sheets.of_labels(models.build(config, 'finetune'), prepare, _pixels(next(crops)), target_of(config))

  return dataclasses.replace(
    stage,
    validation=lambda: one_pass(config, part.validation, part.validation_index),
    validate_every=own['validate_every_steps'],
    patience_epochs=own['patience_epochs'],
    classes=len(models.class_names(config, 'finetune')),
    scores=scenes.at_half if target_of(config).is_scene else metrics.scores,
    frozen=('encoder',) if own['frozen_encoder'] else (),
    pictures=pictures,
  )


def _pixels(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """A batch without the numbers of its records and crops."""
  return {name: values for name, values in batch.items() if name not in ('index', 'row', 'col')}


def _crops(config, stage: str, split, index, views: str, sampler=None, **options):
  """Endless batches of random crops as a stage draws them; `options` are those of `batches.training_batches`."""
  curriculum = strengths(config) if stage == 'pretrain' else None
  shift_px = None if curriculum is None else curriculum.shift_law(config[stage]['batch_size'] / len(index))
  return batches.training_batches(
    split, views=views, crop_px=config['data']['crop_px'], seed=config['seed'], index=index, neighbours=sampler,
    shift_px=shift_px, label_field=target_of(config).field, **options,
  )  # fmt: skip


def one_pass(config: dict[str, Any], split: records.RecordSet | subsets_lib.Joined, index: np.ndarray | None = None):
  """One pass over a labelled split, or over records of it: this process's part."""
  target = target_of(config)
  fields = [*(field for field in ('s2', 's1') if field in split.fields), target.field]
  return batches.evaluation_batches(
    split, batch_size=config['evaluation']['batch_size'], crop_px=config['data']['crop_px'], index=index, fields=fields,
    process_index=parallel.process_index(), process_count=parallel.process_count(),
    threads=config['data']['read_threads'], centred=target.is_scene,
  )  # fmt: skip


def prepare_inputs(config: dict[str, Any], data: Data, spec: sensors.SensorSpec, stage: str) -> inputs.Prepare:
  """What turns stored integers into the batches of a stage."""
  own = config[stage]
  extra: dict[str, Any] = {}
  if stage == 'finetune':
    target = target_of(config)
    extra = {'label_field': target.field, 'label_lookup': target.lookup, 'shown': data.shown}
  elif (curriculum := strengths(config)) is not None:
    extra = {'curriculum': curriculum, 'epochs_per_step': own['batch_size'] / max(len(data.index), 1)}
  return inputs.Prepare(
    records=spec, bands=data.spec.bands, mean=data.statistics.mean, std=data.statistics.std, seed=config['seed'],
    sensor_dropout=own['sensor_dropout'], masked_cloud=own['masked_cloud'], painted_cloud=own['painted_cloud'],
    **extra,
  )  # fmt: skip


def target_of(config: dict[str, Any]) -> legend.Target:
  return legend.target_of(config['finetune'])


def strengths(config: dict[str, Any]) -> augment.Curriculum | None:
  """The augmentations of pretraining; None for an objective that has none."""
  section = config['pretrain'].get(config['pretrain']['objective'], {})
  return augment.Curriculum.from_config(section['augment']) if 'augment' in section else None


def _stage(config, data, workdir, name, train, index, *, views, subsets, sampler=None) -> loop.Stage:
  own = config[name]
  total = settings.total_steps(own['duration'], len(index), own['batch_size'], f'{name}.duration')
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

  def training(start_step: int, *, pixels: bool = True):
    return _crops(
      config, name, train, index, views, sampler, batch_size=own['batch_size'], start_step=start_step,
      process_index=parallel.process_index(), process_count=parallel.process_count(),
      threads=config['data']['read_threads'], pixels=pixels,
    )  # fmt: skip

  held = _source(config, name, train, index, functools.partial(training, pixels=False))

  return loop.Stage(
    name=name,
    directory=workdir / name,
    module=models.build(config, name, norm=parallel.norm, gather=parallel.gather),
    optimiser=optimizers.from_config(own, total, frozen=frozen),
    prepare=prepare_inputs(config, data, train.spec, name),
    initial_variables=initial_variables,
    training=training,
    held=held if name in data.resident else None,
    about=checkpoint.describe(
      stage=name, config=config, spec=data.spec, statistics=data.statistics.to_dict(), subsets=subsets,
      synthetic=data.synthetic,
    ),
    total_steps=total,
    batch_size=own['batch_size'],
    examples=len(index),
    log_every=config['log_every_steps'],
    save_every=config['checkpoint']['every_steps'],
    keep=config['checkpoint']['keep'],
    accumulate=own['accumulate'],
  )  # fmt: skip

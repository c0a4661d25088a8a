"""The curriculum of an experiment: which records, which bands, and the two stages of training."""

import contextlib
import dataclasses
import functools
import json
import pathlib
from typing import Any

import numpy as np

from deepsentinel import labelled as labelled_lib
from deepsentinel import legend, sensors
from deepsentinel.data import batches, distances, download, neighbours, records, statistics, stores
from deepsentinel.data import subsets as subsets_lib
from deepsentinel.encoders import standardise
from deepsentinel.evaluation import during, frozen, metrics, scenes, sheets
from deepsentinel.objectives import augment
from deepsentinel.train import checkpoint, inputs, loop, models, optimizers, parallel, resident, rngs, settings, state
from deepsentinel.train.trained import Trained


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
    regions: `index` in parts that lie together, each for an equal share of every batch; empty where it is one.
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
  folds: tuple[labelled_lib.Fold, ...] = ()
  resident: tuple[str, ...] = ()
  regions: tuple[np.ndarray, ...] = ()

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
    labelled = labelled_lib.open_splits(_find(where, 'labelled', progress), where['read_threads'], target_of(config))
  source = unlabelled = None
  index, excluded = np.zeros(0, np.int64), 0
  regions: tuple[np.ndarray, ...] = ()
  if config['pretrain']['from_checkpoint']:
    _require_pretrained(pathlib.Path(config['pretrain']['from_checkpoint']))
    source = checkpoint.load_trained(config['pretrain']['from_checkpoint'], 'pretrain')
  elif config['pretrain']['objective'] != 'none':
    unlabelled = records.RecordSet(_find(where, 'unlabelled', progress), 'train', where['read_threads'])
    index, excluded = _pretraining_index(config, unlabelled, labelled)
    regions = _regions(unlabelled, index, config['pretrain']['regions'])
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
  folds = labelled_lib.folds(config, labelled, progress) if labelled else ()
  training = [('finetune', _source(config, 'finetune', fold.train, fold.train_index)) for fold in folds]
  if unlabelled is not None:
    training.append(('pretrain', _source(config, 'pretrain', unlabelled, index, regions)))
  held = resident.choose(where['resident'], training)
  if source is not None:
    stats = statistics.BandStatistics.from_dict(source.statistics)
  else:
    stats = statistics.band_statistics(base, used, progress, spec.bands)
  if labelled and (source is not None or unlabelled is not None):
    seen = [band for band in spec.bands if band in (shown or records_spec.bands)]
    stats.warn_if_far(statistics.band_statistics(labelled['train'], None, progress, seen))
  return Data(unlabelled, index, excluded, labelled, spec, subsets, stats, source, shown, folds, held, regions)


def _require_pretrained(path: pathlib.Path) -> None:
  """ValueError if a path is that of a run, or of its stage, that is still pretraining."""
  for folder in (path, path.parent) if path.name == 'pretrain' else (path,):
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
      stages = json.loads((folder / 'experiment.json').read_text())['stages']
      if (folder / 'pretrain').is_dir() and stages.get('pretrain', {}).get('status') != 'finished':
        raise ValueError(
          f'config.pretrain.from_checkpoint: {folder} has not finished pretraining. Its own command goes on with it; '
          '`python -m deepsentinel.export` makes of its last checkpoint what can be taken as it is.'
        )
      return


def _source(config: dict[str, Any], stage: str, split, index: np.ndarray, regions=(), plans=None) -> resident.Source:
  """The records that a stage trains on, as devices would hold them."""
  fields, where = batches.training_fields(split, models.views(config, stage), target_of(config).field), config['data']
  required = where['resident'] == 'always'
  return resident.Source.of(split, index, fields, where['crop_px'], regions, plans=plans, required=required)


def _find(where: dict[str, Any], kind: str, progress: bool) -> stores.Folder:
  """The prepared directory of config.data.labelled or unlabelled."""
  directory = records.resolve(where[kind], where['data_dir'])
  return download.download(directory, progress) if where['download'] else directory


def sensor_subsets(spec: sensors.SensorSpec) -> list[list[str]]:
  """What sensor dropout leaves of a contract: each sensor alone; nothing if it has only one."""
  return [list(spec.s2_bands), list(spec.s1_bands)] if len(spec.sensors) == 2 else []


def _pretraining_index(
  config: dict[str, Any], unlabelled: records.RecordSet, labelled: dict[str, records.RecordSet]
) -> tuple[np.ndarray, int]:
  """(record numbers to pretrain on, how many are left out near patches that are held out).

  Those are the validation and test patches, and with folds, each of which holds out others, all labelled ones.
  """
  keep = np.ones(len(unlabelled), bool)
  if labelled and config['pretrain']['exclude_heldout']:
    lon, lat = unlabelled.table[['lon_deg', 'lat_deg']].to_numpy().T
    held_out = labelled_lib.SPLITS[0 if config['finetune']['folds'] else 1 :]
    held = [labelled[split].table[['lon_deg', 'lat_deg']].to_numpy() for split in held_out]
    held_lon, held_lat = np.concatenate(held).T
    keep = distances.exclude_near(lon, lat, held_lon, held_lat, config['pretrain']['exclude_km'])
    if not keep.any():
      raise ValueError(
        f'All {len(keep)} unlabelled patches lie within config.pretrain.exclude_km='
        f'{config["pretrain"]["exclude_km"]} of {" or ".join(held_out)} patches. Use a corpus of other places, or pass '
        '--config.pretrain.exclude_heldout=False and say so.'
      )
  return np.flatnonzero(keep), int((~keep).sum())


def _regions(unlabelled: records.RecordSet, index: np.ndarray, count: int) -> tuple[np.ndarray, ...]:
  """Record numbers of `index` in `count` parts that lie together; none where it is one."""
  if count == 1:
    return ()
  try:
    lon_deg, lat_deg = unlabelled.table[['lon_deg', 'lat_deg']].to_numpy()[index].T
    parts = subsets_lib.regions(lon_deg, lat_deg, count)
  except ValueError as error:
    raise ValueError(f'config.pretrain.regions is {count}: {error}') from None
  return tuple(index[part] for part in parts)


def _samplers(config: dict[str, Any], data: Data) -> list[neighbours.NeighbourSampler]:
  """What Tile2Vec draws by, over each region of its own; all by the one scale of the whole."""
  assert data.unlabelled is not None  # `open_data` opens it where something is pretrained
  law, table = config['pretrain']['tile2vec'], data.unlabelled.table
  scale_km = law['neighbour_scale_km']
  if data.regions and scale_km == 'auto':
    lon_deg, lat_deg = table[['lon_deg', 'lat_deg']].to_numpy()[data.index].T
    scale_km = distances.mean_nearest_neighbour_km(lon_deg, lat_deg)
  try:
    return [
      neighbours.NeighbourSampler.from_records(
        table, part, law=law['neighbour'], scale_km=scale_km, max_distance_km=law['max_distance_km']
      )
      for part in data.regions or (data.index,)
    ]
  except ValueError as error:
    if not data.regions:
      raise
    raise ValueError(f'Of one of the {len(data.regions)} regions of config.pretrain.regions: {error}') from None


def pretraining(
  config: dict[str, Any], data: Data, workdir: pathlib.Path
) -> tuple[loop.Stage, dict[str, float | None]]:
  """The stage that trains the encoder without labels, and what its neighbour law amounts to.

  Returns:
    the stage; mean distance in km, share of the same acquisition and the like, empty where no neighbours are drawn.
  """
  assert data.unlabelled is not None  # `open_data` opens it where something is pretrained
  own, views = config['pretrain'], models.views(config, 'pretrain')
  samplers, realised = None, {}
  if views == 'triplet':
    samplers = _samplers(config, data)
    found = neighbours.realised(samplers)
    realised = {key: value if np.isfinite(value) else None for key, value in found.items()}
  subsets = sensor_subsets(data.spec) if own['sensor_dropout'] > 0 else []
  stage = _stage(
    config, data, workdir, 'pretrain', data.unlabelled, data.index, views=views, subsets=subsets, samplers=samplers,
    regions=data.regions,
  )  # fmt: skip
  prepare = prepare_inputs(config, data, data.unlabelled.spec, 'pretrain')
  if prepare.curriculum is not None:
    prepare.curriculum.warn_if_short(stage.total_steps * stage.batch_size / len(data.index))

  def pictures():
    few = data.regions[: sheets.EXAMPLES]
    crops = _crops(
      config, 'pretrain', data.unlabelled, data.index, views, samplers and samplers[: sheets.EXAMPLES], few, threads=1,
      batch_size=sheets.EXAMPLES // max(1, len(few)) * max(1, len(few)),
    )  # fmt: skip
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


def _crops(config, stage: str, split, index, views: str, samplers=None, regions=(), **options):
  """Endless batches of random crops as a stage draws them; `options` are those of `batches.training_batches`."""
  curriculum = strengths(config) if stage == 'pretrain' else None
  shift_px = None if curriculum is None else curriculum.shift_law(config[stage]['batch_size'] / len(index))
  return batches.training_batches(
    split, views=views, crop_px=config['data']['crop_px'], seed=config['seed'], index=index, neighbours=samplers,
    regions=regions, shift_px=shift_px, label_field=target_of(config).field, **options,
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
  mean, std = standardise.checked(data.spec.bands, data.statistics.mean, data.statistics.std)
  return inputs.Prepare(
    records=spec, bands=data.spec.bands, mean=mean, std=std, seed=config['seed'],
    sensor_dropout=own['sensor_dropout'], masked_cloud=own['masked_cloud'], painted_cloud=own['painted_cloud'],
    cloud_shadow=own['cloud_shadow'], **extra,
  )  # fmt: skip


def target_of(config: dict[str, Any]) -> legend.Target:
  return legend.target_of(config['finetune'])


def strengths(config: dict[str, Any]) -> augment.Curriculum | None:
  """The augmentations of pretraining; None for an objective that has none."""
  section = config['pretrain'].get(config['pretrain']['objective'], {})
  return augment.Curriculum.from_config(section['augment']) if 'augment' in section else None


def _stage(config, data, workdir, name, train, index, *, views, subsets, samplers=None, regions=()) -> loop.Stage:
  own = config[name]
  settings.require_effect(own, name, data.held(train.spec))
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
      config, name, train, index, views, samplers, regions, batch_size=own['batch_size'], start_step=start_step,
      process_index=parallel.process_index(), process_count=parallel.process_count(),
      threads=config['data']['read_threads'], pixels=pixels,
    )  # fmt: skip

  held = _source(config, name, train, index, regions, functools.partial(training, pixels=False))

  return loop.Stage(
    name=name,
    directory=workdir / name,
    module=models.build(config, name, norm=parallel.norm, gather=parallel.gather),
    optimiser=optimizers.from_config(own, total, frozen=frozen),
    learning_rate=own['learning_rate'],
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

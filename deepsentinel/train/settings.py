"""Checks of an experiment's configuration before its first step: a wrong value is named by its key."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from deepsentinel import legend, registry, sensors
from deepsentinel.data import batches, neighbours, records
from deepsentinel.objectives import base, contrastive, tile2vec
from deepsentinel.train import models, optimizers, resident

STRIDE_PX = 16  # the encoders halve four times


def _number(value: Any) -> bool:
  return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def _whole(value: Any) -> bool:
  return isinstance(value, int) and not isinstance(value, bool)


# A rule is (holds, what is allowed).
Rule = tuple[Callable[[Any], bool], str]
_TEXT: Rule = (lambda v: isinstance(v, str), 'a text')
_NAME: Rule = (lambda v: isinstance(v, str) and v != '', 'a text that is not empty')
_BOOL: Rule = (lambda v: isinstance(v, bool), 'True or False')
_COUNT: Rule = (lambda v: _whole(v) and v >= 1, 'a whole number, 1 or more')
_COUNT_OR_0: Rule = (lambda v: _whole(v) and v >= 0, 'a whole number, 0 or more')
_POSITIVE: Rule = (lambda v: _number(v) and 0 < v < float('inf'), 'a number above 0')
_NOT_NEGATIVE: Rule = (lambda v: _number(v) and 0 <= v < float('inf'), 'a number, 0 or more')
_SHARE: Rule = (lambda v: _number(v) and 0 <= v <= 1, 'a probability, 0 to 1')


def _one_of(*names: str) -> Rule:
  return (lambda v: v in names, f'one of {", ".join(names)}')


_DURATION = {'steps': _COUNT_OR_0, 'epochs': _NOT_NEGATIVE, 'examples': _COUNT_OR_0}
_OPTIMISER: dict[str, Rule] = {
  'learning_rate': _POSITIVE,
  'schedule': _one_of(*optimizers.SCHEDULES),
  'warmup_steps': _COUNT_OR_0,
  'clip_norm': _NOT_NEGATIVE,
  'accumulate': _COUNT,
}


def _pair(low: float, high: float, *, whole: bool = False) -> Rule:
  def holds(v: Any) -> bool:
    number = _whole if whole else _number
    return isinstance(v, list | tuple) and len(v) == 2 and all(number(x) and low <= x <= high for x in v)

  return holds, f'two {"whole " if whole else ""}numbers from {low} to {high}, at the least and at the full strength'


_RULES: dict[str, Rule] = {
  'name': _NAME,
  'size': _NAME,
  'seed': (lambda v: _whole(v) and 0 <= v < 2**31, 'a whole number from 0 to 2**31 - 1'),
  'dtype': _one_of('float32', 'bfloat16'),
  'data.unlabelled': _TEXT,
  'data.labelled': _TEXT,
  'data.data_dir': _TEXT,
  'data.download': _BOOL,
  'data.bands': _TEXT,
  'data.crop_px': (lambda v: _whole(v) and v > 0 and v % STRIDE_PX == 0, f'a multiple of {STRIDE_PX} pixels'),
  'data.read_threads': _COUNT,
  'data.resident': _one_of(*resident.MODES),
  'encoder.name': _NAME,
  'encoder.width': (lambda v: _whole(v) and v > 0 and v % 8 == 0, 'a multiple of 8 channels'),
  'pretrain.objective': _NAME,
  'pretrain.from_checkpoint': _TEXT,
  **{f'pretrain.duration.{key}': rule for key, rule in _DURATION.items()},
  'pretrain.batch_size': _COUNT,
  **{f'pretrain.{key}': rule for key, rule in _OPTIMISER.items()},
  'pretrain.probe_every_steps': _COUNT_OR_0,
  'pretrain.exclude_heldout': _BOOL,
  'pretrain.exclude_km': _NOT_NEGATIVE,
  'pretrain.regions': _COUNT,
  'pretrain.sensor_dropout': _SHARE,
  'pretrain.masked_cloud': _SHARE,
  'pretrain.painted_cloud': _SHARE,
  'pretrain.cloud_shadow': _SHARE,
  'pretrain.vae.kl_weight': _NOT_NEGATIVE,
  'pretrain.vae.sample': _BOOL,
  'pretrain.tile2vec.loss': _one_of(*tile2vec.LOSSES),
  'pretrain.tile2vec.margin': _NOT_NEGATIVE,
  'pretrain.tile2vec.temperature': _POSITIVE,
  'pretrain.tile2vec.pooling': _one_of(*tile2vec.POOLINGS),
  'pretrain.tile2vec.neighbour': _one_of(*neighbours.LAWS),
  'pretrain.tile2vec.neighbour_scale_km': (lambda v: v == 'auto' or _positive_text(v), "'auto' or a number above 0"),
  'pretrain.tile2vec.max_distance_km': _POSITIVE,
  'pretrain.contrastive.loss': _one_of(*contrastive.LOSSES),
  'pretrain.contrastive.margin': _NOT_NEGATIVE,
  'pretrain.contrastive.temperature': _POSITIVE,
  'pretrain.contrastive.augment.warmup_epochs': _NOT_NEGATIVE,
  'pretrain.contrastive.augment.ramp_epochs': _NOT_NEGATIVE,
  'pretrain.contrastive.augment.hold': _BOOL,
  'pretrain.contrastive.augment.band_dropout': _pair(0, 1),
  'pretrain.contrastive.augment.shift_px': _pair(0, 4096, whole=True),
  'pretrain.contrastive.augment.jitter': _pair(0, 1),
  'pretrain.contrastive.augment.rounds': _pair(0, 100, whole=True),
  'finetune.target': _one_of(*legend.TARGETS),
  **{f'finetune.duration.{key}': rule for key, rule in _DURATION.items()},
  'finetune.batch_size': _COUNT,
  **{f'finetune.{key}': rule for key, rule in _OPTIMISER.items()},
  'finetune.patience_epochs': _NOT_NEGATIVE,
  'finetune.validate_every_steps': _COUNT_OR_0,
  'finetune.frozen_encoder': _BOOL,
  'finetune.sensor_dropout': _SHARE,
  'finetune.masked_cloud': _SHARE,
  'finetune.painted_cloud': _SHARE,
  'finetune.cloud_shadow': _SHARE,
  'finetune.label_fraction': (lambda v: _number(v) and 0 < v <= 1, 'a share above 0, up to 1'),
  'finetune.folds': (lambda v: _whole(v) and v >= 0 and v != 1, '0, or a whole number of folds, 2 or more'),
  'evaluation.batch_size': _COUNT,
  'evaluation.test': _BOOL,
  'evaluation.random_forest': _BOOL,
  'evaluation.sample_patches': _COUNT_OR_0,
  'checkpoint.every_steps': _COUNT,
  'checkpoint.keep': _COUNT,
  'log_every_steps': _COUNT,
}


def _positive_text(value: Any) -> bool:
  """Whether a number above 0 is given, or text that spells one, as a flag of a key that can be a word has it."""
  try:
    return 0 < float(value) < float('inf')
  except (TypeError, ValueError):
    return False


def flatten(tree: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  """{'a': {'b': 1}} as {'a.b': 1}."""
  flat: dict[str, Any] = {}
  for key, value in tree.items():
    name = f'{prefix}{key}'
    flat.update(flatten(value, f'{name}.') if isinstance(value, Mapping) else {name: value})
  return flat


def check(config: Mapping[str, Any]) -> None:
  """Checks every key and value of an experiment's configuration.

  Args:
    config: plain dict (`ConfigDict.to_dict()`).
  Raises:
    ValueError: an unknown or a missing key, a value out of range, an unknown encoder or objective, a duration that
      is not exactly one of steps, epochs and examples. Names the key, what was found and what is allowed.
  """
  flat = flatten(config)
  for key, value in flat.items():
    if key not in _RULES:
      close = difflib.get_close_matches(key, _RULES, n=1)
      hint = f' Did you mean config.{close[0]}?' if close else ''
      raise ValueError(f'Unknown config.{key}.{hint} configs/common.py lists every key.')
    holds, allowed = _RULES[key]
    if not holds(value):
      raise ValueError(f'config.{key} is {value!r}; allowed: {allowed}.')
  missing = sorted(set(_RULES) - set(flat))
  if missing:
    raise ValueError(f'config.{missing[0]} is missing. Start from configs.common.get_config(), which has every key.')
  registry.load('encoder', flat['encoder.name'])
  if flat['pretrain.objective'] != 'none':
    _check_objective(flat['pretrain.objective'])
  for stage in models.STAGES:
    total_steps(config[stage]['duration'], 1, 1, f'{stage}.duration')
    if flat[f'{stage}.warmup_steps'] >= (config[stage]['duration']['steps'] or float('inf')):
      raise ValueError(
        f'config.{stage}.warmup_steps={flat[f"{stage}.warmup_steps"]} leaves no step of '
        f'config.{stage}.duration.steps={config[stage]["duration"]["steps"]}.'
      )
  if flat['pretrain.objective'] == 'contrastive' and flat['pretrain.batch_size'] < 2:
    raise ValueError('config.pretrain.batch_size is 1; contrastive learning needs negatives: a batch of 2 or more.')
  if flat['pretrain.objective'] == 'contrastive' and flat['pretrain.batch_size'] < 2 * flat['pretrain.accumulate']:
    raise ValueError(
      f'config.pretrain.accumulate={flat["pretrain.accumulate"]} takes the batch of {flat["pretrain.batch_size"]} in '
      'parts of one, which have no negatives. Pass a smaller accumulate or a larger batch_size.'
    )
  regions, size = flat['pretrain.regions'], flat['pretrain.batch_size']
  if size % regions:
    raise ValueError(
      f'config.pretrain.batch_size={size} does not divide over config.pretrain.regions={regions}; nearest that do: '
      f'{batches.nearest_sizes(size, regions)}.'
    )
  try:
    tile2vec.check(flat['pretrain.tile2vec.loss'], flat['pretrain.tile2vec.pooling'])
  except ValueError as e:
    raise ValueError(f'config.pretrain.tile2vec: {e}') from None
  if flat['data.bands']:
    sensors.SensorSpec(band_list(flat['data.bands']))
  if flat['evaluation.random_forest'] and legend.target(flat['finetune.target']).is_scene:
    raise ValueError(
      f'config.evaluation.random_forest is True: it predicts pixels, and config.finetune.target='
      f'{flat["finetune.target"]!r} is one label a patch. Pass --config.evaluation.random_forest=False.'
    )
  if flat['pretrain.probe_every_steps'] and (
    not flat['data.labelled'] or legend.target(flat['finetune.target']).is_scene
  ):
    raise ValueError(
      f'config.pretrain.probe_every_steps={flat["pretrain.probe_every_steps"]} probes label maps; with '
      f'config.data.labelled={flat["data.labelled"]!r} and config.finetune.target={flat["finetune.target"]!r} there '
      'are none. Name records of deepsentinel_labelled and a target of pixels, or pass 0.'
    )
  if not flat['data.labelled'] and flat['pretrain.objective'] == 'none':
    raise ValueError(
      "config.data.labelled is empty and config.pretrain.objective is 'none': there is nothing to do. "
      'Name labelled records, or an objective to pretrain with.'
    )


def with_legend(config: dict[str, Any]) -> dict[str, Any]:
  """The configuration with the legend of its labelled records as finetune.legend, where its target is of that legend.

  So a configuration says its classes by itself, in a run's config.json and in its checkpoints.

  Raises:
    ValueError: the records have no land-cover map, or one without classes of CORINE level 1 where these are asked for.
  """
  name = config['finetune']['target']
  if name not in legend.LANDCOVER_TARGETS or not config['data']['labelled']:
    return config
  directory = records.resolve(config['data']['labelled'], config['data']['data_dir'])
  card = records.card(directory)
  found = card.get('landcover', []) if card['labelled'] else []
  target = legend.target_of({'target': name, 'legend': found})
  if not (target.lookup >= 0).any():
    lacks = 'a column corine_level1 in the legend of its land-cover map' if found else 'a land-cover map'
    raise ValueError(
      f'config.finetune.target={name!r} needs {lacks}, which {directory} lacks. Sample its corpus with '
      '--config.labels.landcover.path=... and a legend that has it (`python -m deepsentinel.corpus`), or choose '
      'another target.'
    )
  return {**config, 'finetune': {**config['finetune'], 'legend': found}}


def _check_objective(name: str) -> None:
  if ':' in name:  # a user's own
    views = getattr(registry.load('objective', name), 'views', '')
    if views in base.LABELLED or views not in base.VIEWS:
      unlabelled = ', '.join(sorted(set(base.VIEWS) - set(base.LABELLED)))
      raise ValueError(
        f'config.pretrain.objective {name!r} has views={views!r}; pretraining takes one of {unlabelled} '
        '(deepsentinel/objectives/base.py).'
      )
    return
  pretraining = [n for n in registry.known('objective') if registry.load('objective', n).views not in base.LABELLED]
  if name not in pretraining:
    close = difflib.get_close_matches(name, ['none', *pretraining], n=1)
    hint = f' Did you mean {close[0]!r}?' if close else ''
    raise ValueError(f'Unknown config.pretrain.objective {name!r}. Known: none, {", ".join(pretraining)}.{hint}')


def require_effect(own: Mapping[str, Any], name: str, bands: Sequence[str]) -> None:
  """ValueError if a stage asks for what its bands cannot have: a sensor to lose where there is one, cloud on radar."""
  seen = {sensors.BANDS[band].sensor for band in bands}
  useless = ['sensor_dropout'] if len(seen) < 2 else []
  useless += [] if 'sentinel2' in seen else ['masked_cloud', 'painted_cloud', 'cloud_shadow']
  if asked := [key for key in useless if own[key] > 0]:
    mend = ' '.join(f'--config.{name}.{key}=0' for key in asked)
    raise ValueError(
      f'config.{name}.{asked[0]} is {own[asked[0]]:g}, which does nothing to bands of {" and ".join(sorted(seen))} '
      f'alone. Pass {mend}.'
    )


def band_list(bands: str) -> tuple[str, ...]:
  """'B2, B3,VV' -> ('B2', 'B3', 'VV')."""
  return tuple(band.strip() for band in bands.split(',') if band.strip())


def total_steps(duration: Mapping[str, Any], examples: int, batch_size: int, key: str) -> int:
  """Steps of a duration given as exactly one of steps, epochs and examples; at least 1.

  Args:
    duration: {'steps', 'epochs', 'examples'}, of which one is above 0.
    examples: records in one epoch.
    batch_size: global.
    key: of the configuration, for the message.
  """
  given = {unit: value for unit, value in duration.items() if value > 0}
  if len(given) != 1:
    found = ', '.join(f'{unit}={value}' for unit, value in duration.items())
    raise ValueError(f'config.{key} must have exactly one of steps, epochs and examples above 0; found {found}.')
  ((unit, value),) = given.items()
  seen = {'steps': value * batch_size, 'epochs': value * examples, 'examples': value}[unit]
  return max(1, round(seen / batch_size))

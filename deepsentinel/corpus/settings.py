"""The settings of a corpus: which there are, and that their values make sense before anything is fetched."""

import difflib
import json
import logging
import math
from collections.abc import Iterator, Mapping
from typing import Any

from deepsentinel.corpus import blocks, points

SPLIT_METHODS = ('blocks', 'random', 'none', 'shared')
# Sections whose keys are the arguments of the class they name; the class checks them.
_OPEN_SECTIONS = ('source', 'labels.corine', 'labels.osm', 'labels.landcover')
_SETTINGS: dict[str, tuple[type, ...]] = {
  'name': (str,),
  'seed': (int,),
  'labelled': (bool,),
  'patches': (int,),
  'patch_px': (int,),
  'pixel_m': (float, int),
  'source': (dict,),
  'labels.corine': (dict,),
  'labels.osm': (dict,),
  'labels.landcover': (dict,),
  'points.countries': (str,),
  'points.bbox': (str,),
  'points.max_redraws': (int,),
  'mines.polygons': (str,),
  'mines.register': (str,),
  'mines.match_km': (float, int),
  'mines.background': (int,),
  'mines.min_km': (float, int),
  'mines.max_km': (float, int),
  'period.start': (str,),
  'period.end': (str,),
  'max_gap_days': (float, int),
  'split.method': (str,),
  'split.block_km': (float, int),
  'split.draws': (int,),
  'split.buffer_km': (float, int),
  'split.train': (float, int),
  'split.validation': (float, int),
  'split.test': (float, int),
  'workers': (int,),
}
# What may change over an existing folder: how many processes fetch, and the split, which is assigned anew from the
# points and touches no pixel.
FREE = ('workers', 'split')


def _plain(config: Any) -> Any:
  if hasattr(config, 'to_dict'):
    config = config.to_dict()
  if isinstance(config, Mapping):
    return {str(key): _plain(value) for key, value in config.items()}
  return list(config) if isinstance(config, tuple) else config


def flatten(settings: Mapping[str, Any], prefix: str = '') -> Iterator[tuple[str, Any]]:
  """('a.b', value) of every leaf; open sections are leaves."""
  for key, value in settings.items():
    path = f'{prefix}{key}'
    if isinstance(value, Mapping) and path not in _OPEN_SECTIONS:
      yield from flatten(value, f'{path}.')
    else:
      yield path, value


def checked(config: Any) -> dict[str, Any]:
  """The config as plain data, every setting there, of its type and within its limits.

  Args:
    config: ml_collections.ConfigDict (configs/corpora) or a mapping of the same shape.
  Returns:
    Nested dict of JSON values.
  Raises:
    ValueError: a setting is missing, unknown, of another type or out of range; names it.
  """
  settings = _plain(config)
  found = dict(flatten(settings))
  for path in found:
    if path not in _SETTINGS:
      close = difflib.get_close_matches(path, _SETTINGS, n=1)
      hint = f' Did you mean {close[0]!r}?' if close else ''
      raise ValueError(f'Unknown setting {path!r} in the corpus config.{hint} Known: {", ".join(_SETTINGS)}.')
  for path, kinds in _SETTINGS.items():
    if path not in found:
      raise ValueError(f'The corpus config lacks {path!r}; start from configs/corpora/common.py, which has every one.')
    value = found[path]
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
      raise ValueError(f'{path} must be of type {kinds[0].__name__}; found {value!r}.')
  _check_values(settings)
  json.dumps(settings)  # sources and labels are rebuilt from it in other processes
  return settings


def _check_values(settings: dict[str, Any]) -> None:
  def require(ok: bool, path: str, allowed: str) -> None:
    value = dict(flatten(settings))[path]
    if not ok:
      raise ValueError(f'{path} is {value!r}; allowed: {allowed}.')

  require(settings['seed'] >= 0, 'seed', '0 and above')
  require(settings['patches'] >= 0, 'patches', '1 and above; 0 takes every place of a source that is a set of patches')
  require(settings['patch_px'] > 0, 'patch_px', '1 and above')
  require(settings['pixel_m'] > 0, 'pixel_m', 'above 0')
  require(settings['max_gap_days'] >= 0, 'max_gap_days', '0 and above')
  require(settings['points']['max_redraws'] >= 0, 'points.max_redraws', '0 and above')
  mines, half_diagonal_km = settings['mines'], settings['patch_px'] * settings['pixel_m'] / 1000 / 2**0.5
  require(mines['match_km'] >= 0, 'mines.match_km', '0 and above')
  require(mines['background'] >= 1, 'mines.background', '1 and above')
  if mines['polygons']:
    least = 1 + mines['background']
    allowed = f'{least} and above, a mine with its background; 0 takes every mine'
    require(settings['patches'] == 0 or settings['patches'] >= least, 'patches', allowed)
    require(mines['min_km'] >= half_diagonal_km, 'mines.min_km',
            f'{half_diagonal_km:.2f} and above, so that no mine lies in a patch of background')  # fmt: skip
    require(mines['max_km'] > mines['min_km'], 'mines.max_km', f'above mines.min_km, {mines["min_km"]:g}')
  require(settings['workers'] >= 0, 'workers', '0 (in this process) and above')
  require('name' in settings['source'], 'source', "a section with 'name' and the source's arguments")
  points.parse_countries(settings['points']['countries'])
  points.parse_bbox(settings['points']['bbox'])
  blocks.period_blocks(settings['period']['start'], settings['period']['end'])
  split = settings['split']
  require(split['method'] in SPLIT_METHODS, 'split.method', ', '.join(SPLIT_METHODS))
  require(split['block_km'] > 0, 'split.block_km', 'above 0')
  require(split['draws'] >= 1, 'split.draws', '1 and above')
  require(split['buffer_km'] >= 0, 'split.buffer_km', '0 and above')
  splits = split['method'] == 'blocks' and (settings['labelled'] or mines['polygons'])
  if splits and split['buffer_km'] < 2 * half_diagonal_km:
    logging.warning(
      'split.buffer_km is %g, and patches of %d px touch where they are %.2f km apart: one that trains may show ground '
      'of one that tests. --config.split.buffer_km=%.2f keeps them apart.',
      split['buffer_km'], settings['patch_px'], 2 * half_diagonal_km, math.ceil(200 * half_diagonal_km) / 100,
    )  # fmt: skip
  shares = [split[name] for name in ('train', 'validation', 'test')]
  if min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
    raise ValueError(f'split.train, split.validation and split.test must add up to 1; found {shares}.')


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
  """What differs between two checked configs, as 'key: old -> new', apart from what is free to change."""
  before, after = dict(flatten(old)), dict(flatten(new))
  if not after['mines.polygons']:  # a folder sampled before mines were known is still the same
    before = {path: value for path, value in after.items() if path.startswith('mines.')} | before
  if not after['labels.landcover'].get('path'):  # likewise before land-cover maps were
    before = {'labels.landcover': after['labels.landcover']} | before
  return [
    f'{path}: {before.get(path)!r} -> {after.get(path)!r}'
    for path in sorted({*before, *after})
    if path.split('.')[0] not in FREE and before.get(path) != after.get(path)
  ]

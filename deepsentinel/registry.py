"""Names of encoders, objectives and sources, resolved lazily: a new one is one new file and one line here."""

import difflib
import importlib
import inspect
from collections.abc import Mapping
from typing import Any

_KNOWN: dict[str, dict[str, str]] = {
  'encoder': {
    'resnet10': 'deepsentinel.encoders.resnet:ResNet10',
    'resnet18': 'deepsentinel.encoders.resnet:ResNet18',
    'resnet34': 'deepsentinel.encoders.resnet:ResNet34',
    'resnet18attn': 'deepsentinel.encoders.resnet:ResNet18Attention',
  },
  'objective': {
    'vae': 'deepsentinel.objectives.vae:VAE',
    'tile2vec': 'deepsentinel.objectives.tile2vec:Tile2Vec',
    'contrastive': 'deepsentinel.objectives.contrastive:Contrastive',
    'landcover': 'deepsentinel.objectives.landcover:LandCover',
    'scene': 'deepsentinel.objectives.scene:Scene',
  },
  'imagery source': {
    'synthetic': 'deepsentinel.sources.synthetic:SyntheticEarth',
    'local': 'deepsentinel.sources.local:LocalScenes',
    'bigearthnet': 'deepsentinel.sources.bigearthnet:BigEarthNet',
    'earthengine': 'deepsentinel.sources.earthengine:EarthEngine',
    'earthone': 'deepsentinel.sources.earthone:EarthOne',
    'stac': 'deepsentinel.sources.stac:StacScenes',
    'stacks': 'deepsentinel.sources.local:PatchStacks',
  },
  'label source': {
    'corine': 'deepsentinel.sources.corine:CorineVectors',
    'corine_raster': 'deepsentinel.sources.corine:CorineRaster',
    'openstreetmap': 'deepsentinel.sources.openstreetmap:OpenStreetMap',
    'raster': 'deepsentinel.sources.labelraster:LabelRaster',
  },
}


def known(kind: str) -> list[str]:
  return sorted(_KNOWN[kind])


def load(kind: str, name: str) -> Any:
  """The class registered as `name`, or the one that 'package.module:Class' spells out (a user's own).

  Raises:
    ValueError: unknown name (lists the known ones and the closest), or no such module or class.
  """
  if ':' in str(name):
    return _spelled_out(kind, str(name))
  try:
    module, attribute = _KNOWN[kind][name].split(':')
  except KeyError:
    close = difflib.get_close_matches(str(name), known(kind), n=1)
    hint = f' Did you mean {close[0]!r}?' if close else ''
    raise ValueError(f'Unknown {kind} {name!r}. Known: {", ".join(known(kind))}.{hint}') from None
  return getattr(importlib.import_module(module), attribute)


def _spelled_out(kind: str, name: str) -> Any:
  module, _, attribute = name.partition(':')
  try:
    found = importlib.import_module(module)
  except ModuleNotFoundError as e:
    raise ValueError(
      f'{kind} {name!r}: {e}. Give an importable module and a class in it, as package.module:Class, '
      f'or one of {", ".join(known(kind))}.'
    ) from e
  if not hasattr(found, attribute):
    raise ValueError(f'{kind} {name!r}: module {module} has no {attribute!r}.')
  return getattr(found, attribute)


def build(kind: str, section: Mapping[str, Any]) -> Any:
  """An instance from a config section: its `name`, and the rest as keyword arguments.

  Raises:
    ValueError: unknown name, an argument the class does not take (lists those it takes), or one of another type.
  """
  arguments = {key: value for key, value in section.items() if key != 'name'}
  cls = load(kind, section['name'])
  try:
    inspect.signature(cls).bind(**arguments)
  except TypeError as e:
    takes = ', '.join(map(str, inspect.signature(cls).parameters.values())) or 'none'
    raise ValueError(f'{kind} {section["name"]!r}: {e}. Its arguments: {takes}.') from None
  for key, parameter in inspect.signature(cls).parameters.items():
    wanted = parameter.annotation
    if key in arguments and wanted in (bool, int, float) and not _is(arguments[key], wanted):
      raise ValueError(
        f'{kind} {section["name"]!r}: {key} must be of type {wanted.__name__}; found {arguments[key]!r}.'
      )
  return cls(**arguments)


def _is(value: Any, kind: type) -> bool:
  """Whether a value is of a plain type; a whole number is a float as well, a bool is neither."""
  if isinstance(value, bool):
    return kind is bool
  return isinstance(value, (int, float) if kind is float else kind)

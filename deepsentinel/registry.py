"""Names of encoders, objectives and sources, resolved lazily: a new one is one new file and one line here."""

import difflib
import importlib
from typing import Any

_KNOWN: dict[str, dict[str, str]] = {
  'encoder': {
    'resnet18': 'deepsentinel.encoders.resnet:ResNet18',
    'resnet34': 'deepsentinel.encoders.resnet:ResNet34',
    'resnet18attn': 'deepsentinel.encoders.attention:ResNet18Attention',
  },
  'objective': {
    'tile2vec': 'deepsentinel.objectives.tile2vec:Tile2Vec',
    'landcover': 'deepsentinel.objectives.landcover:LandCover',
  },
  'imagery source': {
    'synthetic': 'deepsentinel.sources.synthetic:SyntheticEarth',
    'local': 'deepsentinel.sources.local:LocalScenes',
    'bigearthnet': 'deepsentinel.sources.bigearthnet:BigEarthNet',
    'stacks': 'deepsentinel.sources.local:PatchStacks',
  },
  'label source': {
    'corine': 'deepsentinel.sources.corine:CorineVectors',
    'corine_raster': 'deepsentinel.sources.corine:CorineRaster',
    'openstreetmap': 'deepsentinel.sources.openstreetmap:OpenStreetMap',
  },
}


def known(kind: str) -> list[str]:
  return sorted(_KNOWN[kind])


def load(kind: str, name: str) -> Any:
  """The class registered as `name`; ValueError lists the known names and the closest one."""
  try:
    module, attribute = _KNOWN[kind][name].split(':')
  except KeyError:
    close = difflib.get_close_matches(str(name), known(kind), n=1)
    hint = f' Did you mean {close[0]!r}?' if close else ''
    raise ValueError(f'Unknown {kind} {name!r}. Known: {", ".join(known(kind))}.{hint}') from None
  return getattr(importlib.import_module(module), attribute)

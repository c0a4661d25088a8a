"""The corpus: points, pairs of scenes, patch files, a manifest, splits. `python -m deepsentinel.corpus --help`."""

import importlib
from typing import Any

_PUBLIC = {'run': 'deepsentinel.corpus.sample', 'Corpus': 'deepsentinel.corpus.card'}


def __getattr__(name: str) -> Any:
  if name in _PUBLIC:
    return getattr(importlib.import_module(_PUBLIC[name]), name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')

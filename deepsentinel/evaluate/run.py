"""Runs the probes on a prepared record set: opens it, embeds it with every checkpoint, compares."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from deepsentinel import legend, provenance
from deepsentinel.corpus import splits as splits_lib
from deepsentinel.data import records as records_lib
from deepsentinel.data import stores
from deepsentinel.evaluation import (
  baselines,
  cells,
  comparison,
  diagnostics,
  embeddings,
  frozen,
  intervals,
  probes,
  vectors,
)
from deepsentinel.train import checkpoint as checkpoint_lib
from deepsentinel.train import exported
from deepsentinel.train.trained import Trained

PLACES = (
  'Intervals are a 95 % bootstrap over blocks of 50 km of test patches: they cover which places were tested, not which '
  'labels were drawn, nor how training was seeded.'
)


@dataclasses.dataclass(frozen=True)
class Request:
  """What the command asks for; see the flags of probe.py."""

  checkpoints: Sequence[str]
  data: str = 'deepsentinel_labelled'
  data_dir: str = ''
  splits: Sequence[str] = comparison.SPLITS
  stage: str = 'pretrain'
  target: str = 'corine_level1'
  fractions: Sequence[float] = (0.05, 0.1, 0.25, 1.0)
  cells: int = 16
  forest: bool = True
  seed: int = 0
  k: int = 5
  progress: bool = True
  cache: pathlib.Path | None = None


def parse_fractions(texts: Sequence[str]) -> tuple[float, ...]:
  """Shares of the labels from the command line, ascending; ValueError for what is none."""
  try:
    values = sorted({float(text) for text in texts})
  except ValueError:
    values = []
  if not values or not 0 < values[0] <= values[-1] <= 1:
    raise ValueError(f'--fractions={",".join(texts)} are no shares of the labels: numbers above 0 up to 1.')
  return tuple(values)


def load(checkpoints: Sequence[str], stage: str) -> dict[str, Trained]:
  """Name -> checkpoint: the run's folder, with as much of its path as tells it from the others."""
  if not checkpoints:
    raise ValueError('--checkpoint names none; pass a run directory.')
  places = [_place(checkpoint) for checkpoint in checkpoints]
  paths = [pathlib.Path(exported.split_pin(place)[0]) for place in places]  # for names; a URL stays what it is
  twice = sorted({place for place in places if places.count(place) > 1})
  if twice:
    raise ValueError(f'--checkpoint names {", ".join(twice)} twice; name each run once.')
  paths_without = [p.parent if p.name in ('pretrain', 'finetune') else p for p in paths]
  depth = 1
  while len({p.parts[-depth:] for p in paths_without}) < len({*paths_without}):
    depth += 1
  names = ['/'.join(p.parts[-depth:]) for p in paths_without]
  names = [n if names.count(n) == 1 else f'{n}/{p.name}' for n, p in zip(names, paths, strict=True)]
  return {name: checkpoint_lib.load_trained(place, stage=stage) for name, place in zip(names, places, strict=True)}


def _place(checkpoint: str | os.PathLike) -> str:
  text = os.fspath(checkpoint)
  return text.rstrip('/') if stores.is_url(text) else str(pathlib.Path(text).expanduser().resolve())


def encoders(models: dict[str, Trained], seed: int, accept_level: str = '') -> list[tuple[str, frozen.Frozen]]:
  """(kind, encoder) of every checkpoint, and of a random twin for each architecture among them."""
  found = [('embedding', frozen.of_trained(t, name, accept_level=accept_level)) for name, t in models.items()]
  kinds = {frozen.architecture(t): t for t in models.values()}
  for number, trained in enumerate(kinds.values()):
    name = 'random encoder' + (f' {number + 1}' if len(kinds) > 1 else '')
    found.append(('random', frozen.random_twin(trained, name, seed=seed, accept_level=accept_level)))
  return found


def evaluate(request: Request) -> dict[str, Any]:
  """The whole result, as evaluation.json holds it.

  Raises:
    ValueError: wrong arguments, no such checkpoint or records, records that an encoder was not trained for, or that
      hold neither label maps nor class lists.
  """
  directory = records_lib.resolve(request.data, request.data_dir)
  unknown = sorted(set(request.splits) - set(comparison.SPLITS))
  if unknown:
    raise ValueError(f'Unknown --splits {", ".join(unknown)}. Known: {", ".join(comparison.SPLITS)}.')
  there = records_lib.splits(directory)
  first = records_lib.RecordSet(directory, there[0]) if there else None
  mapped = first is not None and first.labelled and set(comparison.SPLITS) <= set(there)
  if mapped and not _lists_alone(request, directory, there):
    return _with_maps(request, directory)
  return _with_lists(request, directory)


def _target(request: Request, directory) -> legend.Target:
  return legend.target(request.target, legend.map_classes(records_lib.card(directory).get('landcover') or ()))


def _lists_alone(request: Request, directory, there: Sequence[str]) -> bool:
  """Whether labelled records hold class lists, and maps in which no train pixel has a class of the target."""
  target, train = _target(request, directory), records_lib.RecordSet(directory, 'train')
  if target.is_scene or target.field not in train.fields or baselines.has_labels(train, target):
    return False
  asked = [records_lib.RecordSet(directory, split) for split in request.splits if split in there]
  return any(any(records.table['classes']) for records in asked)


def _with_maps(request: Request, directory) -> dict[str, Any]:
  target = _target(request, directory)
  if target.is_scene:
    raise ValueError(
      f'--target={request.target} is one answer a patch, of deepsentinel_mines; name a target of pixels.'
    )
  models = load(request.checkpoints, request.stage)
  sets = {split: records_lib.RecordSet(directory, split) for split in comparison.SPLITS}
  if target.field not in sets['train'].fields:
    raise ValueError(f'{directory} has no {target.field!r} maps, which --target={target.name} needs.')
  chosen = encoders(models, request.seed)
  for _, encoder in chosen:
    encoder.open(sets['train'].spec)  # before anything slow
  grid = cells.CellGrid(sets['train'].patch_px, request.cells)
  table = sets['test'].table
  block = splits_lib.block_numbers(table['lon_deg'].to_numpy(), table['lat_deg'].to_numpy(), intervals.BLOCK_KM)
  task = comparison.open_task(sets, target, grid, block, seed=request.seed, progress=request.progress)
  fractions, skipped = comparison.fractions_to_take(task, request.fractions)
  methods, about = _embed(request, chosen, sets, grid)
  methods += [comparison.band_method(task, progress=request.progress)]
  methods += [comparison.Method('random forest', 'forest')] if request.forest else []
  methods += [comparison.Method('majority', 'majority')]
  rows = comparison.compare(task, methods, fractions=fractions, progress=request.progress)
  few = comparison.FEW if len(table) < comparison.FEW_PATCHES else ''
  leaking = sorted(name for name, trained in models.items() if trained.stage == 'finetune')
  learned = f'Trained with all train labels, whatever share the probe gets: {", ".join(leaking)}.' if leaking else ''
  reason = next((row['no_interval'] for row in rows if row['no_interval']), '')
  return {
    'kind': 'maps', 'data': sets['train'].card['name'], 'directory': str(directory), 'target': target.name,
    'title': target.title, 'classes': list(target.classes), 'synthetic': sets['test'].synthetic,
    'patches': {split: len(own) for split, own in sets.items()}, 'blocks': len(np.unique(block)),
    'cells_per_patch': grid.count, 'seed': request.seed, 'fractions': fractions,
    'caveats': [c for c in (few, skipped, learned, f'No intervals: {reason}.' if reason else PLACES) if c],
    'methods': about, 'verdicts': comparison.verdicts(rows), 'rows': rows,
    'git_commit': provenance.git_commit(), 'versions': provenance.versions(),
  }  # fmt: skip


def _embed(request: Request, chosen, sets, grid) -> tuple[list[comparison.Method], list[dict[str, Any]]]:
  """Every encoder as a method, and what is said of it: facts and diagnostics of its features on test."""
  methods, about = [], []
  cache = request.cache or vectors.default_cache()
  for kind, encoder in chosen:
    found = {
      split: vectors.encode(encoder, own, grid, cache=cache, progress=request.progress) for split, own in sets.items()
    }
    methods.append(comparison.Method(encoder.name, kind, found, encoder.facts))
    collapse = diagnostics.describe(found['test'].patch, found['test'].cell, seed=request.seed)
    about.append({'name': encoder.name, 'kind': kind, **encoder.facts, 'diagnostics': collapse})
  return methods, about


def _with_lists(request: Request, directory) -> dict[str, Any]:
  there = records_lib.splits(directory)
  pooled = [records_lib.RecordSet(directory, split) for split in request.splits if split in there]
  if not pooled:
    raise ValueError(f'{directory} has no split {", ".join(request.splits)}; it has {", ".join(there)}.')
  tags = [[c for c in value.split(';') if c] for records in pooled for value in records.table['classes']]
  if not any(tags):
    raise ValueError(
      f'{directory} has neither label maps in train, validation and test nor class lists (column "classes"). Name '
      'records of deepsentinel_labelled, or sample a corpus from a source that has class lists.'
    )
  matrix, names = probes.tag_matrix(tags)
  models = load(request.checkpoints, request.stage)
  chosen = {name: frozen.of_trained(trained, name) for name, trained in models.items()}
  for encoder in chosen.values():
    encoder.open(pooled[0].spec)
  grid, cache = cells.CellGrid(pooled[0].patch_px, 1), request.cache or vectors.default_cache()
  embed = functools.partial(vectors.encode, grid=grid, cache=cache, progress=request.progress)
  found = {
    name: np.concatenate([embed(encoder, records).patch for records in pooled]) for name, encoder in chosen.items()
  }
  plain = embeddings.band_features(*pooled)
  scored = {name: probes.knn_multilabel(vector, matrix, k=request.k) for name, vector in found.items()}
  return {
    'kind': 'lists', 'data': pooled[0].card['name'], 'patches': len(matrix), 'classes': names,
    'synthetic': pooled[0].synthetic, 'caveat': comparison.FEW if len(matrix) < comparison.FEW_PATCHES else '',
    'methods': [{'name': name, 'kind': 'embedding', **encoder.facts} for name, encoder in chosen.items()],
    'embedding': next(iter(scored.values())), 'embeddings': scored,
    'band_statistics': probes.knn_multilabel(plain, matrix, k=request.k),
  }  # fmt: skip


def synthetic_banner(synthetic: bool) -> str:
  """What stands above every result from computed pixels; '' for real ones."""
  return 'SyntheticEarth, a simulated world: no number here says anything about the Earth.' if synthetic else ''

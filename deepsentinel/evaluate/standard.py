"""Runs a published benchmark: opens it, embeds it with every encoder, probes."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import scipy.ndimage

from deepsentinel import legend, provenance
from deepsentinel.corpus import splits as splits_lib
from deepsentinel.evaluate import others, run
from deepsentinel.evaluation import cells, comparison, diagnostics, fitting, intervals, metrics, tags, vectors
from deepsentinel.evaluation.benchmarks import base, bigearthnet, eurosat, sen1floods11

NAMES = ('eurosat', 'bigearthnet_v2', 'sen1floods11')
_CELLS = 2  # kept of each patch where only patches are probed: a pair, for alignment


@dataclasses.dataclass(frozen=True)
class Request:
  """What the command asks for; see the flags of benchmark.py."""

  name: str
  directory: pathlib.Path
  checkpoints: Sequence[str] = ()
  encoders: Sequence[str] = ()
  stage: str = 'pretrain'
  bands: Sequence[str] = ()
  accept_level: str = ''
  lists: str = 'published'
  fractions: Sequence[float] = (1.0,)
  forest: bool = True
  seed: int = 0
  progress: bool = True
  cache: pathlib.Path | None = None


def open_benchmark(request: Request) -> base.Benchmark:
  """Opens a benchmark; ValueError for an unknown name, or a folder that does not hold it."""
  if request.name not in NAMES:
    raise ValueError(f'Unknown benchmark {request.name!r}. Known: {", ".join(NAMES)}.')
  options: dict[str, Any] = {'bands': request.bands, 'progress': request.progress}
  if request.name == 'eurosat':
    return eurosat.open_benchmark(request.directory, lists=request.lists, **options)
  opener: Callable[..., base.Benchmark] = {
    'bigearthnet_v2': bigearthnet.open_benchmark, 'sen1floods11': sen1floods11.open_benchmark,
  }[request.name]  # fmt: skip
  return opener(request.directory, **options)


def evaluate(request: Request) -> dict[str, Any]:
  """The whole result, as evaluation.json holds it.

  Raises:
    ValueError: wrong arguments, a folder without the benchmark, an encoder that was not trained for its pixels.
  """
  if not request.checkpoints and not request.encoders:
    raise ValueError('Name what to score: --checkpoint=RUN, or --encoder=torchgeo:WEIGHTS.')
  models = run.load(request.checkpoints, request.stage) if request.checkpoints else {}
  chosen = run.encoders(models, request.seed, request.accept_level)
  chosen += [('embedding', others.load(name, seed=request.seed)) for name in request.encoders]
  benchmark = open_benchmark(request)
  test = benchmark.splits['test']
  for _, encoder in chosen:  # before anything slow
    try:
      encoder.open(test.spec)
    except ValueError as error:
      own = models[encoder.name].spec if encoder.name in models else test.spec
      of_level = own.s2_level != test.spec.s2_level and set(own.s2_bands) & set(test.spec.s2_bands)
      if not of_level or request.accept_level == test.spec.s2_level:
        raise
      hint = f'Or pass --accept_level={test.spec.s2_level}: its pixels are taken as they are, and the result says so.'
      raise ValueError(f'{error} {hint}') from error
  grid = cells.CellGrid(test.patch_px, 0 if benchmark.positive else _CELLS)
  methods, about = [], []
  for kind, encoder in chosen:
    found = {
      split: vectors.encode(
        encoder, own, grid, cache=request.cache or vectors.default_cache(), progress=request.progress
      )
      for split, own in benchmark.splits.items()
    }
    methods.append(comparison.Method(encoder.name, kind, found, encoder.facts))
    collapse = diagnostics.describe(found['test'].patch, found['test'].cell, seed=request.seed)
    about.append({'name': encoder.name, 'kind': kind, **encoder.facts, 'diagnostics': collapse})
  plain = {
    split: cells.band_statistics(own, grid, progress=request.progress) for split, own in benchmark.splits.items()
  }
  methods.append(comparison.Method('band statistics', 'bands', plain))
  block, placed = blocks(test)
  rows = _probe(request, benchmark, methods, grid, block)
  return {
    'kind': 'benchmark', 'data': benchmark.title, 'title': _title(benchmark), 'source': benchmark.source,
    'directory': str(request.directory), 'classes': list(benchmark.classes), 'synthetic': False,
    'patches': {split: len(own) for split, own in benchmark.splits.items()}, 'blocks': len(np.unique(block)),
    'bands': list(test.spec.bands), 's2_level': test.spec.s2_level, 'seed': request.seed,
    'fractions': list(request.fractions), 'positive': benchmark.positive,
    'caveats': _caveats(request, benchmark, models, rows, placed),
    'methods': about, 'verdicts': [] if benchmark.several else comparison.verdicts(rows), 'rows': rows,
    'git_commit': provenance.git_commit(), 'versions': provenance.versions(),
  }  # fmt: skip


def blocks(images: base.Images) -> tuple[np.ndarray, bool]:
  """(the spatial block of every patch, int [N]; whether all have a place: one without is a block of its own)."""
  lon, lat = images.table['lon_deg'].to_numpy(float), images.table['lat_deg'].to_numpy(float)
  placed = np.isfinite(lon) & np.isfinite(lat)
  block = np.arange(len(images))
  if placed.any():
    block[placed] = len(images) + splits_lib.block_numbers(lon[placed], lat[placed], intervals.BLOCK_KM)
  return block, bool(placed.all())


def _title(benchmark: base.Benchmark) -> str:
  return 'lists of classes' if benchmark.several else f'a class for every {"patch" if benchmark.labels else "pixel"}'


def _caveats(request: Request, benchmark: base.Benchmark, models, rows, placed: bool) -> list[str]:
  test, said = benchmark.splits['test'], list(benchmark.notes)
  if len(test) < comparison.FEW_PATCHES and not benchmark.positive:
    said.insert(0, comparison.FEW)
  taken = sorted(n for n, t in models.items() if test.spec.s2_bands and t.spec.s2_level != test.spec.s2_level)
  if taken:
    said.append(
      f'Pixels are Sentinel-2 {test.spec.s2_level}, taken as they are (--accept_level={request.accept_level}) by '
      f'encoders of another level: {", ".join(taken)}.'
    )
  computed = sorted(name for name, trained in models.items() if trained.synthetic)
  if computed:
    said.append(f'Pretrained on SyntheticEarth, a simulated world: {", ".join(computed)}.')
  reason = next((row['no_interval'] for row in rows if row['no_interval']), '')
  said.append(f'No intervals: {reason}.' if reason else run.PLACES)
  if not placed:
    said.append('Patches without a place are drawn singly, so intervals are too narrow where neighbours are alike.')
  return said


def _probe(
  request: Request, benchmark: base.Benchmark, methods: list[comparison.Method], grid, block
) -> list[dict[str, Any]]:
  options: dict[str, Any] = {'fractions': request.fractions, 'progress': request.progress}
  if benchmark.several:
    features = {m.name: (m.kind, {s: f.patch for s, f in (m.features or {}).items()}) for m in methods}
    return tags.compare(benchmark.labels, features, block, seed=request.seed, **options)
  majority = comparison.Method('majority', 'majority')
  if benchmark.labels:
    colours = np.zeros((len(benchmark.classes), 3), np.uint8)
    target = legend.Target(benchmark.name, benchmark.title, '', benchmark.classes, colours, np.zeros(0, np.int32))
    labels = {split: cells.PerPlace(y, np.zeros((len(y), 0), np.int64)) for split, y in benchmark.labels.items()}
    task = comparison.Task(benchmark.splits, target, grid, labels, block, request.seed)
    return comparison.compare(task, [*methods, majority], levels=('patch',), **options)
  task = comparison.open_task(
    benchmark.splits, sen1floods11.TARGET, grid, block, seed=request.seed, progress=request.progress
  )
  forest = [comparison.Method('random forest', 'forest')] if request.forest else []
  rows = comparison.answers(task, [*methods, *forest, majority], levels=('cell', 'pixel'), **options)
  rows += [_pixels(task, method, f) for f in request.fractions for method in methods]
  rows = comparison.finish(sorted(rows, key=lambda row: row['level']))
  number = benchmark.classes.index(benchmark.positive)
  for row in rows:
    row['positive_iou'], row['intervals']['positive_iou'] = row['iou'][number], row['iou_intervals'][number]
  return rows


def _pixels(task: comparison.Task, method: comparison.Method, fraction: float) -> dict[str, Any]:
  """The linear probe of cells, its scores interpolated to pixels and scored there."""
  features: Mapping[str, cells.PerPlace] = method.features or {}
  classes, parts = len(task.target.classes), {}
  for split in ('train', 'validation'):
    share = task.share(split, fraction)
    y = task.labels[split].cell[share]
    parts[split] = fitting.Sample(features[split].cell[share][y >= 0], y[y >= 0])
  x = features['test'].cell.reshape(-1, features['test'].cell.shape[-1])
  answer = fitting.probe('linear', parts['train'], parts['validation'], x, classes)
  side, test = task.grid.side, task.records['test']
  found = fitting.probabilities(parts['train'], answer.chosen, x, classes)
  maps = found.reshape(len(test), side, side, classes)
  confusions = []
  for number, scores in enumerate(maps):
    label = task.target.lookup[test.read(task.target.field, [number])[0]]
    fine = [to_pixels(scores[..., k], test.patch_px, task.grid.first_px) for k in range(classes)]
    confusions.append(metrics.confusion_matrix(label, np.argmax(fine, 0), classes))
  stacked = np.stack(confusions)
  return comparison.row_of(task, method, fraction, 'pixel', 'linear', stacked, answer.chosen, answer.validation)


def to_pixels(scores: np.ndarray, patch_px: int, first_px: int) -> np.ndarray:
  """Scores of cells [side, side] at every pixel [patch_px, patch_px]: bilinear between their centres."""
  at = (np.arange(patch_px) - first_px + 0.5) / cells.CELL_PX - 0.5
  return scipy.ndimage.map_coordinates(scores, np.meshgrid(at, at, indexing='ij'), order=1, mode='nearest')

"""Frozen features under one probe, beside what has to be beaten: the same patches, labels and draws for every method.

Rows of the result are plain JSON values, one for each level ('patch', 'cell'), method, probe and share of the labels.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tqdm

from deepsentinel import legend
from deepsentinel.data import subsets
from deepsentinel.evaluation import baselines, cells, fitting, intervals, metrics

LEVELS = ('patch', 'cell')
PLURAL = {'patch': 'patches', 'cell': 'cells', 'pixel': 'pixels'}
SPLITS = ('train', 'validation', 'test')
HEADLINE = 'weighted_iou'  # the paper's, and what hyper-parameters are chosen by
LEAST_PATCHES = 8  # a smaller subset is luck
FEW_PATCHES = 200  # tested; below it, one patch more or less moves a score by more than methods differ
_CLASS_DRAWS = 1000
FEW = 'So few patches rank no method above another.'

Features = Mapping[str, cells.PerPlace]  # split -> features


@dataclasses.dataclass(frozen=True)
class Method:
  """Something that is probed.

  Attributes:
    name: unique.
    kind: 'embedding', 'random', 'bands', 'forest' or 'majority'.
    features: of every split; None where the method answers without a probe.
    facts: plain JSON values.
  """

  name: str
  kind: str
  features: Features | None = None
  facts: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Task:
  """Labelled splits, and how their cells are looked at.

  Attributes:
    records: split -> RecordSet.
    target: what is predicted.
    grid: of cells.
    labels: split -> class of every patch [N] and chosen cell [N, P]; -1 unknown.
    block: int [N] of the test patches, their spatial blocks.
    seed: of the subsets of labels and of the forest.
  """

  records: Mapping[str, Any]
  target: legend.Target
  grid: cells.CellGrid
  labels: Mapping[str, cells.PerPlace]
  block: np.ndarray
  seed: int = 0

  def share(self, split: str, fraction: float) -> np.ndarray:
    """Patch numbers of a split's nested, class-stratified subset; the same for every method."""
    dominant = self.labels[split].patch
    order = subsets.nested_order(dominant, self.seed)
    return subsets.first_share(order, fraction)


def open_task(
  records: Mapping[str, Any], target: legend.Target, grid: cells.CellGrid, block: np.ndarray, *, seed: int = 0,
  progress: bool = True,
) -> Task:  # fmt: skip
  """Reads the labels of every split; a cell or a patch has the class of most of its labelled pixels.

  Raises:
    ValueError: a split without any label of the target.
  """
  labels = {}
  for split, own in records.items():
    counts = cells.class_counts(own, grid, target, progress=progress)
    labels[split] = cells.PerPlace(cells.majority(counts.patch), cells.majority(counts.cell))
    if (labels[split].cell < 0).all():
      raise ValueError(
        f'Split {split} of {own.directory} has no label of {target.title} in any cell looked at. Choose a --target '
        'that the corpus was labelled for.'
      )
  return Task(records, target, grid, labels, block, seed)


def band_method(task: Task, *, progress: bool = True) -> Method:
  """Mean and standard deviation of every band, of a patch or of a cell."""
  found = {split: cells.band_statistics(own, task.grid, progress=progress) for split, own in task.records.items()}
  return Method('band statistics', 'bands', found)


def fractions_to_take(task: Task, fractions: Sequence[float]) -> tuple[list[float], str]:
  """(shares that leave enough train patches, what is said of the others)."""
  total = len(task.labels['train'].patch)
  counts = {f: max(1, round(f * total)) for f in sorted(fractions)}
  taken = [f for f, count in counts.items() if count >= LEAST_PATCHES]
  skipped = [f'{100 * f:g} % ({count})' for f, count in counts.items() if count < LEAST_PATCHES]
  if not taken:
    raise ValueError(
      f'None of --fractions leaves {LEAST_PATCHES} of the {total} train patches. Pass larger --fractions, or '
      'sample a larger corpus.'
    )
  said = f'Left out, because fewer than {LEAST_PATCHES} train patches remain: {", ".join(skipped)}.' if skipped else ''
  return taken, said


def compare(
  task: Task,
  methods: Sequence[Method],
  *,
  fractions: Sequence[float] = (1.0,),
  levels: Sequence[str] = LEVELS,
  probes: Sequence[str] = fitting.PROBES,
  forest_pixels: int = 30_000,
  progress: bool = True,
) -> list[dict[str, Any]]:
  """Probes every method at every level with every share of the labels.

  Args:
    task, methods, fractions: what is probed, and with which shares of the train labels.
    levels: 'patch', 'cell', and 'pixel', at which methods without features alone answer.
    probes: of `fitting.PROBES`.
    forest_pixels: that the forest is trained on.
    progress: shows a bar.
  Returns:
    rows of plain JSON values, each with level, method, kind, probe ('' where there is none), fraction, train_patches,
    chosen, validation, what `scored` says, and of embeddings and random encoders 'gain' (see `finish`).
  """
  options: dict[str, Any] = {'fractions': fractions, 'levels': levels, 'probes': probes}
  return finish(answers(task, methods, forest_pixels=forest_pixels, progress=progress, **options))


def answers(
  task: Task, methods: Sequence[Method], *, fractions: Sequence[float], levels: Sequence[str],
  probes: Sequence[str] = fitting.PROBES, forest_pixels: int = 30_000, progress: bool = True,
) -> list[dict[str, Any]]:  # fmt: skip
  """The rows of `compare` for `finish`, to which others of the same task may be added."""
  jobs = [(m, f) for f in fractions for m in methods]
  rows: list[dict[str, Any]] = []
  with tqdm.tqdm(jobs, desc='Probing', unit=' fits', leave=False, disable=not progress) as bar:
    for method, fraction in bar:
      bar.set_postfix_str(f'{method.name}, {100 * fraction:g} %')
      found = _answers(task, method, fraction, levels, probes, forest_pixels)
      rows += [row_of(task, method, fraction, *answer) for answer in found]
  return rows


def _answers(task: Task, method: Method, fraction: float, levels, probes, forest_pixels: int):
  """(level, probe, confusion matrix of each patch of test, hyper-parameter, score on validation) of a method."""
  if method.kind == 'majority':
    for level in levels:
      yield level, '', _majority(task, fraction, level), None, None
  elif method.kind == 'forest':
    for level, confusions in _forest(task, fraction, forest_pixels, levels).items():
      yield level, '', confusions, None, None
  else:
    assert method.features is not None
    for level in (level for level in levels if level != 'pixel'):
      parts = {
        split: _sample(task, method.features[split], split, level, task.share(split, fraction)) for split in SPLITS[:2]
      }
      test = getattr(method.features['test'], level)
      for probe in probes:
        answer = fitting.probe(
          probe, parts['train'], parts['validation'], test.reshape(-1, test.shape[-1]), len(task.target.classes)
        )
        output = answer.output.reshape(test.shape[:-1])
        yield level, probe, _confusions(task, _labels(task, 'test', level), output), answer.chosen, answer.validation


def _labels(task: Task, split: str, level: str) -> np.ndarray:
  return getattr(task.labels[split], level)


def _sample(task: Task, features: cells.PerPlace, split: str, level: str, patches: np.ndarray) -> fitting.Sample:
  """The labelled places of some patches."""
  x, y = getattr(features, level)[patches], _labels(task, split, level)[patches]
  known = y >= 0
  if split == 'train' and not known.any():
    raise ValueError(f'None of the {len(patches)} train patches taken has a label of {task.target.title}.')
  return fitting.Sample(x[known], y[known])


def _confusions(task: Task, label: np.ndarray, output: np.ndarray) -> np.ndarray:
  """int64 [N, K, K] of each patch, rows = reference, of classes [N, ...]."""
  classes = len(task.target.classes)
  return np.stack([metrics.confusion_matrix(y, guess, classes) for y, guess in zip(label, output, strict=True)])


def _majority(task: Task, fraction: float, level: str) -> np.ndarray:
  """Confusion matrices int64 [N, K, K] of always saying the class that most train places have."""
  share = task.share('train', fraction)
  if level == 'pixel':
    counts = baselines.class_counts(task.records['train'], task.target, index=share, progress=False)
    tested = baselines.patch_class_counts(task.records['test'], task.target, progress=False)
    return np.stack([baselines.majority(counts, one) for one in tested])
  known, label = _labels(task, 'train', level)[share], _labels(task, 'test', level)
  most = int(np.bincount(known[known >= 0], minlength=1).argmax())
  return _confusions(task, label, np.full(label.shape, most))


def _forest(task: Task, fraction: float, pixels: int, levels: Sequence[str]) -> dict[str, np.ndarray]:
  """Level -> confusion matrices int64 [N, K, K] of the per-pixel forest: of a patch or cell it says what it says of
  most of its pixels."""
  spec = task.records['train'].spec
  share = task.share('train', fraction)
  predict = baselines.fit_forest(
    task.records['train'], target=task.target, index=share, train_pixels=pixels, seed=task.seed, progress=False
  )
  classes, test = len(task.target.classes), task.records['test']
  found: dict[str, list[np.ndarray]] = {level: [] for level in levels}
  for numbers in cells.chunks(test, 'Forest', False):
    pixel = cells.physical(test, numbers, spec.bands)
    guess = predict(pixel.reshape(-1, pixel.shape[-1])).reshape(pixel.shape[:3])
    for level, confusions in found.items():
      if level == 'pixel':
        label, output = task.target.lookup[test.read(task.target.field, numbers)], guess
      elif level == 'cell':
        output = task.grid.take(cells.counted(task.grid.split(guess), classes).argmax(-1), numbers)
        label = task.labels['test'].cell[numbers]
      else:
        output = cells.counted(guess.reshape(len(guess), -1), classes).argmax(-1)
        label = task.labels['test'].patch[numbers]
      confusions.append(_confusions(task, label, output))
  return {level: np.concatenate(confusions) for level, confusions in found.items()}


def row_of(
  task: Task, method: Method, fraction: float, level: str, probe: str, confusions: np.ndarray, chosen, validation
) -> dict[str, Any]:
  """A row for `finish`, of the confusion matrices [N, K, K] of the test patches."""
  return {
    'level': level, 'method': method.name, 'kind': method.kind, 'probe': probe, 'fraction': fraction,
    'train_patches': len(task.share('train', fraction)), 'chosen': chosen, 'validation': validation,
    **scored(confusions, task.records['test'].table['id'], task.block),
  }  # fmt: skip


def scored(confusions: np.ndarray, id: Sequence[str], block: np.ndarray) -> dict[str, Any]:
  """Scores of test patches with their intervals.

  Args:
    confusions: int64 [N, K, K] of each patch, rows = reference.
    id: of each patch.
    block: int [N], its spatial block.
  Returns:
    what `metrics.method` says of all, 'intervals' (score -> [low, high] or None), 'iou_intervals' (the same of each
    class), 'no_interval' (why there are none), and 'resampled', which is no JSON value.
  """
  resampled = intervals.resample([str(i) for i in id], block, confusions)
  found = {name: intervals.of_score([resampled], name)[0] for name in metrics.SCORES}
  by_class: list[list[float] | None] = [None] * confusions.shape[1]
  if not resampled.reason:
    drawn = intervals.times_drawn(block, _CLASS_DRAWS) @ confusions.reshape(len(confusions), -1)
    iou = metrics.rates(drawn.reshape(_CLASS_DRAWS, *confusions.shape[1:]))['iou']  # [R, K]
    for k in np.flatnonzero(~np.isnan(iou).all(0)):
      own = intervals.of_draws(iou[:, k], resampled.blocks)
      by_class[k] = [own.low, own.high]
  return {
    **metrics.method(confusions.sum(0)),
    'intervals': {name: None if i is None else [i.low, i.high] for name, i in found.items()},
    'iou_intervals': by_class, 'no_interval': resampled.reason, 'resampled': resampled,
  }  # fmt: skip


def finish(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """Rows as plain JSON values, each encoder's with how far it is above the best that has learned nothing of the kind.

  'gain': {'over': the best baseline of that level, probe and share; HEADLINE: the difference; 'interval': its
  [low, high], resampled in pairs, or None}.
  """
  for row in rows:
    if row['kind'] not in ('embedding', 'random'):
      continue
    beaten = ('bands', 'forest', 'majority', *(['random'] if row['kind'] == 'embedding' else []))
    rivals = [
      r for r in rows
      if r['kind'] in beaten and r['probe'] in ('', row['probe'])
      and (r['level'], r['fraction']) == (row['level'], row['fraction'])
    ]  # fmt: skip
    if not rivals:
      continue
    best = max(rivals, key=lambda r: r[HEADLINE])
    interval, _ = intervals.of_gain([(row['resampled'], best['resampled'])], HEADLINE)
    row['gain'] = {
      'over': best['method'], HEADLINE: row[HEADLINE] - best[HEADLINE],
      'interval': None if interval is None else [interval.low, interval.high],
    }  # fmt: skip
  return [{k: v for k, v in row.items() if k != 'resampled'} for row in rows]


def verdicts(rows: Sequence[Mapping[str, Any]]) -> list[str]:
  """One sentence for each embedding at the largest share: whether it beats every baseline, by its interval."""
  said = []
  for row in rows:
    if row['kind'] != 'embedding' or row['fraction'] != max(r['fraction'] for r in rows) or 'gain' not in row:
      continue
    gain, interval = row['gain'], row['gain']['interval']
    word, between = 'has no interval against', ''
    if interval is not None:
      word = 'beats' if interval[0] > 0 else 'loses to' if interval[1] < 0 else 'is not told apart from'
      between = f' [{100 * interval[0]:+.1f}, {100 * interval[1]:+.1f}]'
    said.append(
      f'{row["method"]}, {PLURAL[row["level"]]}, {row["probe"]} probe: {word} the best baseline, {gain["over"]} '
      f'({100 * gain[HEADLINE]:+.1f} points of weighted IoU{between}).'
    )
  return said

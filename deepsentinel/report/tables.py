"""What the numbers say: the table of scores, the verdict in words, and what differs between runs."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from deepsentinel.report.runs import Run

BASELINES = {'majority': 'majority class', 'random_forest': 'per-pixel random forest'}
TIE = 0.001  # of IoU: closer than 0.1 percentage points is called a tie
# Settings that say nothing about what is compared.
BOOKKEEPING = (
  'name', 'seed', 'log_every_steps', 'checkpoint.', 'evaluation.', 'data.download', 'data.read_threads',
  'data.resident',
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Method:
  """A row of the table: a run's model, the mean of several, or a baseline.

  Attributes:
    label, detail: what to call it, and what to add in small print.
    scores: as an entry of test.json's `methods`.
    run: of a model, the run or the first of them.
    spread: of a mean over seeds, half of each score's interval; None where one seed has it.
  """

  label: str
  detail: str
  scores: dict[str, Any]
  run: Run | None = None
  spread: dict[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def scored(self) -> bool:
    """False if the test split had no labelled pixel."""
    return self.scores['weighted_iou'] is not None

  def text(self, key: str, k: int | None = None) -> str:
    """A score in per cent, with its interval where there is one; `k` picks a class of 'iou'."""
    value, half = (d.get(key) if k is None else (d.get(key) or {k: None})[k] for d in (self.scores, self.spread))
    return percent(value) if half is None else f'{percent(value)} ± {percent(half)}'

  @property
  def weighted_iou(self) -> float:
    """NaN where there is no score."""
    return float(self.scores['weighted_iou']) if self.scored else float('nan')

  @property
  def objective(self) -> str:
    """The pretraining objective of a run; '' for a baseline."""
    return self.run.objective if self.run else ''

  @property
  def seed(self) -> Any:
    return self.run.config.get('seed') if self.run else None

  @property
  def config(self) -> dict[str, Any]:
    return self.run.config if self.run else {}


@dataclasses.dataclass(frozen=True)
class Comparison:
  """All that was tested.

  Attributes:
    classes: names, in label order; () where nothing was tested.
    target: name of what was predicted (`legend.target`).
    methods: runs first, in the order given, then baselines.
    test_patches: patches of the test split; 0 where nothing was tested.
    mismatch: why the rows cannot be ranked against each other; '' if they can.
  """

  classes: tuple[str, ...]
  target: str
  methods: tuple[Method, ...]
  test_patches: int
  mismatch: str

  @property
  def runs(self) -> list[Method]:
    return [m for m in self.methods if m.run]

  @property
  def baselines(self) -> list[Method]:
    return [m for m in self.methods if not m.run]


@dataclasses.dataclass(frozen=True)
class Verdict:
  headline: str
  sentences: tuple[str, ...]


def percent(value: float | None) -> str:
  """One decimal, as in the paper's tables; a dash for a score that does not exist."""
  return '–' if value is None else f'{100 * value:.1f}'


def labels(runs: list[Run]) -> list[str]:
  """One name per run: its pretraining; where runs share it, also what tells them apart: encoder, name or path."""
  names = [run.label for run in runs]
  for name in {name for name in names if names.count(name) > 1}:
    same = [i for i, other in enumerate(names) if other == name]
    for extra in ('encoder', 'name', 'path'):
      told_apart = [str(getattr(runs[i], extra)) for i in same]
      if len(set(told_apart)) == len(same) and '' not in told_apart:
        for i, more in zip(same, told_apart, strict=True):
          names[i] = f'{name} ({more})'
        break
  return names


def compare(runs: list[Run]) -> Comparison:
  """The rows of the table from all runs that were tested; each baseline once."""
  tested = [run for run in runs if run.test]
  if not tested:
    return Comparison((), '', (), 0, '')
  first = tested[0].test
  methods = []
  for run, label in zip(runs, labels(runs), strict=True):
    if run.test:
      detail = ' · '.join(part for part in (run.encoder, run.name) if part)
      methods.append(Method(label, detail, run.test['methods']['model'], run))
  baselines = []
  for key in dict.fromkeys(key for run in tested for key in run.test['methods'] if key != 'model'):
    entry = next(run.test['methods'][key] for run in tested if key in run.test['methods'])
    baselines.append(Method(BASELINES.get(key, key.replace('_', ' ')), 'baseline, no network', entry))
  methods += sorted(baselines, key=lambda m: -m.weighted_iou if m.scored else 0)
  mismatch = ''
  for run in tested[1:]:
    if run.test['target'] != first['target'] or run.test['classes'] != first['classes']:
      mismatch = f'{run.name} was scored on {run.test["target"]}, {tested[0].name} on {first["target"]}'
    elif _reference(run) != _reference(tested[0]):
      mismatch = f'{run.name} and {tested[0].name} were tested on different pixels'
    if mismatch:
      break
  if mismatch:
    methods = [m for m in methods if len(m.scores['iou']) == len(first['classes'])]
  return Comparison(
    tuple(first['classes']), first['target'], tuple(methods), int(first.get('test_patches', 0)), mismatch
  )


def _reference(run: Run) -> list[int]:
  return np.sum(run.test['methods']['model']['confusion'], 1).tolist()


def best(comparison: Comparison, key: str, index: int | None = None) -> set[str]:
  """Labels of the methods with the highest score as printed (several on a tie); `index` picks a class of 'iou'."""
  printed = {}
  for m in comparison.methods:
    value = m.scores[key] if index is None else m.scores[key][index]
    if value is not None:
      printed[m.label] = float(percent(value))
  top = max(printed.values(), default=None)
  return set() if comparison.mismatch or not top else {label for label, value in printed.items() if value == top}


def ranked(comparison: Comparison) -> list[Method]:
  """Methods by class-weighted IoU, highest first; none where they cannot be ranked."""
  scored = [m for m in comparison.methods if m.scored and not comparison.mismatch]
  return sorted(scored, key=lambda m: -m.weighted_iou)


def budget_difference(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
  """Settings outside pretraining in which two runs' configs differ; if any do, more than pretraining is compared."""
  return [
    key
    for key in sorted({*a, *b})
    if a.get(key) != b.get(key) and not key.startswith(('pretrain.', 'data.unlabelled', *BOOKKEEPING))
  ]


def config_differences(runs: list[Run], most: int = 6) -> list[tuple[str, list[str]]]:
  """(key, value per run) of every setting that is not the same in all runs with a config; of more than `most` runs
  [the different values]."""
  configured = [run for run in runs if run.config]
  keys = sorted({key for run in configured for key in run.config} - {'finetune.legend'})  # of the data, not set
  rows = []
  for key in keys:
    values = [repr(run.config[key]) if key in run.config else 'not set' for run in configured]
    different = list(dict.fromkeys(values))
    if len(different) > 1:
      rows.append((key, values if len(configured) <= most else [', '.join(_few(different, 8, 'values'))]))
  return rows


def verdict(comparison: Comparison, runs: list[Run]) -> Verdict:
  """Plain words, computed from the numbers: which wins, by how much, over what, and what that does not prove."""
  unfinished = [f'{run.name}: {run.problem}.' for run in runs if run.problem]
  if not comparison.methods:
    return Verdict('There is nothing to compare yet: no run has been tested.', tuple(unfinished))
  if comparison.mismatch:
    headline = f'These runs cannot be ranked: {comparison.mismatch}.'
    return Verdict(headline, tuple(unfinished))
  scored = ranked(comparison)
  if not scored:
    return Verdict('The test split has no labelled pixel, so there is no score.', tuple(unfinished))
  patches = counted(comparison.test_patches, 'test patch', 'test patches')
  models, baselines = [m for m in scored if m.run], [m for m in scored if not m.run]
  pair = _pretraining_pair(models)
  sentences = []
  if pair:
    headline, more = _pretraining(*pair, patches)
    sentences += more
  else:
    headline = (
      f'{capital(models[0].label)} reaches {percent(models[0].weighted_iou)} % class-weighted IoU on {patches}.'
    )
    if len(models) > 1:
      others = ', '.join(f'{m.label} {percent(m.weighted_iou)} %' for m in models[1:])
      sentences.append(f'It is the best of {len(models)} runs; the others: {others}.')
    elif models[0].objective != 'none':
      sentences.append('One run alone cannot say what its pretraining is worth.')
  winner = baselines[0] if baselines else None
  if winner and winner.weighted_iou - models[0].weighted_iou >= TIE:
    beaten = {1: 'it', 2: 'both'}.get(len(models), 'them all')
    headline += f' The {winner.label} beats {beaten}: {percent(winner.weighted_iou)} %.'
    baselines = baselines[1:]
  sentences += [_against_baseline(models, b) for b in baselines]
  seen = max((run.test.get('also_trained_on', 0) for run in runs if run.test), default=0)
  if seen:
    sentences.append(f'{seen} of {patches} stood in the training split too: the score shows only that the chain runs.')
  sentences += _caveats(comparison, models)
  return Verdict(headline, tuple(sentences + unfinished))


def _pretraining_pair(models: list[Method]) -> tuple[Method, Method] | None:
  """(best run with pretraining, best run without), where there are both."""
  with_ = [m for m in models if m.objective not in ('none', '')]
  without = [m for m in models if m.objective == 'none']
  return (with_[0], without[0]) if with_ and without else None


def _pretraining(with_: Method, without: Method, patches: str) -> tuple[str, list[str]]:
  differing = budget_difference(with_.config, without.config)
  gain = with_.weighted_iou - without.weighted_iou
  numbers = f'class-weighted IoU on {patches}'
  budget = ', although more than their pretraining differs' if differing else ' at the same fine-tuning budget'
  name, w, o = capital(with_.label), percent(with_.weighted_iou), percent(without.weighted_iou)
  if abs(gain) < TIE:
    headline = f'{name} and {without.label} tie{budget}: {w} % and {o} % {numbers}.'
  elif gain > 0:
    headline = f'{name} beats {without.label}{budget}: {w} % against {o} % {numbers}.'
  else:
    headline = f'{name} does not help{budget}: {w} % against {o} % without it, in {numbers}.'
  sentences = []
  if differing:
    sentences.append(f'The two runs also differ in {", ".join(differing)}, so this is not a test of pretraining alone.')
  return headline, sentences


def _against_baseline(models: list[Method], baseline: Method) -> str:
  """Which networks beat a baseline."""
  name, score, top = f'the {baseline.label}', percent(baseline.weighted_iou), models[0]
  better = [m for m in models if m.weighted_iou - baseline.weighted_iou >= TIE]
  if not better and abs(top.weighted_iou - baseline.weighted_iou) < TIE:
    return f'{capital(name)} ties with the best network: {score} % and {percent(top.weighted_iou)} %.'
  if not better:
    beaten = 'the network' if len(models) == 1 else 'every network'
    return f'{capital(name)} ({score} %) beats {beaten} as well.'
  if len(better) == len(models):
    who = {1: 'The network beats', 2: 'Both networks beat'}.get(len(models), f'All {len(models)} networks beat')
    return f'{who} {name} ({score} %).'
  return f'{capital(name)} ({score} %) is beaten only by {listed([m.label for m in better])}.'


def _caveats(comparison: Comparison, models: list[Method]) -> list[str]:
  sentences = []
  seeds: dict[str, set] = {}
  for m in models:
    seeds.setdefault(m.objective, set()).add(m.seed)
  if all(len(s) == 1 for s in seeds.values()):
    each = ' each' if len(models) > 1 else ''
    sentences.append(f'One seed{each}, so no claim of significance.')
  else:
    counts = ', '.join(f'{len(s)} for {m}' for m, s in seeds.items())
    sentences.append(f'Seeds differ between runs ({counts}); no interval is computed, so no claim of significance.')
  share = models[0].scores.get('reference_share') or np.sum(models[0].scores['confusion'], 1)
  columns = np.sum([m.scores['confusion'] for m in models], 0).diagonal()
  missed = [c for c, n, hit in zip(comparison.classes, share, columns, strict=True) if n and not hit]
  absent = [c for c, n in zip(comparison.classes, share, strict=True) if not n]
  if missed:
    sentences.append(f'Not one pixel of {listed(_few(missed), "or")} was found by {_every(models)}.')
  if absent:
    sentences.append(f'The test split has no pixel of {listed(_few(absent), "or")}.')
  return sentences


def _every(models: list[Method]) -> str:
  return 'the network' if len(models) == 1 else 'any network'


def _few(names: list[str], most: int = 4, what: str = 'classes') -> list[str]:
  return names if len(names) <= most else [*names[:most], f'{len(names) - most} more {what}']


def listed(names: list[str], word: str = 'and') -> str:
  return names[0] if len(names) == 1 else f'{", ".join(names[:-1])} {word} {names[-1]}'


def counted(n: int, word: str, plural: str = '') -> str:
  """'1 seed', '3 seeds'."""
  return f'{n:,} {word if n == 1 else plural or word + "s"}'


def capital(text: str) -> str:
  return text[:1].upper() + text[1:]

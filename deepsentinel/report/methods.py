"""Many runs as few methods: a method is a pretraining objective with an encoder at a label fraction, over its seeds.

Differences are paired: a pretrained run minus the run without pretraining of the same encoder, label fraction and seed,
which share the test split, the labelled patches and their order.
"""

import collections
import dataclasses
import zipfile
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from deepsentinel import legend
from deepsentinel.evaluation import intervals
from deepsentinel.report import tables
from deepsentinel.report.runs import ENCODERS, OBJECTIVES, Run

METRICS = {
  'weighted_iou': 'class-weighted IoU',
  'macro_iou': 'macro IoU',
  'overall_accuracy': 'overall accuracy',
}


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A mean over seeds.

  Attributes:
    mean: of the values.
    half_width: of the 95 % t-interval over seeds; None for a single one.
    seeds: how many.
    places: 95 % of a bootstrap over blocks of test patches, averaged over the seeds; None where it was not made.
    no_places: why it was not; '' if it was.
  """

  mean: float
  half_width: float | None
  seeds: int
  places: intervals.Interval | None = None
  no_places: str = ''

  def text(self, signed: bool = False) -> str:
    """'53.7 ± 1.2' in per cent; without the interval for one seed."""
    mean = _number(self.mean, signed)
    return mean if self.half_width is None else f'{mean} ± {100 * self.half_width:.1f}'

  def places_text(self, signed: bool = False) -> str:
    """'51.2 to 55.9' in per cent; '' where there is no interval over places."""
    return f'{_number(self.places.low, signed)} to {_number(self.places.high, signed)}' if self.places else ''

  @property
  def decided(self) -> bool:
    """Whether 0 lies outside the interval over seeds."""
    return self.half_width is not None and abs(self.mean) > self.half_width

  @property
  def verdict(self) -> str:
    """What a gain amounts to: 'helps', 'hurts' or 'undecided'."""
    return 'undecided' if not self.decided else 'helps' if self.mean > 0 else 'hurts'


def _number(share: float, signed: bool) -> str:
  """Per cent with one decimal; with a sign, and a real minus, if asked."""
  return f'{100 * share:+.1f}'.replace('-', '−') if signed else f'{100 * share:.1f}'


def estimate(values: Sequence[float], places: tuple[intervals.Interval | None, str] = (None, '')) -> Estimate:
  """Mean of one value per seed, with its 95 % t-interval; `places` as `intervals.of_score` gives it."""
  return Estimate(float(np.mean(values)), intervals.student_half_width(values), len(values), *places)


class Key(NamedTuple):
  """A method: what is predicted, from which share of the labels, after which pretraining, by which encoder."""

  target: str
  fraction: float
  objective: str
  encoder: str


class Slice(NamedTuple):
  """What methods must share to be compared."""

  target: str
  fraction: float

  @property
  def known(self) -> str:
    """What is predicted, for people."""
    return legend.target(self.target).title if self.target in legend.TARGETS else self.target

  @property
  def title(self) -> str:
    return f'{self.known}, {fraction_words(self.fraction)}'


@dataclasses.dataclass(frozen=True)
class Grid:
  """Tested runs by method and seed.

  Attributes:
    runs: method -> seed -> run.
    left_out: a sentence on each tested run that is in none, and why.
    resampled: directory of each run -> its scores on redrawn places.
  """

  runs: dict[Key, dict[int, Run]]
  left_out: tuple[str, ...]
  resampled: dict[str, intervals.Resampled]

  @property
  def slices(self) -> list[Slice]:
    """By target, the largest fraction first."""
    return sorted({Slice(key.target, key.fraction) for key in self.runs}, key=lambda s: (s.target, -s.fraction))

  def objectives(self, target: str, fraction: float | None = None) -> list[str]:
    """In the paper's order."""
    return ordered({k.objective for k in self.runs if _in(k, target, fraction)}, OBJECTIVES)

  def encoders(self, target: str, fraction: float | None = None) -> list[str]:
    """In the paper's order."""
    return ordered({k.encoder for k in self.runs if _in(k, target, fraction)}, ENCODERS)

  def fractions(self, target: str) -> list[float]:
    """From the smallest."""
    return sorted({key.fraction for key in self.runs if key.target == target})

  def score(self, key: Key, metric: str) -> Estimate:
    """Of one method, over its seeds."""
    runs = self.runs[key].values()
    places = intervals.of_score([self.resampled[str(run.path)] for run in runs], metric)
    return estimate([_model(run)[metric] for run in runs], places)

  def is_control(self, key: Key) -> bool:
    """Whether a method is a variant of no pretraining, such as one that spends its arithmetic on the labels."""
    return key.objective != 'none' and next(iter(self.runs[key].values())).objective == 'none'

  def gain(self, key: Key, metric: str) -> Estimate | None:
    """Over the same without pretraining, paired by seed; None for no pretraining, and where no pair was tested."""
    return None if key.objective == 'none' else self.difference(key, key._replace(objective='none'), metric)

  def pairs(self, key: Key, other: Key) -> list[tuple[Run, Run]]:
    """The runs of two methods that have the same seed."""
    others = self.runs.get(other, {})
    return [(run, others[seed]) for seed, run in self.runs[key].items() if seed in others]

  def difference(self, key: Key, other: Key, metric: str) -> Estimate | None:
    """One method minus another, paired by seed; None where no pair was tested."""
    pairs = self.pairs(key, other)
    if not pairs:
      return None
    places = [(self.resampled[str(a.path)], self.resampled[str(b.path)]) for a, b in pairs]
    return estimate([_model(a)[metric] - _model(b)[metric] for a, b in pairs], intervals.of_gain(places, metric))

  def class_iou(self, key: Key) -> list[Estimate | None]:
    """Of each class, over the seeds in which it occurs; None where it occurs in none."""
    columns = zip(*(_model(run)['iou'] for run in self.runs[key].values()), strict=True)
    known = [[value for value in column if value is not None] for column in columns]
    return [estimate(values) if values else None for values in known]

  def confusion(self, key: Key) -> np.ndarray:
    """int [K, K], summed over the seeds."""
    return np.sum([_model(run)['confusion'] for run in self.runs[key].values()], 0)

  def baseline(
    self, where: Slice, name: str, read: Callable[[dict[str, Any]], Any] = lambda entry: entry['weighted_iou']
  ):
    """One value per seed of a baseline: `read` of its entry in test.json, from the first run that has it."""
    values: dict[int, Any] = {}
    for key, runs in self.runs.items():
      for seed, run in runs.items():
        if key[:2] == where and name in run.test['methods']:
          values.setdefault(seed, read(run.test['methods'][name]))
    return list(values.values())


def _model(run: Run) -> dict[str, Any]:
  return run.test['methods']['model']


def _in(key: Key, target: str, fraction: float | None) -> bool:
  return key.target == target and fraction in (None, key.fraction)


def ordered(names: Iterable[str], known: dict[str, str]) -> list[str]:
  """The known names in their order, then the others by the alphabet."""
  names = set(names)
  return [*(name for name in known if name in names), *sorted(names - set(known))]


def fraction_words(fraction: float) -> str:
  return 'all labels' if fraction == 1 else f'{100 * fraction:g} % of the labels'


def objective_name(objective: str) -> str:
  """'Tile2Vec', 'no pretraining': short, for a chart or a row."""
  if objective.startswith('none_'):
    return f'no pretraining, {objective.removeprefix("none_").replace("_", " ")}'
  name = OBJECTIVES.get(objective, objective)
  return name if objective == 'none' else name.removesuffix(' pretraining')


def encoder_name(encoder: str) -> str:
  return ENCODERS.get(encoder, encoder)


def collect(runs: Sequence[Run]) -> Grid:
  """The tested runs as a grid.

  Configs that share an objective and encoder are methods of their own: the one named OBJECTIVE_ENCODER goes by its
  objective, a variant by its name. Of runs on one target, those scored on other pixels than most are left out, and of
  one method those of other settings than most, and a second run of one seed: a mean over both would count neither
  rightly.
  """
  tested = [run for run in runs if run.test and run.objective and _model(run)['weighted_iou'] is not None]
  references: dict[str, collections.Counter] = {}
  for run in tested:
    references.setdefault(run.test['target'], collections.Counter())[_reference(run)] += 1
  # Of all fractions, and of runs that failed too: a config goes by one name throughout.
  names: dict[tuple[str, str, str], set[str]] = {}
  for run in runs:
    if run.objective:
      names.setdefault(_family(run), set()).add(str(run.config.get('name', '')))
  by_method: dict[Key, list[Run]] = {}
  left_out = [f'{run.name} does not say how it was pretrained, and is in no mean' for run in runs
              if run.test and not run.objective]  # fmt: skip
  for run in tested:
    target = run.test['target']
    key, name = _key(run), str(run.config.get('name', ''))
    if name and name != min(names[_family(run)], key=lambda n: (not n.endswith(key.encoder), n)):
      key = key._replace(objective=name)  # a variant
    if _reference(run) != references[target].most_common(1)[0][0]:
      left_out.append(f'{run.name} was tested on other pixels than most runs on {target}, and is in no mean')
    else:
      by_method.setdefault(key, []).append(run)
  found: dict[Key, dict[int, Run]] = {}
  for key, alike in by_method.items():
    usual = max(alike, key=lambda run, alike=alike: sum(not unlike(run, other) for other in alike))  # type: ignore[misc]
    for run in alike:
      seed = int(run.config.get('seed', 0))
      if others := unlike(run, usual):
        values = ', '.join(f'{name} {run.config[name]!r}, not {usual.config[name]!r}' for name in others[:3])
        left_out.append(f'{run.name} has other settings than {usual.name} ({values}), and is in no mean')
      elif seed in found.setdefault(key, {}):
        left_out.append(f'{run.name} is of the same method and seed as {found[key][seed].name}, and is in no mean')
      else:
        found[key][seed] = run
  kept = {key: dict(sorted(seeds.items())) for key, seeds in found.items() if seeds}
  resampled = {str(run.path): _resample(run) for seeds in kept.values() for run in seeds.values()}
  return Grid(kept, tuple(left_out), resampled)


def unlike(run: Run, other: Run) -> list[str]:
  """Settings in which two runs of one method differ, as its seeds may not; a version may lack one that another has."""
  free = (
    'data.unlabelled', 'data.labelled', 'data.data_dir', 'pretrain.from_checkpoint', 'pretrain.probe',
    'finetune.legend', *tables.BOOKKEEPING,
  )  # fmt: skip
  both = sorted({*run.config} & {*other.config})
  return [key for key in both if run.config[key] != other.config[key] and not key.startswith(free)]


def _family(run: Run) -> tuple[str, str, str]:
  """Target, objective and encoder, which several configs may share."""
  target = run.test.get('target') or run.config.get('finetune.target', '')
  return str(target), run.objective, str(run.config.get('encoder.name', ''))


def _key(run: Run) -> Key:
  return Key(run.test['target'], run.label_fraction, run.objective, str(run.config.get('encoder.name', '')))


def _reference(run: Run) -> tuple:
  return (*run.test['classes'], *np.sum(_model(run)['confusion'], 1).tolist())


def _resample(run: Run) -> intervals.Resampled:
  try:
    with np.load(run.path / 'test_patches.npz', allow_pickle=False) as file:
      id, block, confusion = file['id'], file['block'], file['confusion']
    if confusion.sum(0).tolist() != _model(run)['confusion']:
      return intervals.Resampled(reason=f'test_patches.npz of {run.name} does not add up to its test.json')
    return intervals.resample(id, block, confusion)
  except FileNotFoundError:
    return intervals.Resampled(reason=f'{run.name} has no test_patches.npz')
  except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
    return intervals.Resampled(reason=f'test_patches.npz of {run.name} cannot be read')

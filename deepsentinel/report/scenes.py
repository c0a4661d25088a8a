"""The part of the report on scenes, one label a patch: coal mines."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from deepsentinel import composites, legend
from deepsentinel.report import methods, tables
from deepsentinel.report.runs import Run

COLUMNS = {
  'precision': 'precision at 0.5, %',
  'recall': 'recall at 0.5, %',
  'roc_auc': 'ROC-AUC',
  'average_precision': 'average precision',
}
_BASELINES = {'band_statistics': ('logistic regression on band statistics', 'mean and deviation of every band')}
_MISSING = '–'


@dataclasses.dataclass(frozen=True)
class Row:
  """A method: its name, what it is, and its scores as text, in the order of COLUMNS."""

  label: str
  detail: str
  values: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Panel:
  """Pictures of test patches under one heading; of a patch its optical and its radar picture."""

  title: str
  pictures: tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Scenes:
  """What the page says of scenes.

  Attributes:
    title: what was looked for. verdict: headline and sentences. counts: of the test split, in words.
    columns, rows: of the table. panels: test patches with their scores.
  """

  title: str
  verdict: tables.Verdict
  counts: str
  columns: tuple[str, ...]
  rows: tuple[Row, ...]
  panels: tuple[Panel, ...]


def describe(
  runs: Sequence[Run], labels: Sequence[str], picture: Callable[[np.ndarray, str, str], Any]
) -> Scenes | None:
  """The scenes of the runs that were tested on them; None where none was.

  Args:
    runs, labels: of the report, and what they are called.
    picture: (uint8 [H, W, 3], caption, description) -> a picture of the page.
  """
  tested = [(run, label) for run, label in zip(runs, labels, strict=True) if run.scenes]
  if not tested:
    return None
  first = tested[0][0].scenes
  target, model = legend.target(first['target']), first['methods']['model']
  groups = _by_method(tested)
  rows = []
  for label, seeds in groups.items():
    if len(seeds) > 1:
      rows.append(Row(label, f'mean of {len(seeds)} seeds, ± 95 % of a t-interval over them', _means(seeds)))
  rows += [
    Row(label, ' · '.join(filter(None, (run.encoder, run.name))), _texts(run.scenes['methods']['model']))
    for run, label in tested
  ]
  for key, (name, detail) in _BASELINES.items():
    for own in {tuple(_texts(run.scenes['methods'][key])) for run, _ in tested if key in run.scenes['methods']}:
      rows.append(Row(name, f'baseline, no network: {detail}', own))
  rows.append(
    Row(
      'chance', 'what a coin reaches', (_percent(model['prevalence']), _MISSING, '0.50', _number(model['prevalence']))
    )
  )
  counts = f'{model["positives"]} {target.classes[1]}s and {model["background"]} patches of {target.classes[0]}'
  panels = [panel for run, label in tested for panel in _panels(run, label, len(tested) > 1, target, picture)]
  return Scenes(
    target.title, _verdict(target, groups, counts), counts, tuple(COLUMNS.values()), tuple(rows), tuple(panels)
  )


def _percent(value: float | None) -> str:
  return tables.percent(value)


def _number(value: float | None) -> str:
  return _MISSING if value is None else f'{value:.2f}'


def _texts(scores: dict[str, Any]) -> tuple[str, ...]:
  return tuple((_percent if 'at 0.5' in title else _number)(scores[key]) for key, title in COLUMNS.items())


def _by_method(tested: Sequence[tuple[Run, str]]) -> dict[str, list[Run]]:
  """Runs that differ in nothing but their seeds, by what they are called."""
  groups: list[list[tuple[Run, str]]] = []
  for run, label in tested:
    what = (run.objective, run.config.get('name'), run.label_fraction)
    for group in groups:
      first = group[0][0]
      alike = what == (first.objective, first.config.get('name'), first.label_fraction)
      seeds = [other.config.get('seed') for other, _ in group]
      if alike and not methods.unlike(run, first) and run.config.get('seed') not in seeds:
        group.append((run, label))
        break
    else:
      groups.append([(run, label)])
  names: dict[str, list[Run]] = {}
  for group in groups:
    run, label = group[0]
    if len(group) > 1:
      fraction = methods.fraction_words(run.label_fraction) if run.label_fraction != 1 else ''
      label = ', '.join(filter(None, (methods.objective_name(run.objective), run.encoder, fraction)))
    number = next(n for n in itertools.count(1) if (label if n == 1 else f'{label} ({n})') not in names)
    names[label if number == 1 else f'{label} ({number})'] = [run for run, _ in group]
  return names


def _over_seeds(runs: Sequence[Run], read: Callable[[Run], float | None]) -> methods.Estimate | None:
  values = [value for run in runs if (value := read(run)) is not None]
  return methods.estimate(values) if values else None


def _means(runs: Sequence[Run]) -> tuple[str, ...]:
  found = []
  for key, title in COLUMNS.items():
    mean = _over_seeds(runs, lambda run, key=key: run.scenes['methods']['model'][key])  # type: ignore[misc]
    found.append(_MISSING if mean is None else _estimate(mean, per_cent='at 0.5' in title))
  return tuple(found)


def _estimate(mean: methods.Estimate, per_cent: bool = False) -> str:
  if per_cent:
    return mean.text()
  return _number(mean.mean) + ('' if mean.half_width is None else f' ± {mean.half_width:.2f}')


def _verdict(target: legend.Target, groups: dict[str, list[Run]], counts: str) -> tables.Verdict:
  """The best method in words, what it does not beat, and what its numbers do not prove."""

  def roc_auc(run: Run, of: str = 'model') -> float | None:
    return run.scenes['methods'].get(of, {}).get('roc_auc')

  def mean(runs: Sequence[Run]) -> float:
    found = _over_seeds(runs, roc_auc)
    return found.mean if found else 0.0

  label = max(groups, key=lambda name: mean(groups[name]))
  runs = groups[label]
  precision, recall = _means(runs)[:2]
  found = _over_seeds(runs, roc_auc)
  who = label if len(runs) == 1 else f'{label}, mean of {len(runs)} seeds'
  headline = (
    f'{target.title}: {recall} % are found, and {precision} % of those called one are one ({who}); ROC-AUC '
    f'{_estimate(found) if found else _MISSING} on {counts}.'
  )
  sentences = []
  pairs = [(roc_auc(run), roc_auc(run, 'band_statistics')) for run in runs]
  gains = [ours - theirs for ours, theirs in pairs if ours is not None and theirs is not None]
  if gains:
    gain = methods.estimate(gains)
    beats = gain.mean >= tables.TIE and (gain.half_width is None or gain.decided)
    baseline = np.mean([theirs for _, theirs in pairs if theirs is not None])
    sentences.append(
      f'It {"beats" if beats else "does not beat"} logistic regression on band statistics (ROC-AUC '
      f'{_number(float(baseline))}{"" if gain.half_width is None else "; difference " + _estimate(gain)}).'
    )
  if seen := max(run.scenes.get('also_trained_on', 0) for run in runs):
    sentences.append(f'{seen} test patches stood in the training split too: the score shows only that the chain runs.')
  one = 'One seed and few patches, so no claim of significance.'
  sentences.append(one if len(runs) == 1 else 'Few patches: the interval is over seeds, not over places.')
  return tables.Verdict(headline, tuple(sentences))


def _panels(run: Run, label: str, named: bool, target: legend.Target, picture: Callable) -> list[Panel]:
  """The test patches of scenes.npz, those judged rightly first; each with its score."""
  data = run.scene_samples()
  if data is None:
    return []
  right = (data['probability'] > 0.5) == (data['label'] == 1)
  panels = []
  for title, chosen in (('Most certain, and right', right), ('Most certain, and wrong', ~right)):
    pictures = []
    for i in np.flatnonzero(chosen):
      shown = f'{target.classes[data["label"][i]]}, score {data["probability"][i]:.2f}'
      for field, draw, sensor in (('s2', composites.true_colour, 'Sentinel-2'), ('s1', composites.radar, 'Sentinel-1')):
        if field in data:
          alt = f'{sensor} picture of test patch {data["id"][i]}: {shown}'
          pictures.append(picture(draw(data[field][i]), f'{shown} ({sensor})', alt))
    if pictures:
      panels.append(Panel(f'{title}: {label}' if named else title, tuple(pictures)))
  return panels

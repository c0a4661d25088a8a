"""The part of the report on scenes, one label a patch: coal mines."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from deepsentinel import composites, legend
from deepsentinel.report import tables
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
  rows = [
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
    target.title, _verdict(target, tested, counts), counts, tuple(COLUMNS.values()), tuple(rows), tuple(panels)
  )


def _percent(value: float | None) -> str:
  return tables.percent(value)


def _number(value: float | None) -> str:
  return _MISSING if value is None else f'{value:.2f}'


def _texts(scores: dict[str, Any]) -> tuple[str, ...]:
  return tuple((_percent if 'at 0.5' in title else _number)(scores[key]) for key, title in COLUMNS.items())


def _verdict(target: legend.Target, tested: Sequence[tuple[Run, str]], counts: str) -> tables.Verdict:
  """The best run in words, what it does not beat, and what its numbers do not prove."""
  run, label = max(tested, key=lambda pair: pair[0].scenes['methods']['model']['roc_auc'] or 0)
  scores = run.scenes['methods']['model']
  headline = (
    f'{target.title}: {_percent(scores["recall"])} % are found, and {_percent(scores["precision"])} % of those called '
    f'one are one ({label}); ROC-AUC {_number(scores["roc_auc"])} on {counts}.'
  )
  sentences = []
  baseline = run.scenes['methods'].get('band_statistics', {}).get('roc_auc')
  if baseline is not None and scores['roc_auc'] is not None:
    verb = 'beats' if scores['roc_auc'] - baseline >= tables.TIE else 'does not beat'
    sentences.append(f'It {verb} logistic regression on band statistics (ROC-AUC {_number(baseline)}).')
  if seen := run.scenes.get('also_trained_on', 0):
    sentences.append(f'{seen} test patches stood in the training split too: the score shows only that the chain runs.')
  sentences.append('One seed and few patches, so no claim of significance.')
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

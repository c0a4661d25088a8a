"""One self-contained HTML page from run directories: no script, no request, readable on a phone."""

import base64
import dataclasses
import importlib.resources
import os
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from deepsentinel import composites, legend
from deepsentinel.report import facts, figures, grid, places, scenes, tables
from deepsentinel.report import runs as runs_lib
from deepsentinel.report.runs import Run, read_run

_MOST_SAMPLES = 8
MOST_COLUMNS = 8  # a longer class list gets a table of its own, below the scores


@dataclasses.dataclass(frozen=True)
class Picture:
  """A picture in the page: a data URI, its description for those who do not see it, and what to read under it."""

  uri: str
  alt: str
  caption: str = ''


@dataclasses.dataclass(frozen=True)
class Sample:
  """One test patch of the panel, and the numbers of the classes to be seen in it."""

  id: str
  pictures: tuple[Picture, ...]
  classes: frozenset[int]


def write_report(
  runs: Sequence[str | os.PathLike], out: str | os.PathLike, *, embedding: str | os.PathLike | None = None
) -> pathlib.Path:
  """Writes the report on one or more run directories.

  Args:
    runs: run directories or folders of them, finished or not; an unfinished or missing one is named in the report.
    out: the HTML file to write.
    embedding: folder of an embedding map, with embedding.png; shown if given.
  Returns:
    The path written. Beside it lie the same name with .md, Table 9 of the runs, and .csv, every run's scores.
  Raises:
    ValueError: not one of the directories holds a run.
  """
  if not runs:
    raise ValueError('No run given. Usage: python -m deepsentinel.report RUN... --out=report.html')
  loaded = [read_run(path) for path in dict.fromkeys(p for run in runs for p in run_directories(run))]
  if not any(run.config or run.experiment or run.metrics or run.test for run in loaded):
    found = '; '.join(f'{run.path}: {run.problem}' for run in loaded)
    raise ValueError(
      f'Nothing to report: {found}. A run is a directory that '
      '`python -m deepsentinel.main --config=... --workdir=RUN` wrote, with config.json and experiment.json.'
    )
  out = pathlib.Path(out)
  if out.is_dir():
    raise ValueError(f'--out={out} is a folder; name a file in it, e.g. --out={out / "report.html"}.')
  page = _template().render(**_content(loaded, pathlib.Path(embedding) if embedding else None))
  out.parent.mkdir(parents=True, exist_ok=True)
  for path, text in (
    (out.with_suffix('.md'), grid.markdown(loaded, facts.banner(loaded)[1])),
    (out.with_suffix('.csv'), grid.as_csv(loaded)),
    (out, page),
  ):
    partial = path.with_name(path.name + '.partial')
    partial.write_text(text, encoding='utf-8')
    partial.replace(path)
  return out


def run_directories(path: str | os.PathLike) -> list[pathlib.Path]:
  """The directory itself, or the runs in it where it is the folder of a grid."""
  path = pathlib.Path(path)
  if (path / 'config.json').exists() or not path.is_dir():
    return [path]
  return sorted(p.parent for pattern in ('*', 'runs/*') for p in path.glob(f'{pattern}/config.json')) or [path]


def _template():
  import jinja2

  source = importlib.resources.files('deepsentinel.report').joinpath('template.html').read_text(encoding='utf-8')
  environment = jinja2.Environment(
    autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
  )
  environment.filters['percent'] = tables.percent
  return environment.from_string(source)


def _content(runs: list[Run], embedding: pathlib.Path | None) -> dict[str, Any]:
  comparison = tables.compare(runs)
  labels = tables.labels(runs)
  target = _target(comparison)
  colours = method_colours(labels, comparison)
  samples = _samples(runs, labels, target)
  of_scenes = scenes.describe(runs, labels, _patch)
  return {
    'title': f'DeepSentinel report: {", ".join(run.name for run in runs)}',
    'banner': facts.banner(runs),
    'verdict': of_scenes.verdict if of_scenes and not comparison.methods else tables.verdict(comparison, runs),
    'scenes': of_scenes,
    'comparison': comparison,
    'ranked': tables.ranked(comparison),
    'colours': colours,
    'best': {key: tables.best(comparison, key) for key in grid.METRICS},
    'best_class': [tables.best(comparison, 'iou', k) for k in range(len(comparison.classes))],
    'class_share': comparison.methods[0].scores.get('reference_share') if comparison.methods else None,
    'grid': grid.tables(runs) if grid.worth_a_table(runs) else [],
    'grid_legend': grid.LEGEND,
    'names': {**runs_lib.OBJECTIVES, **runs_lib.ENCODERS},
    'class_hex': [_hex(rgb) for rgb in target.colours],
    'target': target.title,
    'unlabelled_hex': _hex(composites.UNLABELLED_RGB),
    'unfinished': [(label, run) for run, label in zip(runs, labels, strict=True) if run.problem],
    'notes': [(run.name, note) for run in runs for note in run.notes],
    'nodata_share': facts.nodata_share(runs),
    'class_chart': _class_chart(comparison, colours),
    'confusion_charts': _confusion_charts(comparison),
    'training_charts': _training_charts(runs, labels, colours),
    'samples': samples,
    'seen': set[int]().union(*(sample.classes for sample in samples)),
    'most_columns': MOST_COLUMNS,
    'corpora': places.describe(runs, _uri),
    'embedding': _embedding(embedding),
    'facts': facts.rows(runs),
    'run_names': [run.name for run in runs],
    'differences': tables.config_differences(runs),
    'configured': [run.name for run in runs if run.config],
    'commands': facts.commands(runs, embedding),
    'written': time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime()),
  }


def method_colours(labels: list[str], comparison: tables.Comparison) -> dict[str, str]:
  """Label of each run and baseline -> hexadecimal colour, the same in every chart of the page."""
  palettes = ((labels, figures.RUN_COLOURS), ([m.label for m in comparison.baselines], figures.BASELINE_COLOURS))
  return {label: palette[i % len(palette)] for names, palette in palettes for i, label in enumerate(names)}


def _hex(rgb: Sequence[int]) -> str:
  return '#' + ''.join(f'{int(v):02x}' for v in rgb)


def _uri(png: bytes) -> str:
  return 'data:image/png;base64,' + base64.b64encode(png).decode('ascii')


def _target(comparison: tables.Comparison) -> legend.Target:
  """What was predicted; with greys for a class list that is no known target's."""
  if comparison.target in legend.TARGETS and legend.target(comparison.target).classes == comparison.classes:
    return legend.target(comparison.target)
  greys = np.full((len(comparison.classes), 3), 136, np.uint8)
  return legend.Target(comparison.target, comparison.target, '', comparison.classes, greys, np.zeros(0, np.int32))


def _drawn_classes(comparison: tables.Comparison) -> list[int]:
  """Numbers of the classes to draw: all of a short list, of a long one those in the reference or a prediction."""
  occurs = np.sum([np.sum(m.scores['confusion'], 0) + np.sum(m.scores['confusion'], 1) for m in comparison.methods], 0)
  return [k for k in range(len(comparison.classes)) if len(comparison.classes) <= MOST_COLUMNS or occurs[k]]


def _class_chart(comparison: tables.Comparison, colours: dict[str, str]) -> Picture | None:
  if not comparison.methods:
    return None
  drawn = _drawn_classes(comparison)
  methods = [(m.label, colours[m.label], [m.scores['iou'][k] for k in drawn]) for m in comparison.methods]
  png = figures.class_iou([comparison.classes[k] for k in drawn], methods)
  return Picture(_uri(png), 'Bar chart of the IoU of each class, per method')


def _confusion_charts(comparison: tables.Comparison) -> list[Picture]:
  pictures = []
  for m in comparison.methods:
    if m.label == tables.BASELINES['majority']:
      continue  # one full column: nothing to see
    drawn = _drawn_classes(comparison)
    matrix = np.array(m.scores['confusion'])[np.ix_(drawn, drawn)]
    png = figures.confusion([comparison.classes[k] for k in drawn], matrix, m.label)
    pictures.append(Picture(_uri(png), f'Confusion matrix of {m.label}, rows in per cent'))
  return pictures


def _training_charts(runs: list[Run], labels: list[str], colours: dict[str, str]) -> list[Picture]:
  """Loss over steps per stage and, where it was logged, validation IoU."""
  pictures = []
  for stage, title in (('pretrain', 'Pretraining loss'), ('finetune', 'Fine-tuning loss')):
    lines: list[tuple] = []
    for run, label in zip(runs, labels, strict=True):
      for split, style in (('train', 'solid'), ('validation', 'dashed')):
        rows = run.series(stage, 'loss', split)
        steps, values = rows['step'].to_numpy(float), rows['value'].to_numpy(float)
        if not len(steps):
          continue
        if style == 'solid' and len(steps) >= 20:
          lines.append((label, colours[label], 'faint', steps, values))
          values = figures.smoothed(values, max(3, len(values) // 15))
        lines.append((f'{label}, {split}', colours[label], style, steps, values))
    if lines:
      pictures.append(Picture(_uri(figures.curves(title, 'loss', lines)), f'{title} over training steps'))
  lines = []
  for run, label in zip(runs, labels, strict=True):
    rows = run.series('finetune', 'weighted_iou', 'validation')
    if len(rows):
      lines.append((label, colours[label], 'dashed', rows['step'].to_numpy(float), 100 * rows['value'].to_numpy(float)))
  if lines:
    title = 'Class-weighted IoU, validation'
    pictures.append(Picture(_uri(figures.curves(title, 'IoU, %', lines)), f'{title}, over training steps'))
  return pictures


def _samples(runs: list[Run], labels: list[str], target: legend.Target) -> list[Sample]:
  """Figure 3 of the paper: both sensors, CORINE and each run's prediction, patch by patch."""
  found = [(label, data) for run, label in zip(runs, labels, strict=True) if run.test and (data := run.samples())]
  if not found:
    return []
  first = found[0][1]
  panel = []
  for i in range(min(len(first['id']), _MOST_SAMPLES)):
    name, label = str(first['id'][i]), first['label'][i]
    seen = set(np.unique(label).tolist())
    pictures = [
      _patch(composites.true_colour(first['s2'][i]), 'Sentinel-2', f'Sentinel-2 true colour of patch {name}'),
      _patch(composites.radar(first['s1'][i]), 'Sentinel-1', f'Sentinel-1 composite of patch {name}'),
      _patch(composites.classes(label, target), target.title, f'{target.title} of patch {name}'),
    ]
    for run_label, data in found:
      rows = np.flatnonzero(data['id'] == first['id'][i])
      if not len(rows) or data['prediction'][rows[0]].shape != label.shape:
        continue
      prediction = data['prediction'][rows[0]]
      seen |= set(np.unique(prediction).tolist())
      counted = label >= 0
      right = f', {100 * (prediction == label)[counted].mean():.0f} % right' if counted.any() else ', no label'
      picture = composites.classes(prediction, target)
      pictures.append(_patch(picture, run_label + right, f'Prediction of {run_label} for patch {name}'))
    panel.append(Sample(name, tuple(pictures), frozenset(seen)))
  return panel


def _patch(pixels: np.ndarray, caption: str, alt: str) -> Picture:
  return Picture(_uri(figures.picture(pixels)), alt, caption)


def _embedding(folder: pathlib.Path | None) -> Picture | str | None:
  """The embedding map's picture; a sentence where it is missing."""
  if folder is None:
    return None
  path = folder / 'embedding.png'
  if not path.is_file():
    return f'No embedding map: {path} does not exist. `python -m deepsentinel.embed` writes it.'
  return Picture(_uri(path.read_bytes()), 'Embedding map', str(folder))

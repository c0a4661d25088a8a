"""One self-contained HTML page from run directories: no script, no request, readable on a phone."""

import contextlib
import importlib.resources
import json
import os
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from deepsentinel import composites, legend, provenance
from deepsentinel.report import (
  architecture,
  facts,
  figures,
  findings,
  grid,
  grid_page,
  methods,
  pictures,
  places,
  scenes,
  tables,
)
from deepsentinel.report import runs as runs_lib
from deepsentinel.report.pictures import Picture
from deepsentinel.report.runs import Run, read_run

_MOST_SAMPLES = 8
MOST_COLUMNS = 8  # a longer class list gets a table of its own, below the scores


def write_report(
  runs: Sequence[str | os.PathLike], out: str | os.PathLike, *, embedding: str | os.PathLike | None = None
) -> pathlib.Path:
  """Writes the report on one or more run directories.

  Args:
    runs: run directories or folders of them, finished or not; an unfinished or missing one is named in the report.
    out: the HTML file to write.
    embedding: folder of an embedding map, with embedding.png; shown if given.
  Returns:
    The path written. Beside it lie the same name with .md, Table 9 of the runs and the networks' layers, and .csv,
    every run's scores.
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
  gridded = methods.collect(loaded)
  content = _content(loaded, gridded, [str(run) for run in runs], pathlib.Path(embedding) if embedding else None)
  page = _template().render(**content)
  said = (content['verdict'].headline, *content['verdict'].sentences)
  layers = [table for _, several in content['architecture'] for table in several]
  out.parent.mkdir(parents=True, exist_ok=True)
  for path, text in (
    (out.with_suffix('.md'), grid.markdown(gridded, content['banner'][1], said, layers)),
    (out.with_suffix('.csv'), grid.as_csv(loaded)),
    (out, page),
  ):
    with provenance.whole(path) as file:
      file.write(text.encode())
  return out


def run_directories(path: str | os.PathLike) -> list[pathlib.Path]:
  """The directory itself, or the runs in it where it is the folder of a grid, those that are only planned included."""
  path = pathlib.Path(path)
  if (path / 'config.json').exists() or not path.is_dir():
    return [path]
  found = {p.parent for pattern in ('*', 'runs/*') for p in path.glob(f'{pattern}/config.json')}
  # Without a plan, or with a damaged one, the runs are there all the same.
  with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
    found |= {path / 'runs' / str(run['name']) for run in json.loads((path / 'grid.json').read_text())}
  return sorted(found) or [path]


def _template():
  import jinja2

  folder = importlib.resources.files('deepsentinel.report')
  files = {
    name: folder.joinpath(name).read_text(encoding='utf-8') for name in ('template.html', 'grid.html', 'macros.html')
  }
  environment = jinja2.Environment(
    loader=jinja2.DictLoader(files), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
    lstrip_blocks=True,
  )  # fmt: skip
  environment.filters['percent'] = tables.percent
  return environment.get_template('template.html')


def _content(
  runs: list[Run], gridded: methods.Grid, given: list[str], embedding: pathlib.Path | None
) -> dict[str, Any]:
  by_method = bool(gridded.runs) and grid.worth_methods(runs)
  comparison = grid_page.comparison(gridded, gridded.slices[0]) if by_method else tables.compare(runs)
  target = _target(comparison, runs)
  parts = grid_page.content(gridded, runs, target) if by_method else _content_of_runs(runs, comparison, target)
  unfinished = [run for run in runs if run.problem]
  corpora = places.describe(runs)
  of_scenes = scenes.describe(runs, tables.labels(runs), pictures.patch)
  return {
    'title': f'DeepSentinel report: {", ".join(pathlib.Path(path).name or path for path in given)}',
    'banner': facts.banner(runs),
    'verdict': _verdict(gridded, comparison, of_scenes, runs, by_method),
    'by_method': by_method,
    'scenes': of_scenes,
    'comparison': comparison,
    'compared': gridded.slices[0].title if by_method else '',
    'best': {key: tables.best(comparison, key) for key in methods.METRICS},
    'best_class': [tables.best(comparison, 'iou', k) for k in range(len(comparison.classes))],
    'class_share': comparison.methods[0].scores.get('reference_share') if comparison.methods else None,
    'grid': grid.tables(gridded) if grid.worth_a_table(runs) else [],
    'grid_legend': grid.legend(gridded),
    'paper_parameters': grid.PAPER_PARAMETERS,
    'metrics': methods.METRICS,
    'names': {**runs_lib.OBJECTIVES, **runs_lib.ENCODERS},
    'class_hex': [_hex(rgb) for rgb in target.colours],
    'target': target.title,
    'unlabelled_hex': _hex(composites.UNLABELLED_RGB),
    'unfinished': unfinished,
    'notes': [f'{run.name}: {note}' for run in runs for note in run.notes] + list(gridded.left_out),
    'nodata_share': facts.nodata_share(runs),
    'confusion_charts': _confusion_charts(comparison, target.title),
    'seen': set[int]().union(*(sample.classes for sample in parts['samples'])),
    'most_columns': MOST_COLUMNS,
    'corpora': corpora,
    'architecture': [
      ('Layers of the networks, ours beside the paper: Tables 2 to 8', architecture.tables(runs)),
      ('Parameters as trained', [table] if (table := architecture.trained(runs)) else []),
      ('Land-cover classes: Table 10', [architecture.classes()]),
    ],
    'paper_index': _paper_index(grid.worth_a_table(runs), corpora, bool(parts['samples']), bool(comparison.methods)),
    'embedding': _embedding(embedding),
    'facts': facts.table(runs, by_run=by_method),
    'configured': [run.name for run in runs if run.config],
    'differences': tables.config_differences(runs),
    'commands': facts.commands(runs, given, embedding),
    'written': time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime()),
    **parts,
  }


def _verdict(
  gridded: methods.Grid,
  comparison: tables.Comparison,
  of_scenes: scenes.Scenes | None,
  runs: list[Run],
  by_method: bool,
) -> tables.Verdict:
  if by_method:
    return findings.verdict(gridded, runs)
  return of_scenes.verdict if of_scenes and not comparison.methods else tables.verdict(comparison, runs)


def _paper_index(gridded: bool, corpora: places.Places, has_samples: bool, tested: bool) -> list[tuple[str, str, str]]:
  """(name, anchor of its section or '', what it is or why it is not here) of the paper's tables and figures."""
  return [
    ('Tables 2 to 8', 'architecture', '(layers)'),
    ('Table 9', 'grid', '(pretraining by encoder)') if gridded else
    ('Table 9', 'scores' if tested else '', '(needs runs of several encoders, seeds or label fractions)'),
    ('Table 10', 'architecture', '(classes)'),
    ('Figure 2', 'corpus', '(corpus)') if corpora.samples else
    ('Figure 2', '', '(needs the record set on this machine)'),
    ('Figure 3', 'pictures', '(predictions)') if has_samples else ('Figure 3', '', '(no run saved predictions)'),
    ('Figure 4', 'classes', '(IoU by class)') if tested else ('Figure 4', '', '(no run has been tested)'),
    ('Table 1 and Figure 1', '', 'compare published data sets and draw the idea, so no run can produce them'),
  ]  # fmt: skip


def _content_of_runs(runs: list[Run], comparison: tables.Comparison, target: legend.Target) -> dict[str, Any]:
  """The parts that show each run by itself."""
  labels = tables.labels(runs)
  colours = method_colours(labels, comparison)
  charts = _training_charts(runs, labels, colours)
  return {
    'ranked': tables.ranked(comparison),
    'colours': colours,
    'class_charts': _class_charts(comparison, colours),
    'training': [('', _CURVES, charts)] if charts else [],
    'samples': pictures.samples([('', list(zip(labels, runs, strict=True)))], target, _MOST_SAMPLES),
  }


_CURVES = (
  'Faint lines are single logged steps, full lines their running mean; dashed lines with dots are the validation split.'
)


def method_colours(labels: list[str], comparison: tables.Comparison) -> dict[str, str]:
  """Label of each run and baseline -> hexadecimal colour, the same in every chart of the page."""
  palettes = ((labels, figures.RUN_COLOURS), ([m.label for m in comparison.baselines], figures.BASELINE_COLOURS))
  return {label: palette[i % len(palette)] for names, palette in palettes for i, label in enumerate(names)}


def _hex(rgb: Sequence[int]) -> str:
  return '#' + ''.join(f'{int(v):02x}' for v in rgb)


def _target(comparison: tables.Comparison, runs: list[Run]) -> legend.Target:
  """What was predicted; with greys for a class list that is no known target's."""
  if comparison.target in legend.TARGETS:
    for entries in [(), *(run.config.get('finetune.legend', ()) for run in runs)]:
      target = legend.target(comparison.target, legend.map_classes(entries))
      if target.classes == comparison.classes:
        return target
  greys = np.full((len(comparison.classes), 3), 136, np.uint8)
  return legend.Target(comparison.target, comparison.target, '', comparison.classes, greys, np.zeros(0, np.int32))


def _drawn_classes(comparison: tables.Comparison) -> list[int]:
  """Numbers of the classes to draw: all of a short list, of a long one those in the reference or a prediction."""
  occurs = np.sum([np.sum(m.scores['confusion'], 0) + np.sum(m.scores['confusion'], 1) for m in comparison.methods], 0)
  return [k for k in range(len(comparison.classes)) if len(comparison.classes) <= MOST_COLUMNS or occurs[k]]


def _class_charts(comparison: tables.Comparison, colours: dict[str, str]) -> list[Picture]:
  if not comparison.methods:
    return []
  drawn = _drawn_classes(comparison)
  bars = [(m.label, colours[m.label], [m.scores['iou'][k] for k in drawn], [None] * len(drawn))
          for m in comparison.methods]  # fmt: skip
  png = figures.class_iou([comparison.classes[k] for k in drawn], bars)
  return [pictures.chart(png, 'Bar chart of the IoU of each class, per method')]


def _confusion_charts(comparison: tables.Comparison, reference: str) -> list[Picture]:
  made = []
  for m in comparison.methods:
    if m.label == tables.BASELINES['majority']:
      continue  # one full column: nothing to see
    drawn = _drawn_classes(comparison)
    matrix = np.array(m.scores['confusion'])[np.ix_(drawn, drawn)]
    png = figures.confusion([comparison.classes[k] for k in drawn], matrix, m.label, reference)
    made.append(pictures.chart(png, f'Confusion matrix of {m.label}, rows in per cent'))
  return made


def _training_charts(runs: list[Run], labels: list[str], colours: dict[str, str]) -> list[Picture]:
  """Loss over steps per stage and, where it was logged, validation IoU."""
  made = []
  for stage, title in (('pretrain', 'Pretraining loss'), ('finetune', 'Fine-tuning loss')):
    lines: list[tuple] = []
    for run, label in zip(runs, labels, strict=True):
      for split, style in (('train', 'solid'), ('validation', 'marked')):
        rows = run.series(stage, 'loss', split)
        steps, values = rows['step'].to_numpy(float), rows['value'].to_numpy(float)
        if not len(steps):
          continue
        if style == 'solid' and len(steps) >= 20:
          lines.append((label, colours[label], 'faint', steps, values))
          values = figures.smoothed(values, max(3, len(values) // 15))
        lines.append((f'{label}, {split}', colours[label], style, steps, values))
    if lines:
      made.append(pictures.chart(figures.curves(title, 'loss', lines), f'{title} over training steps'))
  lines = []
  for run, label in zip(runs, labels, strict=True):
    rows = run.series('finetune', 'weighted_iou', 'validation')
    if len(rows):
      lines.append((label, colours[label], 'marked', rows['step'].to_numpy(float), 100 * rows['value'].to_numpy(float)))
  if lines:
    title = 'Class-weighted IoU, validation'
    made.append(pictures.chart(figures.curves(title, 'IoU, %', lines), f'{title}, over training steps'))
  return made


def _embedding(folder: pathlib.Path | None) -> Picture | str | None:
  """The embedding map's picture; a sentence where it is missing."""
  if folder is None:
    return None
  path = folder / 'embedding.png'
  if not path.is_file():
    return f'No embedding map: {path} does not exist. `python -m deepsentinel.embed` writes it.'
  return pictures.chart(path.read_bytes(), 'Embedding map', str(folder))

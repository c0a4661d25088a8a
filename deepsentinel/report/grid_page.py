"""The page's parts for a grid of runs: methods instead of runs, means over seeds instead of single scores."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from deepsentinel import legend
from deepsentinel.report import figures, findings, methods, pictures, tables
from deepsentinel.report.methods import METRICS, Grid, Key, Slice
from deepsentinel.report.pictures import Picture
from deepsentinel.report.runs import OBJECTIVES, Run

_MOST_SAMPLES = 6
_STYLES = ('solid', 'dashed', 'dotted')  # of encoders in one panel


def colour(objective: str) -> str:
  """The same in every picture of a grid; one that the paper does not have takes one of the rest."""
  spare = [c for c in figures.RUN_COLOURS if c not in figures.OBJECTIVE_COLOURS.values()]
  return figures.OBJECTIVE_COLOURS.get(objective) or spare[sum(objective.encode()) % len(spare)]


def comparison(grid: Grid, where: Slice) -> tables.Comparison:
  """The methods of one target and label fraction as rows of the table of scores, then the baselines."""
  rows, first = [], None
  for encoder in grid.encoders(*where):
    for objective in grid.objectives(*where):
      key = Key(*where, objective, encoder)
      if key not in grid.runs:
        continue
      first = first or next(iter(grid.runs[key].values()))
      scores = {name: grid.score(key, name) for name in METRICS}
      iou = grid.class_iou(key)
      means = {name: score.mean for name, score in scores.items()}
      spread = {name: score.half_width for name, score in scores.items()}
      model = first.test['methods']['model']
      rows.append(
        tables.Method(
          findings.method_name(key),
          f'{tables.counted(len(grid.runs[key]), "seed")}',
          {**means, 'iou': [e and e.mean for e in iou], 'confusion': grid.confusion(key).tolist(),
           'reference_share': model.get('reference_share')},
          next(iter(grid.runs[key].values())),
          {**spread, 'iou': [e and e.half_width for e in iou]},
        )
      )  # fmt: skip
  assert first is not None
  for name, label in tables.BASELINES.items():
    entries = grid.baseline(where, name, lambda entry: entry)
    if entries:
      rows.append(tables.Method(label, 'baseline, no network', _mean_entry(entries)))
  return tables.Comparison(
    tuple(first.test['classes']), where.target, tuple(rows), int(first.test.get('test_patches', 0)), ''
  )


def _mean_entry(entries: list[dict[str, Any]]) -> dict[str, Any]:
  """A baseline's scores over seeds, as an entry of test.json's `methods`."""
  known = [[v for v in column if v is not None] for column in zip(*(e['iou'] for e in entries), strict=True)]
  means = {name: float(np.mean([entry[name] for entry in entries])) for name in METRICS}
  confusion = np.sum([entry['confusion'] for entry in entries], 0)
  return {**means, 'iou': [float(np.mean(v)) if v else None for v in known], 'confusion': confusion.tolist()}


def content(grid: Grid, runs: list[Run], target: legend.Target) -> dict[str, Any]:
  """What the template needs of a grid, for the first target and, where one is needed, its largest label fraction."""
  where = grid.slices[0]
  return {
    'fraction_charts': [
      (Slice(t, 1.0), *fraction_charts(grid, t)) for t in dict.fromkeys(s.target for s in grid.slices)
    ],
    'objective_legend': [(methods.objective_name(o), colour(o)) for o in grid.objectives(where.target)],
    'class_charts': class_charts(grid, where),
    'training': training(grid, runs, where.target),
    'samples': samples(grid, where, target),
  }


def fraction_charts(grid: Grid, target: str) -> tuple[list[Picture], list[Picture], list[tuple[str, str]]]:
  """Score and gain over label fractions, a panel per encoder, each on one scale; and (name, colour) of the baselines
  in sight."""
  fractions = grid.fractions(target)
  references: list[figures.Line] = []
  for (name, label), grey in zip(tables.BASELINES.items(), figures.BASELINE_COLOURS[::-1], strict=False):
    values = {f: grid.baseline(Slice(target, f), name) for f in fractions}
    known = [f for f in fractions if values[f] and None not in values[f]]
    if known:
      references.append((label, grey, known, [float(np.mean(values[f])) for f in known], [None] * len(known)))
  scores = _panels(grid, target, grid.score)
  ylim = _range(scores, references)
  seen = [(label, grey) for label, grey, _, ys, _ in references if any(ylim[0] < 100 * y < ylim[1] for y in ys)]
  made = _fraction_panels(scores, 'class-weighted IoU, %', references, (max(0, ylim[0]), min(100, ylim[1])))
  gains = _panels(grid, target, grid.gain)
  if not gains:
    return made, [], seen
  zero: figures.Line = ('no pretraining', colour('none'), fractions, [0.0] * len(fractions), [None] * len(fractions))
  return made, _fraction_panels(gains, 'gain, points', [zero], _range(gains, [zero])), seen


def _panels(
  grid: Grid, target: str, estimate: Callable[[Key, str], methods.Estimate | None]
) -> dict[str, list[figures.Line]]:
  """Encoder -> a line per objective of what `estimate` says of it at each label fraction."""
  panels: dict[str, list[figures.Line]] = {}
  for encoder in grid.encoders(target):
    for objective in grid.objectives(target):
      keys = [key for f in grid.fractions(target) if (key := Key(target, f, objective, encoder)) in grid.runs]
      found = [(key.fraction, e) for key in keys if (e := estimate(key, findings.METRIC))]
      if found:
        panels.setdefault(encoder, []).append(
          (methods.objective_name(objective), colour(objective), [f for f, _ in found], [e.mean for _, e in found],
           [e.half_width for _, e in found])
        )  # fmt: skip
  return panels


def _fraction_panels(
  panels: dict[str, list[figures.Line]], ylabel: str, references: list[figures.Line], ylim: tuple[float, float]
) -> list[Picture]:
  made = []
  for encoder, lines in panels.items():
    name = methods.encoder_name(encoder)
    told = '; '.join(
      f'{label} {", ".join(f"{100 * y:.1f} with {100 * x:g} %" for x, y in zip(xs, ys, strict=True))}'
      for label, _, xs, ys, _ in lines
    )
    alt = f'{tables.capital(ylabel.partition(",")[0])} of {name} by share of the labels: {told}'
    made.append(pictures.chart(figures.by_fraction(name, ylabel, lines, references, ylim), alt))
  return made


def _range(panels: dict[str, list[figures.Line]], references: Sequence[figures.Line]) -> tuple[float, float]:
  """Limits in per cent: every mean, intervals up to three times their median, and references that are near."""
  lines = [line for several in panels.values() for line in several]
  most = 3 * float(np.median([h for *_, hs in lines for h in hs if h is not None] or [0]))
  ends = [(y, min(h or 0, most)) for _, _, _, ys, hs in lines for y, h in zip(ys, hs, strict=True)]
  low, high = min(y - h for y, h in ends), max(y + h for y, h in ends)
  near = [y for _, _, _, ys, _ in references for y in ys if low - 0.1 < y < high + 0.1]
  low, high = min([low, *near]), max([high, *near])
  pad = max(0.01, 0.06 * (high - low))
  return 100 * (low - pad), 100 * (high + pad)


def class_charts(grid: Grid, where: Slice) -> list[Picture]:
  """Figure 4 of the paper: IoU of each class, a panel per encoder."""
  scores = {key: grid.class_iou(key) for key in grid.runs if key[:2] == where}
  first = next(iter(grid.runs[next(iter(scores))].values()))
  classes = first.test['classes']
  drawn = [k for k in range(len(classes)) if any(iou[k] for iou in scores.values())]
  ends = [min(e.mean + (e.half_width or 0), 1) for iou in scores.values() for e in iou if e]
  made = []
  for encoder in grid.encoders(*where):
    bars: list[figures.Bars] = []
    for objective in grid.objectives(*where):
      if iou := scores.get(Key(*where, objective, encoder)):
        chosen = [iou[k] for k in drawn]
        bars.append(
          (methods.objective_name(objective), colour(objective), [e.mean if e else None for e in chosen],
           [e.half_width if e else None for e in chosen])
        )  # fmt: skip
    name = methods.encoder_name(encoder)
    png = figures.class_iou([classes[k] for k in drawn], bars, name, max(ends) + 0.13)
    made.append(pictures.chart(png, f'Bar chart of the IoU of each class, {name}, {methods.fraction_words(where[1])}'))
  return made


def samples(grid: Grid, where: Slice, target: legend.Target) -> list[pictures.Sample]:
  """Figure 3 of the paper: predictions of each method's run with the first seed, a row per encoder."""
  rows = []
  for encoder in grid.encoders(*where):
    row = [
      (methods.objective_name(objective), next(iter(grid.runs[key].values())))
      for objective in grid.objectives(*where)
      if (key := Key(*where, objective, encoder)) in grid.runs
    ]
    rows.append((methods.encoder_name(encoder), row))
  return pictures.samples(rows, target, _MOST_SAMPLES)


def training(grid: Grid, runs: list[Run], target: str) -> list[tuple[str, str, list[Picture]]]:
  """(title, note, charts): pretraining loss by objective, and validation IoU by encoder and label fraction."""
  groups = []
  made = _pretraining(runs, {run.path: key.objective for key, seeds in grid.runs.items() for run in seeds.values()})
  if made:
    note = 'Objectives have losses of their own, so each has a panel and a scale of its own; compare within a panel.'
    if any(run.objective == 'contrastive' for run in runs):
      note += ' The augmentation of contrastive pretraining grows stronger with its epochs, so its loss may rise.'
    groups.append(('Pretraining loss', f'{note} {_BAND}', made))
  made = _finetuning(grid, target)
  if made:
    groups.append(('Validation IoU while fine-tuning', f'Class-weighted, one scale for all panels. {_BAND}', made))
  return groups


_BAND = 'Mean over seeds; the band is from the lowest to the highest seed.'


def _pretraining(runs: list[Run], objectives: dict[pathlib.Path, str]) -> list[Picture]:
  """A panel per objective; `objectives` knows the variants among the tested runs."""
  found: dict[str, dict[str, list]] = {}
  for run in runs:
    rows = run.series('pretrain', 'loss', 'train')
    if len(rows):
      steps, values = rows['step'].to_numpy(float), rows['value'].to_numpy(float)
      values = figures.smoothed(values, max(1, len(values) // 15))
      name = methods.encoder_name(run.config.get('encoder.name', ''))
      found.setdefault(objectives.get(run.path, run.objective), {}).setdefault(name, []).append((steps, values))
  made = []
  for objective in methods.ordered(found, OBJECTIVES):
    encoders = found[objective]
    lines: list[tuple] = []
    for (encoder, series), style in zip(encoders.items(), _STYLES * len(encoders), strict=False):
      lines += _mean_curve(encoder, colour(objective), style, series)
    name = methods.objective_name(objective)
    png = figures.curves(name, 'loss', lines)
    made.append(pictures.chart(png, f'Pretraining loss of {name} over steps, a line per encoder'))
  return made


def _finetuning(grid: Grid, target: str) -> list[Picture]:
  panels: dict[tuple[str, float], list[tuple]] = {}
  for encoder in grid.encoders(target):
    for fraction in reversed(grid.fractions(target)):
      for objective in grid.objectives(target, fraction):
        runs = grid.runs.get(Key(target, fraction, objective, encoder), {}).values()
        rows = [run.series('finetune', 'weighted_iou', 'validation') for run in runs]
        series = [(r['step'].to_numpy(float), 100 * r['value'].to_numpy(float)) for r in rows if len(r)]
        if series:
          lines = _mean_curve(methods.objective_name(objective), colour(objective), 'solid', series)
          panels.setdefault((encoder, fraction), []).extend(lines)
  if not panels:
    return []
  values = np.concatenate([np.ravel(line[4]) for lines in panels.values() for line in lines])
  ylim = max(0.0, np.percentile(values, 1) - 2), min(100.0, values.max() + 2)
  made = []
  for (encoder, fraction), lines in panels.items():
    name = f'{methods.encoder_name(encoder)}, {methods.fraction_words(fraction)}'
    png = figures.curves(name, 'IoU, %', lines, legend=False, ylim=ylim)
    made.append(pictures.chart(png, f'Validation IoU of {name} over fine-tuning steps, a line per pretraining'))
  return made


def _mean_curve(label: str, colour: str, style: str, series: list[tuple[np.ndarray, np.ndarray]]) -> list[tuple]:
  """Band and mean of curves at the steps that all of them have."""
  steps = sorted(set.intersection(*(set(s.tolist()) for s, _ in series)))
  if not steps:
    return []
  values = np.array([v[np.isin(s, steps)] for s, v in series])
  mean = (label, colour, style, np.array(steps), values.mean(0))
  if len(series) == 1:
    return [mean]
  return [(label, colour, 'band', np.array(steps), np.array([values.min(0), values.max(0)])), mean]

"""The paper's Table 9 from many runs: pretraining by encoder, mean and interval over seeds, the paper's numbers beside.

Differences are paired: a pretrained run minus the run without pretraining of the same encoder, label fraction and seed,
which share the test split, the labelled patches and their order.
"""

import csv
import dataclasses
import io
from collections.abc import Sequence

import numpy as np

from deepsentinel import legend
from deepsentinel.report.runs import ENCODERS, OBJECTIVES, Run

METRICS = {
  'weighted_iou': 'class-weighted IoU',
  'macro_iou': 'macro IoU',
  'overall_accuracy': 'overall accuracy',
}
# Table 9 of the paper, test, per cent; its numbers count nodata as a class.
PAPER = {
  'none': {'resnet18': 38.5, 'resnet34': 48.2, 'resnet18attn': 55.7},
  'vae': {'resnet18': 49.4, 'resnet34': 54.8, 'resnet18attn': 59.4},
  'tile2vec': {'resnet18': 50.2, 'resnet34': 51.3, 'resnet18attn': 59.7},
  'contrastive': {'resnet18': 46.3, 'resnet34': 37.6, 'resnet18attn': 48.8},
}


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A mean over seeds.

  Attributes:
    mean: of the values.
    half_width: of the 95 % t-interval over seeds; None for a single one.
    seeds: how many.
  """

  mean: float
  half_width: float | None
  seeds: int

  def text(self, signed: bool = False) -> str:
    """'53.7 ± 1.2' in per cent; without the interval for one seed."""
    mean = f'{100 * self.mean:+.1f}' if signed else f'{100 * self.mean:.1f}'
    return mean if self.half_width is None else f'{mean} ± {100 * self.half_width:.1f}'

  @property
  def decided(self) -> bool:
    """Whether 0 lies outside the interval."""
    return self.half_width is not None and abs(self.mean) > self.half_width


def estimate(values: Sequence[float]) -> Estimate:
  """Mean of one value per seed, with its 95 % t-interval."""
  n = len(values)
  if n < 2:
    return Estimate(float(np.mean(values)), None, n)
  import scipy.stats

  half = scipy.stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n)
  return Estimate(float(np.mean(values)), float(half), n)


@dataclasses.dataclass(frozen=True)
class Cell:
  """One entry of the table.

  Attributes:
    score: over the seeds that were tested.
    gain: over the run without pretraining, paired by seed; None without such pairs.
    paper: the paper's number, per cent; None where it has none.
    best_of_row, best_of_column: marks, as in the paper.
  """

  score: Estimate
  gain: Estimate | None
  paper: float | None
  best_of_row: bool = False
  best_of_column: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
  """One metric of one target at one label fraction: rows are pretraining objectives, columns encoders."""

  metric: str
  target: str
  fraction: float
  rows: tuple[str, ...]
  columns: tuple[str, ...]
  cells: dict[tuple[str, str], Cell]

  @property
  def title(self) -> str:
    share = 'all labels' if self.fraction == 1 else f'{100 * self.fraction:g} % of the labels'
    known = legend.target(self.target).title if self.target in legend.TARGETS else self.target
    return f'{METRICS[self.metric]}, {known}, {share}'


def tables(runs: Sequence[Run]) -> list[Table]:
  """A table for each metric, target and label fraction of the tested runs, the largest fraction first."""
  values: dict[tuple[str, float, str, str], dict[int, dict[str, float]]] = {}
  for run in runs:
    if run.test and run.objective and run.test['methods']['model']['weighted_iou'] is not None:
      key = (run.test['target'], _fraction(run), run.objective, str(run.config.get('encoder.name', '')))
      values.setdefault(key, {})[int(run.config.get('seed', 0))] = run.test['methods']['model']
  found = []
  for metric in METRICS:
    for target, fraction in sorted({key[:2] for key in values}, key=lambda k: (k[0], -k[1])):
      found.append(_table(metric, target, fraction, values))
  return found


def worth_a_table(runs: Sequence[Run]) -> bool:
  """Whether the runs differ in encoder, seed or label fraction, so that a plain list of scores does not do."""
  tested = [run for run in runs if run.test]
  kinds = {(run.config.get('encoder.name'), run.config.get('seed'), _fraction(run)) for run in tested}
  return len(kinds) > 1


def _fraction(run: Run) -> float:
  return float(run.config.get('finetune.label_fraction', 1.0))


def _ordered(names: set[str], known: dict[str, str]) -> tuple[str, ...]:
  return (*(name for name in known if name in names), *sorted(names - set(known)))


def _table(metric: str, target: str, fraction: float, values) -> Table:
  own = {key[2:]: seeds for key, seeds in values.items() if key[:2] == (target, fraction)}
  comparable = metric == 'weighted_iou' and target == 'corine_level1' and fraction == 1
  cells = {}
  for (objective, encoder), seeds in own.items():
    plain = own.get(('none', encoder), {})
    pairs = [seeds[seed][metric] - plain[seed][metric] for seed in seeds if seed in plain and objective != 'none']
    cells[objective, encoder] = Cell(
      estimate([scores[metric] for scores in seeds.values()]),
      estimate(pairs) if pairs else None,
      PAPER.get(objective, {}).get(encoder) if comparable else None,
    )
  objectives, encoders = ({key[i] for key in own} for i in (0, 1))
  for key, cell in cells.items():
    row = max(c.score.mean for (objective, _), c in cells.items() if objective == key[0])
    column = max(c.score.mean for (_, encoder), c in cells.items() if encoder == key[1])
    cells[key] = dataclasses.replace(
      cell,
      best_of_row=len(encoders) > 1 and cell.score.mean == row,
      best_of_column=len(objectives) > 1 and cell.score.mean == column,
    )
  return Table(metric, target, fraction, _ordered(objectives, OBJECTIVES), _ordered(encoders, ENCODERS), cells)


def markdown(runs: Sequence[Run], banner: str) -> str:
  """All tables as Markdown, under the sentence that says where the pixels come from."""
  parts = ['# Pretraining by encoder', f'> {banner}']
  for table in tables(runs):
    head = ['pretraining', *(ENCODERS.get(c, c) for c in table.columns)]
    lines = [f'## {table.title[0].upper()}{table.title[1:]}, %', '']
    lines += [f'| {" | ".join(head)} |', f'|{"---|" * len(head)}']
    for row in table.rows:
      texts = [_text(table.cells.get((row, column))) for column in table.columns]
      lines.append(f'| {" | ".join([OBJECTIVES.get(row, row), *texts])} |')
    parts.append('\n'.join(lines))
  parts.append(LEGEND)
  return '\n\n'.join(parts) + '\n'


LEGEND = (
  'Mean over seeds, with a 95 % t-interval where there are several. Bold: best of its column (encoder); *: best of its '
  'row (pretraining). In brackets the paired gain over no pretraining; it is decided only where its interval leaves '
  'out 0. Paper: its Table 9, which counted nodata as a class and gives no interval, so it is no target to hit.'
)


def _text(cell: Cell | None) -> str:
  if cell is None:
    return '–'
  text = cell.score.text()
  text = f'**{text}**' if cell.best_of_column else text
  text += '*' if cell.best_of_row else ''
  text += f' ({cell.gain.text(signed=True)})' if cell.gain else ''
  return text if cell.paper is None else f'{text}; paper {cell.paper}'


def as_csv(runs: Sequence[Run]) -> str:
  """One row per tested run: what it was and its scores, IoU of each class included."""
  out = io.StringIO()
  writer = csv.writer(out, lineterminator='\n')
  tested = [run for run in runs if run.test]
  classes = list(dict.fromkeys(name for run in tested for name in run.test['classes']))
  about = ['run', 'pretraining', 'encoder', 'width', 'seed', 'label_fraction', 'target', 'synthetic', 'test_patches']
  writer.writerow([*about, *METRICS, *(f'iou_{name}' for name in classes)])
  for run in tested:
    model = run.test['methods']['model']
    iou = dict(zip(run.test['classes'], model['iou'], strict=True))
    writer.writerow(
      [run.path, run.objective, run.config.get('encoder.name', ''), run.config.get('encoder.width', ''),
       run.config.get('seed', ''), _fraction(run), run.test['target'], run.synthetic, run.test.get('test_patches', ''),
       *(model[metric] for metric in METRICS), *(iou.get(name) for name in classes)]
    )  # fmt: skip
  return out.getvalue()

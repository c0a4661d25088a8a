"""The paper's Table 9 from many runs: pretraining by encoder, mean and intervals, the paper's numbers beside."""

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any

from deepsentinel.report import architecture, methods, scenes
from deepsentinel.report.methods import METRICS, Estimate, Grid, Slice
from deepsentinel.report.runs import OBJECTIVES, Run

# Table 9 of the paper, test, per cent; its numbers count nodata as a class.
PAPER = {
  'none': {'resnet18': 38.5, 'resnet34': 48.2, 'resnet18attn': 55.7},
  'vae': {'resnet18': 49.4, 'resnet34': 54.8, 'resnet18attn': 59.4},
  'tile2vec': {'resnet18': 50.2, 'resnet34': 51.3, 'resnet18attn': 59.7},
  'contrastive': {'resnet18': 46.3, 'resnet34': 37.6, 'resnet18attn': 48.8},
}
PAPER_PARAMETERS = {'resnet18': '13.5', 'resnet34': '23.5', 'resnet18attn': '13.9'}  # millions, header included


@dataclasses.dataclass(frozen=True)
class Cell:
  """One entry of the table.

  Attributes:
    score: over the seeds that were tested.
    gain: over the run without pretraining, paired by seed; None without such pairs.
    paper: the paper's number, per cent; None where it has none.
    best_of_row, best_of_column: marks, as in the paper: the best encoder of a pretraining, the best pretraining of an
      encoder.
  """

  score: Estimate
  gain: Estimate | None
  paper: float | None
  best_of_row: bool = False
  best_of_column: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
  """One metric of one target at one label fraction: rows are pretraining objectives, columns encoders.

  `parameters` holds, per encoder, the millions of encoder and header, '' where no run says.
  """

  metric: str
  where: Slice
  rows: tuple[str, ...]
  columns: tuple[str, ...]
  cells: dict[tuple[str, str], Cell]
  parameters: dict[str, str]

  @property
  def fraction(self) -> float:
    return self.where.fraction

  @property
  def title(self) -> str:
    return f'{METRICS[self.metric]}, {self.where.title}'

  @property
  def comparable(self) -> bool:
    """Whether the paper has numbers of this kind."""
    return self.metric == 'weighted_iou' and self.where in (('corine_level1', 1), ('corine_level1_nodata', 1))


def tables(grid: Grid) -> list[Table]:
  """A table for each metric, target and label fraction, the largest fraction first."""
  return [_table(grid, metric, where) for metric in METRICS for where in grid.slices]


def worth_a_table(runs: Sequence[Run]) -> bool:
  """Whether the runs differ in encoder, seed or label fraction, so that a plain list of scores does not do."""
  return len(_kinds(runs)) > 1


def worth_methods(runs: Sequence[Run]) -> bool:
  """Whether there are several seeds or label fractions, or more runs than a chart has colours: then means are shown."""
  kinds = _kinds(runs)
  return len({kind[1:] for kind in kinds}) > 1 or (len(kinds) > 1 and sum(bool(run.test) for run in runs) > 6)


def _kinds(runs: Sequence[Run]) -> set[tuple]:
  tested = [run for run in runs if run.test]
  return {(run.config.get('encoder.name'), run.config.get('seed'), run.label_fraction) for run in tested}


def _table(grid: Grid, metric: str, where: Slice) -> Table:
  rows, columns = grid.objectives(*where), grid.encoders(*where)
  keys = [key for key in grid.runs if key[:2] == where]
  means = {key[2:]: grid.score(key, metric).mean for key in keys}
  cells: dict[tuple[str, str], Cell] = {}
  table = Table(metric, where, tuple(rows), tuple(columns), cells, {c: _millions(grid, c) for c in columns})
  for key in keys:
    objective, encoder = key[2:]
    cells[objective, encoder] = Cell(
      grid.score(key, metric),
      grid.gain(key, metric),
      PAPER.get(objective, {}).get(encoder) if table.comparable else None,
      best_of_row=len(columns) > 1 and means[key[2:]] == max(v for (o, _), v in means.items() if o == objective),
      best_of_column=len(rows) > 1 and means[key[2:]] == max(v for (_, e), v in means.items() if e == encoder),
    )
  return table


def _millions(grid: Grid, encoder: str) -> str:
  """'13.5' for 13.5 million parameters of encoder and header."""
  for key, runs in grid.runs.items():
    for run in runs.values() if key.encoder == encoder else ():
      parameters = run.experiment.get('parameters')
      if isinstance(parameters, dict) and all(isinstance(n, int) for n in parameters.values()):
        return f'{sum(parameters.values()) / 1e6:.1f}'
  return ''


def markdown(grid: Grid, banner: str, findings: Sequence[str], more: Sequence[architecture.Table]) -> str:
  """What was found, Table 9 and `more` tables as Markdown, under the sentence that says where the pixels come from."""
  parts = ['# Pretraining by encoder', f'> {banner}', '\n'.join(f'- {sentence}' for sentence in findings)]
  for table in tables(grid):
    head = ['pretraining', *(methods.encoder_name(c) for c in table.columns)]
    rows = [
      [OBJECTIVES.get(row, row), *(_text(table.cells.get((row, c))) for c in table.columns)] for row in table.rows
    ]
    parts += [f'## {table.title[0].upper()}{table.title[1:]}, %', _markdown_table(head, rows)]
  parts += legend(grid)
  for other in more:
    parts += [f'## {other.title}', _markdown_table(other.heads, other.rows), other.note]
  return '\n\n'.join(part for part in parts if part) + '\n'


def _markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  return '\n'.join(f'| {" | ".join(line)} |' for line in [head, ['---'] * len(head), *rows])


_LEGEND = (
  'As in the paper, bold marks the best encoder of a pretraining (row) and underline the best pretraining of an '
  'encoder (column). Each entry: mean over seeds ± half of its 95 % t-interval; below it the gain over no pretraining, '
  'paired by seed: it helps or hurts only where its interval leaves out 0.',
  'The two intervals answer two questions. ± (t, over seeds): would another initialisation and order of the training '
  'change it? Places (bootstrap over 50 km blocks of test patches, averaged over the seeds): would other test places '
  'change it? Neither covers the other, nor another sample of training places.',
  'Paper: its Table 9, which counted nodata as a class and gives no interval, so it is no target to hit.',
)


def legend(grid: Grid) -> tuple[str, ...]:
  """How to read the tables, and which of its losses each pretraining had."""
  losses: dict[str, set] = {}
  for key, runs in grid.runs.items():
    if key.objective in ('tile2vec', 'contrastive'):
      found = {run.config.get(f'pretrain.{key.objective}.loss') for run in runs.values()} - {None}
      losses.setdefault(key.objective, set()).update(found)
  words = {'triplet': "the triplet loss, the paper's", 'infonce': 'InfoNCE'}
  said = [
    f'{methods.objective_name(name)} by {" and ".join(words.get(loss, str(loss)) for loss in sorted(found))}'
    for name, found in losses.items()
    if found
  ]
  return (*_LEGEND, f'Losses: {"; ".join(said)}.') if said else _LEGEND


def _text(cell: Cell | None) -> str:
  if cell is None:
    return '–'
  text = cell.score.text()
  text = f'<u>{text}</u>' if cell.best_of_column else text
  text = f'**{text}**' if cell.best_of_row else text
  text += f' (places {cell.score.places_text()})' if cell.score.places else ''
  if cell.gain:
    text += f'; {cell.gain.text(signed=True)}, {cell.gain.verdict}'
    text += f' (places {cell.gain.places_text(signed=True)})' if cell.gain.places else ''
  return text if cell.paper is None else f'{text}; paper {cell.paper}'


def as_csv(runs: Sequence[Run]) -> str:
  """One row per tested run: what it was and its scores, IoU of each class included."""
  out = io.StringIO()
  writer = csv.writer(out, lineterminator='\n')
  tested = [run for run in runs if run.test]
  classes = list(dict.fromkeys(name for run in tested for name in run.test['classes']))
  about = ['run', 'pretraining', 'encoder', 'width', 'seed', 'label_fraction', 'target', 'synthetic', 'test_patches']
  labelling = [run for run in runs if run.scenes]  # patches as a whole
  of_scenes = list(scenes.COLUMNS) if labelling else []
  writer.writerow([*about, *METRICS, *(f'iou_{name}' for name in classes), *of_scenes])
  for run in labelling:
    scores = run.scenes['methods']['model']
    writer.writerow(
      [*_about(run, run.scenes), *[''] * (len(METRICS) + len(classes)), *(scores[key] for key in of_scenes)]
    )
  for run in tested:
    model = run.test['methods']['model']
    iou = dict(zip(run.test['classes'], model['iou'], strict=True))
    writer.writerow(
      [*_about(run, run.test), *(model[metric] for metric in METRICS), *(iou.get(name) for name in classes),
       *[''] * len(of_scenes)]
    )  # fmt: skip
  return out.getvalue()


def _about(run: Run, test: Mapping[str, Any]) -> list[Any]:
  return [
    run.path, run.objective, run.config.get('encoder.name', ''), run.config.get('encoder.width', ''),
    run.config.get('seed', ''), run.label_fraction, test['target'], run.synthetic, test.get('test_patches', ''),
  ]  # fmt: skip

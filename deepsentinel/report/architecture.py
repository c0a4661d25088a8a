"""The paper's Tables 2 to 8 and 10: what the networks of some runs are made of, and what they tell apart."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from deepsentinel import layertables, legend, registry, sensors
from deepsentinel.report import methods
from deepsentinel.report.runs import OBJECTIVES, Run

# What the paper's encoders read and its header tells apart; its last class is nodata, which is none of ours.
WIDTH, CHANNELS, CROP_PX, CLASSES = 64, 14, 128, 7
_STEM = {'Conv1': 43904, 'BatchNorm1': 128, 'ReLu1': 0}
_RESNET34 = {'Layer1': 221952, 'Layer2': 1116416, 'Layer3': 6822400, 'Layer4': 13114368}
# Parameters as the paper prints them, misprints included, by the number of its table.
PAPER: dict[str, dict[str, int]] = {
  'Table 5': {
    **_STEM, 'Layer1': 147960, 'Layer2': 525568, 'Layer3': 2099712, 'Layer4': 8393728, 'Total': 11211008,
  },
  'Table 6': {**_STEM, **_RESNET34, 'Total': 21319168},
  'Table 7': {**_STEM, **_RESNET34, 'Attn1': 82241, 'Sum1': 0, 'Attn2': 328321, 'Sum2': 0, 'Total': 11621570},
  'Table 8': {
    'Layer1': 1705728, 'Layer2': 426880, 'Layer3': 106944, 'Layer4': 26848, 'Conv1': 231, 'Total': 2266631,
  },
}  # fmt: skip
_NOTES = {
  'Table 2': 'With He et al., the shortcut is summed before the last activation. The paper gives no numbers.',
  'Table 3': 'The paper gives no numbers.',
  'Table 4': 'The learned scalar (SAGAN) is in the count that the paper gives for the block, 82,241.',
  'Table 5': "The paper's Layer1 is a misprint of 147,968; its last row, a softmax, was never applied.",
  'Table 6': "The paper's last row, a softmax, was never applied.",
  'Table 7': 'The paper repeats the rows of ResNet34 in Layer1 to Layer4; its total is that of ResNet18.',
  'Table 8': "Counted with the paper's seventh class, nodata; the paper's shapes are of twice the size, a misprint.",
  'Linear unit': 'The header of runs that label whole patches, in place of Table 8; the paper has none.',
}
_TABLE_10 = (
  'Urban and built-up areas', 'Agriculture and mixed land use', 'Natural land uses', 'Wetlands', 'Permanent water',
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Table:
  """A table as the page shows it: texts, the last columns being numbers."""

  title: str
  note: str
  heads: tuple[str, ...]
  rows: tuple[tuple[str, ...], ...]


_layers = functools.cache(layertables.tables)


def tables(runs: Sequence[Run]) -> list[Table]:
  """Tables 2 to 8 as far as they concern the runs: at the paper's size beside its numbers and, if it is another, at
  the runs' own."""
  sizes: dict[bool, dict[str, tuple[int, int, int, int]]] = {False: {}, True: {}}
  for run in runs:
    if _known(run):
      size, of_scenes = _size(run)
      sizes[of_scenes].setdefault(run.config['encoder.name'], size)
  found: dict[str, Table] = {}
  for of_scenes, settings in sizes.items():  # those that label whole patches have no Tables 3 and 8 of their own
    for encoder in methods.ordered(settings, {name: name for name in ('resnet18', 'resnet34', 'resnet18attn')}):
      size = settings[encoder]
      own = {_number(table): table for table in _layers(encoder, *size, of_scenes=of_scenes)}
      beside = own if size[:3] != (WIDTH, CHANNELS, CROP_PX) else {}
      made = [
        _beside(table, beside.get(_number(table)), size, of_scenes)
        for table in _layers(encoder, WIDTH, CHANNELS, CROP_PX, CLASSES)
      ]
      made += [_beside(own['Linear unit'], None, size, of_scenes)] if of_scenes else []
      for table in made:
        found.setdefault(table.title.partition(' (')[0], table)
  return sorted(found.values(), key=lambda table: (not table.title.startswith('Table'), table.title))


def _number(table: layertables.Table) -> str:
  """'Table 5' of its title at any size; of tables without a number what they are of."""
  return table.title.partition(':')[0].partition(',')[0]


def _known(run: Run) -> bool:
  return run.config.get('encoder.name') in registry.known('encoder')


def _size(run: Run) -> tuple[tuple[int, int, int, int], bool]:
  """(width, channels, crop_px and classes of a run, with the paper's where it does not say; if it labels patches)."""
  spec = run.experiment.get('spec')
  bands = spec.get('bands', ()) if isinstance(spec, dict) else ()
  name = run.config.get('finetune.target')
  classes = legend.map_classes(run.config.get('finetune.legend', ()))
  target = legend.target(name if name in legend.TARGETS else 'corine_level1', classes)
  predicted = len(run.test.get('classes', ())) or len(target.classes) or len(legend.LEVEL1_NAMES)
  crop_px = int(run.config.get('data.crop_px') or CROP_PX)
  width = int(run.config.get('encoder.width') or WIDTH)
  return (width, len(bands) or len(sensors.ALL_BANDS), crop_px, predicted), target.is_scene


def _beside(
  table: layertables.Table, own: layertables.Table | None, size: tuple[int, int, int, int], of_scenes: bool
) -> Table:
  number = _number(table)
  paper = PAPER.get(number, {})
  heads = [*layertables.HEADINGS, *(['paper'] if paper else []), *(['in these runs'] * bool(own))]
  theirs = {row[0]: row for row in own.rows} if own else {}
  rows = []
  for row in (*table.rows, ('Total', '', '', '', f'{table.total:,}')):
    cells = [*row]
    if paper:
      cells.append(f'{paper[row[0]]:,}' if row[0] in paper else '–')
    if own:
      same = theirs.get(row[0])
      cells.append(f'{own.total:,}' if row[0] == 'Total' else f'{same[4]} {same[3]}' if same else '–')
    rows.append(tuple(cells))
  width, channels, crop_px, classes = size
  note = _NOTES.get(number, '')
  if own:
    predicted = 'one answer a patch' if of_scenes else f'{classes} classes'
    note += f' These runs: width {width}, {channels} channels, crops of {crop_px} px, {predicted}.'
  return Table(table.title, note.strip(), tuple(heads), tuple(rows))


def trained(runs: Sequence[Run]) -> Table | None:
  """Parameters by objective and encoder as the runs recorded them; None where none did."""
  rows: dict[tuple[str, str], tuple[str, ...]] = {}
  for run in runs:
    stages = run.experiment.get('stages')
    stages = stages if isinstance(stages, dict) else {}
    counts = [_groups(stages.get(stage)) for stage in ('pretrain', 'finetune')]
    key = (run.objective, run.encoder)
    if any(counts) and (key not in rows or (counts[0] and rows[key][2] == '–')):
      rows[key] = (OBJECTIVES.get(run.objective, run.objective), run.encoder, *(count or '–' for count in counts))
  if not rows:
    return None
  ordered = [rows[key] for o in methods.ordered({o for o, _ in rows}, OBJECTIVES) for key in rows if key[0] == o]
  return Table('Parameters as trained', '', ('pretraining', 'encoder', 'pretrained', 'fine-tuned'), tuple(ordered))


def _groups(stage: Any) -> str:
  """'11,211,008 encoder + 2,266,631 header = 13,477,639'."""
  parameters = stage.get('parameters') if isinstance(stage, dict) else None
  if not isinstance(parameters, dict) or not all(isinstance(n, int) for n in parameters.values()) or not parameters:
    return ''
  parts = ' + '.join(f'{count:,} {name}' for name, count in parameters.items())
  return f'{parts} = {sum(parameters.values()):,}' if len(parameters) > 1 else parts


def classes() -> Table:
  """Table 10: the land-cover classes."""
  rows = []
  for digit, (name, words) in enumerate(zip(legend.LEVEL1_NAMES, _TABLE_10, strict=True), start=1):
    inside = [c.name for c in legend.CORINE if c.code // 100 == digit]
    rows.append((f'{digit}XX', words, name, f'{len(inside)}: {inside[0]} to {inside[-1]}'))
  heads = ('Class', "the paper's words", 'here', 'EEA level-3 classes in it')
  note = "The paper's level 0 is the EEA's level 1. Pixels without a CORINE label are ignored in loss and score."
  return Table('Table 10: CORINE land cover classes', note, heads, tuple(rows))

"""Trials: a wrong command, what its one sentence must say, and the table of all of them, TRIALS.md.

DEEPSENTINEL_WRITE_TRIALS=1 python -m pytest tests/test_bad_*.py writes the table from what the commands say; without
the variable every sentence is compared with its row.
"""

import dataclasses
import os
import pathlib
import re
from collections.abc import Mapping

from tests import commands

TABLE = pathlib.Path(__file__).with_name('TRIALS.md')
WRITING = bool(os.environ.get('DEEPSENTINEL_WRITE_TRIALS'))
_HEAD = (
  '# Trials of bad input\n\nWhat each command says on stderr, beside exit status 1 and no traceback. `MADE` is a '
  'folder of inputs, `OUT` the\nfolder asked for. Written and checked by the tests (tests/trials.py).\n'
)


@dataclasses.dataclass(frozen=True)
class Trial:
  """One wrong command.

  Attributes:
    name: unique; the row of the table.
    module: what is run, `python -m MODULE`.
    arguments: of the command line; {made} and {out} stand for the folders of inputs and of results.
    says: pieces of the sentence: what was wrong, what was found, how to mend it.
    common: arguments that all trials of the module share, not shown in the table.
    environment: variables to set.
    begins: what is wrong is found when the work has begun, so there is a folder of results.
  """

  name: str
  module: str
  arguments: tuple[str, ...]
  says: tuple[str, ...]
  common: tuple[str, ...] = ()
  environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
  begins: bool = False


def snapshot(folder: pathlib.Path) -> dict[str, tuple[int, int]]:
  """File below `folder` -> (time of its last change, bytes), but for what every start writes."""
  files = [f for f in folder.rglob('*') if f.is_file() and f.name not in ('.lock', 'experiment.json')]
  return {str(f.relative_to(folder)): (f.stat().st_mtime_ns, f.stat().st_size) for f in files}


def check(trial: Trial, section: str, made: pathlib.Path, out: pathlib.Path) -> None:
  """Runs a trial: the command fails with the sentence of its row, leaves nothing and changes nothing."""
  before = snapshot(made)
  arguments = [a.format(made=made, out=out) for a in (*trial.common, *trial.arguments)]
  error = commands.run(trial.module, *arguments, **trial.environment).error
  for piece in trial.says:
    assert piece.format(made=made, out=out) in error, f'{piece!r} is not in: {error}'
  assert out.exists() == trial.begins, 'a wrong command left something behind'
  after = snapshot(made)
  assert {name: after.get(name) for name in before} == before, 'a wrong command changed its inputs'
  name = 'tfds' if trial.module == commands.TFDS else f'python -m {trial.module}'
  command = ' '.join([*(f'{k}={v}' for k, v in trial.environment.items()), name, *trial.arguments])
  check_row(section, trial.name, command.format(made='MADE', out='OUT'), plain(error, made, out))


def plain(message: str, made: pathlib.Path, out: pathlib.Path) -> str:
  """A message without what differs from run to run: temporary folders and sizes of compressed files."""
  message = message.replace(str(out), 'OUT').replace(str(made), 'MADE').replace(str(commands.ROOT), 'ROOT')
  return re.sub(r'\(\d+ bytes\)', '(N bytes)', message)


def check_row(section: str, name: str, command: str, message: str) -> None:
  """Compares one row of the table, or writes it."""
  row = f'| {name} | `{_cell(command)}` | {_cell(message)} |'
  sections = _read()
  if WRITING:
    rows = sections.setdefault(section, {})
    rows[name] = row
    text = _HEAD + ''.join(
      f'\n## {title}\n\n| trial | command | message |\n|---|---|---|\n' + '\n'.join(rows.values()) + '\n'
      for title, rows in sections.items()
    )
    TABLE.write_text(text)
    return
  assert row == sections.get(section, {}).get(name), 'TRIALS.md has another sentence; see tests/trials.py'


def check_names(section: str, names: list[str]) -> None:
  """The table has these trials in a section and no others."""
  assert sorted(_read().get(section, {})) == sorted(names)


def _cell(text: str) -> str:
  return text.replace('|', '\\|')


def _read() -> dict[str, dict[str, str]]:
  sections: dict[str, dict[str, str]] = {}
  section = ''
  for line in TABLE.read_text().splitlines() if TABLE.exists() else []:
    if line.startswith('## '):
      section = line[3:]
      sections[section] = {}
    elif line.startswith('| ') and line != '| trial | command | message |':
      sections[section][line[2:].partition(' | ')[0]] = line
  return sections

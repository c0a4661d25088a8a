"""What the benchmarks share: ways of doing one thing that take turns, and the rows they leave for RESULTS.md.

    python benchmarks/sidebyside.py [--results=.cache/benchmarks/results] [--out=benchmarks/RESULTS.md]

makes the table of what the benchmarks have left, each as of its last run. `make bench` runs them all and then this.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import psutil

from deepsentinel import provenance

_LOAD = os.getloadavg()[0]  # before anything is measured
RESULTS = pathlib.Path('.cache/benchmarks/results')
_PEERS = ('tensorflow', 'torch', 'torchvision', 'kornia', 'torchgeo', 'rasterio', 'geopandas', 'scikit-learn')


class Row(NamedTuple):
  """One comparison.

  Attributes:
    stage: what is done, with its size: '128-px crops from shards, one core'.
    peer: what a user would do it with instead.
    unit: of the values: 's', 'ms', 'crops/s'. Those ending in '/s' are better when larger, all others when smaller.
    ours, theirs: a value of each run, in the order in which the two took turns. `theirs` is empty where there is none.
    aim: the ratio that is wanted; 0 where none is stated.
    note: what a reader has to know of it.
  """

  stage: str
  peer: str
  unit: str
  ours: Sequence[float]
  theirs: Sequence[float]
  aim: float = 0.0
  note: str = ''

  def ratios(self) -> list[float]:
    """How many times as fast ours was, of each pair of runs."""
    pairs = zip(self.ours, self.theirs, strict=True) if self.theirs else ()
    return [a / b if self.unit.endswith('/s') else b / a for a, b in pairs]


def alternate(ways: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
  """Runs every way once without counting it, then `repeats` times in turn; each second turn goes backwards.

  Args:
    ways: name -> a run, which returns its measure (seconds, or a rate).
    repeats: counted runs of each.
  Returns:
    name -> measures, in the order of the turns.
  """
  values: dict[str, list[float]] = {name: [] for name in ways}
  for run in ways.values():
    run()
  for turn in range(repeats):
    for name in list(ways)[:: -1 if turn % 2 else 1]:
      values[name].append(ways[name]())
  return values


def leave(script: str, rows: Sequence[Row], results: pathlib.Path = RESULTS) -> None:
  """Prints the rows of a benchmark and keeps them for RESULTS.md, in place of those of its last run.

  Args:
    script: its file; pass `__file__`.
    rows: all that it compared.
    results: folder of one JSON file per benchmark.
  """
  for row in rows:
    print(f'{row.stage}: {_spread(row.ours)} {row.unit}; {row.peer}: {_spread(row.theirs)}; times: {_times(row)}')
  results.mkdir(parents=True, exist_ok=True)
  made = {
    'when': datetime.datetime.now(datetime.UTC).strftime('%Y-%m-%d'),
    'machine': machine(),
    'load': round(_LOAD, 2),
    'versions': provenance.versions(_PEERS),
    'commit': provenance.git_commit(),
    'rows': [row._asdict() for row in rows],
  }
  provenance.write_json(results / f'{pathlib.Path(script).stem}.json', made)


def cores() -> int:
  """Cores that this process may use."""
  return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def machine() -> str:
  """Processor, cores that this process may use, memory, and accelerators that JAX would take, if any is installed."""
  name = platform.processor() or platform.machine()
  info = pathlib.Path('/proc/cpuinfo')
  if info.exists():
    names = [line.partition(':')[2].strip() for line in info.read_text().splitlines() if line.startswith('model name')]
    name = names[0] if names else name
  return f'{name}, {cores()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB'


def table(made: Mapping[str, dict[str, Any]]) -> str:
  """RESULTS.md of what `leave` kept, name of the benchmark -> its content."""
  lines = [
    '# Results of the benchmarks',
    '',
    'Made by `make bench`: medians of alternating runs in one process or one minute, with the least and the most. '
    '"Times" is how many times as fast ours is, the median over pairs of runs; the load, of the minute before, is also '
    'that of the benchmark before. docs/speed.md says what made the '
    'difference, what did not work, and where the limits are.',
    '',
    '| stage | DeepSentinel | peer | its measure | times | aim | benchmark |',
    '|---|---|---|---|---|---|---|',
  ]
  for script, content in made.items():
    for row in (Row(**values) for values in content['rows']):
      note = f' ({row.note})' if row.note else ''
      lines.append(
        f'| {row.stage}{note} | {_measure(row.ours, row)} | {row.peer} | {_measure(row.theirs, row)} | {_times(row)} '
        f'| {_aim(row)} | `{script}.py` |'
      )
  lines += ['', '| benchmark | date | machine | load before | commit | versions |', '|---|---|---|---|---|---|']
  before = ''
  for script, content in made.items():
    named = ', '.join(f'{name} {version}' for name, version in content['versions'].items() if name != 'deepsentinel')
    lines.append(
      f'| `{script}.py` | {content["when"]} | {content["machine"]} '
      f'| {content.get("load", "-")} | {content["commit"][:7]} '
      f'| {"as above" if named == before else named} |'
    )
    before = named
  return '\n'.join(lines) + '\n'


def _measure(values: Sequence[float], row: Row) -> str:
  return f'{_spread(values)} {row.unit}' if values else '-'


def _spread(values: Sequence[float]) -> str:
  if not values:
    return '-'
  middle, least, most = (_number(v) for v in (statistics.median(values), min(values), max(values)))
  return f'{middle} ({least} to {most})' if len(values) > 1 else middle


def _number(value: float) -> str:
  """Three significant figures, and thousands whole."""
  return f'{value:,.0f}' if abs(value) >= 100 else f'{value:.3g}'


def _times(row: Row) -> str:
  return _spread(row.ratios())


def _aim(row: Row) -> str:
  if not row.aim or not row.theirs:
    return '-'
  return f'{row.aim:g}: {"reached" if statistics.median(row.ratios()) >= row.aim else "**missed**"}'


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--results', type=pathlib.Path, default=RESULTS, help='what the benchmarks have left')
  parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path('benchmarks/RESULTS.md'))
  options = parser.parse_args()
  made = {path.stem: json.loads(path.read_text()) for path in sorted(options.results.glob('*.json'))}
  if not made:
    parser.error(f'{options.results} holds no results. Run a benchmark first, e.g. python benchmarks/record_reader.py.')
  options.out.write_text(table(made))
  print(f'{options.out}: {sum(len(content["rows"]) for content in made.values())} rows of {len(made)} benchmarks')


if __name__ == '__main__':
  main()

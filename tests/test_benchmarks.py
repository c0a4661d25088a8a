"""The benchmarks are listed, say how they are used, and come into RESULTS.md as they were measured."""

import ast
import json
import pathlib
import re
import runpy
import subprocess

import pytest

from benchmarks import sidebyside

FOLDER = pathlib.Path(__file__).resolve().parent.parent / 'benchmarks'
SCRIPTS = sorted(
  path.name
  for path in FOLDER.glob('*.py')
  if path.name != 'sidebyside.py' and "if __name__ == '__main__'" in path.read_text()
)


def rows_of_the_readme() -> dict[str, list[str]]:
  lines = re.findall(r'^\| `(\w+\.py)` \|(.*)\|$', (FOLDER / 'README.md').read_text(), re.MULTILINE)
  return {name: rest.split(' | ') for name, rest in lines}


def test_every_benchmark_has_its_row_and_no_other():
  assert sorted(rows_of_the_readme()) == SCRIPTS


def test_make_bench_runs_every_benchmark():
  done = subprocess.run(
    ['make', '--dry-run', '--always-make', 'bench'], cwd=FOLDER.parent, capture_output=True, text=True, check=True
  )
  assert re.findall(r'benchmarks/(\w+\.py)', re.search(r'for script in ([^;]*);', done.stdout)[1]) == SCRIPTS


@pytest.mark.parametrize('name', SCRIPTS)
def test_a_benchmark_documents_its_options_and_imports_no_test(name):
  tree = ast.parse((FOLDER / name).read_text())
  imported = {
    part
    for node in ast.walk(tree)
    if isinstance(node, ast.Import | ast.ImportFrom)
    for part in ([node.module or ''] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
  }
  assert not [part for part in imported if part.split('.')[0] == 'tests']
  text = ast.get_docstring(tree)
  assert f'python benchmarks/{name}' in text
  shown = set(re.findall(r'--(?:no-)?(\w+)', text + rows_of_the_readme()[name][-1]))
  code = (FOLDER / name).read_text()
  taken = set(re.findall(r"add_argument\(\s*'--(\w+)'", code)) | set(re.findall(r"DEFINE_\w+\(\s*'(\w+)'", code))
  taken |= {f'no{flag}' for flag in re.findall(r"DEFINE_bool\(\s*'(\w+)'", code)}
  assert {option for option in shown if option not in ('help', 'config')} <= taken


@pytest.mark.parametrize('name', ['sidebyside.py', *SCRIPTS])
def test_help_is_answered(name, capsys, monkeypatch):
  if 'from absl import' in (FOLDER / name).read_text():
    pytest.skip('absl parses the flags before main: the test above reads them')
  monkeypatch.syspath_prepend(str(FOLDER))
  monkeypatch.setattr('sys.argv', [name, '--help'])
  with pytest.raises(SystemExit) as ended:
    runpy.run_path(str(FOLDER / name), run_name='__main__')
  assert ended.value.code == 0
  assert 'options:' in capsys.readouterr().out


def test_ratios_say_how_many_times_as_fast_ours_is():
  assert sidebyside.Row('a', 'b', 's', [1.0, 2.0], [10.0, 10.0]).ratios() == [10.0, 5.0]
  assert sidebyside.Row('a', 'b', 'crops/s', [30.0], [10.0]).ratios() == [3.0]
  assert sidebyside.Row('a', '', 's', [30.0], []).ratios() == []


def test_ways_take_turns_after_one_run_that_is_not_counted():
  order = []
  ways = {name: lambda name=name: order.append(name) or float(len(order)) for name in ('a', 'b')}
  assert sidebyside.alternate(ways, 2) == {'a': [3.0, 6.0], 'b': [4.0, 5.0]}
  assert order == ['a', 'b', 'a', 'b', 'b', 'a']


def test_the_table_says_what_was_left(tmp_path, capsys):
  rows = [
    sidebyside.Row('reached', 'peer', 's', [1.0, 1.0, 2.0], [12.0, 10.0, 10.0], 10, 'a note'),
    sidebyside.Row('missed', 'peer', 'crops/s', [1234.5], [500.0], 10),
    sidebyside.Row('alone', '', 's', [0.25], []),
  ]
  sidebyside.leave('somewhere/points.py', rows, tmp_path)
  assert 'reached: 1 (1 to 2) s; peer: 10 (10 to 12); times: 10 (5 to 12)' in capsys.readouterr().out
  made = {'points': json.loads((tmp_path / 'points.json').read_text())}
  lines = sidebyside.table(made).splitlines()
  assert (
    '| reached (a note) | 1 (1 to 2) s | peer | 10 (10 to 12) s | 10 (5 to 12) | 10: reached | `points.py` |' in lines
  )
  assert '| missed | 1,234 crops/s | peer | 500 crops/s | 2.47 | 10: **missed** | `points.py` |' in lines
  assert '| alone | 0.25 s |  | - | - | - | `points.py` |' in lines
  assert '| benchmark | date | machine | load before | commit | versions |' in lines
  assert any(line.startswith('| `points.py` | 20') and 'numpy' in line for line in lines)

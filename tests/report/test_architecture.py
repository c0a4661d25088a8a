"""The layers beside the paper's numbers: the same, but for the paper's known misprints."""

import pytest

from deepsentinel.report import architecture
from deepsentinel.report.runs import read_run
from tests.report import fake_runs

# FACTS: Table 5's Layer1 is misprinted; Table 7 repeats the rows of ResNet34.
MISPRINTS = {('Table 5', 'Layer1'), *(('Table 7', f'Layer{i}') for i in (1, 2, 3, 4))}


@pytest.fixture(scope='module')
def tables(tmp_path_factory):
  root = tmp_path_factory.mktemp('runs')
  runs = []
  for name, width in (('resnet18attn', 16), ('resnet18', 64), ('resnet34', 64)):
    config = {'encoder': {'name': name, 'width': width}}
    runs.append(read_run(fake_runs.write_run(root / name, config=config)))
  return {table.title.partition(':')[0]: table for table in architecture.tables(runs)}


def test_every_table_of_the_networks_is_there(tables):
  assert list(tables) == [f'Table {n}' for n in range(2, 9)]


def test_ours_equals_the_papers_but_for_its_misprints(tables):
  differing = set()
  for number, paper in architecture.PAPER.items():
    table = tables[number]
    column = table.heads.index('paper')
    rows = {row[0]: row for row in table.rows}
    assert set(paper) <= set(rows)
    differing |= {(number, name) for name in paper if rows[name][column] != rows[name][column - 1]}
  assert differing == MISPRINTS


def test_a_narrower_run_has_a_column_of_its_own(tables):
  assert tables['Table 7'].heads[-1] == 'in these runs'
  assert 'in these runs' not in tables['Table 5'].heads
  total = tables['Table 7'].rows[-1]
  assert total[-1] == '736,562'  # of python -m deepsentinel.describe with encoder.width=16
  assert 'width 16, 14 channels, crops of 128 px, 5 classes' in tables['Table 7'].note


def test_runs_of_scenes_have_a_linear_unit(tmp_path):
  config = {'encoder': {'name': 'resnet18', 'width': 16}, 'finetune': {'target': 'mine'}}
  found = architecture.tables([read_run(fake_runs.write_run(tmp_path / 'mines', config=config))])
  titles = [table.title.partition(':')[0] for table in found]
  assert titles == ['Table 2', 'Table 3', 'Table 5', 'Table 8', 'Linear unit']
  columns = [table.heads[-1] == 'in these runs' for table in found]
  assert columns == [True, False, True, False, False]
  assert 'crops of 128 px, one answer a patch' in found[2].note
  assert found[-1].rows[-2][0] == 'Linear'
  assert found[-1].rows[-1][-1] == '129'  # 128 weights and a bias


def test_no_encoder_no_table(tmp_path):
  run = fake_runs.write_run(tmp_path / 'a', config={'encoder': {'name': 'resnet19'}})
  assert architecture.tables([read_run(run)]) == []


def test_table_10_names_every_class():
  table = architecture.classes()
  assert [row[0] for row in table.rows] == ['1XX', '2XX', '3XX', '4XX', '5XX']
  assert sum(int(row[3].partition(':')[0]) for row in table.rows) == 44

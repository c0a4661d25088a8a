import importlib
import re

import pytest

from deepsentinel import layertables
from tests import commands

# The paper's Tables 5 to 8, with FACTS' two corrections (Layer1, the header's shapes).
PAPER = {'resnet18': '11,211,008', 'resnet34': '21,319,168', 'resnet18attn': '11,621,570'}
RESNET18_ROWS = """
Conv1       [B, 64, 64, 64]      43,904
BatchNorm1  [B, 64, 64, 64]         128
ReLu1       [B, 64, 64, 64]           0
Layer1      [B, 64, 64, 64]     147,968
Layer2      [B, 128, 32, 32]    525,568
Layer3      [B, 256, 16, 16]  2,099,712
Layer4      [B, 512, 8, 8]    8,393,728
"""
BLOCK_LAYERS = [
  'Conv1', 'BatchNorm1', 'ReLu1', 'Conv2', 'BatchNorm2', 'Shortcut', 'BatchNormShortcut', 'Sum', 'ReLu2',
]  # fmt: skip
HEADER_ROWS = """
Layer1  [B, 256, 16, 16]    1,705,728
Layer2  [B, 128, 32, 32]      426,880
Layer3  [B, 64, 64, 64]       106,944
Layer4  [B, 32, 128, 128]      26,848
Conv1   [B, 7, 128, 128]          231
"""


def config(name):
  return importlib.import_module(f'configs.{name}').get_config()


def rows_of(table):
  """Layer, shape and parameters of each row of a rendered plain-text table."""
  return re.findall(r'^(\w+) .*(\[B[^\]]*\])\s+([\d,]+)$', table, re.MULTILINE)


def expected(text):
  return re.findall(r'^(\w+) +(\[.*\]) +([\d,]+)$', text, re.MULTILINE)


@pytest.mark.parametrize('name', sorted(PAPER))
def test_totals_are_the_papers(name):
  text = layertables.describe(config(f't2v_{name}'), classes=7)
  tables = text.split('\n\n')
  encoder = next(t for t in tables if re.match(rf'Table [567]: {name}$', t.splitlines()[0]))
  header = next(t for t in tables if t.startswith('Table 8'))
  assert encoder.splitlines()[-1].split() == ['Trainable', 'parameters:', PAPER[name]]
  assert header.splitlines()[-1].split() == ['Trainable', 'parameters:', '2,266,631']
  assert rows_of(header) == expected(HEADER_ROWS)
  if name == 'resnet18':
    assert rows_of(encoder)[:-1] == expected(RESNET18_ROWS)  # and the mean over cells
    block = next(t for t in tables if t.startswith('Table 2'))
    assert [row[0] for row in rows_of(block)] == BLOCK_LAYERS
  if name == 'resnet18attn':
    assert ('Attn1', '[B, 256, 16, 16]', '82,241') in rows_of(encoder)
    assert re.search(r'^Sum1 +\[Attn1, Layer3\] +Sum ', encoder, re.MULTILINE)
    assert re.search(r'^Layer4 +Sum1 ', encoder, re.MULTILINE)
  assert ('Table 4' in text) == (name == 'resnet18attn')
  assert [t[:7] for t in tables] == sorted(t[:7] for t in tables)


def test_the_target_gives_the_classes_and_rows_align():
  text = layertables.describe(config('quickstart'))
  assert 'deconvolution header, 5 classes' in text
  assert 'resnet18attn, width 8' in text
  for table in text.split('\n\n'):
    assert len({len(line) for line in table.splitlines()[1:]}) == 1


def test_markdown_has_a_rule_and_as_many_cells_in_every_row():
  table = layertables.describe(config('none_resnet18'), markdown=True).split('**Table 5')[1].split('Trainable')[0]
  lines = [line for line in table.splitlines() if line.startswith('|')]
  assert re.fullmatch(r'\|(-+\|){4}-+:\|', lines[1])
  assert {line.count('|') for line in lines} == {6}


def test_an_unknown_encoder_and_target_are_named():
  wrong = config('quickstart')
  wrong.encoder.name = 'resnet19'
  with pytest.raises(
    ValueError, match=r"Unknown encoder 'resnet19'. Known: resnet10, resnet18, resnet18attn, resnet34"
  ):
    layertables.describe(wrong)
  wrong = config('quickstart')
  wrong.finetune.target = 'corine_level0'
  with pytest.raises(ValueError, match=r"config.finetune.target is 'corine_level0'; allowed: one of corine_level1"):
    layertables.describe(wrong)


def test_the_command():
  done = commands.run('deepsentinel.describe', '--config=configs/t2v_resnet18attn.py', '--classes=7')
  assert done.code == 0, done.err
  assert 'Table 7: resnet18attn' in done.out
  assert '11,621,570' in done.out


def test_a_config_behind_a_space_or_with_a_size_is_named_in_its_errors(tmp_path):
  error = commands.run('deepsentinel.describe', '--config', 'configs/quikstart.py').error
  assert error.startswith('error: --config=configs/quikstart.py is not there. ')
  typo = tmp_path / 'typo.py'
  typo.write_text(
    'from configs import common\n\n\ndef get_config(size):\n  config = common.get_config(size)\n'
    '  config.encoder.lock()\n  config.encoder.widht = 8\n  return config\n'
  )
  error = commands.run('deepsentinel.describe', '-config', f'{typo}:small').error
  assert error.startswith(f'error: {typo}, line 7: Key "widht" does not exist')


def test_a_config_of_scenes_has_a_linear_unit():
  text = layertables.describe(config('mines_resnet18'))
  title, rows = text.split('\n\n')[-1].split('\n', 1)
  assert title == 'Linear unit'
  assert rows_of(rows)[-1] == ('Linear', '[B, 1]', '513')  # 512 weights and a bias
  assert 'deconvolution' not in text

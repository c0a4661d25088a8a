"""Table 9: means, intervals and paired gains by hand, in Markdown, CSV and the page."""

import csv
import json

import numpy as np
import pytest
import scipy.stats

from deepsentinel import legend
from deepsentinel.evaluation import metrics
from deepsentinel.report import grid, html, methods
from deepsentinel.report.runs import read_run
from tests.report import fake_runs

SCORES = {
  ('none', 'resnet18'): (0.40, 0.42, 0.47),
  ('vae', 'resnet18'): (0.45, 0.47, 0.52),
  ('none', 'resnet34'): (0.50,),
}


def _cyclic(weighted_iou):
  """Five classes of 10,000 pixels, the wrong ones taken for the next class: every IoU is x / (20000 - x)."""
  right = round(20000 * weighted_iou / (1 + weighted_iou))
  return right * np.eye(5, dtype=int) + (10000 - right) * np.roll(np.eye(5, dtype=int), 1, axis=1)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A grid's folder: runs/NAME."""
  out = tmp_path_factory.mktemp('a grid')
  for (objective, encoder), values in SCORES.items():
    for seed, value in enumerate(values):
      for fraction in (1.0, 0.25) if encoder == 'resnet18' else (1.0,):
        config = {'seed': seed, 'encoder': {'name': encoder}, 'finetune': {'label_fraction': fraction}}
        path = out / 'runs' / f'{objective}_{encoder}_{seed}_{fraction}'
        fake_runs.write_run(path, objective=objective, config=config, seed=seed)
        model = metrics.method(_cyclic(value * (1 if fraction == 1 else 0.5)))
        test = {
          'target': 'corine_level1', 'classes': list(legend.LEVEL1_NAMES), 'methods': {'model': model},
          'test_patches': 50, 'synthetic': True, 'data': 'demo',
        }  # fmt: skip
        (path / 'test.json').write_text(json.dumps(test))
  return out


@pytest.fixture(scope='module')
def runs(folder):
  return [read_run(path) for path in html.run_directories(folder)]


def test_mean_and_interval_by_hand(runs):
  table = grid.tables(methods.collect(runs))[0]
  assert (table.metric, table.fraction) == ('weighted_iou', 1.0)
  assert (table.rows, table.columns) == (('none', 'vae'), ('resnet18', 'resnet34'))
  cell = table.cells['none', 'resnet18']
  assert cell.score.mean == pytest.approx(0.43, abs=1e-4)
  sd = np.std([0.40, 0.42, 0.47], ddof=1)
  assert cell.score.half_width == pytest.approx(scipy.stats.t.ppf(0.975, 2) * sd / 3**0.5, abs=1e-3)
  assert cell.paper == 38.5
  assert cell.gain is None
  assert table.cells['none', 'resnet34'].score.text() == '50.0'


def test_gains_are_paired(runs):
  """Every seed gains 5 points: the seeds' own spread must not hide it."""
  cell = grid.tables(methods.collect(runs))[0].cells['vae', 'resnet18']
  assert cell.gain.mean == pytest.approx(0.05, abs=1e-4)
  assert cell.gain.half_width < 1e-3
  assert cell.gain.decided
  assert cell.score.half_width > 0.05


def test_best_of_row_and_column(runs):
  cells = grid.tables(methods.collect(runs))[0].cells
  assert cells['vae', 'resnet18'].best_of_column
  assert not cells['none', 'resnet18'].best_of_column
  assert cells['none', 'resnet34'].best_of_row
  assert not cells['none', 'resnet18'].best_of_row


def test_fractions_have_tables_of_their_own(runs):
  titles = [table.title for table in grid.tables(methods.collect(runs))]
  assert titles[:2] == [
    'class-weighted IoU, CORINE level 1, all labels',
    'class-weighted IoU, CORINE level 1, 25 % of the labels',
  ]
  assert len(titles) == 6
  assert all(cell.paper is None for cell in grid.tables(methods.collect(runs))[1].cells.values())


def test_report_of_a_folder_of_runs(folder, tmp_path):
  page = html.write_report([folder], tmp_path / 'report.html').read_text()
  assert 'Pretraining by encoder' in page
  assert '+5.0 ± 0.0' in page
  text = (tmp_path / 'report.md').read_text()
  assert '> Results on SyntheticEarth, a simulated world' in text
  assert '| VAE pretraining | **<u>48.0 ± 9.0</u>**' in text
  with (tmp_path / 'report.csv').open() as file:
    rows = list(csv.DictReader(file))
  assert len(rows) == 13
  one = next(r for r in rows if (r['pretraining'], r['seed'], r['label_fraction']) == ('vae', '1', '1.0'))
  assert float(one['weighted_iou']) == pytest.approx(0.47, abs=1e-4)
  assert float(one['iou_water']) == pytest.approx(0.47, abs=1e-4)
  assert one['synthetic'] == 'True'


def test_seeds_of_other_settings_are_in_no_mean(tmp_path):
  """Two grids of one config, the second wider: four seeds of one method they are not."""
  paths = [
    fake_runs.write_run(tmp_path / f'{objective}_{seed}_{width}', objective=objective, seed=seed,
                        config={'encoder': {'name': 'resnet18', 'width': width}})
    for objective in ('none', 'tile2vec') for seed, width in ((0, 8), (1, 8), (2, 64))
  ]  # fmt: skip
  found = methods.collect([read_run(path) for path in paths])
  assert sorted(found.runs[methods.Key('corine_level1', 1.0, 'none', 'resnet18')]) == [0, 1]
  assert found.left_out == tuple(
    f'{objective}_2_64 has other settings than {objective}_0_8 (encoder.width 64, not 8), and is in no mean'
    for objective in ('none', 'tile2vec')
  )


def test_two_runs_alike_need_no_grid(tmp_path):
  runs = [read_run(fake_runs.write_run(tmp_path / name, objective=name)) for name in ('none', 'tile2vec')]
  assert not grid.worth_a_table(runs)

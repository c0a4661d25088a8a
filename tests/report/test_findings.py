"""A grid of runs: what is claimed of it, what is left out of it, and that damage is named and breaks nothing."""

import json
import shutil

import numpy as np
import pytest

from deepsentinel.evaluation import intervals, metrics
from deepsentinel.report import facts, findings, html, methods
from deepsentinel.report.runs import read_run
from tests.report import fake_runs
from tests.report.test_html import Page

KEY = methods.Key('corine_level1', 1.0, 'vae', 'resnet18')


def _grid(folder):
  runs = [read_run(path) for path in html.run_directories(folder)]
  return methods.collect(runs), runs


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Two objectives, two encoders, two seeds, two fractions."""
  return fake_runs.write_grid(
    tmp_path_factory.mktemp('a grid') / 'g',
    objectives=('none', 'tile2vec'), encoders=('resnet18', 'resnet34'), seeds=(0, 1), fractions=(1.0, 0.05),
  )  # fmt: skip


def _gains(**gains):
  """Verdicts' input: gain and half its interval by objective, for one encoder and fraction."""
  return {KEY._replace(objective=name): methods.Estimate(mean, half, 3) for name, (mean, half) in gains.items()}


def test_helps_hurts_and_undecided_are_told_apart():
  gains = _gains(vae=(0.02, 0.01), tile2vec=(0.02, 0.03), contrastive=(-0.02, 0.01))
  assert [gain.verdict for gain in gains.values()] == ['helps', 'undecided', 'hurts']
  assert findings._headline(gains) == (
    'Pretraining helps in 1 of 3 comparisons by more than the interval over 3 seeds, hurts in 1, and 1 is undecided.'
  )
  assert findings._by_objective(gains) == [
    'VAE helps in 1 of 1; Tile2Vec helps in none of 1; contrastive helps in none of 1, hurts in 1.'
  ]


def test_nothing_decided_is_the_headline():
  assert findings._headline(_gains(vae=(0.02, 0.03), tile2vec=(-0.01, 0.03))) == (
    'Whether pretraining helps is undecided: none of 2 comparisons differs from no pretraining by more than the '
    'interval over 3 seeds.'
  )
  assert findings._by_objective(_gains(vae=(0.02, 0.03))) == []


def test_one_seed_decides_nothing():
  gains = _gains(vae=(0.02, None), tile2vec=(-0.011, None))
  assert findings._headline(gains).startswith(
    'One seed decides nothing: pretraining moves class-weighted IoU by −1.1 to +2.0 points'
  )
  assert findings._by_objective(gains) == []


def test_what_places_say_of_what_seeds_decide():
  firm, loose = intervals.Interval(0.01, 0.03), intervals.Interval(-0.01, 0.05)
  gains = {
    KEY: methods.Estimate(0.02, 0.01, 3, firm),
    KEY._replace(objective='tile2vec'): methods.Estimate(0.02, 0.01, 3, loose),
    KEY._replace(objective='contrastive'): methods.Estimate(0.02, 0.01, 3, None, 'it has 3 blocks'),
  }
  assert findings._places(gains) == ['Of 2 decided over seeds, 1 also hold over other test places (block bootstrap).']


def test_sentences_of_a_grid(folder):
  grid, runs = _grid(folder)
  verdict = findings.verdict(grid, runs)
  for encoder in ('ResNet18', 'ResNet34'):
    for fraction in ('all labels', '5 % of the labels'):
      key = KEY._replace(objective='tile2vec', encoder=encoder.lower(), fraction=1.0 if fraction[0] == 'a' else 0.05)
      text = grid.gain(key, 'weighted_iou').text(signed=True)
      assert any(s.startswith(f'{encoder}, {fraction}: ') and text in s for s in verdict.sentences)
  assert any(s.startswith('Best of 4 methods with all labels: Tile2Vec with ResNet34') for s in verdict.sentences)
  assert any(s.startswith('The per-pixel random forest reaches ') for s in verdict.sentences)


def test_intervals_over_places_hold_the_score(folder):
  grid, _ = _grid(folder)
  for key in grid.runs:
    for metric in methods.METRICS:
      score = grid.score(key, metric)
      assert score.places.low < score.mean < score.places.high


def test_the_page_shows_methods_and_not_runs(folder, tmp_path):
  page = Page(html.write_report([folder], tmp_path / 'report.html'))
  alts = [alt for alt, _ in page.pictures()]
  assert sum(alt.startswith('Class-weighted IoU of ResNet') for alt in alts) == 2
  assert sum(alt.startswith('Gain of ResNet') for alt in alts) == 2
  assert sum('IoU of each class' in alt for alt in alts) == 2
  assert sum(alt.startswith('Confusion matrix') for alt in alts) == 5  # four methods and the forest
  assert sum(alt.startswith('Pretraining loss') for alt in alts) == 1
  assert sum(alt.startswith('Validation IoU') for alt in alts) == 4
  # Three inputs and four predictions of each of four patches.
  assert sum('patch demo_' in alt for alt in alts) == 4 * 7
  for name in ('Tables 2 to 8', 'Table 9', 'Table 10', 'Figure 3', 'Figure 4'):
    assert name in page.words
  means = {row[0]: row[1] for table in page.tables for row in table if row[0] == 'Tile2Vec, ResNet18'}
  grid, _ = _grid(folder)
  assert means['Tile2Vec, ResNet18'] == grid.score(KEY._replace(objective='tile2vec'), 'weighted_iou').text()
  assert (tmp_path / 'report.html').stat().st_size < 10e6


def test_damage_is_named_and_breaks_nothing(folder, tmp_path):
  shutil.copytree(folder, tmp_path / 'g')
  runs = tmp_path / 'g' / 'runs'
  shutil.rmtree(runs / 'tile2vec_resnet18_seed1_fraction0.05')
  (runs / 'none_resnet18_seed0_fraction0.05' / 'test.json').write_text('{')
  (runs / 'none_resnet18_seed0_fraction1.0' / 'test_patches.npz').write_bytes(b'PK')
  (runs / 'none_resnet34_seed0_fraction1.0' / 'test_patches.npz').unlink()
  (runs / 'none_resnet34_seed1_fraction0.05' / 'config.json').write_text('{')
  (runs / 'tile2vec_resnet34_seed0_fraction1.0' / 'samples.npz').unlink()
  (runs / 'tile2vec_resnet34_seed1_fraction0.05' / 'test.json').unlink()
  page = Page(html.write_report([tmp_path / 'g'], tmp_path / 'report.html'))
  for words in (
    'tile2vec_resnet18_seed1_fraction0.05: has not begun',
    'none_resnet18_seed0_fraction0.05: test.json cannot be read',
    'none_resnet34_seed1_fraction0.05 does not say how it was pretrained, and is in no mean',
    'tile2vec_resnet34_seed1_fraction0.05: did not finish',
    'No interval over test places for 2 of 8 scores: test_patches.npz of none_resnet18_seed0_fraction1.0 cannot be '
    'read, and 1 other reason.',
    '3 of 16 runs have no test result',
    'Not every method has every seed',
  ):
    assert words in page.words, words


def test_runs_that_would_count_twice_or_on_other_pixels_are_left_out(folder, tmp_path):
  shutil.copytree(folder / 'runs', tmp_path / 'g')
  shutil.copytree(tmp_path / 'g' / 'none_resnet18_seed0_fraction1.0', tmp_path / 'g' / 'twin')
  path = tmp_path / 'g' / 'none_resnet34_seed0_fraction1.0' / 'test.json'
  test = json.loads(path.read_text())
  test['methods']['model'] = metrics.method(2 * np.array(test['methods']['model']['confusion']))
  path.write_text(json.dumps(test))
  grid, _ = _grid(tmp_path / 'g')
  assert grid.left_out == (
    'none_resnet34_seed0_fraction1.0 was tested on other pixels than most runs on corine_level1, and is in no mean',
    'twin is of the same method and seed as none_resnet18_seed0_fraction1.0, and is in no mean',
  )
  assert grid.score(KEY._replace(objective='none', encoder='resnet34'), 'weighted_iou').seeds == 1


def test_a_variant_is_a_method_of_its_own(folder, tmp_path):
  """Fine-tuned with the total compute, no pretraining stands beside itself and has a gain."""
  shutil.copytree(folder / 'runs', tmp_path / 'g')
  for path in (tmp_path / 'g').glob('none_resnet18_seed?_fraction0.05'):
    config = json.loads((path / 'config.json').read_text())
    (path / 'config.json').write_text(json.dumps({**config, 'name': 'none_resnet18'}))
  for seed in (0, 1):
    run = shutil.copytree(tmp_path / 'g' / f'none_resnet18_seed{seed}_fraction1.0', tmp_path / 'g' / f'total_{seed}')
    for path, name in (
      (run, 'none_total_compute'),
      (tmp_path / 'g' / f'none_resnet18_seed{seed}_fraction1.0', 'none_resnet18'),
    ):
      config = json.loads((path / 'config.json').read_text())
      (path / 'config.json').write_text(json.dumps({**config, 'name': name}))
  grid, _ = _grid(tmp_path / 'g')
  assert grid.left_out == ()
  assert grid.objectives('corine_level1', 1.0) == ['none', 'tile2vec', 'none_total_compute']
  gain = grid.gain(KEY._replace(objective='none_total_compute'), 'weighted_iou')
  assert (gain.mean, gain.seeds, gain.verdict) == (0, 2, 'undecided')
  # It is a control, not a pretraining: it counts in no comparison, and is set beside the best pretraining.
  said = findings.verdict(grid, [])
  assert 'of 4 comparisons' in said.headline
  margin = grid.difference(
    KEY._replace(objective='none_total_compute'), KEY._replace(objective='tile2vec'), 'weighted_iou'
  )
  assert said.sentences[0].startswith('No pretraining, total compute with ResNet18, all labels: ')
  assert f'{margin.text(signed=True)} over Tile2Vec, the best pretraining there' in said.sentences[0]
  assert not any('none_total_compute' in sentence for sentence in said.sentences)


def test_a_control_that_beats_pretraining_takes_its_gain_away(folder, monkeypatch):
  grid, _ = _grid(folder)
  best, control = KEY._replace(objective='tile2vec'), KEY._replace(objective='none_total_compute')
  runs = grid.runs | {control: grid.runs[KEY._replace(objective='none')]}
  monkeypatch.setattr(methods.Grid, 'difference', lambda *_: methods.Estimate(0.07, 0.02, 3))
  sentences = findings._controls(methods.Grid(runs, (), grid.resampled), {best: methods.Estimate(0.05, 0.01, 3)})
  assert '+7.0 ± 2.0 over Tile2Vec' in sentences[0]
  assert sentences[1] == 'So what pretraining gains there, the same arithmetic spent on the labels gains as well.'


def test_what_else_differs_is_said(folder, tmp_path):
  shutil.copytree(folder / 'runs', tmp_path / 'g')
  assert not any('also differ' in sentence for sentence in findings.verdict(*_grid(tmp_path / 'g')).sentences)
  for path in (tmp_path / 'g').glob('tile2vec_resnet18_*'):
    config = json.loads((path / 'config.json').read_text())
    config['finetune']['learning_rate'] = 0.5
    (path / 'config.json').write_text(json.dumps(config))
  said = [sentence for sentence in findings.verdict(*_grid(tmp_path / 'g')).sentences if 'also differ' in sentence]
  assert said == [
    'Tile2Vec with ResNet18 also differs from no pretraining in finetune.learning_rate: the gain is of both together.'
  ]


def test_a_variant_does_not_become_the_objective_where_that_failed(folder, tmp_path):
  shutil.copytree(folder / 'runs', tmp_path / 'g')
  for path in (tmp_path / 'g').glob('none_resnet18_seed?_fraction*'):
    total = shutil.copytree(path, path.with_name(f'total_{path.name}'))
    for run, name in ((total, 'none_total_compute'), (path, 'none_resnet18')):
      config = json.loads((run / 'config.json').read_text())
      (run / 'config.json').write_text(json.dumps({**config, 'name': name}))
    if path.name.endswith('0.05'):
      (path / 'test.json').unlink()
  grid, _ = _grid(tmp_path / 'g')
  assert grid.gain(KEY._replace(objective='tile2vec'), 'weighted_iou') is not None
  assert grid.gain(KEY._replace(objective='tile2vec', fraction=0.05), 'weighted_iou') is None
  assert 'none_total_compute' in grid.objectives('corine_level1', 0.05)


def test_the_command_of_a_grid_says_what_was_chosen(folder, tmp_path):
  out = tmp_path / 'g'
  shutil.copytree(folder, out)
  plan = json.loads((out / 'grid.json').read_text())
  for number, run in enumerate(plan):
    run['command'].append(f'--config.finetune.learning_rate={"1e-3" if number % 2 else "2e-3"}')
  (out / 'grid.json').write_text(json.dumps(plan))
  note = {'settings': ['finetune.learning_rate=1e-3'], 'encoder': '', 'validation': {'1e-3': 0.5, '2e-3': 0.4}}
  (out / 'choice.json').write_text(json.dumps({'configs/none_resnet18.py': note}))
  lines = facts.commands([read_run(path) for path in html.run_directories(out)], [str(out)], None)
  command = next(line for line in lines if 'launch/grid.py' in line)
  assert '--choose=finetune.learning_rate=1e-3,2e-3' in command
  assert 'set=finetune.learning_rate' not in command


@pytest.mark.parametrize(
  ('experiment', 'test', 'says'),
  [
    ({'cross_validation': {'folds': 2, 'mean': {'loss': 0.5}, 'std': {'loss': 0.1}}}, True,
     'is a cross-validation over 2 folds, so it has no test (loss 0.500 ± 0.100)'),
    ({'stages': {'finetune': {'status': 'finished'}}}, False, 'was not to be tested (evaluation.test is False)'),
  ],
)  # fmt: skip
def test_runs_that_have_no_test_by_intent(folder, tmp_path, experiment, test, says):
  run = shutil.copytree(next((folder / 'runs').glob('none_resnet18_*')), tmp_path / 'run')
  (run / 'test.json').unlink()
  config = json.loads((run / 'config.json').read_text())
  (run / 'config.json').write_text(json.dumps({**config, 'evaluation': {'test': test}}))
  about = json.loads((run / 'experiment.json').read_text())
  (run / 'experiment.json').write_text(json.dumps({**about, **experiment}))
  assert read_run(run).problem == says


def test_the_command_of_a_grid_is_one_line(folder):
  lines = facts.commands([read_run(path) for path in html.run_directories(folder)], [str(folder)], None)
  assert len([line for line in lines if 'deepsentinel.main' in line]) == 0
  command = next(line for line in lines if 'launch/grid.py' in line)
  for part in (
    '--size=small',
    '--seeds=0,1',
    '--fractions=1.0,0.05',
    'configs/none_resnet18.py,configs/none_resnet34.py',
  ):
    assert part in command
  assert lines[-1].endswith('--out=report.html')

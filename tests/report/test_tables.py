"""What the report says, against numbers set by hand."""

import json

import numpy as np
import pytest

from deepsentinel.evaluation import metrics
from deepsentinel.report import tables
from deepsentinel.report.runs import read_run
from tests.report import fake_runs


def _diagonal(weighted_iou):
  """Two classes of 1,000 pixels each whose IoU are both `weighted_iou` (up to rounding): x / (2000 - x)."""
  right = round(2000 * weighted_iou / (1 + weighted_iou))
  return np.array([[right, 1000 - right], [1000 - right, right]])


def _run(path, objective, weighted_iou, baselines=(), config=None, seed=0):
  fake_runs.write_run(path, objective=objective, config=config, seed=seed)
  methods = {'model': weighted_iou, **dict(baselines)}
  test = {
    'target': 'corine_level1',
    'classes': ['urban', 'water'],
    'methods': {name: metrics.method(_diagonal(value)) for name, value in methods.items()},
    'test_patches': 50,
    'synthetic': True,
    'data': 'demo',
  }
  (path / 'test.json').write_text(json.dumps(test))
  return read_run(path)


def _verdict(*runs):
  return tables.verdict(tables.compare(list(runs)), list(runs))


BASELINES = {'majority': 0.3, 'random_forest': 0.41}.items()


def test_pretraining_wins(tmp_path):
  runs = _run(tmp_path / 't2v', 'tile2vec', 0.481, BASELINES), _run(tmp_path / 'none', 'none', 0.45, BASELINES)
  verdict = _verdict(*runs)
  assert verdict.headline == (
    'Tile2Vec pretraining beats no pretraining at the same fine-tuning budget: '
    '48.1 % against 45.0 % class-weighted IoU on 50 test patches.'
  )
  assert verdict.sentences == (
    'Both networks beat the per-pixel random forest (41.0 %).',
    'Both networks beat the majority class (30.0 %).',
    'One seed each, so no claim of significance.',
  )
  assert _verdict(*runs[::-1]) == verdict


def test_pretraining_loses_and_ties(tmp_path):
  none = _run(tmp_path / 'none', 'none', 0.5)
  loses = _verdict(_run(tmp_path / 'a', 'tile2vec', 0.4), none)
  assert loses.headline == (
    'Tile2Vec pretraining does not help at the same fine-tuning budget: 40.0 % against 50.0 % without it, '
    'in class-weighted IoU on 50 test patches.'
  )
  assert ' tie ' in _verdict(_run(tmp_path / 'b', 'tile2vec', 0.5), none).headline


@pytest.mark.parametrize(('forest', 'expected'), [(0.6, 'The per-pixel random forest beats both: 60.0 %.'), (0.45, '')])
def test_a_baseline_that_wins_is_in_the_headline(tmp_path, forest, expected):
  runs = (
    _run(tmp_path / 't2v', 'tile2vec', 0.5, {'random_forest': forest}.items()),
    _run(tmp_path / 'none', 'none', 0.4, {'random_forest': forest}.items()),
  )
  verdict = _verdict(*runs)
  if expected:
    assert verdict.headline.endswith(expected)
  else:
    assert 'forest' not in verdict.headline
    assert 'The per-pixel random forest (45.0 %) is beaten only by Tile2Vec pretraining.' in verdict.sentences


def test_another_budget_is_said(tmp_path):
  longer = {'finetune': {'duration': {'steps': 300}, 'learning_rate': 5e-4, 'batch_size': 16}}
  verdict = _verdict(
    _run(tmp_path / 't2v', 'tile2vec', 0.5, config=longer), _run(tmp_path / 'none', 'none', 0.4, config={'name': 'x'})
  )
  assert 'although more than their pretraining differs' in verdict.headline
  assert any('finetune.duration.steps, so this is not a test of pretraining alone' in s for s in verdict.sentences)


def test_other_test_pixels_are_not_ranked(tmp_path):
  a, b = _run(tmp_path / 'a', 'tile2vec', 0.5), _run(tmp_path / 'b', 'none', 0.4)
  test = json.loads((tmp_path / 'b' / 'test.json').read_text())
  test['methods'] = {'model': metrics.method(_diagonal(0.4) * 2)}
  (tmp_path / 'b' / 'test.json').write_text(json.dumps(test))
  b = read_run(tmp_path / 'b')
  comparison = tables.compare([a, b])
  assert tables.verdict(comparison, [a, b]).headline == (
    'These runs cannot be ranked: b and a were tested on different pixels.'
  )
  assert tables.best(comparison, 'weighted_iou') == set()
  assert tables.ranked(comparison) == []


def test_one_run_and_missed_classes(tmp_path):
  run = _run(tmp_path / 'only', 'tile2vec', 0.5)
  test = json.loads((tmp_path / 'only' / 'test.json').read_text())
  test.update(classes=['urban', 'wetland', 'water'], test_patches=1)
  test['methods']['model'] = metrics.method([[5, 0, 0], [3, 0, 0], [0, 0, 0]])
  (tmp_path / 'only' / 'test.json').write_text(json.dumps(test))
  verdict = _verdict(read_run(tmp_path / 'only'))
  assert verdict.headline == 'Tile2Vec pretraining reaches 39.1 % class-weighted IoU on 1 test patch.'  # 5/8 x 5/8
  assert verdict.sentences == (
    'One run alone cannot say what its pretraining is worth.',
    'One seed, so no claim of significance.',
    'Not one pixel of wetland was found by the network.',
    'The test split has no pixel of water.',
  )
  assert run.label == 'Tile2Vec pretraining'


def test_a_test_patch_that_was_trained_on_is_named(tmp_path):
  _run(tmp_path / 'only', 'tile2vec', 0.5)
  path = tmp_path / 'only' / 'test.json'
  path.write_text(json.dumps({**json.loads(path.read_text()), 'test_patches': 1, 'also_trained_on': 1}))
  sentences = _verdict(read_run(tmp_path / 'only')).sentences
  assert '1 of 1 test patch stood in the training split too: the score shows only that the chain runs.' in sentences


def test_several_seeds_are_named(tmp_path):
  runs = [_run(tmp_path / f't{seed}', 'tile2vec', 0.5, seed=seed) for seed in (0, 1)]
  runs.append(_run(tmp_path / 'none', 'none', 0.4))
  assert any('no interval is computed' in s for s in _verdict(*runs).sentences)
  assert tables.labels(runs) == ['Tile2Vec pretraining (t0)', 'Tile2Vec pretraining (t1)', 'no pretraining']


def test_labels_are_told_apart_by_the_encoder_first(tmp_path):
  wide = {'encoder': {'name': 'resnet34', 'width': 64}}
  runs = [_run(tmp_path / 'a', 'none', 0.4), _run(tmp_path / 'b', 'none', 0.4, config=wide)]
  assert tables.labels(runs) == ['no pretraining (ResNet18-Attn, width 16)', 'no pretraining (ResNet34)']


def test_best_ties_as_printed(tmp_path):
  runs = _run(tmp_path / 'a', 'tile2vec', 0.5), _run(tmp_path / 'b', 'none', 0.5)
  assert tables.best(tables.compare(list(runs)), 'weighted_iou') == {'Tile2Vec pretraining', 'no pretraining'}


def test_no_labelled_test_pixel(tmp_path):
  _run(tmp_path / 'a', 'none', 0.5)
  test = json.loads((tmp_path / 'a' / 'test.json').read_text())
  test['methods'] = {'model': metrics.method(np.zeros((2, 2)))}
  (tmp_path / 'a' / 'test.json').write_text(json.dumps(test))
  verdict = _verdict(read_run(tmp_path / 'a'))
  assert verdict.headline == 'The test split has no labelled pixel, so there is no score.'

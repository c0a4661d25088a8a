"""Coal mines from records to report: an encoder of all bands trained with band dropout, then five bands, one answer."""

import csv
import dataclasses
import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from configs import common, mines_resnet18
from deepsentinel import curriculum, experiment, labelled, legend
from deepsentinel.data import records
from deepsentinel.evaluation import frozen
from deepsentinel.report import html, runs, scenes
from deepsentinel.train import checkpoint, settings
from tests import tiny_records

FIVE = ('B2', 'B3', 'B4', 'VV', 'VH')


def config_of(**changes):
  config = mines_resnet18.get_config('small')
  config.data.labelled = str(tiny_records.tiny_records(labelled=False, mines=True))
  config.data.unlabelled = str(tiny_records.tiny_records(labelled=False))
  config.data.crop_px = 16
  config.encoder.name, config.encoder.width = 'resnet10', 8
  config.pretrain.duration = common.duration(steps=1)
  config.pretrain.batch_size = 4
  config.pretrain.exclude_heldout = False
  config.finetune.duration = common.duration(steps=4)
  config.finetune.batch_size = 4
  config.finetune.validate_every_steps = 2
  config.evaluation.batch_size = 8
  config.evaluation.sample_patches = 4
  config.update_from_flattened_dict(changes)
  return config


@pytest.fixture(scope='module')
def fusion(tmp_path_factory):
  """A run that pretrains on all fourteen bands with band dropout."""
  workdir = tmp_path_factory.mktemp('fusion') / 'run'
  changes = {'pretrain.objective': 'contrastive', 'data.bands': '', 'data.labelled': ''}
  experiment.run(config_of(**changes), workdir, progress_bar=False)
  return workdir


@pytest.fixture(scope='module')
def run(fusion, tmp_path_factory):
  """A run that finds mines with five bands and that encoder."""
  workdir = tmp_path_factory.mktemp('mines') / 'run'
  experiment.run(config_of(**{'pretrain.from_checkpoint': str(fusion)}), workdir, progress_bar=False)
  return workdir


def test_configs_hold_the_papers_values():
  paper = mines_resnet18.get_config()
  settings.check(paper.to_dict())
  settings.check(mines_resnet18.get_config('small').to_dict())
  own = paper.finetune
  assert (own.duration.epochs, own.batch_size, own.learning_rate) == (5, 256, 1e-5)
  assert settings.band_list(paper.data.bands) == FIVE


def test_scores_are_those_of_the_best_checkpoint(run):
  """The unit by hand, from the encoder's own feature map of each patch's middle."""
  trained = checkpoint.load_trained(run)
  assert trained.classes == ('background', 'mine')
  split = records.RecordSet(tiny_records.tiny_records(labelled=False, mines=True), 'test')
  images = np.zeros((len(split), 16, 16, 14), np.float32)
  present = np.zeros((len(split), 14), bool)
  for field, scale in (('s2', 1e4), ('s1', 100.0)):
    stored = split.read(field, np.arange(len(split)))[:, 8:24, 8:24]
    held = split.spec.s2_bands if field == 's2' else split.spec.s1_bands
    for band in set(held) & set(FIVE):
      at, values = trained.bands.index(band), stored[..., held.index(band)]
      z = (values / scale - trained.statistics['mean'][at]) / trained.statistics['std'][at]
      images[..., at] = np.where(values != (0 if field == 's2' else -32768), z, 0)
      present[:, at] = True
  strongest = np.asarray(trained.encode(images, present).feature_map).max((1, 2))
  unit = trained.variables['params']['header']['Linear']
  expected = 1 / (1 + np.exp(-(strongest @ unit['kernel'] + unit['bias'])[:, 0]))
  label = split.table['scene'].to_numpy() - 1
  with np.load(run / 'test_patches.npz') as patches:
    np.testing.assert_allclose(patches['probability'], expected, rtol=1e-4)
    np.testing.assert_array_equal(patches['label'], label)
    assert patches['id'].tolist() == split.table['id'].tolist()
  test = json.loads((run / 'test.json').read_text())
  assert test['target'] == 'mine'
  assert test['bands'] == list(FIVE)
  model = test['methods']['model']
  assert (model['positives'], model['background']) == (label.sum(), (label == 0).sum())
  assert model['roc_auc'] == pytest.approx(metrics.roc_auc_score(label, expected))
  assert np.sum(model['confusion']) == len(split)
  assert 0 <= test['methods']['band_statistics']['average_precision'] <= 1
  best = json.loads((run / 'experiment.json').read_text())['stages']['finetune']['best']
  assert best['step'] == trained.step
  assert {'loss', 'accuracy', 'recall'} <= set(best)


def test_absent_bands_are_absent(fusion):
  config = config_of(**{'pretrain.from_checkpoint': str(fusion)}).to_dict()
  data = curriculum.open_data(config, progress=False)
  assert len(data.spec.bands) == 14
  assert data.held(data.labelled['train'].spec) == FIVE
  batch = next(iter(curriculum.one_pass(config, data.labelled['test'])))
  prepare = curriculum.prepare_inputs(config, data, data.labelled['test'].spec, 'finetune')
  given = prepare({field: jnp.asarray(batch[field]) for field in ('s2', 's1', 'scene')}, 0, train=False)
  shown = np.array([band in FIVE for band in data.spec.bands])
  np.testing.assert_array_equal(given['present'][0, 0], shown)
  assert not np.any(given['images'][..., ~shown])
  np.testing.assert_array_equal(given['labels'], batch['scene'] - 1)


def test_the_report_shows_the_scores_and_the_patches(run, tmp_path):
  page = html.write_report([run], tmp_path / 'report.html').read_text()
  recall = 100 * json.loads((run / 'test.json').read_text())['methods']['model']['recall']
  assert f'<h1 id="verdict">Coal mines: {recall:.1f}\u00a0% are found' in page
  for text in ('precision at 0.5', 'ROC-AUC', 'average precision', 'logistic regression on band statistics', 'chance'):
    assert text in page
  assert 'class-weighted IoU' not in page.split('<h2 id="runs">')[0].split('<header>')[1]
  assert page.count('Sentinel-2 picture of test patch') == page.count('Sentinel-1 picture of test patch') == 2
  assert 'fine-tuned and tested on B2 B3 B4 VV VH alone' in page
  broken = json.loads((run / 'test.json').read_text())
  del broken['methods']['model']['roc_auc']
  (tmp_path / 'cut').mkdir()
  (tmp_path / 'cut' / 'test.json').write_text(json.dumps(broken))
  assert runs.read_run(tmp_path / 'cut').problem == "its test.json lacks roc_auc of 'model'"


def test_several_seeds_are_a_mean_and_not_the_best_of_them(run, tmp_path):
  areas = (0.75, 0.54, 0.66, 0.69)
  for seed, area in enumerate(areas):
    shutil.copytree(run, tmp_path / f'seed{seed}')
    for file, change in (
      ('config.json', lambda content, seed=seed: content.update(seed=seed)),
      ('test.json', lambda content, area=area: content['methods']['model'].update(roc_auc=area)),
    ):
      content = json.loads((tmp_path / f'seed{seed}' / file).read_text())
      change(content)
      (tmp_path / f'seed{seed}' / file).write_text(json.dumps(content))
  page = html.write_report([tmp_path / f'seed{seed}' for seed in range(4)], tmp_path / 'report.html').read_text()
  half = stats.t.ppf(0.975, 3) * np.std(areas, ddof=1) / 2
  page = page.replace('\u00a0', ' ')
  assert f'ROC-AUC 0.66 ± {half:.2f} on' in page
  assert 'mean of 4 seeds' in page
  assert 'One seed' not in page
  with (tmp_path / 'report.csv').open() as file:
    rows = list(csv.DictReader(file))
  assert [float(row['roc_auc']) for row in rows] == list(areas)
  assert [row['seed'] for row in rows] == ['0', '1', '2', '3']


def test_only_runs_that_differ_in_their_seed_are_seeds(run):
  own = runs.read_run(run)

  def made(seed, fraction=1.0, rate=1e-3):
    changes = {'seed': seed, 'finetune.label_fraction': fraction, 'finetune.learning_rate': rate}
    return dataclasses.replace(own, config={**own.config, **changes}), 'same'

  found = scenes._by_method(
    [made(0), made(1), made(0, rate=1e-1), made(1), made(0, 0.25), made(1, 0.25), made(0, 0.05)]
  )
  assert [len(group) for group in found.values()] == [2, 1, 1, 2, 1]
  assert len(found) == 5


def test_an_encoder_without_band_dropout_needs_all_its_bands(fusion, monkeypatch):
  source = checkpoint.load_trained(fusion, 'pretrain')
  settled = json.loads(json.dumps(source.config))
  settled['pretrain']['contrastive']['augment']['band_dropout'] = [0.0, 0.0]
  monkeypatch.setattr(checkpoint, 'load_trained', lambda *_: dataclasses.replace(source, config=settled))
  config = config_of(**{'pretrain.from_checkpoint': str(fusion)}).to_dict()
  with pytest.raises(
    ValueError, match=r"asks for \['B2', 'B3', 'B4', 'VV', 'VH'\].* without band dropout.*band_dropout"
  ):
    curriculum.open_data(config, progress=False)
  config['data']['bands'] = 'VV,VH'
  trained_for = dataclasses.replace(source, config=settled, subsets=[['VV', 'VH']])
  monkeypatch.setattr(checkpoint, 'load_trained', lambda *_: trained_for)
  assert curriculum.open_data(config, progress=False).shown == ('VV', 'VH')


def test_bands_that_the_encoder_never_had_are_refused(run):
  config = config_of(**{'pretrain.objective': 'none', 'data.bands': 'B2,B3,VV'})
  plain = config.to_dict()
  source = checkpoint.load_trained(run)
  with pytest.raises(ValueError, match=r'trained on \[.B2., .B3.\]. Leave config.data.bands empty'):
    frozen.require_trained_for(
      dataclasses.replace(source, spec=source.spec.select(['B2', 'B3'])), settings.band_list(plain['data']['bands']), []
    )


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'finetune.target': 'osm'}, 'whose records hold no labels'),
    ({'data.labelled': 'labelled'}, r"target='mine' needs patches of background and of mine; split train .* lacks one"),
  ],
)
def test_records_of_the_other_kind_are_refused(changes, message):
  if 'data.labelled' in changes:
    changes = {'data.labelled': str(tiny_records.tiny_records(labelled=True))}
  with pytest.raises(ValueError, match=message):
    curriculum.open_data(config_of(**{'pretrain.objective': 'none', **changes}).to_dict(), progress=False)


def test_label_fractions_keep_mines_and_background(tmp_path):
  config = config_of(**{'pretrain.objective': 'none', 'finetune.label_fraction': 0.5}).to_dict()
  data = curriculum.open_data(config, progress=False)
  assert data.spec.bands == FIVE
  used = data.labelled['train'].table['scene'].to_numpy()[data.folds[0].train_index]
  assert sorted(used) == [1, 1, 2, 2]


def test_a_fraction_that_leaves_one_class_is_refused_before_training(monkeypatch):
  config = config_of(**{'pretrain.objective': 'none', 'finetune.label_fraction': 0.25}).to_dict()
  monkeypatch.setattr(labelled.subsets_lib, 'nested_order', lambda dominant, seed: np.argsort(dominant))
  with pytest.raises(ValueError, match=r'label_fraction=0.25 leaves 2 train patches, all of one class. Pass a larger'):
    curriculum.open_data(config, progress=False)


def test_a_score_that_a_fold_has_not_has_no_mean():
  best = [{'step': 1, 'epoch': 1.0, 'loss': 0.5, 'recall': 0.0}, {'step': 2, 'epoch': 2.0, 'loss': 0.7, 'recall': 1.0}]
  best[1]['precision'] = 1.0
  found = experiment.cross_validation({f'fold_{k}': {'best': scores} for k, scores in enumerate(best)})
  assert found['mean'] == {'loss': pytest.approx(0.6), 'recall': 0.5}


def test_the_target_reads_the_scene():
  target = legend.target('mine')
  assert target.is_scene
  assert target.lookup[[0, 1, 2]].tolist() == [-1, 0, 1]
  assert not legend.target('corine_level1').is_scene

"""The whole curriculum in processes of its own: killed, resumed, finished, and started wrongly."""

import csv
import dataclasses
import itertools
import json
import random
import shutil
import types

import jax
import numpy as np
import pandas as pd
import pytest

from configs import quickstart
from deepsentinel import curriculum, experiment
from deepsentinel.train import checkpoint, journal, loop, models
from deepsentinel.train.trained import Trained
from tests import commands, tiny_records

STEPS = 4


@pytest.fixture(scope='module')
def flags() -> list[str]:
  labelled, unlabelled = tiny_records.tiny_records(labelled=True), tiny_records.tiny_records(labelled=False)
  values = {
    'data.labelled': labelled, 'data.unlabelled': unlabelled, 'data.crop_px': 32, 'encoder.name': 'resnet10',
    'encoder.width': 8, 'pretrain.batch_size': 4, 'pretrain.duration.steps': STEPS, 'pretrain.sensor_dropout': 0.3,
    'pretrain.tile2vec.max_distance_km': 10, 'finetune.batch_size': 4, 'finetune.duration.steps': STEPS,
    'finetune.validate_every_steps': 2, 'evaluation.batch_size': 4, 'evaluation.random_forest': False,
    'checkpoint.every_steps': 1, 'log_every_steps': 3,
  }  # fmt: skip
  return ['--config=configs/quickstart.py', '--noprogress', *(f'--config.{k}={v}' for k, v in values.items())]


@pytest.fixture(scope='module')
def whole(flags, tmp_path_factory):
  """The directory of an uninterrupted run."""
  workdir = tmp_path_factory.mktemp('a run') / 'whole'
  done = commands.run('deepsentinel.main', *flags, f'--workdir={workdir}')
  assert done.code == 0, done.err
  assert done.out.strip().endswith(f'Finished: {workdir}/report.html')
  return workdir


def _rows(workdir, stage):
  with (workdir / stage / 'metrics.csv').open() as file:
    rows = list(csv.DictReader(file))
  return [(r['step'], r['split'], r['name'], r['value']) for r in rows if r['name'] != 'patches_per_s']


@pytest.mark.slow
def test_killed_run_ends_as_an_uninterrupted_one(flags, whole, tmp_path):
  workdir = tmp_path / 'killed'
  stage, step = random.choice(('pretrain', 'finetune')), random.randint(1, STEPS - 1)
  command = ['deepsentinel.main', *flags, f'--workdir={workdir}']
  process = commands.Running(*command)
  process.wait_until((workdir / stage / 'checkpoints' / str(step)).exists)
  process.kill()
  again = commands.run(*command)
  assert again.code == 0, again.err
  for stage in ('pretrain', 'finetune'):
    a, b = checkpoint.load_trained(whole, stage), checkpoint.load_trained(workdir, stage)
    assert (a.step, a.sha256) == (b.step, b.sha256)
    jax.tree.map(np.testing.assert_array_equal, a.variables, b.variables)
    rows = _rows(workdir, stage)
    assert rows == _rows(whole, stage)
    assert len({r[:3] for r in rows}) == len(rows)
  scores = [json.loads((w / 'test.json').read_text()) for w in (whole, workdir)]
  for s in scores:
    for method in s['methods'].values():
      method.pop('seconds', None)
  assert scores[0] == scores[1]


def test_what_a_run_leaves(whole):
  notes = json.loads((whole / 'experiment.json').read_text())
  assert notes['status'] == 'finished'
  assert notes['synthetic'] is True
  assert notes['neighbours']['mean_km'] < 10
  assert 0 <= notes['neighbours']['same_acquisition'] <= 1
  assert notes['stages']['pretrain']['steps'] == STEPS
  assert notes['data']['pretrain']['patches'] + notes['data']['pretrain']['excluded_near_heldout'] == 12
  test = json.loads((whole / 'test.json').read_text())
  records = curriculum.records.RecordSet(notes['data']['test']['directory'], 'test')
  corine = records.read('corine', np.arange(len(records)))
  assert np.sum(test['methods']['model']['confusion']) == (corine > 0).sum()
  assert test['nodata_share'] == pytest.approx((corine == 0).mean())
  with np.load(whole / 'samples.npz') as samples:
    assert samples['prediction'].shape == samples['label'].shape == (len(samples['id']), 32, 32)
    # The samples are all of the tiny test split: their predictions are the ones that were scored.
    assert len(samples['id']) == len(records)
    labelled = samples['label'] >= 0
    right = (samples['prediction'] == samples['label'])[labelled].sum()
  assert right == np.trace(test['methods']['model']['confusion'])
  assert (whole / 'report.html').stat().st_size > 10_000
  assert list((whole / 'pretrain' / 'tensorboard').iterdir())


def test_trained_model_encodes_and_knows_its_subsets(whole):
  trained = checkpoint.load_trained(whole / 'pretrain')
  assert trained.stage == 'pretrain'
  assert [len(s) for s in trained.subsets] == [12, 2]
  assert trained.statistics['bands'] == list(trained.bands)
  out = trained.encode(np.zeros((2, 48, 32, 14), np.float32))
  assert out.feature_map.shape == (2, 3, 2, 64)
  assert out.embedding.shape == (2, 64)
  with pytest.raises(ValueError, match='predicts no classes'):
    trained.predict(np.zeros((1, 32, 32, 14), np.float32))
  assert checkpoint.load_trained(whole).stage == 'finetune'


def test_checkpoint_of_other_arrays_lists_both(whole, monkeypatch):
  build = models.build
  monkeypatch.setattr(
    models, 'build', lambda config, stage: build({**config, 'encoder': {**config['encoder'], 'width': 16}}, stage)
  )
  with pytest.raises(ValueError, match='does not fit') as error:
    checkpoint.load_trained(whole, 'pretrain')
  found, expected = str(error.value).split('expected')
  assert '/kernel (7, 7, 14, 8)' in found
  assert '/kernel (7, 7, 14, 16)' in expected


def test_directory_without_checkpoints_names_the_command(tmp_path):
  with pytest.raises(ValueError, match=r'No pretrain checkpoint in .* `python -m deepsentinel.main --config='):
    checkpoint.load_trained(tmp_path, 'pretrain')


def test_finished_run_says_so(flags, whole, capsys):
  before = (whole / 'test.json').stat().st_mtime_ns
  assert experiment.run(_config(flags), whole) == whole / 'report.html'
  assert f'{whole} is finished' in capsys.readouterr().out
  assert (whole / 'test.json').stat().st_mtime_ns == before


def test_other_configuration_in_the_same_directory(flags, whole):
  with pytest.raises(ValueError, match=r'config.finetune.learning_rate: 0.002 there, 0.1 here'):
    experiment.run(_config(flags, **{'finetune.learning_rate': 0.1}), whole)


@pytest.mark.parametrize(
  ('flag', 'message'),
  [
    ('--config.pretrain.lerning_rate=1', "'lerning_rate'"),
    ('--config.pretrain.learning_rate=high', 'config.pretrain.learning_rate'),
    ('--config.data.labelled=deepsentinel_labelled/absent', 'tfds build tfds_builders/deepsentinel_labelled'),
  ],
)
def test_wrong_start_is_one_sentence(flags, tmp_path, flag, message):
  assert message in commands.run('deepsentinel.main', *flags, f'--workdir={tmp_path / "x"}', flag).error
  assert not (tmp_path / 'x').exists()


def _config(flags, **changes):
  config = quickstart.get_config()
  for flag in flags[2:]:
    key, value = flag.removeprefix('--config.').split('=')
    config.update_from_flattened_dict({key: type(dict(_leaves(config))[key])(value)})
  config.evaluation.random_forest = False
  config.update_from_flattened_dict(changes)
  return config


def _leaves(config, prefix=''):
  for key, value in config.items():
    if hasattr(value, 'items'):
      yield from _leaves(value, f'{prefix}{key}.')
    else:
      yield f'{prefix}{key}', value


def _copy(whole, to, **journal):
  """A copy of a run whose journal says something else."""
  shutil.copytree(whole, to)
  content = json.loads((to / 'experiment.json').read_text())
  (to / 'experiment.json').write_text(json.dumps({**content, **journal}))
  return to


def test_an_unfinished_pretraining_is_no_encoder(flags, whole, tmp_path):
  killed = _copy(whole, tmp_path / 'killed', stages={})
  for place in (killed, killed / 'pretrain'):
    config = _config(flags, **{'pretrain.from_checkpoint': str(place)}).to_dict()
    with pytest.raises(ValueError, match=rf'{killed} has not finished pretraining. Its own command goes on with it'):
      curriculum.open_data(config, progress=False)


def test_a_run_goes_on_with_the_records_it_was_begun_with(flags, whole, tmp_path):
  data = json.loads((whole / 'experiment.json').read_text())['data']
  data['train']['sha256'] = '0' * 64
  begun = _copy(whole, tmp_path / 'begun', status='running', data=data)
  with pytest.raises(ValueError, match=rf'The train records in .* are not those that {begun} was begun with'):
    experiment.run(_config(flags), begun, progress_bar=False)
  assert json.loads((begun / 'experiment.json').read_text())['data'] == data


def test_a_directory_is_of_one_process_at_a_time(flags, whole, tmp_path):
  begun = _copy(whole, tmp_path / 'begun', status='running')
  holder = journal.Journal(begun, json.loads((begun / 'config.json').read_text()))
  done = commands.run('deepsentinel.main', *flags, f'--workdir={begun}')
  assert f'Another process is training in {begun}. Wait for it' in done.error
  holder.close()
  with pytest.raises(ValueError, match='another configuration'):
    experiment.run(_config(flags, **{'finetune.learning_rate': 0.1}), begun)
  assert experiment.run(_config(flags), begun, progress_bar=False).exists()  # which the refused call left free


def test_of_two_that_begin_a_directory_one_is_refused(tmp_path):
  """Neither finds it there when it starts."""
  first, second = (journal.Journal(tmp_path / 'new', {'name': 'a', 'seed': 0}) for _ in range(2))
  first.update({'status': 'running'})
  with pytest.raises(ValueError, match='Another process is training in'):
    second.update({'status': 'running'})
  first.finish_stage('pretrain', {'steps': 3})
  first.close()
  second.update({'more': 1})  # the other has ended: nothing that it noted is lost
  second.close()
  other = journal.Journal(tmp_path / 'new', {'name': 'a', 'seed': 0})
  assert other['stages']['pretrain']['steps'] == 3
  assert other['more'] == 1
  other.close()


@pytest.mark.parametrize(
  ('section', 'stage', 'mend'),
  [
    ({'objective': 'none'}, 'pretrain', 'is one without pretraining: name one that pretrained'),
    ({'from_checkpoint': 'runs/a'}, 'pretrain', 'took its encoder from runs/a: name that one'),
    ({'objective': 'tile2vec'}, 'pretrain', 'has not come so far: `python -m deepsentinel.main --workdir=.*goes on'),
    ({'objective': 'tile2vec'}, 'finetune', 'a cross-validation: name one of its folds, such as .*fold_0/finetune'),
  ],
)
def test_a_run_without_the_stage_says_why(section, stage, mend, tmp_path):
  (tmp_path / 'config.json').write_text(json.dumps({'pretrain': section}))
  if stage == 'finetune':
    (tmp_path / 'fold_0' / 'finetune').mkdir(parents=True)
  with pytest.raises(ValueError, match=f'No {stage} checkpoint .* That run .*{mend}'):
    checkpoint.load_trained(tmp_path, stage)


def test_encoder_of_another_run(flags, whole, tmp_path):
  config = _config(flags, **{'pretrain.from_checkpoint': str(whole)}).to_dict()
  data = curriculum.open_data(config, progress=False)
  variables = curriculum.finetuning(config, data, tmp_path).initial_variables()
  source = checkpoint.load_trained(whole, 'pretrain')
  jax.tree.map(np.testing.assert_array_equal, variables['params']['encoder'], source.variables['params']['encoder'])
  assert data.statistics.to_dict() == source.statistics

  config['data']['bands'] = 'B2,B3,VV'
  with pytest.raises(ValueError, match=r'or leave config.data.bands empty'):
    curriculum.open_data(config, progress=False)


def test_without_pretraining_the_labelled_train_split_gives_the_statistics(flags):
  config = _config(flags, **{'pretrain.objective': 'none'}).to_dict()
  data = curriculum.open_data(config, progress=False)
  assert data.unlabelled is None
  train = data.labelled['train']
  stored = train.read('s1', np.arange(len(train)))[..., 1] / 100
  assert data.statistics.mean[-1] == pytest.approx(stored[stored > -320].mean(), rel=1e-6)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'data.bands': 'B2,B10'}, r"Unknown band\(s\) \['B10'\]"),
    ({'data.crop_px': 64}, 'config.data.crop_px=64 does not fit the patches of 32 px'),
    ({'finetune.batch_size': 6}, 'Batch size 6 does not divide over 4 devices; nearest that do: 4, 8'),
    ({'pretrain.exclude_km': 500.0}, 'lie within config.pretrain.exclude_km=500'),
  ],
)
def test_wrong_values_leave_no_directory(flags, tmp_path, changes, message):
  with pytest.raises(ValueError, match=message):
    experiment.run(_config(flags, **changes), tmp_path / 'x', progress_bar=False)
  assert not (tmp_path / 'x').exists()


@pytest.mark.parametrize('objective', ['vae', 'contrastive'])
def test_other_objectives_run_the_whole_curriculum(flags, tmp_path, objective):
  changes = {
    'pretrain.objective': objective, 'data.crop_px': 16, 'pretrain.accumulate': 1, 'pretrain.clip_norm': 1.0,
    'pretrain.schedule': 'cosine', 'finetune.target': 'osm', 'finetune.label_fraction': 0.5,
  }  # fmt: skip
  experiment.run(_config(flags, **changes), tmp_path / objective, progress_bar=False)
  notes = json.loads((tmp_path / objective / 'experiment.json').read_text())
  assert notes['status'] == 'finished'
  assert notes['data']['train']['used'] == round(notes['data']['train']['patches'] / 2)
  assert 0 <= notes['stages']['finetune']['best']['weighted_iou'] <= 1
  test = json.loads((tmp_path / objective / 'test.json').read_text())
  assert test['target'] == 'osm'
  with np.load(tmp_path / objective / 'test_patches.npz') as patches:
    assert len(patches['id']) == len(patches['block']) == test['test_patches']
    np.testing.assert_array_equal(patches['confusion'].sum(0), test['methods']['model']['confusion'])
  names = {row[2] for row in _rows(tmp_path / objective, 'pretrain')}
  assert ({'reconstruction', 'kl'} if objective == 'vae' else {'d_positive', 'd_negative', 'active'}) <= names
  killed = _killed_and_resumed(_config(flags, **changes).to_dict(), tmp_path / 'killed', random.randint(1, STEPS - 1))
  assert killed.sha256 == notes['stages']['pretrain']['sha256']


def _killed_and_resumed(config, workdir, step) -> Trained:
  """Pretraining whose data fail before a step, and the same call again."""
  stage, _ = curriculum.pretraining(config, curriculum.open_data(config, progress=False), workdir)
  stage = dataclasses.replace(stage, pictures=None)  # which change nothing

  def failing(start):
    yield from itertools.islice(stage.training(start), step)
    raise RuntimeError('killed')

  with pytest.raises(RuntimeError, match='killed'):
    loop.train(dataclasses.replace(stage, training=failing), progress_bar=False)
  assert not list(workdir.glob(f'pretrain/checkpoints/{STEPS}'))
  assert loop.train(stage, progress_bar=False).steps == STEPS
  return checkpoint.load_trained(workdir, 'pretrain')


def test_folds_are_scored_on_validation_alone(flags, whole, tmp_path):
  changes = {
    'pretrain.from_checkpoint': str(whole), 'finetune.folds': 2, 'pretrain.exclude_km': 0.1,
    'finetune.duration.steps': 2,
  }  # fmt: skip
  workdir = tmp_path / 'folds'
  experiment.run(_config(flags, **changes), workdir, progress_bar=False)
  notes = json.loads((workdir / 'experiment.json').read_text())
  scores = [notes['stages'][f'fold_{k}']['best']['weighted_iou'] for k in range(2)]
  assert notes['cross_validation']['folds'] == 2
  assert notes['cross_validation']['mean']['weighted_iou'] == pytest.approx(np.mean(scores))
  assert notes['cross_validation']['std']['weighted_iou'] == pytest.approx(abs(scores[0] - scores[1]) / 2**0.5)
  assert not (workdir / 'test.json').exists()
  assert 'is finished' not in (workdir / 'report.html').read_text()


def test_with_folds_nothing_is_pretrained_on_near_any_labelled_patch():
  class Unlabelled(list):
    table = pd.DataFrame({'lon_deg': [10.0, 11.0, 12.0, 13.0], 'lat_deg': 50.0})

  def records(lon):
    return types.SimpleNamespace(table=pd.DataFrame({'lon_deg': [lon], 'lat_deg': 50.0}))

  labelled = dict(zip(('train', 'validation', 'test'), (records(10.0), records(11.0), records(12.0)), strict=True))
  config = {'pretrain': {'exclude_heldout': True, 'exclude_km': 1.0}, 'finetune': {'folds': 0}}
  kept = {}
  for folds in (0, 3):
    config['finetune']['folds'] = folds
    kept[folds] = curriculum._pretraining_index(config, Unlabelled(range(4)), labelled)[0].tolist()
  assert kept == {0: [0, 3], 3: [3]}


def test_more_folds_than_blocks_are_refused(flags, tmp_path):
  with pytest.raises(ValueError, match=r'folds=99, but .* lie in \d+ blocks of 50 km. Pass --config.finetune.folds=\d'):
    experiment.run(_config(flags, **{'finetune.folds': 99}), tmp_path / 'x', progress_bar=False)


def test_the_test_split_can_be_left_unread(flags, whole, tmp_path):
  changes = {'pretrain.from_checkpoint': str(whole), 'evaluation.test': False, 'finetune.duration.steps': 1}
  experiment.run(_config(flags, **changes), tmp_path / 'a', progress_bar=False)
  assert not (tmp_path / 'a' / 'test.json').exists()
  assert json.loads((tmp_path / 'a' / 'experiment.json').read_text())['status'] == 'finished'

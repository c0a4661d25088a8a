"""The grid of experiments: its plan, and a tiny one that is really run, with a run that fails."""

import json
import pathlib

import pytest

from launch import choices, grid
from tests import commands, tiny_records

T2V, NONE = 'configs/t2v_resnet18.py', 'configs/none_resnet18.py'


def plan(configs=(NONE, T2V), size='small', seeds=('0', '1'), fractions=('0.25', '1'), settings=(), chosen=None):
  return grid.plan(configs, size, seeds, fractions, 'OUT', settings, chosen)


def test_the_largest_fraction_pretrains_for_the_others():
  runs = {run.name: run for run in plan(fractions=('0.05', '1', '0.25'))}
  assert len(runs) == 2 * 2 * 3
  for seed in '01':
    first = f't2v_resnet18_seed{seed}_fraction1.0'
    assert runs[first].depends_on == ''
    assert not any('from_checkpoint' in flag for flag in runs[first].command)
    for fraction in ('0.05', '0.25'):
      run = runs[f't2v_resnet18_seed{seed}_fraction{fraction}']
      assert run.depends_on == first
      assert f'--config.pretrain.from_checkpoint={runs[first].workdir}' in run.command
  assert not any(run.depends_on for run in runs.values() if run.name.startswith('none'))


def test_command_of_a_run():
  (run,) = plan([T2V], seeds=['3'], fractions=['0.5'], settings=['finetune.learning_rate=1e-3'])
  assert run.command == [
    'python', '-m', 'deepsentinel.main', f'--config={T2V}:small',
    '--workdir=OUT/runs/t2v_resnet18_seed3_fraction0.5', '--config.seed=3', '--config.finetune.label_fraction=0.5',
    '--config.finetune.learning_rate=1e-3', '--noprogress',
  ]  # fmt: skip


def test_an_objective_that_is_set_decides_what_is_shared():
  assert not any(run.depends_on for run in plan([T2V], settings=['pretrain.objective=none']))
  assert sum(bool(run.depends_on) for run in plan([NONE], settings=['pretrain.objective=tile2vec'])) == 2


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'configs': ['configs/absent.py']}, r'configs/absent.py, which is not there. Pass files'),
    ({'size': 'tiny'}, r"Unknown size 'tiny'"),
    ({'configs': ['configs/quickstart.py']}, r'no configuration with --size=small'),
    ({'fractions': ['0']}, r"'0'; a fraction .* above 0 and at most 1"),
    ({'fractions': ['1.5']}, r"'1.5'; a fraction"),
    ({'fractions': ['half']}, r"'half'; a fraction"),
    ({'fractions': []}, r'--fractions names none'),
    ({'seeds': ['-1']}, r"'-1'; a seed is a whole number"),
    ({'fractions': ['0.5', '0.50']}, r'2 runs would be named .*_fraction0.5'),
    ({'configs': [T2V, T2V]}, r'runs would be named t2v'),
    ({'settings': ['finetune.learningrate=1']}, r'no value finetune.learningrate. configs/common.py lists'),
    ({'settings': ['finetune=1']}, r'no value finetune'),
    ({'settings': ['seed=1']}, r'the grid chooses seed itself'),
    ({'settings': ['finetune.learning_rate']}, r'has no value. Give --set=KEY=VALUE'),
  ],
)
def test_wrong_input_is_named(change, message):
  with pytest.raises(ValueError, match=message):
    plan(**change)


def test_no_pretraining_that_is_chosen_takes_no_encoder(tmp_path):
  tried = choices.candidates([T2V], 'small', '0', '1', str(tmp_path), [], 'pretrain.objective=none,tile2vec')[T2V]
  for value, run in tried.items():
    best = {'weighted_iou': 0.7 if value == 'none' else 0.6, 'loss': 1.0}
    workdir = pathlib.Path(run.workdir)
    workdir.mkdir(parents=True)
    journal = {'status': 'finished', 'stages': {'finetune': {'best': best}}}
    (workdir / 'experiment.json').write_text(json.dumps(journal))
  choice = choices.choose_best(T2V, 'small', [], 'pretrain.objective', tried)
  assert choice == grid.Choice(('pretrain.objective=none',), '')


def test_candidates_share_what_they_can_and_leave_the_test_split_unread():
  tried = choices.candidates([NONE, T2V], 'small', '4', '1', 'OUT/choice', [], 'finetune.learning_rate=5e-4,1e-3')
  runs = list(tried[T2V].values())
  assert [run.name for run in runs] == ['t2v_resnet18_seed4_fraction1.0_5e-4', 't2v_resnet18_seed4_fraction1.0_1e-3']
  assert [run.depends_on for run in runs] == ['', runs[0].name]
  assert f'--config.pretrain.from_checkpoint={runs[0].workdir}' in runs[1].command
  assert not any(run.depends_on for run in tried[NONE].values())
  for value, run in [*tried[NONE].items(), *tried[T2V].items()]:
    assert {f'--config.finetune.learning_rate={value}', '--config.evaluation.test=False'} < set(run.command)
  assert len({run.workdir for by_value in tried.values() for run in by_value.values()}) == 4

  apart = choices.candidates([T2V], 'small', '4', '1', 'OUT/choice', [], 'pretrain.learning_rate=5e-4,1e-3')[T2V]
  assert not any(run.depends_on for run in apart.values())  # each encoder is another


def _finish(run, iou, scored=True):
  path = pathlib.Path(run.workdir, 'experiment.json')
  path.parent.mkdir(parents=True)
  stages = {'finetune': {'best': {'loss': 1.0, 'weighted_iou': iou} if scored else {'loss': 1 - iou}}}
  path.write_text(json.dumps({'status': 'finished', 'stages': stages}))


def test_a_run_keeps_its_number_when_others_come(tmp_path):
  grid.write_plan(plan(seeds=['0']), tmp_path / 'grid.json')
  before = [run['name'] for run in json.loads((tmp_path / 'grid.json').read_text())]
  grid.write_plan(plan(seeds=['0', '1']), tmp_path / 'grid.json')
  after = [run['name'] for run in json.loads((tmp_path / 'grid.json').read_text())]
  assert after[: len(before)] == before
  assert len(after) == 2 * len(before)


def test_a_choice_stays_and_says_that_a_later_value_is_better(tmp_path, capsys):
  key, path = 'finetune.learning_rate', tmp_path / 'choice.json'
  tried = choices.candidates([NONE], 'small', '0', '1', str(tmp_path), [], f'{key}=1,2,3')
  _finish(tried[NONE]['1'], 0.3)
  first = choices.write(tried, 'small', [], f'{key}=1,2,3', path)
  assert 'keeps' not in capsys.readouterr().out
  _finish(tried[NONE]['2'], 0.6)
  assert choices.write(tried, 'small', [], f'{key}=1,2,3', path) == first
  assert f'keeps {key}=1, with which its runs were begun; {key}=2, tried later, is better' in capsys.readouterr().out


def test_what_is_not_validated_cannot_be_chosen():
  with pytest.raises(
    ValueError, match=r'--choose ranks by validation, which --set=data.labelled= leaves no labels for'
  ):
    choices.candidates([T2V], 'small', '0', '1', 'OUT', ['data.labelled='], 'pretrain.learning_rate=1,2')


@pytest.mark.parametrize(
  ('file', 'key', 'encoder', 'scored'),
  [
    (T2V, 'finetune.learning_rate', '1', True),
    (T2V, 'pretrain.learning_rate', '2', False),
    (NONE, 'finetune.learning_rate', None, True),
  ],
)
def test_the_best_candidate_decides(tmp_path, file, key, encoder, scored):
  tried = choices.candidates([file], 'small', '0', '1', str(tmp_path), [], f'{key}=1,2,3')[file]
  assert choices.choose_best(file, 'small', [], key, tried) is None
  _finish(tried['1'], 0.3, scored)
  _finish(tried['2'], 0.5, scored)
  choice = choices.choose_best(file, 'small', [], key, tried)
  assert choice.settings == (f'{key}=2',)
  assert choice.encoder == (tried[encoder].workdir if encoder else '')

  about = pathlib.Path(tried['3'].workdir, 'experiment.json')
  about.parent.mkdir(parents=True)
  stages = {f'fold_{k}': {'best': {'loss': 1.0}} for k in range(2)}
  folds = {'folds': 2, 'mean': {'loss': 1.0, 'weighted_iou': 0.4} if scored else {'loss': 0.6}}
  about.write_text(json.dumps({'status': 'finished', 'stages': stages, 'cross_validation': folds}))
  assert choices.choose_best(file, 'small', [], key, tried) == choice  # 0.5 is better than 0.4, the mean over folds

  runs = plan([file], settings=[f'{key}=9'], chosen={file: choice})
  assert all([f'--config.{key}=2'] == [word for word in run.command if key in word] for run in runs)
  taken = [f'--config.pretrain.from_checkpoint={choice.encoder}' in run.command for run in runs]
  assert taken == [bool(encoder)] * 2 + [False] * 2  # two fractions of the first seed, then the second's
  assert [bool(run.depends_on) for run in runs] == [False, False, False, bool(encoder)]


def test_a_directory_of_another_grid_is_refused(tmp_path):
  path = tmp_path / 'grid.json'
  grid.write_plan(plan(), path)
  grid.write_plan(plan(), path)
  with pytest.raises(ValueError, match=r'other runs \(none_resnet18_seed1_fraction1.0: only there; and'):
    grid.write_plan(plan(seeds=['0']), path)
  grid.write_plan(plan(seeds=['0', '1', '2']), path)
  assert len(json.loads(path.read_text())) == 2 * 3 * 2
  with pytest.raises(ValueError, match=r'nothing there, --config.encoder.width=8 here'):
    grid.write_plan(plan(seeds=['0', '1', '2'], settings=['encoder.width=8']), path)


def test_a_taken_grid_is_refused(tmp_path):
  grid.lock(tmp_path)
  with pytest.raises(ValueError, match='in use by a grid'):
    grid.lock(tmp_path)


@pytest.mark.parametrize('values', ['1e-3', '1e-3,1e-3', ''])
def test_a_choice_needs_values_that_differ(values):
  with pytest.raises(ValueError, match=r'Give two or more that differ'):
    choices.candidates([NONE], 'small', '0', '1', 'OUT', [], f'finetune.learning_rate={values}')


_CONFIG = """
from configs import {base}


def get_config():
  config = {base}.get_config('small')
  config.data.labelled = {labelled!r}
  config.data.unlabelled = {unlabelled!r}
  return config
"""
_SETTINGS = {
  'data.crop_px': 32, 'encoder.name': 'resnet10', 'encoder.width': 8, 'pretrain.batch_size': 4,
  'pretrain.duration.steps': 2, 'pretrain.tile2vec.max_distance_km': 10, 'finetune.batch_size': 4,
  'finetune.duration.steps': 2, 'finetune.validate_every_steps': 2, 'evaluation.batch_size': 4,
  'evaluation.sample_patches': 1,
}  # fmt: skip


@pytest.mark.slow
def test_a_grid_with_a_run_that_fails_ends_and_resumes(tmp_path, served):
  labelled, unlabelled = (str(tiny_records.tiny_records(labelled=x)) for x in (True, False))
  files = {'tile2vec': labelled, 'absent': '/absent'}
  for name, records in files.items():
    text = _CONFIG.format(base='t2v_resnet18', labelled=records, unlabelled=unlabelled)
    (tmp_path / f'{name}.py').write_text(text)
  out = tmp_path / 'grid'
  arguments = [
    'launch.grid', '--configs=' + ','.join(str(tmp_path / f'{name}.py') for name in files), '--fractions=0.5,1',
    '--jobs=2', f'--out={out}', *(f'--set={key}={value}' for key, value in _SETTINGS.items()),
  ]  # fmt: skip
  end = commands.run(*arguments, **served)
  states = {line.split()[1]: line.split()[0] for line in end.out.splitlines()[1:-1]}
  assert states == {
    'tile2vec_seed0_fraction1.0': 'finished', 'tile2vec_seed0_fraction0.5': 'finished',
    'absent_seed0_fraction1.0': 'failed', 'absent_seed0_fraction0.5': 'skipped',
  }, end.out  # fmt: skip
  assert end.code == 1
  failed = next(line for line in end.out.splitlines() if line.startswith('failed'))
  assert failed.split()[2] == '1'
  assert 'error: ' in failed
  assert '/absent' in failed
  assert failed.endswith(f'({out}/logs/absent_seed0_fraction1.0.log)')
  assert 'absent_seed0_fraction1.0, which pretrains for it, failed' in end.out
  assert not (out / 'runs/tile2vec_seed0_fraction0.5/pretrain').exists()
  assert [run['name'] for run in json.loads((out / 'grid.json').read_text())] == list(states)

  logs = {name: (out / f'logs/{name}.log').read_text() for name, s in states.items() if s == 'finished'}
  again = commands.run(*arguments)  # its run starts a Python of its own, as a user's does
  assert again.code == 1
  assert again.out.splitlines()[-1] == '2 finished, 1 failed, 1 skipped'
  assert logs == {name: (out / f'logs/{name}.log').read_text() for name in logs}

"""The Slurm scripts on a real Slurm: one node on loopback, brought up for these tests."""

import json
import os
import pathlib
import runpy
import shlex
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable

import pytest

from deepsentinel.train import parallel
from launch import grid
from launch.slurm import jobs
from tests import commands, slurm_cluster, test_readme, tiny_records

ROOT = pathlib.Path(__file__).resolve().parent.parent
NONE = ['configs/none_resnet18.py']


@pytest.fixture(scope='module')
def cluster():
  if why_not := slurm_cluster.why_not():
    pytest.skip(why_not)
  with tempfile.TemporaryDirectory(prefix='slurm') as folder:
    running = slurm_cluster.Cluster(pathlib.Path(folder))
    try:
      yield running
    finally:
      running.close()


class Given(types.SimpleNamespace):
  """Flags of launch/grid.py, as typed."""

  configs, size, fractions, set, gpus, choose, jobs, slurm, dry_run = NONE, 'small', ['1'], [], '', '', 1, '', False

  def __getitem__(self, name):
    return types.SimpleNamespace(present=0)


def test_a_grid_with_jobs_in_the_queue_is_left_as_it_is(tmp_path, monkeypatch):
  monkeypatch.setattr(jobs, '_slurm', lambda *command: '17' if command[0] == 'sbatch' else '')
  monkeypatch.setattr(grid.flags, 'FLAGS', Given(out=str(tmp_path), seeds=['0']))
  grid.main([])
  before = (tmp_path / 'grid.json').read_text()
  monkeypatch.setattr(jobs, '_slurm', lambda *command: '17_0 PENDING Priority\n')
  monkeypatch.setattr(grid.flags, 'FLAGS', Given(out=str(tmp_path), seeds=['0', '1']))
  with pytest.raises(ValueError, match='has jobs in the queue'):
    grid.main([])
  assert (tmp_path / 'grid.json').read_text() == before


def test_the_command_for_several_nodes_has_batches_that_divide():
  (line,) = [line for line in test_readme.all_commands() if 'multinode.sbatch' in line]
  words = dict(word.lstrip('-').partition('=')[::2] for word in line.split() if word.startswith('--'))
  devices = int(words['nodes']) * int(words['ntasks-per-node'])
  config = runpy.run_path(words['config'])['get_config']()
  config.finetune.batch_size = int(words['config.finetune.batch_size'])
  for stage in ('pretrain', 'finetune', 'evaluation'):
    parallel.check_batch_size(config[stage].batch_size, devices)


@pytest.fixture
def slurm(cluster, monkeypatch):
  """Its commands reach the cluster from this process; a run has one device, and the packages of this checkout."""
  path = os.pathsep.join([str(pathlib.Path(sys.executable).parent), cluster.environment['PATH']])
  here = {'PATH': path, 'XLA_FLAGS': commands.QUICK_XLA, 'PYTHONPATH': str(ROOT)}
  for name, value in {**cluster.environment, **here}.items():
    monkeypatch.setenv(name, value)
  monkeypatch.chdir(ROOT)


def run(*command: str) -> subprocess.CompletedProcess:
  return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def wait_until(reached: Callable[[], bool], seen: Callable[[], object], limit_s: float = 600) -> None:
  deadline = time.monotonic() + limit_s
  while not reached():
    assert time.monotonic() < deadline, seen()
    time.sleep(0.1)


def states(out: pathlib.Path) -> dict[str, str]:
  runs = jobs.read_plan(out)
  return {name: end.state for name, end in jobs.outcomes(runs, out).items()}


def end_of(out: pathlib.Path) -> str:
  """The table that the last job writes."""
  wait_until(lambda: not jobs.queued(out), lambda: (jobs.queued(out), said_in(out)))
  return (out / 'outcomes.txt').read_text()


def said_in(out: pathlib.Path) -> dict[str, str]:
  return {log.name: log.read_text()[-1500:] for log in (out / 'logs').iterdir()}


def test_without_slurm_or_a_grid_the_mend_is_named(tmp_path, monkeypatch):
  monkeypatch.setenv('PATH', str(tmp_path))
  with pytest.raises(ValueError, match=r'holds no grid.json. Pass the --out of a grid'):
    jobs.submit(tmp_path, '')
  grid.write_plan([grid.Run('a', str(tmp_path / 'a'), ['python'])], tmp_path / 'grid.json')
  with pytest.raises(ValueError, match=r'sbatch is not installed. Run this on a host of a cluster'):
    jobs.submit(tmp_path, '')


# What an experiment is to the scripts: it ends, fails, or is told to stop and saves or not.
_STAND_IN = """
import json, os, pathlib, signal, sys, time

kind, workdir = sys.argv[1], pathlib.Path(sys.argv[2])
workdir.mkdir(parents=True, exist_ok=True)


def stop(number, frame):
  if kind == 'saves':
    (workdir / 'finetune' / 'checkpoints' / '7').mkdir(parents=True)
  print('Stopped; the same command goes on.')
  sys.exit(130)


for number in (signal.SIGINT, signal.SIGTERM):
  signal.signal(number, stop)
(workdir / f'begun_{os.environ.get("SLURM_RESTART_COUNT", 0)}').touch()
if kind == 'fails':
  print('error: There is no such thing. Choose another.')
  sys.exit(3)
if kind == 'is killed':
  os.kill(os.getppid(), signal.SIGKILL)
if kind != 'quick' and not (workdir / 'finetune').exists():
  time.sleep(60)
done = {'status': 'finished'}
(workdir / 'experiment.json').write_text(json.dumps({**done, 'stages': {'pretrain': done}}))
"""


@pytest.mark.slow
@pytest.mark.usefixtures('slurm')
def test_every_way_a_run_can_end(tmp_path, capsys):
  script, out = tmp_path / 'stand_in.py', tmp_path / 'a grid'
  script.write_text(_STAND_IN)

  def stand_in(name: str, kind: str, depends_on: str = '') -> grid.Run:
    workdir = f'{out}/runs/{name}'
    return grid.Run(name, workdir, ['python', str(script), kind, workdir], depends_on)

  runs = [
    stand_in('quick', 'quick'), stand_in('after_quick', 'quick', 'quick'), stand_in('fails', 'fails'),
    stand_in('after_fails', 'quick', 'fails'), stand_in('saves', 'saves'), stand_in('after_saves', 'quick', 'saves'),
    stand_in('stuck', 'stuck'), stand_in('is_killed', 'is killed'),
  ]  # fmt: skip
  grid.write_plan(runs, out / 'grid.json')
  with pytest.raises(ValueError, match=r'sbatch refused: .*[Ii]nvalid partition'):
    jobs.submit(out, '--partition=absent')
  with pytest.raises(ValueError, match='--slurm has --array=1, which the grid sets itself'):
    jobs.submit(out, '--array=1')
  assert states(out) == dict.fromkeys([r.name for r in runs], 'skipped')

  jobs.submit(out, '--time=10 --ntasks=1')
  assert '8 of 8 runs are in the queue, 3 of them when the others have ended' in capsys.readouterr().out
  first = json.loads((out / 'slurm.json').read_text())[0]
  with pytest.raises(ValueError, match=rf'has jobs in the queue \({first}, .*scancel {first}'):
    jobs.submit(out, '')
  for number, name in ((4, 'saves'), (6, 'stuck')):
    wait_until((out / 'runs' / name / 'begun_0').exists, lambda: said_in(out))
    assert states(out)[name] == 'running'
    # As Slurm announces the time limit, which it cannot have below a minute.
    assert run('scancel', '--signal=USR1', '--batch', f'{first}_{number}').returncode == 0
  wait_until(lambda: states(out)['saves'] == 'waiting', lambda: said_in(out))
  assert states(out)['after_saves'] == 'waiting'
  table = end_of(out)

  lines = {line.split()[1]: ' '.join(line.split()) for line in table.splitlines()[1:-1]}
  log = out / 'logs'
  assert lines.pop('is_killed').startswith('failed is_killed - job ')
  assert lines == {
    'quick': 'finished quick 0',
    'after_quick': 'finished after_quick 0',
    'fails': f'failed fails 3 error: There is no such thing. Choose another. ({log}/fails.log)',
    'after_fails': 'skipped after_fails - fails, which pretrains for it, did not get so far',
    'saves': 'finished saves 0',
    'after_saves': 'finished after_saves 0',
    'stuck': 'failed stuck 130 It saved nothing within its time limit: give more --time. Stopped; the same command '
    f'goes on. ({log}/stuck.log)',
  }
  assert table.splitlines()[-1] == '4 finished, 3 failed, 1 skipped'
  assert (out / 'runs/saves/begun_1').exists()
  shown = run(*line('python -m')[:-1], str(out))
  assert (shown.returncode, shown.stdout) == (1, table)

  began = [run for run in runs if pathlib.Path(run.workdir).exists()]
  assert [run.name for run in runs if run not in began] == ['after_fails']


def line(program: str) -> list[str]:
  """The README's line that begins so, as typed."""
  return shlex.split(next(text for text in test_readme.typed(test_readme.SLURM) if text.startswith(program)))


def with_options(command: list[str], **options: object) -> list[str]:
  """A command with other values of options that it has."""
  changed = {f'--{name.replace("_", "-" if command[0] == "sbatch" else "_")}': value for name, value in options.items()}
  assert changed.keys() <= {word.partition('=')[0] for word in command}
  return [f'{name}={changed[name]}' if (name := word.partition('=')[0]) in changed else word for word in command]


_CONFIG = """
from configs import {base}


def get_config():
  config = {base}.get_config('small')
  config.data.labelled = {labelled!r}
  config.data.unlabelled = '/absent'
  return config
"""


def settings(steps: int, every_steps: int) -> dict[str, object]:
  return {
    'data.crop_px': 32, 'encoder.name': 'resnet10', 'encoder.width': 8, 'finetune.batch_size': 4,
    'finetune.duration.steps': steps, 'finetune.validate_every_steps': steps, 'evaluation.batch_size': 4,
    'evaluation.sample_patches': 0,
    'evaluation.random_forest': False, 'checkpoint.every_steps': every_steps, 'checkpoint.keep': 99,
  }  # fmt: skip


def config(folder: pathlib.Path, base: str) -> pathlib.Path:
  path = folder / f'{base.partition("_")[0]}.py'
  path.write_text(_CONFIG.format(base=base, labelled=str(tiny_records.tiny_records())))
  return path


def checkpoints(workdir: pathlib.Path) -> dict[int, int]:
  """Step -> time of the last change."""
  folders = (workdir / 'finetune' / 'checkpoints').glob('*')
  return {int(f.name): f.stat().st_mtime_ns for f in folders if f.name.isdigit()}


@pytest.mark.slow
@pytest.mark.usefixtures('slurm')
def test_a_grid_that_is_cancelled_goes_on_from_its_checkpoints(tmp_path):
  out = tmp_path / 'grid'
  workdir = out / 'runs' / 'none_seed0_fraction1.0'
  files = [config(tmp_path, base) for base in ('none_resnet18', 't2v_resnet18')]
  command = [
    *with_options(line('python launch/grid.py'), configs=f'{files[0]},{files[1]}', seeds=0, fractions=1, out=out),
    *(f'--set={key}={value}' for key, value in settings(steps=200, every_steps=20).items()),
  ]
  both = run(*command, '--jobs=2').stderr
  assert both.startswith('error: --slurm leaves it to Slurm which runs there are at a time: leave --jobs')
  said = run(*command)
  assert said.returncode == 0, said.stderr
  wait_until(lambda: 20 in checkpoints(workdir), lambda: said_in(out))
  submitted = json.loads((out / 'slurm.json').read_text())
  assert run('scancel', f'{submitted[0]}_0').returncode == 0
  table = end_of(out)
  stopped = checkpoints(workdir)
  assert max(stopped) < 200
  none, failed = table.splitlines()[1:3]
  assert 'at step' in none
  assert 'of finetune; the same command goes on.' in none
  assert f'at step {max(stopped)} of' in none
  assert failed.split()[:3] == ['failed', 't2v_seed0_fraction1.0', '1']
  assert 'error: ' in failed
  assert '/absent' in failed
  assert failed.endswith(f'({out}/logs/t2v_seed0_fraction1.0.log)')

  assert run(*command).returncode == 0
  assert end_of(out).splitlines()[-1] == '1 finished, 1 failed, 0 skipped'
  assert checkpoints(workdir).items() > stopped.items(), 'finished steps were done again'
  assert max(checkpoints(workdir)) == 200


@pytest.mark.slow
@pytest.mark.usefixtures('slurm')
def test_one_experiment_of_two_processes_is_requeued(tmp_path):
  workdir = tmp_path / 'run'
  log = tmp_path / 'log'
  command = with_options(
    line('sbatch'), nodes=1, ntasks_per_node=2, config=config(tmp_path, 'none_resnet18'), workdir=workdir
  )
  command += [f'--config.{key}={value}' for key, value in settings(steps=60, every_steps=4).items()]
  said = run('sbatch', '--parsable', f'--output={log}', *command[1:])
  assert said.returncode == 0, said.stderr
  job = said.stdout.strip()
  wait_until(lambda: 4 in checkpoints(workdir), log.read_text)
  assert run('scancel', '--signal=USR1', '--batch', job).returncode == 0
  wait_until(lambda: 'PENDING' in run('squeue', '-h', '-o', '%T', '-j', job).stdout, log.read_text)
  stopped = checkpoints(workdir)
  assert max(stopped) < 60
  assert f'Stopped by signal 15 at step {max(stopped)} of finetune' in log.read_text()
  wait_until(lambda: job not in run('squeue', '-h', '-o', '%A').stdout, log.read_text)
  assert checkpoints(workdir).items() > stopped.items(), 'finished steps were done again'
  about = json.loads((workdir / 'experiment.json').read_text())
  assert about['status'] == 'finished', log.read_text()
  assert (about['devices']['processes'], about['devices']['devices']) == (2, 2)

"""A grid of experiments on Slurm: its runs as tasks of job arrays, and how they ended.

    python -m launch.slurm.jobs runs/grid     the table of outcomes, at any time

`launch/grid.py --slurm=...` submits. Runs that take their encoder from another are an array of their own, which waits
for the first; a last job writes the table to OUT/outcomes.txt. OUT/slurm.json lists the jobs, OUT/outcomes/NAME.json
holds how a run ended, OUT/logs/slurm_JOB_TASK.log what Slurm had to say.
"""

import contextlib
import fcntl
import functools
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from deepsentinel import commandline, provenance
from launch import grid

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_OWN_OPTIONS = ('--array', '-a', '--dependency', '-d', '--output', '-o', '--open-mode', '--parsable', '--wrap')


def read_plan(out: pathlib.Path) -> list[grid.Run]:
  """The runs that OUT/grid.json lists; ValueError if it is not there, or of something else."""
  try:
    return [grid.Run(**run) for run in json.loads((out / 'grid.json').read_text())]
  except FileNotFoundError as error:
    raise ValueError(f'{out} holds no grid.json. Pass the --out of a grid.') from error
  except (ValueError, TypeError) as error:
    raise ValueError(f'{out}/grid.json is damaged or of something else. Pass the --out of a grid.') from error


def require_idle(out: pathlib.Path) -> None:
  """ValueError if jobs of this grid are in the queue: they know their runs by the numbers in grid.json."""
  if busy := sorted({task.partition('_')[0] for task in queued(out)}):
    raise ValueError(
      f'{out} has jobs in the queue ({", ".join(busy)}). Wait for them, or end them with: scancel {" ".join(busy)}'
    )


def submit(out: pathlib.Path, options: str) -> None:
  """Submits what is not finished, and says where to look; the table if nothing is left.

  Args:
    out: directory of the grid.
    options: of sbatch, for every job, as one would type them.
  Raises:
    ValueError: jobs of this grid are queued, an option that is ours, Slurm refuses.
  """
  given = shlex.split(options)
  for option in given:
    if option.partition('=')[0] in _OWN_OPTIONS:
      raise ValueError(f'--slurm has {option}, which the grid sets itself. Leave it out.')
  require_idle(out)
  runs = read_plan(out)
  left = [number for number, run in enumerate(runs) if not run.finished]
  if not left:
    return print(grid.table(runs, outcomes(runs, out), out / 'logs'))
  unfinished, encoders = {runs[number].name for number in left}, {run.name for run in runs if run.pretrained}
  first = [number for number in left if runs[number].depends_on in {'', *encoders}]
  second = [number for number in left if number not in first]
  held = grid.lock(out)
  try:
    for folder in ('logs', 'outcomes'):
      (out / folder).mkdir(parents=True, exist_ok=True)
    for name in unfinished:
      _record(out, name).unlink(missing_ok=True)
    jobs = _submit_jobs(out, given, [numbers for numbers in (first, second) if numbers])
    provenance.write_json(out / 'slurm.json', jobs)
  finally:
    os.close(held)
  waiting = f', {len(second)} of them when the others have ended' if second else ''
  print(
    f'{len(left)} of {len(runs)} runs are in the queue{waiting}: jobs {", ".join(jobs)}. How they end will be in '
    f'{out}/outcomes.txt; python -m launch.slurm.jobs {shlex.quote(str(out))} shows it at any time.'
  )


def _submit_jobs(out: pathlib.Path, options: Sequence[str], arrays: Sequence[Sequence[int]]) -> list[str]:
  """An array of each list of runs, after the one before it, and a job that lists how they ended; all jobs or none."""
  jobs: list[str] = []
  script = [str(_ROOT / 'launch' / 'slurm' / 'array.sbatch'), str(out), sys.executable, str(_ROOT)]
  lasts = [f'--output={out}/outcomes.txt', '--open-mode=truncate']
  arrayed = [[f'--array={",".join(map(str, a))}', f'--output={out}/logs/slurm_%A_%a.log'] for a in arrays]
  try:
    for own in (*arrayed, lasts):
      after = [f'--dependency=afterany:{":".join(jobs)}'] if jobs else []
      said = _slurm('sbatch', '--parsable', *options, *own, *after, *script)
      jobs.append(said.strip().partition(';')[0])  # JOB or JOB;CLUSTER
  except ValueError:
    if jobs:
      _slurm('scancel', *jobs)
    raise
  return jobs


def _slurm(*command: str) -> str:
  """What a command of Slurm prints; ValueError with its complaint."""
  try:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
  except FileNotFoundError as error:
    raise ValueError(f'{command[0]} is not installed. Run this on a host of a cluster with Slurm.') from error
  except subprocess.CalledProcessError as error:
    said = ' '.join(error.stderr.split()) or f'exit code {error.returncode}'
    raise ValueError(f'{command[0]} refused: {said}. Mend the options in --slurm, or ask sinfo.') from error


def queued(out: pathlib.Path) -> dict[str, str]:
  """'JOB_TASK' of this grid in the queue -> its state, and of a pending one the reason."""
  try:
    jobs = json.loads((out / 'slurm.json').read_text())
  except FileNotFoundError:
    return {}
  tasks = dict(line.split(' ', 1) for line in _slurm('squeue', '--me', '-h', '-r', '-o', '%F_%K %T %r').splitlines())
  return {task: state for task, state in tasks.items() if task.partition('_')[0] in jobs}


def outcomes(runs: Sequence[grid.Run], out: pathlib.Path) -> dict[str, grid.Outcome]:
  """How each run ended, or 'running' or 'waiting', by its name."""
  tasks = {task.partition('_')[2]: (task, *state.split(' ', 1)) for task, state in queued(out).items()}
  return {run.name: _outcome(run, out, tasks.get(str(number))) for number, run in enumerate(runs)}


def _outcome(run: grid.Run, out: pathlib.Path, queue: tuple[str, ...] | None) -> grid.Outcome:
  if run.finished:
    return grid.Outcome('finished', 0)
  if queue and queue[1] == 'PENDING':
    return grid.Outcome('waiting', reason=f'job {queue[0]}: {queue[2]}')
  if queue and queue[1] != 'COMPLETING':
    return grid.Outcome('running', reason=f'job {queue[0]}')
  record = _record(out, run.name)
  if not record.exists():
    return grid.Outcome('skipped', reason='it was not started, and is not in the queue')
  about = json.loads(record.read_text())
  job = about.pop('job')
  if about['state'] != 'running':
    return grid.Outcome(**about)
  log = out / 'logs' / f'slurm_{job}.log'
  said = log.read_text(errors='replace').strip().splitlines() if log.exists() else []
  errors = [line for line in said if 'error: ' in line]
  return grid.Outcome('failed', reason=f'job {job} was ended from outside: {(errors or ["no reason in its log"])[-1]}')


def _record(out: pathlib.Path, name: str) -> pathlib.Path:
  return out / 'outcomes' / f'{name}.json'


def run_task(runs: Sequence[grid.Run], number: int, out: pathlib.Path) -> int:
  """The run of this task to its end; its exit code.

  SIGUSR1, which announces the time limit: the run saves, and the task is put back into the queue. SIGTERM, of scancel
  or preemption: the run saves.
  """
  run = runs[number]
  job = f'{os.environ["SLURM_ARRAY_JOB_ID"]}_{os.environ["SLURM_ARRAY_TASK_ID"]}'
  log = out / 'logs' / f'{run.name}.log'
  signals: list[int] = []
  for expected in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(expected, lambda caught, _: signals.append(caught))

  def note(outcome: grid.Outcome) -> int:
    provenance.write_json(_record(out, run.name), {**outcome._asdict(), 'job': job})
    print(f'{run.name}: {outcome.state} {outcome.reason}'.strip(), flush=True)
    return 0 if outcome.state == 'finished' else outcome.code if outcome.code and outcome.code > 0 else 1

  if run.finished:
    return note(grid.Outcome('finished', reason='before'))
  if run.depends_on and not next(other for other in runs if other.name == run.depends_on).pretrained:
    return note(grid.Outcome('skipped', reason=f'{run.depends_on}, which pretrains for it, did not get so far'))
  with contextlib.suppress(OSError):  # where there are no locks, only squeue keeps other grids off
    fcntl.flock(os.open(out / 'grid.lock', os.O_RDWR | os.O_CREAT, 0o644), fcntl.LOCK_SH)
  note(grid.Outcome('running', reason=f'in {run.workdir}, log {log}'))
  saved = _checkpoints(run)
  with log.open('ab') as file:
    start = file.tell()
    process = subprocess.Popen(
      [sys.executable, *run.command[1:]], stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
      preexec_fn=functools.partial(signal.signal, signal.SIGUSR1, signal.SIG_IGN),
    )  # fmt: skip
  while process.poll() is None and not signals:
    time.sleep(0.1)
  if signals:
    # Some set-ups of Slurm send SIGTERM to this process alone and some to the run too, which a second one would kill.
    process.send_signal(signal.SIGINT)
  code = process.wait()
  if code == 0:
    return note(grid.Outcome('finished', 0))
  reason = grid.last_words(log, start)
  if code == -signal.SIGKILL:
    reason = f'killed, as when memory runs out (--mem gives more); before that: {reason}'
  if signal.SIGUSR1 not in signals:
    return note(grid.Outcome('failed', code, reason))
  if _checkpoints(run) == saved:
    return note(grid.Outcome('failed', code, f'It saved nothing within its time limit: give more --time. {reason}'))
  note(grid.Outcome('failed', code, f'out of time: {reason}'))
  _slurm('scontrol', 'requeue', job)  # which ends this process
  return code


def _checkpoints(run: grid.Run) -> set[pathlib.Path]:
  return {path for path in pathlib.Path(run.workdir).rglob('checkpoints/*') if path.name.isdigit()}


def main(arguments: list[str]) -> None:
  out = pathlib.Path(arguments[0])
  runs = read_plan(out)
  if arguments[1:]:
    if 'SLURM_ARRAY_TASK_ID' not in os.environ:
      raise ValueError(f'Unexpected argument {arguments[1]}, which is for tasks of Slurm. Give the --out of one grid.')
    sys.exit(run_task(runs, int(arguments[1]), out))
  ends = outcomes(runs, out)
  print(grid.table(runs, ends, out / 'logs'))
  if any(end.state != 'finished' for end in ends.values()):
    sys.exit(1)


if __name__ == '__main__':
  commandline.run(main, arguments='OUT', resumes=True)

"""A grid of experiments, configs x seeds x label fractions: planned, run on free slots, resumed by the same command.

    python launch/grid.py --configs=configs/none_resnet18.py,configs/t2v_resnet18.py --size=small --seeds=0,1,2 \
      --fractions=0.05,0.25,1 --out=runs/grid

Of each config with an objective and each seed the run with the largest fraction pretrains, and the others fine-tune its
encoder. OUT/grid.json lists the runs, OUT/runs/NAME holds each, OUT/logs/NAME.log what it said.

    --choose=finetune.learning_rate=5e-4,1e-3,2e-3

first tries each value with each config, at the first seed and the largest fraction, and takes the one with the best
class-weighted IoU on validation; no run that chooses reads the test split. OUT/choice/ holds those runs, and
OUT/choice.json what was found.
"""

import collections
import contextlib
import fcntl
import json
import os
import pathlib
import runpy
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags
from tqdm import tqdm

from deepsentinel import commandline, provenance

# Keys that the grid sets itself, and the flag to give instead.
_OWN_KEYS = {'seed': '--seeds', 'finetune.label_fraction': '--fractions', 'pretrain.from_checkpoint': 'no flag'}


class Run(NamedTuple):
  """One experiment of the grid: `command` makes `workdir`; `depends_on` names the run that pretrains for it, or ''."""

  name: str
  workdir: str
  command: list[str]
  depends_on: str = ''

  @property
  def finished(self) -> bool:
    return self._journal().get('status') == 'finished'

  @property
  def pretrained(self) -> bool:
    """Whether its encoder can be taken."""
    return self._journal().get('stages', {}).get('pretrain', {}).get('status') == 'finished'

  def _journal(self) -> dict[str, Any]:
    try:
      return json.loads(pathlib.Path(self.workdir, 'experiment.json').read_text())
    except (FileNotFoundError, ValueError):
      return {}


class Outcome(NamedTuple):
  """How a run ended: 'finished', 'failed' or 'skipped'; `code` is its exit code, None where it was not started."""

  state: str
  code: int | None = None
  reason: str = ''


def plan(
  configs: Sequence[str],
  size: str,
  seeds: Sequence[str],
  fractions: Sequence[str],
  out: str,
  settings: Sequence[str],
  chosen: Mapping[str, 'Choice'] | None = None,
) -> list[Run]:
  """The runs of a grid, those that pretrain before those that use them.

  Args:
    configs: files of configurations.
    size: what follows the colon of --config; '' for nothing.
    seeds: whole numbers, as text.
    fractions: of the labels, in (0, 1], as text.
    out: directory of the grid.
    settings: KEY=VALUE of the configuration, for every run.
    chosen: of each config file, where candidates were run for them.
  Returns:
    a list of Run.
  Raises:
    ValueError: a file that is no configuration, a seed or a fraction out of range, an unknown key, a name given twice.
  """
  for flag, values in (('configs', configs), ('seeds', seeds), ('fractions', fractions)):
    if not values:
      raise ValueError(f'--{flag} names none. Give at least one, with commas between.')
  shares = sorted((_fraction(text) for text in fractions), reverse=True)
  wrong = [text for text in seeds if not text.isdecimal()]
  if wrong:
    raise ValueError(f'--seeds has {wrong[0]!r}; a seed is a whole number from 0.')
  runs: list[Run] = []
  for file in configs:
    choice = (chosen or {}).get(file, Choice())
    own = [*settings, *choice.settings]
    shared, pairs = pretrains(file, size, own), list(dict(map(parse_setting, own)).items())
    for number, seed in enumerate(map(int, seeds)):
      encoder, first = '' if number else choice.encoder, ''
      for share in shares:
        name = f'{pathlib.Path(file).stem}_seed{seed}_fraction{share!r}'
        workdir = f'{out}/runs/{name}'
        command = _command(f'{file}{":" if size else ""}{size}', workdir, seed, share, pairs, encoder)
        runs.append(Run(name, workdir, command, first))
        if shared and not encoder:
          first, encoder = name, workdir
  name, times = collections.Counter(run.name for run in runs).most_common(1)[0]
  if times > 1:
    raise ValueError(f'{times} runs would be named {name}. Give each seed, fraction and config file name once.')
  return runs


def _command(
  config: str, workdir: str, seed: int, share: float, pairs: Sequence[tuple[str, str]], encoder: str
) -> list[str]:
  return [
    'python', '-m', 'deepsentinel.main', f'--config={config}', f'--workdir={workdir}', f'--config.seed={seed}',
    f'--config.finetune.label_fraction={share!r}', *(f'--config.{key}={value}' for key, value in pairs),
    *([f'--config.pretrain.from_checkpoint={encoder}'] if encoder else []), '--noprogress',
  ]  # fmt: skip


class Choice(NamedTuple):
  """What the runs of a config take over: KEY=VALUE, and the run whose encoder serves them at the first seed, or ''."""

  settings: tuple[str, ...] = ()
  encoder: str = ''


def pretrains(file: str, size: str, settings: Sequence[str]) -> bool:
  """Whether a config has an objective, after the settings; ValueError for an unknown key."""
  config, pairs = _load(file, size), [parse_setting(text) for text in settings]
  for key, _ in pairs:
    _value(config, key, file)
  return dict(pairs).get('pretrain.objective', _value(config, 'pretrain.objective', file)) != 'none'


def _fraction(text: str) -> float:
  with contextlib.suppress(ValueError):
    if 0 < float(text) <= 1:
      return float(text)
  raise ValueError(f'--fractions has {text!r}; a fraction of the labels is a number above 0 and at most 1.')


def parse_setting(text: str) -> tuple[str, str]:
  key, equals, value = text.partition('=')
  if not equals:
    raise ValueError(f'--set={text} has no value. Give --set=KEY=VALUE, e.g. --set=finetune.learning_rate=1e-3.')
  if key in _OWN_KEYS:
    raise ValueError(f'--set={text}: the grid chooses {key} itself. Leave it out ({_OWN_KEYS[key]} sets it).')
  return key, value


def _load(file: str, size: str) -> dict[str, Any]:
  """The configuration of a file, as a plain dict."""
  if not pathlib.Path(file).is_file():
    raise ValueError(f'--configs names {file}, which is not there. Pass files such as those in configs/.')
  try:
    return runpy.run_path(file)['get_config'](*([size] if size else [])).to_dict()
  except Exception as error:  # whatever the code of a config raises
    given = f' with --size={size}' if size else ''
    raise ValueError(
      f'{file} is no configuration{given} ({type(error).__name__}: {commandline.sentence(error)}). Pass files with '
      'get_config(size), such as those in configs/.'
    ) from error


def _value(config: dict[str, Any], key: str, file: str) -> Any:
  value: Any = config
  for part in key.split('.'):
    value = value.get(part) if isinstance(value, dict) else None
  if value is None or isinstance(value, dict):
    raise ValueError(f'{file} has no value {key}. configs/common.py lists every key that --set can change.')
  return value


def write_plan(runs: Sequence[Run], path: pathlib.Path) -> None:
  """Writes grid.json, over one with some of the same runs; ValueError that names the difference if it is of others.

  A run that was there keeps its place: a job that waits for another try knows it by that number.
  """
  try:
    there = {run['name']: run['command'] for run in json.loads(path.read_text())}
  except FileNotFoundError:
    there = {}
  except (ValueError, TypeError, KeyError) as error:
    raise ValueError(f'{path} is damaged or of something else. Choose another --out.') from error
  here = {run.name: run.command for run in runs}
  lines = [f'{name}: only there' for name in there if name not in here]
  for name in (name for name in here if name in there and sorted(there[name]) != sorted(here[name])):
    a, b = there[name], here[name]
    gone, new = (' '.join(x for x in p if x not in q) or 'nothing' for p, q in ((a, b), (b, a)))
    lines.append(f'{name}: {gone} there, {new} here')
  if lines:
    more = f'; and {len(lines) - 1} more' if len(lines) > 1 else ''
    raise ValueError(
      f'{path.parent} holds a grid of other runs ({lines[0]}{more}). Choose another --out, or give the flags it was '
      'begun with to go on; seeds, configs and smaller fractions may be added.'
    )
  path.parent.mkdir(parents=True, exist_ok=True)
  places = {name: place for place, name in enumerate(there)}
  ordered = sorted(runs, key=lambda run: places.get(run.name, len(places)))
  provenance.write_json(path, [run._asdict() for run in ordered])


def lock(out: pathlib.Path) -> int:
  """A file descriptor that keeps the grid ours while we, or runs that inherit it, live; ValueError if it is taken."""
  out.mkdir(parents=True, exist_ok=True)
  number = os.open(out / 'grid.lock', os.O_RDWR | os.O_CREAT, 0o644)
  try:
    fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError as error:
    raise ValueError(f'{out} is in use by a grid or a run of one. Wait for it, or end it.') from error
  return number


class _Child(NamedTuple):
  run: Run
  process: subprocess.Popen
  slot: str
  log_start: int  # byte of the log where this call's part begins


def execute(runs: Sequence[Run], logs: pathlib.Path, slots: Sequence[str], lock_fd: int) -> dict[str, Outcome]:
  """Runs what is not finished, one run per free slot.

  Args:
    runs: see `plan`.
    logs: folder of NAME.log, which are appended to.
    slots: a CUDA_VISIBLE_DEVICES each, or '' to leave it as it is.
    lock_fd: see `lock`.
  Returns:
    outcome of each run by its name.
  Raises:
    KeyboardInterrupt: after a Ctrl-C or SIGTERM, when the children have saved and ended; a second one kills them.
  """
  logs.mkdir(parents=True, exist_ok=True)
  outcomes = {run.name: Outcome('finished', reason='before') for run in runs if run.finished}
  by_name = {run.name: run for run in runs}
  free, children, signals = list(slots), list[_Child](), list[int]()
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda caught, _: signals.append(caught))
  with tqdm(total=len(runs), initial=len(outcomes), desc='runs', unit='run', file=sys.stderr, disable=None) as bar:
    while len(outcomes) < len(runs) or children:
      for child in [c for c in children if c.process.poll() is not None]:
        children.remove(child)
        free.append(child.slot)
        outcomes[child.run.name] = _outcome(child, logs)
      if signals:
        _stop(children, signals)
        raise KeyboardInterrupt
      begun = {*outcomes, *(child.run.name for child in children)}
      for run in (run for run in runs if run.name not in begun):
        ended = outcomes.get(run.depends_on)
        ready = not run.depends_on or by_name[run.depends_on].pretrained
        if ended and not ready:
          outcomes[run.name] = Outcome('skipped', reason=f'{run.depends_on}, which pretrains for it, {ended.state}')
        elif free and ready:
          children.append(_start(run, logs, free.pop(0), lock_fd))
      bar.set_postfix_str(', '.join(child.run.name for child in children), refresh=False)
      bar.update(len(outcomes) - bar.n)
      time.sleep(0.1 if children else 0)
  return outcomes


def _start(run: Run, logs: pathlib.Path, slot: str, lock_fd: int) -> _Child:
  environment = {**os.environ, **({'CUDA_VISIBLE_DEVICES': slot} if slot else {})}
  with (logs / f'{run.name}.log').open('ab') as log:
    start = log.tell()
    # A session of its own: a Ctrl-C in the terminal reaches only the grid, which passes it on once.
    process = subprocess.Popen(
      [sys.executable, *run.command[1:]], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
      env=environment, start_new_session=True, pass_fds=[lock_fd],
    )  # fmt: skip
  return _Child(run, process, slot, start)


def _outcome(child: _Child, logs: pathlib.Path) -> Outcome:
  code = child.process.returncode
  if code == 0:
    return Outcome('finished', 0)
  return Outcome('failed', code, last_words(logs / f'{child.run.name}.log', child.log_start))


def last_words(log: pathlib.Path, start: int) -> str:
  """The last error in a log from byte `start` on, else its last line."""
  said = log.read_bytes()[start:].decode(errors='replace')
  lines = [line for line in said.splitlines() if line.strip()]
  return ([line for line in lines if line.startswith('error: ')] or lines or ['(it said nothing)'])[-1]


def _stop(children: Sequence[_Child], signals: Sequence[int]) -> None:
  """Ends the children: SIGTERM, on which they save a checkpoint, and SIGKILL at a second signal."""
  for child in children:
    child.process.terminate()
  while running := [child for child in children if child.process.poll() is None]:
    for child in running if len(signals) > 1 else ():
      child.process.kill()
    time.sleep(0.1)


def table(runs: Sequence[Run], outcomes: dict[str, Outcome], logs: pathlib.Path) -> str:
  """A line per run: state, name and exit code; of a failed one also the reason and the log, of a skipped one why."""
  width = max(len(run.name) for run in runs)
  lines = [f'{"state":8}  {"run":{width}}  exit  reason']
  for run in runs:
    end = outcomes[run.name]
    reason = f'{end.reason}  ({logs / run.name}.log)' if end.state == 'failed' else end.reason
    lines.append(f'{end.state:8}  {run.name:{width}}  {"-" if end.code is None else end.code:>4}  {reason}'.rstrip())
  states = [end.state for end in outcomes.values()]
  shown = dict.fromkeys(['finished', 'failed', 'skipped', *states])
  return '\n'.join([*lines, ', '.join(f'{states.count(s)} {s}' for s in shown)])


def main(_: list[str]) -> None:
  sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent))  # of a script, only its own folder is there
  from launch import choices
  from launch.slurm import jobs

  given = flags.FLAGS
  out = pathlib.Path(given.out)
  slots = [gpus for gpus in given.gpus.split(';') if gpus] or [''] * given.jobs
  if given.gpus and given['jobs'].present:
    raise ValueError('--gpus and --jobs are both given. With --gpus there is a run per set of GPUs: leave --jobs out.')
  if given.slurm is not None and (given.gpus or given.choose or given['jobs'].present):
    raise ValueError(
      '--slurm leaves it to Slurm which runs there are at a time: leave --jobs and --gpus out, and give as --set what '
      '--choose found on one host.'
    )
  runs = plan(given.configs, given.size, given.seeds, given.fractions, str(out), given.set)
  tried: dict[str, dict[str, Run]] = {}
  if given.choose:
    largest = max(given.fractions, key=float)
    tried = choices.candidates(
      given.configs, given.size, given.seeds[0], largest, f'{out}/choice', given.set, given.choose
    )
  first = [run for by_value in tried.values() for run in by_value.values()]
  if given.dry_run:
    return print('\n'.join(shlex.join(run.command) for run in (*first, *runs)))
  if given.slurm is not None:
    jobs.require_idle(out)
    write_plan(runs, out / 'grid.json')
    return jobs.submit(out, given.slurm)
  lock_fd = lock(out)
  outcomes: dict[str, Outcome] = {}
  if tried:
    write_plan(first, out / 'choice/grid.json')
    outcomes = execute(first, out / 'logs', slots, lock_fd)
    chosen = choices.write(tried, given.size, given.set, given.choose, out / 'choice.json')
    # A config without a candidate that finished has no runs; its candidates are named in the table.
    runs = plan(list(chosen), given.size, given.seeds, given.fractions, str(out), given.set, chosen) if chosen else []
  if runs:
    write_plan(runs, out / 'grid.json')
  outcomes |= execute(runs, out / 'logs', slots, lock_fd)
  print(table([*first, *runs], outcomes, out / 'logs'))
  if any(end.state != 'finished' for end in outcomes.values()):
    sys.exit(1)


def define_flags() -> None:
  flags.DEFINE_list('configs', None, 'Files of configurations.')
  flags.DEFINE_string('size', '', "What follows the colon of --config, e.g. 'small'.")
  flags.DEFINE_list('seeds', ['0'], 'Seeds.')
  flags.DEFINE_list('fractions', ['1'], 'Fractions of the labels, each in (0, 1].')
  flags.DEFINE_string('out', None, 'Directory of the grid.')
  flags.DEFINE_multi_string('set', [], 'KEY=VALUE of the configuration, for every run; may be given several times.')
  flags.DEFINE_string('choose', '', 'KEY=VALUE,VALUE of the configuration: take the best on validation, per config.')
  flags.DEFINE_integer('jobs', 1, 'Runs at a time.', lower_bound=1)
  flags.DEFINE_string('gpus', '', "Sets of GPUs, a run on each at a time, e.g. '0,1;2,3'.")
  flags.DEFINE_string('slurm', None, "Submit to Slurm, with these options of sbatch, e.g. '--gres=gpu:1 --time=8:00'.")
  flags.DEFINE_bool('dry_run', False, 'Print the commands and end.')


if __name__ == '__main__':
  define_flags()
  commandline.run(main, required=['configs', 'out'], resumes=True)

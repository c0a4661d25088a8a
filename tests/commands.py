"""The project's commands as a user runs them, in processes of their own.

`run` forks a server that has the libraries loaded (the standard library's fork server), so that a trial costs what the
command does and not the seconds of starting Python; `start` is an ordinary process, in a group of its own to be killed.
"""

import dataclasses
import multiprocessing
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

ROOT = pathlib.Path(__file__).resolve().parent.parent
TFDS = 'tensorflow_datasets.scripts.cli.main'  # what `tfds` runs
# One device and no start-up chatter; the packages of this checkout, whatever else is installed.
ENVIRONMENT = {
  'XLA_FLAGS': '', 'CUDA_VISIBLE_DEVICES': '', 'NO_GCE_CHECK': 'true', 'TF_CPP_MIN_LOG_LEVEL': '3',
  'PYTHONPATH': os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH', '')])),
}  # fmt: skip
# Libraries and our modules without flags: a module of flags can be loaded once only, by the command itself.
_PRELOAD = ['tensorflow', 'tensorflow_datasets', 'geopandas', 'pyogrio', 'deepsentinel.experiment', 'deepsentinel.embedding.scene']


@dataclasses.dataclass(frozen=True)
class Finished:
  """How a command ended."""

  code: int
  out: str
  err: str

  @property
  def error(self) -> str:
    """The one sentence on stderr; the test fails where there is none, or a traceback beside it."""
    assert self.code not in (0, None), f'the command succeeded: {self.out}{self.err}'
    assert 'Traceback' not in self.err, self.err
    lines = [line for line in self.err.splitlines() if line.startswith('error: ')]
    assert len(lines) == 1, f'not one line "error: ..." on stderr:\n{self.err}'
    assert self.err.rstrip().endswith(lines[0]), f'the error is not the last that is said:\n{self.err}'
    return lines[0]


def _become(module: str, arguments: list[str], cwd: str, environment: dict[str, str], out: str, err: str) -> None:
  """In the forked process: python -m MODULE ARGUMENTS > OUT 2> ERR."""
  for number, path in ((1, out), (2, err)):
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), number)
  os.chdir(cwd)
  os.environ.update(environment)
  sys.argv = [module, *arguments]
  try:
    runpy.run_module(module, run_name='__main__', alter_sys=True)
  except Exception:
    sys.excepthook(*sys.exc_info())  # as the interpreter does
    sys.exit(1)


def run(module: str, *arguments: object, cwd: pathlib.Path = ROOT, **environment: str) -> Finished:
  """`python -m MODULE ARGUMENTS`, to its end.

  Args:
    module: e.g. 'deepsentinel.main', or `TFDS`.
    arguments: of the command line; made text.
    cwd: working directory.
    environment: variables to change.
  """
  context = multiprocessing.get_context('forkserver')
  context.set_forkserver_preload(_PRELOAD)
  with tempfile.TemporaryDirectory() as folder:
    out, err = pathlib.Path(folder, 'out'), pathlib.Path(folder, 'err')
    process = context.Process(
      target=_become,
      args=(module, [str(a) for a in arguments], str(cwd), {**ENVIRONMENT, **environment}, str(out), str(err)),
    )
    process.start()
    process.join(300)
    if process.is_alive():
      process.kill()
      raise TimeoutError(f'{module} {arguments} runs for 300 s')
    return Finished(process.exitcode or 0, out.read_text(), err.read_text())


def start(module: str, *arguments: object, log: pathlib.Path, **environment: str) -> subprocess.Popen:
  """`python -m MODULE ARGUMENTS > LOG 2>&1` in a process group of its own, at once."""
  with log.open('a') as file:
    return subprocess.Popen(
      [sys.executable, '-m', module, *map(str, arguments)], cwd=ROOT, stdout=file, stderr=file,
      env={**os.environ, **ENVIRONMENT, **environment}, start_new_session=True,
    )  # fmt: skip


def kill_when(process: subprocess.Popen, reached: Callable[[], bool], log: pathlib.Path, limit_s: float = 120) -> None:
  """`kill -9` to the whole group as soon as `reached`; the test fails if the command ended before it."""
  deadline = time.monotonic() + limit_s
  while not reached():
    assert process.poll() is None, f'the command ended before it was killed:\n{log.read_text()[-2000:]}'
    assert time.monotonic() < deadline, f'not reached within {limit_s} s:\n{log.read_text()[-2000:]}'
    time.sleep(0.005)
  os.killpg(process.pid, signal.SIGKILL)
  assert process.wait() == -signal.SIGKILL

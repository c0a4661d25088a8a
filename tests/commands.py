"""The project's commands as a user runs them, in processes of their own.

They are forked from a server that has the libraries loaded (the standard library's fork server), so that a trial costs
what the command does and not the seconds of starting Python. `served` does the same for those that a script starts.
"""

import contextlib
import dataclasses
import gc
import multiprocessing
import os
import pathlib
import runpy
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import connection

ROOT = pathlib.Path(__file__).resolve().parent.parent
TFDS = 'tensorflow_datasets.scripts.cli.main'  # what `tfds` runs
# Half of the suite's time was XLA's compiler, at work on networks that run for a few steps. Its fusion emitters alone
# take as long as all the rest.
QUICK_XLA = (
  '--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true --xla_cpu_use_fusion_emitters=false '
  '--xla_cpu_parallel_codegen_split_count=1'
)
# One device and no start-up chatter; the packages of this checkout, whatever else is installed.
ENVIRONMENT = {
  'XLA_FLAGS': QUICK_XLA, 'CUDA_VISIBLE_DEVICES': '', 'NO_GCE_CHECK': 'true', 'TF_CPP_MIN_LOG_LEVEL': '3',
  'PYTHONPATH': os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH', '')])),
}  # fmt: skip
# Libraries and our modules without flags: a module of flags can be loaded once only, by the command itself. Many are
# loaded by the functions that need them.
_PRELOAD = [
  'tensorflow', 'tensorflow_datasets', 'geopandas', 'pyogrio', 'osmium', 'rasterio.features', 'rasterio.warp',
  'grain.python', 'jax.experimental', 'jinja2', 'lmdb', 'safetensors.numpy', 'sklearn.ensemble',
  'sklearn.linear_model', 'sklearn.metrics', 'sklearn.neighbors', 'matplotlib.backends.backend_agg',
  'matplotlib.figure', 'deepsentinel.corpus.beam', 'deepsentinel.corpus.publish', 'deepsentinel.corpus.sample',
  'deepsentinel.embedding.area', 'deepsentinel.embedding.detection', 'deepsentinel.embedding.levels',
  'deepsentinel.embedding.scenes', 'deepsentinel.embedding.similar', 'deepsentinel.evaluate.output',
  'deepsentinel.evaluate.run', 'deepsentinel.experiment', 'deepsentinel.export.folder', 'deepsentinel.report.html',
  'deepsentinel.sources.synthetic', 'deepsentinel.sources.syntheticearth.corinemap',
  'deepsentinel.sources.syntheticearth.streetmap',
]  # fmt: skip
# Objects made between two collections of Python's garbage: tracing makes millions that are in use, and looking through
# them every 700 takes a tenth of a run.
GARBAGE = (50_000, 20, 100)
# How a process ended can be read once only, and every start looks whether others have: one thread at a time.
_ASKING = threading.Lock()


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


def _become(
  module: str, arguments: Sequence[str], cwd: str, environment: Mapping[str, str], out: str, err: str
) -> None:
  """In the forked process: python -m MODULE ARGUMENTS >> OUT 2>> ERR, in a process group of its own."""
  os.setsid()
  for number, path in ((1, out), (2, err)):
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
  os.chdir(cwd)
  os.environ.update(environment)
  gc.set_threshold(*GARBAGE)
  sys.path.insert(0, cwd)  # as -m does
  sys.argv = [module, *arguments]
  try:
    runpy.run_module(module, run_name='__main__', alter_sys=True)
  except (Exception, KeyboardInterrupt) as error:  # as the interpreter does
    sys.excepthook(*sys.exc_info())
    sys.exit(130 if isinstance(error, KeyboardInterrupt) else 1)


def _start(*command: object) -> multiprocessing.process.BaseProcess:
  """A process of its own for the arguments of `_become`."""
  context = multiprocessing.get_context('forkserver')
  context.set_forkserver_preload(_PRELOAD)
  process = context.Process(target=_become, args=command)
  with _ASKING:
    process.start()
  return process


def _ended(process: multiprocessing.process.BaseProcess, limit_s: float | None = 0) -> bool:
  """Whether a process ends within `limit_s`; None waits for it."""
  connection.wait([process.sentinel], limit_s)
  with _ASKING:
    return not process.is_alive()


@contextlib.contextmanager
def served() -> Iterator[dict[str, str]]:
  """Variables of the environment under which commands that a script starts are forked from the server too.

  `python -m deepsentinel.main` in a shell script then begins as any process does, and hands over before it has loaded
  anything (served/sitecustomize.py). If it is killed, so is what it stands for.
  """
  with tempfile.TemporaryDirectory() as folder, connection.Listener(f'{folder}/socket') as listener:
    accepting = threading.Thread(target=_serve, args=(listener,))
    accepting.start()
    path = filter(None, [str(ROOT / 'tests' / 'served'), str(ROOT), os.environ.get('PYTHONPATH', '')])
    yield {'DEEPSENTINEL_TESTS': str(listener.address), 'PYTHONPATH': os.pathsep.join(path)}
    with connection.Client(listener.address) as last:
      last.send(None)
    accepting.join()


def _serve(listener: connection.Listener) -> None:
  while True:
    asking = listener.accept()
    command = asking.recv()
    if command is None:
      break
    threading.Thread(target=_attend, args=(asking, command)).start()


def _attend(asking: connection.Connection, command: Sequence[object]) -> None:
  """Starts a command and tells the one that asked how it ended."""
  process = _start(*command)
  if asking in connection.wait([asking, process.sentinel]) and not _ended(process):
    os.killpg(process.pid, signal.SIGKILL)
  _ended(process, None)
  with contextlib.suppress(BrokenPipeError):
    asking.send(process.exitcode if process.exitcode >= 0 else 128 - process.exitcode)
  asking.close()


class Running:
  """A command that was started: `python -m MODULE ARGUMENTS`.

  Args:
    module: e.g. 'deepsentinel.main', or `TFDS`.
    arguments: of the command line; made text.
    cwd: working directory.
    environment: variables to change.
  """

  def __init__(self, module: str, *arguments: object, cwd: pathlib.Path = ROOT, **environment: str):
    self.command = ' '.join([module, *map(str, arguments)])
    self._folder = tempfile.TemporaryDirectory()
    self._out, self._err = (pathlib.Path(self._folder.name, name) for name in ('out', 'err'))
    words, variables = [str(a) for a in arguments], {**ENVIRONMENT, **environment}
    self._process = _start(module, words, str(cwd), variables, str(self._out), str(self._err))

  @property
  def pid(self) -> int:
    assert self._process.pid is not None
    return self._process.pid

  @property
  def ended(self) -> bool:
    return _ended(self._process)

  def finish(self, limit_s: float = 300) -> Finished:
    """Waits for the end; after `limit_s` it is killed and a TimeoutError raised."""
    if not _ended(self._process, limit_s):
      os.killpg(self.pid, signal.SIGKILL)
      raise TimeoutError(f'{self.command} runs for {limit_s} s')
    return Finished(self._process.exitcode or 0, self._out.read_text(), self._err.read_text())

  def wait_until(self, reached: Callable[[], bool], limit_s: float = 120) -> None:
    """Until something is so; the test fails if the command ends before it."""
    deadline = time.monotonic() + limit_s
    while not reached():
      assert not self.ended, f'{self.command} ended too early: {self.finish()}'
      assert time.monotonic() < deadline, f'{self.command}: not reached within {limit_s} s'
      time.sleep(0.001)

  def kill(self) -> None:
    """kill -9 of the whole process group; the test fails if the command had ended."""
    os.killpg(self.pid, signal.SIGKILL)
    assert self.finish().code == -signal.SIGKILL, f'{self.command} ended before it was killed'


def run(module: str, *arguments: object, cwd: pathlib.Path = ROOT, **environment: str) -> Finished:
  """A command to its end; see `Running`."""
  return Running(module, *arguments, cwd=cwd, **environment).finish()

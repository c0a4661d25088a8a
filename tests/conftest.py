"""Fixtures shared by all tests. What libraries read from the environment on their first import is set here."""

import gc
import os
import pathlib

from tests import commands

ROOT = pathlib.Path(__file__).resolve().parent.parent

_FLAGS = (os.environ.get('XLA_FLAGS', ''), commands.QUICK_XLA, '--xla_force_host_platform_device_count=4')
os.environ['XLA_FLAGS'] = ' '.join(_FLAGS)
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(ROOT / '.cache' / 'jax'))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.3')
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES', '0')
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
os.environ.setdefault('MPLBACKEND', 'agg')
# Threads of OpenMP and OpenBLAS wait for each other by spinning: with a process of the suite on every core they take
# twice the time that the work does.
os.environ.setdefault('OMP_NUM_THREADS', '1')
os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')
gc.set_threshold(*commands.GARBAGE)

import pytest  # noqa: E402


@pytest.fixture(scope='session')
def repository() -> pathlib.Path:
  """The root of the checkout."""
  return ROOT


@pytest.fixture(scope='session')
def real_data() -> pathlib.Path:
  """The folder of real Sentinel-1/2 samples; skips where it is absent."""
  path = pathlib.Path(os.environ.get('DEEPSENTINEL_DATA', ROOT.parent / 'shared' / 'data'))
  if not (path / 'README.md').exists():
    pytest.skip(f'real sample data not found at {path}; set DEEPSENTINEL_DATA to its folder')
  return path


@pytest.fixture(scope='session')
def served():
  """Variables under which the commands of a script cost no start of Python; see `commands.served`."""
  with commands.served() as variables:
    yield variables


# Files that take minutes: begun first, so that no process ends the suite alone with one of them.
_LONGEST = (
  'test_readme.py', 'test_interrupted.py', 'test_grid.py', 'test_main.py', 'test_slurm.py', 'test_real_data.py',
)  # fmt: skip


def pytest_collection_modifyitems(items):
  items.sort(key=lambda item: _LONGEST.index(item.path.name) if item.path.name in _LONGEST else len(_LONGEST))

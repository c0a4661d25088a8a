# Installs DeepSentinel where it is missing or too old, as in Colab; does nothing where all is there.
import importlib.metadata
import os
import pathlib
import shutil
import subprocess
import sys

from packaging.requirements import Requirement

REPOSITORY = os.environ.get('DEEPSENTINEL_REPOSITORY') or ''  # the URL of DeepSentinel's git repository, for Colab


def installed():
  """Distribution -> version of what this Python has."""
  return {each.name.lower().replace('_', '-'): each.version for each in importlib.metadata.distributions()}


def do(*command):
  """Runs a command; what it says is shown if it fails."""
  asks_nothing = {**os.environ, 'GIT_TERMINAL_PROMPT': '0'}
  done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=asks_nothing)
  if done.returncode:
    raise RuntimeError(f'{" ".join(command)} ended with status {done.returncode}:\n{done.stdout[-3000:]}')


here = pathlib.Path.cwd()
ROOT = next((p for p in (here, *here.parents, here / 'deepsentinel') if (p / 'tfds_builders').is_dir()), None)
if ROOT is None:
  if not REPOSITORY:
    raise ValueError(
      'This notebook lies outside a clone of DeepSentinel and does not know where to get one. Write the URL of the git '
      "repository into this cell, as REPOSITORY = 'https://...', and run it again."
    )
  ROOT = here / 'deepsentinel'
  shutil.rmtree(here / 'deepsentinel.part', ignore_errors=True)
  do('git', 'clone', '--quiet', '--depth=1', REPOSITORY, str(here / 'deepsentinel.part'))
  (here / 'deepsentinel.part').rename(ROOT)  # so that a clone that was interrupted is not taken for one
sys.path.insert(0, str(ROOT))

before = installed()
lines = [line.partition('#')[0].strip() for line in (ROOT / 'requirements.txt').read_text().splitlines()]
wanted = [Requirement(line) for line in lines if line]
lacking = [r.name for r in wanted if not r.specifier.contains(before.get(r.name.lower().replace('_', '-'), '0'))]
if lacking:
  print(f'Installing {", ".join(lacking)}: a few minutes.')
  # JAX for the GPU has to be of the same version as JAX.
  needs = 'requirements-cuda.txt' if shutil.which('nvidia-smi') else 'requirements.txt'
  do(sys.executable, '-m', 'pip', 'install', '--quiet', '-r', str(ROOT / needs))
  after, owners = installed(), importlib.metadata.packages_distributions()
  loaded = {name.lower().replace('_', '-') for module in list(sys.modules) for name in owners.get(module, [])}
  stale = sorted(name for name in loaded if before.get(name, after.get(name)) != after.get(name))
  if stale:
    raise RuntimeError(
      f'All is installed, but this session has loaded older versions of {", ".join(stale)}. Restart it (Colab: '
      'Runtime, Restart session; Jupyter: Kernel, Restart) and run all cells from the top: nothing is installed again.'
    )

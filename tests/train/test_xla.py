import importlib.metadata
import os
import subprocess
import sys

import pytest

from deepsentinel.train import xla

FLAG = '--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_DOT'


@pytest.mark.parametrize(
  ('flags', 'version', 'expected'),
  [
    ('', '0.10.2', FLAG),
    ('--a=1', '0.10.0', f'--a=1 {FLAG}'),
    ('--a=1', '0.11.0', '--a=1'),
    ('', '0.9.2', ''),
    (f'{FLAG}X', '0.10.2', f'{FLAG}X'),
  ],
)
def test_flag_is_added_where_it_is_known(flags, version, expected):
  assert xla.flags_with_fast_convolution(flags, version) == expected


@pytest.mark.parametrize(('platforms', 'cpu'), [('cpu', True), ('cuda', False), ('cuda,cpu', False)])
def test_cpu_only_by_environment(monkeypatch, platforms, cpu):
  monkeypatch.setenv('JAX_PLATFORMS', platforms)
  assert xla.cpu_only() is cpu


def test_backend_starts_with_the_flag_and_the_cache(tmp_path):
  """XLA ends the process on a flag it does not know, so a start is the proof."""
  code = """
from deepsentinel.train import xla
xla.prepare_backend()
import jax, os
print(float(jax.numpy.ones(3).sum()), jax.config.jax_compilation_cache_dir, os.environ['XLA_FLAGS'])
"""
  environment = {k: v for k, v in os.environ.items() if not k.startswith(('JAX_', 'XLA_'))}
  environment |= {'HOME': str(tmp_path), 'JAX_PLATFORMS': 'cpu'}
  result = subprocess.run([sys.executable, '-c', code], env=environment, capture_output=True, text=True, check=True)
  known = importlib.metadata.version('jaxlib').startswith('0.10.')
  assert result.stdout.split() == ['3.0', f'{tmp_path}/.cache/deepsentinel/jax', *([FLAG] if known else [])]


@pytest.mark.skipif(not xla.cpu_only(), reason='a GPU is there')
def test_a_gpu_that_is_not_there_is_one_sentence():
  code = 'from deepsentinel.train import parallel; parallel.require_devices()'
  result = subprocess.run(
    [sys.executable, '-c', code], env={**os.environ, 'JAX_PLATFORMS': 'cuda'}, capture_output=True, text=True
  )
  last = result.stderr.strip().splitlines()[-1]
  assert last.startswith("ValueError: JAX finds no device of JAX_PLATFORMS='cuda' (")
  assert 'pip install -r requirements-cuda.txt' in last

"""Imports go one way (DESIGN.md): read from the source, and from what a fresh interpreter really loads."""

import ast
import graphlib
import os
import pathlib
import subprocess
import sys

import pytest

from deepsentinel.evaluate.__main__ import COMMANDS
from tests import commands

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = ROOT / 'deepsentinel'

FOUNDATION = {'sensors', 'schema', 'registry', 'legend', 'composites', 'charts', 'provenance', 'commandline'}
# What each part may import besides itself. A file at the top of the package that is not named here is a command: it
# may import anything, and nothing may import it.
MAY_IMPORT = {name: FOUNDATION for name in FOUNDATION}
MAY_IMPORT |= {
  'sources': FOUNDATION,
  'data': FOUNDATION,
  'corpus': FOUNDATION | {'sources', 'data'},  # what is published is read back as training reads it
  'packaging': FOUNDATION | {'sources', 'corpus'},  # the worker functions of tfds_builders/
  'encoders': FOUNDATION,
  'decoders': FOUNDATION | {'encoders'},
}
MAY_IMPORT['objectives'] = FOUNDATION | {'encoders', 'decoders'}
MAY_IMPORT['train'] = MAY_IMPORT['objectives'] | {'objectives', 'data'}
MAY_IMPORT['evaluation'] = MAY_IMPORT['train'] | {'train', 'sources'}  # sources: benchmarks, places under cloud
MAY_IMPORT['embedding'] = MAY_IMPORT['evaluation'] | {'evaluation', 'sources', 'corpus'}
MAY_IMPORT['layertables'] = MAY_IMPORT['train'] | {'train'}
MAY_IMPORT['report'] = MAY_IMPORT['embedding'] | {'embedding', 'layertables'}
MAY_IMPORT['labelled'] = MAY_IMPORT['evaluation'] | {'evaluation', 'corpus'}
MAY_IMPORT['curriculum'] = MAY_IMPORT['report'] | {'report', 'labelled'}
MAY_IMPORT['experiment'] = MAY_IMPORT['curriculum'] | {'curriculum'}

JAX = {'jax', 'jaxlib', 'flax', 'optax', 'orbax'}
TENSORFLOW = {'tensorflow', 'tensorflow_datasets'}
BEAM = {'apache_beam'}
CLOUD = {'ee', 'earthdaily', 'descarteslabs', 'pystac_client', 'odc', 'boto3', 'botocore', 'azure', 'gcsfs', 's3fs'}
SLOW_TO_LOAD = {'grain', 'torch', 'rasterio', 'geopandas', 'pandas', 'shapely', 'scipy', 'sklearn', 'matplotlib'}
FILES = {'os', 'pathlib', 'io', 'shutil', 'rasterio', 'geopandas', 'pandas', 'pyogrio', 'h5py', 'lmdb'}
PER_DEVICE = {'pmap', 'pmean', 'psum', 'all_gather', 'axis_index', 'shard_map'}


def name_of(path: pathlib.Path) -> str:
  parts = path.relative_to(ROOT).with_suffix('').parts
  return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


SOURCES = {name_of(p): ast.parse(p.read_text(), str(p)) for p in sorted(PACKAGE.rglob('*.py'))}


def imported(tree: ast.AST, package: str) -> list[tuple[str, int]]:
  """Every module that an import statement anywhere in `tree` names, with its line; `from x import y` names x.y."""
  found = []
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      found += [(alias.name, node.lineno) for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      base = node.module or ''
      if node.level:
        base = '.'.join([*package.split('.')[: len(package.split('.')) - node.level + 1], *filter(None, [base])])
      found += [(f'{base}.{alias.name}', node.lineno) for alias in node.names]
  return found


def part(module: str) -> str:
  """'deepsentinel.data.records' is of part 'data'."""
  pieces = module.split('.')
  return pieces[1] if len(pieces) > 1 else ''


def top_level(module: str) -> str:
  return module.split('.')[0]


def is_package(module: str) -> bool:
  return any(other.startswith(f'{module}.') for other in SOURCES)


def imports_of(module: str) -> list[tuple[str, int]]:
  return imported(SOURCES[module], module if is_package(module) else module.rpartition('.')[0])


@pytest.mark.parametrize('module', SOURCES)
def test_a_module_imports_only_what_lies_before_it(module):
  own = part(module)
  if own and own not in MAY_IMPORT:
    allowed = set(MAY_IMPORT)  # a command
  else:
    allowed = MAY_IMPORT.get(own, set())
  for name, line in imports_of(module):
    if top_level(name) != 'deepsentinel' or part(name) in ('', '__version__'):
      continue
    assert part(name) == own or part(name) in allowed, (
      f'{module}, line {line}, imports {name}; {own or "the package itself"} may import {sorted(allowed)}.'
    )


def test_there_is_no_cycle():
  graph = {}
  for module, tree in SOURCES.items():
    top = ast.Module([node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)], [])
    package = module if is_package(module) else module.rpartition('.')[0]
    names = {name for name, _ in imported(top, package)}
    # `from x import y`: y is a module of x or a name in it.
    graph[module] = {n if n in SOURCES else n.rpartition('.')[0] for n in names} & SOURCES.keys() - {module}
  graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize(
  ('parts', 'forbidden'),
  [
    (('sources', 'corpus', 'data', *sorted(FOUNDATION)), JAX | TENSORFLOW | {'torch'}),
    (('encoders', 'decoders', 'objectives'), FILES | TENSORFLOW | {'torch'}),
    (
      (
        *('train', 'evaluation', 'embedding', 'report', 'layertables', 'experiment'),
        *('main', 'describe', 'embed', 'search', 'detect'),
      ),
      TENSORFLOW | {'torch'},
    ),
  ],
  ids=['no model library', 'no files', 'no TensorFlow'],
)
def test_parts_keep_off_what_is_not_theirs(parts, forbidden):
  found = [
    f'{module}, line {line}: {name}'
    for module in SOURCES
    if part(module) in parts
    for name, line in imports_of(module)
    if top_level(name) in forbidden
  ]
  assert not found


def test_only_packaging_imports_tensorflow_datasets():
  users = {m for m in SOURCES for name, _ in imports_of(m) if top_level(name) in TENSORFLOW}
  assert users <= {'deepsentinel.packaging'}


def test_only_the_fetch_on_other_machines_and_packaging_import_beam():
  users = {m for m in SOURCES for name, _ in imports_of(m) if top_level(name) in BEAM}
  assert users <= {'deepsentinel.corpus.beam', 'deepsentinel.packaging'}


def test_configs_import_only_configs():
  for path in (ROOT / 'configs').rglob('*.py'):
    names = [name for name, _ in imported(ast.parse(path.read_text()), name_of(path).rpartition('.')[0])]
    assert all(not n.startswith('deepsentinel') for n in names), f'{path} imports {names}'


def test_only_parallel_names_a_device_axis():
  found = []
  for module, tree in SOURCES.items():
    if module == 'deepsentinel.train.parallel':
      continue
    for node in ast.walk(tree):
      named = isinstance(node, ast.Attribute) and node.attr in PER_DEVICE
      axis = isinstance(node, ast.keyword) and node.arg == 'axis_name'
      if named or axis:
        found.append(f'{module}, line {node.value.lineno}')
  assert not found


def loaded_by(modules: list[str]) -> set[str]:
  """Top-level names in sys.modules of a fresh interpreter that imported `modules`."""
  script = 'import importlib, sys\nfor m in sys.argv[1:]: importlib.import_module(m)\nprint(*sys.modules, sep="\\n")'
  result = subprocess.run(
    [sys.executable, '-c', script, *modules], cwd=ROOT, capture_output=True, text=True, check=False
  )
  assert result.returncode == 0, result.stderr
  return set(result.stdout.split())


def library_modules(*parts: str) -> list[str]:
  return [m for m in SOURCES if part(m) in parts and not m.endswith('__main__')]


def test_importing_the_package_loads_nothing_heavy():
  loaded = {top_level(m) for m in loaded_by(['deepsentinel'])}
  assert not loaded & (JAX | TENSORFLOW | BEAM | CLOUD | SLOW_TO_LOAD)


def test_reading_and_sampling_load_neither_jax_nor_tensorflow_nor_a_cloud_client():
  loaded = {top_level(m) for m in loaded_by(library_modules('sources', 'corpus', 'data', *FOUNDATION))}
  assert not loaded & (JAX | TENSORFLOW | BEAM | CLOUD | {'torch'})


def test_training_and_inference_load_no_tensorflow():
  parts = ('encoders', 'decoders', 'objectives', 'train', 'evaluation', 'embedding', 'report', 'experiment')
  loaded = loaded_by([*library_modules(*parts), *library_modules('data'), 'grain', 'deepsentinel.main'])
  # tensorboardX loads PyTorch and boto3 where they are installed, so they are no sign of an import of ours.
  assert not {top_level(m) for m in loaded} & (TENSORFLOW | BEAM)


# What may follow the name of a command and makes another of it.
WORDS = {'deepsentinel.corpus': ['publish'], 'deepsentinel.search': ['build'], 'deepsentinel.evaluate': list(COMMANDS)}


def every_command() -> list[str]:
  """As they are typed after `python`: all files of the package and of launch/ that are commands."""
  found = []
  for path in [*sorted(PACKAGE.rglob('*.py')), *sorted((ROOT / 'launch').rglob('*.py'))]:
    if 'commandline.run(' in path.read_text() and path.name != 'commandline.py':
      module = name_of(path).removesuffix('.__main__')
      typed = 'launch/grid.py' if module == 'launch.grid' else f'-m {module}'
      found += [typed, *(f'{typed} {word}' for word in WORDS.get(module, []))]
  return found


@pytest.mark.parametrize('command', every_command())
def test_help_loads_nothing_slow(command):
  done = subprocess.run(
    [sys.executable, '-X', 'importtime', *command.split(), '--help'],
    cwd=ROOT, env={**os.environ, **commands.ENVIRONMENT}, capture_output=True, text=True, check=False,
  )  # fmt: skip
  lines = [line for line in done.stderr.splitlines() if line.startswith('import time:')]
  loaded = {top_level(line.rpartition('|')[2].strip()) for line in lines}
  assert '--helpfull' in done.stdout, done.stderr
  assert 'absl' in loaded
  assert not loaded & (JAX | TENSORFLOW | BEAM | CLOUD | SLOW_TO_LOAD)

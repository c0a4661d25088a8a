"""The first cell of the notebooks, as Colab and Jupyter would run it; their cells are run by test_readme.py."""

import os
import pathlib
import re
import subprocess
import sys
import venv
import zipfile

import nbformat
import packaging
import pytest

from deepsentinel.embedding import levels
from launch import notebooks

CELL = notebooks.INSTALL_CELL.read_text()


def run_cell(folder, python=sys.executable, before='', **environment) -> subprocess.CompletedProcess[str]:
  """The cell in a fresh interpreter, with `folder` as its working directory; after it ROOT is printed."""
  plain = {name: value for name, value in os.environ.items() if name not in ('PYTHONPATH', 'DEEPSENTINEL_REPOSITORY')}
  return subprocess.run(
    [python, '-c', f'{before}\n{CELL}\nprint(ROOT)'], cwd=folder, env={**plain, **environment},
    capture_output=True, text=True, check=False,
  )  # fmt: skip


@pytest.fixture
def repository(tmp_path) -> pathlib.Path:
  """A git repository with what the cell looks for; its requirements are met here."""
  made = tmp_path / 'repository'
  (made / 'tfds_builders').mkdir(parents=True)
  (made / 'tfds_builders' / 'README.md').write_text('')
  (made / 'requirements.txt').write_text('# Comment\n\nnumpy>=1.0\nml_collections>=0.1  # met\n')
  git = ['git', '-c', 'user.name=x', '-c', 'user.email=x@y']
  for words in (['init', '--quiet'], ['add', '.'], ['commit', '--quiet', '-m', 'x']):
    subprocess.run([*git, *words], cwd=made, check=True)
  return made


def write_wheel(folder: pathlib.Path, version: str) -> None:
  """A wheel of a package `madeup`, written by hand."""
  about = f'madeup-{version}.dist-info'
  with zipfile.ZipFile(folder / f'madeup-{version}-py3-none-any.whl', 'w') as file:
    file.writestr('madeup.py', f'__version__ = {version!r}\n')
    file.writestr(f'{about}/METADATA', f'Metadata-Version: 2.1\nName: madeup\nVersion: {version}\n')
    file.writestr(f'{about}/WHEEL', 'Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n')
    file.writestr(f'{about}/RECORD', '')


def test_all_notebooks_have_the_same_first_cell():
  for path in sorted(notebooks.FOLDER.glob('*.ipynb')):
    code = [cell['source'] for cell in nbformat.read(path, as_version=4).cells if cell['cell_type'] == 'code']
    assert code[0] == CELL.rstrip(), f'python launch/notebooks.py install_cell brings it into {path.name}'


def test_levels_that_notebooks_name_are_known():
  for path in notebooks.FOLDER.glob('*.ipynb'):
    code = '\n'.join(cell['source'] for cell in nbformat.read(path, as_version=4).cells)
    for line in re.findall(r'^level = (.*)$', code, re.MULTILINE):
      assert set(re.findall(r"'(\w+)'", line)) <= set(levels.LEVELS), path


def test_in_a_clone_nothing_is_done(repository):
  (repository / 'notebooks').mkdir()
  before = sorted(repository.rglob('*'))
  done = run_cell(repository / 'notebooks')
  assert done.stdout.split() == [str(repository)], done.stderr
  assert sorted(repository.rglob('*')) == before


def test_outside_it_is_cloned_once(repository, tmp_path):
  alone = tmp_path / 'content'
  (alone / 'deepsentinel.part').mkdir(parents=True)  # an earlier clone was interrupted
  done = run_cell(alone)
  assert done.returncode
  assert 'Write the URL of the git repository into this cell' in done.stderr.splitlines()[-1]
  done = run_cell(alone, DEEPSENTINEL_REPOSITORY=str(tmp_path / 'nowhere'))
  assert 'does not exist' in done.stderr  # git says so
  for environment in ({'DEEPSENTINEL_REPOSITORY': str(repository)}, {}):  # the second time there is nothing to do
    done = run_cell(alone, **environment)
    assert done.stdout.split() == [str(alone / 'deepsentinel')], done.stderr
  assert not (alone / 'deepsentinel.part').exists()


def test_what_is_too_old_is_installed_and_a_session_that_has_loaded_it_starts_anew(repository, tmp_path):
  (repository / 'requirements.txt').write_text('madeup>=2\n')
  wheels = tmp_path / 'wheels'
  wheels.mkdir()
  write_wheel(wheels, '1.0')
  venv.create(tmp_path / 'venv', with_pip=True)
  python = tmp_path / 'venv' / 'bin' / 'python'
  (tmp_path / 'also').mkdir()
  (tmp_path / 'also' / 'packaging').symlink_to(pathlib.Path(packaging.__file__).parent)  # Colab has it
  environment = {'PIP_NO_INDEX': '1', 'PIP_FIND_LINKS': str(wheels), 'PYTHONPATH': str(tmp_path / 'also')}
  options = {'python': python, 'before': 'import madeup', **environment}
  subprocess.run([python, '-m', 'pip', 'install', '--quiet', 'madeup'], env={**os.environ, **environment}, check=True)
  failed = run_cell(repository, **options)
  assert 'No matching distribution found for madeup>=2' in failed.stderr  # pip says so

  write_wheel(wheels, '2.0')
  done = run_cell(repository, **options)
  assert done.stdout == 'Installing madeup: a few minutes.\n'
  said = done.stderr.splitlines()[-1]
  assert 'this session has loaded older versions of madeup. Restart it (Colab: Runtime, Restart session' in said
  again = run_cell(repository, **options)
  assert again.stdout.split() == [str(repository)], again.stderr

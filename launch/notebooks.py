"""Runs the notebooks and stores them with what they show.

    python launch/notebooks.py                                    all of them
    python launch/notebooks.py notebooks/explore_a_corpus.ipynb   one
    python launch/notebooks.py install_cell                       runs none, writes the first cell of all anew

The first cell of each is launch/notebook_install.py, the one place to write the URL of the repository in. Each is run
in a kernel of its own, in its own folder. Its pictures are made smaller before they are stored, and what commands say
of their progress is left out: a notebook is to stay below 300 kB.
"""

import base64
import io
import os
import pathlib
import sys
from collections.abc import Mapping

import nbformat
from tqdm import tqdm

FOLDER = pathlib.Path(__file__).resolve().parent.parent / 'notebooks'
MOST_BYTES = 300_000
INSTALL_CELL = pathlib.Path(__file__).with_name('notebook_install.py')
_WIDEST_PX = 720
_MOST_PNG_BYTES = 30_000
_PNG, _JPEG = 'image/png', 'image/jpeg'
_CELL_S = 3600


def execute(
  path: pathlib.Path,
  environment: Mapping[str, str] | None = None,
  *,
  settings: Mapping[str, str] | None = None,
  cells: int | None = None,
  progress: bool = False,
) -> nbformat.NotebookNode:
  """A notebook with the outputs of a fresh run; nbclient's CellExecutionError if a cell fails.

  Args:
    path: .ipynb.
    environment: variables that its kernel gets besides those of this process.
    settings: names that its cell of settings leaves empty -> what a user writes there.
    cells: how many of its first cells are run; None runs all.
    progress: shows a progress bar.
  """
  import nbclient

  notebook = nbformat.read(path, as_version=4)
  notebook.cells = notebook.cells[:cells]
  for name, value in (settings or {}).items():
    cell = next(cell for cell in notebook.cells if f"{name} = ''\n" in cell['source'])
    cell['source'] = cell['source'].replace(f"{name} = ''\n", f'{name} = {value!r}\n')
  client = nbclient.NotebookClient(
    notebook, timeout=_CELL_S, kernel_name='python3', resources={'metadata': {'path': str(path.parent)}}
  )
  # A process without a display names another backend than that which shows pictures in a notebook.
  own = {name: value for name, value in os.environ.items() if name != 'MPLBACKEND'}
  with client.setup_kernel(env={**own, **(environment or {})}):
    for number, cell in enumerate(tqdm(notebook.cells, desc=path.name, unit='cell', disable=not progress)):
      client.execute_cell(cell, number)
  return notebook


def pictures(notebook: nbformat.NotebookNode) -> list[bytes]:
  """The pictures in the outputs, PNG or JPEG, in order."""
  data = [output.get('data', {}) for cell in notebook.cells for output in cell.get('outputs', [])]
  return [base64.b64decode(d[kind]) for d in data for kind in (_PNG, _JPEG) if kind in d]


def said(notebook: nbformat.NotebookNode) -> str:
  """What the outputs say as text."""
  outputs = [output for cell in notebook.cells for output in cell.get('outputs', [])]
  return '\n'.join([output.get('text', '') + '\n'.join(output.get('traceback', [])) for output in outputs])


def shrink(notebook: nbformat.NotebookNode) -> None:
  """Makes pictures smaller, and leaves out progress bars, warnings and times."""
  for cell in notebook.cells:
    cell['metadata'] = {}
    if cell['cell_type'] != 'code':
      continue
    cell['outputs'] = [output for output in cell['outputs'] if output.get('name') != 'stderr']
    for output in cell['outputs']:
      if _PNG in output.get('data', {}):
        kind, picture = smaller(base64.b64decode(output['data'].pop(_PNG)))
        output['data'][kind] = base64.b64encode(picture).decode()
        output['metadata'] = {}


def smaller(png: bytes) -> tuple[str, bytes]:
  """(MIME type, file) of a picture of at most 720 pixels' width: a large PNG (photographs, speckle) becomes a JPEG."""
  from PIL import Image

  image = Image.open(io.BytesIO(png)).convert('RGB')
  if image.width > _WIDEST_PX:
    image = image.resize((_WIDEST_PX, round(image.height * _WIDEST_PX / image.width)), Image.Resampling.LANCZOS)
  files = {}
  for kind, options in ((_PNG, {'optimize': True}), (_JPEG, {'quality': 72})):
    file = io.BytesIO()
    image.save(file, kind.partition('/')[2], **options)
    files[kind] = file.getvalue()
  kind = _PNG if len(files[_PNG]) <= _MOST_PNG_BYTES else _JPEG
  return kind, files[kind]


def store(path: pathlib.Path) -> None:
  """Runs a notebook and writes it back; ValueError, and nothing is written, if it is too large to be stored."""
  put_install_cell(path)
  notebook = execute(path, progress=True)
  shrink(notebook)
  write(notebook, path)
  print(f'{path}: {path.stat().st_size:,} bytes')


def put_install_cell(path: pathlib.Path) -> None:
  """Makes the first cell of code what launch/notebook_install.py is; all else stays, outputs too."""
  notebook = nbformat.read(path, as_version=4)
  first = next(cell for cell in notebook.cells if cell['cell_type'] == 'code')
  first['source'] = INSTALL_CELL.read_text().rstrip()
  write(notebook, path)


def write(notebook: nbformat.NotebookNode, path: pathlib.Path) -> None:
  """As a whole, or not at all: ValueError if it is too large to be stored."""
  text = nbformat.writes(notebook) + '\n'
  if len(text.encode()) > MOST_BYTES:
    raise ValueError(
      f'{path} has {len(text.encode()):,} bytes with its outputs, more than {MOST_BYTES:,}: let it show fewer or '
      'smaller pictures.'
    )
  part = path.with_name(f'.{path.name}.partial')
  part.write_text(text)
  part.replace(path)


if __name__ == '__main__':
  names = sys.argv[1:]
  work = put_install_cell if names == ['install_cell'] else store
  for given in sorted(FOLDER.glob('*.ipynb')) if work is not store or not names else map(pathlib.Path, names):
    work(given.resolve())

"""Where workers on other machines leave fetched patches, and from where the corpus folder takes them.

    URL/staging.json                whose it is: the corpus' config, the run that goes on
    URL/RUN/shares/00000.jsonl      planned rows of a worker, one a line
    URL/RUN/patches/ID/s2.tif       files of a fetched patch
    URL/RUN/rows/ID.json            its row, with their checksums; written last, so what has one is whole

A row that is taken into the corpus keeps its URL/RUN/rows/ID.json until the run ends: a worker that begins its share
once more skips the rows that are there.
"""

import concurrent.futures
import hashlib
import json
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tenacity

from deepsentinel.corpus import manifest, patchfiles, settings
from deepsentinel.data import stores

MARK = 'staging.json'
_RUN = re.compile(r'run-\w+')
_THREADS = 8  # files taken at a time
_AT_ONCE = 64  # rows


class Staging:
  """Fetched patches at a URL, a folder or any store that fsspec knows.

  Args:
    url: which the workers reach as well.
  Raises:
    ValueError: the store needs a package that is not installed; it names the command.
  """

  def __init__(self, url: str):
    self.url = str(pathlib.Path(url).expanduser().absolute()) if '://' not in url else url
    self._store, self._root = stores.open_store(self.url)

  @property
  def is_local(self) -> bool:
    """Whether it is a folder of this machine, or one that is mounted on it."""
    return 'file' in self._store.protocol

  # ------------------------------------------------------------------ whose it is

  def claim(self, chosen: Mapping[str, Any]) -> str:
    """The run whose patches it holds, '' where it is empty; ValueError if it is of another corpus or something else."""
    mark = self._mark()
    if not mark:
      strange = [name for name in self._names('') if not _RUN.fullmatch(name) and not name.startswith('.')]
      if strange:
        raise ValueError(f'--staging={self.url} is not empty ({", ".join(strange[:5])}). Name a place of its own.')
      return ''
    differences = settings.differences(mark['config'], chosen)
    if differences:
      raise ValueError(
        f'--staging={self.url} holds patches of another config. What differs: {"; ".join(differences)}. Name another '
        'place, or run the command of that corpus again, which takes them.'
      )
    return str(mark['run'])

  def begin(self, run: str, chosen: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], shares: int) -> None:
    """Deals the rows into shares and makes `run` the one that goes on; workers of an earlier one then stop."""
    for i in range(shares):
      lines = ''.join(json.dumps(row) + '\n' for row in rows[i::shares])
      self._asked(self._store.pipe_file, f'{self._root}/{run}/shares/{i:05d}.jsonl', lines.encode())
    self._write_mark({'run': run, 'goes_on': True, 'config': chosen})

  def end(self, run: str) -> None:
    """Lets the workers of a run stop; what they fetched stays."""
    mark = self._mark()
    if mark.get('run') == run:
      self._write_mark(mark | {'goes_on': False})

  def goes_on(self, run: str) -> bool:
    """Whether a worker of this run is to fetch another row."""
    mark = self._mark()
    return bool(mark.get('run') == run and mark['goes_on'])

  def clear(self, run: str) -> None:
    """Removes all that is staged, by earlier runs as well, the mark last; nothing if another run took its place."""
    if self._mark().get('run') != run:
      return
    for name in self._names(''):
      if _RUN.fullmatch(name):
        self._removed(f'{self._root}/{name}')
    self._removed(f'{self._root}/{MARK}')

  def _mark(self) -> dict[str, Any]:
    """What staging.json says, {} where there is none."""
    # In a folder it may be half-written when it is read.
    half = tenacity.retry_if_exception_type(json.JSONDecodeError)
    retrying = tenacity.Retrying(
      retry=half, stop=tenacity.stop_after_attempt(5), wait=tenacity.wait_fixed(0.2), reraise=True
    )
    try:
      mark = retrying(lambda: json.loads(self._asked(self._store.cat_file, f'{self._root}/{MARK}')))
    except FileNotFoundError:
      return {}
    except json.JSONDecodeError:
      mark = None
    if not isinstance(mark, dict) or not {'run', 'goes_on', 'config'} <= mark.keys():
      raise ValueError(f'{self.url}/{MARK} is damaged. Remove {self.url} and run the command again.')
    return mark

  def _write_mark(self, mark: Mapping[str, Any]) -> None:
    self._asked(self._store.pipe_file, f'{self._root}/{MARK}', json.dumps(mark).encode())

  # ------------------------------------------------------------------ the workers' side

  def share(self, run: str, number: int) -> Iterator[dict[str, Any]]:
    """Rows of a share that are not fetched yet, none of a run that another took the place of."""
    try:
      lines = self._asked(self._store.cat_file, f'{self._root}/{run}/shares/{number:05d}.jsonl').decode().splitlines()
    except FileNotFoundError:
      if self._mark():
        return
      raise ValueError(f'a worker finds nothing at {self.url}, so it is another place there than here') from None
    there = self.ids(run)
    for line in lines:
      row = json.loads(line)
      if row['id'] not in there:
        yield row

  def put(self, run: str, folder: pathlib.Path, row: Mapping[str, Any]) -> None:
    """A fetched row, its files from a corpus folder first."""
    for field in _fields(row):
      data = patchfiles.path_of(folder, row['id'], field).read_bytes()
      self._asked(self._store.pipe_file, f'{self._root}/{run}/patches/{row["id"]}/{field}.tif', data)
    self._asked(self._store.pipe_file, f'{self._root}/{run}/rows/{row["id"]}.json', json.dumps(row).encode())

  # ------------------------------------------------------------------ the corpus' side

  def ids(self, run: str) -> set[str]:
    """Ids of the rows that are fetched."""
    return {name.removesuffix('.json') for name in self._names(f'{run}/rows')}

  def take(self, run: str, ids: Sequence[str], folder: pathlib.Path) -> Iterator[dict[str, Any]]:
    """Fetched rows, their files now in a corpus folder; one that is not as its worker wrote it is left out.

    When the next row is asked for, the last is written down for good, and its files are removed here.
    """
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
      for start in range(0, len(ids), _AT_ONCE):  # so that a Ctrl-C waits for few
        removals = []
        for row in pool.map(lambda i: self._taken(run, i, folder), ids[start : start + _AT_ONCE]):
          if row is not None:
            yield row
            removals.append(pool.submit(self._removed, f'{self._root}/{run}/patches/{row["id"]}'))
        for removal in removals:
          removal.result()

  def _taken(self, run: str, patch_id: str, folder: pathlib.Path) -> dict[str, Any] | None:
    try:
      row = json.loads(self._asked(self._store.cat_file, f'{self._root}/{run}/rows/{patch_id}.json'))
      if row['state'] == 'failed':
        patchfiles.remove(folder, patch_id)
        return row
      for field in _fields(row):
        data = self._asked(self._store.cat_file, f'{self._root}/{run}/patches/{patch_id}/{field}.tif')
        if hashlib.sha256(data).hexdigest() != row[f'sha256_{field}']:
          return None
        patchfiles.keep(folder, patch_id, field, data)
    except (FileNotFoundError, json.JSONDecodeError):  # half-written; its worker is at it
      return None
    return row

  # ------------------------------------------------------------------ the store

  def _names(self, below: str) -> list[str]:
    """Names in a folder, [] where there is none."""
    path = f'{self._root}/{below}'.rstrip('/')
    self._store.invalidate_cache()
    try:
      return sorted(name.rstrip('/').rpartition('/')[2] for name in self._asked(self._store.ls, path, detail=False))
    except FileNotFoundError:
      return []

  def _removed(self, path: str) -> None:
    """Removes a file or a folder, if it is there."""
    try:
      self._asked(self._store.rm, path, recursive=True)
    except FileNotFoundError:
      return

  def _asked(self, ask: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """An answer of the store; ValueError where it refuses, FileNotFoundError where something is not there."""
    try:
      return stores.patiently(ask, *arguments, **named)
    except FileNotFoundError:
      raise
    except Exception as e:  # a store can fail in any way
      raise ValueError(
        f'--staging={self.url}: {type(e).__name__}: {str(e)[:300]}. Name a place that can be written to; what was '
        'fetched is kept.'
      ) from e


def _fields(row: Mapping[str, Any]) -> list[str]:
  """Fields of which a row has a file."""
  return [field for field in manifest.FIELDS if row.get(f'sha256_{field}')]

"""Where the bytes of a split's shards come from: files of this machine, or range requests to a URL."""

import concurrent.futures
import functools
import os
import pathlib
import resource
import time
from collections.abc import Sequence

import numpy as np

from deepsentinel.data import stores

CHECK_S = 10.0  # a shard that was read is compared with the one opened at least so often
_OPEN_FILES = 256  # of a split
_MOST_FILES = 16 * _OPEN_FILES  # of the process
_BAND_BYTES = 512 << 10  # of a scratch buffer; stays in a core's cache
_HELD_BYTES = 64 << 20  # of answers, before they are put into the batch


def truncated(shard: stores.Folder, found: int, expected: str, detail: str) -> ValueError:
  """The error for a shard that ends too early."""
  said = f'{stores.plain(shard)} is cut short or damaged: found {found:,} bytes, expected {expected}; {detail}. '
  if isinstance(shard, str):
    return ValueError(f'{said}Publish the records again: `python -m deepsentinel.corpus publish FOLDER URL`.')
  return ValueError(
    f'{said}Restore this file from where the records were copied from, or write them anew with '
    '`tfds build tfds_builders/... --overwrite`.'
  )


def open_shards(folder: stores.Folder, names: Sequence[str]) -> 'LocalShards | UrlShards':
  """The shards of these names; ValueError if one is not there."""
  return UrlShards(folder, names) if isinstance(folder, str) else LocalShards(folder, names)


class _File:
  """An open file that closes itself when the last reader lets go of it."""

  def __init__(self, path: pathlib.Path):
    self.path = path
    self.descriptor = os.open(path, os.O_RDONLY)

  def __del__(self):
    if hasattr(self, 'descriptor'):
      os.close(self.descriptor)


@functools.cache
def _allow_open_files() -> None:
  """Raises the usual limit of 1,024 open files: four splits of many shards come near it."""
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(_MOST_FILES, hard)
  if soft != resource.RLIM_INFINITY and soft < wanted:
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class LocalShards:
  """Files of a folder.

  Attributes:
    kept: folder of what is made of the shards: their own.
    concurrent: whether `read_bands` does many reads at a time by itself.
    window_bytes, walkers: what to read at a time, and on how many threads, while indexing.
  """

  concurrent = False
  window_bytes, walkers = 4096, 1

  def __init__(self, folder: pathlib.Path, names: Sequence[str]):
    self.kept = folder
    self._paths = [folder / name for name in names]
    for path in self._paths:
      if not path.is_file():
        raise truncated(path, 0, 'a TFRecord shard', 'there is no such file')
    _allow_open_files()
    # One for all threads, made here: the first batches are asked for by several at once.
    self._open = functools.lru_cache(maxsize=_OPEN_FILES)(lambda number: _File(self._paths[number]))

  def __reduce__(self):
    return type(self), (self.kept, [path.name for path in self._paths])

  def __len__(self) -> int:
    return len(self._paths)

  def path(self, number: int) -> stores.Folder:
    """A shard's name as it may be shown."""
    return self._paths[number]

  def size(self, number: int) -> int:
    """Bytes of a shard, now."""
    return self._paths[number].stat().st_size

  def read(self, number: int, offset: int, count: int) -> bytes:
    """`count` bytes of a shard, fewer where it ends."""
    return os.pread(self._open(number).descriptor, count, offset)

  def read_all(self, wanted: Sequence[tuple[int, int, int]]) -> list[bytes]:
    """`read` of each (number, offset, count)."""
    return [self.read(*part) for part in wanted]

  def read_bands(self, shard: np.ndarray, start: np.ndarray, left: np.ndarray, stride: int, target: np.ndarray) -> None:
    """Fills `target` crop by crop: bands of the crop's rows into a scratch buffer, their columns from there.

    Measured on one core, 128-px crops of 256-px patches: bands 6,100 crops/s, one gathering `preadv` a crop (rows into
    the target, gaps into scratch) 4,000, one read a row 1,800 (benchmarks/record_reader.py).

    Args:
      shard, start, left: int [B]; shard number, offset of the crop's first row in it, bytes to skip at its left.
      stride: bytes of a patch's row.
      target: uint8 [B, rows, width].
    """
    rows, width = target.shape[1:]
    whole = width == stride
    band = rows if whole else max(1, min(rows, _BAND_BYTES // stride))
    scratch = np.empty((0 if whole else band, stride), np.uint8)
    numbers, starts, lefts = shard.tolist(), start.tolist(), left.tolist()
    for crop, number, offset, skip in zip(target, numbers, starts, lefts, strict=True):
      file = self._open(number)
      for row in range(0, rows, band):
        count = min(band, rows - row)
        read = crop if whole else scratch[:count]
        if os.preadv(file.descriptor, [read.data], offset + row * stride) != read.nbytes:
          _finish_read(file, read, offset + row * stride)
        if not whole:
          crop[row : row + count] = read[:, skip : skip + width]


def _finish_read(file: _File, target: np.ndarray, offset: int) -> None:
  """Reads again in pieces what came short (a signal, a network file system); raises where the file has ended."""
  data = bytearray()
  while len(data) < target.nbytes:
    more = os.pread(file.descriptor, target.nbytes - len(data), offset + len(data))
    if not more:
      size = os.fstat(file.descriptor).st_size
      expected = f'at least {offset + target.nbytes:,}'
      raise truncated(file.path, size, expected, 'it became shorter while it was open')
    data += more
  target[...] = np.frombuffer(data, np.uint8).reshape(target.shape)


class UrlShards:
  """Files at a URL, of which only the ranges asked for are read; the interface is that of `LocalShards`.

  A shard that is replaced while it is open is refused: what a store says of it (size, and generation, ETag or time) is
  compared with what it said first, at least every CHECK_S seconds in which it is read.
  """

  window_bytes, walkers = 64 << 10, 32

  def __init__(self, url: str, names: Sequence[str], states: Sequence[tuple[int, str]] = ()):
    self._store, self._names = stores.Store(url), list(names)
    self.concurrent = self._store.concurrent
    if not states:
      self._store.require_ranges('dataset_info.json')
    self._states = list(states) or self._ask(range(len(names)))
    self._checked = [time.monotonic()] * len(self._names)
    self.kept = stores.kept_in(url, [*zip(self._names, self._states, strict=True)])

  def __reduce__(self):
    return type(self), (self._store.url, self._names, self._states)

  def __len__(self) -> int:
    return len(self._names)

  def path(self, number: int) -> stores.Folder:
    return stores.plain(stores.join(self._store.url, self._names[number]))

  def size(self, number: int) -> int:
    return self._states[number][0]

  def read(self, number: int, offset: int, count: int) -> bytes:
    return self.read_all([(number, offset, count)])[0]

  def read_all(self, wanted: Sequence[tuple[int, int, int]]) -> list[bytes]:
    return [bytes(part) for part in self._ranges(wanted)]

  def read_bands(self, shard: np.ndarray, start: np.ndarray, left: np.ndarray, stride: int, target: np.ndarray) -> None:
    """Fills `target`: a crop's rows are one range, the crops of a batch one call."""
    rows, width = target.shape[1:]
    size = rows * stride
    step = max(1, _HELD_BYTES // size)
    for first in range(0, len(target), step):
      part = slice(first, first + step)
      wanted = [
        (number, offset, size) for number, offset in zip(shard[part].tolist(), start[part].tolist(), strict=True)
      ]
      for crop, data, skip in zip(target[part], self._ranges(wanted), left[part].tolist(), strict=True):
        crop[...] = np.frombuffer(data, np.uint8).reshape(rows, stride)[:, skip : skip + width]

  def _ranges(self, wanted: Sequence[tuple[int, int, int]]) -> list[memoryview]:
    numbers = sorted({number for number, _, _ in wanted})
    spans = [(self._names[n], offset, min(offset + count, self.size(n))) for n, offset, count in wanted]
    try:
      found = self._store.ranges([(name, min(start, end), end) for name, start, end in spans])
    except stores.Unreadable:
      self._require_same(numbers)  # says more, where that is the reason
      raise
    now = time.monotonic()
    self._require_same([n for n in numbers if now - self._checked[n] >= CHECK_S])
    return found

  def _require_same(self, numbers: Sequence[int]) -> None:
    """ValueError if a shard is not the one that was opened."""
    for number, state in zip(numbers, self._ask(numbers), strict=True):
      if state != self._states[number]:
        raise stores.Unreadable(
          f'{self.path(number)} was replaced while it was read ({self._states[number][0]:,} bytes before, {state[0]:,} '
          'now), so batches would be of two sets of records. Put the former file back and run the same command again, '
          'or begin anew with another --workdir.'
        )
      self._checked[number] = time.monotonic()

  def _ask(self, numbers: Sequence[int]) -> list[tuple[int, str]]:
    """What the store says of shards now."""

    def state(number: int) -> tuple[int, str]:
      info = self._store.info(self._names[number])
      if info is None:
        raise ValueError(
          f'{self.path(number)} is not there, so the records are not whole. Publish them again: '
          '`python -m deepsentinel.corpus publish FOLDER URL`.'
        )
      if info.get('size') is None:
        raise ValueError(f'{self.path(number)}: the server does not say its size, so it cannot be read in parts.')
      return stores.state_of(info)

    if len(numbers) < 2:
      return [state(number) for number in numbers]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
      return list(pool.map(state, numbers))

"""Finished strips on disk: what lets a killed embedding go on.

A strip's arrays are written under temporary names and renamed, the embedding last: a strip whose embedding bears its
final name is whole. Arrays are memory-mapped while they are filled, so that memory does not grow with the area's width.
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import numpy as np

LAST = 'embedding'


@dataclasses.dataclass(frozen=True)
class Strips:
  """The folder of strips of one job."""

  folder: pathlib.Path

  def path(self, name: str, strip: int) -> pathlib.Path:
    return self.folder / f'{name}_{strip:05d}.npy'

  def finished(self, strip: int) -> bool:
    return self.path(LAST, strip).exists()

  def load(self, name: str, strip: int) -> np.ndarray:
    """Memory-mapped, read-only."""
    return np.load(self.path(name, strip), mmap_mode='r')

  def write(self, strip: int, arrays: Mapping[str, tuple[tuple[int, ...], Any]]) -> 'StripWriter':
    """Arrays of a strip to be filled, by name: shape and type; one must be `LAST`."""
    return StripWriter(self, strip, arrays)

  def remove(self) -> None:
    for file in self.folder.glob('*.npy*'):
      file.unlink()
    self.folder.rmdir()


class StripWriter:
  """A context whose arrays get their final names when it ends without an exception."""

  def __init__(self, strips: Strips, strip: int, arrays: Mapping[str, tuple[tuple[int, ...], Any]]):
    strips.folder.mkdir(parents=True, exist_ok=True)
    self._paths = {name: strips.path(name, strip) for name in sorted(arrays, key=lambda name: name == LAST)}
    self.arrays: dict[str, np.memmap] = {
      name: np.lib.format.open_memmap(self._partial(name), 'w+', dtype, shape)
      for name, (shape, dtype) in arrays.items()
    }

  def _partial(self, name: str) -> pathlib.Path:
    path = self._paths[name]
    return path.with_name(path.name + '.partial')

  def __enter__(self) -> dict[str, np.memmap]:
    return self.arrays

  def __exit__(
    self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
  ) -> None:
    for name, path in self._paths.items():
      self.arrays[name].flush()
      if kind is None:
        with self._partial(name).open('rb') as file:
          os.fsync(file.fileno())
        self._partial(name).replace(path)
    self.arrays.clear()

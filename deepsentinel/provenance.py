"""Where a result comes from: git commit, package versions; and files that are written whole or not at all."""

import contextlib
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

import numpy as np

_PACKAGES = ('deepsentinel', 'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain', 'numpy')


def git_commit() -> str:
  """The commit this code is of, with '+changes' if files differ from it; '' outside a git checkout."""
  root = pathlib.Path(__file__).resolve().parent.parent

  def git(*arguments: str) -> str:
    return subprocess.run(
      ['git', '-C', str(root), *arguments], capture_output=True, text=True, timeout=20, check=True
    ).stdout.strip()

  try:
    # A checkout around an installed package is not this package's.
    if pathlib.Path(git('rev-parse', '--show-toplevel')).resolve() != root:
      return ''
    return git('rev-parse', 'HEAD') + ('+changes' if git('status', '--porcelain', '--untracked-files=no') else '')
  except (OSError, subprocess.SubprocessError):
    return ''


def versions(more: Sequence[str] = ()) -> dict[str, str]:
  """Versions of Python, of the packages that decide a result, and of `more`; those not installed are left out."""
  found = {'python': platform.python_version()}
  for name in (*_PACKAGES, *more):
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found


class replacing:
  """Context manager: a temporary path beside `path` that takes its place when the block ends without an error."""

  def __init__(self, path: pathlib.Path):
    self.path = path
    self.temporary = path.with_name(f'.{path.name}.partial')  # hidden, and the same after a kill: none pile up

  def __enter__(self) -> pathlib.Path:
    return self.temporary

  def __exit__(self, kind, *_) -> None:
    if kind is not None:
      self.temporary.unlink(missing_ok=True)
      return
    with self.temporary.open('rb') as f:
      os.fsync(f.fileno())
    self.temporary.replace(self.path)


@contextlib.contextmanager
def whole(path: pathlib.Path) -> Iterator[IO[bytes]]:
  """A file to write, which takes its place once it is all on the disk."""
  with replacing(path) as temporary, temporary.open('wb') as file:
    yield file


def stamp(path: pathlib.Path) -> dict[str, Any]:
  """Size and time of change of a file: one that was made anew is another, whatever it is called."""
  found = path.stat()
  return {'bytes': found.st_size, 'changed': found.st_mtime}


def write_json(path: pathlib.Path, content: Any) -> None:
  """Writes JSON, whole or not at all."""
  with whole(path) as file:
    file.write((json.dumps(content, indent=1) + '\n').encode())


def write_npz(path: pathlib.Path, arrays: Mapping[str, Any]) -> None:
  """Writes arrays compressed, whole or not at all."""
  with whole(path) as file:
    np.savez_compressed(file, **arrays)

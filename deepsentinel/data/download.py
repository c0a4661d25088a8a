"""What is published at a URL with SHA256SUMS, whole and checked, onto this machine.

Records: sooner than range reads where every record is read more than once. Shared checkpoints: always.
"""

import concurrent.futures
import fcntl
import hashlib
import os
import pathlib
from collections.abc import Mapping

from tqdm import tqdm

from deepsentinel.data import stores

SUMS = 'SHA256SUMS'
_FILES = 8  # at a time


def parsed_sums(text: str) -> dict[str, str]:
  """SHA-256 by file of the text of SHA256SUMS."""
  return {name: digest for digest, _, name in (line.partition('  ') for line in text.splitlines())}


def download(folder: stores.Folder, progress: bool = True) -> pathlib.Path:
  """The folder of this machine that holds the records of a URL; copies what is not there yet, and checks it.

  Args:
    folder: a prepared directory at a URL, or a path, which stays as it is.
    progress: shows a progress bar.
  Raises:
    ValueError: the copy at the URL is not whole, or a file is not what was published or does not come.
  """
  if isinstance(folder, pathlib.Path):
    return folder
  store, shown = stores.Store(folder), stores.plain(folder)
  mend = 'Publish the records again.'
  digests = read_sums((store.read(SUMS) or b'').decode(), shown, mend)
  if not digests:
    raise ValueError(
      f'{shown} has no {SUMS}, so what is downloaded could not be checked. Run the command that publishes it again, or '
      'pass --config.data.download=False.'
    )
  kept = stores.kept_in(folder, sorted(digests.items()))
  copy_checked(store, digests, kept, mend, progress=progress)
  return kept


def read_sums(listed: str, shown: stores.Folder, mend: str) -> dict[str, str]:
  """SHA-256 by file name, of the text of a SHA256SUMS; ValueError if it names what is no file below its folder.

  Args:
    listed: the text.
    shown: its folder, for the message.
    mend: what to do where it is wrong.
  """
  digests = parsed_sums(listed)
  if odd := [name for name in digests if not name or name.startswith('/') or '..' in name.split('/')]:
    raise ValueError(f'{SUMS} of {shown} names {odd[0]!r}, which is no file below it. {mend}')
  return digests


def digest_of(path: pathlib.Path) -> str:
  """SHA-256 of a file, in hexadecimal digits."""
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def copy_checked(
  store: stores.Store,
  digests: Mapping[str, str],
  kept: pathlib.Path,
  mend: str,
  *,
  again: bool = False,
  progress: bool = True,
) -> None:
  """Copies files of a store to this machine; a file gets its name once it is checked, so a kill leaves whole ones.

  Args:
    store: where they are.
    digests: the SHA-256 that each has to have.
    kept: folder of this machine; files there stay.
    mend: what to do where a file is not what SHA256SUMS says.
    again: checks the files that are there already too, and copies those that are damaged.
    progress: shows a progress bar.
  Raises:
    ValueError: a file is not what was published or does not come.
  """
  kept.mkdir(parents=True, exist_ok=True)

  def fetch(name: str) -> None:
    path = kept / name
    if path.exists() and (not again or digest_of(path) == digests[name]):
      return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'.{path.name}.part')
    store.download(name, part)
    if digest_of(part) != digests[name]:
      part.unlink()
      raise stores.Unreadable(f'{stores.join(stores.plain(store.url), name)} is not what was published. {mend}')
    os.replace(part, path)

  with open(kept / '.lock', 'w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)  # of several processes one copies, the others wait for it
    with concurrent.futures.ThreadPoolExecutor(_FILES) as pool:
      jobs = pool.map(fetch, digests)
      try:
        for _ in tqdm(jobs, total=len(digests), desc=f'downloading {kept.name}', unit='file', disable=not progress):
          pass
      except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise

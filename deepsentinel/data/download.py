"""Published records, whole, onto this machine: sooner than range reads where every record is read more than once."""

import concurrent.futures
import fcntl
import hashlib
import os
import pathlib

from tqdm import tqdm

from deepsentinel.data import stores

SUMS = 'SHA256SUMS'
_FILES = 8  # at a time


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
  listed = (store.read(SUMS) or b'').decode()
  digests = {name: digest for digest, _, name in (line.partition('  ') for line in listed.splitlines())}
  if not digests:
    raise ValueError(
      f'{shown} has no {SUMS}, so what is downloaded could not be checked. Run the command that publishes it again, or '
      'pass --config.data.download=False.'
    )
  if odd := [name for name in digests if name.startswith('/') or '..' in name.split('/')]:
    raise ValueError(f'{SUMS} of {shown} names {odd[0]!r}, which is no file below it. Publish the records again.')
  kept = stores.kept_in(folder, sorted(digests.items()))
  kept.mkdir(parents=True, exist_ok=True)

  def fetch(name: str) -> None:
    path = kept / name
    if path.exists():  # it got its name once it was checked
      return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'.{path.name}.part')
    store.download(name, part)
    with part.open('rb') as file:
      found = hashlib.file_digest(file, 'sha256').hexdigest()
    if found != digests[name]:
      raise stores.Unreadable(f'{shown}/{name} is not what was published. Publish the records again.')
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
  return kept

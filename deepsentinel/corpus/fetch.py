"""The fetch loop: rows to a pool of processes, results to the journal as they come. After a kill it resumes."""

import collections
import concurrent.futures
import json
import multiprocessing
import os
import pathlib
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import tqdm

from deepsentinel.corpus import manifest, patchfiles, worker

_QUEUED_PER_WORKER = 4  # enough that none waits, few enough that little is lost


def _follow_parent() -> None:
  """Leaves a Ctrl-C to the process that started this worker, and ends the worker with it, however that ends."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)

  def watch(parent):
    parent.join()
    os._exit(1)

  parent = multiprocessing.parent_process()
  if parent is not None:
    threading.Thread(target=watch, args=(parent,), daemon=True).start()


def _results(
  config_json: str, folder: str, rows: Sequence[Mapping[str, Any]], workers: int
) -> Iterator[dict[str, Any]]:
  """Fetched rows, in the order in which they are ready."""
  if workers < 2 or len(rows) < 2:
    for row in rows:
      yield worker.fetch_row(config_json, folder, row)
    return
  context = multiprocessing.get_context('spawn')  # forked GDAL and PROJ handles are not safe to use
  waiting = collections.deque(rows)
  with concurrent.futures.ProcessPoolExecutor(min(workers, len(rows)), context, _follow_parent) as pool:
    running: set[concurrent.futures.Future] = set()
    try:
      while waiting or running:
        while waiting and len(running) < workers * _QUEUED_PER_WORKER:
          running.add(pool.submit(worker.fetch_row, config_json, folder, waiting.popleft()))
        ready, running = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
        for future in ready:
          yield future.result()
    except BrokenProcessPool as e:
      raise ValueError(
        f'A worker process died ({e}); most often the memory was too small. What was fetched is kept: '
        'run the same command again, with fewer --config.workers.'
      ) from e
    finally:
      for future in running:
        future.cancel()


def fetch(
  settings: Mapping[str, Any], folder: pathlib.Path, rows: dict[str, dict[str, Any]], todo: Sequence[str]
) -> None:
  """Fetches the rows named in `todo` and updates `rows` and the journal with each result.

  Args:
    settings: checked settings of the corpus.
    folder: the corpus folder.
    rows: every manifest row by id; changed in place.
    todo: ids.
  """
  config_json = json.dumps(settings)
  failed = 0
  progress = tqdm.tqdm(
    total=len(rows), initial=len(rows) - len(todo), desc='Fetching', unit=' patches', smoothing=0.05, mininterval=0.5
  )
  with progress, manifest.open_journal(folder) as journal:
    for row in _results(config_json, str(folder), [rows[i] for i in todo], settings['workers']):
      manifest.append(journal, row)
      rows[row['id']] = row
      failed += row['state'] == 'failed'
      progress.update()
      if failed:
        progress.set_postfix(failed=failed, refresh=False)


def damaged(folder: pathlib.Path, rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
  """Ids of done rows of which a file is gone or is not what was fetched."""
  done = [row for row in rows.values() if row['state'] == 'done']
  found = []
  # Hashing and reading release the interpreter, so threads do.
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    checks = pool.map(lambda row: patchfiles.is_whole(folder, row), done)
    progress = tqdm.tqdm(checks, total=len(done), desc='Checking', unit=' patches', delay=2, leave=False)
    for row, whole in zip(done, progress, strict=True):
      if not whole:
        found.append(row['id'])
  return found

"""The fetch loop: rows to a pool of processes, results to the journal as they come. After a kill it resumes."""

import collections
import concurrent.futures
import json
import multiprocessing
import os
import pathlib
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import tqdm

from deepsentinel.corpus import beam, manifest, patchfiles, reasons, worker

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
  settings: Mapping[str, Any],
  folder: pathlib.Path,
  rows: dict[str, dict[str, Any]],
  todo: Sequence[str],
  cluster: beam.Cluster | None = None,
) -> None:
  """Fetches the rows named in `todo` and updates `rows` and the journal with each result.

  Args:
    settings: checked settings of the corpus.
    folder: the corpus folder.
    rows: every manifest row by id; changed in place.
    todo: ids.
    cluster: where; None takes processes of this machine.
  """
  wanted = [rows[i] for i in todo]
  if cluster is not None:
    results = cluster.results(settings, folder, wanted)
  else:
    results = _results(json.dumps(settings), str(folder), wanted, settings['workers'])
  record(folder, rows, results, total=len(rows), before=len(rows) - len(todo))


def record(
  folder: pathlib.Path,
  rows: dict[str, dict[str, Any]],
  results: Iterable[dict[str, Any]],
  *,
  total: int,
  before: int = 0,
  doing: str = 'Fetching',
) -> None:
  """Writes rows to the journal as they come; a bar shows the rate, the time left, and failures by kind.

  Args:
    folder: the corpus folder.
    rows: every manifest row by id; changed in place.
    results: fetched rows; when the next is asked for, the last is in the journal.
    total, before: rows that the bar counts, and those of them that are there already.
    doing: what it says.
  """
  failed: collections.Counter[str] = collections.Counter()
  progress = tqdm.tqdm(
    total=total, initial=before, desc=doing, unit=' patches', smoothing=0.05, mininterval=0.5, disable=not total
  )
  with progress, manifest.open_journal(folder) as journal:
    for row in results:
      manifest.append(journal, row)
      rows[row['id']] = row
      if row['state'] == 'failed':
        failed[reasons.kind(row['reason'])] += 1
        progress.set_postfix_str(reasons.summary(failed), refresh=False)
      progress.update()


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

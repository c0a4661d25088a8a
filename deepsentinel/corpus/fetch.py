"""The fetch loop: rows to a pool of processes, results to the journal as they come. After a kill it resumes."""

import collections
import concurrent.futures
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import tqdm

from deepsentinel.corpus import beam, manifest, patchfiles, reasons, worker
from deepsentinel.corpus.pool import Pool


def fetch(
  shop: worker.Workshop,
  folder: pathlib.Path,
  rows: dict[str, dict[str, Any]],
  todo: Sequence[str],
  pool: Pool,
  cluster: beam.Cluster | None = None,
) -> None:
  """Fetches the rows named in `todo` and updates `rows` and the journal with each result.

  Args:
    shop: of the corpus.
    folder: of the corpus.
    rows: every manifest row by id; changed in place.
    todo: ids.
    pool: where they are fetched.
    cluster: machines that fetch them instead.
  """
  wanted = [rows[i] for i in todo]
  if cluster is not None:
    results = cluster.results(shop.settings, folder, wanted)
  else:
    results = pool.results(worker.fetch_row, [(shop.config_json, str(folder), row) for row in wanted])
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

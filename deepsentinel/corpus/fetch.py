"""The fetch loop: rows to a pool of processes, results to the journal as they come. After a kill it resumes."""

import concurrent.futures
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import tqdm

from deepsentinel.corpus import manifest, patchfiles, worker
from deepsentinel.corpus.pool import Pool


def fetch(
  shop: worker.Workshop, folder: pathlib.Path, rows: dict[str, dict[str, Any]], todo: Sequence[str], pool: Pool
) -> None:
  """Fetches the rows named in `todo` and updates `rows` and the journal with each result.

  Args:
    shop: of the corpus.
    folder: of the corpus.
    rows: every manifest row by id; changed in place.
    todo: ids.
    pool: where they are fetched.
  """
  failed = 0
  progress = tqdm.tqdm(
    total=len(rows), initial=len(rows) - len(todo), desc='Fetching', unit=' patches', smoothing=0.05, mininterval=0.5
  )
  with progress, manifest.open_journal(folder) as journal:
    for row in pool.results(worker.fetch_row, [(shop.config_json, str(folder), rows[i]) for i in todo]):
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

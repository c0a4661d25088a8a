"""From a corpus folder to examples: plain functions on paths and ids, so that a Beam worker needs nothing else."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from deepsentinel import schema
from deepsentinel.corpus import card, splits


def split_ids(corpus: card.Corpus) -> dict[str, list[str]]:
  """Ids of the fetched patches of each split, sorted; rows of the buffer between splits are left out.

  Args:
    corpus: the folder; its manifest says 'done' and a split for each row ('' where there are no splits: 'train').
  Returns:
    split name -> ids, only splits that have any.
  Raises:
    ValueError: not one patch is there to package; says in which states the rows are.
  """
  manifest = corpus.manifest()
  done = manifest[manifest['state'] == 'done']
  split = done['split'].fillna('').replace('', 'train')
  unknown = sorted(set(split) - {*splits.SPLITS, splits.BUFFER, splits.SHARED})
  if unknown:
    raise ValueError(
      f'{corpus.path}: unknown split(s) {unknown} in manifest.parquet. '
      f'Known: {", ".join((*splits.SPLITS, splits.BUFFER, splits.SHARED))}.'
    )
  ids = {name: sorted(done.loc[split.isin([name, splits.SHARED]), 'id']) for name in splits.SPLITS}
  ids = {name: members for name, members in ids.items() if members}
  if not ids:
    states = manifest['state'].value_counts().to_dict()
    raise ValueError(
      f'{corpus.path}: the manifest has no fetched patch in any split (states: {states}). '
      'Run `python -m deepsentinel.corpus` on this folder again; the column `reason` says why rows failed.'
    )
  return ids


@functools.lru_cache(maxsize=4)
def _open(path: str, manifest_mtime_ns: int) -> tuple[card.Corpus, dict[str, dict[str, Any]]]:
  """The corpus and its manifest as id -> row, opened once a process and again when the manifest changes."""
  corpus = card.Corpus(pathlib.Path(path))
  rows = corpus.manifest()[[s.name for s in schema.SCALARS]].to_dict('records')
  return corpus, {row['id']: row for row in rows}


def scalar(field: schema.ScalarField, value: Any) -> Any:
  """One manifest value in the field's dtype; missing values (None, NaN, NaT) become `field.missing`."""
  if value is None or value != value:
    value = field.missing
  return str(value) if field.dtype == 'string' else np.dtype(field.dtype).type(value)


def example(patch_id: str, corpus_dir: str | os.PathLike, labelled: bool) -> dict[str, Any]:
  """One record: its tensors as stored arrays, its scalars from the manifest.

  Args:
    patch_id: `id` of a fetched manifest row.
    corpus_dir: the corpus folder.
    labelled: whether the label maps belong into the record.
  Returns:
    field name -> array of schema.tensor_fields or scalar of schema.SCALARS.
  Raises:
    ValueError: a patch file is gone, damaged or of another shape; names the manifest row and the file.
  """
  corpus_dir = os.fspath(corpus_dir)
  corpus, rows = _open(corpus_dir, (pathlib.Path(corpus_dir) / 'manifest.parquet').stat().st_mtime_ns)
  arrays = corpus.read(patch_id)
  record: dict[str, Any] = {}
  for field in schema.tensor_fields(corpus.spec, corpus.patch_px, labelled, bool(corpus.landcover)).values():
    array = arrays.get(field.name)
    found = 'nothing' if array is None else f'{array.dtype} {array.shape}'
    if array is None or array.shape != field.shape or array.dtype != np.dtype(field.dtype):
      raise ValueError(
        f'{corpus_dir}: patch {patch_id!r}, {field.name}: found {found}, corpus.json promises {field.dtype} '
        f'{field.shape}. Delete {pathlib.Path(corpus_dir) / "patches" / patch_id} and run `python -m '
        'deepsentinel.corpus` with this corpus again to fetch it anew.'
      )
    record[field.name] = np.ascontiguousarray(array)
  for column in schema.SCALARS:
    record[column.name] = scalar(column, rows[patch_id][column.name])
  return record


def keyed_example(patch_id: str, corpus_dir: str, labelled: bool) -> tuple[str, dict[str, Any]]:
  """(key, example) as TFDS writers take it."""
  return patch_id, example(patch_id, corpus_dir, labelled)


@dataclasses.dataclass(frozen=True)
class Examples:
  """(key, example) of every id, in order; it has a length, so that progress bars know how far there is to go."""

  ids: Sequence[str]
  corpus_dir: str
  labelled: bool

  def __len__(self) -> int:
    return len(self.ids)

  def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
    for patch_id in self.ids:
      yield keyed_example(patch_id, self.corpus_dir, self.labelled)

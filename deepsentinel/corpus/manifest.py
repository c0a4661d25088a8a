"""The manifest: one row per patch, in GeoParquet, with an append-only journal between two writings of it.

Parquet cannot be appended to, so results go to a journal (one JSON object a line) as they come. Reading overlays the
journal on the table; folding writes the table anew under a temporary name, renames it and then removes the journal.
Killed between any two of these steps, the next reading gives the same rows.
"""

import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

import geopandas
import numpy as np
import pandas as pd
import shapely

from deepsentinel import legend, provenance, schema

FILE = 'manifest.parquet'
JOURNAL = 'journal.jsonl'
STATES = ('planned', 'done', 'failed')
FIELDS = ('s2', 's1', 'corine', 'osm', 'landcover')
_DTYPES = {'string': 'object'}

# What a row holds beyond schema.SCALARS: name -> (dtype, missing value).
COLUMNS: dict[str, tuple[str, Any]] = {
  'number': ('int64', -1),  # which point of the run; its random streams depend on it
  'block': ('int32', -1),  # which 12-day block of the period; -1 for a ready-made place
  'attempts': ('int32', 0),  # points drawn until one had a pair
  'mine': ('int64', -1),  # the polygon that a patch is on or is the background of, by its place in the file
  'state': ('object', 'planned'),
  'reason': ('object', ''),  # why it failed
  'split': ('object', ''),
  'gap_hours': ('float64', float('nan')),  # between the two acquisitions
  **{f'sha256_{name}': ('object', '') for name in FIELDS if name != 'landcover'},
  **{f'{name}_px': ('int32', 0) for name in legend.LEVEL1_NAMES},  # CORINE level-1 pixels of a labelled patch
}
# Of a corpus with a land-cover map alone.
OPTIONAL: dict[str, tuple[str, Any]] = {'sha256_landcover': ('object', '')}


def blank_row() -> dict[str, Any]:
  """A row with nothing known yet."""
  return {s.name: s.missing for s in schema.SCALARS} | {name: missing for name, (_, missing) in COLUMNS.items()}


def frame(rows: Iterable[Mapping[str, Any]]) -> geopandas.GeoDataFrame:
  """Rows as a GeoDataFrame in order of `number`, every column there and of its dtype; geometry is the centre."""
  rows = list(rows)
  optional = {name: kind for name, kind in OPTIONAL.items() if any(name in row for row in rows)}
  blank = blank_row() | {name: missing for name, (_, missing) in optional.items()}
  rows = sorted((blank | dict(row) for row in rows), key=lambda row: row['number'])
  types = {s.name: _DTYPES.get(s.dtype, s.dtype) for s in schema.SCALARS} | {
    n: d for n, (d, _) in (COLUMNS | optional).items()
  }
  columns = {name: np.array([row[name] for row in rows], dtype=dtype) for name, dtype in types.items()}
  table = pd.DataFrame(columns)
  located = np.isfinite(table['lon_deg'].to_numpy())
  geometry = np.full(len(table), None, object)
  geometry[located] = shapely.points(table.loc[located, ['lon_deg', 'lat_deg']].to_numpy())
  return geopandas.GeoDataFrame(table, geometry=geometry, crs='EPSG:4326')


def rows_of(table: geopandas.GeoDataFrame) -> dict[str, dict[str, Any]]:
  """id -> row of plain Python values."""
  rows = {}
  for row in table.drop(columns='geometry').to_dict('records'):
    row = {key: value.item() if isinstance(value, np.generic) else value for key, value in row.items()}
    rows[row['id']] = row
  return rows


def read(folder: pathlib.Path) -> geopandas.GeoDataFrame:
  """The manifest as it stands, with the journal of a run that has not ended.

  Raises:
    ValueError: no manifest in the folder.
  """
  path = folder / FILE
  if not path.is_file():
    raise ValueError(
      f'{folder} holds no {FILE}: it is no corpus. Sample one with '
      f'`python -m deepsentinel.corpus --config=configs/corpora/NAME.py --out={folder}`.'
    )
  try:
    table = geopandas.read_parquet(path)
  except (ValueError, OSError) as e:
    raise ValueError(
      f'{path} is damaged or no manifest of a corpus ({str(e).splitlines()[0]}). Remove it and run the command that '
      'sampled this corpus again: it plans the same patches and fetches them anew.'
    ) from e
  for name, missing in blank_row().items():
    if name not in table:  # it was written before this column was known
      table[name] = missing
  journal = journal_rows(folder)
  if not journal:
    return table
  rows = rows_of(table)
  rows.update({row['id']: row for row in journal})
  return frame(rows.values())


def journal_rows(folder: pathlib.Path) -> list[dict[str, Any]]:
  """Rows of the journal, later ones last; a line cut short by a kill is left out."""
  path = folder / JOURNAL
  if not path.exists():
    return []
  rows = []
  for line in path.read_text().splitlines():
    try:
      rows.append(json.loads(line))
    except json.JSONDecodeError:
      continue
  return rows


def write(folder: pathlib.Path, rows: Iterable[Mapping[str, Any]]) -> geopandas.GeoDataFrame:
  """Writes the manifest atomically and removes the journal, whose rows must be among `rows`."""
  table = frame(rows)
  with provenance.replacing(folder / FILE) as temporary:
    table.to_parquet(temporary, compression='zstd')
  (folder / JOURNAL).unlink(missing_ok=True)
  return table


def open_journal(folder: pathlib.Path) -> TextIO:
  """The journal, opened to append. A cut line at its end is closed first, so that the next one starts afresh."""
  path = folder / JOURNAL
  journal = path.open('a')
  if path.stat().st_size and not path.read_bytes().endswith(b'\n'):
    journal.write('\n')
  return journal


def append(journal: TextIO, row: Mapping[str, Any]) -> None:
  """One row to the journal, out of this process at once."""
  journal.write(json.dumps(row) + '\n')
  journal.flush()

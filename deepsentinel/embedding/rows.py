"""What an index is built of: the cells of maps, the patches of an area, the patches of a record set."""

import dataclasses
import datetime
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd
import shapely

from deepsentinel import provenance
from deepsentinel.data import records as records_lib
from deepsentinel.embedding import cells
from deepsentinel.sources import base

if TYPE_CHECKING:  # what loads JAX, which only an index of records needs
  from deepsentinel.train.trained import Trained

_CHUNK = 512  # records that are embedded between two saves
_BATCH_ROWS = 4096


class RowSource(Protocol):
  """Rows of an index: what they are, and their vectors in chunks."""

  @property
  def name(self) -> str: ...

  @property
  def checkpoint_sha256(self) -> str: ...

  @property
  def synthetic(self) -> bool: ...

  @property
  def features(self) -> int: ...

  @property
  def most(self) -> int:
    """Rows at most."""
    ...

  def describe(self) -> dict[str, Any]:
    """Plain values that tell this source from another, and that find its pixels again."""
    ...

  def chunks(self, kept: pathlib.Path) -> Iterator[tuple[pd.DataFrame, np.ndarray, int]]:
    """(rows, unit vectors float32 [n, E], rows looked at): columns id, row, col, time, lon_deg, lat_deg, geometry.

    Args:
      kept: a folder for what is slow to make again.
    """
    ...


def _stamp(path: pathlib.Path) -> dict[str, Any]:
  return {'path': str(path.resolve()), **provenance.stamp(path)}


@dataclasses.dataclass(frozen=True)
class MapRows:
  """The cells of an embedding.tif; those without an embedding are left out."""

  map: cells.CellMap
  name: str

  @property
  def checkpoint_sha256(self) -> str:
    return self.map.checkpoint_sha256

  @property
  def synthetic(self) -> bool:
    return self.map.synthetic

  @property
  def features(self) -> int:
    return self.map.features

  @property
  def most(self) -> int:
    return self.map.rows * self.map.cols

  def describe(self) -> dict[str, Any]:
    grid = {'crs': self.map.crs, 'transform': list(self.map.transform[:6]), 'rows': self.map.rows}
    return {
      'kind': 'map', 'name': self.name, **_stamp(self.map.path), **grid, 'cols': self.map.cols,
      'synthetic': self.synthetic, 'tags': dict(self.map.tags),
    }  # fmt: skip

  def chunks(self, kept: pathlib.Path) -> Iterator[tuple[pd.DataFrame, np.ndarray, int]]:
    time = self.map.tags.get('times', '')
    for top, left, vectors in self.map.blocks():
      row, col = np.nonzero(np.isfinite(vectors[..., 0]))
      found = vectors[row, col]
      row, col = row + top, col + left
      lon, lat = self.map.centres_lonlat(row, col)
      table = {
        'id': [f'{self.name}/{r}_{c}' for r, c in zip(row.tolist(), col.tolist(), strict=True)],
        'row': row, 'col': col, 'time': time, 'lon_deg': lon, 'lat_deg': lat,
        'geometry': self.map.outlines_lonlat(row, col),
      }  # fmt: skip
      yield pd.DataFrame(table), found, vectors.shape[0] * vectors.shape[1]


@dataclasses.dataclass(frozen=True)
class PatchRows:
  """The patches of an area: patches.parquet of `deepsentinel.embed --level=patch`."""

  path: pathlib.Path
  name: str
  tags: Mapping[str, str]
  most: int
  features: int

  @property
  def checkpoint_sha256(self) -> str:
    return self.tags['checkpoint_sha256']

  @property
  def synthetic(self) -> bool:
    return self.tags.get('synthetic') == 'true'

  def describe(self) -> dict[str, Any]:
    tags = {k: v for k, v in self.tags.items() if k != 'geo'}
    return {'kind': 'patches', 'name': self.name, **_stamp(self.path), 'synthetic': self.synthetic, 'tags': tags}

  def chunks(self, kept: pathlib.Path) -> Iterator[tuple[pd.DataFrame, np.ndarray, int]]:
    import pyarrow.parquet
    import pyproj

    geo = json.loads(self.tags['geo'])
    column = geo['columns'][geo['primary_column']]
    crs = pyproj.CRS.from_user_input(column.get('crs') or 'OGC:CRS84').to_wkt()
    seen = 0
    for batch in pyarrow.parquet.ParquetFile(self.path).iter_batches(_BATCH_ROWS):
      vectors = cells.unit(np.stack(batch.column('embedding').to_numpy(zero_copy_only=False)).astype(np.float32))
      outlines = shapely.from_wkb(batch.column('geometry').to_numpy(zero_copy_only=False))
      lon, lat = base.transformer(crs, 4326).transform(*shapely.get_coordinates(shapely.centroid(outlines)).T)
      known = np.isfinite(vectors[:, 0])
      ids = [f'{self.name}/{i}' for i in batch.column('id').to_pylist()]
      table = {
        'id': ids, 'row': np.arange(seen, seen + len(ids)), 'col': -1, 'time': self.tags.get('times', ''),
        'lon_deg': lon, 'lat_deg': lat, 'geometry': base.to_lonlat(outlines, crs),
      }  # fmt: skip
      seen += len(ids)
      yield pd.DataFrame(table)[known], vectors[known], len(ids)


@dataclasses.dataclass(frozen=True)
class RecordRows:
  """The patches of one split of a record set, embedded by a checkpoint."""

  model: 'Trained'
  records: records_lib.RecordSet
  name: str

  @property
  def checkpoint_sha256(self) -> str:
    return self.model.sha256

  @property
  def synthetic(self) -> bool:
    return self.records.synthetic

  @property
  def features(self) -> int:
    return self.model.module.encoder.features

  @property
  def most(self) -> int:
    return len(self.records)

  def describe(self) -> dict[str, Any]:
    return {
      'kind': 'records', 'name': self.name, 'path': str(self.records.directory), 'split': self.records.split,
      'records': len(self.records), 'records_sha256': self.records.fingerprint, 'synthetic': self.synthetic,
      'tags': {'checkpoint_sha256': self.model.sha256, 'checkpoint_stage': self.model.stage},
    }  # fmt: skip

  def chunks(self, kept: pathlib.Path) -> Iterator[tuple[pd.DataFrame, np.ndarray, int]]:
    for first in range(0, len(self.records), _CHUNK):
      number = np.arange(first, min(first + _CHUNK, len(self.records)))
      vectors = cells.unit(self._embedded(kept, number))
      known = np.isfinite(vectors[:, 0])
      yield self._table(number)[known], vectors[known], len(number)

  def _embedded(self, kept: pathlib.Path, number: np.ndarray) -> np.ndarray:
    """Vectors of some records, of an earlier run where it had got so far."""
    made_of = hashlib.sha256(json.dumps(self.describe()).encode()).hexdigest()[:16]
    part = kept / f'{made_of}_{number[0]:07d}.npy'
    if part.is_file():
      return np.load(part)
    from deepsentinel.evaluation import frozen, vectors

    found = vectors.of_patches(frozen.of_trained(self.model, 'the checkpoint'), self.records, number)
    kept.mkdir(parents=True, exist_ok=True)
    with provenance.whole(part) as file:
      np.save(file, found)
    return found

  def _table(self, number: np.ndarray) -> pd.DataFrame:
    about = self.records.table.iloc[number]
    grids = [
      base.PatchGrid(int(epsg), float(x), float(y), self.records.patch_px, self.records.patch_px)
      for epsg, x, y in zip(about['epsg'], about['x0_m'], about['y0_m'], strict=True)
    ]
    seconds = np.where(about['s2_time'] >= 0, about['s2_time'], about['s1_time'])
    table = {
      'id': about['id'].to_numpy(), 'row': number, 'col': -1, 'time': [_iso(int(s)) for s in seconds],
      'lon_deg': about['lon_deg'].to_numpy(), 'lat_deg': about['lat_deg'].to_numpy(),
      'geometry': base.outlines_lonlat(grids, 1),
    }  # fmt: skip
    return pd.DataFrame(table)


def _iso(seconds: int) -> str:
  if seconds < 0:
    return ''
  return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime('%Y-%m-%dT%H:%M:%SZ')


def open_patches(path: pathlib.Path) -> PatchRows:
  """A table of embedded patches; ValueError if it is none, or is of no known checkpoint."""
  import pyarrow
  import pyarrow.parquet

  mend = '`python -m deepsentinel.embed --level=patch ...` makes one.'
  try:
    file = pyarrow.parquet.ParquetFile(path)
  except (pyarrow.ArrowInvalid, OSError) as error:
    raise ValueError(f'{path} cannot be read as Parquet ({error}). {mend}') from error
  tags = {k.decode(): v.decode() for k, v in (file.schema_arrow.metadata or {}).items()}
  lacking = sorted({'id', 'embedding', 'geometry'} - set(file.schema_arrow.names))
  lacking += [name for name in ('checkpoint_sha256', 'geo') if name not in tags]
  if lacking:
    raise ValueError(f'{path} is no table of embedded patches: it lacks {", ".join(lacking)}. {mend}')
  first = next(file.iter_batches(1, columns=['embedding']), None)
  features = 0 if first is None else len(first.column(0)[0])
  return PatchRows(path, path.resolve().parent.name, tags, file.metadata.num_rows, features)


def of_embedding(path: str | os.PathLike, mean_cells: int) -> MapRows | PatchRows:
  """The rows of a folder that `deepsentinel.embed` wrote, or of one of its files: its map, else its patches."""
  given = pathlib.Path(path).expanduser()
  patches = given / 'patches.parquet' if given.is_dir() else given
  if patches.suffix == '.parquet' and patches.is_file() and not (given / 'embedding.tif').is_file():
    return open_patches(patches)
  found = cells.open_map(given, mean_cells)
  return MapRows(found, found.name)


def of_records(model: 'Trained', directory: Any, splits: list[str]) -> list[RecordRows]:
  """The rows of a prepared record set.

  Args:
    model: embeds the patches.
    directory: of the record set.
    splits: which; empty: all that there are.
  Raises:
    ValueError: no such split, or bands that the model was not trained for.
  """
  there = records_lib.splits(directory)
  found = [records_lib.RecordSet(directory, split) for split in splits or there]
  for one in found:
    model.spec.require(one.spec, subsets=model.subsets)
  return [RecordRows(model, one, one.split) for one in found]


def distinct(sources: list[Any]) -> list[Any]:
  """The sources with names of their own: a second 'maps' is 'maps_2'."""
  given, taken, out = {source.name for source in sources}, set[str](), []
  for source in sources:
    name, again = source.name, 1
    while name in taken or (again > 1 and name in given):
      again += 1
      name = f'{source.name}_{again}'
    taken.add(name)
    out.append(source if again == 1 else dataclasses.replace(source, name=name))
  return out

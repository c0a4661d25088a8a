"""An index over embeddings: the nearest rows by cosine, with Faiss.

A folder of three files: index.faiss (the unit vectors, compared by inner product), rows.parquet (GeoParquet, a row a
vector: id, source, row, col, time, lon_deg, lat_deg, geometry) and, written last, index.json (the checkpoint, the
dimensions, what it was built of). Without index.json there is no index.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import tqdm

from deepsentinel import provenance
from deepsentinel.embedding import cells, rows

KINDS = ('auto', 'exact', 'approximate')
EXACT_ROWS = 1_000_000  # an exact search of more reads gigabytes for every query
_RECALL = 0.95  # of the ten nearest rows, which an approximate search has to find
_RECALL_QUERIES, _RECALL_K = 200, 10
_TRAIN_PER_LIST = 50  # vectors that the centre of a list is drawn from (Faiss asks for 39 to 256)
_CHUNK = 65_536
_FLAGS = {'asked': '--kind', 'mean_cells': '--mean_cells', 'sources': 'inputs'}  # what tells one index from another
_BUILD = '`python -m deepsentinel.search build --embedding=MAP --out=INDEX` makes one.'


@dataclasses.dataclass(frozen=True)
class Index:
  """A finished index.

  Attributes:
    folder: of its files.
    about: index.json.
    searcher: Faiss' index.
  """

  folder: pathlib.Path
  about: dict[str, Any]
  searcher: Any

  def __len__(self) -> int:
    return self.about['rows']

  @property
  def checkpoint_sha256(self) -> str:
    return self.about['checkpoint_sha256']

  @property
  def synthetic(self) -> bool:
    return self.about['synthetic']

  @property
  def fingerprint(self) -> str:
    """Tells this index from one that was built of something else."""
    return hashlib.sha256(json.dumps(self.about, sort_keys=True).encode()).hexdigest()

  @property
  def exact(self) -> bool:
    return self.about['search']['kind'] == 'exact'

  @functools.cached_property
  def rows(self):
    """GeoDataFrame, row i of vector i; 'source' is a place in about['sources']."""
    import geopandas

    return geopandas.read_parquet(self.folder / 'rows.parquet')

  def nearest(self, vector: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(cosine float32 [k], row number int64 [k]) of the rows most like a unit vector [E], best first."""
    if self.exact or k >= len(self):
      # One product over all rows, at the speed of memory: Faiss takes twice as long for a single query.
      everything = self.similarities(vector)
      top = np.argpartition(-everything, k - 1)[:k] if k < len(self) else np.arange(len(self))
      top = top[np.argsort(-everything[top], kind='stable')]
      return everything[top], top
    similarity, number = self.searcher.search(np.ascontiguousarray(vector[None], np.float32), k)
    found = number[0] >= 0
    return similarity[0][found], number[0][found]

  def vectors(self, number: Sequence[int] | np.ndarray) -> np.ndarray:
    """float32 [n, E], the unit vectors of some rows."""
    return self.searcher.reconstruct_batch(np.ascontiguousarray(number, np.int64))

  def similarities(self, vector: np.ndarray) -> np.ndarray:
    """float32 [N], the cosine of a unit vector [E] and every row; exact whatever the index."""
    if self.exact:
      import faiss

      # A view of the vectors that Faiss holds.
      rows = faiss.rev_swig_ptr(self.searcher.get_xb(), len(self) * self.searcher.d).reshape(len(self), -1)
      return rows @ vector.astype(np.float32)
    parts = [
      self.searcher.reconstruct_n(first, min(_CHUNK, len(self) - first)) @ vector.astype(np.float32)
      for first in range(0, len(self), _CHUNK)
    ]
    return np.concatenate(parts)


def map_of(source: dict[str, Any], mean_cells: int) -> cells.CellMap:
  """The grid of a source of cells as index.json keeps it; its file may be gone."""
  import affine

  return cells.CellMap(
    pathlib.Path(source['path']), source['crs'], affine.Affine(*source['transform']), source['rows'], source['cols'],
    0, source['tags'], mean_cells,
  )  # fmt: skip


def build(
  sources: Sequence[rows.RowSource], out: pathlib.Path, *, mean_cells: int, kind: str = 'auto', progress: bool = True
) -> tuple[Index, bool]:
  """Makes the index of some sources, or finds it made.

  Args:
    sources: of one checkpoint.
    out: folder; one with a whole index of other sources is left as it is.
    mean_cells: that maps were opened with; kept for queries.
    kind: 'exact', 'approximate', or 'auto', which is exact up to EXACT_ROWS rows.
    progress: shows a bar.
  Returns:
    (the index, whether it was there already).
  Raises:
    ValueError: sources of different checkpoints or dimensions, none with a vector, or another index in `out`.
  """
  if kind not in KINDS:
    raise ValueError(f'Unknown kind of index {kind!r}. Known: {", ".join(KINDS)}.')
  _require_one_checkpoint(sources)
  job = {'asked': kind, 'mean_cells': mean_cells, 'sources': [source.describe() for source in sources]}
  job = json.loads(json.dumps(job))
  if (out / 'index.json').is_file():
    there = open_index(out)
    differing = [_FLAGS[key] for key in job if there.about.get(key) != job[key]]
    if not differing:
      return there, True
    names = ', '.join(source['name'] for source in there.about['sources'])
    raise ValueError(
      f'{out} holds an index of {names} with other {", ".join(differing)}. Pass another --out, or remove it.'
    )
  out.mkdir(parents=True, exist_ok=True)
  most = sum(source.most for source in sources)
  exact = kind == 'exact' or (kind == 'auto' and most <= EXACT_ROWS)
  searcher, table = _filled(sources, out, most, exact, progress)
  search = {'kind': 'exact'} if exact else _measured(searcher)
  _write(searcher, table, out)
  about = {
    'checkpoint_sha256': sources[0].checkpoint_sha256,
    'features': sources[0].features,
    'rows': len(table),
    'metric': 'cosine',
    'search': search,
    'synthetic': any(source.synthetic for source in sources),
    **job,
    'files': {name: (out / name).stat().st_size for name in ('index.faiss', 'rows.parquet')},
  }
  provenance.write_json(out / 'index.json', about)
  shutil.rmtree(out / 'parts', ignore_errors=True)
  return open_index(out), False


def _require_one_checkpoint(sources: Sequence[rows.RowSource]) -> None:
  if not sources:
    raise ValueError('Nothing to build an index of. Pass --embedding=MAP, or --checkpoint=RUN and --data=RECORDS.')
  first = sources[0]
  for source in sources[1:]:
    if source.checkpoint_sha256 != first.checkpoint_sha256:
      raise ValueError(
        f'{first.name} is of checkpoint {first.checkpoint_sha256[:12]} and {source.name} of '
        f'{source.checkpoint_sha256[:12]}: vectors of two models cannot be compared. Embed both with one checkpoint, '
        'or build two indices.'
      )
    if source.features != first.features:
      raise ValueError(
        f'{first.name} has vectors of {first.features} dimensions and {source.name} of {source.features}: one of the '
        'files is not what its tags say. Embed it again.'
      )


def _filled(
  sources: Sequence[rows.RowSource], out: pathlib.Path, most: int, exact: bool, progress: bool
) -> tuple[Any, pd.DataFrame]:
  """Faiss' index with every vector, and the table of their rows in the same order."""
  import faiss

  features = sources[0].features
  searcher: Any
  if exact:
    searcher = faiss.IndexFlatIP(features)
  else:
    lists = max(1, min(int(2 * most**0.5), most // 39))
    searcher = faiss.index_factory(features, f'IVF{lists},Flat', faiss.METRIC_INNER_PRODUCT)
    sample = _sample(sources, out, most, lists * _TRAIN_PER_LIST, progress)
    if len(sample) < lists:
      raise ValueError(f'{len(sample)} of {most} rows have a vector: too few to approximate. Pass --kind=exact.')
    searcher.train(sample)
  tables = []
  with tqdm.tqdm(total=most, desc='Indexing', unit=' rows', disable=not progress) as bar:
    for number, source in enumerate(sources):
      for table, vectors, looked_at in source.chunks(out / 'parts'):
        bar.update(looked_at)
        if len(table):
          searcher.add(np.ascontiguousarray(vectors, np.float32))
          tables.append(table.assign(source=number))
  if not tables:
    raise ValueError(f'No row of {", ".join(s.name for s in sources)} has an embedding: every cell is nodata.')
  if not exact:
    searcher.make_direct_map()  # so that rows can be read back
  return searcher, pd.concat(tables, ignore_index=True)


def _sample(sources, out: pathlib.Path, most: int, wanted: int, progress: bool) -> np.ndarray:
  """About `wanted` vectors, evenly from all sources."""
  rng, parts = np.random.default_rng(0), []
  with tqdm.tqdm(total=most, desc='Sampling', unit=' rows', disable=not progress) as bar:
    for source in sources:
      for _, vectors, looked_at in source.chunks(out / 'parts'):
        parts.append(vectors[rng.random(len(vectors)) < wanted / most])
        bar.update(looked_at)
  return np.concatenate(parts)


def _measured(searcher: Any) -> dict[str, Any]:
  """Sets how many lists are looked through, so that enough of the nearest rows are found; says how many are."""
  total = searcher.ntotal
  number = np.random.default_rng(1).choice(total, min(_RECALL_QUERIES, total), replace=False)
  queries = searcher.reconstruct_batch(number)
  k = min(_RECALL_K, total)
  searcher.nprobe = searcher.nlist  # all lists: an exact search
  _, truth = searcher.search(queries, k)
  searcher.nprobe, recall = 1, 0.0
  while True:
    _, found = searcher.search(queries, k)
    recall = float(np.mean([len(np.intersect1d(a, b)) / k for a, b in zip(found, truth, strict=True)]))
    if recall >= _RECALL or searcher.nprobe >= searcher.nlist:
      break
    searcher.nprobe = min(2 * searcher.nprobe, searcher.nlist)
  return {
    'kind': 'approximate', 'lists': searcher.nlist, 'looked_through': searcher.nprobe, 'recall': recall,
    'recall_of': f'the {k} nearest of {len(number)} rows of the index, against an exact search',
  }  # fmt: skip


def _write(searcher: Any, table: pd.DataFrame, out: pathlib.Path) -> None:
  import faiss
  import geopandas

  with provenance.replacing(out / 'index.faiss') as partial:
    faiss.write_index(searcher, str(partial))
  frame = geopandas.GeoDataFrame(table, geometry='geometry', crs=4326)
  frame = frame.astype({'source': 'int32', 'row': 'int64', 'col': 'int64', 'id': str, 'time': str})
  with provenance.replacing(out / 'rows.parquet') as partial:
    frame.to_parquet(partial)


def open_index(folder: str | pathlib.Path) -> Index:
  """A finished index; ValueError if there is none, or it is damaged."""
  import faiss

  folder = pathlib.Path(folder).expanduser()
  path = folder / 'index.json'
  if not path.is_file() and (folder / 'embedding.tif').is_file():
    raise ValueError(
      f'{folder} holds an embedding and no index of it. `python -m deepsentinel.search build --embedding={folder} '
      '--out=INDEX` makes one.'
    )
  if not path.is_file():
    begun = folder.is_dir() and any(folder.iterdir())
    found = 'is not finished: run the same build again' if begun else f'is not there. {_BUILD}'
    raise ValueError(f'{path} is missing: the index {found}' + ('.' if begun else ''))
  try:
    about = json.loads(path.read_text())
    whole = all((folder / name).stat().st_size == size for name, size in about['files'].items())
  except (ValueError, KeyError, OSError) as error:
    raise ValueError(f'The index in {folder} is damaged ({error}). Remove it and build it again.') from error
  if not whole:
    raise ValueError(
      f'The index in {folder} is damaged: a file is not as long as it was. Remove it and build it again.'
    )
  return Index(folder, about, faiss.read_index(str(folder / 'index.faiss')))

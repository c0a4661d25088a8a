"""Examples of what is looked for and of what is not: points and polygons, each one group of cells of a map."""

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse
import scipy.sparse.csgraph
import shapely

from deepsentinel.embedding import cells, places

_POSITIVE, _NEGATIVE = {'1', 'positive', 'true'}, {'0', 'negative', 'false'}
_ALLOWED = '1 or positive, 0 or negative'


@dataclasses.dataclass(frozen=True)
class Examples:
  """Cells with an answer.

  Attributes:
    vectors: unit, float32 [n, E], of n cells.
    label: bool [n], whether positive.
    group: int64 [n], the example a cell is of, from 0; examples of one answer that share a cell, or a cell that the
      means of both take in, are one.
    geometry: of every feature that was read, WGS84.
    positive: bool, of every feature.
    used: bool, whether a feature holds a cell with an embedding.
  """

  vectors: np.ndarray
  label: np.ndarray
  group: np.ndarray
  geometry: Sequence[shapely.Geometry]
  positive: np.ndarray
  used: np.ndarray

  @property
  def sha256(self) -> str:
    """Of what was read; a file's own would not change with a side file (.dbf, -wal) that holds the answers."""
    return hashlib.sha256(b''.join(shapely.to_wkb(list(self.geometry))) + self.positive.tobytes()).hexdigest()

  def groups(self, positive: bool) -> np.ndarray:
    """Numbers of the groups of one answer."""
    return np.unique(self.group[self.label == positive])


def read(path: str | os.PathLike, layer: str, column: str, there: cells.CellMap) -> Examples:
  """The examples of a vector file on the cells of a map.

  Args:
    path: of the file. layer: its name; '' where there is only one.
    column: whose value says whether a feature is positive.
    there: whose cells.
  Raises:
    ValueError: no such column (lists those there are), other labels, examples outside the map or where it has no data,
      none of one kind, or one cell that is said to be both.
  """
  frame = places.read(path, layer)
  if column not in frame:
    have = ', '.join(str(name) for name in frame.columns if name != 'geometry') or 'none'
    raise ValueError(f'{path} has no column {column!r}. Columns: {have}. Name one with --label=..., or add it.')
  return _on_cells(list(frame.geometry), _labels(frame[column].tolist(), column, path), there, str(path), column)


def of_points(
  positive: Sequence[tuple[float, float]], negative: Sequence[tuple[float, float]], there: cells.CellMap
) -> Examples:
  """Examples given as longitude and latitude in degrees; ValueError as `read`."""
  geometry = [shapely.Point(*place) for place in (*positive, *negative)]
  label = np.arange(len(geometry)) < len(positive)
  return _on_cells(geometry, label, there, 'The command line', '')


def _on_cells(
  geometry: list[shapely.Geometry], positive: np.ndarray, there: cells.CellMap, path: str, column: str
) -> Examples:
  """The cells of features in WGS84; `path` and `column` are for messages, '' of the command line."""
  held = [np.column_stack(there.holding(g)) for g in geometry]
  feature = np.repeat(np.arange(len(held)), [len(h) for h in held])
  if not len(feature):
    of = f' of {path}' if column else ''
    raise ValueError(
      f'All {len(held)} examples{of} lie outside {there.path}, whose cells lie within {_extent(there)} '
      '(west,south,east,north). Give examples there, or embed the area that they are in.'
    )
  cell = np.concatenate(held)
  vectors = there.at(cell[:, 0], cell[:, 1])
  known = np.isfinite(vectors[:, 0])
  feature, cell, vectors = feature[known], cell[known], vectors[known]
  used = np.isin(np.arange(len(held)), feature)
  for kind, name, other in ((True, 'positive', '1'), (False, 'negative', '0')):
    if not (used & (positive == kind)).any():
      outside = int((positive == kind).sum())
      lost = f' ({outside} lie outside the map, or where it has no data)' if outside else ''
      mend = f'one with {column} = {other}' if column else f'--{name}=LON,LAT'
      hint = '' if kind else ' With positive ones alone `python -m deepsentinel.search --polygon=FILE` ranks places.'
      raise ValueError(
        f'{path} holds no {name} example within {there.path}{lost}. Add {mend}: what is looked '
        f'for is told from what is not.{hint}'
      )
  _, first, number = np.unique(cell[:, 0] * there.cols + cell[:, 1], return_index=True, return_inverse=True)
  _require_one_answer(number, feature, positive, path)
  group = _groups(cell, feature, positive, there.mean_cells)
  return Examples(vectors[first], positive[feature[first]], group[feature[first]], geometry, positive, used)


def _labels(values: list[Any], column: str, path: str | os.PathLike) -> np.ndarray:
  out = []
  for i, value in enumerate(values):
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip().lower()
    if text not in _POSITIVE | _NEGATIVE:
      raise ValueError(f'{path}, feature {i + 1}: {column} is {value!r}. Allowed: {_ALLOWED}.')
    out.append(text in _POSITIVE)
  return np.array(out, bool)


def _members(number: np.ndarray, feature: np.ndarray, features: int) -> scipy.sparse.csr_array:
  """int32 [features, cells]: above 0 where a feature holds the cell of that number."""
  shape = (features, int(number.max()) + 1)
  return scipy.sparse.csr_array((np.ones(len(number), np.int32), (feature, number)), shape)


def _require_one_answer(number: np.ndarray, feature: np.ndarray, positive: np.ndarray, path: str) -> None:
  """ValueError where features of both answers hold one cell; `number` of every cell of `feature`."""
  member = _members(number, feature, len(positive))
  both = (member[positive].sum(0) > 0) & (member[~positive].sum(0) > 0)
  if both.any():
    features = np.unique(feature[np.isin(number, np.flatnonzero(both))]) + 1
    raise ValueError(
      f'{path}: features {", ".join(map(str, features[:6]))} say of one cell that it is positive and negative. Move '
      'them apart, or remove one.'
    )


def _groups(cell: np.ndarray, feature: np.ndarray, positive: np.ndarray, mean_cells: int) -> np.ndarray:
  """int64: the group of every feature; those of one answer are in one where their means share a cell.

  Args:
    cell: int64 [n, 2], row and col. feature: int64 [n], whose cell it is.
    positive: bool, of every feature.
    mean_cells: side of the square of cells whose mean a vector is.
  """
  steps = np.arange(mean_cells) - mean_cells // 2
  around = np.stack(np.meshgrid(steps, steps), -1).reshape(1, -1, 2)
  taken_in = (cell[:, None] + around).reshape(-1, 2)  # [n * mean_cells ** 2, 2]
  _, number = np.unique(taken_in @ [int(taken_in[:, 1].max()) + mean_cells, 1], return_inverse=True)
  member = _members(number, np.repeat(feature, mean_cells**2), len(positive))
  joined = (member @ member.T).tocoo()
  same = positive[joined.row] == positive[joined.col]
  joined = scipy.sparse.coo_array((joined.data[same], (joined.row[same], joined.col[same])), joined.shape)
  _, group = scipy.sparse.csgraph.connected_components(joined, directed=False)
  return group.astype(np.int64)


def _extent(there: cells.CellMap) -> str:
  row, col = np.array([0, 0, there.rows - 1, there.rows - 1]), np.array([0, there.cols - 1, 0, there.cols - 1])
  return places.box(*there.centres_lonlat(row, col))

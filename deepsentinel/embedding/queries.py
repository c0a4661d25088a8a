"""What is searched for: a point, a polygon or a row of an index, as one unit vector."""

import dataclasses

import numpy as np
import shapely

from deepsentinel.data import distances
from deepsentinel.embedding import cells, places
from deepsentinel.embedding.index import Index
from deepsentinel.sources import base


@dataclasses.dataclass(frozen=True)
class Query:
  """One query.

  Attributes:
    name: how the user named it.
    vector: unit, float32 [E]: the direction of the mean of its rows' unit vectors.
    lon_deg, lat_deg: its middle, WGS84.
    geometry: in WGS84.
    own: int64 numbers of the rows of the index that it is made of; empty where it lies in another map.
    averaged: rows that went into the vector.
    agreement: length of the mean of their unit vectors: 1 where all are alike, near 0 where nothing is.
  """

  name: str
  vector: np.ndarray
  lon_deg: float
  lat_deg: float
  geometry: shapely.Geometry
  own: np.ndarray
  averaged: int
  agreement: float


def _query(name: str, vectors: np.ndarray, geometry: shapely.Geometry, own: np.ndarray) -> Query:
  mean = vectors.astype(np.float64).mean(0)
  middle = shapely.centroid(base.join_antimeridian(geometry))
  lon = (middle.x + 180) % 360 - 180
  return Query(name, cells.unit(mean), lon, middle.y, geometry, own, len(vectors), float(np.linalg.norm(mean)))


def parse_point(text: str, flag: str = '--point') -> tuple[float, float]:
  """Longitude and latitude of 'LON,LAT'; ValueError where it is none."""
  try:
    lon, lat = map(float, text.split(','))
  except ValueError:
    lon, lat = np.nan, np.nan
  if not (abs(lon) <= 180 and abs(lat) <= 90):
    raise ValueError(f'{flag}={text} is no LON,LAT in degrees (WGS84), such as 11.98,52.53.')
  return lon, lat


def at_point(index: Index, lon_deg: float, lat_deg: float) -> Query:
  """The row that holds a place; the mean over sources where several do.

  Raises:
    ValueError: no row holds it; says where the rows lie.
  """
  point = shapely.Point(lon_deg, lat_deg)
  number = np.flatnonzero(shapely.intersects(index.rows.geometry.to_numpy(), point))
  if not len(number):
    raise ValueError(_outside(index, f'Point {lon_deg:g},{lat_deg:g}'))
  number = _nearest_of_each_source(index, number, point)
  return _query(f'point {lon_deg:g},{lat_deg:g}', index.vectors(number), point, number)


def in_polygon(index: Index, polygon: shapely.Geometry, name: str) -> Query:
  """The rows whose centres lie in a WGS84 polygon; where none does, the one that holds a point of it.

  Raises:
    ValueError: it holds no row; says where the rows lie.
  """
  shapely.prepare(polygon)
  number = np.flatnonzero(shapely.contains_xy(polygon, index.rows['lon_deg'], index.rows['lat_deg']))
  if not len(number):
    point = shapely.point_on_surface(polygon)
    number = np.flatnonzero(shapely.intersects(index.rows.geometry.to_numpy(), point))
    number = _nearest_of_each_source(index, number, point)
  if not len(number):
    raise ValueError(_outside(index, f'The polygon of {name}'))
  return _query(f'polygon of {name}', index.vectors(number), polygon, number)


def of_row(index: Index, id: str) -> Query:
  """The row of this id.

  Raises:
    ValueError: there is none; names some that there are.
  """
  ids = index.rows['id'].to_numpy()
  number = np.flatnonzero(ids == id)
  if not len(number):
    raise ValueError(
      f'--patch={id} is not in the index. It has {len(ids):,} rows, such as {", ".join(map(str, ids[:3]))}; '
      'rows.parquet lists them.'
    )
  return _query(str(id), index.vectors(number[:1]), index.rows.geometry.iloc[number[0]], number[:1])


def in_another_map(index: Index, other: cells.CellMap, geometry: shapely.Geometry, name: str) -> Query:
  """The cells of another embedding that a WGS84 point or polygon holds.

  Raises:
    ValueError: it is of another checkpoint or of other dimensions than the index, or the place lies outside it.
  """
  if other.checkpoint_sha256 != index.checkpoint_sha256:
    raise ValueError(
      f'{other.path} is of checkpoint {other.checkpoint_sha256[:12]}, the index of {index.checkpoint_sha256[:12]}: '
      'vectors of two models cannot be compared. Embed it with the checkpoint of the index, or build an index of it.'
    )
  if other.features != index.about['features']:
    raise ValueError(
      f'{other.path} has vectors of {other.features} dimensions, the index of {index.about["features"]}: one of them '
      'is not what it says. Embed it again and build the index again.'
    )
  row, col = other.holding(geometry)
  vectors = other.at(row, col)
  vectors = vectors[np.isfinite(vectors[:, 0])]
  if not len(vectors):
    raise ValueError(f'{name} lies outside {other.path}, or where it has no data. Give a place in its area.')
  return _query(name, vectors, geometry, np.zeros(0, np.int64))


def _nearest_of_each_source(index: Index, number: np.ndarray, point: shapely.Point) -> np.ndarray:
  """Of the rows that hold a point, as on the border of two cells, the one with the nearest centre; one a source."""
  rows = index.rows.iloc[number]
  away = distances.geodesic_km(
    np.full(len(rows), point.x), np.full(len(rows), point.y), rows['lon_deg'].to_numpy(), rows['lat_deg'].to_numpy()
  )
  order = np.argsort(away, kind='stable')
  _, first = np.unique(rows['source'].to_numpy()[order], return_index=True)
  return np.sort(number[order[first]])


def _outside(index: Index, what: str) -> str:
  box = places.box(index.rows['lon_deg'].to_numpy(), index.rows['lat_deg'].to_numpy())
  return (
    f'{what} lies in no row of the index, whose {len(index):,} rows lie within {box} (west,south,east,north; nodata '
    'left out). Give a place there, or build the index of a map that holds it.'
  )

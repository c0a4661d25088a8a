"""What a search finds: ranked rows, thinned out; as a table, vectors and a map of similarity."""

import dataclasses
import pathlib
from typing import Any

import numpy as np
import shapely

from deepsentinel import provenance
from deepsentinel.data import distances
from deepsentinel.embedding import cells, places
from deepsentinel.embedding import index as index_lib
from deepsentinel.embedding.index import Index
from deepsentinel.embedding.queries import Query
from deepsentinel.sources import base

MIN_KM, APART_KM = 0.5, 0.5  # three cells of 160 m
COLUMNS = ('rank', 'similarity', 'distance_km', 'lon_deg', 'lat_deg', 'id', 'source', 'time')
_FIRST = 1024  # rows asked of an approximate index at first


@dataclasses.dataclass(frozen=True)
class Found:
  """Rows in order.

  Attributes:
    number: int64 [n], of rows of the index; fewer than asked for where thinning leaves no more.
    similarity: float32 [n], cosine.
    distance_km: float64 [n], from the query to the row's centre; 0 within a polygon that is searched for.
  """

  number: np.ndarray
  similarity: np.ndarray
  distance_km: np.ndarray


def rank(index: Index, query: Query, k: int, *, min_km: float = MIN_KM, apart_km: float = APART_KM) -> Found:
  """The k rows most like the query that are neither it nor near it, and not near each other.

  Args:
    index: where to search.
    query: what for.
    k: rows wanted.
    min_km: rows nearer to the query are passed over; its own rows are in any case.
    apart_km: rows nearer to a better one are passed over.
  Raises:
    ValueError: more rows are wanted than there are.
  """
  available = len(index) - len(query.own)
  if not 1 <= k <= available:
    raise ValueError(f'--k={k}: the index has {available:,} rows beside the query. Pass --k=1 to {available}.')
  lon, lat = index.rows['lon_deg'].to_numpy(), index.rows['lat_deg'].to_numpy()
  wanted = len(index) if index.exact else min(_FIRST, len(index))
  while True:
    similarity, number = index.nearest(query.vector, wanted)
    away = _away(query, index, number)
    allowed = ~np.isin(number, query.own) & (away >= min_km)
    chosen = _apart(lon[number], lat[number], allowed, k, apart_km)
    if len(chosen) == k or len(number) == len(index):
      return Found(number[chosen], similarity[chosen], away[chosen])
    # Fewer than asked for: the lists that an approximate search looks through hold no more. Then all are compared.
    wanted = min(8 * wanted, len(index)) if len(number) == wanted else len(index)


def _away(query: Query, index: Index, number: np.ndarray) -> np.ndarray:
  """km from the query to each row: from a polygon's nearest corner, 0 within it."""
  lon, lat = (index.rows[name].to_numpy()[number] for name in ('lon_deg', 'lat_deg'))
  if query.geometry.geom_type in ('Point', 'MultiPoint') or len(query.own) == 1:
    return distances.geodesic_km(np.full(len(lon), query.lon_deg), np.full(len(lon), query.lat_deg), lon, lat)
  # The nearest point of the polygon is looked for in a plane about its middle, whose scale is everywhere nearly true.
  plane = f'+proj=aeqd +lon_0={query.lon_deg} +lat_0={query.lat_deg} +datum=WGS84 +units=m'
  to_plane = base.transformer(4326, plane)
  polygon = shapely.transform(query.geometry, lambda xy: np.column_stack(to_plane.transform(xy[:, 0], xy[:, 1])))
  shapely.prepare(polygon)
  # [N, 2, 2]: that point, and the row.
  lines = shapely.shortest_line(polygon, shapely.points(*to_plane.transform(lon, lat)))
  x, y = shapely.get_coordinates(lines).T
  ends = np.column_stack(base.transformer(plane, 4326).transform(x, y)).reshape(-1, 2, 2)
  return distances.geodesic_km(ends[:, 0, 0], ends[:, 0, 1], ends[:, 1, 0], ends[:, 1, 1])


def _apart(lon: np.ndarray, lat: np.ndarray, allowed: np.ndarray, k: int, apart_km: float) -> np.ndarray:
  """Places of at most k rows, best first, each at least `apart_km` from those before it."""
  chosen: list[int] = []
  left = allowed.copy()
  at = 0
  while len(chosen) < k:
    at += int(np.argmax(left[at:])) if left[at:].any() else len(left)
    if at >= len(left):
      break
    chosen.append(at)
    left[at] = False
    if apart_km > 0:
      rest = at + np.flatnonzero(left[at:])
      # Degrees of latitude first: the geodesic only of those that can be near.
      rest = rest[np.abs(lat[rest] - lat[at]) <= apart_km / 110]
      near = distances.geodesic_km(np.full(len(rest), lon[at]), np.full(len(rest), lat[at]), lon[rest], lat[rest])
      left[rest[near < apart_km]] = False
  return np.array(chosen, np.int64)


def table(index: Index, found: Found):
  """GeoDataFrame of the rows found, WGS84, with COLUMNS."""
  rows = index.rows.iloc[found.number]
  names = np.array([source['name'] for source in index.about['sources']], object)
  frame = rows[['lon_deg', 'lat_deg', 'id', 'time', 'geometry']].reset_index(drop=True)
  frame = frame.assign(
    rank=np.arange(1, len(rows) + 1),
    similarity=found.similarity,
    distance_km=found.distance_km,
    source=names[rows['source'].to_numpy()],
  )
  return frame[[*COLUMNS, 'geometry']]


def write_tables(index: Index, query: Query, found: Found, out: pathlib.Path) -> None:
  """results.csv, and results.gpkg with the layers 'results' and 'query'."""
  import geopandas

  frame = table(index, found)
  text = frame.drop(columns='geometry').to_csv(index=False, float_format='%.6f')
  with provenance.whole(out / 'results.csv') as file:
    file.write(text.encode())
  about = {'name': [query.name], 'averaged': [query.averaged], 'agreement': [query.agreement]}
  asked = geopandas.GeoDataFrame(about, geometry=[query.geometry], crs=4326)
  places.write(out / 'results.gpkg', {'results': frame, 'query': asked})


@dataclasses.dataclass(frozen=True)
class SimilarityMap:
  """The cosine of a query and every cell of one source.

  Attributes:
    name: of the source.
    map: its grid.
    similarity: float32 [rows, cols], NaN where there is no embedding.
  """

  name: str
  map: cells.CellMap
  similarity: np.ndarray


def similarity_maps(index: Index, query: Query) -> list[SimilarityMap]:
  """One for each source of cells; none for an index of patches."""
  sources = index.about['sources']
  if not any(source['kind'] == 'map' for source in sources):
    return []
  everything = index.similarities(query.vector)
  number, row, col = (index.rows[name].to_numpy() for name in ('source', 'row', 'col'))
  out = []
  for i, source in enumerate(sources):
    if source['kind'] == 'map':
      grid = index_lib.map_of(source, index.about['mean_cells'])
      layer = np.full((grid.rows, grid.cols), np.nan, np.float32)
      own = number == i
      layer[row[own], col[own]] = everything[own]
      out.append(SimilarityMap(source['name'], grid, layer))
  return out


def write_similarity(found: SimilarityMap, query: Query, index: Index, out: pathlib.Path) -> pathlib.Path:
  """similarity_NAME.tif on the embedding's own cells."""
  tags = {
    'query': query.name, 'metric': 'cosine', 'checkpoint_sha256': index.checkpoint_sha256,
    'mean_cells': str(index.about['mean_cells']), 'synthetic': str(index.synthetic).lower(),
  }  # fmt: skip
  return cells.write_map(out / f'similarity_{found.name}.tif', found.map, {'similarity': found.similarity}, tags)


def describe(index: Index, query: Query, found: Found, k: int, min_km: float, apart_km: float) -> dict[str, Any]:
  """What search.json says, but for the chips."""
  return {
    'query': {
      'name': query.name, 'lon_deg': query.lon_deg, 'lat_deg': query.lat_deg, 'rows': query.averaged,
      'agreement': query.agreement,
    },
    'k': k, 'found': len(found.number), 'min_km': min_km, 'apart_km': apart_km,
    'index': {key: index.about[key] for key in ('checkpoint_sha256', 'rows', 'features', 'metric', 'search')},
    'cells': f'means of {index.about["mean_cells"]} x {index.about["mean_cells"]} cells',
    'sources': [source['name'] for source in index.about['sources']],
    'synthetic': index.synthetic,
  }  # fmt: skip

"""Which points lie near which on the Earth, by geodesics of WGS84."""

import concurrent.futures
import dataclasses
import os

import numpy as np
import pyproj
import scipy.spatial

KM_PER_DEGREE = 111.195  # of arc, on the sphere of the Earth's mean radius
# Smallest radius of curvature of WGS84 (of the meridian, at the equator). A geodesic is never shorter than this times
# the angle between the two points drawn on a unit sphere, so a search by that angle misses nothing.
_MIN_RADIUS_KM = 6335.439
_GEOD_CHUNK = 100_000  # pairs given to PROJ at once, about 10 MB
_MAX_PAIRS = 200_000_000  # about 5 GB of table


def _checked(lon_deg: np.ndarray, lat_deg: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  lon, lat = np.asarray(lon_deg, np.float64), np.asarray(lat_deg, np.float64)
  if lon.ndim != 1 or lon.shape != lat.shape:
    raise ValueError(f'Longitudes and latitudes must be two lists of one length; found {lon.shape} and {lat.shape}.')
  for name, values, limit in (('longitude', lon, 180), ('latitude', lat, 90)):
    wrong = np.flatnonzero(~(np.abs(values) <= limit))  # also where it is NaN
    if wrong.size:
      raise ValueError(
        f'Point {wrong[0]} has {name} {values[wrong[0]]}; allowed are finite degrees from {-limit} to {limit} (WGS84). '
        f'{wrong.size} of {values.size} points are wrong.'
      )
  return lon, lat


def _unit_vectors(lon_deg: np.ndarray, lat_deg: np.ndarray) -> np.ndarray:
  lon, lat = np.radians(lon_deg), np.radians(lat_deg)
  return np.column_stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])  # [N, 3]


def _search_chord(distance_km: float) -> float:
  """Chord of the unit sphere that no pair within `distance_km` exceeds."""
  angle = min(distance_km / _MIN_RADIUS_KM, np.pi)
  return 2 * np.sin(angle / 2) * (1 + 1e-12) + 1e-12


def geodesic_km(lon_a: np.ndarray, lat_a: np.ndarray, lon_b: np.ndarray, lat_b: np.ndarray) -> np.ndarray:
  """float64 [M]: WGS84 geodesic distance of each pair, km."""
  geod = pyproj.Geod(ellps='WGS84')
  out = np.empty(len(lon_a), np.float64)

  def measure(start: int) -> None:
    part = slice(start, start + _GEOD_CHUNK)
    out[part] = geod.inv(lon_a[part], lat_a[part], lon_b[part], lat_b[part])[2]

  if len(out) <= _GEOD_CHUNK:
    if len(out):
      measure(0)
  else:  # PROJ releases the interpreter
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
      list(pool.map(measure, range(0, len(out), _GEOD_CHUNK)))
  return out / 1000


@dataclasses.dataclass(frozen=True)
class NeighbourTable:
  """Neighbours of every point, row after row (CSR).

  Attributes:
    offsets: int64 [N+1]; the neighbours of point i are entries offsets[i] to offsets[i+1].
    index: int32 [M], ascending within a row; a point is never its own neighbour, its duplicates are.
    distance_km: float32 [M].
    nearest_km: float32 [N], distance of the nearest neighbour; inf where a point has none.
    max_distance_km: the radius.
  """

  offsets: np.ndarray
  index: np.ndarray
  distance_km: np.ndarray
  nearest_km: np.ndarray
  max_distance_km: float

  def __len__(self) -> int:
    return len(self.offsets) - 1

  @property
  def counts(self) -> np.ndarray:
    """int64 [N]: neighbours of each point."""
    return np.diff(self.offsets)

  @property
  def mean_nearest_km(self) -> float:
    """Mean distance to the nearest neighbour over the points that have one; NaN where none has."""
    nearest = self.nearest_km[np.isfinite(self.nearest_km)]
    return float(nearest.mean(dtype=np.float64)) if nearest.size else float('nan')

  def row_of_entry(self) -> np.ndarray:
    """int32 [M]: the point that each entry belongs to."""
    return np.repeat(np.arange(len(self), dtype=np.int32), self.counts)

  def keep(self, entries: np.ndarray) -> 'NeighbourTable':
    """The table with only the entries where bool [M] `entries` holds."""
    kept = np.concatenate([[0], np.cumsum(entries)])
    offsets = kept[self.offsets]
    distance = self.distance_km[entries]
    return dataclasses.replace(
      self, offsets=offsets, index=self.index[entries], distance_km=distance, nearest_km=_row_minimum(offsets, distance)
    )


def _row_minimum(offsets: np.ndarray, values: np.ndarray) -> np.ndarray:
  out = np.full(len(offsets) - 1, np.inf, np.float32)
  filled = np.flatnonzero(np.diff(offsets))
  if filled.size:
    out[filled] = np.minimum.reduceat(values, offsets[filled])
  return out


def nearest_neighbours(
  lon_deg: np.ndarray, lat_deg: np.ndarray, max_distance_deg: float = 1.0, *, max_distance_km: float | None = None
) -> NeighbourTable:
  """Geodesic neighbours of every point, as Tile2Vec draws them (paper, section 4).

  Candidates come from a k-d tree on the unit sphere, so that the poles and the antimeridian are like any other place;
  their distances are geodesics of WGS84.

  Args:
    lon_deg, lat_deg: float64 [N], WGS84.
    max_distance_deg: the radius in degrees of arc, 111.195 km each.
    max_distance_km: the radius in km, instead of degrees; a neighbour at exactly this distance counts.
  Returns:
    NeighbourTable over the N points.
  Raises:
    ValueError: if a coordinate is not finite or out of range (names its row), the radius is negative or not finite,
      or the table would not fit in memory.
  """
  lon, lat = _checked(lon_deg, lat_deg)
  radius_km = max_distance_deg * KM_PER_DEGREE if max_distance_km is None else float(max_distance_km)
  if not 0 <= radius_km < np.inf:
    raise ValueError(f'max_distance_km is {radius_km}; a radius is a finite number of km, 0 or more.')
  if len(lon) == 0:
    no_km = np.zeros(0, np.float32)
    return NeighbourTable(np.zeros(1, np.int64), np.zeros(0, np.int32), no_km, no_km, radius_km)
  tree = scipy.spatial.cKDTree(_unit_vectors(lon, lat))
  chord = _search_chord(radius_km)
  pairs = int(tree.count_neighbors(tree, chord)) - len(lon)
  if pairs > _MAX_PAIRS:
    raise ValueError(
      f'{len(lon)} points have {pairs} pairs within max_distance_km={radius_km:g}, {pairs / len(lon):.0f} neighbours '
      f'each; the table holds {_MAX_PAIRS}. Choose a smaller max_distance_km: the points are denser than it needs.'
    )
  a, b = tree.query_pairs(chord, output_type='ndarray').T
  distance = geodesic_km(lon[a], lat[a], lon[b], lat[b])
  near = distance <= radius_km
  a, b, distance = a[near].astype(np.int32), b[near].astype(np.int32), distance[near].astype(np.float32)
  # Each pair serves both points.
  row, index, distance = np.concatenate([a, b]), np.concatenate([b, a]), np.concatenate([distance, distance])
  order = np.argsort(row.astype(np.int64) * len(lon) + index)  # no two are the same
  offsets = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(lon)))]).astype(np.int64)
  distance = distance[order]
  return NeighbourTable(offsets, index[order], distance, _row_minimum(offsets, distance), radius_km)


def mean_nearest_neighbour_km(lon_deg: np.ndarray, lat_deg: np.ndarray) -> float:
  """Mean geodesic distance from each point to its nearest other point, however far; NaN for fewer than two points.

  For 100,000 points uniform by area on land the paper has 18.2 km, and 18.8 km is expected (Antarctica left out).
  """
  lon, lat = _checked(lon_deg, lat_deg)
  if len(lon) < 2:
    return float('nan')
  xyz = _unit_vectors(lon, lat)
  # The nearest on the sphere need not be the nearest on the ellipsoid, but it is among the nearest few.
  candidates = min(9, len(lon))
  index = scipy.spatial.cKDTree(xyz).query(xyz, k=candidates)[1]  # [N, candidates]
  row = np.repeat(np.arange(len(lon)), candidates)
  distance = geodesic_km(lon[row], lat[row], lon[index.ravel()], lat[index.ravel()]).reshape(index.shape)
  distance[index == np.arange(len(lon))[:, None]] = np.inf
  return float(distance.min(axis=1).mean())


def exclude_near(
  lon_deg: np.ndarray, lat_deg: np.ndarray, held_lon_deg: np.ndarray, held_lat_deg: np.ndarray, km: float
) -> np.ndarray:
  """Points to keep so that nothing trained on lies within `km` of a held-out point.

  Args:
    lon_deg, lat_deg: float64 [N], WGS84.
    held_lon_deg, held_lat_deg: float64 [M], the held-out points (validation and test patches).
    km: geodesic distance; a point at exactly this distance goes.
  Returns:
    bool [N], False within `km` of any held-out point.
  """
  lon, lat = _checked(lon_deg, lat_deg)
  held_lon, held_lat = _checked(held_lon_deg, held_lat_deg)
  keep = np.ones(len(lon), bool)
  if not 0 <= km < np.inf:
    raise ValueError(f'exclude_km is {km}; a distance is a finite number of km, 0 or more.')
  if len(lon) == 0 or len(held_lon) == 0:
    return keep
  tree = scipy.spatial.cKDTree(_unit_vectors(lon, lat))
  found = tree.query_ball_point(_unit_vectors(held_lon, held_lat), _search_chord(km))
  held = np.repeat(np.arange(len(held_lon)), [len(f) for f in found])
  point = np.fromiter((i for f in found for i in f), np.int64, len(held))
  near = geodesic_km(lon[point], lat[point], held_lon[held], held_lat[held]) <= km
  keep[point[near]] = False
  return keep

"""Which patches lie near which, and the laws by which Tile2Vec draws a neighbour and a distant patch.

Tile2Vec (paper, section 4; Jean et al. 2019) needs, for every patch (the anchor), a neighbour and a distant patch. The
neighbours of a point are all points within a geodesic radius; the distant patch comes from all the others.
"""

import dataclasses
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import pyproj
import scipy.spatial

KM_PER_DEGREE = 111.195  # of arc, on the sphere of the Earth's mean radius
# Smallest radius of curvature of WGS84 (of the meridian, at the equator). A geodesic is never shorter than this times
# the angle between the two points drawn on a unit sphere, so a search by that angle misses nothing.
_MIN_RADIUS_KM = 6335.439
_GEOD_CHUNK = 1_000_000  # pairs given to PROJ at once, about 100 MB
_MAX_PAIRS = 200_000_000  # about 5 GB of table

LAWS = ('near', 'literal', 'uniform', 'other_acquisition', 'same_patch')
# Two sensing times of one pass differ by less than half of Sentinel-2's orbit of 100 minutes.
_SAME_PASS_SECONDS = 50 * 60


def generator(seed: int, stream: str, step: int = 0) -> np.random.Generator:
  """A NumPy generator that depends on nothing but (seed, name of the stream, step)."""
  return np.random.default_rng([seed & 0xFFFFFFFF, zlib.crc32(stream.encode()), step])


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
  for start in range(0, len(out), _GEOD_CHUNK):
    part = slice(start, start + _GEOD_CHUNK)
    out[part] = geod.inv(lon_a[part], lat_a[part], lon_b[part], lat_b[part])[2] if len(out[part]) else 0
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
  order = np.argsort(row.astype(np.int64) * len(lon) + index, kind='stable')
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


def same_acquisition(scene: np.ndarray, time: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Which pairs of patches were sensed in one pass of the satellite.

  Args:
    scene: str [N], scene ids, '' where unknown.
    time: int64 [N], sensing time in seconds, -1 where unknown.
    a, b: int [M], the pairs.
  Returns:
    bool [M]: same scene, or sensed within 50 minutes (half an orbit). Tiles of one pass are different scenes, so the
    id alone does not tell. Pairs of which neither is known count as the same.
  """
  code = np.unique(np.asarray(scene, str), return_inverse=True)[1]
  named = np.asarray(scene, str) != ''
  time = np.asarray(time, np.int64)
  timed = (time[a] >= 0) & (time[b] >= 0)
  scenes_known = named[a] & named[b]
  same_scene = scenes_known & (code[a] == code[b])
  return same_scene | np.where(timed, np.abs(time[a] - time[b]) < _SAME_PASS_SECONDS, ~scenes_known)


@dataclasses.dataclass(frozen=True)
class NeighbourSampler:
  """Draws a neighbour and a distant patch for any batch of anchors; make it with `from_points` or `from_records`.

  A point without a neighbour stays an anchor, so that every record is seen once an epoch: its neighbour is then the
  point itself, of which the batch reader takes a second crop. Under 'other_acquisition' a point whose neighbours are
  all of its own acquisition draws among those. `realised` says how often either happens.

  Attributes:
    table: neighbours that the law may draw.
    law: one of LAWS.
    scale_km: length of the softmax of 'near' and 'other_acquisition'.
    probability: float64 [M], of each entry of `table` within its row.
    same: bool [M], entry is of the anchor's own acquisition; None where the records do not tell.
  """

  table: NeighbourTable
  law: str
  scale_km: float
  probability: np.ndarray
  same: np.ndarray | None
  # Entries in the order of draws, as one ascending list: number of the row + cumulative probability within the row.
  _cumulative: np.ndarray
  _rank: np.ndarray  # int64 [N]: number of the row among those that have neighbours
  # Sorted ids that must not be drawn as distant (neighbours and the point itself), again as one ascending list.
  _barred_offsets: np.ndarray
  _barred_key: np.ndarray

  def __len__(self) -> int:
    return len(self.table)

  @classmethod
  def from_points(
    cls,
    lon_deg: np.ndarray,
    lat_deg: np.ndarray,
    *,
    law: str = 'near',
    scale_km: float | str = 'auto',
    max_distance_km: float = KM_PER_DEGREE,
    scene: Sequence[str] | None = None,
    time: Sequence[int] | None = None,
  ) -> 'NeighbourSampler':
    """Sampler over N points.

    Args:
      lon_deg, lat_deg: float64 [N], WGS84.
      law: 'near': softmax of minus distance over `scale_km`. 'literal': softmax of the distance in km, the paper's
        sentence taken literally, which draws the farthest. 'uniform'. 'other_acquisition': as 'near', among
        neighbours sensed in another pass. 'same_patch': the point itself, for a second crop of it.
      scale_km: a length, or 'auto': the points' mean nearest-neighbour distance.
      max_distance_km: radius within which a point is a neighbour; the distant patch comes from beyond it.
      scene, time: str [N] and int64 [N]: scene ids ('' unknown) and sensing times in seconds (-1 unknown).
    Raises:
      ValueError: unknown law; bad scale; no point beyond `max_distance_km` of some anchor; 'other_acquisition'
        without scenes and times.
    """
    if law not in LAWS:
      raise ValueError(f'Unknown neighbour law {law!r}. Known: {", ".join(LAWS)}.')
    table = nearest_neighbours(lon_deg, lat_deg, max_distance_km=max_distance_km)
    _require_distant(table)
    scale = table.mean_nearest_km if scale_km == 'auto' else _scale(scale_km)

    n = len(table)
    row = table.row_of_entry()
    barred_offsets = table.offsets + np.arange(n + 1)
    barred = np.sort(np.concatenate([_pair_key(row, table.index, n), np.arange(n) * (n + 1)]))
    # Of a row's ascending barred ids e, e[i] - i allowed ids lie below e[i]; and 0 <= e[i] - i < N.
    barred_row, barred_id = np.divmod(barred, n)
    barred_key = _pair_key(barred_row, barred_id - (np.arange(len(barred)) - barred_offsets[barred_row]), n)

    same = _same_entries(table, scene, time)
    if law == 'other_acquisition':
      if same is None:
        raise ValueError(
          "neighbour='other_acquisition' needs scene ids or sensing times; these records have neither. Use 'near'."
        )
      has_other = np.zeros(len(table), bool)
      has_other[row[~same]] = True
      entries = ~same | ~has_other[row]
      table, same = table.keep(entries), same[entries]
    elif law == 'same_patch':
      entries = np.zeros(len(table.index), bool)
      table, same = table.keep(entries), None if same is None else same[entries]
    probability = _probability(table, law, scale)
    filled = table.counts > 0
    rank: np.ndarray = np.cumsum(filled) - filled
    cumulative = np.cumsum(probability)
    ends = table.offsets[1:][filled] - 1
    cumulative[ends] = np.arange(1, len(ends) + 1)  # each row sums to 1: rounding must not move a row's end
    return cls(table, law, float(scale), probability, same, cumulative, rank, barred_offsets, barred_key)

  @classmethod
  def from_records(cls, table, index: np.ndarray | None = None, **kwargs) -> 'NeighbourSampler':
    """Sampler over the rows of a record set's `table` (pandas), or of those that `index` names; see `from_points`.

    The sampler counts within `index`: give the same one to `batches.training_batches`.
    """
    rows = table if index is None else table.iloc[np.asarray(index)]
    sensor = 's2' if (rows['s2_scene'] != '').any() or (rows['s2_time'] >= 0).any() else 's1'
    return cls.from_points(
      rows['lon_deg'].to_numpy(),
      rows['lat_deg'].to_numpy(),
      scene=rows[f'{sensor}_scene'].to_numpy(str),
      time=rows[f'{sensor}_time'].to_numpy(),
      **kwargs,
    )

  def draw_neighbour(self, anchor: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """int32 [B]: a neighbour of each anchor, drawn by the law; the anchor itself where it has none."""
    u = rng.random(len(anchor))
    first, last = self.table.offsets[anchor], self.table.offsets[anchor + 1] - 1
    drawn = np.searchsorted(self._cumulative, self._rank[anchor] + u, side='right')
    lonely = last < first
    if lonely.all():
      return anchor.astype(np.int32)
    return np.where(lonely, anchor, self.table.index[np.clip(drawn, first * ~lonely, last * ~lonely)]).astype(np.int32)

  def draw_distant(self, anchor: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """int32 [B]: for each anchor a point beyond the radius, uniformly.

    Exact without rejection: of the k-th allowed id, k drawn uniformly, the place is found among the barred ones.
    """
    start = self._barred_offsets[anchor]
    allowed = len(self) - (self._barred_offsets[anchor + 1] - start)
    k = rng.integers(0, allowed)
    barred_below = np.searchsorted(self._barred_key, _pair_key(anchor, k, len(self)), side='right') - start
    return (k + barred_below).astype(np.int32)

  def realised(self) -> Mapping[str, float]:
    """What the law amounts to, exactly (the expectation over all anchors, not a sample).

    Returns:
      'mean_km': mean distance of the drawn neighbour; 'same_acquisition': share of drawn neighbours from the anchor's
      own acquisition (NaN where unknown), both over anchors that have a neighbour; 'without_neighbour': share of
      anchors that get a second crop of themselves; 'mean_neighbours': neighbours per anchor.
    """
    if self.law == 'same_patch':
      return {'mean_km': 0.0, 'same_acquisition': 1.0, 'without_neighbour': 0.0, 'mean_neighbours': 0.0}
    filled = self.table.counts > 0
    anchors = filled.sum() if filled.any() else float('nan')
    same = float('nan') if self.same is None else self.probability[self.same].sum()
    return {
      'mean_km': float(self.probability @ self.table.distance_km.astype(np.float64) / anchors),
      'same_acquisition': float(same / anchors),
      'without_neighbour': float(1 - filled.mean()),
      'mean_neighbours': float(self.table.counts.mean()),
    }


def _same_entries(table: NeighbourTable, scene: Sequence[str] | None, time: Sequence[int] | None) -> np.ndarray | None:
  """bool [M]: entry is of its row's acquisition; None where no scene and no time is known."""
  scenes = np.full(len(table), '') if scene is None else np.asarray(scene, str)
  times = np.full(len(table), -1) if time is None else np.asarray(time, np.int64)
  if not (scenes != '').any() and not (times >= 0).any():
    return None
  return same_acquisition(scenes, times, table.row_of_entry(), table.index)


def _scale(scale_km: float | str) -> float:
  try:
    if 0 <= float(scale_km) < np.inf:
      return float(scale_km)
  except ValueError:
    pass
  raise ValueError(f"neighbour_scale_km is {scale_km!r}; allowed are 'auto' and a number of km, 0 or more.")


def _pair_key(row: np.ndarray, column: np.ndarray, n: int) -> np.ndarray:
  return np.asarray(row, np.int64) * n + column


def _probability(table: NeighbourTable, law: str, scale_km: float) -> np.ndarray:
  """float64 [M]: probability of each entry within its row."""
  counts = table.counts
  filled = np.flatnonzero(counts)
  if not filled.size:
    return np.zeros(0)
  starts = table.offsets[filled]
  distance = table.distance_km.astype(np.float64)
  if law == 'uniform':
    logit = np.zeros_like(distance)
  else:
    # Distance beyond the row's most likely neighbour. A scale of 0 is the limit: only the nearest, ties shared.
    extreme = np.maximum.reduceat(distance, starts) if law == 'literal' else np.minimum.reduceat(distance, starts)
    beyond = np.abs(distance - np.repeat(extreme, counts[filled]))
    logit = -beyond / (1.0 if law == 'literal' else max(scale_km, 1e-9))
  weight = np.exp(logit)
  return weight / np.repeat(np.add.reduceat(weight, starts), counts[filled])


def _require_distant(table: NeighbourTable) -> None:
  """ValueError if some anchor has no point beyond the radius, with a radius that would do."""
  n = len(table)
  if n < 2:
    raise ValueError(f'Tile2Vec needs at least two patches, an anchor and a distant one; found {n}.')
  surrounded = np.flatnonzero(table.counts == n - 1)
  if not surrounded.size:
    return
  # The farthest neighbour of the most central anchor: any smaller radius leaves everyone a distant patch.
  limit = min(float(table.distance_km[table.offsets[i] : table.offsets[i + 1]].max()) for i in surrounded)
  who = 'Every patch has' if surrounded.size == n else f'{surrounded.size} of {n} patches (first: {surrounded[0]}) have'
  mend = f'Set --config.pretrain.tile2vec.max_distance_km below {limit:.6g}, or use' if limit > 0 else 'Use'
  raise ValueError(
    f'{who} all others within max_distance_km={table.max_distance_km:g}, so there is no distant patch to draw. '
    f'{mend} a corpus that covers more ground.'
  )

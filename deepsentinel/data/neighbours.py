"""Which patches lie near which, and the laws by which Tile2Vec draws a neighbour and a distant patch.

Tile2Vec (paper, section 4; Jean et al. 2019) needs, for every patch (the anchor), a neighbour and a distant patch. The
neighbours of a point are all points within a geodesic radius; the distant patch comes from all the others.
"""

import dataclasses
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from deepsentinel.data import distances

LAWS = ('near', 'literal', 'uniform', 'other_acquisition', 'same_patch')
# Two sensing times of one pass differ by less than half of Sentinel-2's orbit of 100 minutes.
_SAME_PASS_SECONDS = 50 * 60


def generator(seed: int, stream: str, step: int = 0) -> np.random.Generator:
  """A NumPy generator that depends on nothing but (seed, name of the stream, step)."""
  return np.random.default_rng([seed & 0xFFFFFFFF, zlib.crc32(stream.encode()), step])


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

  table: distances.NeighbourTable
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
    max_distance_km: float = distances.KM_PER_DEGREE,
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
    table = distances.nearest_neighbours(lon_deg, lat_deg, max_distance_km=max_distance_km)
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


def realised(samplers: Sequence[NeighbourSampler]) -> dict[str, float]:
  """`NeighbourSampler.realised` over the anchors of several samplers together, each of a region of its own."""
  found = [sampler.realised() for sampler in samplers]
  anchors = np.array([len(sampler) for sampler in samplers], float)
  filled = anchors * (1 - np.array([one['without_neighbour'] for one in found]))
  weights = {'mean_km': filled, 'same_acquisition': filled}

  def mean(name: str) -> float:
    weight = weights.get(name, anchors)
    values = np.array([one[name] for one in found])
    return float((values * weight)[weight > 0].sum() / weight.sum()) if weight.any() else float('nan')

  return {name: mean(name) for name in found[0]}


def _same_entries(
  table: distances.NeighbourTable, scene: Sequence[str] | None, time: Sequence[int] | None
) -> np.ndarray | None:
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


def _probability(table: distances.NeighbourTable, law: str, scale_km: float) -> np.ndarray:
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


def _require_distant(table: distances.NeighbourTable) -> None:
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

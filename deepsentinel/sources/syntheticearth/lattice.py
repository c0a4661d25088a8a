"""Deterministic noise on the sphere: integer hashing over a reduced lattice of rows of constant width.

A plane with x = R lon cos(lat) shears, a map projection has seams, and noise in three dimensions costs twice as much
and gives no rows to build fields and networks on. So the sphere is cut, as reduced Gaussian grids of weather models
are, into rows of constant height, each with a whole number of cells around the globe. A node is (row, column); every
cell is a square of nearly the same size at every latitude; the antimeridian is nothing special. Interpolation runs
along each of two rows and then between them, so the fields are continuous everywhere between the poles.

Every value is an elementwise function of its own point: no result depends on the window it was computed in.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

EARTH_RADIUS_M = 6371008.8
METRES_PER_DEGREE = EARTH_RADIUS_M * np.pi / 180
_U = np.uint32
_AT_ONCE = 1 << 15  # points times lattices whose numbers stay in the cache


def mix(h: np.ndarray) -> np.ndarray:
  """Avalanche of uint32 (the 'lowbias32' finaliser of C. Wellons)."""
  h = h ^ (h >> _U(16))
  h = h * _U(0x7FEB352D)
  h ^= h >> _U(15)
  h *= _U(0x846CA68B)
  h ^= h >> _U(16)
  return h


def hash_ints(*values) -> np.ndarray:
  """uint32 hash of broadcast integer arrays (taken modulo 2^32)."""
  h = np.asarray(0x9E3779B9, np.uint64).astype(np.uint32)
  for v in values:
    v = np.asarray(v)
    v = v if v.dtype == np.uint32 else v.astype(np.int64).astype(np.uint32)
    h = mix(np.atleast_1d((h * _U(0x85EBCA6B)) ^ v) + _U(0xC2B2AE35))
  return h


def salt_of(*names) -> int:
  """A 32-bit salt from integers and short strings; the same on every platform and in every process."""
  h = 2166136261
  for name in names:
    for byte in str(name).encode() + b'\x1f':
      h = ((h ^ byte) * 16777619) & 0xFFFFFFFF
  return int(mix(np.array([h], np.uint32))[0])


def unit(h: np.ndarray, shift: int = 0) -> np.ndarray:
  """float32 in [0, 1) from 16 bits of a hash; `shift` 0 or 16 picks which."""
  return ((h >> _U(shift)) & _U(0xFFFF)).astype(np.float32) * np.float32(1 / 65536)


def smoothstep(x: np.ndarray, low: float, high: float) -> np.ndarray:
  t = np.clip((x - low) / (high - low), 0, 1)
  return t * t * (3 - 2 * t)


def wrap_degrees(delta: np.ndarray) -> np.ndarray:
  """Longitude differences to [-180, 180]."""
  return delta - 360 * np.rint(delta / 360)


@dataclasses.dataclass
class Points:
  """Places on the sphere: float64 [N] longitude in [0, 360) and latitude, degrees."""

  lon: np.ndarray
  lat: np.ndarray

  @classmethod
  def of(cls, lon, lat) -> 'Points':
    lon, lat = np.broadcast_arrays(np.asarray(lon, np.float64), np.asarray(lat, np.float64))
    lon = lon.ravel()
    lon = np.where(lon < 0, lon + 360, lon)
    lon = np.where((lon < 0) | (lon >= 360), np.mod(lon, 360), lon)
    return cls(np.ascontiguousarray(lon), np.ascontiguousarray(lat.ravel()))

  def __len__(self) -> int:
    return len(self.lon)

  def shifted(self, east_m, north_m) -> 'Points':
    """The points moved by metres."""
    lat = np.clip(self.lat + north_m / METRES_PER_DEGREE, -89.9, 89.9)
    return Points.of(self.lon + east_m / (METRES_PER_DEGREE * np.cos(np.radians(self.lat))), lat)


class Lattice:
  """Rows of `spacing_m` metres, each cut into a whole number of cells about as wide."""

  def __init__(self, spacing_m: float, salt: int):
    self.spacing_m = float(spacing_m)
    self.salt = int(salt) & 0xFFFFFFFF
    # Rows of different lattices must not coincide: gradient noise is zero on its own nodes.
    self.phase = (self.salt % 9973) / 9973
    self.rows_per_degree = METRES_PER_DEGREE / self.spacing_m

  def row_coordinate(self, lat):
    """Rows from the equator, of latitudes in degrees (a number or an array)."""
    return lat * self.rows_per_degree + self.phase

  def row_lat(self, row) -> np.ndarray:
    return (np.asarray(row, np.float64) - self.phase) / self.rows_per_degree

  def columns(self, row) -> np.ndarray:
    """float64: whole number of cells around the globe in `row`."""
    return _columns(self.row_lat(row), self.spacing_m)

  def row_table(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
    """(columns float64, row hash uint32) of rows first..last."""
    rows = np.arange(first, last + 1)
    return self.columns(rows), hash_ints(rows, self.salt)

  def node_hash(self, row, col) -> np.ndarray:
    """uint32 hash of nodes; `col` may lie outside [0, columns)."""
    row, col = np.asarray(row), np.asarray(col)
    col = np.mod(col, self.columns(row).astype(np.int64))
    return mix(hash_ints(row, self.salt) ^ (col.astype(np.uint32) * _U(0x9E3779B1)))


def _columns(row_lat: np.ndarray, spacing_m) -> np.ndarray:
  cos = np.cos(np.radians(np.minimum(np.maximum(row_lat, -89), 89)))
  return np.maximum(np.rint(360 * METRES_PER_DEGREE * cos / spacing_m), 3)


def _column_hash(row_hash: np.ndarray, col: np.ndarray, count: np.ndarray, wraps: bool) -> np.ndarray:
  if wraps:
    count = count.astype(np.int32)
    col = np.where(col >= count, col - count, np.where(col < 0, col + count, col))
  return mix(row_hash ^ (col.view(np.uint32) * _U(0x9E3779B1)))


def noise(points: Points, spacing_m: float, salt: int) -> np.ndarray:
  """Gradient noise, float32 [N], standard deviation about 0.29, wavelength about 2 x spacing_m."""
  return _noises(points, [Lattice(spacing_m, salt)])[0]


def _noises(points: Points, lattices: Sequence[Lattice]) -> np.ndarray:
  """float32 [K, N]: `noise` on each lattice. All of them at once, since most calls are for few points."""
  side = max(_AT_ONCE // len(lattices), 1)
  out = np.empty((len(lattices), len(points)), np.float32)
  for at in range(0, len(points), side):
    some = slice(at, at + side)
    out[:, some] = _noises_of_some(points.lon[some], points.lat[some], lattices)
  return out


def _noises_of_some(lon: np.ndarray, lat: np.ndarray, lattices: Sequence[Lattice]) -> np.ndarray:
  facts = np.array([(lattice.rows_per_degree, lattice.phase, lattice.spacing_m) for lattice in lattices])
  scale, phase, spacing = facts.T[..., None]  # [K, 1] each
  salt = np.array([lattice.salt for lattice in lattices], np.uint32)
  y = lat * scale + phase
  row = np.floor(y)
  fy = (y - row).astype(np.float32)
  row = row.astype(np.int32)
  # The rows of all lattices, one lattice after another.
  first, length = row.min(1), row.max(1) - row.min(1) + 2
  start = np.cumsum(length) - length
  of = np.repeat(np.arange(len(lattices)), length)
  rows = np.arange(len(of)) + (first - start)[of]
  count_table = _columns((rows - phase[of, 0]) / scale[of, 0], spacing[of, 0])
  hash_table = hash_ints(rows, salt[of])
  # [K, 2, N]: in the row below a point and in the row above it
  index = (row + (start - first)[:, None])[:, None] + np.arange(2)[:, None]
  count, row_hash = count_table.take(index), hash_table.take(index)
  x = lon * (1 / 360) * count
  col = np.floor(x)
  # [2, K, 2, N]: at the node before a point and at the one behind it
  dx = np.empty((2, *x.shape), np.float32)
  dx[0] = x - col
  dx[1] = dx[0] - np.float32(1)
  node = np.empty(dx.shape, np.uint32)
  node[0] = col
  node[1] = node[0] + _U(1)
  np.copyto(node[1], 0, where=node[1] >= count)
  node *= _U(0x9E3779B1)
  node ^= row_hash
  h = mix(node)
  parts = []
  for bits, away in ((h & _U(0xFFFF), dx), (h >> _U(16), fy[:, None] - np.arange(2, dtype=np.float32)[:, None])):
    slope = bits.astype(np.float32)
    slope *= np.float32(1 / 32768)
    slope -= np.float32(1)
    slope *= away
    parts.append(slope)
  across, up = parts
  near, far = np.add(across, up, out=across)
  far -= near
  far *= _eased(dx[0])
  near += far
  below, above = near[:, 0], near[:, 1]
  above -= below
  above *= _eased(fy)
  above += below
  return above * np.float32(1.6)


def _eased(t: np.ndarray) -> np.ndarray:
  return t * t * (3 - 2 * t)


def fractal(
  points: Points, spacing_m: float, octaves: int, salt: int, gain: float = 0.5, ridged: bool = False
) -> np.ndarray:
  """Sum of octaves of `noise`, float32 [N], scaled to a standard deviation of about 0.3; ridged: 0 to about 1."""
  total = np.zeros(len(points), np.float32)
  weight, power = 1.0, 0.0
  lattices = []
  for octave in range(octaves):
    lattices.append(Lattice(spacing_m, salt + 7919 * octave))
    spacing_m /= 1.93  # not 2: octaves must not share their nodes
  for value in _noises(points, lattices):
    if ridged:
      value = 1 - np.minimum(np.abs(value) * np.float32(2.2), 1)
      value *= value
      power += weight
    else:
      power += weight * weight
    total += np.float32(weight) * value
    weight *= gain
  return total / np.float32(power if ridged else np.sqrt(power))


@dataclasses.dataclass
class Cells:
  """Nearest seed of a jittered lattice (Worley cells), per point.

  Attributes:
    id: uint32 hash of the cell.
    dx, dy: float32 metres from the seed, east and north.
    edge_m: float32, half the difference of the distances to the second and the first seed: about the distance to the
      border.
  """

  id: np.ndarray
  dx: np.ndarray
  dy: np.ndarray
  edge_m: np.ndarray


def cells(points: Points, spacing_m: float, salt: int, jitter: float = 0.8, angle: np.ndarray | None = None) -> Cells:
  """Voronoi cells of about spacing_m squared.

  Args:
    points: where. spacing_m: of the seeds. salt: of the lattice. jitter: 0 regular seeds, 1 anywhere in their cell.
    angle: float32 [N], radians; measures distance by the 4-norm in axes turned by it, which makes cells four-sided.
  """
  lattice = Lattice(spacing_m, salt)
  y = lattice.row_coordinate(points.lat)
  row = np.floor(y).astype(np.int32)
  first = int(row.min()) - 1
  count_table, hash_table = lattice.row_table(first, int(row.max()) + 1)
  width_table = (
    360 * METRES_PER_DEGREE * np.cos(np.radians(lattice.row_lat(np.arange(first, first + len(count_table)) + 0.5)))
  )
  width_table = np.abs(width_table / count_table).astype(np.float32)
  local = row - np.int32(first)
  turns = points.lon * (1 / 360)
  n = len(points)
  best, second = np.full(n, np.inf, np.float32), np.full(n, np.inf, np.float32)
  best_id = np.zeros(n, np.uint32)
  best_dx, best_dy = np.zeros(n, np.float32), np.zeros(n, np.float32)
  margin = np.float32((1 - jitter) / 2)
  jit = np.float32(jitter / 65536)
  if angle is not None:
    cos, sin = np.cos(angle), np.sin(angle)
  for step in (-1, 0, 1):
    index = local + np.int32(step)
    count = count_table.take(index)
    row_hash = hash_table.take(index)
    width = width_table.take(index)
    fy = (y - (row + np.int32(step))).astype(np.float32)
    x = turns * count
    col = np.floor(x)
    fx = (x - col).astype(np.float32)
    col = col.astype(np.int32)
    wraps = bool((x >= count - 1).any() or (x < 1).any())
    for side in (-1, 0, 1):
      h = _column_hash(row_hash, col + np.int32(side), count, wraps and side != 0)
      dx = (fx - np.float32(side) - margin - (h & _U(0xFFFF)).astype(np.float32) * jit) * width
      dy = (fy - margin - (h >> _U(16)).astype(np.float32) * jit) * np.float32(spacing_m)
      if angle is None:
        d = dx * dx + dy * dy
      else:
        u, v = cos * dx + sin * dy, cos * dy - sin * dx
        u *= u
        v *= v
        d = np.sqrt(u * u + v * v)
      nearer = d < best
      second = np.where(nearer, best, np.minimum(second, d))
      best = np.where(nearer, d, best)
      best_id = np.where(nearer, h, best_id)
      best_dx = np.where(nearer, dx, best_dx)
      best_dy = np.where(nearer, dy, best_dy)
  edge = (np.sqrt(second) - np.sqrt(best)) * np.float32(0.5)
  return Cells(mix(best_id ^ _U(lattice.salt)), best_dx, best_dy, edge)


def sampled(
  points: Points,
  spacing_m: float,
  salt: int,
  function: Callable[[Points], np.ndarray],
  smooth: bool,
  slopes: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
  """A smooth field evaluated on lattice nodes and interpolated.

  Args:
    points: where.
    spacing_m: of the nodes; the field must have no wavelength below about five times it.
    salt: of the lattice.
    function: elementwise field, Points -> float [K, M].
    smooth: cubic B-spline (continuous slope and curvature) rather than linear.
    slopes: whether the slope is wanted, which needs `smooth`.
  Returns:
    float32 [K, N] values; float32 [2, N] slope of column 0 to the east and to the north, per metre (else 0).
  """
  lattice = Lattice(spacing_m, salt)
  y = lattice.row_coordinate(points.lat)
  row = np.floor(y)
  fy = (y - row).astype(np.float32)
  row = row.astype(np.int64)
  before, after = (1, 2) if smooth else (0, 1)
  first, last = int(row.min()) - before, int(row.max()) + after
  count_table = lattice.columns(np.arange(first, last + 1))
  local = row - first
  turns = points.lon * (1 / 360)
  low, high = np.floor(turns.min() * count_table), np.floor(turns.max() * count_table)
  back = None
  if turns.max() - turns.min() > 0.5:  # across Greenwich: columns there count backwards, places within them do not
    back = (turns > 0.5).astype(np.float64)
    low = np.floor(turns[turns > 0.5].min() * count_table) - count_table
    high = np.floor(turns[turns <= 0.5].max() * count_table)
  low, high = low.astype(np.int64) - before, high.astype(np.int64) + after

  def columns(step: int) -> tuple[np.ndarray, np.ndarray]:
    """(column int64, place in it float32) of the points in the row `step` above their own."""
    count = count_table.take(local + step)
    x = turns * count
    col = np.floor(x)
    return (col if back is None else col - back * count).astype(np.int64), (x - col).astype(np.float32)

  width = int((high - low).max()) + 1
  rows = last - first + 1
  taps = _spline(fy) if smooth else [1 - fy, fy]
  offsets = range(-before, after + 1)
  if rows * width <= 4 * len(points) + 256:  # a window: its nodes are fewer than its points
    node_row = np.repeat(np.arange(first, last + 1), width)
    node_col = (low[:, None] + np.arange(width)).ravel()
    table = _at_nodes(lattice, node_row, node_col, function)
    find = None
  else:  # scattered points: only the nodes they need
    needed = []
    for step in offsets:
      col, _ = columns(step)
      needed += [((row + step + 2**30) << 31) + (col + side + 2**29) for side in offsets]
    keys, find = np.unique(np.concatenate(needed), return_inverse=True)
    table = _at_nodes(lattice, (keys >> 31) - 2**30, (keys & (2**31 - 1)) - 2**29, function)
    find = find.reshape(len(needed), len(points))
  out = np.zeros((len(table), len(points)), np.float32)
  slope = np.zeros((2, len(points)), np.float32)
  steep = _spline_slope(fy) if slopes else []
  k = 0
  for step, wy in zip(offsets, taps, strict=True):
    index = local + step
    col, fx = columns(step)
    base = index * width + (col - low.take(index))
    weights = _spline(fx) if smooth else [1 - fx, fx]
    across = _spline_slope(fx) if slopes else []
    for side, wx in zip(offsets, weights, strict=True):
      node = base + side if find is None else find[k]
      weight = wx * wy
      for row_out, row_table in zip(out, table, strict=True):
        row_out += row_table.take(node) * weight
      if slopes:
        height = table[0].take(node)
        slope[0] += height * (across[side + before] * wy)
        slope[1] += height * (wx * steep[step + before])
      k += 1
  return out, slope / np.float32(spacing_m)


def _at_nodes(lattice: Lattice, row: np.ndarray, col: np.ndarray, function) -> np.ndarray:
  count = lattice.columns(row)
  lat = np.clip(lattice.row_lat(row), -89.9, 89.9)
  return np.ascontiguousarray(function(Points.of(np.mod(col, count) / count * 360, lat)), np.float32)


def _spline(t: np.ndarray) -> list[np.ndarray]:
  """Weights of the uniform cubic B-spline."""
  s = 1 - t
  sixth = np.float32(1 / 6)
  t2, s2 = t * t, s * s
  return [s2 * s * sixth, (4 - 6 * t2 + 3 * t2 * t) * sixth, (4 - 6 * s2 + 3 * s2 * s) * sixth, t2 * t * sixth]


def _spline_slope(t: np.ndarray) -> list[np.ndarray]:
  s = 1 - t
  half = np.float32(0.5)
  return [-half * s * s, half * t * (3 * t - 4), half * s * (4 - 3 * s), half * t * t]

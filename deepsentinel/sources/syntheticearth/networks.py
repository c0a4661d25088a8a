"""Explicit graphs on jittered lattices: settlements, the roads between them, rivers that run downhill and join.

They are straight in a bent space (see terrain.warp), so a pixel finds its distance with a few operations, and the
vectors are written from the same links.
"""

import dataclasses
import functools

import numpy as np

from deepsentinel.sources.syntheticearth import lattice, terrain
from deepsentinel.sources.syntheticearth.lattice import METRES_PER_DEGREE, Lattice, Points, unit, wrap_degrees

MAJOR, SECONDARY, MINOR = 0, 1, 2
ROAD_WIDTH_M = (24.0, 12.0, 7.0)
CITY, TOWN, VILLAGE = 0, 1, 2
_CITY_SPACING_M, _TOWN_SPACING_M, _VILLAGE_SPACING_M, _RIVER_SPACING_M = 48e3, 11.5e3, 3.0e3, 4.6e3
_UPSTREAM_STEPS = 9
REACH_M = 700.0  # no bend moves a line further


@dataclasses.dataclass
class Links:
  """Straight pieces in bent space: [L] each. `dx_m, dy_m` lead from (lon, lat) to the end, in the start's frame."""

  lon: np.ndarray
  lat: np.ndarray
  dx_m: np.ndarray
  dy_m: np.ndarray
  width_m: np.ndarray
  end_width_m: np.ndarray
  kind: np.ndarray
  id: np.ndarray

  def __len__(self) -> int:
    return len(self.lon)

  def take(self, index) -> 'Links':
    return Links(*(getattr(self, f.name)[index] for f in dataclasses.fields(self)))

  def near(self, box: 'Box', reach_m: float) -> 'Links':
    """Links whose bounding box lies within reach_m of `box`."""
    kx = METRES_PER_DEGREE * np.cos(np.radians(self.lat))
    x = wrap_degrees(self.lon - box.lon) * kx
    y = (self.lat - box.lat) * METRES_PER_DEGREE
    half_x = box.half_lon * METRES_PER_DEGREE * np.cos(np.radians(np.maximum(abs(box.lat) - box.half_lat, 0))) + reach_m
    half_y = box.half_lat * METRES_PER_DEGREE + reach_m
    keep = (
      (np.minimum(x, x + self.dx_m) < half_x)
      & (np.maximum(x, x + self.dx_m) > -half_x)
      & (np.minimum(y, y + self.dy_m) < half_y)
      & (np.maximum(y, y + self.dy_m) > -half_y)
    )
    return self.take(keep)


@dataclasses.dataclass
class Places:
  """Settlements, [P] each: position, radius, kind (CITY, TOWN, VILLAGE), id (uint32)."""

  lon: np.ndarray
  lat: np.ndarray
  radius_m: np.ndarray
  kind: np.ndarray
  id: np.ndarray

  def __len__(self) -> int:
    return len(self.lon)

  def take(self, index) -> 'Places':
    return Places(*(getattr(self, f.name)[index] for f in dataclasses.fields(self)))


@dataclasses.dataclass(frozen=True)
class Box:
  """A small lon/lat box by centre and half sizes, degrees."""

  lon: float
  lat: float
  half_lon: float
  half_lat: float

  @classmethod
  def around(cls, points: Points) -> 'Box':
    origin = points.lon[0]
    lon = wrap_degrees(points.lon - origin)
    west, east = float(lon.min()), float(lon.max())
    south, north = float(points.lat.min()), float(points.lat.max())
    return cls(origin + (west + east) / 2, (south + north) / 2, (east - west) / 2, (north - south) / 2)

  def grown(self, metres: float) -> 'Box':
    lat = min(abs(self.lat) + self.half_lat, 88.0)
    return Box(
      self.lon,
      self.lat,
      self.half_lon + metres / (METRES_PER_DEGREE * np.cos(np.radians(lat))),
      self.half_lat + metres / METRES_PER_DEGREE,
    )


@dataclasses.dataclass
class _Nodes:
  """Nodes of a lattice over a box, as a rectangular table: row r, column offset low[r]."""

  grid: Lattice
  first: int
  low: np.ndarray
  width: int
  row: np.ndarray
  col: np.ndarray
  lon: np.ndarray
  lat: np.ndarray
  hash: np.ndarray

  def index(self, row: np.ndarray, col: np.ndarray) -> np.ndarray:
    """Position of nodes in the table; -1 outside."""
    r = row - self.first
    inside = (r >= 0) & (r < len(self.low))
    c = col - self.low[np.clip(r, 0, len(self.low) - 1)]
    inside &= (c >= 0) & (c < self.width)
    return np.where(inside, r * self.width + c, -1)

  def neighbour(self, step: int, side: int) -> np.ndarray:
    """Position of the node `step` rows up, `side` columns beside the column at the same longitude."""
    if step == 0:
      return self.index(self.row, self.col + side)
    here, there = self.grid.columns(self.row), self.grid.columns(self.row + step)
    col = np.floor((self.col + 0.5) / here * there).astype(np.int64)
    return self.index(self.row + step, col + side)


def _nodes(box: Box, grid: Lattice) -> _Nodes:
  first = int(np.floor(grid.row_coordinate(box.lat - box.half_lat)))
  last = int(np.floor(grid.row_coordinate(box.lat + box.half_lat)))
  rows = np.arange(first, last + 1)
  count = grid.columns(rows)
  low = np.floor((box.lon - box.half_lon) / 360 * count).astype(np.int64)
  width = int((np.floor((box.lon + box.half_lon) / 360 * count).astype(np.int64) - low).max()) + 1
  row = np.repeat(rows, width)
  col = (low[:, None] + np.arange(width)).ravel()
  h = grid.node_hash(row, col)
  # From the column's own number, so that a node is the same to the last bit from either side of Greenwich.
  lon = (np.mod(col, grid.columns(row)) + 0.15 + 0.7 * unit(h).astype(np.float64)) / grid.columns(row) * 360
  lat = grid.row_lat(row + 0.15 + 0.7 * unit(h, 16).astype(np.float64))
  return _Nodes(grid, first, low, width, row, col, lon, np.clip(lat, -89, 89), lattice.mix(h))


def _offset(nodes: _Nodes, start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  dx = wrap_degrees(nodes.lon[end] - nodes.lon[start]) * METRES_PER_DEGREE * np.cos(np.radians(nodes.lat[start]))
  return dx, (nodes.lat[end] - nodes.lat[start]) * METRES_PER_DEGREE


def _links(nodes: _Nodes, start, end, width, end_width, kind: int, salt: int) -> Links:
  dx, dy = _offset(nodes, start, end)
  ids = lattice.hash_ints(nodes.hash[start], nodes.hash[end], salt)
  return Links(nodes.lon[start], nodes.lat[start], dx, dy, width, end_width, np.full(len(start), kind, np.int32), ids)


def rivers(box: Box, seed: int) -> Links:
  """River links that may touch the box. A node drains to its lowest neighbour; its width grows with the number of
  nodes that drain through it within a few steps, so links do not depend on the box."""
  grid = Lattice(_RIVER_SPACING_M, lattice.salt_of(seed, 'rivers'))
  nodes = _nodes(box.grown((_UPSTREAM_STEPS + 2.5) * _RIVER_SPACING_M), grid)
  points = Points.of(nodes.lon, nodes.lat)
  fields = terrain.macro_fields(points, seed)
  height = terrain.potential(points, fields, seed)
  best, down = height.copy(), np.full(len(height), -1)
  for step in (-1, 0, 1):
    for side in (-1, 0, 1):
      if step or side:
        there = nodes.neighbour(step, side)
        h = np.where(there >= 0, height[there], np.inf)
        lower = h < best
        best, down = np.where(lower, h, best), np.where(lower, there, down)
  source = np.flatnonzero(down >= 0)
  rain = np.clip(1.0 - 0.95 * terrain.dryness(nodes.lat, fields.moist), 0.08, 1.3)
  flow = rain.copy()
  for _ in range(_UPSTREAM_STEPS):
    flow = rain + np.bincount(down[source], weights=flow[source], minlength=len(flow))
  flow = np.where(height < -2, 0, flow)
  # A stream as narrow as a pixel would come out as dashes.
  width = np.where(flow >= 1.7, np.maximum(4.4 * np.maximum(flow - 0.9, 0) ** 0.85, 11), 0)
  keep = source[width[source] > 0]
  end_width = np.maximum(width[keep], width[down[keep]])
  out = _links(nodes, keep, down[keep], width[keep], np.minimum(end_width, 2.2 * width[keep] + 6), 0, grid.salt)
  return out.near(box, REACH_M)


def _settle(box: Box, seed: int, kind: int) -> tuple[_Nodes, np.ndarray, np.ndarray]:
  spacing = (_CITY_SPACING_M, _TOWN_SPACING_M, _VILLAGE_SPACING_M)[kind]
  grid = Lattice(spacing, lattice.salt_of(seed, 'settlements', kind))
  nodes = _nodes(box.grown(2.5 * spacing), grid)
  points = Points.of(nodes.lon, nodes.lat)
  fields = terrain.macro_fields(points, seed)
  suitability = (
    0.72
    + 0.42 * fields.human
    - 0.9 * fields.mountain
    - 0.8 * np.maximum(terrain.dryness(nodes.lat, fields.moist) - 0.5, 0)
  )
  suitability -= lattice.smoothstep(np.abs(nodes.lat), 60, 70) * 0.45
  suitability[fields.land < 4] = -1
  chance = unit(nodes.hash)
  exists = chance < np.clip(suitability + (0.25, 0.15, 0.0)[kind], 0.0, 0.97) * (0.85, 0.9, 0.85)[kind]
  size = unit(nodes.hash, 16).astype(np.float64)
  low, high, power = ((2400, 6200, 1.8), (600, 1900, 1.9), (140, 470, 1.5))[kind]
  radius = (low + (high - low) * size**power) * (0.85 + 0.25 * np.clip(fields.human, -1, 1))
  return nodes, exists, radius


def settlements(box: Box, seed: int) -> Places:
  """Places whose built-up land may touch the box."""
  parts = []
  for kind in (CITY, TOWN, VILLAGE):
    nodes, exists, radius = _settle(box, seed, kind)
    keep = np.flatnonzero(exists)
    parts.append((nodes.lon[keep], nodes.lat[keep], radius[keep], np.full(len(keep), kind, np.int32), nodes.hash[keep]))
  return Places(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def roads(box: Box, seed: int) -> Links:
  """Road links that may touch the box: motorways between cities, secondary between towns, minor between villages."""
  parts = []
  for kind, share in ((CITY, 0.92), (TOWN, 0.9), (VILLAGE, 0.72)):
    nodes, exists, _ = _settle(box, seed, kind)
    for step, side, factor in ((0, 1, 1.0), (1, 0, 1.0), (1, 1, 0.35), (1, -1, 0.35)):
      there = nodes.neighbour(step, side)
      chance = unit(lattice.hash_ints(nodes.hash, nodes.grid.salt, step * 3 + side + 5))
      start = np.flatnonzero(exists & (there >= 0) & (chance < share * factor))
      start = start[exists[there[start]]]
      width = np.full(len(start), ROAD_WIDTH_M[kind])
      parts.append(_links(nodes, start, there[start], width, width, kind, nodes.grid.salt + step * 3 + side))
  out = Links(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in dataclasses.fields(Links)))
  return out.near(box, REACH_M)


def distance(points: Points, bend: tuple[np.ndarray, np.ndarray], links: Links, limit_m: float) -> np.ndarray:
  """Metres to the nearest bank (negative inside), float32 [N], at most limit_m.

  Args:
    points: where.
    bend: terrain.warp there, scaled as the network wants it.
    links: candidates, already culled to the neighbourhood.
    limit_m: returned where nothing is nearer.
  """
  best = np.full(len(points), limit_m, np.float32)
  for i in range(len(links)):
    kx = METRES_PER_DEGREE * np.cos(np.radians(links.lat[i]))
    dx = (wrap_degrees(points.lon - links.lon[i]) * kx).astype(np.float32) + bend[0]
    dy = ((points.lat - links.lat[i]) * METRES_PER_DEGREE).astype(np.float32) + bend[1]
    ex, ey = np.float32(links.dx_m[i]), np.float32(links.dy_m[i])
    t = np.clip((dx * ex + dy * ey) / (ex * ex + ey * ey), 0, 1)
    dx -= t * ex
    dy -= t * ey
    half = np.float32(links.width_m[i] / 2) + t * np.float32((links.end_width_m[i] - links.width_m[i]) / 2)
    np.minimum(best, np.sqrt(dx * dx + dy * dy) - half, out=best)
  return best


class Networks:
  """The graphs by chunk of half a degree, kept for the next window."""

  def __init__(self, seed: int):
    self.seed = seed
    self._chunk = functools.lru_cache(maxsize=64)(self._make)

  def _make(self, i: int, j: int) -> tuple[Links, Links, Places]:
    box = chunk_box(i, j)
    return rivers(box, self.seed), roads(box, self.seed), settlements(box, self.seed)

  def around(self, box: Box, reach_m: float) -> tuple[Links, Links, Places]:
    """(rivers, roads, places) of every chunk that the box grown by reach_m touches; repeats are harmless."""
    box = box.grown(reach_m)
    parts = [self._chunk(i, j) for i, j in chunks_of(box)]
    if len(parts) == 1:
      return parts[0]
    merged = []
    for k, cls in enumerate((Links, Links, Places)):
      merged.append(cls(*(np.concatenate([getattr(p[k], f.name) for p in parts]) for f in dataclasses.fields(cls))))
    return tuple(merged)


def _chunk_degrees(j: int) -> tuple[float, float]:
  lat = abs((j + 0.5) * 0.5)
  return (0.5 if lat < 45 else 0.75 if lat < 60 else 1.5 if lat < 75 else 5.0), 0.5


def chunk_box(i: int, j: int) -> Box:
  dlon, dlat = _chunk_degrees(j)
  return Box((i + 0.5) * dlon, (j + 0.5) * dlat, dlon / 2, dlat / 2)


def chunks_of(box: Box) -> list[tuple[int, int]]:
  """Chunks that a box touches; columns are taken modulo the globe."""
  out = []
  for j in range(int(np.floor((box.lat - box.half_lat) / 0.5)), int(np.floor((box.lat + box.half_lat) / 0.5)) + 1):
    dlon, _ = _chunk_degrees(j)
    first, last = (int(np.floor((box.lon + side * box.half_lon) / dlon)) for side in (-1, 1))
    out += [(i % round(360 / dlon), j) for i in range(first, last + 1)]
  return out

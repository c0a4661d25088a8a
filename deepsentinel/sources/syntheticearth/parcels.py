"""What people draw on the land: field parcels and their crops, towns with streets and lots, mines, airports."""

import dataclasses
from typing import NamedTuple

import numpy as np

from deepsentinel import legend
from deepsentinel.sources.syntheticearth import lattice, networks, terrain
from deepsentinel.sources.syntheticearth.lattice import METRES_PER_DEGREE, Points, smoothstep, unit, wrap_degrees
from deepsentinel.sources.syntheticearth.materials import INDEX as MATERIAL

_CODE = legend.CORINE_INDEX
BLOCK_M = 900.0
_U = np.uint32


@dataclasses.dataclass
class Parcels:
  """Fields, [N] each.

  Attributes:
    id: uint32 hash of the parcel. stand: uint32 hash of the forest stand, larger and alike everywhere.
    block: uint32 hash of the block of parcels that share a direction.
    u, v: float32 metres along and across the block's direction. edge_m: float32 metres to the parcel's border.
  """

  id: np.ndarray
  stand: np.ndarray
  block: np.ndarray
  u: np.ndarray
  v: np.ndarray
  edge_m: np.ndarray


def _split(position: np.ndarray, width: np.ndarray | float, key: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Cuts a line into pieces of irregular width: (piece number int32, metres to the next cut)."""
  x = position / width
  cell = np.floor(x)
  t = x - cell
  cell = cell.astype(np.int32)

  def cut(step):  # where in [0, 0.6) of its cell each piece begins
    return 0.6 * unit(lattice.mix(key ^ ((cell + np.int32(step)).view(_U) * _U(0x9E3779B1))), 8)

  here = cut(0)
  before = t < here
  end = np.where(before, here, 1 + cut(1))
  start = np.where(before, cut(-1) - 1, here)
  return cell - before.astype(np.int32), np.minimum(end - t, t - start) * width


def _lie(points: Points, salt: int) -> np.ndarray:
  """Direction that fields follow, float32 [N] radians; turns over some kilometres."""
  return np.float32(6.0) * lattice.noise(points, 9000, salt + 1)


def parcels(points: Points, style: np.ndarray, bend: tuple[np.ndarray, np.ndarray], salt: int) -> Parcels:
  """Blocks are four-sided cells along the lie of the land; each is cut into strips, each strip into fields."""
  moved = points.shifted(bend[0], bend[1])
  block = lattice.cells(moved, BLOCK_M, salt, 0.85, _lie(moved, salt))
  # The direction at the block's seed: one for the whole block.
  angle = _lie(moved.shifted(-block.dx, -block.dy), salt) + np.float32(np.pi / 2) * (unit(block.id) < 0.5)
  angle += np.float32(0.3) * (unit(block.id, 16) - np.float32(0.5))
  cos, sin = np.cos(angle), np.sin(angle)
  u = cos * block.dx + sin * block.dy
  v = cos * block.dy - sin * block.dx
  key = lattice.mix(block.id + _U(17))
  size = style + 1.5 * (unit(key) - 0.5)
  width = np.where(size > 0.28, 210, np.where(size > -0.42, 105, 46)) * (0.75 + 0.7 * unit(key, 16))
  length = np.where(size > 0.28, 520, np.where(size > -0.42, 300, 230)) * (0.7 + 0.7 * unit(key, 8))
  strip, edge_v = _split(v, width.astype(np.float32), key)
  strip_key = lattice.mix(key ^ (strip.view(_U) * _U(0x85EBCA6B)))
  piece, edge_u = _split(u, length.astype(np.float32), strip_key)
  ident = lattice.mix(strip_key + piece.view(_U) * _U(0xC2B2AE35))
  edge = np.minimum(np.minimum(edge_u, edge_v), block.edge_m - 3)
  # Foresters' compartments: cut across the bends of the terrain, not along the plough.
  row, _ = _split(v + np.float32(0.35) * bend[1], 330, key + _U(1))
  row_key = lattice.mix(key ^ (row.view(_U) * _U(0x27D4EB2F)))
  column, _ = _split(u + np.float32(0.35) * bend[0], 420, row_key)
  stand = lattice.mix(row_key + column.view(_U) * _U(0x165667B1))
  return Parcels(ident, stand, block.id, u, v, edge)


def crops(ground, farm, farming, fields, slope, temperature, dry, patch, ragged, river_m) -> None:
  """Agricultural cover and material of the parcels in `farm`; writes into `ground`."""
  lot = unit(ground.parcel)
  choice = unit(lattice.mix(ground.parcel + _U(99)))
  other = unit(lattice.mix(ground.parcel + _U(7)), 16)
  grazing = 0.62 * fields.pasture + 0.4 * fields.moist + 3.2 * slope + 0.3 * smoothstep(temperature, 9, 5)
  grazing += 0.25 * smoothstep(river_m, 300, 60) - 0.5 * fields.soil - 0.9 * np.maximum(dry - 0.25, 0)
  pasture = other < 0.05 + 0.9 * smoothstep(grazing, -0.05, 0.42)
  warm = temperature > 8.3

  ground.set(farm, 211, 'winter cereal')
  share = choice + 0.28 * np.clip((temperature - 9) / 5, -1, 1) * (choice > 0.38)
  ground.material[farm & (share > 0.38)] = MATERIAL['rapeseed']
  ground.material[farm & (share > 0.52)] = MATERIAL['root crop']
  ground.material[farm & (share > 0.66)] = MATERIAL['summer crop']
  ground.material[farm & (lot > 0.93)] = MATERIAL['fallow']
  ground.set(farm & pasture, 231, 'pasture')
  wet_south = farm & (dry > 0.3) & (slope < 0.05) & (fields.soil + 0.6 * smoothstep(river_m, 400, 100) > 0.45)
  ground.set(wet_south, 212, None)
  ground.material[wet_south & (choice > 0.4)] = MATERIAL['summer crop']
  ground.set(wet_south & (fields.lakes > 0.25), 213, 'rice')

  # Permanent crops keep together on slopes and soils that suit them.
  groves = farm & (dry > 0.3) & ~wet_south & (other < 0.86)
  ground.set(groves & (patch + 0.25 * fields.style < -0.2), 223, 'olive')
  hang = patch + 2.0 * np.minimum(slope, 0.25) + 0.4 * (dry - 0.3)
  ground.set(farm & warm & (hang > np.where(dry > 0.25, 0.42, 0.72)) & (other < 0.88), 221, 'vineyard')
  ground.set(farm & warm & (np.abs(patch - 0.3 + 0.3 * fields.soil) < 0.035) & (other < 0.8), 222, 'orchard')

  # Mosaics, by definition of the legend: small parcels of everything; fields among nature.
  small = farm & (fields.style + 0.5 * patch < -0.92)
  ground.set(small, 242, None)
  for material, low in (
    ('pasture', 0.0),
    ('summer crop', 0.34),
    ('winter cereal', 0.52),
    ('orchard', 0.7),
    ('root crop', 0.9),
  ):
    ground.material[small & (choice >= low)] = MATERIAL[material]
  between = farm & (farming < 0.16 + 0.1 * patch)
  ground.set(between, 243, None)
  ground.material[between & (choice < 0.24)] = MATERIAL['young trees']
  ground.material[between & (choice < 0.12) & (temperature > 7)] = MATERIAL['broadleaf']
  ground.set(farm & (dry > 0.42) & (temperature > 12) & (fields.forest > 0.55) & (fields.style > 0.1), 244, 'olive')
  copse = farm & ~small & ~between & (lot < 0.022)
  ground.set(copse, 311, 'broadleaf')


@dataclasses.dataclass
class Town:
  """Built-up land, [N] each.

  Attributes:
    score: above 0 built up, near 1 the centre. size: 0 village, 1 town, 2 city (of the settlement that wins).
    street: float32 0..1 share of a street. house, shed: uint32 hash of the house lot and of the large lot.
    quarter: uint32 hash of the quarter, 0 outside.
    airport: 0 none, 1 grounds, 2 runway.
  """

  score: np.ndarray
  size: np.ndarray
  street: np.ndarray
  house: np.ndarray
  shed: np.ndarray
  quarter: np.ndarray
  airport: np.ndarray


def _local(points: Points, lon: float, lat: float, bend) -> tuple[np.ndarray, np.ndarray]:
  kx = METRES_PER_DEGREE * np.cos(np.radians(lat))
  return (
    (wrap_degrees(points.lon - lon) * kx).astype(np.float32) + bend[0],
    ((points.lat - lat) * METRES_PER_DEGREE).astype(np.float32) + bend[1],
  )


def town_score(points: Points, places: networks.Places, bend, road_m, ragged, shape, salt: int) -> Town:
  """Settlements grow around their centre, further along the roads; ragged at the rim; streets in quarters."""
  n = len(points)
  box = networks.Box.around(points)
  score = np.full(n, -1, np.float32)
  size = np.zeros(n, np.float32)
  street = np.zeros(n, np.float32)
  house, shed, quarters = np.zeros(n, _U), np.zeros(n, _U), np.zeros(n, _U)
  airport = np.zeros(n, np.uint8)
  ribbon = np.maximum(smoothstep(road_m[1], 85, 10), smoothstep(road_m[2], 70, 10)).astype(np.float32)
  kx = METRES_PER_DEGREE * np.cos(np.radians(box.lat))
  for i in range(len(places)):
    radius = float(places.radius_m[i])
    reach = (
      (2.1 if places.kind[i] else 3.2) * radius + networks.REACH_M + (2500 if places.kind[i] == networks.CITY else 0)
    )
    if abs(wrap_degrees(places.lon[i] - box.lon)) * kx > box.half_lon * kx + reach * 1.1:
      continue
    if abs(places.lat[i] - box.lat) * METRES_PER_DEGREE > box.half_lat * METRES_PER_DEGREE + reach:
      continue
    dx, dy = _local(points, places.lon[i], places.lat[i], bend)
    kind = int(places.kind[i])
    key = np.array([places.id[i]], _U)
    if kind == networks.CITY:
      _airport(airport, dx, dy, radius, key)
    turn, stretch = unit(key)[0] * np.pi, 1 + 0.55 * unit(key, 16)[0]
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    u, v = (cos * dx + sin * dy) / np.float32(radius * stretch), (cos * dy - sin * dx) * np.float32(stretch / radius)
    d = np.sqrt(u * u + v * v)
    rim = np.minimum(d, 1.2)
    here = (1 - d) + (np.float32(0.22) * ragged + np.float32(0.85) * shape) * rim
    here += np.float32(0.62 if kind == networks.VILLAGE else 0.42) * ribbon * (d < 1.9)
    wins = (here > score) & (d < 2.05)
    score = np.where(wins, here, score)
    size = np.where(wins, np.float32(2 - kind), size)
  inside = np.flatnonzero(score > -0.3)
  if len(inside):
    part = Points(points.lon[inside], points.lat[inside])
    quarter = lattice.cells(part, 520, salt)
    angle = unit(quarter.id) * np.float32(np.pi)
    east, north = np.cos(angle), np.sin(angle)
    u, v = east * quarter.dx + north * quarter.dy, east * quarter.dy - north * quarter.dx
    step_u = 62 + 50 * unit(quarter.id, 16)
    step_v = 78 + 80 * unit(quarter.id, 8)
    to_street = np.minimum(_to_line(u, step_u), _to_line(v, step_v))
    to_street = np.minimum(to_street, quarter.edge_m - 1)
    built = smoothstep(score[inside], -0.02, 0.06)
    street[inside] = np.clip(0.62 - to_street / 11, 0, 0.62) * built
    house[inside] = _lots(quarter.id, u, v, 17)
    shed[inside] = _lots(quarter.id, u, v, 58)
    quarters[inside] = quarter.id
  return Town(score, size, street, house, shed, quarters, airport)


def _to_line(position: np.ndarray, step: np.ndarray) -> np.ndarray:
  x = position / step
  return np.abs(x - np.rint(x)) * step


def _lots(key: np.ndarray, u: np.ndarray, v: np.ndarray, lot_m: float) -> np.ndarray:
  i, j = (np.floor(c / np.float32(lot_m)).astype(np.int32).view(_U) for c in (u, v))
  return lattice.mix(lattice.mix(key ^ (i * _U(0x9E3779B1))) + j * _U(0x85EBCA6B))


def airport_frame(radius: float, key: np.ndarray) -> tuple[float, float, float] | None:
  """(east_m, north_m, direction) of a city's airport from its centre; None where it has none."""
  h = lattice.mix(key + _U(5))
  if radius < 2600 or unit(h)[0] > 0.7:
    return None
  bearing, direction = float(unit(h, 16)[0]) * 2 * np.pi, float(unit(lattice.mix(h))[0]) * np.pi
  away = radius * 1.25 + 1500
  return away * np.cos(bearing), away * np.sin(bearing), direction


def _airport(out: np.ndarray, dx: np.ndarray, dy: np.ndarray, radius: float, key: np.ndarray) -> None:
  frame = airport_frame(radius, key)
  if frame is None:
    return
  x, y, direction = dx - np.float32(frame[0]), dy - np.float32(frame[1]), frame[2]
  u = np.float32(np.cos(direction)) * x + np.float32(np.sin(direction)) * y
  v = np.float32(np.cos(direction)) * y - np.float32(np.sin(direction)) * x
  out[(np.abs(u) < 1700) & (np.abs(v) < 480)] = 1
  out[(np.abs(u) < 1450) & (np.abs(v - 120) < 26)] = 2
  out[(np.abs(u) < 1300) & (np.abs(v + 60) < 14)] = 2
  out[(np.abs(u) < 500) & (np.abs(v + 240) < 110)] = 2


def sites(points: Points, box: networks.Box, seed: int, ragged: np.ndarray) -> np.ndarray:
  """Open-cast mines: above 0 inside, float32 [N]."""
  best = np.full(len(points), -1, np.float32)
  zero = np.float32(0)
  for mine in mines(box, seed):
    dx, dy = _local(points, mine.lon, mine.lat, (zero, zero))
    d = np.sqrt(dx * dx + dy * dy) / np.float32(mine.radius_m)
    np.maximum(best, 1 - d + np.float32(0.45) * ragged * np.minimum(d, 1.5), out=best)
  return best


class Mine(NamedTuple):
  """An open-cast mine; `id` is a uint32 hash."""

  lon: float
  lat: float
  radius_m: float
  id: int


def mines(box: networks.Box, seed: int) -> list[Mine]:
  """The mines near a box."""
  grid = lattice.Lattice(7500.0, lattice.salt_of(seed, 'mines'))
  nodes = networks._nodes(box.grown(2500), grid)
  h = lattice.mix(nodes.hash + _U(3))
  keep = np.flatnonzero(unit(h) < 0.16)
  if not len(keep):
    return []
  fields = terrain.macro_fields(Points.of(nodes.lon[keep], nodes.lat[keep]), seed)
  radius = 110 + 900 * unit(h[keep], 16).astype(np.float64) ** 3
  ok = (fields.land > 6) & (fields.mountain < 0.6)
  return [
    Mine(float(nodes.lon[k]), float(nodes.lat[k]), float(r), int(h[k]))
    for k, r in zip(keep[ok], radius[ok], strict=True)
  ]

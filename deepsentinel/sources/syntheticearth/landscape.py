"""The ground, pixel by pixel: true cover (CORINE level 3) and what it is made of, as a function of (lon, lat)."""

import dataclasses

import numpy as np

from deepsentinel import legend
from deepsentinel.sources.syntheticearth import lattice, networks, parcels, terrain
from deepsentinel.sources.syntheticearth.lattice import Points, fractal, noise, smoothstep, unit
from deepsentinel.sources.syntheticearth.materials import INDEX as MATERIAL

_CODE = legend.CORINE_INDEX
_RIVER_LIMIT_M, _ROAD_LIMIT_M = 420.0, 90.0


@dataclasses.dataclass
class Surface:
  """The ground at N points; everything but the season.

  Attributes:
    cover: uint8, level-3 index of the truth.
    material: uint8, index into materials.MATERIALS.
    parcel: uint32, hash of the field, stand or house lot.
    road, hedge: float32 0..1, share of asphalt and of a hedge or a farm track.
    grain, texture, mottle: float32 noise of about 28, 90 and 260 m wavelength, standard deviation about 0.28.
    slope_east, slope_north: float32, metres a metre.
    elevation, temperature, dry, soil, moist: float32, see terrain.
    parcel_u, parcel_v: float32 metres in the frame of the field block, along and across its rows.
  """

  cover: np.ndarray
  material: np.ndarray
  parcel: np.ndarray
  road: np.ndarray
  hedge: np.ndarray
  grain: np.ndarray
  texture: np.ndarray
  mottle: np.ndarray
  slope_east: np.ndarray
  slope_north: np.ndarray
  elevation: np.ndarray
  temperature: np.ndarray
  dry: np.ndarray
  soil: np.ndarray
  moist: np.ndarray
  parcel_u: np.ndarray
  parcel_v: np.ndarray


class Landscape:
  """The ground of one world."""

  def __init__(self, seed: int):
    self.seed = seed
    self.networks = networks.Networks(seed)
    self.kept: dict = {}  # the last truth raster; see corinemap

  def _salt(self, *names) -> int:
    return lattice.salt_of(self.seed, *names)

  def _relief(self, points: Points) -> tuple[np.ndarray, np.ndarray]:
    """[6, N] elevation, two bends, lake, bog and patch fields; [2, N] the slope of the elevation."""

    def at_nodes(nodes: Points) -> np.ndarray:
      fields = terrain.macro(nodes, self.seed)
      bend = terrain.warp(nodes, self.seed)
      river_m = self._river_distance(nodes, bend, 1700.0)
      columns = [terrain.elevation(nodes, fields, river_m, self.seed), *bend]
      columns += [
        fractal(nodes, 1700, 3, self._salt('lake')),
        fractal(nodes, 1100, 3, self._salt('bog')),
        fractal(nodes, 950, 3, self._salt('patch'), gain=0.6),
      ]
      return np.stack(columns)

    return lattice.sampled(points, terrain.RELIEF_SPACING_M, self._salt('relief nodes'), at_nodes, True, slopes=True)

  def _river_distance(self, points: Points, bend, limit_m: float) -> np.ndarray:
    box = networks.Box.around(points)
    rivers, _, _ = self.networks.around(box, limit_m)
    return networks.distance(points, bend, rivers.near(box, limit_m + networks.REACH_M), limit_m)

  def surface(self, points: Points) -> Surface:
    """The ground at points that lie within a few kilometres of each other."""
    fields = terrain.macro(points, self.seed)
    relief, slopes = self._relief(points)
    elevation, bend_x, bend_y, lake, bog, patch = relief
    slope = np.hypot(slopes[0], slopes[1])
    box = networks.Box.around(points)
    rivers, roads, places = self.networks.around(box, networks.REACH_M + 6000)
    river_m = networks.distance(
      points, (bend_x, bend_y), rivers.near(box, _RIVER_LIMIT_M + networks.REACH_M), _RIVER_LIMIT_M
    )
    road_bend = (bend_x * np.float32(0.4), bend_y * np.float32(0.4))
    roads = roads.near(box, _ROAD_LIMIT_M + networks.REACH_M)
    road_m = [
      networks.distance(points, road_bend, roads.take(roads.kind == kind), _ROAD_LIMIT_M)
      for kind in (networks.MAJOR, networks.SECONDARY, networks.MINOR)
    ]
    grain = noise(points, 14, self._salt('grain'))
    texture = noise(points, 46, self._salt('texture'))
    mottle = noise(points, 130, self._salt('mottle'))
    ragged = mottle + 0.62 * texture + 0.1 * grain
    field = parcels.parcels(
      points, fields.style, (bend_x * np.float32(0.25), bend_y * np.float32(0.25)), self._salt('parcels')
    )
    temperature = terrain.mean_temperature(points.lat, np.maximum(elevation, 0)).astype(np.float32)
    dry = terrain.dryness(points.lat, fields.moist).astype(np.float32)

    ground = _Ground(len(points), field)
    self._open_land(ground, field, fields, slope, elevation, temperature, dry, patch, bog, ragged, river_m)
    shape = patch + 0.6 * bog
    town = parcels.town_score(points, places, road_bend, road_m, ragged, shape, self._salt('quarters'))
    hedge = _hedges(ground, field, fields, texture)
    self._built(ground, town, elevation)
    self._water(ground, elevation, slope, river_m, lake, bog, patch, fields, dry, temperature, ragged)
    sites = parcels.sites(points, box, self.seed, ragged)
    dig = (sites > 0) & (ground.cover < _CODE[511]) & (elevation > 3)
    ground.set(dig, 131, 'quarry')
    shares = [np.clip(0.5 - m / 10, 0, 1) for m in road_m]
    road = np.maximum(np.maximum(shares[0], 0.9 * shares[1]), 0.7 * shares[2])
    road = np.maximum(road, 0.8 * town.street).astype(np.float32)
    road[(ground.cover >= _CODE[512]) & (ground.cover != _CODE[511])] = 0
    major = (road_m[0] < 2) & (elevation > 0)
    ground.cover[major & (ground.cover != _CODE[512])] = _CODE[122]
    hedge[(ground.cover < _CODE[211]) | (ground.cover > _CODE[244])] = 0
    return Surface(
      ground.cover, ground.material, ground.parcel, road, hedge, grain, texture, mottle, slopes[0],
      slopes[1], elevation, temperature, dry, fields.soil, fields.moist, field.u, field.v,
    )  # fmt: skip

  def cover(self, points: Points) -> np.ndarray:
    """uint8 [N]: true cover of points that lie close together, or of none."""
    return self.surface(points).cover if len(points) else np.zeros(0, np.uint8)

  def _open_land(self, ground, field, fields, slope, elevation, temperature, dry, patch, bog, ragged, river_m):
    """Forest, natural land and fields."""
    lot = unit(ground.parcel)  # one number a parcel: borders follow parcels where people made them
    lot2 = unit(ground.parcel, 16)
    cold = smoothstep(temperature, 8.5, 2.0)
    steep = smoothstep(slope, 0.07, 0.32)
    tame = smoothstep(fields.human, -0.9, 0.3) * (1 - steep)  # 1: parcels decide, 0: terrain does
    forest = (
      0.52 * fields.forest + 0.75 * steep + 0.45 * fields.mountain - 0.42 * fields.human + 0.3 * fields.moist
      - 1.25 * np.maximum(dry - 0.3, 0) + 0.55 * cold + 0.62 * patch + (0.30 - 0.18 * tame) * ragged
      + 0.5 * tame * (lot - 0.5) - 0.1
    )  # fmt: skip
    floor = smoothstep(river_m, 0, 160)
    treeline = smoothstep(temperature + 0.9 * ragged, -0.6, 0.4)
    desert = dry > 0.86 + 0.1 * patch
    wood = (forest * treeline > 0.3 + 0.25 * (1 - floor) * (fields.human > 0)) & (treeline > 0.5) & ~desert
    farming = (
      0.62 + 0.42 * fields.human - 1.1 * steep - 0.75 * cold - 0.35 * fields.mountain - 0.9 * np.maximum(dry - 0.55, 0)
      + 0.25 * patch + 0.2 * fields.soil + 0.24 * (lot2 - 0.5)
    )  # fmt: skip
    farm = ~wood & (farming > 0.07) & ~desert & (temperature > 1.2 + 0.6 * patch)  # nothing ripens in the tundra
    nature = ~wood & ~farm

    # Forest: needles in the cold and on poor soils, leaves elsewhere; felled and young stands in blocks.
    needles = 0.55 * (6.8 - temperature) / 3.0 + 0.5 * fields.soil + 0.7 * patch + 0.35 * ragged + 0.4 * fields.mountain
    ground.set(wood, 311, 'broadleaf')
    conifer = wood & (needles > 0.1)
    ground.set(conifer, 312, 'conifer')
    mixed = wood & (np.abs(needles - 0.1) < 0.5)
    ground.set(mixed, 313, None)
    ground.material[mixed & (ragged + 0.5 * needles > 0.05)] = MATERIAL['conifer']
    ground.parcel = np.where(wood, field.stand, ground.parcel)
    stand = unit(field.stand) + 0.08 * ragged
    young = wood & (stand < 0.07 + 0.10 * cold) & (steep < 0.7)
    ground.set(young, 324, 'young trees')
    ground.material[young & (stand < 0.03)] = MATERIAL['natural grass']
    scrub = wood & (dry > 0.42) & (forest < 0.55)
    ground.set(scrub, 323, 'shrub')

    # Open nature, by climate.
    ground.set(nature, 321, 'natural grass')
    shrubby = patch + 0.5 * ragged
    ground.set(nature & (shrubby > 0.10), 324, 'young trees')
    ground.set(nature & (temperature < 10) & (shrubby < -0.08) & (dry < 0.4), 322, 'heath')
    ground.set(nature & (dry > 0.36) & (shrubby > -0.12), 323, 'shrub')
    ground.set(nature & (dry > 0.52) & (shrubby < -0.25), 333, 'sparse')
    ground.set(nature & (temperature < 0.8 + ragged), 321, 'natural grass')
    ground.set(nature & (temperature < 0.8 + ragged) & (shrubby < -0.1), 322, 'heath')
    bare = temperature + 1.6 * ragged - 4 * (slope - 0.35)
    ground.set(nature & (bare < -0.9), 333, 'sparse')
    ground.set(nature & ((bare < -2.6) | ((slope > 0.62 + 0.3 * ragged) & (temperature < 6))), 332, 'rock')
    ground.set(nature & (temperature + 0.8 * ragged + 1.5 * slope < -4.2), 335, 'ice')
    ground.set(desert, 333, 'sparse')
    ground.set(desert & (patch + 0.4 * ragged < -0.1), 331, 'sand')
    ground.set(desert & ((slope > 0.2) | (patch > 0.32)), 332, 'rock')
    fire = (nature | scrub) & (dry > 0.38) & (bog + 0.35 * ragged > 0.86)
    ground.set(fire, 334, 'burnt')

    parcels.crops(ground, farm, farming, fields, slope, temperature, dry, patch, ragged, river_m)

    # Wet ground.
    flat = slope < 0.055
    peat = ~farm & flat & (temperature < 7.2) & (elevation > 6)
    ground.set(peat & (bog + 0.12 * ragged > 0.58 - 0.26 * cold - 0.12 * fields.moist), 412, 'peat')
    plain = flat & (temperature > 3) & (dry < 0.8)
    near = smoothstep(river_m, _RIVER_LIMIT_M, 40)
    ground.set(plain & (bog + 0.2 * ragged + 0.42 * near + 0.15 * fields.lakes > 0.92), 411, 'marsh')

  def _built(self, ground, town, elevation):
    ok = elevation > 0.4
    lot2 = unit(ground.parcel, 16)
    built = ok & (town.score > 0)
    house = unit(town.house)
    ground.set(built, 112, 'gardens')
    quarter, quarter2 = unit(town.quarter), unit(town.quarter, 16)
    density = np.clip(0.3 + 0.5 * town.score + 0.12 * town.size + 0.5 * (quarter - 0.5), 0.15, 0.92)
    roofed = built & (house < density)
    ground.material[roofed] = MATERIAL['tile roofs']
    ground.material[roofed & (quarter2 < 0.22 + 0.14 * town.size)] = MATERIAL['grey roofs']
    core = ok & (town.score > 0.7 - 0.07 * town.size) & (town.size > 0)
    ground.set(core, 111, 'grey roofs')
    ground.material[core & (house < 0.45)] = MATERIAL['tile roofs']
    rim = (town.size > 0) & (town.score > -0.16) & (town.score < 0.55)
    works = ok & rim & (quarter2 > 0.86)
    ground.set(works, 121, 'paved')
    shed = unit(town.shed)
    ground.material[works & (shed < 0.4)] = MATERIAL['large roofs']
    ground.material[works & (shed > 0.8)] = MATERIAL['park']
    ground.set(works & (elevation < 6.5), 123, None)
    green = built & (town.size > 0) & ~works & (quarter < 0.06)
    ground.set(green, 141, 'park')
    ground.set(ok & rim & ~works & (lot2 < 0.03), 142, 'park')
    ground.set(built & rim & (town.score < 0.12) & ~works & (lot2 > 0.975), 133, 'bare soil')
    ground.set(ok & (town.airport > 0), 124, 'natural grass')
    ground.material[ok & (town.airport > 1)] = MATERIAL['paved']
    ground.parcel = np.where(built & ~green & ~works, lattice.mix(town.house), ground.parcel)
    ground.parcel = np.where(works, lattice.mix(town.shed), ground.parcel)

  def _water(self, ground, elevation, slope, river_m, lake, bog, patch, fields, dry, temperature, ragged):
    land = elevation > 0
    shore = land & (elevation < 1.9 + 1.2 * bog) & (fields.land < 30)
    ground.set(shore & (bog + 0.2 * ragged > 0.12), 421, 'salt marsh')
    ground.set(shore & (elevation < 0.24 + 0.2 * patch) & (bog < 0.05), 331, 'sand')
    level = lake + 0.07 * ragged
    limit = 0.80 - 0.55 * fields.lakes + 0.35 * np.maximum(dry - 0.25, 0) + 4.5 * np.maximum(slope - 0.035, 0)
    limit = limit + 0.10 * smoothstep(fields.human, 0, 0.8)
    rim = (level > limit - 0.035) & (elevation > 1.2) & (bog > 0.1) & (slope < 0.05) & (dry < 0.7)
    ground.set(rim & (temperature > 4), 411, 'marsh')
    ground.set((level > limit) & (elevation > 0.8), 512, 'lake')
    ground.set((river_m < 0) & land, 511, 'river')
    ground.set(~land, 523, 'sea')
    tidal = ~land & (elevation > -0.45 + 0.5 * patch + 0.12 * ragged) & (fields.pasture + bog > 0.15)
    ground.set(tidal, 423, 'mud')


class _Ground:
  """Cover and material under construction."""

  def __init__(self, count: int, field: parcels.Parcels):
    self.cover = np.zeros(count, np.uint8)
    self.material = np.zeros(count, np.uint8)
    self.parcel = field.id

  def set(self, where: np.ndarray, code: int, material: str | None) -> None:
    self.cover[where] = _CODE[code]
    if material is not None:
      self.material[where] = MATERIAL[material]


def _hedges(ground: _Ground, field: parcels.Parcels, fields: terrain.Macro, texture: np.ndarray) -> np.ndarray:
  """float32 0..1: share of a hedge or a grass strip on the borders of fields."""
  bocage = smoothstep(0.7 * fields.pasture - fields.style + 0.6 * texture, 0.0, 1.2)
  return np.clip((7 * bocage - field.edge_m) / 8 + 0.25, 0, 0.12 + 0.6 * bocage).astype(np.float32)

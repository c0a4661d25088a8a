"""OpenStreetMap features of a box, written as a .osm.pbf: ways from the networks, areas from the true cover."""

import pathlib

import numpy as np
import osmium
import rasterio.features
import shapely
from osmium.osm.mutable import Node, Relation, Way

from deepsentinel import legend
from deepsentinel.sources import base
from deepsentinel.sources.syntheticearth import corinemap, lattice, networks, parcels, terrain
from deepsentinel.sources.syntheticearth.landscape import Landscape
from deepsentinel.sources.syntheticearth.lattice import METRES_PER_DEGREE, Points, unit

_AREAS = {
  (111, 112, 133): {'landuse': 'residential'},
  (121, 123): {'landuse': 'industrial'},
  (131,): {'landuse': 'quarry'},
  (211, 212, 213, 242, 243, 244): {'landuse': 'farmland'},
  (221,): {'landuse': 'vineyard'},
  (222, 223): {'landuse': 'orchard'},
  (231,): {'landuse': 'meadow'},
  (311, 312, 313): {'landuse': 'forest'},
  (321,): {'natural': 'grassland'},
  (322,): {'natural': 'heath'},
  (323, 324): {'natural': 'scrub'},
  (331,): {'natural': 'sand'},
  (332, 333): {'natural': 'bare_rock'},
  (335,): {'natural': 'glacier'},
  (411, 412, 421): {'natural': 'wetland'},
  (512, 521): {'natural': 'water'},
}
_HIGHWAYS = {networks.MAJOR: 'motorway', networks.SECONDARY: 'secondary', networks.MINOR: 'unclassified'}
_BUILDINGS = {networks.VILLAGE: 25, networks.TOWN: 110, networks.CITY: 500}
_MAX_BUILDINGS = 60_000
_SMALLEST_CELLS = 3
_STEP_M = 180.0
_RIVER_AREA_M = 15.0  # a river as wide as this has its banks drawn
_SYLLABLES = (
  *('al', 'ber', 'dor', 'el', 'fen', 'gra', 'hol', 'in', 'ka', 'lau'),
  *('mar', 'no', 'os', 'pra', 'ro', 'sten', 'tal', 'ul', 'vi', 'wen'),
)


class _Writer:
  """Numbers objects and writes them in the order that readers of areas expect: nodes, ways, relations."""

  def __init__(self) -> None:
    self.nodes: list[tuple[float, float]] = []
    self._number: dict[tuple[float, float], int] = {}
    self.points: list[tuple[int, dict]] = []
    self.ways: list[tuple[list[int], dict]] = []
    self.relations: list[tuple[list[tuple[int, str]], dict]] = []

  def node(self, lon: float, lat: float) -> int:
    lon = (lon + 180) % 360 - 180
    key = (round(lon, 7), round(lat, 7))  # OpenStreetMap's own precision
    if key not in self._number:
      self.nodes.append(key)
      self._number[key] = len(self.nodes)
    return self._number[key]

  def way(self, lonlat: np.ndarray, tags: dict) -> int:
    ids = [self.node(*c) for c in lonlat.tolist()]
    ids = [n for k, n in enumerate(ids) if k == 0 or n != ids[k - 1]]
    if len(ids) > 1:
      self.ways.append((ids, tags))
    return len(self.ways)

  def polygon(self, polygon: shapely.Polygon, tags: dict) -> None:
    """A closed way, or a multipolygon relation where there are holes or too many corners for one way."""
    rings = [polygon.exterior, *polygon.interiors]
    coordinates = [shapely.get_coordinates(r) for r in rings]
    if len(rings) == 1 and len(coordinates[0]) <= 1900:
      self.way(coordinates[0], tags)
      return
    members = []
    for k, ring in enumerate(coordinates):
      for start in range(0, len(ring) - 1, 1900):
        members.append((self.way(ring[start : start + 1901], {}), 'inner' if k else 'outer'))
    self.relations.append((members, {'type': 'multipolygon', **tags}))

  def write(self, path: pathlib.Path) -> None:
    path.unlink(missing_ok=True)
    tags_of: dict[int, dict] = {}
    for number, tags in self.points:
      tags_of.setdefault(number, tags)
    writer = osmium.SimpleWriter(str(path), overwrite=True)
    try:
      for number, location in enumerate(self.nodes, start=1):
        writer.add_node(Node(id=number, location=location, version=1, visible=True, tags=tags_of.get(number, {})))
      for number, (ids, tags) in enumerate(self.ways, start=1):
        writer.add_way(Way(id=number, nodes=ids, version=1, visible=True, tags=tags))
      for number, (members, tags) in enumerate(self.relations, start=1):
        writer.add_relation(
          Relation(id=number, members=[('w', m, role) for m, role in members], version=1, visible=True, tags=tags)
        )
    finally:
      writer.close()


def _bent_lines(links: networks.Links, seed: int, scale: float) -> list[np.ndarray]:
  """lon, lat [M, 2] of each link in the real plane: the inverse of the bend, by fixed-point iteration."""
  owners, lons, lats = [], [], []
  for i in range(len(links)):
    kx = METRES_PER_DEGREE * np.cos(np.radians(links.lat[i]))
    count = max(3, int(np.hypot(links.dx_m[i], links.dy_m[i]) / _STEP_M) + 1)
    t = np.linspace(0, 1, count)
    lons.append(links.lon[i] + t * links.dx_m[i] / kx)
    lats.append(links.lat[i] + t * links.dy_m[i] / METRES_PER_DEGREE)
    owners.append(np.full(count, i))
  if not lons:
    return []
  lon, lat, owner = np.concatenate(lons), np.concatenate(lats), np.concatenate(owners)
  kx = METRES_PER_DEGREE * np.cos(np.radians(links.lat))[owner]
  x, y = lon.copy(), lat.copy()
  for _ in range(12):
    east, north = terrain.warp(Points.of(x, y), seed)
    x = 0.5 * x + 0.5 * (lon - scale * east / kx)
    y = 0.5 * y + 0.5 * (lat - scale * north / METRES_PER_DEGREE)
  return np.split(np.column_stack([x, y]), np.flatnonzero(np.diff(owner)) + 1)


def _name(h: int) -> str:
  parts = [_SYLLABLES[(h >> (5 * k)) % len(_SYLLABLES)] for k in range(2 + h % 2)]
  return ''.join(parts).capitalize()


def _add_banks(writer: _Writer, line: np.ndarray, width_m: np.ndarray) -> None:
  """The water of a river link: line lon, lat [M, 2], its width at each of these points [M]."""
  xy = np.column_stack(base.transformer(4326, 3035).transform(*line.T))
  pieces = shapely.linestrings(np.stack([xy[:-1], xy[1:]], axis=1))
  area = shapely.union_all(shapely.buffer(pieces, (width_m[:-1] + width_m[1:]) / 4, quad_segs=3))
  to_lonlat = base.transformer(3035, 4326)
  for part in shapely.get_parts(area):
    outline = shapely.transform(part, lambda c: np.column_stack(to_lonlat.transform(*c.T)))
    writer.polygon(outline, {'natural': 'water', 'water': 'river'})


def _add_places(writer: _Writer, land: Landscape, places: networks.Places) -> None:
  kinds = {networks.CITY: 'city', networks.TOWN: 'town', networks.VILLAGE: 'village'}
  for i in range(len(places)):
    kind = kinds[int(places.kind[i])]
    if kind == 'village' and places.radius_m[i] < 170:
      kind = 'hamlet'
    number = writer.node(float(places.lon[i]), float(places.lat[i]))
    writer.points.append((number, {'place': kind, 'name': _name(int(places.id[i]))}))


def _add_buildings(writer: _Writer, land: Landscape, places: networks.Places) -> None:
  total = sum(_BUILDINGS[int(k)] for k in places.kind)
  thin = min(1.0, _MAX_BUILDINGS / max(total, 1))
  for i in range(len(places)):
    count = max(1, int(_BUILDINGS[int(places.kind[i])] * thin))
    h = lattice.hash_ints(np.arange(count * 3), int(places.id[i]))
    radius = float(places.radius_m[i]) * 1.1 * np.sqrt(unit(h).astype(np.float64))
    bearing = 2 * np.pi * unit(h, 16).astype(np.float64)
    kx = METRES_PER_DEGREE * np.cos(np.radians(places.lat[i]))
    lon = places.lon[i] + radius * np.cos(bearing) / kx
    lat = places.lat[i] + radius * np.sin(bearing) / METRES_PER_DEGREE
    built = np.isin(land.cover(Points.of(lon, lat)), [legend.CORINE_INDEX[c] for c in (111, 112, 121)])
    for k in np.flatnonzero(built)[:count]:
      long, wide = 9 + 9 * float(unit(h[k : k + 1], 4)[0]), 8 + 3 * float(unit(h[k : k + 1], 9)[0])
      turn = float(unit(h[k : k + 1], 12)[0]) * np.pi
      corner = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1], [-1, -1]]) * [long / 2, wide / 2]
      corner = corner @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
      writer.way(
        np.column_stack([lon[k] + corner[:, 0] / kx, lat[k] + corner[:, 1] / METRES_PER_DEGREE]), {'building': 'yes'}
      )


def write(land: Landscape, path: pathlib.Path, bounds_lonlat: tuple[float, float, float, float]) -> None:
  """Writes roads, rivers, areas, buildings and places whose kind legend.OSM_THEMES knows.

  Args:
    land: the world.
    path: of the .osm.pbf; replaced if it exists.
    bounds_lonlat: (west, south, east, north), degrees WGS84. Features reach somewhat beyond it.
  """
  west, south, east, north = bounds_lonlat
  writer = _Writer()
  box = networks.Box((west + east) / 2, (south + north) / 2, (east - west) / 2, (north - south) / 2)
  rivers, roads = networks.rivers(box, land.seed), networks.roads(box, land.seed)
  places = networks.settlements(box, land.seed)
  inside = (np.abs(lattice.wrap_degrees(places.lon - box.lon)) < box.half_lon) & (
    np.abs(places.lat - box.lat) < box.half_lat
  )
  places = places.take(inside)
  _add_places(writer, land, places)
  for i, line in enumerate(_bent_lines(roads, land.seed, 0.4)):
    writer.way(line, {'highway': _HIGHWAYS[int(roads.kind[i])]})
  for i, line in enumerate(_bent_lines(rivers, land.seed, 1.0)):
    writer.way(line, {'waterway': 'river' if rivers.width_m[i] > _RIVER_AREA_M else 'stream'})
    width_m = np.linspace(rivers.width_m[i], rivers.end_width_m[i], len(line))
    if width_m[-1] >= _RIVER_AREA_M:
      _add_banks(writer, line, width_m)

  cover, grid = corinemap.truth_raster(land, bounds_lonlat)
  group = np.zeros(256, np.uint8)
  tags: list[dict] = [{}]
  for codes, tag in _AREAS.items():
    group[[legend.CORINE_INDEX[c] for c in codes]] = len(tags)
    tags.append(tag)
  drawn = rasterio.features.sieve(corinemap.majority(group[cover]), _SMALLEST_CELLS, connectivity=4)
  geometry, index = corinemap.polygons(drawn, grid, corinemap.SMOOTH_M)
  to_lonlat = base.transformer(3035, 4326)
  for polygon, kind in zip(geometry, index, strict=True):
    if kind:
      for part in shapely.get_parts(polygon):
        writer.polygon(
          shapely.transform(part, lambda c: np.column_stack(to_lonlat.transform(c[:, 0], c[:, 1]))), tags[kind]
        )
  _add_buildings(writer, land, places)
  for lon, lat, radius, _ in parcels.mines(box, land.seed):
    writer.points.append((writer.node(lon, lat), {'landuse': 'quarry', 'diameter': f'{2 * radius:.0f}'}))
  writer.write(path)

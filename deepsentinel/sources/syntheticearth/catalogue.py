"""When each satellite passes where: circular sun-synchronous orbits with the missions' real repeat cycles.

Sentinel-2 (ESA, S2 user handbook): 786 km, 98.62 degrees, 143 orbits in 10 days, descending node at 10:30 local time,
290 km swath about the ground track, two satellites half a cycle apart. Sentinel-1: 693 km, 98.18 degrees, 175 orbits
in 12 days, ascending node at 18:00, interferometric wide swath of 250 km to the right, two satellites.
"""

import collections
import dataclasses
import datetime
import functools
import math

import numpy as np
import shapely
import shapely.affinity

from deepsentinel.sources import base
from deepsentinel.sources.syntheticearth import lattice
from deepsentinel.sources.syntheticearth.lattice import EARTH_RADIUS_M

UTC = datetime.UTC
_EPOCH = datetime.datetime(2014, 1, 1, tzinfo=UTC)
_DAY = 86400.0
MIN_SUN_ELEVATION_DEG = 8.0
_SLICE_RAD = math.radians(1.62)  # 180 km of a Sentinel-1 pass


@dataclasses.dataclass(frozen=True)
class Orbit:
  """A repeating orbit.

  Attributes:
    sensor: whose. orbits, days: of a cycle. inclination_deg: of the plane. height_m: above the sphere.
    node_hour: local solar time of the ascending node.
    swath_rad: (left, right) limits of the swath across the track, as angles at the centre of the Earth, right positive.
    satellites: names, spread evenly over the cycle.
  """

  sensor: str
  orbits: int
  days: int
  inclination_deg: float
  height_m: float
  node_hour: float
  swath_rad: tuple[float, float]
  satellites: tuple[str, ...]

  @property
  def period_s(self) -> float:
    return self.days * _DAY / self.orbits

  def node_lon(self, relative_orbit, descending: bool = False) -> np.ndarray:
    """Longitude of the ascending (or descending) node at its crossing, degrees; the same in every cycle."""
    # Local time = UTC + lon / 15 h; orbit 1 of the cycle begins at midnight UTC of the epoch.
    turn = 360.0 * self.days / self.orbits  # of the Earth in one orbit
    ascending = 15 * self.node_hour - (np.asarray(relative_orbit) - 1) * turn
    return (ascending + (180 - turn / 2 if descending else 0)) % 360

  def axes(self, relative_orbit, u) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Earth-fixed unit vectors when the satellite is at argument of latitude u: position, velocity, normal [..., 3]."""
    # The Earth turns by exactly `days` circles relative to the orbit's plane in one cycle.
    node = np.radians(self.node_lon(relative_orbit)) - u * self.days / self.orbits
    i = math.radians(self.inclination_deg)
    a = np.stack([np.cos(node), np.sin(node), np.zeros_like(node)], -1)
    b = np.stack([-np.sin(node) * math.cos(i), np.cos(node) * math.cos(i), np.full_like(node, math.sin(i))], -1)
    u = np.asarray(u)[..., None]
    return a * np.cos(u) + b * np.sin(u), b * np.cos(u) - a * np.sin(u), np.cross(a, b)

  def nearest(self, relative_orbit: np.ndarray, lon, lat, descending: bool) -> tuple[np.ndarray, np.ndarray]:
    """(u, across) in radians of the closest approach of each orbit [N] to a place or to places [N], on that half of
    the orbit; right of the track is positive, infinite where it does not come near."""
    p = _unit_vector(np.asarray(lon, np.float64), np.asarray(lat, np.float64))
    u = np.full(np.shape(relative_orbit), math.pi if descending else 0.0)
    centre = u.copy()
    for _ in range(7):
      position, velocity, _ = self.axes(relative_orbit, u)
      step = np.arctan2((velocity * p).sum(-1), (position * p).sum(-1))
      u = u + step
      u = centre + (u - centre + math.pi) % (2 * math.pi) - math.pi
    _, _, normal = self.axes(relative_orbit, u)
    across = -np.arcsin(np.clip((normal * p).sum(-1), -1, 1))
    half = np.abs(u - centre) <= math.pi / 2 + 1e-9
    return u, np.where(half, across, np.inf)

  def ground(self, relative_orbit: int, u: np.ndarray, across: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """lon, lat degrees of points of the swath."""
    position, _, normal = self.axes(np.full(np.shape(u), relative_orbit), np.asarray(u, np.float64))
    v = position * np.cos(across)[..., None] - normal * np.sin(across)[..., None]
    return np.degrees(np.arctan2(v[..., 1], v[..., 0])), np.degrees(np.arcsin(np.clip(v[..., 2], -1, 1)))

  def incidence_deg(self, across: np.ndarray) -> np.ndarray:
    """Angle of incidence on the ellipsoid at a distance across the track."""
    look = np.arctan2(np.sin(np.abs(across)), (1 + self.height_m / EARTH_RADIUS_M) - np.cos(across))
    return np.degrees(look + np.abs(across))

  def passes(self, start: datetime.datetime, end: datetime.datetime, relative_orbit: int, u: float):
    """(satellite, absolute cycle number, time) of each time the orbit reaches u, start <= time < end."""
    offset = ((relative_orbit - 1) + u / (2 * math.pi)) * self.period_s  # u is negative before the ascending node
    cycle = self.days * _DAY
    for k, satellite in enumerate(self.satellites):
      first = offset + k * cycle / len(self.satellites)
      n = math.floor(((start - _EPOCH).total_seconds() - first) / cycle)
      while (time := _EPOCH + datetime.timedelta(seconds=first + n * cycle)) < end:
        if time >= start:  # compared as written, to the microsecond
          yield satellite, n, time
        n += 1


def _unit_vector(lon, lat) -> np.ndarray:
  lon, lat = np.radians(lon), np.radians(lat)
  return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], -1)


def _across(incidence_deg: float, height_m: float) -> float:
  theta = math.radians(incidence_deg)
  return theta - math.asin(math.sin(theta) * EARTH_RADIUS_M / (EARTH_RADIUS_M + height_m))


SENTINEL2 = Orbit(
  'sentinel2', 143, 10, 98.62, 786e3, 22.5, (-145e3 / EARTH_RADIUS_M, 145e3 / EARTH_RADIUS_M), ('S2A', 'S2B')
)
SENTINEL1 = Orbit(
  'sentinel1', 175, 12, 98.18, 693e3, 18.0,
  (_across(30.9, 693e3), _across(30.9, 693e3) + 250e3 / EARTH_RADIUS_M), ('S1A', 'S1B'),
)  # fmt: skip


def wrap_polygon(lon: np.ndarray, lat: np.ndarray) -> shapely.Geometry:
  """A ring with longitudes unwrapped or not, as a WGS84 polygon split at the antimeridian."""
  lon = np.asarray(lon, np.float64)
  lon = lon[0] + np.cumsum(np.concatenate([[0], (np.diff(lon) + 180) % 360 - 180]))
  lon = lon - 360 * np.floor((lon.mean() + 180) / 360)
  polygon = shapely.Polygon(np.column_stack([lon, lat]))
  return base.split_antimeridian(polygon)


def unwrapped(geometry: shapely.Geometry, around_lon: float) -> shapely.Geometry:
  """The geometry with longitudes within 180 degrees of `around_lon`, parts rejoined."""
  parts = []
  for part in shapely.get_parts(geometry):
    turn = 360 * round((around_lon - part.centroid.x) / 360)
    parts.append(shapely.affinity.translate(part, xoff=turn))
  return parts[0] if len(parts) == 1 else shapely.union_all(parts)


def sun_position(time: datetime.datetime, lon: float, lat: float) -> tuple[float, float]:
  """(elevation, azimuth) in degrees; azimuth from north over east. Low-precision formulas of the Astronomical
  Almanac, good to about 0.05 degrees."""
  days = (time - datetime.datetime(2000, 1, 1, 12, tzinfo=UTC)).total_seconds() / _DAY
  g = math.radians(357.529 + 0.98560028 * days)
  q = 280.459 + 0.98564736 * days
  ecliptic = math.radians(q + 1.915 * math.sin(g) + 0.020 * math.sin(2 * g))
  tilt = math.radians(23.439 - 0.00000036 * days)
  ascension = math.atan2(math.cos(tilt) * math.sin(ecliptic), math.cos(ecliptic))
  declination = math.asin(math.sin(tilt) * math.sin(ecliptic))
  sidereal = math.radians((280.46061837 + 360.98564736629 * days + lon) % 360)
  hour = sidereal - ascension
  phi = math.radians(lat)
  sin_e = math.sin(phi) * math.sin(declination) + math.cos(phi) * math.cos(declination) * math.cos(hour)
  azimuth = math.atan2(-math.sin(hour), math.tan(declination) * math.cos(phi) - math.sin(phi) * math.cos(hour))
  return math.degrees(math.asin(max(-1.0, min(1.0, sin_e)))), math.degrees(azimuth) % 360


# ---------------------------------------------------------------- Sentinel-2 tiles

_COLUMN_LETTERS = ('STUVWXYZ', 'ABCDEFGH', 'JKLMNPQR')  # zone mod 3
_ROW_LETTERS = 'ABCDEFGHJKLMNPQRSTUV'
_BANDS = 'CDEFGHJKLMNPQRSTUVWX'
TILE_M, TILE_STEP_M = 109_800, 100_000


def _tile_name(zone: int, south: bool, column: int, row: int, lat: float) -> str:
  band = _BANDS[int(min(max((lat + 80) // 8, 0), 19))]
  letter = _COLUMN_LETTERS[zone % 3][(column - 1) % 8]
  number = row - (100 if south else 0)  # false northing of 10,000 km is 100 rows, a multiple of 20
  return f'{zone:02d}{band}{letter}{_ROW_LETTERS[(number + (5 if zone % 2 == 0 else 0)) % 20]}'


@functools.lru_cache(maxsize=4096)
def tile_outline(zone: int, south: bool, column: int, row: int) -> shapely.Polygon:
  """Footprint of a 109.8 km tile in WGS84, longitudes unwrapped about its centre."""
  epsg = (32700 if south else 32600) + zone
  # As in the real grid, tiles reach 9.8 km east and south over the next square, and their corners are moved outwards to
  # multiples of 60 m, counted from the equator.
  left, top = math.floor(column * TILE_STEP_M / 60) * 60, math.ceil((row + 1 - 100 * south) * TILE_STEP_M / 60) * 60
  return base.PatchGrid(epsg, left, top + south * 10_000_000, 10980, 10980).outline_lonlat(8)


def tiles_over(footprint: shapely.Geometry) -> list[tuple[int, bool, int, int]]:
  """(zone, south, column, row) of the tiles that meet a footprint (WGS84), those of the zones beside its own too."""
  found = set()
  for part in shapely.get_parts(footprint):
    west, bottom, east, top = part.bounds
    beside = math.degrees(TILE_M / EARTH_RADIUS_M) / math.cos(math.radians(min(max(abs(bottom), abs(top)), 84.0)))
    for zone_index in range(math.floor((west - beside + 180) / 6), math.floor((east + beside + 180) / 6) + 1):
      lon0 = zone_index * 6 - 180
      zone = zone_index % 60 + 1
      w, e = max(west, lon0 - beside), min(east, lon0 + 6 + beside)
      for south in (False, True):
        # Tiles reach a little over the equator.
        low, high = (max(bottom, -84.0), min(top, 0.1)) if south else (max(bottom, -0.1), min(top, 84.0))
        if low > high or w > e:
          continue
        to_utm = base.transformer(4326, (32700 if south else 32600) + zone)
        sides = np.linspace(0, 1, 5)
        lons = np.concatenate([w + (e - w) * sides, w + (e - w) * sides, np.full(5, w), np.full(5, e)])
        lats = np.concatenate(
          [np.full(5, low), np.full(5, high), low + (high - low) * sides, low + (high - low) * sides]
        )
        x, y = to_utm.transform(lons, lats)
        for column in range(int((min(x) - 9800) // TILE_STEP_M), int(max(x) // TILE_STEP_M) + 1):
          for row in range(int(min(y) // TILE_STEP_M), int((max(y) + 9800) // TILE_STEP_M) + 1):
            if _exists(zone, south, column, row):
              found.add((zone, south, column, row))
  return sorted(found)


def _exists(zone: int, south: bool, column: int, row: int) -> bool:
  """Whether a tile lies at least partly in its own zone and hemisphere."""
  west, _, east, _ = tile_outline(zone, south, column, row).bounds
  from_meridian = ((west + east) / 2 - (6 * zone - 183) + 180) % 360 - 180
  return abs(from_meridian) - (east - west) / 2 <= 3 and (row <= 100 if south else row >= 0)


@functools.lru_cache(maxsize=2048)
def _tile_passes(zone: int, south: bool, column: int, row: int) -> tuple[tuple[int, float, shapely.Geometry], ...]:
  """(relative orbit, u at the tile's centre, footprint in WGS84) of the passes whose swath meets a tile."""
  outline = tile_outline(zone, south, column, row)
  centre = outline.centroid
  orbit = SENTINEL2
  numbers = np.arange(1, orbit.orbits + 1)
  u, across = orbit.nearest(numbers, centre.x, centre.y, descending=True)
  out = []
  for k in np.flatnonzero(np.abs(across) < orbit.swath_rad[1] + 78e3 / EARTH_RADIUS_M):
    along = u[k] + np.linspace(-0.022, 0.022, 13)
    limits = orbit.swath_rad
    left = orbit.ground(int(numbers[k]), along, np.full(13, limits[0]))
    right = orbit.ground(int(numbers[k]), along[::-1], np.full(13, limits[1]))
    lon = np.concatenate([left[0], right[0]])
    lon = centre.x + (lon - centre.x + 180) % 360 - 180
    swath = shapely.Polygon(np.column_stack([lon, np.concatenate([left[1], right[1]])]))
    footprint = shapely.intersection(outline, swath)
    if footprint.geom_type == 'Polygon' and footprint.area > 0.004 * outline.area:
      turn = 360 * math.floor((footprint.centroid.x + 180) / 360)
      footprint = base.split_antimeridian(shapely.affinity.translate(footprint, xoff=-turn))
      shapely.prepare(footprint)
      out.append((int(numbers[k]), float(u[k]), footprint))
  return tuple(out)


def search_sentinel2(footprint, start, end, cloud_shares) -> list[base.Scene]:
  """Tiles in order of time.

  `cloud_shares(satellite, orbit, cycle, outlines)` gives the share of cloud of every tile that one pass shows.
  """
  of_pass = collections.defaultdict(list)
  for zone, south, column, row in tiles_over(footprint):
    for relative_orbit, u, outline in _tile_passes(zone, south, column, row):
      if not outline.intersects(footprint):
        continue
      centre = tile_outline(zone, south, column, row).centroid
      name = _tile_name(zone, south, column, row, centre.y)
      for satellite, cycle, time in SENTINEL2.passes(start, end, relative_orbit, u):
        elevation, azimuth = sun_position(time, centre.x, centre.y)
        if elevation < MIN_SUN_ELEVATION_DEG:
          continue
        baseline = processing_baseline(time)
        stamp = time.strftime('%Y%m%dT%H%M%S')
        of_pass[satellite, relative_orbit, cycle].append(
          base.Scene(
            f'{satellite}_MSIL2A_{stamp}_N{baseline.replace(".", "")}_R{relative_orbit:03d}_T{name}_C{cycle:04d}',
            'sentinel2', outline, time, 'descending', relative_orbit,
            {
              'cloud_share': math.nan,  # below
              'processing_baseline': baseline, 'satellite': satellite, 'tile': name,
              'epsg': (32700 if south else 32600) + zone,
              'sun_elevation_deg': elevation, 'sun_azimuth_deg': azimuth,
            },
          )
        )  # fmt: skip
  scenes = []
  for key, tiles in of_pass.items():
    shares = cloud_shares(*key, [tile.footprint for tile in tiles])
    scenes += [
      dataclasses.replace(tile, metadata={**tile.metadata, 'cloud_share': share})
      for tile, share in zip(tiles, shares, strict=True)
    ]
  return sorted(scenes, key=lambda s: (s.time, s.id))


def processing_baseline(time: datetime.datetime) -> str:
  """The baseline of that date's routine processing (ESA, S2 processing baseline history, main steps)."""
  steps = (
    ('2024-07-23', '05.11'), ('2023-12-13', '05.10'), ('2022-12-06', '05.09'), ('2022-01-25', '04.00'),
    ('2021-03-30', '03.00'), ('2020-02-04', '02.14'), ('2019-07-08', '02.13'), ('2018-11-06', '02.10'),
    ('2018-03-26', '02.07'),
  )  # fmt: skip
  day = time.strftime('%Y-%m-%d')
  return next((baseline for first, baseline in steps if day >= first), '02.06')


def search_sentinel1(footprint, start, end) -> list[base.Scene]:
  """Slices of 180 km along the track, cut at other places in every cycle."""
  scenes = {}
  orbit = SENTINEL1
  numbers = np.arange(1, orbit.orbits + 1)
  for part in shapely.get_parts(footprint):
    centre = part.centroid
    size = math.hypot(part.bounds[2] - part.bounds[0], part.bounds[3] - part.bounds[1])
    reach = math.radians(size) / 2 + 0.002
    for descending in (False, True):
      u, across = orbit.nearest(numbers, centre.x, centre.y, descending)
      near = (across > orbit.swath_rad[0] - reach) & (across < orbit.swath_rad[1] + reach)
      for k in np.flatnonzero(near):
        relative_orbit = int(numbers[k])
        for satellite, cycle, _ in orbit.passes(
          start - datetime.timedelta(minutes=10), end + datetime.timedelta(minutes=10), relative_orbit, u[k]
        ):
          phase = lattice.salt_of('slices', satellite, relative_orbit, cycle) / 2**32
          first = math.floor((u[k] - reach) / _SLICE_RAD - phase)
          last = math.floor((u[k] + reach) / _SLICE_RAD - phase)
          for number in range(first, last + 1):
            scene = _sentinel1_scene(orbit, satellite, relative_orbit, cycle, number, phase, descending)
            if start <= scene.time < end and scene.footprint.intersects(footprint):
              scenes[scene.id] = scene
  return sorted(scenes.values(), key=lambda s: (s.time, s.id))


def _sentinel1_scene(orbit, satellite, relative_orbit, cycle, number, phase, descending) -> base.Scene:
  low, high = (number + phase) * _SLICE_RAD, (number + 1 + phase) * _SLICE_RAD
  along = np.linspace(low, high, 7)
  left = orbit.ground(relative_orbit, along, np.full(7, orbit.swath_rad[0]))
  right = orbit.ground(relative_orbit, along[::-1], np.full(7, orbit.swath_rad[1]))
  footprint = wrap_polygon(np.concatenate([left[0], right[0]]), np.concatenate([left[1], right[1]]))
  first = ((relative_orbit - 1) + low / (2 * math.pi)) * orbit.period_s
  k = orbit.satellites.index(satellite)
  seconds = first + k * orbit.days * _DAY / len(orbit.satellites) + cycle * orbit.days * _DAY
  time = _EPOCH + datetime.timedelta(seconds=seconds)
  stop = time + datetime.timedelta(seconds=_SLICE_RAD / (2 * math.pi) * orbit.period_s)
  absolute = cycle * orbit.orbits + relative_orbit + k * orbit.orbits // 2
  middle = float(np.mean(orbit.swath_rad))
  return base.Scene(
    f'{satellite}_IW_GRDH_1SDV_{time:%Y%m%dT%H%M%S}_{stop:%Y%m%dT%H%M%S}_{absolute:06d}_C{cycle:04d}',
    'sentinel1', footprint, time, 'descending' if descending else 'ascending', relative_orbit,
    {
      'satellite': satellite, 'mode': 'IW', 'incidence_deg': float(orbit.incidence_deg(np.array(middle))),
      'u_rad': (low + high) / 2, 'absolute_orbit': absolute,
    },
  )  # fmt: skip

"""SyntheticEarth: the embedded source. A whole Earth, its two satellites and its maps, without a network.

Everything is a pure function of (lon, lat, date, seed): the same bytes on every call, in every window, in every
process. Anything reported from it must say that it is synthetic (`SyntheticEarth.synthetic`).
"""

import collections
import datetime
import os
import pathlib
import re
import shutil
from collections.abc import Sequence

import numpy as np
import shapely

from deepsentinel import sensors
from deepsentinel.sources import base
from deepsentinel.sources.syntheticearth import catalogue, clouds, landscape, lattice, optics, radar, windows
from deepsentinel.sources.syntheticearth.lattice import Points

_ID = re.compile(r'^(S[12][AB])_.*_C(-?\d+)$')
_COARSE = {20: 2, 60: 6}
_TILES_KEPT = 20_000


class SyntheticEarth:
  """A deterministic Earth with Sentinel-1 and Sentinel-2 archives, CORINE polygons and OpenStreetMap features.

  Args:
    seed: another seed is another world with other weather.
    cache_dir: where `write_corine` and `write_osm` keep what they wrote, to be copied the next time; '' keeps nothing.
  """

  synthetic = True

  def __init__(self, seed: int = 0, cache_dir: str = ''):
    self.seed = int(seed)
    self.cache_dir = cache_dir
    self.spec = sensors.SensorSpec(sensors.ALL_BANDS, 'L2A', 'sigma0_ellipsoid')
    self.landscape = landscape.Landscape(self.seed)
    self._surfaces: collections.OrderedDict = collections.OrderedDict()
    self._tile_cloud_share: dict[tuple, float] = {}

  def __reduce__(self):
    return type(self), (self.seed, self.cache_dir)

  # ------------------------------------------------------------------ catalogue

  def search(
    self, sensor: str, footprint: shapely.Geometry, start: datetime.datetime, end: datetime.datetime
  ) -> list[base.Scene]:
    """Scenes of `sensor` whose footprint meets `footprint` (WGS84), start <= time < end, in order of (time, id).

    Raises:
      ValueError: unknown sensor, empty footprint, or times without a timezone.
    """
    if sensor not in sensors.SENSORS:
      raise ValueError(f'Unknown sensor {sensor!r}. Known: {", ".join(sensors.SENSORS)}.')
    if footprint.is_empty:
      raise ValueError('The footprint is empty; give a point or a polygon in WGS84.')
    if start.tzinfo is None or end.tzinfo is None:
      raise ValueError(f'start {start} and end {end} need a timezone; give them in UTC.')
    footprint = base.split_antimeridian(footprint)
    if sensor == 'sentinel1':
      return catalogue.search_sentinel1(footprint, start, end)
    return catalogue.search_sentinel2(footprint, start, end, self._expected_cloud_shares)

  def _weather(self, satellite: str, relative_orbit: int, cycle: int) -> clouds.Weather:
    pass_lon = float(catalogue.SENTINEL2.node_lon(relative_orbit, descending=True))
    return clouds.Weather(lattice.salt_of(self.seed, 'sentinel2', satellite, relative_orbit, cycle), pass_lon)

  def _expected_cloud_shares(
    self, satellite: str, relative_orbit: int, cycle: int, outlines: Sequence[shapely.Geometry]
  ) -> list[float]:
    """Of every tile of one pass, those not seen before all at once: the weather is slow of a few points at a time."""
    keys = [(satellite, relative_orbit, cycle, outline) for outline in outlines]
    missing = [key for key in dict.fromkeys(keys) if key not in self._tile_cloud_share]
    if missing:
      places = [_raster(outline) for *_, outline in missing]
      lon, lat = np.concatenate(places, axis=1)
      cloud = self._weather(satellite, relative_orbit, cycle).covered(Points.of(lon, lat))
      parts = np.split(cloud, np.cumsum([len(place[0]) for place in places])[:-1])
      if len(self._tile_cloud_share) > _TILES_KEPT:
        self._tile_cloud_share = {key: self._tile_cloud_share[key] for key in keys if key in self._tile_cloud_share}
      self._tile_cloud_share |= {key: float(part.mean()) for key, part in zip(missing, parts, strict=True)}
    return [self._tile_cloud_share[key] for key in keys]

  def _scene_weather(self, scene: base.Scene) -> clouds.Weather:
    satellite, cycle = self._identify(scene)
    return self._weather(satellite, scene.relative_orbit, cycle)

  @staticmethod
  def _identify(scene: base.Scene) -> tuple[str, int]:
    match = _ID.match(scene.id)
    if match is None or scene.relative_orbit < 1:
      raise ValueError(
        f'Scene {scene.id!r} (relative orbit {scene.relative_orbit}) is not of SyntheticEarth; read it with the source '
        'it came from.'
      )
    return match[1], int(match[2])

  # ------------------------------------------------------------------ truth

  def landcover(self, lon, lat) -> np.ndarray:
    """The exact truth: uint8 CORINE level-3 index (legend.CORINE) at any places, in the shape of `lon` and `lat`."""
    lon, lat = np.broadcast_arrays(np.asarray(lon, np.float64), np.asarray(lat, np.float64))
    if lon.size and not (np.isfinite(lon).all() and (np.abs(lat) <= 89).all()):
      raise ValueError('landcover wants finite longitudes and latitudes within 89 degrees, in degrees WGS84.')
    points = Points.of(lon, lat)
    out = np.zeros(len(points), np.uint8)
    for index in _nearby(points):
      part = Points(points.lon[index], points.lat[index])
      out[index] = self.landscape.surface(part).cover
    return out.reshape(lon.shape)

  def cloud_mask(self, scene: base.Scene, grid: base.PatchGrid, cloud_share: float | None = None) -> np.ndarray:
    """bool [H, W]: the true cloud, thick or thin, of a Sentinel-2 scene, or of its `render` at a chosen share."""
    weather = self._scene_weather(scene)
    lon, lat = grid.pixel_centres_lonlat()
    points = Points.of(lon, lat)
    threshold = None if cloud_share is None else weather.threshold_for(points, cloud_share)
    out = np.zeros(len(points), bool)
    for index in _nearby(points):
      out[index] = weather.at(Points(points.lon[index], points.lat[index]), threshold).mask
    return out.reshape(lon.shape)

  def cloud_share(self, scene: base.Scene, grid: base.PatchGrid) -> float:
    """Share of the grid's pixels under cloud, 0..1."""
    return float(self.cloud_mask(scene, grid).mean())

  # ------------------------------------------------------------------ pixels

  def read(self, scene: base.Scene, grid: base.PatchGrid, bands: Sequence[str]) -> base.Patch:
    """Pixels of `scene` on `grid`: 'reflectance_x1e4' uint16 or 'db' float32.

    Bands of 20 and 60 m are averaged on their own grid and repeated. A grid that is no window of a zone's 10 m grid
    is resampled from one: bilinear, or averaged where its pixels are larger; radar in power.

    Raises:
      ValueError: a band the scene lacks, or a scene of another source.
    """
    return self.render(scene, grid, bands)

  def render(
    self, scene: base.Scene, grid: base.PatchGrid, bands: Sequence[str], cloud_share: float | None = None
  ) -> base.Patch:
    """`read`, with thick cloud over a chosen share of the grid (0 clear, 1 overcast) in place of the weather's own.

    Sentinel-1 sees through either; None leaves the weather.
    """
    if cloud_share is not None and not 0 <= cloud_share <= 1:
      raise ValueError(f'cloud_share must lie in 0..1; found {cloud_share}.')
    bands = tuple(bands)
    if sensors.sensor_of(bands) != scene.sensor:
      own = self.spec.s2_bands if scene.sensor == 'sentinel2' else self.spec.s1_bands
      raise ValueError(f'Scene {scene.id} is of {scene.sensor} and has no {bands}. It has {", ".join(own)}.')
    self._identify(scene)
    unit = 'reflectance_x1e4' if scene.sensor == 'sentinel2' else 'db'
    if windows.is_native(grid):
      values, valid = self._native(scene, windows.block_of(grid), bands, cloud_share)
    else:
      values, valid = self._resampled(scene, grid, bands, cloud_share)
    return base.Patch(values, valid, bands, unit)

  def _native(self, scene, window: windows.Block, bands, cloud_share) -> tuple[np.ndarray, np.ndarray]:
    dtype = np.uint16 if scene.sensor == 'sentinel2' else np.float32
    values = np.zeros((window.height, window.width, len(bands)), dtype)
    valid = np.zeros((window.height, window.width), bool)
    threshold = None
    if cloud_share is not None and scene.sensor == 'sentinel2':
      threshold = self._scene_weather(scene).threshold_for(windows.points_of(window), cloud_share)
    for core in windows.split(window):
      block = windows.padded(core)
      points = windows.points_of(block)
      inside = self._inside(scene, points, block)
      rows = slice(core.row - window.row, core.row - window.row + core.height)
      cols = slice(core.col - window.col, core.col - window.col + core.width)
      crop = (slice(core.row - block.row, core.row - block.row + core.height),
              slice(core.col - block.col, core.col - block.col + core.width))  # fmt: skip
      valid[rows, cols] = inside[crop]
      if not inside[crop].any():
        if scene.sensor == 'sentinel1':
          values[rows, cols] = np.nan
        continue
      if scene.sensor == 'sentinel2':
        value = self._optical(scene, block, points, bands, threshold)
        value = np.clip(np.rint(value * sensors.S2_SCALE), 1, 65535).astype(np.uint16)
        value[:, ~inside] = sensors.S2_NODATA
      else:
        value = self._radar(scene, block, points, bands)
        value = np.pad(value, ((0, 0), (1, 1), (1, 1)))
        value[:, ~inside] = np.nan
      values[rows, cols] = np.moveaxis(value[(slice(None), *crop)], 0, -1)
    return values, valid

  def _surface(self, block: windows.Block, points: Points) -> landscape.Surface:
    """The ground of a block; the last few are kept, since both sensors are read on the same grid."""
    if block in self._surfaces:
      self._surfaces.move_to_end(block)
      return self._surfaces[block]
    surface = self.landscape.surface(points)
    self._surfaces[block] = surface
    while len(self._surfaces) > 3:
      self._surfaces.popitem(last=False)
    return surface

  @staticmethod
  def _inside(scene: base.Scene, points: Points, block: windows.Block) -> np.ndarray:
    lon = np.where(points.lon >= 180, points.lon - 360, points.lon)
    outline = base.PatchGrid(block.epsg, block.col * 10.0, -block.row * 10.0, block.height, block.width).outline_lonlat(
      4
    )
    if scene.footprint.contains(outline):
      return np.ones((block.height, block.width), bool)
    return shapely.contains_xy(scene.footprint, lon, points.lat).reshape(block.height, block.width)

  def _optical(self, scene, block, points, bands, threshold) -> np.ndarray:
    surface = self._surface(block, points)
    weather = self._scene_weather(scene)
    centre = catalogue.unwrapped(scene.footprint, scene.footprint.bounds[0]).centroid
    sun = optics.Sun(*catalogue.sun_position(scene.time, centre.x, centre.y))
    sky = weather.at(points, threshold)
    shade = np.zeros(len(points), np.float32)
    if sky.opacity.min() < 1:
      sunward = clouds.towards_sun(points, weather.height_m, sun.elevation_deg, sun.azimuth_deg)
      shade = weather.opacity(sunward, threshold)
    day = float(scene.time.timetuple().tm_yday)
    date = scene.time.date().toordinal()
    value = optics.reflectance(
      surface, points, bands, day, sun, weather, sky, shade, lattice.salt_of(self.seed, 'snow', date // 6)
    ).reshape(len(bands), block.height, block.width)
    numbers = [self.spec.s2_bands.index(band) for band in bands]
    value = optics.sensor_noise(block.rows, block.cols, lattice.salt_of(self.seed, scene.id), value, numbers)
    for c, name in enumerate(bands):
      factor = _COARSE.get(sensors.BANDS[name].native_gsd_m)
      if factor:
        value[c] = optics.coarsen(value[c], factor)
    return value

  def _radar(self, scene, block, points, bands) -> np.ndarray:
    surface = self._surface(block, points)
    _, cycle = self._identify(scene)
    descending = scene.orbit_pass == 'descending'

    def incidence(lon, lat):
      orbits = np.full(len(lon), scene.relative_orbit)
      _, across = catalogue.SENTINEL1.nearest(orbits, lon, lat, descending)
      return catalogue.SENTINEL1.incidence_deg(across)[None]

    degrees = windows.interpolated(block, incidence)[0].ravel()
    salt = lattice.salt_of(self.seed, scene.id[:3], scene.relative_orbit, cycle)
    db = radar.backscatter_db(
      surface, points, bands, float(scene.time.timetuple().tm_yday), scene.time.date().toordinal(), degrees, descending,
      salt, self.seed,
    )  # fmt: skip
    db = db.reshape(len(bands), block.height, block.width)
    numbers = [self.spec.s1_bands.index(band) for band in bands]
    return radar.speckled(db, block.rows, block.cols, lattice.salt_of(salt, block.epsg), numbers)

  def incidence_deg(self, scene: base.Scene, lon: float, lat: float) -> float:
    """Angle of incidence of a Sentinel-1 scene at a place."""
    _, across = catalogue.SENTINEL1.nearest(
      np.array([scene.relative_orbit]), lon, lat, scene.orbit_pass == 'descending'
    )
    return float(catalogue.SENTINEL1.incidence_deg(across)[0])

  def _resampled(self, scene, grid: base.PatchGrid, bands, cloud_share) -> tuple[np.ndarray, np.ndarray]:
    from rasterio.warp import Resampling, reproject

    outline = shapely.get_coordinates(grid.outline_lonlat())
    lon, lat = outline[:, 0].mean(), outline[:, 1].mean()
    zone = int((lon + 180) % 360 // 6) + 1
    epsg = (32600 if lat >= 0 else 32700) + zone
    x, y = base.transformer(grid.epsg, epsg).transform(*shapely.get_coordinates(grid.outline()).T)
    margin = 3 * max(10.0, grid.pixel_m)
    left, top = np.floor((min(x) - margin) / 10) * 10, np.ceil((max(y) + margin) / 10) * 10
    width, height = (int(np.ceil(d / 10)) for d in (max(x) + margin - left, top - min(y) + margin))
    source = base.PatchGrid(epsg, float(left), float(top), height, width)
    values, valid = self._native(scene, windows.block_of(source), bands, cloud_share)
    optical = scene.sensor == 'sentinel2'
    linear = values.astype(np.float32) if optical else 10 ** (values / 10)
    linear = np.where(valid[..., None], linear, np.nan).astype(np.float32)
    out = np.full((len(bands), grid.height_px, grid.width_px), np.nan, np.float32)
    coarse = grid.pixel_m > 15 and grid.epsg != 4326
    reproject(
      np.moveaxis(linear, 2, 0), out, src_transform=source.transform, src_crs=f'EPSG:{epsg}', src_nodata=np.nan,
      dst_transform=grid.transform, dst_crs=f'EPSG:{grid.epsg}', dst_nodata=np.nan,
      resampling=Resampling.average if coarse else Resampling.bilinear,
    )  # fmt: skip
    out = np.moveaxis(out, 0, 2)
    valid = np.asarray(np.isfinite(out).all(axis=2))
    if optical:
      out = np.where(valid[..., None], np.clip(np.rint(out), 1, 65535), 0).astype(np.uint16)
      return out, valid
    return (10 * np.log10(out)).astype(np.float32), valid

  # ------------------------------------------------------------------ maps

  def write_corine(self, path: str | os.PathLike, bounds_lonlat: tuple[float, float, float, float]) -> pathlib.Path:
    """Writes the CORINE inventory of a box as a GeoPackage; see syntheticearth.corinemap.write."""
    from deepsentinel.sources.syntheticearth import corinemap

    return self._written('corine.gpkg', path, bounds_lonlat, corinemap.write)

  def write_osm(self, path: str | os.PathLike, bounds_lonlat: tuple[float, float, float, float]) -> pathlib.Path:
    """Writes the OpenStreetMap features of a box; see syntheticearth.streetmap.write."""
    from deepsentinel.sources.syntheticearth import streetmap

    return self._written('osm.osm.pbf', path, bounds_lonlat, streetmap.write)

  def write_mines(
    self, polygons: str | os.PathLike, register: str | os.PathLike, bounds_lonlat: tuple[float, float, float, float]
  ) -> None:
    """Writes the outlines of all mines of a box and the register of its coal mines; see syntheticearth.minemap."""
    from deepsentinel.sources.syntheticearth import minemap

    self._written('mines.gpkg', polygons, bounds_lonlat, minemap.write_polygons)
    self._written('coal_mines.gpkg', register, bounds_lonlat, minemap.write_register)

  def _written(self, name: str, path, bounds, write) -> pathlib.Path:
    path = pathlib.Path(path)
    west, south, east, north = (float(v) for v in bounds)
    if not (south < north and west < east and south > -85 and north < 85):
      raise ValueError(f'bounds_lonlat must be (west, south, east, north) within 85 degrees; found {bounds}.')
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = None
    if self.cache_dir:
      kept = pathlib.Path(self.cache_dir) / f'seed{self.seed}_{west:.5f}_{south:.5f}_{east:.5f}_{north:.5f}_{name}'
      if kept.exists():
        shutil.copyfile(kept, path)
        return path
    write(self.landscape, path, (west, south, east, north))
    if kept is not None:
      kept.parent.mkdir(parents=True, exist_ok=True)
      partial = kept.with_name(f'{kept.name}.{os.getpid()}.part')
      shutil.copyfile(path, partial)
      partial.replace(kept)
    return path


def _raster(outline: shapely.Geometry) -> np.ndarray:
  """Longitudes and latitudes [2, N] inside the largest part of an outline, some 12 x 12 over its box."""
  west, south, east, north = max(shapely.get_parts(outline), key=lambda part: part.area).bounds
  steps = (np.arange(12) + 0.5) / 12
  lon, lat = (c.ravel() for c in np.meshgrid(west + (east - west) * steps, south + (north - south) * steps))
  return np.stack([lon, lat])[:, shapely.contains_xy(outline, lon, lat)]


def _nearby(points: Points) -> list[np.ndarray]:
  """Indices of the points in groups that lie close together and fit the cache."""
  if len(points) == 0:
    return []
  i = np.floor(points.lon / 0.25).astype(np.int64)
  j = np.floor(points.lat / 0.25).astype(np.int64)
  order = np.lexsort((i, j))
  cut = np.flatnonzero(np.diff(i[order]) | np.diff(j[order])) + 1
  groups = []
  for group in np.split(order, cut):
    groups += [group[k : k + 65536] for k in range(0, len(group), 65536)]
  return groups

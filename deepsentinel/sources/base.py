"""The seam between a platform and the corpus: find scenes, read pixels. A new source is one new file."""

import dataclasses
import datetime
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import affine
import numpy as np
import pyproj
import shapely

from deepsentinel import sensors

GEOD = pyproj.Geod(ellps='WGS84')  # distances and directions on the ellipsoid
# For images of which no one wrote down when they were taken: its timestamp is -1, the records' missing value.
UNKNOWN_TIME = datetime.datetime(1969, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)


@functools.lru_cache(maxsize=256)
def transformer(source_crs: int | str, target_crs: int | str) -> pyproj.Transformer:
  """pyproj transformer in x, y (lon, lat) order, made once a pair."""
  return pyproj.Transformer.from_crs(source_crs, target_crs, always_xy=True)


def split_antimeridian(outline: shapely.Geometry) -> shapely.Geometry:
  """A WGS84 outline whose longitudes may run past 180 degrees, as GeoJSON has it: cut there, within -180 to 180."""
  west, _, east, _ = shapely.bounds(outline)
  if west >= -180 and east <= 180:
    return outline
  parts = []
  for turn in range(int(np.floor((west + 180) / 360)), int(np.floor((east + 180) / 360)) + 1):
    strip = shapely.box(-180 + 360 * turn, -90, 180 + 360 * turn, 90)
    part = shapely.transform(shapely.intersection(outline, strip), lambda xy, turn=turn: xy - [360 * turn, 0])
    if part.area > 0:
      parts.append(part)
  return shapely.union_all(parts)


def past_antimeridian(outline: shapely.Geometry) -> shapely.Geometry:
  """A WGS84 outline with its longitudes below 0 counted on past 180 degrees."""
  return shapely.transform(outline, lambda xy: xy + np.where(xy[:, :1] < 0, [360, 0], [0, 0]))


def join_antimeridian(outline: shapely.Geometry) -> shapely.Geometry:
  """What `split_antimeridian` has cut: parts west of 0 degrees run on past 180. Others are left as they are."""
  west, _, east, _ = shapely.bounds(outline)
  if east - west <= 180:
    return outline
  parts = shapely.get_parts(outline)
  beyond = shapely.bounds(parts)[:, 2] <= 0
  parts[beyond] = shapely.transform(parts[beyond], lambda xy: xy + np.array([360, 0]))
  return shapely.union_all(parts)


@dataclasses.dataclass(frozen=True)
class PatchGrid:
  """A north-up pixel grid in a projected CRS.

  Attributes:
    epsg: CRS code, usually a UTM zone (326xx north, 327xx south).
    x0_m, y0_m: upper-left corner of the upper-left pixel.
    height_px, width_px: size.
    pixel_m: pixel size.
  """

  epsg: int
  x0_m: float
  y0_m: float
  height_px: int
  width_px: int
  pixel_m: float = 10.0

  @property
  def transform(self) -> affine.Affine:
    return affine.Affine(self.pixel_m, 0, self.x0_m, 0, -self.pixel_m, self.y0_m)

  @property
  def bounds(self) -> tuple[float, float, float, float]:
    """(left, bottom, right, top), metres in the grid's CRS."""
    return (
      self.x0_m,
      self.y0_m - self.height_px * self.pixel_m,
      self.x0_m + self.width_px * self.pixel_m,
      self.y0_m,
    )

  def outline(self, points_per_side: int = 21) -> shapely.Polygon:
    """The densified outline in the grid's CRS."""
    left, bottom, right, top = self.bounds
    box = shapely.box(left, bottom, right, top)
    return shapely.segmentize(box, max(right - left, top - bottom) / points_per_side)

  def outline_lonlat(self, points_per_side: int = 21) -> shapely.Polygon:
    """The densified outline in WGS84, longitudes unwrapped around its first corner (it may pass 180 degrees)."""
    return _unwrapped_outlines([self], points_per_side)[0]

  def centre_lonlat(self) -> tuple[float, float]:
    """Longitude and latitude of its middle, degrees WGS84."""
    left, bottom, right, top = self.bounds
    return transformer(self.epsg, 4326).transform((left + right) / 2, (bottom + top) / 2)

  def bounds_in(self, crs: Any, pad_px: float = 1.0) -> list[tuple[float, float, float, float]]:
    """Boxes (left, bottom, right, top) in `crs`, x and y in that order, that together hold the padded grid.

    One box; two where `crs` is geographic and the grid lies across the antimeridian.
    """
    left, bottom, right, top = self.bounds
    pad = pad_px * self.pixel_m
    box = transformer(self.epsg, crs).transform_bounds(left - pad, bottom - pad, right + pad, top + pad, densify_pts=21)
    if box[0] <= box[2]:
      return [box]
    return [(box[0], box[1], 180.0, box[3]), (-180.0, box[1], box[2], box[3])]

  def pixel_centres_lonlat(self) -> tuple[np.ndarray, np.ndarray]:
    """float64 [H, W] longitude and latitude of every pixel centre, degrees WGS84."""
    x = self.x0_m + (np.arange(self.width_px) + 0.5) * self.pixel_m
    y = self.y0_m - (np.arange(self.height_px) + 0.5) * self.pixel_m
    lon, lat = transformer(self.epsg, 4326).transform(*np.meshgrid(x, y))
    return np.asarray(lon), np.asarray(lat)

  def window(self, row: int, col: int, height_px: int, width_px: int) -> 'PatchGrid':
    """The sub-grid whose upper-left pixel is (row, col); it may reach outside this grid."""
    return PatchGrid(
      self.epsg, self.x0_m + col * self.pixel_m, self.y0_m - row * self.pixel_m, height_px, width_px, self.pixel_m
    )


def _unwrapped_outlines(grids: Sequence[PatchGrid], points_per_side: int) -> np.ndarray:
  """object [N]: the densified outlines in WGS84, longitudes unwrapped around each one's first corner."""
  out = np.empty(len(grids), object)
  zones = np.array([grid.epsg for grid in grids])
  for epsg in np.unique(zones):
    chosen = np.flatnonzero(zones == epsg)
    bounds = np.array([grids[i].bounds for i in chosen.tolist()])  # [n, 4]
    longer = np.maximum(bounds[:, 2] - bounds[:, 0], bounds[:, 3] - bounds[:, 1])
    rings = shapely.segmentize(shapely.box(*bounds.T), longer / points_per_side)
    out[chosen] = _unwrapped(rings, int(epsg))
  return out


def _unwrapped(outlines: np.ndarray, crs: Any) -> np.ndarray:
  """object [N]: outlines of a projected CRS in WGS84, longitudes unwrapped around each one's first vertex."""
  xy, outline = shapely.get_coordinates(outlines, return_index=True)
  lon, lat = transformer(crs, 4326).transform(xy[:, 0], xy[:, 1])
  first = np.asarray(lon)[np.searchsorted(outline, np.arange(len(outlines)))][outline]  # of each, at every vertex
  lon = first + (np.asarray(lon) - first + 180) % 360 - 180
  return shapely.set_coordinates(np.array(outlines, object), np.column_stack([lon, lat]))


def outlines_lonlat(grids: Sequence[PatchGrid], points_per_side: int = 21) -> np.ndarray:
  """object [N]: the densified outlines in WGS84, cut at the antimeridian; for many grids at once, in any zones."""
  return _cut(_unwrapped_outlines(grids, points_per_side))


def to_lonlat(outlines: np.ndarray, crs: Any) -> np.ndarray:
  """object [N]: outlines of a CRS, each less than 180 degrees wide, in WGS84, cut at the antimeridian."""
  return _cut(_unwrapped(outlines, crs))


def _cut(outlines: np.ndarray) -> np.ndarray:
  west, _, east, _ = shapely.bounds(outlines).T
  for i in np.flatnonzero((west < -180) | (east > 180)):
    outlines[i] = split_antimeridian(outlines[i])
  return outlines


@dataclasses.dataclass(frozen=True)
class Scene:
  """One acquisition in a catalogue.

  Attributes:
    id: product or item id, unique within its source.
    sensor: 'sentinel2' or 'sentinel1'.
    footprint: WGS84 polygon or multipolygon (split at the antimeridian, as GeoJSON has it).
    time: start of sensing, timezone-aware UTC.
    orbit_pass: 'ascending', 'descending' or '' where unknown.
    relative_orbit: 1 to 175, or -1 where unknown.
    metadata: what else the catalogue says ('cloud_share' 0..1, 'processing_baseline', 'incidence_deg', ...).
  """

  id: str
  sensor: str
  footprint: shapely.Geometry
  time: datetime.datetime
  orbit_pass: str = ''
  relative_orbit: int = -1
  metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    if self.sensor not in sensors.SENSORS:
      raise ValueError(f'Unknown sensor {self.sensor!r}. Known: {", ".join(sensors.SENSORS)}.')
    if self.time.tzinfo is None:
      raise ValueError(f'Scene {self.id}: time {self.time} has no timezone; give it in UTC.')


@dataclasses.dataclass
class Patch:
  """Pixels of one sensor on one grid.

  Attributes:
    values: [H, W, C] in `unit`.
    valid: bool [H, W]: False outside the scene or where the product says nodata.
    bands: C names, in the order of the channels.
    unit: one of sensors.REFLECTANCE_UNITS or sensors.BACKSCATTER_UNITS. Stated, never guessed.
  """

  values: np.ndarray
  valid: np.ndarray
  bands: tuple[str, ...]
  unit: str

  def to_storage(self) -> np.ndarray:
    """uint16 [H, W, C] reflectance x 10,000 or int16 [H, W, C] dB x 100; see `sensors`."""
    if sensors.sensor_of(self.bands) == 'sentinel2':
      return sensors.store_reflectance(self.values, self.unit, self.valid)
    return sensors.store_backscatter(self.values, self.unit, self.valid)


@dataclasses.dataclass(frozen=True)
class Place:
  """A ready-made patch of an existing dataset: its grid, its scenes, and the class names it is tagged with."""

  id: str
  grid: PatchGrid
  scenes: Mapping[str, Scene]
  classes: tuple[str, ...] = ()


def scenes_that_meet(
  scenes: Iterable[Scene],
  sensor: str,
  footprint: shapely.Geometry,
  start: datetime.datetime,
  end: datetime.datetime,
) -> list[Scene]:
  """Those of a list of scenes that ImagerySource.search has to return."""
  footprint = split_antimeridian(footprint)
  found = [
    s for s in scenes if s.sensor == sensor and start <= s.time < end and shapely.intersects(s.footprint, footprint)
  ]
  return sorted(found, key=lambda s: (s.time, s.id))


@runtime_checkable
class ImagerySource(Protocol):
  """Where imagery comes from. Made from a config's `source` by the registry, once a process.

  One on a network may also have `connect()`, which is called before the first patch is fetched: ValueError says why the
  platform lets no one in.
  One that knows clouds may have `cloud_mask(scene, grid)`: bool [H, W] of an optical scene, True under cloud; and where
  not every scene has a mask, `cloud_mask_of(scene)`, which says what it is: ValueError says why there is none.
  """

  spec: sensors.SensorSpec
  synthetic: bool

  def search(
    self, sensor: str, footprint: shapely.Geometry, start: datetime.datetime, end: datetime.datetime
  ) -> list[Scene]:
    """Scenes of `sensor` whose footprint meets `footprint` (WGS84), start <= time < end, in order of (time, id)."""
    ...

  def read(self, scene: Scene, grid: PatchGrid, bands: Sequence[str]) -> Patch:
    """Pixels of `scene` on `grid`; ValueError names a band the scene lacks."""
    ...


@runtime_checkable
class PlacedSource(ImagerySource, Protocol):
  """A source that is itself a set of patches (BigEarthNet, stacks of aligned files): no points are drawn."""

  def places(self) -> Iterator[Place]: ...


@runtime_checkable
class LabelSource(Protocol):
  """Labels on a patch grid. A source of a land-cover map also has `classes`, its legend (legend.MapClass)."""

  def read(self, grid: PatchGrid) -> np.ndarray:
    """Labels [H, W]; 0 = none.

    CORINE: uint8 level-3 index. OSM: uint16, one bit a theme of legend.OSM_THEMES. A land-cover map: uint8 place in
    `classes`, from 1.
    """
    ...

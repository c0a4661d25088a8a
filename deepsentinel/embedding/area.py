"""The area that is embedded: its pixel grid and, where it is no box, its outline."""

import dataclasses
import hashlib
import math
import os
import pathlib

import numpy as np
import shapely

from deepsentinel.corpus.grid import utm_epsg
from deepsentinel.embedding import places
from deepsentinel.sources import base

PIXEL_M = 10.0
_PARTS = 21  # pieces a side of a box is cut into before it is transformed
_MOST_DEGREES = 9.0  # beyond its zone by more, UTM stretches by half a per cent and more


def bounds_grid(
  west_deg: float, south_deg: float, east_deg: float, north_deg: float, like: base.PatchGrid | None = None
) -> base.PatchGrid:
  """The 10 m grid that holds a box of longitudes and latitudes; west > east crosses the antimeridian.

  Args:
    west_deg, south_deg, east_deg, north_deg: WGS84.
    like: takes its CRS and its pixel lattice from this grid; None: the UTM zone of the centre, multiples of 10 m.
  Raises:
    ValueError: a box that is empty, not on Earth, or too wide for one UTM zone.
  """
  numbers = (west_deg, south_deg, east_deg, north_deg)
  width = (east_deg - west_deg) % 360 if all(map(math.isfinite, numbers)) else 0
  if not (width > 0 and -90 <= south_deg < north_deg <= 90 and abs(west_deg) <= 180 and abs(east_deg) <= 180):
    raise ValueError(f'--bounds={",".join(map(str, numbers))} is no west,south,east,north in degrees with an area.')
  if width > _MOST_DEGREES:
    raise ValueError(
      f'--bounds is {width:.1f} degrees wide; one UTM grid holds {_MOST_DEGREES:.0f}. Embed it in parts.'
    )
  epsg = like.epsg if like else utm_epsg(west_deg + width / 2, (south_deg + north_deg) / 2)
  box = shapely.box(west_deg, south_deg, west_deg + width, north_deg)
  return _grid_around(_moved(shapely.segmentize(box, width / _PARTS), 4326, epsg), epsg, like)


def _moved(outline: shapely.Geometry, source_crs: int | str, target_crs: int | str) -> shapely.Geometry:
  transformer = base.transformer(source_crs, target_crs)
  return shapely.transform(outline, lambda xy: np.column_stack(transformer.transform(xy[:, 0], xy[:, 1])))


def _grid_around(outline: shapely.Geometry, epsg: int, like: base.PatchGrid | None) -> base.PatchGrid:
  """The smallest grid in CRS `epsg`, on the lattice of `like` or on multiples of 10 m, that holds an outline."""
  x_lattice, y_lattice = (like.x0_m, like.y0_m) if like else (0.0, 0.0)
  west, south, east, north = shapely.bounds(outline)
  # A millimetre of tolerance: a box given as pixel edges shall not grow by a pixel.
  left = math.floor((west - x_lattice + 1e-3) / PIXEL_M) * PIXEL_M + x_lattice
  top = math.ceil((north - y_lattice - 1e-3) / PIXEL_M) * PIXEL_M + y_lattice
  width_px = max(1, math.ceil((east - left - 1e-3) / PIXEL_M))
  height_px = max(1, math.ceil((top - south - 1e-3) / PIXEL_M))
  return base.PatchGrid(epsg, float(left), float(top), height_px, width_px, PIXEL_M)


@dataclasses.dataclass(frozen=True)
class Polygons:
  """The area of a vector file.

  Attributes:
    path: of the file.
    outline: polygon or multipolygon, WGS84, its longitudes continuous: they may run past 180 degrees.
  """

  path: str
  outline: shapely.Geometry

  def grid(self, like: base.PatchGrid | None = None) -> base.PatchGrid:
    """The 10 m grid that holds the area; as `bounds_grid` chooses it."""
    west, south, east, north = shapely.bounds(self.outline)
    epsg = like.epsg if like else utm_epsg((west + east) / 2, (south + north) / 2)
    return _grid_around(self.within(epsg), epsg, like)

  def within(self, epsg: int) -> shapely.Geometry:
    """The outline in a projected CRS."""
    moved = _moved(self.outline, 4326, epsg)
    if not np.isfinite(shapely.get_coordinates(moved)).all():
      raise ValueError(f'--area={self.path} reaches to where EPSG:{epsg} does not: embed it in parts.')
    return places.polygons(moved)

  @property
  def sha256(self) -> str:
    return hashlib.sha256(shapely.to_wkb(self.outline)).hexdigest()


def read_polygons(path: str | os.PathLike, layer: str = '') -> Polygons:
  """The union of the polygons of a vector file, of whatever format and CRS geopandas reads.

  Args:
    path: of the file.
    layer: its name; '' where only one has geometries.
  Raises:
    ValueError: no such file or layer, no polygon or no CRS in it, or an area too wide for one UTM zone.
  """
  import geopandas  # here: without --area nothing wants it
  import pyogrio.errors

  if not pathlib.Path(path).exists():
    raise ValueError(f'--area={path} is not there. Name a vector file (GeoJSON, GeoPackage, Shapefile, ...).')
  try:
    if pathlib.Path(path).suffix.lower() in ('.parquet', '.geoparquet'):
      table = geopandas.read_parquet(path)
    else:
      table = geopandas.read_file(path, layer=places.layer_of(path, layer))
  except places.WrongLayer:
    raise
  except (pyogrio.errors.DataSourceError, ValueError) as e:
    raise ValueError(f'--area={path} cannot be read as a vector file ({e}). Pass GeoJSON, GeoPackage, ...') from e
  if not isinstance(table, geopandas.GeoDataFrame) or table.geometry.isna().all():
    raise ValueError(f'--area={path} holds no geometry. Pass a file with a polygon.')
  if table.crs is None:
    raise ValueError(f'--area={path} does not say its CRS. Assign it (ogr2ogr -a_srs EPSG:... OUT IN).')
  shapes = table.geometry.dropna()
  flat = shapes[shapes.geom_type.isin(('Polygon', 'MultiPolygon')) & ~shapes.is_empty]
  if flat.empty:
    raise ValueError(
      f'--area={path} holds {", ".join(sorted(set(shapes.geom_type)))} and no polygon. Draw the area as a polygon, or '
      'buffer what there is.'
    )
  outline = shapely.force_2d(shapely.union_all(places.polygons(flat.to_numpy())))
  west, south, east, north = shapely.bounds(outline)
  # Straight edges of a long polygon are curves in another CRS.
  outline = shapely.segmentize(outline, max(east - west, north - south) / _PARTS)
  outline = _continuous(_moved(outline, table.crs.to_wkt(), 4326), path)
  west, south, east, north = shapely.bounds(outline)
  if east - west > _MOST_DEGREES:
    raise ValueError(
      f'--area={path} is {east - west:.1f} degrees wide; one UTM grid holds {_MOST_DEGREES:.0f}. Embed it in parts.'
    )
  return Polygons(str(path), outline)


def _continuous(outline: shapely.Geometry, path: str | os.PathLike) -> shapely.Geometry:
  """Longitudes and latitudes whose parts east of the antimeridian follow those west of it."""
  if (
    not np.isfinite(shapely.get_coordinates(outline)).all() or np.abs(shapely.get_coordinates(outline)[:, 1]).max() > 90
  ):
    raise ValueError(f'--area={path} does not lie on Earth in the CRS it states: mend its CRS.')
  west, _, east, _ = shapely.bounds(outline)
  if east - west > 180:
    outline = base.past_antimeridian(outline)
  return places.polygons(outline)


def scene_grid(source: base.ImagerySource, scene: base.Scene) -> base.PatchGrid:
  """The whole scene at 10 m: on its own pixels where the source knows a projected grid, else in its UTM zone."""
  own = getattr(source, 'grid', None)
  if own is not None:
    try:
      grid = own(scene)
    except ValueError:
      # Its files lie in degrees or are rotated: they are resampled.
      return bounds_grid(*bounds_of(scene.footprint))
    scale = grid.pixel_m / PIXEL_M
    height_px, width_px = round(grid.height_px * scale), round(grid.width_px * scale)
    return base.PatchGrid(grid.epsg, grid.x0_m, grid.y0_m, height_px, width_px, PIXEL_M)
  return bounds_grid(*bounds_of(scene.footprint))


def bounds_of(outline: shapely.Geometry) -> tuple[float, float, float, float]:
  """West, south, east and north of a WGS84 outline; west > east where it is cut at the antimeridian."""
  west, south, east, north = shapely.bounds(base.join_antimeridian(outline)).tolist()
  return west, south, east - 360 if east > 180 else east, north

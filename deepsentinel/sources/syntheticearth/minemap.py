"""SyntheticEarth's open-cast mines as vector files: the outline of each, and a register of those that dig for coal."""

import pathlib

import geopandas
import numpy as np
import rasterio.features
import shapely

from deepsentinel import legend
from deepsentinel.sources import base
from deepsentinel.sources.syntheticearth import lattice, networks, parcels
from deepsentinel.sources.syntheticearth.corinemap import to_geopackage
from deepsentinel.sources.syntheticearth.landscape import Landscape
from deepsentinel.sources.syntheticearth.lattice import Points, unit

Bounds = tuple[float, float, float, float]

COAL_SHARE = 0.65  # the others are quarries, which look alike
REGISTER_ERROR_M = 800.0  # furthest that the register's point lies from the middle of its mine
_LEAST_HA = 1.0
_REACH = 1.6  # radii from the middle of a mine, beyond which none of it lies
_CELLS = 36  # of the raster that an outline is drawn on, across


def mines_in(land: Landscape, bounds_lonlat: Bounds) -> list[parcels.Mine]:
  """The mines whose middle lies in (west, south, east, north), degrees WGS84."""
  west, south, east, north = bounds_lonlat
  box = networks.Box((west + east) / 2, (south + north) / 2, (east - west) / 2, (north - south) / 2)
  return [
    mine
    for mine in parcels.mines(box, land.seed)
    if south <= mine.lat < north and (mine.lon - west) % 360 < (east - west) % 360
  ]


def is_coal(mine: parcels.Mine) -> bool:
  return bool(unit(lattice.mix(np.array([mine.id], np.uint32) + np.uint32(131)))[0] < COAL_SHARE)


def outline(land: Landscape, mine: parcels.Mine) -> shapely.Geometry:
  """The largest piece of the mine's true ground in WGS84; empty where water or the sea leaves less than a hectare."""
  epsg = (32600 if mine.lat >= 0 else 32700) + int((mine.lon + 180) % 360 // 6) + 1
  x, y = base.transformer(4326, epsg).transform(mine.lon, mine.lat)
  pixel_m = max(10.0, 2 * _REACH * mine.radius_m / _CELLS)
  side = int(np.ceil(2 * _REACH * mine.radius_m / pixel_m))
  half = side * pixel_m / 2
  grid = base.PatchGrid(epsg, x - half, y + half, side, side, pixel_m)
  lon, lat = grid.pixel_centres_lonlat()
  dug = (land.cover(Points.of(lon, lat)) == legend.CORINE_INDEX[131]).reshape(lon.shape)
  shapes = rasterio.features.shapes(dug.astype(np.uint8), mask=dug, connectivity=4, transform=grid.transform)
  pieces = [shapely.geometry.shape(shape) for shape, _ in shapes]
  largest = max(pieces, key=lambda piece: piece.area, default=shapely.Polygon())
  if largest.area < 1e4 * _LEAST_HA:
    return shapely.Polygon()
  to_lonlat = base.transformer(epsg, 4326)
  return shapely.transform(
    shapely.simplify(largest, pixel_m), lambda xy: np.column_stack(to_lonlat.transform(xy[:, 0], xy[:, 1]))
  )


def write_polygons(land: Landscape, path: pathlib.Path, bounds_lonlat: Bounds) -> None:
  """Writes layer 'mines' of a GeoPackage: the outline of every mine of a box, coal or not, WGS84."""
  outlines = np.array([outline(land, mine) for mine in mines_in(land, bounds_lonlat)], object)
  outlines = outlines[~shapely.is_empty(outlines)] if len(outlines) else outlines
  to_geopackage(geopandas.GeoDataFrame(geometry=list(outlines), crs='EPSG:4326'), path, 'mines')


def write_register(land: Landscape, path: pathlib.Path, bounds_lonlat: Bounds) -> None:
  """Writes layer 'coal_mines' of a GeoPackage: a point somewhere near every coal mine of a box, WGS84."""
  places = []
  for mine in filter(is_coal, mines_in(land, bounds_lonlat)):
    h = np.array([mine.id], np.uint32)
    lon, lat, _ = base.GEOD.fwd(
      mine.lon, mine.lat, 360 * float(unit(h, 8)[0]), REGISTER_ERROR_M * float(unit(h, 16)[0])
    )
    places.append(shapely.Point(lon, lat))
  to_geopackage(geopandas.GeoDataFrame(geometry=places, crs='EPSG:4326'), path, 'coal_mines')

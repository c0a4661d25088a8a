"""The CORINE inventory of a box: the true cover as an interpreter would draw it, 100 m wide and 25 ha large."""

import pathlib

import geopandas
import numpy as np
import pyogrio
import rasterio.features
import scipy.ndimage
import shapely

from deepsentinel import legend
from deepsentinel.sources import base
from deepsentinel.sources.syntheticearth.landscape import Landscape
from deepsentinel.sources.syntheticearth.lattice import Points

CELL_M = 100
MINIMUM_CELLS = 25  # 25 ha of 1 ha cells
_SIEVE_CELLS = 29  # a little more, since smoothing the outlines may take some of it away
SMOOTH_M = 90.0  # cuts the stairs of the cells, whose triangles measure half a cell, and little else
_MARGIN_CELLS = 12
_BLOCK = 120


def truth_raster(
  land: Landscape, bounds_lonlat: tuple[float, float, float, float]
) -> tuple[np.ndarray, base.PatchGrid]:
  """(uint8 [H, W] true cover at the centres of 100 m cells, their grid in EPSG:3035) over a box and some margin."""
  west, south, east, north = bounds_lonlat
  outline = shapely.segmentize(shapely.box(west, south, east, north), 0.05)
  x, y = base.transformer(4326, 3035).transform(*shapely.get_coordinates(outline).T)
  left, bottom = ((int(np.floor(min(v) / CELL_M)) - _MARGIN_CELLS) * CELL_M for v in (x, y))
  right, top = ((int(np.ceil(max(v) / CELL_M)) + _MARGIN_CELLS) * CELL_M for v in (x, y))
  grid = base.PatchGrid(3035, left, top, (top - bottom) // CELL_M, (right - left) // CELL_M, CELL_M)
  cover = land.kept.get(grid)
  if cover is None:
    cover = np.zeros((grid.height_px, grid.width_px), np.uint8)
    for row in range(0, grid.height_px, _BLOCK):
      for col in range(0, grid.width_px, _BLOCK):
        window = grid.window(row, col, min(_BLOCK, grid.height_px - row), min(_BLOCK, grid.width_px - col))
        lon, lat = window.pixel_centres_lonlat()
        cover[row : row + window.height_px, col : col + window.width_px] = land.cover(Points.of(lon, lat)).reshape(
          lon.shape
        )
    land.kept = {grid: cover}  # the street map of the same box wants it next
  return cover, grid


def majority(cover: np.ndarray, size: int = 3) -> np.ndarray:
  """The commonest class of each cell's size x size neighbourhood; the cell's own class wins ties."""
  best = np.zeros(cover.shape, np.float32)
  out = cover.copy()
  for value in np.unique(cover):
    share = scipy.ndimage.uniform_filter((cover == value).astype(np.float32), size, mode='nearest')
    share += (cover == value) * np.float32(0.5 / size**2)
    wins = share > best + 1e-6
    out[wins], best[wins] = value, share[wins]
  return out


def polygons(cover: np.ndarray, grid: base.PatchGrid, smooth_m: float) -> tuple[np.ndarray, np.ndarray]:
  """(polygons, level-3 index of each): a coverage without gaps, its stairs smoothed, in the grid's CRS.

  Args:
    cover: integer [H, W].
    grid: where.
    smooth_m: corners whose triangle is smaller than its square go, in both neighbours alike; 0 keeps the stairs.
  """
  shapes = list(rasterio.features.shapes(cover, connectivity=4, transform=grid.transform))
  index = np.array([int(value) for _, value in shapes], np.int32)
  geometry = np.array([shapely.geometry.shape(shape) for shape, _ in shapes])
  # A vertex on every cell's corner: where three polygons meet, the straight edge of one needs one too.
  geometry = shapely.segmentize(geometry, grid.pixel_m)
  return shapely.coverage_simplify(geometry, smooth_m), index


def write(land: Landscape, path: pathlib.Path, bounds_lonlat: tuple[float, float, float, float]) -> None:
  """Writes layer 'clc2018' of a GeoPackage: polygons in EPSG:3035 with string columns Code_18 and ID.

  Args:
    land: the world.
    path: of the file; replaced if it exists.
    bounds_lonlat: (west, south, east, north), degrees WGS84. Polygons reach somewhat beyond it.
  """
  cover, grid = truth_raster(land, bounds_lonlat)
  drawn = majority(majority(cover, 5), 3)
  drawn = rasterio.features.sieve(drawn, _SIEVE_CELLS, connectivity=4)
  geometry, index = polygons(drawn, grid, SMOOTH_M)
  codes = np.array([0, *(c.code for c in legend.CORINE)])[index].astype(str)
  frame = geopandas.GeoDataFrame(
    {
      'Code_18': codes,
      'ID': [f'SE_{k + 1}' for k in range(len(codes))],
      'Area_Ha': np.round(shapely.area(geometry) / 1e4, 3),
    },
    geometry=geometry,
    crs='EPSG:3035',
  )
  to_geopackage(frame, path, 'clc2018')


def to_geopackage(frame: geopandas.GeoDataFrame, path: pathlib.Path, layer: str) -> None:
  """Writes a GeoPackage; the same features make the same bytes."""
  path.unlink(missing_ok=True)
  # GeoPackage stores the time of writing; a fixed one makes equal worlds equal files.
  pyogrio.set_gdal_config_options({'OGR_CURRENT_DATE': '2018-12-31T00:00:00.000Z'})
  try:
    frame.to_file(path, layer=layer, driver='GPKG', engine='pyogrio')
  finally:
    pyogrio.set_gdal_config_options({'OGR_CURRENT_DATE': None})

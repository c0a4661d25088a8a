"""The cells of an embedding.tif as unit vectors, block by block, and where they lie."""

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import affine
import numpy as np
import rasterio
import rasterio.windows
import shapely
from scipy import ndimage

from deepsentinel.embedding import geotiff
from deepsentinel.sources import base

_BLOCK_CELLS = 128  # of the GeoTIFF's own tiles
MEAN_CELLS = 3  # one cell's vector is noisier than what training compares, the mean over a crop (see picture.py)
_EMBED = '`python -m deepsentinel.embed --checkpoint=RUN ... --out=FOLDER` makes one.'


@dataclasses.dataclass(frozen=True)
class CellMap:
  """An embedding.tif of this project.

  Attributes:
    path: of the file.
    crs: as WKT.
    transform: of the cells.
    rows, cols: cells.
    features: E, dimensions of a vector.
    tags: of the file; hold 'checkpoint_sha256'.
    mean_cells: side of the square of cells whose mean stands for its middle one; 1: the cell alone.
  """

  path: pathlib.Path
  crs: str
  transform: affine.Affine
  rows: int
  cols: int
  features: int
  tags: Mapping[str, str]
  mean_cells: int = MEAN_CELLS

  @property
  def name(self) -> str:
    """What results call it: its folder."""
    return self.path.resolve().parent.name

  @property
  def checkpoint_sha256(self) -> str:
    return self.tags['checkpoint_sha256']

  @property
  def synthetic(self) -> bool:
    return self.tags.get('synthetic') == 'true'

  @property
  def cell_m(self) -> float:
    return abs(self.transform.a)

  @functools.cached_property
  def journal(self) -> dict[str, Any]:
    """embedding.json beside the file; empty where there is none."""
    try:
      return json.loads((self.path.parent / 'embedding.json').read_text())
    except (OSError, ValueError):
      return {}

  def blocks(self) -> Iterator[tuple[int, int, np.ndarray]]:
    """(row, col, float32 [h, w, E]) that cover the map: unit vectors of means, NaN where a cell has no embedding."""
    margin = self.mean_cells // 2
    with rasterio.open(self.path) as dataset:
      for row in range(0, self.rows, _BLOCK_CELLS):
        for col in range(0, self.cols, _BLOCK_CELLS):
          height, width = min(_BLOCK_CELLS, self.rows - row), min(_BLOCK_CELLS, self.cols - col)
          top, left = max(row - margin, 0), max(col - margin, 0)
          bottom, right = min(row + height + margin, self.rows), min(col + width + margin, self.cols)
          # [E, h, w] -> [h, w, E]
          values = np.moveaxis(
            dataset.read(window=rasterio.windows.Window.from_slices((top, bottom), (left, right))), 0, 2
          )
          means = cell_means(values, self.mean_cells)
          yield row, col, unit(means[row - top : row - top + height, col - left : col - left + width])

  @property
  def block_count(self) -> int:
    return -(-self.rows // _BLOCK_CELLS) * -(-self.cols // _BLOCK_CELLS)

  def at(self, row: np.ndarray, col: np.ndarray) -> np.ndarray:
    """float32 [N, E]: the unit vectors of some cells, NaN where one has no embedding."""
    out = np.full((len(row), self.features), np.nan, np.float32)
    for top, left, vectors in self.blocks():
      inside = (row >= top) & (row < top + vectors.shape[0]) & (col >= left) & (col < left + vectors.shape[1])
      out[inside] = vectors[row[inside] - top, col[inside] - left]
    return out

  def locate(self, lon_deg: np.ndarray, lat_deg: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int64 row and col of the cell that holds each place, WGS84; -1 where it lies outside the map."""
    x, y = base.transformer(4326, self.crs).transform(np.atleast_1d(lon_deg), np.atleast_1d(lat_deg))
    return self._cell(np.asarray(x), np.asarray(y))

  def _cell(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    row, col = self._position(x, y)
    inside = np.isfinite(row) & np.isfinite(col) & (row >= 0) & (row < self.rows) & (col >= 0) & (col < self.cols)
    floor = [np.floor(np.where(inside, v, -1)).astype(np.int64) for v in (row, col)]
    return floor[0], floor[1]

  def _position(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and col as fractions; no rotation, which `open_map` has seen to."""
    return (y - self.transform.f) / self.transform.e, (x - self.transform.c) / self.transform.a

  def within(self, polygon: shapely.Geometry) -> tuple[np.ndarray, np.ndarray]:
    """int64 row and col of the cells whose centres lie in a polygon of the map's CRS.

    A polygon that holds no centre is smaller than a cell, or thin: then the cell of a point in it.
    """
    west, south, east, north = shapely.bounds(polygon)
    corners = np.array(self._position(np.array([west, east]), np.array([north, south])))  # [row or col, corner]
    low = np.maximum(np.floor(corners[:, 0]).astype(int), 0)
    high = np.minimum(np.ceil(corners[:, 1]).astype(int), [self.rows, self.cols])
    if (high <= low).any():
      return np.zeros(0, np.int64), np.zeros(0, np.int64)
    row, col = (a.ravel() for a in np.meshgrid(np.arange(low[0], high[0]), np.arange(low[1], high[1]), indexing='ij'))
    inside = shapely.contains_xy(polygon, *self.centres(row, col))
    if inside.any():
      return row[inside], col[inside]
    point = shapely.point_on_surface(polygon)
    row, col = self._cell(np.array([point.x]), np.array([point.y]))
    return row[row >= 0], col[row >= 0]

  def holding(self, geometry: shapely.Geometry) -> tuple[np.ndarray, np.ndarray]:
    """int64 row and col of the cells of a WGS84 point, several points or polygon: see `locate` and `within`."""
    if geometry.geom_type in ('Point', 'MultiPoint'):
      row, col = self.locate(*shapely.get_coordinates(geometry).T)
      found = np.unique(np.column_stack([row, col])[row >= 0], axis=0)
      return found[:, 0], found[:, 1]
    to_map = base.transformer(4326, self.crs)
    return self.within(shapely.transform(geometry, lambda xy: np.column_stack(to_map.transform(xy[:, 0], xy[:, 1]))))

  def centres(self, row: np.ndarray, col: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float64 x and y of cell centres in the map's CRS."""
    t = self.transform
    return t.c + (np.asarray(col) + 0.5) * t.a, t.f + (np.asarray(row) + 0.5) * t.e

  def centres_lonlat(self, row: np.ndarray, col: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float64 longitude and latitude of cell centres, WGS84."""
    lon, lat = base.transformer(self.crs, 4326).transform(*self.centres(row, col))
    return np.asarray(lon), np.asarray(lat)

  def outlines_lonlat(self, row: np.ndarray, col: np.ndarray) -> np.ndarray:
    """object [N]: the cells as polygons in WGS84."""
    x, y = self.centres(row, col)
    half = self.cell_m / 2
    return base.to_lonlat(shapely.box(x - half, y - half, x + half, y + half), self.crs)


def open_map(path: str | os.PathLike, mean_cells: int = MEAN_CELLS) -> CellMap:
  """The embedding in a folder, or a file.

  Args:
    path: a folder that `deepsentinel.embed` wrote, or its embedding.tif.
    mean_cells: odd; see CellMap.
  Raises:
    ValueError: nothing there, not finished, not a raster, or one that does not say which checkpoint it is of.
  """
  if mean_cells < 1 or mean_cells % 2 == 0:
    raise ValueError(f'--mean_cells={mean_cells}: the side of a square around a cell is odd: 1, 3, 5, ...')
  file = pathlib.Path(path).expanduser()
  file = file / 'embedding.tif' if file.is_dir() else file
  if not file.is_file():
    begun = (file.parent / 'embedding.json').is_file()
    mend = 'It is not finished: run its `python -m deepsentinel.embed` again.' if begun else _EMBED
    raise ValueError(f'{file} is not there. {mend}')
  try:
    with rasterio.open(file) as dataset:
      tags, crs, size = dataset.tags(), dataset.crs, (dataset.height, dataset.width, dataset.count)
      transform, dtype = dataset.transform, dataset.dtypes[0]
  except rasterio.errors.RasterioIOError as error:
    raise ValueError(f'{file} cannot be read as a raster ({error}). {_EMBED}') from error
  if 'checkpoint_sha256' not in tags:
    raise ValueError(
      f'{file} does not say which checkpoint made it (no tag checkpoint_sha256), so its vectors can be compared with '
      f'no others. {_EMBED}'
    )
  if crs is None or dtype != 'float32' or transform.b or transform.d:
    raise ValueError(f'{file} is no north-up float32 raster with a CRS, so no embedding.tif of this project. {_EMBED}')
  return CellMap(file, crs.to_wkt(), transform, *size, tags, mean_cells)


def unit(vectors: np.ndarray) -> np.ndarray:
  """float32 [..., E] of length 1; NaN where a vector is not finite or has no direction."""
  length = np.linalg.norm(vectors, axis=-1, keepdims=True)
  with np.errstate(invalid='ignore', divide='ignore'):
    return np.where(length > 0, vectors / length, np.nan).astype(np.float32)


def cell_means(values: np.ndarray, side: int) -> np.ndarray:
  """float32 [H, W, E]: means over side x side cells of those that are known; NaN where the middle one is not."""
  if side == 1:
    return values
  known = np.isfinite(values).all(-1)
  share = ndimage.uniform_filter(known.astype(np.float64), side, mode='constant')
  means = ndimage.uniform_filter(np.where(known[..., None], values, 0), (side, side, 0), mode='constant')
  return np.where(known[..., None], means / np.maximum(share, 1e-9)[..., None], np.nan).astype(np.float32)


def write_map(
  path: pathlib.Path, like: CellMap, layers: Mapping[str, np.ndarray], tags: Mapping[str, str]
) -> pathlib.Path:
  """A Cloud-Optimized GeoTIFF on the cells of a map: float32, NaN = nothing known; whole or not at all.

  Args:
    path: of the file.
    like: gives CRS, transform, size.
    layers: name of a band -> [rows, cols].
    tags: of the file.
  """
  profile = {
    'height': like.rows, 'width': like.cols, 'count': len(layers), 'dtype': 'float32',
    'nodata': float('nan'), 'crs': rasterio.crs.CRS.from_wkt(like.crs), 'transform': like.transform,
  }  # fmt: skip
  values = np.stack([np.asarray(v, np.float32) for v in layers.values()], -1)
  options = {'COMPRESS': 'DEFLATE', 'PREDICTOR': 'YES', 'OVERVIEW_RESAMPLING': 'AVERAGE'}
  geotiff.write(path, [(0, values)], profile, tags=tags, names=tuple(layers), options=options)
  return path

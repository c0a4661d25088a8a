"""Where rasters lie: outlines in WGS84, of all pixels or of those that have data."""

import affine
import numpy as np
import rasterio
import rasterio.errors
import rasterio.windows
import shapely

from deepsentinel.sources import base, raster

_OUTLINE_PX = 256  # a side, of which the outline of valid pixels is drawn
_SMALL_PX = 1 << 22  # pixels of a band that are read for it in any case
_PROBES = 12  # a side, where that would take reading all of a large file
_WHOLE = 0.99  # share of a raster from which its bounds are its outline


def footprint(transform: affine.Affine, width_px: int, height_px: int, crs: int | str) -> shapely.Geometry:
  """WGS84 outline of a raster's bounds, densified, split at the antimeridian."""
  return _to_lonlat(shapely.box(0, 0, width_px, height_px), transform, crs)


def data_footprint(file: rasterio.DatasetReader, number: int, unit: str, nodata: float | None) -> shapely.Geometry:
  """WGS84 outline of what has data: the convex hull of a band's valid pixels, a little too large.

  Of a tile that the edge of the swath cuts, or of a turned image, the bounds hold much else. Where every corner has
  data, or no pixel, or the band cannot be read, which reading it will say, they are the outline.
  """
  width, height = file.width, file.height
  bounds = shapely.box(0, 0, width, height)
  rows, cols = min(height, max(1, height // 20), 64), min(width, max(1, width // 20), 64)

  def valid(window: rasterio.windows.Window, shape: tuple[int, int]) -> np.ndarray:
    return raster.valid_numbers(file.read(number, window=window, out_shape=shape), unit, nodata)

  try:
    corners = [
      valid(rasterio.windows.Window(col, row, cols, rows), (rows, cols)).any()
      for row in (0, height - rows)
      for col in (0, width - cols)
    ]
    known = np.zeros((1, 1), bool)
    if not all(corners) and (width * height <= _SMALL_PX or file.overviews(number) or file.driver.startswith('JP2')):
      shape = min(height, _OUTLINE_PX), min(width, _OUTLINE_PX)
      known = valid(rasterio.windows.Window(0, 0, width, height), shape)
    elif not all(corners):  # without overviews a small picture of it takes all of its pixels
      places = (np.arange(_PROBES) + 0.5) / _PROBES
      known = np.array(
        [
          [valid(rasterio.windows.Window(int(x * width), int(y * height), 4, 4), (4, 4)).any() for x in places]
          for y in places
        ]
      )
  except (rasterio.errors.RasterioIOError, ValueError):
    known = np.zeros((1, 1), bool)
  row, col = np.nonzero(known)
  if len(row):
    # A cell further, since of each only one pixel was looked at.
    cell = np.array([width, height]) / known.shape[::-1]
    cells = shapely.box((col - 1) * cell[0], (row - 1) * cell[1], (col + 2) * cell[0], (row + 2) * cell[1])
    hull = shapely.intersection(shapely.convex_hull(shapely.geometrycollections(cells)), bounds)
    if hull.area < _WHOLE * bounds.area:
      bounds = hull
  return _to_lonlat(bounds, file.transform, raster.user_crs(file.crs))


def _to_lonlat(outline_px: shapely.Polygon, transform: affine.Affine, crs: int | str) -> shapely.Geometry:
  """An outline in pixels of a raster in WGS84, densified, split at the antimeridian."""
  left, top, right, bottom = outline_px.bounds
  drawn = shapely.segmentize(outline_px, max(right - left, bottom - top) / 21)
  drawn = shapely.transform(drawn, lambda xy: np.column_stack(transform * (xy[:, 0], xy[:, 1])))
  return base.to_lonlat(np.array([drawn]), crs)[0]

"""Raster files on a patch grid: windowed reads, no resampling where pixels coincide, radar resampled in power.

Nodata is decided on the raw numbers, before anything is resampled. Memory stays bounded whatever the size of the file
and of its pixels: a window that would be too large is read and warped in quarters.
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence

import affine
import numpy as np
import rasterio
import rasterio.crs
import rasterio.enums
import rasterio.errors
import rasterio.warp
import rasterio.windows
import shapely

from deepsentinel import sensors
from deepsentinel.sources import base, remote

_ALIGNED_PX = 1e-3  # grids closer than this share of a pixel coincide
_AVERAGE_FROM = 1.5  # grid pixels at least this many file pixels wide are averages, finer ones are interpolated
_WINDOW_PX = 1 << 22  # file pixels held at once, a band
_STACKED_ROWS = 16


@dataclasses.dataclass(frozen=True)
class RasterBand:
  """Where one band lies: a file and its band number there (from 1)."""

  path: str
  number: int = 1
  client: remote.Client | None = None  # by which a URL is read; None leaves that to GDAL


@contextlib.contextmanager
def opened(path: str, client: remote.Client | None = None) -> Iterator[rasterio.DatasetReader]:
  """The raster at `path`; ValueError names the file and the mend if it cannot be opened or read."""
  folder = remote.Folder(client, path) if client else None
  name = remote.plain(path) if client else path
  try:
    with rasterio.open(path, opener=folder) as raster:
      if raster.gcps[0] and raster.crs is None:
        raise ValueError(
          f'{name} is in the geometry of its sensor: only ground control points say where it lies. Correct it for the '
          'terrain first (SNAP: Range-Doppler Terrain Correction), or take a product that is (RTC).'
        )
      if raster.crs is None or raster.transform.is_identity:
        raise ValueError(
          f'{name} has no georeference (CRS and transform); add it (gdal_edit.py -a_srs ... -a_ullr ...).'
        )
      yield raster
  except rasterio.errors.RasterioIOError as e:
    if folder and folder.failure:
      raise folder.failure from None
    raise ValueError(
      f'{name} cannot be read ({str(e).replace(path, name)}). It is missing, truncated or corrupt: fetch it again or '
      'take it off the list.'
    ) from (None if client else e)


def user_crs(crs: rasterio.crs.CRS) -> int | str:
  """The EPSG code of a raster's CRS or, where it has none, its WKT."""
  return crs.to_epsg() or crs.to_wkt()


def grid_of(raster: rasterio.DatasetReader) -> base.PatchGrid:
  """The raster's own pixels as a grid; ValueError if they are not square, north-up and in a CRS with an EPSG code."""
  t = raster.transform
  epsg = raster.crs.to_epsg()
  if epsg is None or raster.crs.is_geographic or t.b or t.d or not math.isclose(t.a, -t.e, rel_tol=1e-9):
    raise ValueError(
      f'{raster.name} is no patch grid: it needs square north-up pixels in a projected CRS with an EPSG code; found '
      f'{raster.crs.to_string()[:60]}, transform {tuple(t)[:6]}. Warp it (gdalwarp -t_srs EPSG:326xx -tr 10 10).'
    )
  return base.PatchGrid(epsg, t.c, t.f, raster.height, raster.width, t.a)


def aligned(transform: affine.Affine, crs: int | str, grid: base.PatchGrid) -> tuple[int, int] | None:
  """(row, col) of the grid's first pixel among pixels that coincide with its own; None where they do not."""
  if crs != grid.epsg or transform.b or transform.d:
    return None
  size = max(grid.height_px, grid.width_px)
  if max(abs(transform.a / grid.pixel_m - 1), abs(-transform.e / grid.pixel_m - 1)) * size > _ALIGNED_PX:
    return None
  col, row = ~transform * (grid.x0_m, grid.y0_m)
  if abs(col - round(col)) > _ALIGNED_PX or abs(row - round(row)) > _ALIGNED_PX:
    return None
  return round(row), round(col)


def nearest(file: rasterio.DatasetReader, grid: base.PatchGrid, number: int = 1) -> tuple[np.ndarray, np.ndarray]:
  """Of a map of classes, the pixel under the centre of each pixel of a grid.

  Args:
    file: in any CRS; longitudes may run from -180 or from 0, and the grid may lie across the antimeridian.
    grid: where to look.
    number: of the band.
  Returns:
    values [H, W] of the band, in its type, 0 outside; inside bool [H, W].
  Raises:
    rasterio.errors.RasterioIOError: the file is cut short or damaged.
  """
  x = grid.x0_m + (np.arange(grid.width_px) + 0.5) * grid.pixel_m
  y = grid.y0_m - (np.arange(grid.height_px) + 0.5) * grid.pixel_m
  x, y = base.transformer(grid.epsg, user_crs(file.crs)).transform(*np.meshgrid(x, y))
  # Where the file's CRS does not reach, a coordinate is infinite.
  there = np.isfinite(x) & np.isfinite(y)
  col, row = ~file.transform * (np.where(there, x, 0.0), np.where(there, y, 0.0))
  if file.crs.is_geographic and not (file.transform.b or file.transform.d):
    col = col % (360 / file.transform.a)  # once around the Earth
  there &= (row >= 0) & (row < file.height) & (col >= 0) & (col < file.width)
  row, col = (np.where(there, np.floor(at), 0).astype(np.int64) for at in (row, col))
  values = np.zeros(there.shape, file.dtypes[number - 1])

  def fill(wanted: np.ndarray) -> None:
    rows, cols = row[wanted], col[wanted]
    if not len(rows):
      return
    top, left, bottom, right = int(rows.min()), int(cols.min()), int(rows.max()) + 1, int(cols.max()) + 1
    if (bottom - top) * (right - left) > _WINDOW_PX:  # either side of the antimeridian, or of much finer pixels
      tall = bottom - top > right - left
      first = row < (top + bottom) // 2 if tall else col < (left + right) // 2
      fill(wanted & first)
      fill(wanted & ~first)
      return
    window = rasterio.windows.Window(left, top, right - left, bottom - top)
    values[wanted] = file.read(number, window=window)[rows - top, cols - left]

  fill(there)
  return values, there


def _pixels_per_grid_pixel(transform: affine.Affine, crs: int | str, grid: base.PatchGrid) -> float:
  """How many file pixels one pixel of the grid is wide, at its centre."""
  left, bottom, right, top = grid.bounds
  x, y, d = (left + right) / 2, (bottom + top) / 2, grid.pixel_m
  xs, ys = base.transformer(grid.epsg, crs).transform([x, x + d, x], [y, y, y + d])
  col, row = ~transform * (np.array(xs), np.array(ys))
  return math.sqrt(abs((col[1] - col[0]) * (row[2] - row[0]) - (col[2] - col[0]) * (row[1] - row[0])))


def _source_window(raster: rasterio.DatasetReader, crs: int | str, grid: base.PatchGrid) -> tuple[int, int, int, int]:
  """(top, left, bottom, right) of the file's pixels that the grid's values depend on; empty where there are none."""
  xy = shapely.get_coordinates(grid.outline())
  x, y = base.transformer(grid.epsg, crs).transform(xy[:, 0], xy[:, 1])
  col, row = ~raster.transform * (np.asarray(x), np.asarray(y))
  margin = 3 + _pixels_per_grid_pixel(raster.transform, crs, grid)
  top, left = max(math.floor(row.min() - margin), 0), max(math.floor(col.min() - margin), 0)
  bottom, right = math.ceil(row.max() + margin), math.ceil(col.max() + margin)
  return top, left, min(bottom, raster.height), min(right, raster.width)


def warp(
  values: np.ndarray, valid: np.ndarray, transform: affine.Affine, crs: int | str, grid: base.PatchGrid
) -> np.ndarray:
  """Pixels resampled onto a grid: averaged where the grid is coarser, interpolated bilinearly where it is not.

  Args:
    values: float [C, H, W], in a unit that may be averaged (reflectance, power).
    valid: bool [C, H, W]; what is False has no weight.
    transform, crs: where `values` lie.
    grid: where they go.
  Returns:
    float32 [C, h, w]; NaN where less than half of the weight is valid.
  """
  average = _pixels_per_grid_pixel(transform, crs, grid) >= _AVERAGE_FROM
  # Plain interpolation: between one and two pixels GDAL would widen the kernel and shift values by a tenth of a pixel.
  kernel = {} if average else {'XSCALE': 1, 'YSCALE': 1}
  source_crs = rasterio.crs.CRS.from_user_input(crs)
  target_crs = rasterio.crs.CRS.from_epsg(grid.epsg)

  def resample(source: np.ndarray, nodata: float | None) -> np.ndarray:
    out = np.full((len(source), grid.height_px, grid.width_px), np.nan if nodata is not None else 0, np.float32)
    rasterio.warp.reproject(
      source,
      out,
      src_transform=transform,
      src_crs=source_crs,
      src_nodata=nodata,
      dst_transform=grid.transform,
      dst_crs=target_crs,
      dst_nodata=nodata,
      resampling=rasterio.enums.Resampling.average if average else rasterio.enums.Resampling.bilinear,
      UNIFIED_SRC_NODATA='NO',
      **kernel,
    )
    return out

  out = resample(np.where(valid, values, np.nan).astype(np.float32), np.nan)
  if not valid.all():
    out[resample(valid.astype(np.float32), None) < 0.5] = np.nan
  return out


def resample(
  values: np.ndarray, valid: np.ndarray, unit: str, transform: affine.Affine, crs: int | str, grid: base.PatchGrid
) -> np.ndarray:
  """Pixels in a physical unit on a grid; radar passes through power, reflectance through nothing.

  Args:
    values: [C, H, W] in `unit`.
    valid: bool [C, H, W].
    unit: one of sensors.REFLECTANCE_UNITS or sensors.BACKSCATTER_UNITS.
    transform, crs: where `values` lie.
    grid: where they go.
  Returns:
    float32 [C, h, w] in `unit`; NaN where invalid.
  """
  if unit in sensors.REFLECTANCE_UNITS:
    return warp(values, valid, transform, crs, grid)
  power = sensors.to_power(np.where(valid, values, np.nan), unit)
  return sensors.from_power(warp(power, valid & np.isfinite(power), transform, crs, grid), unit).astype(np.float32)


def valid_numbers(values: np.ndarray, unit: str, nodata: float | None) -> np.ndarray:
  """bool of the same shape: which raw numbers of a product are data at all.

  Raises:
    ValueError: most of them are negative, and linear backscatter is stated.
  """
  valid = np.isfinite(values) if np.issubdtype(values.dtype, np.floating) else np.ones(values.shape, bool)
  if nodata is not None and not np.isnan(nodata):
    valid &= values != nodata
  if unit in ('reflectance_x1e4', 'reflectance_x1e4_plus1000', 'dn_20log10_minus83'):
    valid &= values != 0  # the products' own rule
  elif unit == 'db_x100':
    valid &= values != sensors.S1_NODATA
  elif unit in ('power', 'amplitude'):
    sensors.require_linear(values[valid & (values != 0)], unit)
    valid &= values > 0
  return valid


def read_bands(
  where: Sequence[RasterBand], grid: base.PatchGrid, unit: str, nodata: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
  """Bands of one acquisition on a grid; each may have its own file, CRS and pixel size.

  Where a file's pixels coincide with the grid's, its numbers come out as they are.

  Args:
    where: C bands.
    unit: of the numbers in the files.
    nodata: number that means nodata; None takes each file's own tag.
  Returns:
    values [H, W, C] in `unit`: of the files' type if every band coincides with the grid, float otherwise. An invalid
      pixel is the storage nodata of an integer type (0, or -32768 where negative) and NaN of a float.
    valid bool [H, W]: where any band has data.
  """
  found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
  for path in dict.fromkeys(w.path for w in where):
    positions = [i for i, w in enumerate(where) if w.path == path]
    with opened(path, where[positions[0]].client) as raster:
      numbers = [where[i].number for i in positions]
      values, valid = _read(raster, numbers, grid, unit, raster.nodata if nodata is None else nodata)
    for i, band, band_valid in zip(positions, values, valid, strict=True):
      found[i] = (band, band_valid)
  return stack_bands([found[i] for i in range(len(where))], unit)


def stack_bands(parts: Sequence[tuple[np.ndarray, np.ndarray]], unit: str) -> tuple[np.ndarray, np.ndarray]:
  """C pairs of values [H, W] and valid bool [H, W] as what `read_bands` returns."""
  dtype = np.result_type(*{values.dtype for values, _ in parts})
  nothing = np.nan if np.issubdtype(dtype, np.floating) else sensors.S1_NODATA if unit == 'db_x100' else 0
  height, width = parts[0][0].shape
  out, valid = np.empty((height, width, len(parts)), dtype), np.zeros((height, width), bool)
  for top in range(0, height, _STACKED_ROWS):  # so few that they stay in the cache until their last band
    rows = slice(top, top + _STACKED_ROWS)
    for i, (values, _) in enumerate(parts):
      out[rows, :, i] = values[rows]
  for i, (_, known) in enumerate(parts):
    if not known.all():
      out[~known, i] = nothing
    valid |= known
  return out, valid


def _overlap(row: int, col: int, height: int, width: int, grid: base.PatchGrid) -> tuple[int, int, int, int]:
  """(top, bottom, left, right) of the pixels of a height x width raster that lie on a grid placed at (row, col)."""
  return max(row, 0), min(row + grid.height_px, height), max(col, 0), min(col + grid.width_px, width)


def place_array(
  values: np.ndarray, transform: affine.Affine, crs: int | str, grid: base.PatchGrid, unit: str
) -> tuple[np.ndarray, np.ndarray]:
  """One band held in memory on a grid, by the rules of `read_bands`: values [h, w], valid bool [h, w]."""
  at = aligned(transform, crs, grid)
  if at is None:
    out = resample(values[None], valid_numbers(values, unit, None)[None], unit, transform, crs, grid)[0]
    return out, np.isfinite(out)
  row, col = at
  out, valid = np.zeros((grid.height_px, grid.width_px), values.dtype), np.zeros((grid.height_px, grid.width_px), bool)
  top, bottom, left, right = _overlap(row, col, values.shape[0], values.shape[1], grid)
  if top < bottom and left < right:
    part = values[top:bottom, left:right]
    out[top - row : bottom - row, left - col : right - col] = part
    valid[top - row : bottom - row, left - col : right - col] = valid_numbers(part, unit, None)
  return out, valid


def _read(
  raster: rasterio.DatasetReader, numbers: list[int], grid: base.PatchGrid, unit: str, nodata: float | None
) -> tuple[np.ndarray, np.ndarray]:
  """values [C, H, W] and valid bool [C, H, W] of one file's bands."""
  crs = user_crs(raster.crs)
  shape = (len(numbers), grid.height_px, grid.width_px)
  at = aligned(raster.transform, crs, grid)
  if at is not None:
    row, col = at
    out, valid = np.zeros(shape, raster.dtypes[numbers[0] - 1]), np.zeros(shape, bool)
    top, bottom, left, right = _overlap(row, col, raster.height, raster.width, grid)
    if top < bottom and left < right:
      values = raster.read(numbers, window=rasterio.windows.Window(left, top, right - left, bottom - top))
      if values.shape == shape:
        return values, valid_numbers(values, unit, nodata)
      inside = np.s_[:, top - row : bottom - row, left - col : right - col]
      out[inside] = values
      valid[inside] = valid_numbers(values, unit, nodata)
    return out, valid

  top, left, bottom, right = _source_window(raster, crs, grid)
  if top >= bottom or left >= right:
    return np.full(shape, np.nan, np.float32), np.zeros(shape, bool)
  if (bottom - top) * (right - left) > _WINDOW_PX and min(grid.height_px, grid.width_px) > 1:
    return _read_quarters(raster, numbers, grid, unit, nodata)
  values = raster.read(numbers, window=rasterio.windows.Window(left, top, right - left, bottom - top))
  moved = raster.transform * affine.Affine.translation(left, top)
  out = resample(values, valid_numbers(values, unit, nodata), unit, moved, crs, grid)
  return out, np.isfinite(out)


def _read_quarters(
  raster: rasterio.DatasetReader, numbers: list[int], grid: base.PatchGrid, unit: str, nodata: float | None
) -> tuple[np.ndarray, np.ndarray]:
  half_h, half_w = grid.height_px // 2, grid.width_px // 2
  rows = []
  for row, height in ((0, half_h), (half_h, grid.height_px - half_h)):
    parts = [
      _read(raster, numbers, grid.window(row, col, height, width), unit, nodata)
      for col, width in ((0, half_w), (half_w, grid.width_px - half_w))
    ]
    rows.append([np.concatenate(arrays, axis=2) for arrays in zip(*parts, strict=True)])
  values, valid = (np.concatenate(arrays, axis=1) for arrays in zip(*rows, strict=True))
  return values, valid

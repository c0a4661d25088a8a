"""Strips as Cloud-Optimized GeoTIFFs: the embedding, the header's channels, the land-cover map and how sure it is."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import affine
import numpy as np
import rasterio
import rasterio.shutil
import rasterio.windows

from deepsentinel.embedding.strips import Strips
from deepsentinel.sources import base

LANDCOVER_NODATA = 0  # classes are written from 1
QUALITY_NODATA = 255
ENTROPY_STEPS = 100  # the entropy is stored in hundredths
QUALITY_BANDS = (
  'entropy of the class probabilities over that of as many equally likely classes (0 sure, 1 no idea)',
  'optical observation',
  'radar observation',
  'cloud in the optical observation',
)


def bound_cache() -> None:
  """GDAL keeps the blocks it read, up to 5 % of the machine's memory: here 128 MB, unless the environment says other.

  Has an effect before the first raster is opened.
  """
  os.environ.setdefault('GDAL_CACHEMAX', '128')


def write(
  path: pathlib.Path,
  parts: Sequence[tuple[int, np.ndarray]],
  profile: Mapping[str, Any],
  *,
  tags: Mapping[str, str],
  names: Sequence[str],
  options: Mapping[str, Any],
  palette: Mapping[int, tuple[int, int, int]] | None = None,
  scales: Sequence[float] = (),
) -> None:
  """Row by row into a plain file, from there into the Cloud-Optimized one, which gets its name when it is whole.

  Args:
    path: of the file.
    parts: (first row, values [rows, W, bands]) of each.
    profile: rasterio's, without driver and interleave.
    tags: of the file. names: of its bands.
    options: of the COG driver.
    palette: of a single band. scales: of each band.
  """
  plain, partial = path.with_name(path.name + '.plain'), path.with_name(path.name + '.partial')
  with rasterio.open(plain, 'w', driver='GTiff', BIGTIFF='IF_SAFER', interleave='pixel', **profile) as target:
    target.update_tags(**tags)
    target.descriptions = tuple(names)
    if scales:
      target.scales = tuple(scales)
    if palette:
      target.write_colormap(1, dict(palette))
    width = profile['width']
    for row, part in parts:
      for at in range(0, len(part), 64):
        block = np.asarray(part[at : at + 64])[:, :width]
        block = block[: profile['height'] - row - at]
        # [rows, W, bands] -> [bands, rows, W]
        target.write(np.moveaxis(block, -1, 0), window=rasterio.windows.Window(0, row + at, width, len(block)))
  rasterio.shutil.copy(str(plain), str(partial), driver='COG', BIGTIFF='IF_SAFER', **options)
  plain.unlink()
  partial.replace(path)


def write_embedding(
  path: pathlib.Path, strips: Strips, starts: Sequence[int], grid: base.PatchGrid, stride: int, tags: Mapping[str, str]
) -> None:
  """float32, NaN where a cell has no valid pixel; cells of `stride` pixels from the grid's upper-left corner."""
  first, cell_m = strips.load('embedding', 0), stride * grid.pixel_m
  rows = starts[-1] + len(strips.load('embedding', len(starts) - 1))
  profile = {
    'height': rows,
    'width': first.shape[1],
    'count': first.shape[2],
    'dtype': 'float32',
    'nodata': float('nan'),
    'crs': rasterio.crs.CRS.from_epsg(grid.epsg),
    'transform': affine.Affine(cell_m, 0, grid.x0_m, 0, -cell_m, grid.y0_m),
  }
  parts = [(row, strips.load('embedding', i)) for i, row in enumerate(starts)]
  names = [f'embedding_{i:03d}' for i in range(first.shape[2])]
  options = {'COMPRESS': 'DEFLATE', 'PREDICTOR': 'YES', 'BLOCKSIZE': 128, 'OVERVIEW_RESAMPLING': 'AVERAGE'}
  write(path, parts, profile, tags=tags, names=names, options=options)


def write_landcover(
  path: pathlib.Path,
  strips: Strips,
  starts: Sequence[int],
  grid: base.PatchGrid,
  classes: Sequence[str],
  colours: np.ndarray,
  tags: Mapping[str, str],
) -> None:
  """uint8 with a palette: class number + 1, 0 where no band has data; one value a pixel of `grid`.

  Args:
    path: of the file.
    strips, starts: the finished strips and the first pixel row of each.
    grid: of the area.
    classes: K names; they are written as tags class_1 to class_K.
    colours: uint8 [K, 3].
    tags: of the file.
  """
  profile = {**_pixels(grid), 'count': 1, 'dtype': 'uint8', 'nodata': LANDCOVER_NODATA}
  palette = {LANDCOVER_NODATA: (0, 0, 0)}
  palette |= {i: (int(r), int(g), int(b)) for i, (r, g, b) in enumerate(colours, start=1)}
  parts = [(row, strips.load('landcover', i)[..., None]) for i, row in enumerate(starts)]
  tags = {**tags, **{f'class_{i}': name for i, name in enumerate(classes, start=1)}}
  options = {'COMPRESS': 'DEFLATE', 'BLOCKSIZE': 512, 'OVERVIEW_RESAMPLING': 'MODE'}
  write(path, parts, profile, tags=tags, names=['land cover'], options=options, palette=palette)


def write_header(
  path: pathlib.Path, strips: Strips, starts: Sequence[int], grid: base.PatchGrid, tags: Mapping[str, str]
) -> None:
  """The deconvolution header's channels, half precision (read as float32), NaN where no band has data."""
  channels = strips.load('header', 0).shape[2]
  # GDAL calls half precision a float32 of 16 bits.
  profile = {**_pixels(grid), 'count': channels, 'dtype': 'float32', 'nodata': float('nan'), 'nbits': 16}
  parts = [(row, strips.load('header', i)) for i, row in enumerate(starts)]
  names = [f'header_{i:02d}' for i in range(channels)]
  options = {'COMPRESS': 'DEFLATE', 'NBITS': 16, 'BLOCKSIZE': 256, 'OVERVIEW_RESAMPLING': 'AVERAGE'}
  write(path, parts, profile, tags=tags, names=names, options=options)


def write_quality(
  path: pathlib.Path, strips: Strips, starts: Sequence[int], grid: base.PatchGrid, tags: Mapping[str, str]
) -> None:
  """uint8, QUALITY_BANDS: the entropy in hundredths, flags 0 and 1; 255 outside the area and where it is not known."""
  # GDAL takes three or four bands of bytes for red, green, blue and alpha unless it is told that they are none.
  plain = {'photometric': 'MINISBLACK', 'alpha': 'NO'}
  profile = {**_pixels(grid), **plain, 'count': len(QUALITY_BANDS), 'dtype': 'uint8', 'nodata': QUALITY_NODATA}
  parts = [(row, strips.load('quality', i)) for i, row in enumerate(starts)]
  options = {'COMPRESS': 'DEFLATE', 'BLOCKSIZE': 512, 'OVERVIEW_RESAMPLING': 'NEAREST'}
  scales = (1 / ENTROPY_STEPS, 1.0, 1.0, 1.0)
  write(path, parts, profile, tags=tags, names=QUALITY_BANDS, options=options, scales=scales)


def _pixels(grid: base.PatchGrid) -> dict[str, Any]:
  """What a raster of one value a pixel of the grid is made with."""
  return {
    'height': grid.height_px,
    'width': grid.width_px,
    'crs': rasterio.crs.CRS.from_epsg(grid.epsg),
    'transform': grid.transform,
  }

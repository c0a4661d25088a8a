"""The files of one patch: a tiled, georeferenced GeoTIFF per sensor and label, that QGIS opens as they are."""

import functools
import hashlib
import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence

import numpy as np
import rasterio
import rasterio.crs
import rasterio.io

from deepsentinel import legend, schema, sensors
from deepsentinel.sources import base

FOLDER = 'patches'
_TILE_PX = 128  # GeoTIFF tiles are multiples of 16; a smaller patch is one strip a tile


def path_of(folder: pathlib.Path, patch_id: str, field: str) -> pathlib.Path:
  """The file of a field ('s2', 's1', 'corine', 'osm', 'landcover') of a patch."""
  return folder / FOLDER / patch_id / f'{field}.tif'


@functools.lru_cache(maxsize=128)
def _crs(epsg: int) -> rasterio.crs.CRS:
  return rasterio.crs.CRS.from_epsg(epsg)


def encode(
  field: schema.TensorField,
  array: np.ndarray,
  grid: base.PatchGrid,
  band_names: tuple[str, ...],
  tags: Mapping,
  palette: Sequence[tuple[int, int, int]] = (),
) -> bytes:
  """A GeoTIFF as bytes; the same array gives the same bytes.

  Args:
    field: what the array is (its dtype and nodata).
    array: [H, W, C] or [H, W] in storage dtype.
    grid: georeference.
    band_names: C descriptions.
    tags: text put into the file.
    palette: colours of the numbers from 1, where these are classes.
  """
  bands = array[..., None] if array.ndim == 2 else array
  profile = {
    'driver': 'GTiff',
    'height': grid.height_px,
    'width': grid.width_px,
    'count': bands.shape[-1],
    'dtype': field.dtype,
    'crs': _crs(grid.epsg),
    'transform': grid.transform,
    'nodata': field.nodata,
    'compress': 'deflate',
    'zlevel': 3,
    'predictor': 2,
    'interleave': 'band',
  }
  if grid.width_px > _TILE_PX and grid.height_px > _TILE_PX:
    profile |= {'tiled': True, 'blockxsize': _TILE_PX, 'blockysize': _TILE_PX}
  if palette:
    profile['photometric'] = 'palette'
  with rasterio.io.MemoryFile() as memory:
    with memory.open(**profile) as file:
      if palette:
        file.write_colormap(1, {i: (*rgb, 255) for i, rgb in enumerate(palette, start=1)})
      file.write(np.ascontiguousarray(np.moveaxis(bands, -1, 0)))
      for i, name in enumerate(band_names, start=1):
        file.set_band_description(i, name)
      file.update_tags(**tags)
    return bytes(memory.getbuffer())


def decode(data: bytes) -> np.ndarray:
  """[C, H, W] of a GeoTIFF's bytes."""
  with rasterio.io.MemoryFile(data) as memory, memory.open() as file:
    return file.read()


def write(
  folder: pathlib.Path,
  patch_id: str,
  arrays: Mapping[str, np.ndarray],
  grid: base.PatchGrid,
  spec: sensors.SensorSpec,
  tags: Mapping[str, str],
  landcover: Sequence[legend.MapClass] = (),
) -> dict[str, str]:
  """Writes the files of a patch, each whole or not at all; `landcover` is the legend of that label.

  Returns:
    field -> SHA-256 of its file, in hexadecimal.
  """
  for left in (folder / FOLDER / patch_id).glob('*.tmp'):  # by a run that was killed here
    left.unlink()
  names = {'s2': spec.s2_bands, 's1': spec.s1_bands, 'corine': ('CORINE level-3 index',), 'osm': ('OSM theme bits',),
           'landcover': ('land-cover class',)}  # fmt: skip
  palettes = {'corine': [c.rgb for c in legend.CORINE], 'landcover': [c.rgb for c in landcover]}
  fields = schema.tensor_fields(spec, grid.height_px, labelled=True, landcover=True)
  digests = {}
  with rasterio.Env():  # one for all files, instead of several each
    for field, array in arrays.items():
      data = encode(fields[field], array, grid, names[field], tags, palettes.get(field, ()))
      keep(folder, patch_id, field, data)
      digests[field] = hashlib.sha256(data).hexdigest()
  return digests


def keep(folder: pathlib.Path, patch_id: str, field: str, data: bytes) -> None:
  """Writes one file of a patch, whole or not at all."""
  path = path_of(folder, patch_id, field)
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f'{field}.{os.getpid()}.tmp')
  temporary.write_bytes(data)
  temporary.replace(path)


def remove(folder: pathlib.Path, patch_id: str) -> None:
  """Removes what there is of a patch."""
  shutil.rmtree(folder / FOLDER / patch_id, ignore_errors=True)


def is_whole(folder: pathlib.Path, row: Mapping) -> bool:
  """Whether every file the manifest row promises is there, byte for byte."""
  for field in ('s2', 's1', 'corine', 'osm', 'landcover'):
    digest = row.get(f'sha256_{field}')
    if not digest:
      continue
    try:
      data = path_of(folder, row['id'], field).read_bytes()
    except FileNotFoundError:
      return False
    if hashlib.sha256(data).hexdigest() != digest:
      return False
  return True

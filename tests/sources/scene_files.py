"""GeoTIFF scenes written for the tests of the local source."""

import numpy as np
import rasterio

from deepsentinel.sources import base

NAME = 'S2A_MSIL2A_20200601T101031_N0214_R022_T32TNT_20200601T120000'
EPSG, X, Y = 32632, 500_000.0, 5_200_000.0
GRID = base.PatchGrid(EPSG, X, Y, 16, 16)


def write(path, values, pixel=10.0, epsg=EPSG, x=X, y=Y, names=(), scale=None, offset=None, unit=None, **profile):
  """A GeoTIFF of values [C, H, W] whose upper-left corner is (x, y)."""
  values = np.asarray(values)
  path.parent.mkdir(parents=True, exist_ok=True)
  shape = {'height': values.shape[1], 'width': values.shape[2], 'count': len(values), 'dtype': values.dtype}
  transform = profile.pop('transform', rasterio.Affine(pixel, 0, x, 0, -pixel, y))
  with rasterio.open(path, 'w', driver='GTiff', crs=epsg, transform=transform, **shape, **profile) as f:
    f.write(values)
    for i, name in enumerate(names, start=1):
      f.set_band_description(i, name)
    if scale is not None:
      f.scales, f.offsets = [scale] * len(values), [offset] * len(values)
    if unit is not None:
      f.units = [unit] * len(values)
  return str(path)


def random(shape=(2, 40, 40), low=1, high=4000, dtype=np.uint16, seed=0):
  return np.random.default_rng(seed).integers(low, high, shape).astype(dtype)


def only(source):
  (scene,) = source.scenes()
  return scene

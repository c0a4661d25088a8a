"""The area that is embedded: its pixel grid."""

import math

import numpy as np
import shapely

from deepsentinel.corpus.grid import utm_epsg
from deepsentinel.sources import base

PIXEL_M = 10.0
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
  if like is None:
    epsg, x_lattice, y_lattice = utm_epsg(west_deg + width / 2, (south_deg + north_deg) / 2), 0.0, 0.0
  else:
    epsg, x_lattice, y_lattice = like.epsg, like.x0_m, like.y0_m
  outline = shapely.get_coordinates(
    shapely.segmentize(shapely.box(west_deg, south_deg, west_deg + width, north_deg), width / 21)
  )
  x, y = (np.asarray(v) for v in base.transformer(4326, epsg).transform(outline[:, 0], outline[:, 1]))
  # A millimetre of tolerance: a box given as pixel edges shall not grow by a pixel.
  left = math.floor((x.min() - x_lattice + 1e-3) / PIXEL_M) * PIXEL_M + x_lattice
  top = math.ceil((y.max() - y_lattice - 1e-3) / PIXEL_M) * PIXEL_M + y_lattice
  width_px = math.ceil((x.max() - left - 1e-3) / PIXEL_M)
  height_px = math.ceil((top - y.min() - 1e-3) / PIXEL_M)
  return base.PatchGrid(epsg, float(left), float(top), height_px, width_px, PIXEL_M)


def scene_grid(source: base.ImagerySource, scene: base.Scene) -> base.PatchGrid:
  """The whole scene at 10 m: on its own pixels where the source knows a projected grid, else in its UTM zone."""
  own = getattr(source, 'grid', None)
  if own is not None:
    try:
      grid = own(scene)
    except ValueError:
      # Its files lie in degrees or are rotated: they are resampled.
      return bounds_grid(*shapely.bounds(scene.footprint))
    scale = grid.pixel_m / PIXEL_M
    height_px, width_px = round(grid.height_px * scale), round(grid.width_px * scale)
    return base.PatchGrid(grid.epsg, grid.x0_m, grid.y0_m, height_px, width_px, PIXEL_M)
  return bounds_grid(*shapely.bounds(scene.footprint))

"""The pixel grid of a patch: its UTM zone, snapped to the pixel lattice, centred on the point."""

import math

from deepsentinel.sources import base

# (west, east, south, north, zone). Norway and Svalbard: zones of the military grid, which Sentinel-2 tiles follow.
_EXCEPTIONS = (
  (3.0, 12.0, 56.0, 64.0, 32),
  (0.0, 9.0, 72.0, 84.0, 31),
  (9.0, 21.0, 72.0, 84.0, 33),
  (21.0, 33.0, 72.0, 84.0, 35),
  (33.0, 42.0, 72.0, 84.0, 37),
)


def utm_epsg(lon_deg: float, lat_deg: float) -> int:
  """EPSG code of the UTM zone of a place: 326xx at and north of the equator, 327xx south of it.

  Zones are those of Sentinel-2's tiles, with the exceptions for Norway (32V) and Svalbard (31X, 33X, 35X, 37X).

  Raises:
    ValueError: beyond 84 degrees north or 80 degrees south, where UTM ends, or a coordinate that is none.
  """
  if not (math.isfinite(lon_deg) and math.isfinite(lat_deg)) or abs(lat_deg) > 90:
    raise ValueError(f'({lon_deg}, {lat_deg}) is no (longitude, latitude) in degrees.')
  if not -80 <= lat_deg <= 84:
    raise ValueError(
      f'Latitude {lat_deg:.4f} lies outside UTM, which covers 80 degrees south to 84 degrees north; '
      'limit the points with --config.points.bbox=-180,-80,180,84.'
    )
  lon = (lon_deg + 180) % 360 - 180
  zone = int((lon + 180) // 6) + 1
  for west, east, south, north, special in _EXCEPTIONS:
    # The bands V and X are closed only below, but for X, which ends at 84.
    if west <= lon < east and south <= lat_deg and (lat_deg < north or north == 84.0):
      zone = special
  return (32600 if lat_deg >= 0 else 32700) + zone


def patch_grid(lon_deg: float, lat_deg: float, patch_px: int = 256, pixel_m: float = 10.0) -> base.PatchGrid:
  """The square grid centred on a point, its edges on multiples of the pixel size.

  Args:
    lon_deg, lat_deg: the point, WGS84; the grid's centre lies within half a pixel of it on each axis.
    patch_px: side, pixels.
    pixel_m: pixel size.
  Returns:
    PatchGrid in the point's UTM zone. At 10 m its pixels fall together with those of Sentinel-2's 10 m bands.
  Raises:
    ValueError: latitude outside UTM.
  """
  epsg = utm_epsg(lon_deg, lat_deg)
  x, y = base.transformer(4326, epsg).transform(lon_deg, lat_deg)
  half_m = patch_px * pixel_m / 2
  x0 = round((x - half_m) / pixel_m) * pixel_m
  y0 = round((y + half_m) / pixel_m) * pixel_m
  return base.PatchGrid(epsg, float(x0), float(y0), patch_px, patch_px, float(pixel_m))

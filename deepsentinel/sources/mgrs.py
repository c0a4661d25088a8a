"""Where Sentinel-2's tiles lie: from a tile name such as '33UUP' to its zone and upper-left corner."""

import math
import re

from deepsentinel.sources import base

_LETTERS = 'ABCDEFGHJKLMNPQRSTUVWXYZ'  # no I, no O
_ROWS = _LETTERS[: _LETTERS.index('V') + 1]
_BANDS = _LETTERS[_LETTERS.index('C') : _LETTERS.index('X') + 1]
_TILE = re.compile(r'(\d{1,2})([C-HJ-NP-X])([A-HJ-NP-Z])([A-HJ-NP-V])')


def tile_corner(tile: str) -> tuple[int, float, float]:
  """(EPSG code, x, y) of the upper-left corner of a Sentinel-2 tile, metres.

  A tile is its MGRS square of 100 km, enlarged to the right and downwards to 109.8 km; its corner is the square's
  upper-left corner moved outwards to a multiple of 60 m, so that pixels of 10, 20 and 60 m share it. (NGA, Universal
  Grids, for the letters; the rounding is that of ESA's tile grid.)

  Raises:
    ValueError: `tile` is no such name.
  """
  match = _TILE.fullmatch(tile.removeprefix('T'))
  zone = int(match[1]) if match else 0
  if not match or not 1 <= zone <= 60:
    raise ValueError(f'{tile!r} is no Sentinel-2 tile; its name looks like 33UUP (zone, latitude band, square).')
  band, column, row = match[2], match[3], match[4]
  # Columns run through three sets of eight letters, from 100 km eastwards; rows repeat every 2,000 km and start at F
  # in even zones.
  start = (0, 8, 16)[(zone - 1) % 3]
  number = _LETTERS.index(column) - start
  if not 0 <= number < 8:
    raise ValueError(f'{tile!r}: square column {column} does not occur in zone {zone}.')
  east = 100_000 * (number + 1)
  north = 100_000 * ((_ROWS.index(row) - (5 if zone % 2 == 0 else 0)) % 20)
  northern = band >= 'N'
  epsg = (32600 if northern else 32700) + zone
  lowest_lat = -80 + 8 * _BANDS.index(band)
  middle = 6 * zone - 183
  _, lowest = base.transformer(4326, epsg).transform(middle, lowest_lat)
  # The row cycle in which the square's top lies above the latitude band's lower edge.
  north += 2_000_000 * math.ceil((lowest - (north + 100_000)) / 2_000_000)
  origin = 0 if northern else 10_000_000  # the multiples of 60 m count from the equator
  return epsg, math.floor(east / 60) * 60.0, origin + math.ceil((north + 100_000 - origin) / 60) * 60.0

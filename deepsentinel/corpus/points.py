"""Points uniform over the land by area, each from its own random stream.

A point is a function of (seed, number, attempt) and of nothing else: neither how many points are drawn, nor in which
order, nor by how many processes changes where it lies.
"""

import difflib
import functools
import importlib.resources
import io
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import shapely

from deepsentinel.corpus.streams import Streams
from deepsentinel.sources import base

EQUAL_AREA = 6933  # EASE-Grid 2.0 global: cylindrical, so that areas are true and parallels are straight
_ANTARCTICA = 'ATA'
_NO_ISO_CODE = '-99'
_STREAM = 0x1A4D  # tells this draw apart from the others that share the run's seed
_CANDIDATES = 2  # a round of rejection sampling; about half of all candidates lie on land

# The 27 member states and the United Kingdom: the labelled corpus of the paper. Natural Earth keeps the Aland Islands
# apart from Finland, so they are named too.
EU27_GB = (
  *('AUT', 'BEL', 'BGR', 'HRV', 'CYP', 'CZE', 'DNK', 'EST', 'FIN', 'ALA', 'FRA', 'DEU', 'GRC', 'HUN', 'IRL'),
  *('ITA', 'LVA', 'LTU', 'LUX', 'MLT', 'NLD', 'POL', 'PRT', 'ROU', 'SVK', 'SVN', 'ESP', 'SWE', 'GBR'),
)
GROUPS = {'EU27_GB': EU27_GB}
# Europe as CORINE's main layer covers it: Azores, Madeira and the Canaries are in, French Guiana, Reunion and the
# Antilles (layers of their own) are out.
CORINE_EUROPE = (-31.5, 27.5, 45.0, 71.5)


@functools.lru_cache(maxsize=1)
def countries() -> pd.DataFrame:
  """Natural Earth's countries (1:50 million): code (ADM0_A3), iso (ISO_A3_EH or ''), name, geometry (shapely)."""
  data = importlib.resources.files('deepsentinel.corpus').joinpath('land/ne_50m_countries.parquet').read_bytes()
  table = pd.read_parquet(io.BytesIO(data))
  return pd.DataFrame(
    {
      'code': table['ADM0_A3'],
      'iso': table['ISO_A3_EH'].replace(_NO_ISO_CODE, ''),
      'name': table['NAME'],
      'geometry': shapely.from_wkb(table['geometry'].to_numpy()),
    }
  )


def parse_countries(text: str | Iterable[str]) -> tuple[str, ...]:
  """Codes from 'DEU,POL', 'EU27_GB' or a list of such; groups are spelled out.

  Raises:
    ValueError: a code that neither ADM0_A3 nor ISO_A3_EH knows; names the closest ones.
  """
  wanted = [part.strip() for part in (text.split(',') if isinstance(text, str) else text)]
  table = countries()
  known = set(table['code']) | (set(table['iso']) - {''})
  codes: list[str] = []
  for code in filter(None, wanted):
    if code in GROUPS:
      codes += GROUPS[code]
    elif code in known:
      codes.append(code)
    else:
      raise ValueError(f'Unknown country code {code!r}.{_country_hint(code, table)}')
  return tuple(dict.fromkeys(codes))


def _country_hint(code: str, table: pd.DataFrame) -> str:
  candidates = {c: f'{c} ({name})' for c, name in zip(table['code'], table['name'], strict=True)}
  candidates |= {c: f'{c} ({name})' for c, name in zip(table['iso'], table['name'], strict=True) if c}
  by_name = {name.lower(): c for c, name in zip(table['code'], table['name'], strict=True)}
  close = difflib.get_close_matches(code.upper(), [*candidates, *GROUPS], n=4, cutoff=0.6)
  close += [by_name[name] for name in difflib.get_close_matches(code.lower(), by_name, n=2, cutoff=0.75)]
  hint = ', '.join(candidates.get(c, c) for c in dict.fromkeys(close))
  hint = f' Did you mean {hint}?' if hint else ''
  return f'{hint} Allowed are ISO 3166 alpha-3 codes such as DEU or BRA, and the groups {", ".join(GROUPS)}.'


def parse_bbox(bbox: str | Sequence[float] | None) -> tuple[float, float, float, float] | None:
  """(west, south, east, north) in degrees from 'west,south,east,north' or four numbers; None where there is none.

  West beyond east means a box across the antimeridian.
  """
  if bbox is None or len(bbox) == 0:
    return None
  parts = bbox.split(',') if isinstance(bbox, str) else list(bbox)
  try:
    west, south, east, north = (float(p) for p in parts)
  except ValueError:
    raise ValueError(f"A bounding box is 'west,south,east,north' in degrees; found {bbox!r}.") from None
  if not (-180 <= west <= 180 and -180 <= east <= 180 and -90 <= south < north <= 90 and west != east):
    raise ValueError(
      f'Bounding box {bbox!r}: longitudes lie in -180 to 180, latitudes in -90 to 90 with south below north '
      '(order: west,south,east,north; west beyond east crosses the antimeridian).'
    )
  return west, south, east, north


class Region:
  """The land points are drawn from: whole countries, or what a box cuts out of them.

  Args:
    country_codes: ADM0_A3 or ISO_A3_EH codes, or the groups of GROUPS; none means all land but Antarctica.
    bbox: (west, south, east, north) in degrees, or that as text; None for no limit.
  Raises:
    ValueError: unknown code, malformed box, or no land in the box.
  """

  def __init__(self, country_codes: str | Iterable[str] = (), bbox: str | Sequence[float] | None = None):
    codes = parse_countries(country_codes)
    self.bbox = parse_bbox(bbox)
    table = countries()
    if codes:
      table = table[table['code'].isin(codes) | table['iso'].isin(codes)]
    else:
      table = table[table['code'] != _ANTARCTICA]
    # The ISO code where there is one, Natural Earth's own (Kosovo, Northern Cyprus, Somaliland) where not.
    label = np.where(table['iso'] != '', table['iso'], table['code'])
    geometry = table['geometry'].to_numpy()
    if self.bbox is not None:
      geometry = shapely.intersection(geometry, _box(self.bbox))
    parts, owner = shapely.get_parts(geometry, return_index=True)
    polygonal = (shapely.get_type_id(parts) == shapely.GeometryType.POLYGON) & (shapely.area(parts) > 0)
    self.parts, self.country = parts[polygonal], label[owner[polygonal]]  # [P]
    if not len(self.parts):
      raise ValueError(
        f'There is no land of {", ".join(codes) or "any country"} within the bounding box {self.bbox} '
        '(west,south,east,north).'
      )
    shapely.prepare(self.parts)
    west, south, east, north = shapely.bounds(self.parts).T
    to_xy = base.transformer(4326, EQUAL_AREA)
    # A box in degrees is a box in this projection.
    left, bottom = to_xy.transform(west, south)
    right, top = to_xy.transform(east, north)
    self._corner = np.column_stack([left, bottom])
    self._size = np.column_stack([right, top]) - self._corner
    self._cumulative = np.cumsum(self._size.prod(1))

  def area_km2(self) -> float:
    """Area of the region."""
    to_xy = base.transformer(4326, EQUAL_AREA)
    projected = shapely.transform(self.parts, lambda xy: np.column_stack(to_xy.transform(xy[:, 0], xy[:, 1])))
    return float(shapely.area(projected).sum() / 1e6)

  def draw(self, seed: int, numbers: Sequence[int] | np.ndarray, attempt: int = 0) -> pd.DataFrame:
    """One point per number.

    A polygon is chosen with probability proportional to its box's area, a place in the box uniformly by area, and the
    pair is kept if the place lies in that polygon: together uniform over the union of the (disjoint) polygons.

    Args:
      seed: the run's seed.
      numbers: int[N], which points of that run.
      attempt: 0 for the first draw of a point, 1 for its first replacement, and so on.
    Returns:
      DataFrame of N rows: lon_deg, lat_deg float64 (WGS84), country (ISO alpha-3 code).
    """
    streams = Streams([seed, _STREAM, np.asarray(numbers, np.int64), attempt])
    lon, lat = np.full(len(numbers), np.nan), np.full(len(numbers), np.nan)
    part = np.zeros(len(numbers), np.int64)
    pending = np.arange(len(numbers))
    to_lonlat = base.transformer(EQUAL_AREA, 4326)
    while pending.size:
      u = streams.uniforms(3 * _CANDIDATES).reshape(-1, _CANDIDATES, 3)  # [N, 2, 3]
      which = np.searchsorted(self._cumulative, u[..., 0] * self._cumulative[-1], side='right')  # [N, 2]
      xy = self._corner[which] + u[..., 1:] * self._size[which]
      x, y = to_lonlat.transform(xy[..., 0], xy[..., 1])
      on_land = shapely.contains_xy(self.parts[which], x, y)
      found, first = on_land.any(1), on_land.argmax(1)
      rows = np.flatnonzero(found)
      chosen = first[rows]
      lon[pending[rows]], lat[pending[rows]] = x[rows, chosen], y[rows, chosen]
      part[pending[rows]] = which[rows, chosen]
      streams.keep(~found)
      pending = pending[~found]
    return pd.DataFrame({'lon_deg': lon, 'lat_deg': lat, 'country': self.country[part]})

  def country_of(self, lon_deg: np.ndarray, lat_deg: np.ndarray) -> np.ndarray:
    """Object [N]: ISO alpha-3 code of the country each place lies in, '' off the coast."""
    points = shapely.points(np.asarray(lon_deg, np.float64), np.asarray(lat_deg, np.float64))
    out = np.full(points.shape, '', object)
    place, part = shapely.STRtree(self.parts).query(points, predicate='intersects')
    out[place] = self.country[part]
    return out


def _box(bbox: tuple[float, float, float, float]) -> shapely.Geometry:
  west, south, east, north = bbox
  if west < east:
    return shapely.box(west, south, east, north)
  return shapely.union_all([shapely.box(west, south, 180, north), shapely.box(-180, south, east, north)])


def land_points(
  n: int,
  seed: int,
  countries: str | Iterable[str] = (),
  bbox: str | Sequence[float] | None = None,
) -> pd.DataFrame:
  """Points uniform over the land by area, Antarctica left out.

  Args:
    n: how many.
    seed: of the run. The first k of n points are the same for every n.
    countries: ISO 3166 alpha-3 codes or the group 'EU27_GB', as 'DEU,POL' or a list; none means everywhere.
    bbox: (west, south, east, north) in degrees, or that as text.
  Returns:
    DataFrame of n rows: lon_deg, lat_deg float64 (WGS84), country (ISO alpha-3 code).
  Raises:
    ValueError: unknown country code (names the closest), malformed box, no land in it.
  """
  return Region(countries, bbox).draw(seed, np.arange(n))

"""Coal mines: polygons matched to a register of points become patches on mines, with background patches near them.

A polygon that no point of the register confirms is neither: it may be a coal mine that the register lacks, so no
background point lies near it, and no patch on it.
"""

import pathlib
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import geopandas
import numpy as np
import pyogrio
import shapely

from deepsentinel import legend
from deepsentinel.corpus import blocks as blocks_lib
from deepsentinel.corpus import manifest, points
from deepsentinel.sources import base

FROM_SOURCE = 'source'
_STREAM = 0x3149
_BACKGROUND, _MINE = (legend.SCENES.index(name) + 1 for name in ('background', 'mine'))
_KINDS = {'polygons': ('Polygon', 'MultiPolygon'), 'register': ('Point', 'MultiPoint')}
_KM_PER_DEGREE = 110.5  # of latitude, where it is shortest
_CANDIDATES, _ROUNDS = 8, 25  # places tried for each patch of background: 200


def read(path: str, role: str) -> np.ndarray:
  """Geometries of a vector file in WGS84, valid and not empty.

  Args:
    path: GeoPackage, GeoJSON, Parquet or anything else that GeoPandas opens.
    role: 'polygons' or 'register', the setting that names it.
  Returns:
    object [N] of shapely geometries, in the order of the file.
  Raises:
    ValueError: no such file, one that cannot be read, has no CRS, no geometry, or geometries of another kind.
  """
  file, setting = pathlib.Path(path).expanduser(), f'mines.{role}'
  if not file.exists():
    raise ValueError(f'{setting} names {path}, which is not there. State a GeoPackage, GeoJSON or Parquet file.')
  try:
    parquet = file.suffix.lower() in ('.parquet', '.geoparquet')
    table = geopandas.read_parquet(file) if parquet else geopandas.read_file(file)
  except (pyogrio.errors.DataSourceError, ValueError, OSError) as e:
    raise ValueError(f'{setting}: {path} cannot be read as vectors ({str(e).splitlines()[0]}).') from e
  if not isinstance(table, geopandas.GeoDataFrame):
    raise ValueError(f'{setting}: {path} holds a table without geometries. State a vector file.')
  if table.crs is None:
    raise ValueError(f'{setting}: {path} has no CRS; assign one (ogr2ogr -a_srs EPSG:4326 ...).')
  geometry = table.to_crs(4326).geometry.to_numpy()
  geometry = geometry[~(shapely.is_missing(geometry) | shapely.is_empty(geometry))]
  if not len(geometry):
    raise ValueError(f'{setting}: {path} holds no geometry.')
  strange = sorted({g.geom_type for g in geometry} - set(_KINDS[role]))
  if strange:
    other = ' Points belong in mines.register.' if strange[0] in _KINDS['register'] else ''
    other = ' Polygons belong in mines.polygons.' if strange[0] in _KINDS['polygons'] else other
    raise ValueError(f'{setting}: {path} holds {", ".join(strange)}; {_KINDS[role][0]}s are expected.{other}')
  return shapely.make_valid(geometry) if role == 'polygons' else geometry


def near(polygons: np.ndarray, lon_deg: np.ndarray, lat_deg: np.ndarray, within_km: float) -> np.ndarray:
  """Which points lie how near to which polygons.

  Args:
    polygons: object [N] of shapely geometries, WGS84.
    lon_deg, lat_deg: float64 [M].
    within_km: furthest distance on the ellipsoid from the polygon's edge, inclusive; inside a polygon it is 0.
  Returns:
    int64 [P, 2]: number of a point, number of a polygon.
  """
  lon, lat = np.asarray(lon_deg, np.float64), np.asarray(lat_deg, np.float64)
  high = within_km / _KM_PER_DEGREE
  wide = np.minimum(high / np.cos(np.radians(np.minimum(np.abs(lat) + high, 89.9))), 180)
  tree = shapely.STRtree(polygons)
  candidates = set()
  for turn in (-360, 0, 360):  # a neighbour may lie across the antimeridian
    boxes = shapely.box(lon + turn - wide, lat - high, lon + turn + wide, lat + high)
    candidates |= {(int(i), int(k)) for i, k in tree.query(boxes).T}
  found = []
  for i, k in sorted(candidates):
    flat = shapely.transform(polygons[k], _around(lon[i], lat[i]))
    if shapely.distance(flat, shapely.Point(0, 0)) <= 1000 * within_km:
      found.append((i, k))
  return np.array(found, np.int64).reshape(-1, 2)


def _around(lon: float, lat: float) -> Callable[[np.ndarray], np.ndarray]:
  """WGS84 degrees [N, 2] to metres east and north of a place, in which distances from it are those on the ellipsoid."""

  def project(lonlat: np.ndarray) -> np.ndarray:
    n = len(lonlat)
    azimuth, _, metres = base.GEOD.inv(np.full(n, lon), np.full(n, lat), lonlat[:, 0], lonlat[:, 1])
    return np.column_stack([metres * np.sin(np.radians(azimuth)), metres * np.cos(np.radians(azimuth))])

  return project


def matched(polygons: np.ndarray, register: np.ndarray, match_km: float) -> np.ndarray:
  """bool [N]: which polygons lie within `match_km` of a point of the register (shapely points, WGS84)."""
  lon, lat = shapely.get_coordinates(register).T
  keep = np.zeros(len(polygons), bool)
  keep[near(polygons, lon, lat, match_km)[:, 1]] = True
  return keep


def centres(polygons: np.ndarray) -> np.ndarray:
  """float64 [N, 2]: longitude and latitude of a place inside each polygon: its centroid where that is inside."""
  middle = shapely.centroid(polygons)
  inside = np.where(shapely.contains(polygons, middle), middle, shapely.point_on_surface(polygons))
  return shapely.get_coordinates(inside).reshape(-1, 2)


def background(
  polygons: np.ndarray, centre: np.ndarray, region: points.Region, *, count: int, min_km: float, max_km: float,
  seed: int, numbers: np.ndarray,
) -> np.ndarray:  # fmt: skip
  """Places for background: uniform by area in the ring around each mine, on land, away from every polygon.

  Args:
    polygons: every mine known, coal or not.
    centre: float64 [N, 2], longitude and latitude of the mines that want background.
    region: where a place may lie.
    count: places for each mine.
    min_km: least distance from every polygon and from the mine's centre.
    max_km: furthest distance from the mine's centre.
    seed: of the run.
    numbers: int [N], of the mines; a place depends on seed, number and rank alone.
  Returns:
    float64 [N, count, 2], longitude and latitude; NaN where 200 draws found no such place.
  """
  out = np.full((len(centre), count, 2), np.nan)
  rngs = {(i, k): np.random.default_rng([seed, _STREAM, int(numbers[i]), k]) for i, k in np.ndindex(out.shape[:2])}
  wanted = list(rngs)
  for _ in range(_ROUNDS):
    if not wanted:
      break
    u = np.stack([rngs[place].random((_CANDIDATES, 2)) for place in wanted])  # [W, 8, 2]
    start = np.repeat(centre[[i for i, _ in wanted]][:, None], _CANDIDATES, 1)
    metres = 1000 * np.sqrt(min_km**2 + u[..., 0] * (max_km**2 - min_km**2))
    lon, lat, _ = base.GEOD.fwd(start[..., 0], start[..., 1], 360 * u[..., 1], metres)
    fits = (region.country_of(lon.ravel(), lat.ravel()) != '').reshape(lon.shape)
    at = np.flatnonzero(fits)
    close = near(polygons, lon.ravel()[at], lat.ravel()[at], min_km)[:, 0]
    fits.ravel()[at[close]] = False
    left = []
    for place, ok, x, y in zip(wanted, fits, lon, lat, strict=True):
      if ok.any():
        out[place] = x[ok.argmax()], y[ok.argmax()]
      else:
        left.append(place)
    wanted = left
  return out


def plan(
  settings: Mapping[str, Any], source: Any, region: points.Region, blocks: list[blocks_lib.Block]
) -> list[dict[str, Any]]:
  """Manifest rows of a corpus of mines: each mine, then its background, in the same block of days.

  Raises:
    ValueError: a file that cannot be used (see `read`), no polygon in the region, none that the register confirms, no
      place for background.
  """
  own = settings['mines']
  polygons, register = _inputs(settings, source, region)
  centre = centres(polygons)
  country = region.country_of(centre[:, 0], centre[:, 1])
  inside = np.flatnonzero(country != '')
  where = f'points.countries={settings["points"]["countries"]!r}, points.bbox={settings["points"]["bbox"]!r}'
  if not len(inside):
    west, south, east, north = shapely.total_bounds(polygons)
    raise ValueError(
      f'None of the {len(polygons)} polygons of mines.polygons, which lie in {west:.2f},{south:.2f},{east:.2f},'
      f'{north:.2f}, is on the land that was asked for ({where}). Choose a region that holds some of them.'
    )
  coal = inside if register is None else inside[matched(polygons[inside], register, own['match_km'])]
  if not len(coal):
    raise ValueError(
      f'No point of mines.register lies within mines.match_km={own["match_km"]:g} of any of the {len(inside)} polygons '
      f'of the region ({where}). Raise mines.match_km, or check that both files are of the same mines.'
    )
  most = settings['patches'] // (1 + own['background']) or None
  taken = np.random.default_rng([settings['seed'], _STREAM]).permutation(coal)[:most]
  places = background(
    polygons, centre[taken], region, count=own['background'], min_km=own['min_km'], max_km=own['max_km'],
    seed=settings['seed'], numbers=taken,
  )  # fmt: skip
  has_place = np.isfinite(places).all(2)
  if not has_place.any():
    raise ValueError(
      f'There is no place for background: none on land in the region ({where}) that is {own["min_km"]:g} km away from '
      f'every mine and {own["max_km"]:g} km or less from its own. Lower mines.min_km or raise mines.max_km.'
    )
  print(
    f'{len(polygons)} mine polygons, {len(inside)} of them in the region; '
    + ('all count as coal mines' if register is None else f'the register confirms {len(coal)} as coal mines')
    + f'. {len(taken)} become patches, with {has_place.sum()} of background'
    + (f'; {(~has_place).sum()} found no place.' if not has_place.all() else '.')
  )
  rows: list[dict[str, Any]] = []
  for i, block in enumerate(blocks_lib.assign_blocks(blocks, len(taken), settings['seed'])):
    spots = [(f'mine_{i:06d}', _MINE, centre[taken[i]])]
    spots += [(f'background_{i:06d}_{k}', _BACKGROUND, places[i, k]) for k in np.flatnonzero(has_place[i])]
    for name, scene, (lon, lat) in spots:
      rows.append(
        manifest.blank_row()
        | {'id': name, 'number': len(rows), 'block': int(block), 'scene': scene, 'mine': int(taken[i])}
        | {'lon_deg': float(lon), 'lat_deg': float(lat)}
      )
  lon_lat = np.array([(row['lon_deg'], row['lat_deg']) for row in rows])
  return [row | {'country': str(name)} for row, name in zip(rows, region.country_of(*lon_lat.T), strict=True)]


def _inputs(settings: Mapping[str, Any], source: Any, region: points.Region) -> tuple[np.ndarray, np.ndarray | None]:
  """(polygons, points of the register or None), from the files named, or from those that the source writes."""
  own = settings['mines']
  if own['polygons'] != FROM_SOURCE:
    return read(own['polygons'], 'polygons'), read(own['register'], 'register') if own['register'] else None
  if not hasattr(source, 'write_mines'):
    raise ValueError(
      f"mines.polygons is 'source', but the source {settings['source']['name']!r} writes no mines. Name a vector file."
    )
  if region.bbox is None:
    raise ValueError("mines.polygons is 'source': say of which box with points.bbox='west,south,east,north'.")
  with tempfile.TemporaryDirectory() as folder:
    files = {role: f'{folder}/{role}.gpkg' for role in _KINDS}
    source.write_mines(files['polygons'], files['register'], region.bbox)
    return read(files['polygons'], 'polygons'), read(own['register'] or files['register'], 'register')

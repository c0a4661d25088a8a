"""CORINE Land Cover on a patch grid, from the vector inventory (GeoPackage, FileGDB) or from a pixel map."""

import functools
import itertools
import pathlib
import re
from typing import NamedTuple

import numpy as np
import pyogrio
import pyproj
import rasterio
import rasterio.features
import shapely

from deepsentinel import legend
from deepsentinel.sources import base, raster

# A straight edge between two CRSs is a curve; pieces of this length keep it within a millimetre or so of the truth.
_SEGMENT_M = 1000.0
_RASTER_CODING = ('code', 'index')
# The EEA's rasters mark, beside 0, what has no class: 48 no data, 49 and 50 unclassified land and water, 255 and -128
# outside (the last from the signed 8-bit edition).
_INDEX_NODATA = (0, 48, 49, 50, 255, -128)


@functools.lru_cache(maxsize=8)
def _code_lookup() -> np.ndarray:
  """int16 [1000]: 3-digit code to level-3 index; 0 = no label, -1 = no such code."""
  table = np.full(1000, -1, np.int16)
  for code in legend.CORINE_UNCLASSIFIED:
    table[code] = 0
  for code, index in legend.CORINE_INDEX.items():
    table[code] = index
  return table


def index_of_codes(codes: np.ndarray, where: str) -> np.ndarray:
  """Level-3 indices of 3-digit codes.

  Args:
    codes: [N] of text ('311'), integers or whole floats.
    where: what to name in the error.
  Returns:
    uint8 [N], 1 to 44; 0 for the codes of unclassified land and water (990, 995, 999).
  Raises:
    ValueError: a code that is not in the nomenclature; names it.
  """
  found = np.full(len(codes), -1, np.int16)
  for i, code in enumerate(codes):
    text = str(code).strip().removesuffix('.0')
    if re.fullmatch(r'\d{1,3}', text):
      found[i] = _code_lookup()[int(text)]
  if (found < 0).any():
    unknown = sorted({str(c) for c in np.asarray(codes)[found < 0]})
    raise ValueError(
      f'{where}: unknown CORINE code(s) {unknown[:5]}. Known: the 44 codes of level 3, 111 to 523, and '
      f'{", ".join(map(str, legend.CORINE_UNCLASSIFIED))} for unclassified. '
      'Name the column that holds the 3-digit code with code_column=...'
    )
  return found.astype(np.uint8)


class Layer(NamedTuple):
  """A layer of polygons: its name, the column of its codes, its CRS."""

  name: str
  code_column: str
  crs: str


class CorineVectors:
  """CORINE Land Cover polygons, rasterised at the pixel centres of a patch.

  The EEA's geodatabase keeps each French overseas department in a layer of its own, in its own CRS; all of them are
  read, since no two cover the same ground. The file is opened read-only at each read, so that an instance is picklable
  and works in any process. Where polygons of a layer overlap, the smaller one wins (then the higher code), whatever
  their order in the file.

  Args:
    path: GeoPackage, FileGDB folder or anything else pyogrio opens.
    layer: layer name; '' takes every layer that has polygons and a code column, if their extents do not overlap; '*'
      takes them even so, a later layer of the file on top of an earlier one.
    code_column: column of the 3-digit code; '' looks for CODE_18 in any case.
  Raises:
    ValueError: no such file, layer or column, or layers that overlap; names the argument that settles it.
  """

  def __init__(self, path: str, layer: str = '', code_column: str = ''):
    self.path = str(path)
    if not self.path.startswith('/vsi') and not pathlib.Path(self.path).exists():
      raise ValueError(f'CORINE vectors not found: {self.path}. State the GeoPackage or FileGDB with path=...')
    try:
      self.layers = self._choose(pyogrio.list_layers(self.path), layer, code_column)
    except pyogrio.errors.DataSourceError as e:
      raise ValueError(f'{self.path} cannot be opened as vectors ({e}). Is the file complete?') from e

  def _choose(self, there: np.ndarray, layer: str, code_column: str) -> tuple[Layer, ...]:
    names = [name for name, _ in there]
    if layer not in ('', '*', *names):
      raise ValueError(f'{self.path} has no layer {layer!r}. Layers: {", ".join(names)}.')
    wanted = (code_column or 'code_18').lower()
    found: list[Layer] = []
    seen = {}
    for name, geometry in there:
      if layer not in ('', '*', name) or ('Polygon' not in str(geometry) and str(geometry) != 'Unknown'):
        continue
      info = pyogrio.read_info(self.path, layer=name)
      seen[name] = list(info['fields'])
      for column in info['fields']:
        if column.lower() == wanted:
          if not info['crs']:
            raise ValueError(f'{self.path}: layer {name!r} has no CRS; assign one (ogr2ogr -a_srs EPSG:3035 ...).')
          found.append(Layer(name, column, info['crs']))
    if not found:
      raise ValueError(
        f'{self.path} has no polygon layer with a column {code_column or "CODE_18"!r} (case does not matter). '
        f'Polygon layers and their columns: {seen}. Pass layer=... and code_column=...'
      )
    if len(found) > 1 and layer != '*':
      extents = [self._extent_lonlat(own) for own in found]
      pairs = [p for p in itertools.combinations(range(len(found)), 2) if extents[p[0]].intersects(extents[p[1]])]
      if pairs:
        raise ValueError(
          f'{self.path} has several CORINE layers {[found[i].name for i in sorted(set().union(*pairs))]} of the same '
          "ground; pass layer=... to choose, or layer='*' for all of them, the later on top of the earlier."
        )
    return tuple(found)

  def _extent_lonlat(self, layer: Layer) -> shapely.Geometry:
    """A layer's bounds as boxes in WGS84, two where they lie across the antimeridian; nothing of an empty layer."""
    bounds = pyogrio.read_info(self.path, layer=layer.name, force_total_bounds=True)['total_bounds']
    if bounds is None or not np.isfinite(bounds).all():
      return shapely.Polygon()
    left, bottom, right, top = bounds
    to_lonlat = base.transformer(layer.crs, 4326)
    west, south, east, north = to_lonlat.transform_bounds(left, bottom, right, top, densify_pts=21)
    if west <= east:
      return shapely.box(west, south, east, north)
    return shapely.union(shapely.box(west, south, 180, north), shapely.box(-180, south, east, north))

  def polygons(self, grid: base.PatchGrid) -> tuple[np.ndarray, np.ndarray]:
    """Polygons that meet the grid's box, clipped to a wider one, and their level-3 indices, in drawing order.

    Returns:
      object [N] of shapely geometries in the grid's CRS; uint8 [N].
    """
    parts = [self._polygons(layer, grid) for layer in self.layers]
    shapes, index = (np.concatenate(p) for p in zip(*parts, strict=True))
    return shapes, index

  def _polygons(self, layer: Layer, grid: base.PatchGrid) -> tuple[np.ndarray, np.ndarray]:
    pieces, codes, areas = [], [], []
    for box in grid.bounds_in(layer.crs):
      if not np.isfinite(box).all():
        continue  # so far from the layer that its CRS does not reach
      try:
        _, _, wkb, (code,) = pyogrio.raw.read(self.path, layer=layer.name, columns=[layer.code_column], bbox=box)
      except pyogrio.errors.DataSourceError as e:
        raise ValueError(f'{self.path} cannot be read ({e}). The file is truncated or corrupt: fetch it again.') from e
      if wkb is None or not len(wkb):
        continue
      geometry = shapely.from_wkb(wkb)
      areas.append(shapely.area(geometry))
      pieces.append(_clip(geometry, box))
      codes.append(code)
    if not pieces:
      return np.empty(0, object), np.empty(0, np.uint8)
    shapes = np.concatenate(pieces)
    index = index_of_codes(np.concatenate(codes), f'{self.path}, layer {layer.name}')
    order = np.lexsort((index, -np.concatenate(areas)))
    order = order[~shapely.is_empty(shapes[order])]
    unit_m = _SEGMENT_M if not _geographic(layer.crs) else _SEGMENT_M / 111_000
    shapes = shapely.segmentize(shapes[order], unit_m)
    move = base.transformer(layer.crs, grid.epsg)
    shapes = shapely.transform(shapes, lambda xy: np.column_stack(move.transform(xy[:, 0], xy[:, 1])))
    return shapes, index[order]

  def read(self, grid: base.PatchGrid) -> np.ndarray:
    """uint8 [H, W]: level-3 index (legend.CORINE) of the polygon that holds each pixel's centre, 0 = nodata."""
    pieces, index = self.polygons(grid)
    shapes = [(piece, int(i)) for piece, i in zip(pieces, index, strict=True)]
    out = np.zeros((grid.height_px, grid.width_px), np.uint8)
    if shapes:
      rasterio.features.rasterize(shapes, out=out, transform=grid.transform)
    return out


def _geographic(crs: str) -> bool:
  return pyproj.CRS.from_user_input(crs).is_geographic


def _clip(geometry: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
  """Polygons cut to `box` enlarged by a twentieth: inventory polygons may have 100,000 vertices."""
  left, bottom, right, top = box
  margin_x, margin_y = (right - left) / 20, (top - bottom) / 20
  wide = (left - margin_x, bottom - margin_y, right + margin_x, top + margin_y)
  try:
    return shapely.clip_by_rect(geometry, *wide)
  except shapely.GEOSException:  # a polygon crosses itself
    return shapely.clip_by_rect(shapely.make_valid(geometry), *wide)


class CorineRaster:
  """A CORINE pixel map (the EEA's 100 m raster, BigEarthNet's reference maps), nearest pixel.

  Args:
    path: raster in any CRS.
    codes: what the numbers are: 'code' for 3-digit codes (311), 'index' for the EEA's grid index 1 to 44. The two
      overlap in no way that could be told safely from a small window, so it has to be stated.
  """

  def __init__(self, path: str, codes: str = ''):
    if codes not in _RASTER_CODING:
      raise ValueError(
        f"codes={codes!r}: say whether {path} holds 3-digit codes (codes='code') or the EEA's grid index 1 to 44 "
        "(codes='index')."
      )
    self.path = str(path)
    self.codes = codes
    with self._open() as file:
      if file.crs is None:
        raise ValueError(f'{self.path} has no CRS; assign one (gdal_edit.py -a_srs EPSG:3035 ...).')

  def _open(self) -> rasterio.DatasetReader:
    try:
      return rasterio.open(self.path)
    except rasterio.errors.RasterioIOError as e:
      raise ValueError(f'{self.path} cannot be opened ({e}). State an existing raster with path=...') from e

  def read(self, grid: base.PatchGrid) -> np.ndarray:
    """uint8 [H, W]: level-3 index (legend.CORINE) of the map's pixel under each pixel's centre, 0 = nodata."""
    with self._open() as file:
      try:
        values, inside = raster.nearest(file, grid)
      except rasterio.errors.RasterioIOError as e:
        raise ValueError(f'{self.path} cannot be read ({e}). The file is truncated or corrupt: fetch it again.') from e
      out = np.zeros(values.shape, np.uint8)
      out[inside] = self._index(values[inside], file.nodata)
    return out

  def _index(self, values: np.ndarray, nodata: float | None) -> np.ndarray:
    """uint8 of the same shape: level-3 index; ValueError on a number that the stated coding does not have."""
    unique, inverse = np.unique(values, return_inverse=True)
    missing = np.isin(unique, (0,) if self.codes == 'code' else _INDEX_NODATA)
    if nodata is not None:
      missing |= unique == nodata
    index = np.zeros(len(unique), np.uint8)
    if self.codes == 'code':
      known = missing | np.isin(unique, [*legend.CORINE_INDEX, *legend.CORINE_UNCLASSIFIED])
      for i in np.flatnonzero(known & ~missing):
        index[i] = legend.CORINE_INDEX.get(int(unique[i]), legend.CORINE_NODATA)
    else:
      known = missing | np.isin(unique, np.arange(1, len(legend.CORINE) + 1))
      index[known & ~missing] = unique[known & ~missing]
    if not known.all():
      other = 'index' if self.codes == 'code' else 'code'
      raise ValueError(
        f'{self.path} holds {unique[~known][:5].tolist()}, which codes={self.codes!r} does not have. '
        f'Pass codes={other!r} if that is what the numbers are.'
      )
    return index[inverse].reshape(values.shape)

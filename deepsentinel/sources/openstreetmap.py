"""OpenStreetMap themes on a patch grid: one pass over an extract, then small reads by bounding box."""

import fcntl
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyogrio
import rasterio.features
import shapely

from deepsentinel import legend
from deepsentinel.sources import base

GEOMETRIES = ('point', 'line', 'polygon')
_OGR_TYPE = {'point': 'Point', 'line': 'LineString', 'polygon': 'MultiPolygon'}
_CHUNK = 200_000  # features held in memory while the index is built
# Farther than any line's half width reaches, so that a road just outside the patch still colours its edge.
_MARGIN_M = 50.0


def themes_of(tags: dict[str, str], geometry: str) -> int:
  """Bit mask of the legend.OSM_THEMES that an object with these tags and 'point', 'line' or 'polygon' belongs to."""
  mask = 0
  for theme in legend.OSM_THEMES:
    if geometry in theme.geometries:
      for key, values in theme.tags.items():
        value = tags.get(key)
        if value is not None and value != 'no' and ('*' in values or value in values):
          mask |= 1 << theme.bit
  return mask


class OpenStreetMap:
  """Points, lines and polygons of an OpenStreetMap extract.

  The first use reads the whole extract once and writes one GeoPackage a geometry type; later uses, in any process,
  read those by bounding box. An interrupted build leaves nothing behind that would be taken for a whole one, and a
  changed extract or legend builds again.

  Args:
    path: .osm.pbf (or .osm) file. Cut continental extracts to the themes first (osmium tags-filter).
    index_dir: where the index is kept; '' puts it beside the extract.
  Raises:
    ValueError: no such file, or one that is not OpenStreetMap data.
  """

  def __init__(self, path: str, index_dir: str = ''):
    self.path = pathlib.Path(path)
    if not self.path.is_file():
      raise ValueError(f'OpenStreetMap extract not found: {self.path}. State a .osm.pbf file with path=...')
    stem = self.path.name.removesuffix('.pbf').removesuffix('.osm')
    parent = pathlib.Path(index_dir) if index_dir else self.path.parent
    self.index = parent / f'{stem}.osm-index'
    self._built = False

  def _stamp(self) -> dict[str, Any]:
    """What the index depends on: the extract's size and time, and the legend."""
    stat = self.path.stat()
    themes = json.dumps([[t.bit, t.name, t.tags, t.geometries] for t in legend.OSM_THEMES])
    return {
      'extract': self.path.name,
      'bytes': stat.st_size,
      'modified_ns': stat.st_mtime_ns,
      'themes': hashlib.sha256(themes.encode()).hexdigest(),
      'format': 1,
    }

  def _is_built(self, stamp: dict[str, Any]) -> bool:
    try:
      return json.loads((self.index / 'index.json').read_text()) == stamp
    except (FileNotFoundError, json.JSONDecodeError):
      return False

  def build(self) -> pathlib.Path:
    """Builds the index if it is absent or stale; the folder that holds it."""
    stamp = self._stamp()
    if self._is_built(stamp):
      return self.index
    try:
      self.index.parent.mkdir(parents=True, exist_ok=True)
      lock = open(self.index.with_suffix('.lock'), 'w')  # noqa: SIM115 (closed below, whatever happens)
    except PermissionError as e:
      raise ValueError(
        f'The index of {self.path} cannot be written ({e}). Pass index_dir=... with a folder of yours.'
      ) from e
    with lock:
      # One process builds, the others wait for it; the lock goes with its process, however that ends.
      fcntl.flock(lock, fcntl.LOCK_EX)
      if not self._is_built(stamp):
        building = self.index.with_suffix('.part')
        for left_over in (building, self.index):
          shutil.rmtree(left_over, ignore_errors=True)
        building.mkdir()
        self._write(building)
        (building / 'index.json').write_text(json.dumps(stamp, indent=2))
        os.rename(building, self.index)  # a killed build is never taken for a whole one
    return self.index

  def _write(self, folder: pathlib.Path) -> None:
    rows: dict[str, list[tuple[int, int, str, bytes]]] = {g: [] for g in GEOMETRIES}
    parts: dict[str, int] = dict.fromkeys(GEOMETRIES, 0)

    def flush(geometry: str) -> None:
      if rows[geometry]:
        _write_features(folder / f'{geometry}.gpkg', rows[geometry], _OGR_TYPE[geometry], append=parts[geometry] > 0)
        parts[geometry] += 1
        rows[geometry] = []

    for geometry, osm_id, mask, name, wkb in _features(self.path):
      rows[geometry].append((osm_id, mask, name, wkb))
      if len(rows[geometry]) >= _CHUNK:
        flush(geometry)
    for geometry in GEOMETRIES:
      flush(geometry)

  def _read(self, grid: base.PatchGrid, geometry: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Geometries [N] in the grid's CRS, theme masks uint16 [N], OSM ids int64 [N], names [N]; ordered by id."""
    if not self._built:  # asked once: an extract that changes under a running process is not followed
      self.build()
      self._built = True
    path = self.index / f'{geometry}.gpkg'
    found = []
    if path.exists():
      for box in grid.bounds_in(4326, pad_px=_MARGIN_M / grid.pixel_m):
        _, _, wkb, (ids, masks, names) = pyogrio.raw.read(
          path, layer='features', columns=['osm_id', 'themes', 'name'], bbox=box
        )
        if wkb is not None and len(wkb):
          found.append((shapely.from_wkb(wkb), masks.astype(np.uint16), ids.astype(np.int64), names))
    if not found:
      return np.empty(0, object), np.empty(0, np.uint16), np.empty(0, np.int64), np.empty(0, object)
    shapes, masks, ids, names = (np.concatenate(parts) for parts in zip(*found, strict=True))
    _, order = np.unique(ids, return_index=True)  # a feature across the antimeridian is found twice
    move = base.transformer(4326, grid.epsg)
    shapes = shapely.transform(shapes[order], lambda xy: np.column_stack(move.transform(xy[:, 0], xy[:, 1])))
    return shapes, masks[order], ids[order], names[order]

  def features(self, grid: base.PatchGrid) -> Any:
    """GeoDataFrame of the objects that meet the grid, in its CRS.

    Columns: osm_id (a closed way's polygon has the way's id, a relation's the negated one), geometry_type, themes
    (names joined by ';'), name, geometry.
    """
    import geopandas

    box = shapely.box(*grid.bounds)
    frames: dict[str, list] = {'osm_id': [], 'geometry_type': [], 'themes': [], 'name': [], 'geometry': []}
    for geometry in GEOMETRIES:
      shapes, masks, ids, names = self._read(grid, geometry)
      for shape, mask, osm_id, name in zip(shapes, masks, ids, names, strict=True):
        if shape.intersects(box):
          frames['osm_id'].append(int(osm_id))
          frames['geometry_type'].append(geometry)
          frames['themes'].append(';'.join(t.name for t in legend.OSM_THEMES if mask >> t.bit & 1))
          frames['name'].append(name or '')
          frames['geometry'].append(shape)
    return geopandas.GeoDataFrame(frames, geometry='geometry', crs=grid.epsg)

  def read(self, grid: base.PatchGrid) -> np.ndarray:
    """uint16 [H, W]: one bit a theme of legend.OSM_THEMES.

    Polygons cover the pixels whose centre they hold (holes stay open), lines with a width those within half of it,
    other lines every pixel they run through, points one pixel.
    """
    out = np.zeros((grid.height_px, grid.width_px), np.uint16)
    for geometry in GEOMETRIES:
      shapes, masks, _, _ = self._read(grid, geometry)
      for theme in legend.OSM_THEMES:
        chosen = shapes[(masks >> theme.bit & 1).astype(bool)]
        if geometry not in theme.geometries or not len(chosen):
          continue
        wide = geometry == 'line' and theme.width_m > 0
        if wide:
          chosen = shapely.buffer(chosen, theme.width_m / 2)
        burnt = rasterio.features.rasterize(
          chosen,
          out_shape=out.shape,
          transform=grid.transform,
          all_touched=geometry == 'line' and not wide,
          dtype=np.uint8,
        )
        out |= burnt.astype(np.uint16) << theme.bit
    return out


def _features(path: pathlib.Path) -> Iterator[tuple[str, int, int, str, bytes]]:
  """(geometry, id, theme mask, name, WKB lon/lat) of every object of the extract that belongs to a theme."""
  import osmium
  import tqdm

  keys = sorted({key for theme in legend.OSM_THEMES for key in theme.tags})
  polygon_keys = sorted({key for theme in legend.OSM_THEMES if 'polygon' in theme.geometries for key in theme.tags})
  wkb = osmium.geom.WKBFactory()
  objects: Any = (
    osmium.FileProcessor(str(path))
    .with_areas(osmium.filter.KeyFilter(*polygon_keys))
    .with_filter(osmium.filter.KeyFilter(*keys))
  )
  progress = tqdm.tqdm(desc=f'Indexing {path.name}', unit=' objects', mininterval=1, delay=2, leave=False)
  try:
    for item in objects:
      progress.update()
      tags = dict(item.tags)
      make: Callable[[Any], str]
      if item.is_node():
        kind, make, osm_id = 'point', wkb.create_point, item.id
      elif item.is_way():
        kind, make, osm_id = 'line', wkb.create_linestring, item.id
      elif item.is_area():
        kind, make, osm_id = 'polygon', wkb.create_multipolygon, item.orig_id() * (1 if item.from_way() else -1)
      else:
        continue
      mask = themes_of(tags, kind)
      if not mask:
        continue
      try:
        shape = bytes.fromhex(make(item))
      except (RuntimeError, osmium.InvalidLocationError):
        continue  # a way cut at the extract's edge, or one without two distinct nodes, has no shape
      yield kind, osm_id, mask, tags.get('name', ''), shape
  except RuntimeError as e:
    raise ValueError(
      f'{path} cannot be read as OpenStreetMap data ({e}). It is truncated or of another format: fetch it again.'
    ) from e
  finally:
    progress.close()


def _write_features(path: pathlib.Path, rows: list[tuple[int, int, str, bytes]], ogr_type: str, append: bool) -> None:
  ids, masks, names, shapes = zip(*rows, strict=True)
  geometry = np.array(shapes, object)
  pyogrio.raw.write(
    path,
    geometry,
    [np.array(ids, np.int64), np.array(masks, np.int32), np.array(names, object)],
    ['osm_id', 'themes', 'name'],
    layer='features',
    driver='GPKG',
    geometry_type=ogr_type,
    crs='EPSG:4326',
    append=append,
  )

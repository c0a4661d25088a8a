"""BigEarthNet: ready-made pairs of Sentinel-1 and Sentinel-2 patches with CORINE classes, in its three published forms.

Its pixels are Sentinel-2 L2A reflectance x 10,000 without offset and Sentinel-1 GRD sigma0 in dB, range-Doppler terrain
corrected, on 1.2 km squares of the Sentinel-2 tile grid (Sumbul et al. 2021, BigEarthNet-MM; Clasen et al. 2024,
reBEN).
"""

import datetime
import functools
import json
import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import affine
import numpy as np
import shapely

from deepsentinel import sensors
from deepsentinel.sources import base, corine, footprints, mgrs, raster, sidecar

LAYOUTS = ('v1', 'v2_geotiff', 'v2_lmdb')
_FOLDERS = {
  'sentinel2': ('BigEarthNet-S2*', 'BigEarthNet-v1*', '*/BigEarthNet-S2*'),
  'sentinel1': ('BigEarthNet-S1*', '*/BigEarthNet-S1*'),
}
_SIDE_M = 1200.0
_SIDE_PX = 120
_UNITS = {'sentinel2': 'reflectance_x1e4', 'sentinel1': 'db'}
_PLACE_IN_TILE = re.compile(r'(?:^|_)T?(\d{2}[A-Z]{3})_(\d+)_(\d+)$')
_METADATA = ('metadata.parquet', 'metadata_for_patches_with_snow_cloud_or_shadow.parquet')
_FLAGS = ('split', 'country', 'contains_seasonal_snow', 'contains_cloud_or_shadow')


def grid_of_name(name: str) -> base.PatchGrid:
  """The grid of a patch whose name ends in its tile and its column and row there (.._T33UUP_26_57, .._33UUP_26_57)."""
  match = _PLACE_IN_TILE.search(name)
  if not match:
    raise ValueError(f'{name!r} does not end in TILE_COLUMN_ROW (such as T33UUP_26_57), so its place is unknown.')
  epsg, x, y = mgrs.tile_corner(match[1])
  return base.PatchGrid(epsg, x + _SIDE_M * int(match[2]), y - _SIDE_M * int(match[3]), _SIDE_PX, _SIDE_PX)


class BigEarthNet:
  """BigEarthNet as a placed source: its own patches, grids, times and class lists; no points are drawn.

  Args:
    path: its folder. v1: holds the folders of S2 and S1 patches. v2: holds BigEarthNet-S2/, BigEarthNet-S1/ (GeoTIFF)
      or the LMDB (or is the LMDB), metadata.parquet, and Reference_Maps/ where wanted.
    layout: 'v1', 'v2_geotiff' or 'v2_lmdb'.
    pairs_only: whether patches that lack one of the sensors taken are left out.
    mapped_only: whether patches without a CORINE reference map are left out.
    take: of v2, the sensors whose patches are taken; the folder of the other need not be there.
  Raises:
    ValueError: unknown layout, or the folder does not hold what the layout says.
  """

  synthetic = False
  spec = sensors.SensorSpec(sensors.ALL_BANDS, 'L2A', 'sigma0_ellipsoid')

  def __init__(
    self, path: str, layout: str = 'v2_lmdb', pairs_only: bool = True, mapped_only: bool = False,
    take: Sequence[str] = sensors.SENSORS,
  ):  # fmt: skip
    if layout not in LAYOUTS:
      raise ValueError(f'Unknown BigEarthNet layout {layout!r}. Known: {", ".join(LAYOUTS)}.')
    self.path = pathlib.Path(path)
    self.layout = layout
    self._pairs_only = pairs_only
    self._mapped_only = mapped_only
    self._take = tuple(take)
    self._environment: tuple[int, Any] | None = None
    if layout == 'v2_lmdb':
      self._lmdb = self._find('data.mdb', '*/data.mdb', '*/*/data.mdb').parent
    else:
      needed = sensors.SENSORS if layout == 'v1' else self._take
      self._roots = {sensor: self._find(*_FOLDERS[sensor]) for sensor in needed}

  def __getstate__(self) -> dict[str, Any]:
    return {**self.__dict__, '_environment': None}  # an open LMDB does not travel to another process

  def _find(self, *patterns: str) -> pathlib.Path:
    for pattern in patterns:
      for found in sorted(self.path.glob(pattern)):
        return found
    raise ValueError(
      f"{self.path} holds no {patterns[0]}, which layout={self.layout!r} needs. State the dataset's folder with "
      f'path=..., and its form with layout=...: one of {", ".join(LAYOUTS)}.'
    )

  def places(self) -> Iterator[base.Place]:
    """Every patch, in order of its id: grid, scenes with their times, class names."""
    found = False
    for place in self._v1_places() if self.layout == 'v1' else self._v2_places():
      lacking = self._pairs_only and len(place.scenes) < len(self._take)
      if lacking or (self._mapped_only and self._map_of(place) is None):
        continue
      found = True
      yield place
    if not found:
      raise ValueError(
        f'{self.path}: no patch is left. pairs_only={self._pairs_only} leaves out those that lack a sensor, '
        f'mapped_only={self._mapped_only} those that lack a reference map; pass False to take them.'
      )

  def search(
    self, sensor: str, footprint: shapely.Geometry, start: datetime.datetime, end: datetime.datetime
  ) -> list[base.Scene]:
    scenes = (place.scenes[sensor] for place in self.places() if sensor in place.scenes)
    return base.scenes_that_meet(scenes, sensor, footprint, start, end)

  def read(self, scene: base.Scene, grid: base.PatchGrid, bands: Sequence[str]) -> base.Patch:
    """Pixels of one patch on `grid`; bands of 20 and 60 m are interpolated onto its 10 m."""
    if sensors.sensor_of(bands) != scene.sensor:
      raise ValueError(f'Scene {scene.id} is of {scene.sensor}; bands {list(bands)} are not.')
    unit = _UNITS[scene.sensor]
    if self.layout == 'v2_lmdb':
      values, valid = self._read_lmdb(scene, grid, bands, unit)
    else:
      folder = self._folder(scene)
      where = [raster.RasterBand(str(folder / f'{folder.name}_{_file_band(b)}.tif')) for b in bands]
      values, valid = raster.read_bands(where, grid, unit)
    return base.Patch(values, valid, tuple(bands), unit)

  def grid(self, scene: base.Scene) -> base.PatchGrid:
    """The 10 m grid of one patch."""
    if self.layout == 'v1':
      return _grid_of_json(_labels_json(self._folder(scene)), scene.id)
    return grid_of_name(scene.id)

  def labels(self, place: base.Place) -> dict[str, np.ndarray]:
    """{'corine': uint8 [H, W]} where the place has a reference map, else {}."""
    path = self._map_of(place)
    return {} if path is None else {'corine': corine.CorineRaster(str(path), 'code').read(place.grid)}

  def _map_of(self, place: base.Place) -> pathlib.Path | None:
    inside = pathlib.Path('Reference_Maps', place.id.rsplit('_', 2)[0], place.id, f'{place.id}_reference_map.tif')
    roots = (self.path, self.path / 'geotiff', self.path.parent)
    return next((root / inside for root in roots if (root / inside).exists()), None)

  # Version 1: one folder a patch and sensor, JSON beside the bands.

  def _v1_places(self) -> Iterator[base.Place]:
    partners = {}
    for folder in sorted(f for f in self._roots['sentinel1'].iterdir() if f.is_dir()):
      item = _labels_json(folder)
      partners[item['corresponding_s2_patch']] = (folder.name, sidecar.from_bigearthnet(item))
    for folder in sorted(f for f in self._roots['sentinel2'].iterdir() if f.is_dir()):
      item = _labels_json(folder)
      grid = _grid_of_json(item, folder.name)
      outline = _outline(grid)
      scenes = {'sentinel2': _scene(folder.name, sidecar.from_bigearthnet(item), outline)}
      if folder.name in partners:
        name, facts = partners[folder.name]
        scenes['sentinel1'] = _scene(name, facts, outline)
      yield base.Place(folder.name, grid, scenes, tuple(item['labels']))

  # Version 2: names carry tile and time; a table joins the two sensors.

  def _v2_places(self) -> Iterator[base.Place]:
    table = self._table()
    known = set()
    for row in table:
      s2, s1 = row['patch_id'], row['s1_name']
      known |= {s2, s1}
      grid = grid_of_name(s2)
      outline = _outline(grid)
      flags = {k: row[k] for k in _FLAGS if k in row}
      scenes = {
        sensor: _scene(name, sidecar.from_name(name), outline, flags)
        for sensor, name in (('sentinel2', s2), ('sentinel1', s1))
        if sensor in self._take and self._has(name, sensor)
      }
      if scenes:
        yield base.Place(s2, grid, scenes, tuple(row['labels']))
    if self.layout == 'v2_geotiff' and not self._pairs_only:
      for sensor, root in self._roots.items():
        for folder in sorted(f for f in root.glob('*/*') if f.is_dir() and f.name not in known):
          grid = grid_of_name(folder.name)
          yield base.Place(
            folder.name, grid, {sensor: _scene(folder.name, sidecar.from_name(folder.name), _outline(grid))}
          )

  def _table(self) -> list[dict[Any, Any]]:
    """Rows of the metadata tables, in order of patch_id. Snow and cloud stay in: no filter is the point."""
    import pandas as pd

    frames = []
    for name in _METADATA:
      for root in (self.path, self.path.parent):
        if (root / name).exists():
          frames.append(pd.read_parquet(root / name))
          break
    if not frames:
      raise ValueError(
        f'{self.path} has no {_METADATA[0]} in it or beside it; it says which S1 patch belongs to which S2.'
      )
    table = pd.concat(frames).drop_duplicates('patch_id').sort_values('patch_id')
    return table.to_dict('records')

  def _folder(self, scene: base.Scene) -> pathlib.Path:
    root = self._roots[scene.sensor]
    if self.layout == 'v1':
      return root / scene.id
    # v2 sorts by product: .._T33UUP/.._T33UUP_26_57, and for S1 without the tile: .._165043/.._165043_33UUP_70_48.
    return root / scene.id.rsplit('_', 2 if scene.sensor == 'sentinel2' else 3)[0] / scene.id

  def _has(self, name: str, sensor: str) -> bool:
    if self.layout == 'v2_lmdb':
      with self._open().begin() as transaction:
        return transaction.get(name.encode()) is not None
    return (self._roots[sensor] / name.rsplit('_', 2 if sensor == 'sentinel2' else 3)[0] / name).is_dir()

  def _open(self) -> Any:
    """The LMDB, opened once a process: an environment must not be used across a fork."""
    import lmdb

    if self._environment is None or self._environment[0] != os.getpid():
      try:
        self._environment = (os.getpid(), lmdb.open(str(self._lmdb), readonly=True, lock=False, readahead=False))
      except lmdb.Error as e:
        raise ValueError(f'{self._lmdb} cannot be opened ({e}). The LMDB is incomplete: fetch it again.') from e
    return self._environment[1]

  def _read_lmdb(
    self, scene: base.Scene, grid: base.PatchGrid, bands: Sequence[str], unit: str
  ) -> tuple[np.ndarray, np.ndarray]:
    import safetensors
    import safetensors.numpy

    with self._open().begin() as transaction:
      record = transaction.get(scene.id.encode())
    if record is None:
      raise ValueError(f'{self._lmdb} has no patch {scene.id!r}; take it out of the table or fetch the LMDB again.')
    try:
      arrays = safetensors.numpy.load(bytes(record))
    except safetensors.SafetensorError as e:
      raise ValueError(f'{self._lmdb}: patch {scene.id} is damaged ({e}). Fetch the LMDB again.') from e
    missing = [b for b in bands if _file_band(b) not in arrays]
    if missing:
      raise ValueError(f'Patch {scene.id} has no band(s) {missing}; it has {sorted(arrays)}.')
    own = grid_of_name(scene.id)
    parts = [
      raster.place_array(arrays[_file_band(b)], _transform(arrays[_file_band(b)], own), own.epsg, grid, unit)
      for b in bands
    ]
    return raster.stack_bands(parts, unit)


@functools.lru_cache(maxsize=64)
def _file_band(band: str) -> str:
  """'B02' for 'B2': the form in file names and keys."""
  return f'B0{band[1:]}' if re.fullmatch(r'B\d', band) else band


def _transform(values: np.ndarray, own: base.PatchGrid) -> affine.Affine:
  size = _SIDE_M / values.shape[0]
  return affine.Affine(size, 0, own.x0_m, 0, -size, own.y0_m)


def _outline(grid: base.PatchGrid) -> shapely.Geometry:
  return footprints.footprint(grid.transform, grid.width_px, grid.height_px, grid.epsg)


def _scene(
  name: str, facts: sidecar.Facts, outline: shapely.Geometry, metadata: Mapping[str, Any] | None = None
) -> base.Scene:
  if not facts.sensor or facts.time is None:
    raise ValueError(f'BigEarthNet patch {name!r}: its name does not say sensor and time.')
  return base.Scene(
    name,
    facts.sensor,
    outline,
    facts.time,
    facts.orbit_pass,
    facts.relative_orbit,
    {**facts.metadata, **(metadata or {})},
  )


def _labels_json(folder: pathlib.Path) -> dict[str, Any]:
  path = folder / f'{folder.name}_labels_metadata.json'
  try:
    return json.loads(path.read_text())
  except (FileNotFoundError, json.JSONDecodeError) as e:
    raise ValueError(f'{path} is missing or no JSON ({e}); fetch the patch again or remove its folder.') from e


def _grid_of_json(item: Mapping[str, Any], name: str) -> base.PatchGrid:
  source = item.get('tile_source', '')
  tile = re.search(r'_T(\d{2}[A-Z]{3})_', source) or _PLACE_IN_TILE.search(name)  # S1's names carry the tile
  if not tile:
    raise ValueError(f'{name}: "tile_source" {source!r} names no tile, so its CRS is unknown.')
  epsg, _, _ = mgrs.tile_corner(tile[1])
  return base.PatchGrid(epsg, float(item['coordinates']['ulx']), float(item['coordinates']['uly']), _SIDE_PX, _SIDE_PX)

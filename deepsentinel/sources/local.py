"""Rasters that a researcher already has: scenes (`LocalScenes`) and sets of aligned patches (`PatchStacks`)."""

import collections
import csv
import dataclasses
import datetime
import glob
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import shapely

from deepsentinel import provenance, sensors
from deepsentinel.sources import base, cloudmasks, raster, scenefiles, sidecar

_SUFFIXES = ('.tif', '.tiff', '.jp2', '.vrt')
_QUALITY = 'QI_DATA'  # an ESA product's masks, which end as their bands' own files do, and its preview
_CATALOGUE_KEYS = (
  'id', 'sensor', 'time', 'files', 'bands', 'unit', 'quantity', 'level', 'nodata', 'orbit_pass', 'relative_orbit',
  'cloud_share', 'processing_baseline',
)  # fmt: skip


class LocalScenes:
  """GeoTIFF or COG scenes in any CRS and resolution, resampled onto patch grids.

  A scene is one multi-band file, one file a band (`B02.tif`, `.._B8A.tif`, `.._VV.tif`) in a folder, or an ESA product
  (`S2B_MSIL2A_...SAFE`). What is not stated here is read from the catalogue, from JSON beside the files (Earth
  Engine's, STAC's, BigEarthNet's), from the product's own metadata, from GDAL's tags or from an ESA product name in the
  path. Units are never guessed. A scene classification (`SCL.tif`, `.._SCL_20m.jp2`) or `cloud_mask.tif` beside the
  bands, or a band so called, is the scene's cloud mask.

  Args:
    path: a folder (searched downwards), a glob, one raster, or a catalogue: .json (list of objects) or .csv, with
      `id, sensor, time, files, bands, unit` and where wanted `quantity, level, nodata, orbit_pass, relative_orbit,
      cloud_share, processing_baseline`; several files or bands of a CSV cell are separated by ';', paths are relative
      to the catalogue.
    s2_unit, s1_unit: unit of the numbers in the files (sensors.REFLECTANCE_UNITS, BACKSCATTER_UNITS).
    s1_quantity: one of sensors.RADAR_QUANTITIES.
    s2_level: 'L2A' or 'L1C'; metadata that say otherwise are an error.
    s2_bands, s1_bands: band order of multi-band files without band descriptions; '' skips a band.
    times: scene id -> ISO time, for scenes whose time is written nowhere.
  Raises:
    ValueError: no scenes, or something about them is not known; names the argument that states it.
  """

  synthetic = False

  def __init__(
    self,
    path: str,
    s2_unit: str = '',
    s1_unit: str = '',
    s1_quantity: str = '',
    s2_level: str = 'L2A',
    s2_bands: Sequence[str] = (),
    s1_bands: Sequence[str] = (),
    times: Mapping[str, str] | None = None,
  ):
    self.path = str(path)
    self._stated = scenefiles.Stated(s2_unit, s1_unit, s1_quantity, s2_level, tuple(s2_bands), tuple(s1_bands))
    self._times = dict(times or {})
    place = pathlib.Path(self.path)
    if place.suffix.lower() in ('.json', '.csv') and place.is_file():
      scenes = [self._from_catalogue(row, place) for row in _catalogue(place)]
    else:
      scenes = self._from_files(*_files(self.path))
    self._scenes = _by_id(scenefiles.with_cloud_masks(scenes, _SUFFIXES), self.path)
    self.spec = scenefiles.spec_of(self._scenes.values(), self._stated)

  def _from_files(self, files: list[pathlib.Path], explicit: bool) -> list[scenefiles.LocalScene]:
    # (folder, beginning of the names, sensor) -> bands; each of its finest file, where a product has several.
    groups: dict[tuple[pathlib.Path, str, str], dict[str, raster.RasterBand]] = {}
    whole, banded = [], set()
    for file in sorted(files, key=lambda f: sidecar.pixel_of_file(f.stem)):
      if file.parent.name == _QUALITY:
        continue
      band, rest = sidecar.band_of_file(file.stem)
      if band:
        banded.add(file.parent)
        key = (cloudmasks.bands_folder(file.parent), rest, sensors.BANDS[band].sensor)
        groups.setdefault(key, {}).setdefault(band, raster.RasterBand(str(file)))
      elif not (sidecar.names_a_band(file.stem) or cloudmasks.of_name(file.stem)[0]):
        whole.append(file)
    unnamed = []
    for file in sorted(whole):
      if file.parent in banded:
        continue  # an angle beside the bands
      stacked = scenefiles.bands_of_stack(file, self._stated)
      for band, place in stacked.items():
        groups.setdefault((file.parent, file.stem, sensors.BANDS[band].sensor), {})[band] = place
      if not stacked:
        unnamed.append(file)
    if unnamed and (explicit or not groups):
      raise ValueError(
        f'{unnamed[0]}: nothing says which bands it holds (no band descriptions). State s2_bands=[...] or '
        's1_bands=[...] in the order of the file, or list it in a catalogue with "bands".'
      )
    if not groups:
      raise ValueError(
        f'No rasters ({", ".join(_SUFFIXES)}) found at {self.path}. State a folder, a glob or a catalogue.'
      )
    together: dict[pathlib.Path, list[tuple[str, str]]] = {}
    for folder, name, sensor in groups:
      together.setdefault(folder, []).append((name, sensor))
    beside = {folder: sidecar.beside(folder, rasters) for folder, rasters in together.items()}
    products = collections.Counter((_product(folder), sensor) for folder, _, sensor in groups)
    return [
      self._scene(folder, name, bands, sensor, beside[folder][name, sensor], products[_product(folder), sensor] == 1)
      for (folder, name, sensor), bands in groups.items()
    ]

  def _scene(
    self,
    folder: pathlib.Path,
    name: str,
    bands: Mapping[str, raster.RasterBand],
    sensor: str,
    facts: sidecar.Facts,
    alone: bool,
  ) -> scenefiles.LocalScene:
    """A scene of the rasters called `name` in a folder, of which `facts` are stated; `alone` in an ESA product."""
    for part in (name, folder.name):
      facts = facts.over(sidecar.from_name(part))
    product = _product(folder)
    if product:
      for file in sorted(product.glob('MTD_MSI*.xml')):
        facts = facts.over(sidecar.from_safe(file))
      facts = facts.over(sidecar.from_name(product.name))
    if facts.sensor and facts.sensor != sensor:
      raise ValueError(f'{folder}: bands {", ".join(bands)} are of {sensor}, its metadata are of {facts.sensor}.')
    scene_id = name.strip('_-. ') or facts.id or folder.name
    facts = dataclasses.replace(facts, sensor=sensor, id=product.stem if product and alone else scene_id)
    return scenefiles.make_scene(self._timed(facts), bands, self._stated)

  def _timed(self, facts: sidecar.Facts) -> sidecar.Facts:
    if facts.id not in self._times:
      return facts
    stated = self._times[facts.id]
    return facts.at(sidecar.parse_time(stated, f'times[{facts.id!r}]'), date_only=sidecar.is_date(stated))

  def _from_catalogue(self, row: Mapping[str, Any], catalogue: pathlib.Path) -> scenefiles.LocalScene:
    where = f'{catalogue}, scene {row.get("id") or row.get("files")}'
    unknown = sorted(set(row) - set(_CATALOGUE_KEYS))
    if unknown:
      raise ValueError(f'{where}: unknown column(s) {unknown}. Known: {", ".join(_CATALOGUE_KEYS)}.')
    files = [catalogue.parent / f for f in _listed(row.get('files'))]
    if not files:
      raise ValueError(f'{where}: "files" is empty; name the raster, or one raster a band.')
    names = [sidecar.canonical_band(b) or b for b in _listed(row.get('bands'))]
    numbers = _numbers(files, names, where)
    # A row's own unit stands above the one stated for all.
    stated = dataclasses.replace(self._stated, s2_unit='', s1_unit='') if row.get('unit') else self._stated
    sensor = str(row.get('sensor') or sensors.sensor_of(list(numbers)))
    if sensor not in sensors.SENSORS or sensor != sensors.sensor_of(list(numbers)):
      raise ValueError(f'{where}: sensor {sensor!r} with bands {list(numbers)}. Known: {", ".join(sensors.SENSORS)}.')
    metadata: dict[str, Any] = {'date_only': True} if sidecar.is_date(row.get('time')) else {}
    if row.get('cloud_share') not in (None, ''):
      metadata['cloud_share'] = float(row['cloud_share'])
    if row.get('processing_baseline'):
      metadata['processing_baseline'] = str(row['processing_baseline'])
    facts = sidecar.Facts(
      id=str(row.get('id') or files[0].stem),
      sensor=sensor,
      time=sidecar.parse_time(row['time'], where) if row.get('time') else None,
      unit=str(row.get('unit') or ''),
      quantity=str(row.get('quantity') or ''),
      level=str(row.get('level') or ''),
      orbit_pass=str(row.get('orbit_pass') or ''),
      relative_orbit=int(row.get('relative_orbit') or -1),
      metadata=metadata,
    ).over(sidecar.from_name(files[0].stem))
    nodata = float(row['nodata']) if row.get('nodata') not in (None, '') else None
    return scenefiles.make_scene(self._timed(facts), numbers, stated, nodata)

  def search(
    self, sensor: str, footprint: shapely.Geometry, start: datetime.datetime, end: datetime.datetime
  ) -> list[base.Scene]:
    return base.scenes_that_meet((s.scene for s in self._scenes.values()), sensor, footprint, start, end)

  def scenes(self) -> list[base.Scene]:
    """Every scene, in order of (time, id)."""
    return sorted((s.scene for s in self._scenes.values()), key=lambda s: (s.time, s.id))

  def _local(self, scene: base.Scene) -> scenefiles.LocalScene:
    try:
      return self._scenes[scene.id]
    except KeyError:
      raise ValueError(f'No scene {scene.id!r} at {self.path}; it has {len(self._scenes)} others.') from None

  def grid(self, scene: base.Scene) -> base.PatchGrid:
    """The scene's own finest pixels as a grid; ValueError if they are not square and in a projected CRS."""
    return scenefiles.own_grid(self._local(scene))

  def stamps(self, scene: base.Scene) -> dict[str, Any]:
    """File name -> size and time of change: a scene that was fetched anew is another, whatever it is called."""
    paths = {pathlib.Path(band.path) for band in self._local(scene).bands.values()}
    return {path.name: provenance.stamp(path) for path in sorted(paths) if path.is_file()}

  def read(self, scene: base.Scene, grid: base.PatchGrid, bands: Sequence[str]) -> base.Patch:
    """Pixels of `scene` on `grid`, in the unit of its files; `valid` where any band has data."""
    return scenefiles.read_scene(self._local(scene), grid, bands)

  def cloud_mask_of(self, scene: base.Scene) -> str:
    """What the cloud mask of an optical scene is; ValueError if there is none."""
    return scenefiles.cloud_mask_of(self._local(scene))

  def cloud_mask(self, scene: base.Scene, grid: base.PatchGrid) -> np.ndarray:
    """bool [H, W]: what the scene's mask takes for cloud; ValueError if there is none."""
    return scenefiles.read_cloud_mask(self._local(scene), grid)


class PatchStacks:
  """Aligned patches as TerraMesh keeps them: SENSOR/<id>.tif, one multi-band file a place in each sensor's folder.

  The grid of a place is that of its file. Scene times come from `times`, from the file's `datetime` tag, or from the
  tag of the same place's file in the folder named by `s2_time_folder`.

  Args:
    path: folder that holds the sensors' folders.
    s2_folder, s1_folder: their names; '' or an absent folder leaves that sensor out.
    s2_unit, s1_unit, s1_quantity, s2_level: as for LocalScenes; tags are read where these are silent.
    s2_bands, s1_bands: band order, where the files have no band descriptions.
    times: place id -> ISO time of both sensors, or -> {'sentinel2': ISO time, 'sentinel1': ISO time}.
    s2_time_folder: folder whose files' `datetime` tag is the time of the Sentinel-2 image (TerraMesh: 'LULC').
    unknown_times: a place whose time is written nowhere is kept, with base.UNKNOWN_TIME, instead of being an error.
  Raises:
    ValueError: no places, or something about them is not known; names the argument that states it.
  """

  synthetic = False

  def __init__(
    self,
    path: str,
    s2_folder: str = 'S2L2A',
    s1_folder: str = 'S1RTC',
    s2_unit: str = '',
    s1_unit: str = '',
    s1_quantity: str = '',
    s2_level: str = 'L2A',
    s2_bands: Sequence[str] = (),
    s1_bands: Sequence[str] = (),
    times: Mapping[str, Any] | None = None,
    s2_time_folder: str = '',
    unknown_times: bool = False,
  ):
    self.path = pathlib.Path(path)
    self._stated = scenefiles.Stated(s2_unit, s1_unit, s1_quantity, s2_level, tuple(s2_bands), tuple(s1_bands))
    self._times = dict(times or {})
    self._s2_time_folder = s2_time_folder
    self._unknown_times = unknown_times
    folders = {'sentinel2': s2_folder, 'sentinel1': s1_folder}
    self._folders = {s: self.path / f for s, f in folders.items() if f and (self.path / f).is_dir()}
    if not self._folders:
      raise ValueError(
        f'{self.path} has neither {s2_folder}/ nor {s1_folder}/. Pass path=..., s2_folder=..., s1_folder=...'
      )
    ids = [{f.stem for f in folder.glob('*.tif')} for folder in self._folders.values()]
    self._ids = sorted(set.intersection(*ids))
    if not self._ids:
      raise ValueError(f'{self.path}: no <id>.tif is common to {", ".join(f.name for f in self._folders.values())}.')
    self._scenes: dict[str, scenefiles.LocalScene] = {}
    self.spec = scenefiles.spec_of([self._scene(self._ids[0], s) for s in self._folders], self._stated)

  def _scene(self, place_id: str, sensor: str) -> scenefiles.LocalScene:
    scene_id = f'{place_id}_{self._folders[sensor].name}'
    if scene_id not in self._scenes:
      file = self._folders[sensor] / f'{place_id}.tif'
      with raster.opened(str(file)) as dataset:
        stated = self._stated.s2_bands if sensor == 'sentinel2' else self._stated.s1_bands
        numbers = scenefiles.bands_of(dataset, stated)
        tag = dataset.tags().get('datetime')
      if not numbers:
        raise ValueError(
          f'{file}: no band descriptions say which bands it holds. State {"s" + sensor[-1]}_bands=[...] in its order.'
        )
      stated_time = self._times.get(place_id)
      if isinstance(stated_time, Mapping):
        stated_time = stated_time.get(sensor)
      if sensor == 'sentinel2' and self._s2_time_folder and not stated_time:
        with raster.opened(str(self.path / self._s2_time_folder / f'{place_id}.tif')) as dataset:
          tag = dataset.tags().get('datetime')
      stated_time = stated_time or tag or (base.UNKNOWN_TIME if self._unknown_times else None)
      if not stated_time:
        raise ValueError(
          f'{file}: its time is written nowhere. State times={{"{place_id}": {{"{sensor}": "2020-02-23T03:27:39Z"}}}}'
          f'{", or s2_time_folder=..." if sensor == "sentinel2" else ""}, or unknown_times=True to do without.'
        )
      facts = sidecar.Facts(id=scene_id, sensor=sensor, time=sidecar.parse_time(stated_time, f'{file}, time'))
      bands = {band: raster.RasterBand(str(file), number) for band, number in numbers.items()}
      self._scenes[scene_id] = scenefiles.make_scene(facts, bands, self._stated)
    return self._scenes[scene_id]

  def places(self) -> Iterator[base.Place]:
    for place_id in self._ids:
      local = {sensor: self._scene(place_id, sensor) for sensor in self._folders}
      grid = scenefiles.own_grid(next(iter(local.values())))
      yield base.Place(place_id, grid, {sensor: scene.scene for sensor, scene in local.items()})

  def search(
    self, sensor: str, footprint: shapely.Geometry, start: datetime.datetime, end: datetime.datetime
  ) -> list[base.Scene]:
    scenes = [self._scene(i, sensor).scene for i in self._ids] if sensor in self._folders else []
    return base.scenes_that_meet(scenes, sensor, footprint, start, end)

  def _local(self, scene: base.Scene) -> scenefiles.LocalScene:
    folder = self._folders.get(scene.sensor)
    place_id = scene.id.removesuffix(f'_{folder.name}') if folder else ''
    if place_id not in self._ids:
      raise ValueError(f'No scene {scene.id!r} at {self.path}; it has {len(self._ids)} places.')
    return self._scene(place_id, scene.sensor)

  def grid(self, scene: base.Scene) -> base.PatchGrid:
    """The pixels of the scene's file as a grid."""
    return scenefiles.own_grid(self._local(scene))

  def read(self, scene: base.Scene, grid: base.PatchGrid, bands: Sequence[str]) -> base.Patch:
    """Pixels of `scene` on `grid`, in the unit of its file."""
    return scenefiles.read_scene(self._local(scene), grid, bands)


def _product(folder: pathlib.Path) -> pathlib.Path | None:
  """The ESA product (X.SAFE) that a folder is of."""
  return next((f for f in (folder, *folder.parents) if f.suffix.upper() == '.SAFE'), None)


def _by_id(scenes: Sequence[scenefiles.LocalScene], path: str) -> dict[str, scenefiles.LocalScene]:
  times_named = collections.Counter(local.scene.id for local in scenes)
  found: dict[str, scenefiles.LocalScene] = {}
  for local in scenes:
    if times_named[local.scene.id] > 1:  # the two sensors of one place often share a name
      renamed = dataclasses.replace(local.scene, id=f'{local.scene.id}_{local.scene.sensor}')
      local = dataclasses.replace(local, scene=renamed)
    if local.scene.id in found:
      raise ValueError(f'{path}: two scenes are called {local.scene.id!r}; give them ids of their own in a catalogue.')
    found[local.scene.id] = local
  return found


def _files(path: str) -> tuple[list[pathlib.Path], bool]:
  """Raster files at a folder, glob or file, and whether they were named one by one (not merely found in a folder)."""
  place = pathlib.Path(path)
  if place.is_dir():
    found = [f for f in sorted(place.rglob('*')) if f.suffix.lower() in _SUFFIXES]
    return found, False
  if place.is_file():
    return [place], True
  found = sorted(pathlib.Path(f) for f in glob.glob(path, recursive=True))
  if not found:
    raise ValueError(f'Nothing found at {path}. State a folder, a glob, a raster or a catalogue (.json, .csv).')
  files, named = list[pathlib.Path](), False
  for f in found:
    named |= f.suffix.lower() in _SUFFIXES
    files += [f] if f.suffix.lower() in _SUFFIXES else _files(str(f))[0] if f.is_dir() else []
  return files, named


def _catalogue(path: pathlib.Path) -> list[dict[str, Any]]:
  if path.suffix.lower() == '.csv':
    with path.open(newline='') as f:
      rows: Any = list(csv.DictReader(f))
  else:
    try:
      rows = json.loads(path.read_text())
    except json.JSONDecodeError as e:
      raise ValueError(f'{path} is no readable JSON: {e}.') from e
  if not isinstance(rows, list) or not rows or not all(isinstance(r, dict) for r in rows):
    raise ValueError(
      f'{path} holds no list of scenes. Write one object (or CSV row) a scene: {", ".join(_CATALOGUE_KEYS)}.'
    )
  return rows


def _listed(value: Any) -> list[str]:
  """A list from a JSON list or from a CSV cell separated by ';'."""
  if value is None:
    return []
  return [str(v) for v in value] if isinstance(value, list) else [v.strip() for v in str(value).split(';') if v.strip()]


def _numbers(files: list[pathlib.Path], names: list[str], where: str) -> dict[str, raster.RasterBand]:
  """Bands of a catalogue's scene: of one multi-band file, or of one file a band."""
  if len(files) == 1:
    with raster.opened(str(files[0])) as dataset:
      numbers = scenefiles.bands_of(dataset, names)
    bands = {band: raster.RasterBand(str(files[0]), number) for band, number in numbers.items()}
  else:
    names = names or [sidecar.band_of_file(f.stem)[0] for f in files]
    if len(names) != len(files):
      raise ValueError(f'{where}: {len(files)} files but {len(names)} bands: {names}.')
    bands = {band: raster.RasterBand(str(f)) for band, f in zip(names, files, strict=True) if band}
  if not bands:
    raise ValueError(f'{where}: nothing says which bands its files hold. State them in "bands".')
  unknown = [b for b in bands if b not in sensors.BANDS]
  if unknown:
    raise ValueError(f'{where}: unknown band(s) {unknown}. Known: {", ".join(sensors.ALL_BANDS)}.')
  return bands

"""A scene as files: which file holds which band, in what unit, and what has to be known before it can be read."""

import collections
import dataclasses
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import rasterio

from deepsentinel import sensors
from deepsentinel.sources import base, cloudmasks, footprints, raster, sidecar


@dataclasses.dataclass(frozen=True)
class LocalScene:
  """A scene with its files: where each band lies, in which unit, what number means nodata, and its cloud mask."""

  scene: base.Scene
  bands: Mapping[str, raster.RasterBand]
  unit: str
  quantity: str
  level: str
  nodata: float | None = None
  cloud_mask: cloudmasks.CloudMask | None = None

  @property
  def file(self) -> pathlib.Path:
    """Its first file."""
    return pathlib.Path(next(iter(self.bands.values())).path)


@dataclasses.dataclass(frozen=True)
class Stated:
  """What the caller states about a sensor's files; it stands above what metadata say."""

  s2_unit: str = ''
  s1_unit: str = ''
  s1_quantity: str = ''
  s2_level: str = ''
  s2_bands: tuple[str, ...] = ()
  s1_bands: tuple[str, ...] = ()

  def __post_init__(self):
    _known('s2_unit', self.s2_unit, sensors.REFLECTANCE_UNITS)
    _known('s1_unit', self.s1_unit, sensors.BACKSCATTER_UNITS)
    _known('s1_quantity', self.s1_quantity, sensors.RADAR_QUANTITIES)
    _known('s2_level', self.s2_level, sensors.OPTICAL_LEVELS)
    for name in ('s2_bands', 's1_bands'):
      wanted = {b for b in sensors.BANDS if sensors.BANDS[b].sensor == {'s2': 'sentinel2', 's1': 'sentinel1'}[name[:2]]}
      bands = tuple(sidecar.canonical_band(b) or b for b in getattr(self, name))
      unknown = [b for b in bands if b and b not in wanted]
      if unknown:
        raise ValueError(f'{name}: unknown band(s) {unknown}. Known: {", ".join(sorted(wanted))}; "" skips a band.')
      object.__setattr__(self, name, bands)

  def unit(self, facts: sidecar.Facts) -> str:
    """The unit of a scene's numbers, stated or from its metadata; '' where neither says."""
    return (self.s2_unit if facts.sensor == 'sentinel2' else self.s1_unit) or facts.unit


def _known(name: str, value: str, known: Sequence[str]) -> None:
  if value and value not in known:
    raise ValueError(f'Unknown {name} {value!r}. Known: {", ".join(known)}.')


def unit_tag(dataset: rasterio.DatasetReader, sensor: str) -> str:
  """The unit that GDAL's scale, offset and unit-type tags state; '' where they are silent.

  Raises:
    ValueError: tags that state a scale which is none of ours.
  """
  scale, offset, unit_type = dataset.scales[0], dataset.offsets[0], (dataset.units[0] or '').lower()
  if sensor == 'sentinel2':
    if (scale, offset) == (1.0, 0.0):
      return 'reflectance' if unit_type == 'reflectance' else ''
    unit = sidecar.unit_of_scale(scale, offset)
  else:
    by_name = {'db': 'db', 'decibel': 'db', 'power': 'power', 'linear power': 'power', 'amplitude': 'amplitude'}
    if (scale, offset) == (1.0, 0.0):
      return by_name.get(unit_type, '')
    unit = 'db_x100' if abs(scale - 0.01) < 1e-9 and offset == 0 and by_name.get(unit_type) == 'db' else ''
  if not unit:
    raise ValueError(
      f'{dataset.name}: scale {scale}, offset {offset}, unit type {unit_type!r} match no known {sensor} unit '
      f'({", ".join(sensors.REFLECTANCE_UNITS + sensors.BACKSCATTER_UNITS)}). Rescale the file to one of them.'
    )
  return unit


def bands_of(dataset: rasterio.DatasetReader, stated: Sequence[str]) -> dict[str, int]:
  """Band name -> number in a multi-band file: as stated, or from its band descriptions; {} if neither names one.

  Raises:
    ValueError: another number of bands is stated, or bands in another order than the file describes.
  """
  described = [sidecar.canonical_band(d or '') for d in dataset.descriptions]
  names = list(stated) or described
  if stated and len(names) != dataset.count:
    raise ValueError(f'{dataset.name} has {dataset.count} bands; {len(names)} are stated: {", ".join(names)}.')
  if any(name and said and name != said for name, said in zip(names, described, strict=True)):
    raise ValueError(
      f'{dataset.name} is described as {", ".join(d or "?" for d in described)}; {", ".join(names)} are stated. State '
      'the order that it has, or mend its band descriptions.'
    )
  numbers = {}
  for number, name in enumerate(names, start=1):
    if name and name not in numbers:  # a monthly stack repeats its names: the first step is taken
      numbers[name] = number
  return numbers


def bands_of_stack(file: pathlib.Path, stated: Stated) -> dict[str, raster.RasterBand]:
  """The bands of a multi-band file, as stated for its sensor or as it describes them; {} if neither names one."""
  with raster.opened(str(file)) as dataset:
    numbers = bands_of(dataset, ())
    for names in (stated.s2_bands, stated.s1_bands):
      if names and len(names) == dataset.count and (not numbers or _sensors_of(numbers) == _sensors_of(names)):
        numbers = bands_of(dataset, names)
        break
  return {band: raster.RasterBand(str(file), number) for band, number in numbers.items()}


def _sensors_of(bands: Iterable[str]) -> set[str]:
  return {sensors.BANDS[band].sensor for band in bands if band}


def make_scene(
  facts: sidecar.Facts, bands: Mapping[str, raster.RasterBand], stated: Stated, nodata: float | None = None
) -> LocalScene:
  """A scene from what is known of it.

  Its first file is opened for the footprint (10, 20 and 60 m bands cover the same ground) and for GDAL's unit tags.

  Raises:
    ValueError: unit, radar quantity, level or time are unknown or contradict each other; names the argument.
  """
  bands = {b: bands[b] for b in sensors.ALL_BANDS if b in bands}
  path = next(iter(bands.values())).path
  where = f'Scene {facts.id} ({path})'
  with raster.opened(path) as dataset:
    unit = stated.unit(facts) or unit_tag(dataset, facts.sensor)
    tag = dataset.nodata if nodata is None else nodata
    outline = footprints.data_footprint(dataset, next(iter(bands.values())).number, unit, tag)
  short, known = {
    'sentinel2': ('s2', sensors.REFLECTANCE_UNITS),
    'sentinel1': ('s1', sensors.BACKSCATTER_UNITS),
  }[facts.sensor]
  if not unit:
    raise ValueError(
      f'{where}: neither the files nor their metadata say in what unit their numbers are. '
      f'State {short}_unit=... (or "unit" in the catalogue): one of {", ".join(known)}.'
    )
  _known(f'{facts.sensor} unit', unit, known)
  quantity, level = '', ''
  if facts.sensor == 'sentinel1':
    quantity = stated.s1_quantity or facts.quantity
    if not quantity:
      raise ValueError(
        f'{where}: its radar quantity is written nowhere. State s1_quantity=... (or "quantity" in the catalogue): '
        f'one of {", ".join(sensors.RADAR_QUANTITIES)}.'
      )
    _known('radar quantity', quantity, sensors.RADAR_QUANTITIES)
    if facts.quantity and facts.quantity != quantity:
      raise ValueError(f'{where}: s1_quantity={quantity!r} is stated, its metadata say {facts.quantity!r}.')
  else:
    level = facts.level or stated.s2_level
    if level != (stated.s2_level or level):
      raise ValueError(f'{where} is {facts.level}, {stated.s2_level} is stated. Pass s2_level={facts.level!r}.')
  if facts.time is None:
    raise ValueError(
      f'{where}: its time is written nowhere. State it as times={{"{facts.id}": "2020-02-23T03:27:39Z"}} '
      'or in a catalogue.'
    )
  scene = base.Scene(
    facts.id, facts.sensor, outline, facts.time, facts.orbit_pass, facts.relative_orbit, dict(facts.metadata)
  )
  return LocalScene(scene, bands, unit, quantity, level, nodata)


def own_grid(local: LocalScene) -> base.PatchGrid:
  """The finest pixels of a scene as a grid; ValueError if they are not square, north-up and in a projected CRS."""
  grids = []
  for path in dict.fromkeys(band.path for band in local.bands.values()):
    with raster.opened(path) as dataset:
      grids.append(raster.grid_of(dataset))
  return min(grids, key=lambda grid: grid.pixel_m)


def read_scene(local: LocalScene, grid: base.PatchGrid, bands: Sequence[str]) -> base.Patch:
  """Bands of a local scene on a grid; ValueError names a band it lacks."""
  missing = [b for b in bands if b not in local.bands]
  if missing:
    raise ValueError(
      f'Scene {local.scene.id} has no band(s) {", ".join(missing)}; it has {", ".join(local.bands)}. '
      'Ask for bands it has, or mend its file names or band descriptions.'
    )
  values, valid = raster.read_bands([local.bands[b] for b in bands], grid, local.unit, local.nodata)
  return base.Patch(values, valid, tuple(bands), local.unit)


def with_cloud_masks(scenes: Iterable[LocalScene], suffixes: Sequence[str]) -> list[LocalScene]:
  """Optical scenes with the cloud mask that lies beside their bands, or as a band of the scene's own file.

  Beside them is 'REST_SCL.tif' for bands 'REST_B02.tif', and for the only scene of a folder 'SCL.tif' as well.
  """
  scenes = list(scenes)
  optical = collections.Counter(local.file.parent for local in scenes if local.scene.sensor == 'sentinel2')
  masks = {place: cloudmasks.in_folder(place, suffixes) for place in optical}
  out = []
  for local in scenes:
    if local.scene.sensor == 'sentinel2':
      own = masks[local.file.parent]
      band, rest = sidecar.band_of_file(local.file.stem)
      mask = own.get(rest) if band else _mask_band(str(local.file)) or own.get(local.file.stem)
      if mask is None and optical[local.file.parent] == 1:
        mask = own.get('')
      local = dataclasses.replace(local, cloud_mask=mask)
    out.append(local)
  return out


def _mask_band(path: str) -> cloudmasks.CloudMask | None:
  """The band of a multi-band file whose description says that it is a cloud mask."""
  with raster.opened(path) as dataset:
    for number, description in enumerate(dataset.descriptions, start=1):
      kind, rest = cloudmasks.of_name(description or '')
      if kind and not rest:
        return cloudmasks.CloudMask(path, kind, number)
  return None


def cloud_mask_of(local: LocalScene) -> str:
  """What the cloud mask of a scene is; ValueError if there is none."""
  if local.cloud_mask is None:
    raise ValueError(
      f'Scene {local.scene.id} has no cloud mask. Put its scene classification (..._SCL_20m.jp2, SCL.tif) or a '
      f'cloud_mask.tif (0 clear) beside its bands in {local.file.parent}.'
    )
  return local.cloud_mask.title


def read_cloud_mask(local: LocalScene, grid: base.PatchGrid) -> np.ndarray:
  """bool [H, W], True under cloud (`cloudmasks.read`); ValueError if the scene has no mask."""
  cloud_mask_of(local)
  assert local.cloud_mask is not None
  return cloudmasks.read(local.cloud_mask, grid)


def spec_of(scenes: Iterable[LocalScene], stated: Stated) -> sensors.SensorSpec:
  """The contract of a list of LocalScene: the bands every scene of a sensor has; ValueError if scenes disagree."""
  scenes = list(scenes)
  bands: dict[str, set[str]] = {}
  for scene in scenes:
    sensor = scene.scene.sensor
    bands[sensor] = bands[sensor] & set(scene.bands) if sensor in bands else set(scene.bands)
  for name, kind, argument in (('quantity', 'radar quantities', 's1_quantity'), ('level', 'levels', 's2_level')):
    found = sorted({getattr(s, name) for s in scenes} - {''})
    if len(found) > 1:
      examples = [next(s.scene.id for s in scenes if getattr(s, name) == value) for value in found]
      raise ValueError(
        f'Scenes of {len(found)} {kind} together: {found} (such as {examples}); see {argument}. Split them.'
      )
  return sensors.SensorSpec(
    tuple(b for b in sensors.ALL_BANDS if b in bands.get(sensors.BANDS[b].sensor, ())),
    next((s.level for s in scenes if s.level), stated.s2_level or 'L2A'),
    next((s.quantity for s in scenes if s.quantity), stated.s1_quantity or 'sigma0_ellipsoid'),
  )

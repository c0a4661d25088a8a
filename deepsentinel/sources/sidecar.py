"""What metadata says of a scene: product names, Earth Engine's and STAC's JSON, BigEarthNet's labels, GDAL's tags.

Only statements are read here. A product name tells sensor, time, level and orbit, but never whether a copy still
carries the +1000 offset: that takes the catalogue's own word.
"""

import dataclasses
import datetime
import json
import pathlib
import re
from collections.abc import Collection, Mapping
from typing import Any
from xml.etree import ElementTree

from deepsentinel import sensors

_S2_NAME = re.compile(r'S2[A-D]_MSI(L1C|L2A)_(\d{8})T(\d{5,6})(?:_N(\d{4}))?(?:_R(\d{3}))?')
_S1_NAME = re.compile(r'S1([A-D])_IW_(?:GRD|SLC)._1S[A-Z]{2}_(\d{8})T(\d{6})(?:_\d{8}T\d{6}_(\d{6})_[0-9A-F]{6})?')
_EE_INDEX = re.compile(r'(?<!\d)(\d{8})T(\d{6})_\d{8}T\d{6}_T\d{2}[A-Z]{3}')
# Absolute orbit to relative orbit (ESA, Sentinel-1 product definition): (absolute - shift) mod 175 + 1.
_ORBIT_SHIFT = {'A': 73, 'B': 27}

# Asset and band names in use elsewhere: Earth Search's and the STAC eo extension's common names.
_ALIASES = {
  'coastal': 'B1', 'blue': 'B2', 'green': 'B3', 'red': 'B4', 'rededge1': 'B5', 'rededge2': 'B6', 'rededge3': 'B7',
  'nir': 'B8', 'nir08': 'B8A', 'nir09': 'B9', 'swir16': 'B11', 'swir22': 'B12',
}  # fmt: skip
_BAND = re.compile(r'(?:^|[^A-Za-z0-9])(B(?:0?[1-9]|1[0-2]|8A)|VV|VH)(?:[_-]\d0m)?$', re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Facts:
  """What one source of metadata states; the empty value where it is silent."""

  id: str = ''
  sensor: str = ''
  time: datetime.datetime | None = None
  unit: str = ''
  quantity: str = ''
  level: str = ''
  orbit_pass: str = ''
  relative_orbit: int = -1
  metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def over(self, other: 'Facts') -> 'Facts':
    """These facts, completed by another's."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(self):
      mine, theirs = getattr(self, field.name), getattr(other, field.name)
      silent = mine in ('', None) or (field.name == 'relative_orbit' and mine < 0)
      values[field.name] = {**theirs, **mine} if field.name == 'metadata' else theirs if silent else mine
    return Facts(**values)

  def at(self, time: datetime.datetime, *, date_only: bool) -> 'Facts':
    """These facts with another time; with `date_only` the day alone is known."""
    rest = {key: value for key, value in self.metadata.items() if key != 'date_only'}
    return dataclasses.replace(self, time=time, metadata={**rest, 'date_only': True} if date_only else rest)


def canonical_band(name: str) -> str:
  """'B2' for 'B02', 'b2' or 'blue'; '' for what names no band of `sensors.BANDS`."""
  name = name.strip()
  name = _ALIASES.get(name.lower(), name.upper())
  name = re.sub(r'^B0(?=\d)', 'B', name)
  return name if name in sensors.BANDS else ''


def band_of_file(stem: str) -> tuple[str, str]:
  """(band, rest of the name) of a file that holds one band ('.._B08', 'VV', 'red'); ('', stem) otherwise."""
  if stem.lower() in _ALIASES:
    return _ALIASES[stem.lower()], ''
  match = _BAND.search(stem)
  if not match:
    return '', stem
  return canonical_band(match[1]), stem[: match.start()]


def pixel_of_file(stem: str) -> int:
  """Metres that a file's name states for its pixels ('.._B02_20m'), 0 where it states none."""
  match = re.search(r'[_-](\d0)m$', stem, re.IGNORECASE)
  return int(match[1]) if match else 0


def names_a_band(stem: str) -> bool:
  """Whether a file's name ends in any Sentinel band, those included that we do not keep (B10)."""
  return _BAND.search(stem) is not None


def parse_time(value: Any, where: str) -> datetime.datetime:
  """A timezone-aware UTC time from ISO text or a datetime (no zone means UTC); ValueError names `where`."""
  if isinstance(value, datetime.datetime):
    time = value
  else:
    # NetCDF's and xarray's tags carry nanoseconds, which Python's parser refuses.
    text = re.sub(r'(\.\d{6})\d+', r'\1', str(value).strip())
    try:
      time = datetime.datetime.fromisoformat(text)
    except ValueError as e:
      raise ValueError(f'{where}: {value!r} is no time; write it as 2020-02-23T03:27:39Z.') from e
  return time.replace(tzinfo=datetime.UTC) if time.tzinfo is None else time.astimezone(datetime.UTC)


def is_date(value: Any) -> bool:
  """Whether text names a day and no time of it."""
  return re.fullmatch(r'\d{4}-?\d{2}-?\d{2}', str(value).strip()) is not None


def _compact_time(day: str, clock: str) -> datetime.datetime:
  # BigEarthNet v1 drops the leading zero of the hour: 20170924T93020.
  return datetime.datetime.strptime(day + clock.zfill(6), '%Y%m%d%H%M%S').replace(tzinfo=datetime.UTC)


def from_name(name: str) -> Facts:
  """Facts of an ESA product name (or BigEarthNet's or Earth Engine's form of it) anywhere in `name`."""
  if match := _S2_NAME.search(name):
    level, day, clock, baseline, orbit = match.groups()
    metadata = {}
    if baseline and baseline != '9999':  # N9999: a copy that dropped its baseline
      metadata['processing_baseline'] = f'{baseline[:2]}.{baseline[2:]}'
    return Facts(
      sensor='sentinel2',
      time=_compact_time(day, clock),
      level=level,
      relative_orbit=int(orbit) if orbit else -1,
      metadata=metadata,
    )
  if match := _S1_NAME.search(name):
    platform, day, clock, absolute = match.groups()
    relative = (int(absolute) - _ORBIT_SHIFT[platform]) % 175 + 1 if absolute and platform in _ORBIT_SHIFT else -1
    return Facts(sensor='sentinel1', time=_compact_time(day, clock), relative_orbit=relative)
  if match := _EE_INDEX.search(name):
    return Facts(sensor='sentinel2', time=_compact_time(*match.groups()))
  return Facts()


def from_earth_engine(item: Mapping[str, Any]) -> Facts:
  """Facts of an Earth Engine image's properties ('system:id', 'system:time_start', ...).

  Units follow the collection: S1_GRD is dB and S1_GRD_FLOAT power, both sigma0 on the ellipsoid; S2 collections named
  HARMONIZED have the +1000 offset removed, the plain ones carry it from processing baseline 04.00.
  """
  asset = str(item.get('system:id', ''))
  collection = asset.rpartition('/')[0]
  milliseconds = item.get('system:time_start')
  time = None if milliseconds is None else datetime.datetime.fromtimestamp(milliseconds / 1000, datetime.UTC)
  if collection in ('COPERNICUS/S1_GRD', 'COPERNICUS/S1_GRD_FLOAT'):
    return Facts(
      id=str(item.get('system:index', '')),
      sensor='sentinel1',
      time=time,
      unit='power' if collection.endswith('FLOAT') else 'db',
      quantity='sigma0_ellipsoid',
      orbit_pass=str(item.get('orbitProperties_pass', '')).lower(),
      relative_orbit=int(item.get('relativeOrbitNumber_start', -1)),
    )
  if collection.startswith('COPERNICUS/S2'):
    baseline = str(item.get('PROCESSING_BASELINE', ''))
    metadata: dict[str, Any] = {'processing_baseline': baseline} if baseline else {}
    if 'CLOUDY_PIXEL_PERCENTAGE' in item:
      metadata['cloud_share'] = float(item['CLOUDY_PIXEL_PERCENTAGE']) / 100
    unit = ''
    if collection.endswith('HARMONIZED') or (baseline and baseline < '04.00'):
      unit = 'reflectance_x1e4'
    elif baseline:
      unit = 'reflectance_x1e4_plus1000'
    return Facts(
      id=str(item.get('system:index', '')),
      sensor='sentinel2',
      time=time,
      unit=unit,
      level='L2A' if '_SR' in collection else 'L1C',
      orbit_pass=str(item.get('SENSING_ORBIT_DIRECTION', '')).lower(),
      relative_orbit=int(item.get('SENSING_ORBIT_NUMBER', -1)),
      metadata=metadata,
    )
  return Facts()


def unit_of_scale(scale: float, offset: float) -> str:
  """The reflectance unit that a raster's scale and offset state: reflectance = number x scale + offset; '' if none."""
  if abs(scale - 1e-4) < 1e-9 and abs(offset) < 1e-9:
    return 'reflectance_x1e4'
  if abs(scale - 1e-4) < 1e-9 and abs(offset + 0.1) < 1e-6:
    return 'reflectance_x1e4_plus1000'
  return ''


def stac_raster(asset: Mapping[str, Any]) -> dict[str, Any]:
  """What an asset says of its first band: scale, offset, nodata, spatial_resolution, gsd, as far as it does.

  STAC 1.0 has `raster:bands`; STAC 1.1 has `bands`, 'raster:' before its extension's keys, and what holds for all bands
  in the asset itself.
  """
  bands = asset.get('raster:bands') or asset.get('bands') or [{}]
  said = {**asset, **bands[0]}
  keys = ('scale', 'offset', 'nodata', 'spatial_resolution', 'gsd')
  found = {key: said.get(f'raster:{key}', said.get(key)) for key in keys}
  return {key: value for key, value in found.items() if value is not None}


def is_reprocessed(facts: Facts) -> bool:
  """Whether a Sentinel-2 product is of no baseline of ESA's (99.99, ...), so that its offset is not known."""
  return str(facts.metadata.get('processing_baseline', '')) >= '99'


def from_stac(item: Mapping[str, Any]) -> Facts:
  """Facts of a STAC item: properties, and the scale and offset of its first asset that has them."""
  properties = item.get('properties', {})
  collection, platform = str(item.get('collection', '')), str(properties.get('platform', '')).lower()
  sensor = ''
  for name in sensors.SENSORS:
    if platform.startswith(f'sentinel-{name[-1]}') or collection.startswith(f'sentinel-{name[-1]}'):
      sensor = name
  metadata: dict[str, Any] = {}
  if properties.get('eo:cloud_cover') is not None:
    metadata['cloud_share'] = float(properties['eo:cloud_cover']) / 100
  baseline = properties.get('s2:processing_baseline') or properties.get('processing:version')
  if baseline and sensor == 'sentinel2':
    metadata['processing_baseline'] = str(baseline)
  unit = ''
  if sensor == 'sentinel2':
    for asset in item.get('assets', {}).values():
      band = stac_raster(asset)
      if 'scale' in band or 'offset' in band:
        unit = unit or unit_of_scale(band.get('scale', 1), band.get('offset', 0))
    if (applied := properties.get('earthsearch:boa_offset_applied')) is not None:
      # Earth Search removes the offset from the pixels and leaves it in the scale's word. Where it denies having done
      # so, that is right for some scenes and wrong for others (its issues 66 and 71): better not to know.
      unit = 'reflectance_x1e4' if applied or (baseline and str(baseline) < '04.00') else ''
  quantity = 'gamma0_terrain' if 'sentinel-1-rtc' in collection else ''
  time = properties.get('start_datetime') or properties.get('datetime')
  return Facts(
    id=str(item.get('id', '')),
    sensor=sensor,
    time=parse_time(time, f'STAC item {item.get("id")}') if time else None,
    unit='power' if quantity else unit,
    quantity=quantity,
    level='L2A' if sensor == 'sentinel2' and 'l2a' in collection else 'L1C' if 'l1c' in collection else '',
    orbit_pass=str(properties.get('sat:orbit_state', '')).lower(),
    relative_orbit=int(properties.get('sat:relative_orbit') or -1),
    metadata=metadata,
  )


def from_bigearthnet(item: Mapping[str, Any]) -> Facts:
  """Facts of a BigEarthNet v1 `*_labels_metadata.json`.

  Its patches are sen2cor L2A of 2017 and 2018 without offset, and S1 GRD calibrated to sigma0 in dB with range-Doppler
  terrain correction (Sumbul et al. 2021, BigEarthNet-MM).
  """
  if 'corresponding_s2_patch' in item:
    source = from_name(str(item.get('scene_source', '')))
    time = parse_time(item['acquisition_time'], 'acquisition_time')
    return Facts(sensor='sentinel1', time=time, unit='db', quantity='sigma0_ellipsoid').over(source)
  source = from_name(str(item.get('tile_source', '')))
  time = parse_time(item['acquisition_date'], 'acquisition_date')
  # The tile's name is that of its L1C parent; the pixels are L2A.
  return Facts(sensor='sentinel2', time=time, unit='reflectance_x1e4', level='L2A').over(source)


def from_safe(path: pathlib.Path) -> Facts:
  """Facts of the metadata of an ESA product, MTD_MSIL2A.xml or MTD_MSIL1C.xml, which lie with its own pixels.

  Raises:
    ValueError: it cannot be read, or its numbers are not reflectance x 10,000 with an offset of 0 or +1000.
  """
  try:
    root = ElementTree.parse(path).getroot()
  except ElementTree.ParseError as e:
    raise ValueError(f'{path} is no readable XML ({e}); fetch the product again.') from e
  said: dict[str, list[str]] = {}
  for element in root.iter():
    said.setdefault(element.tag.rpartition('}')[2], []).append((element.text or '').strip())
  offsets = {float(text) for text in said.get('BOA_ADD_OFFSET', []) + said.get('RADIO_ADD_OFFSET', [])} or {0.0}
  scales = {float(text) for text in said.get('BOA_QUANTIFICATION_VALUE', []) + said.get('QUANTIFICATION_VALUE', [])}
  units = {unit_of_scale(1e-4, offset / sensors.S2_SCALE) for offset in offsets}
  if len(units) != 1 or '' in units or scales - {float(sensors.S2_SCALE)}:
    raise ValueError(
      f'{path} states offsets {sorted(offsets)} and scales {sorted(scales)}; -1000 or 0 and 10000 are known. State '
      's2_unit=... and move the file away.'
    )
  metadata: dict[str, Any] = {}
  if baseline := said.get('PROCESSING_BASELINE', [''])[0]:
    metadata['processing_baseline'] = baseline
  if cloud := said.get('Cloud_Coverage_Assessment', [''])[0]:
    metadata['cloud_share'] = float(cloud) / 100
  start = said.get('DATATAKE_SENSING_START') or said.get('PRODUCT_START_TIME')
  return Facts(
    sensor='sentinel2',
    time=parse_time(start[0], str(path)) if start else None,
    unit=units.pop(),
    level=path.stem.removeprefix('MTD_MSI'),
    orbit_pass=said.get('SENSING_ORBIT_DIRECTION', [''])[0].lower(),
    relative_orbit=int(said.get('SENSING_ORBIT_NUMBER', ['-1'])[0]),
    metadata=metadata,
  )


def beside(folder: pathlib.Path, rasters: Collection[tuple[str, str]]) -> dict[tuple[str, str], Facts]:
  """Facts of the JSON files in a folder, by the rasters they belong to.

  Args:
    folder: of the rasters.
    rasters: (what their names begin with, sensor) of each scene there; '' where each is called as its band. A file
      belongs to those whose name begins its own, and to those of its sensor. One that names none belongs to the only
      ones it can.
  """
  facts = {raster: Facts() for raster in rasters}
  by_name: dict[str, list[tuple[str, str]]] = {}
  for raster in rasters:
    by_name.setdefault(raster[0], []).append(raster)
  for file in sorted(folder.glob('*.json')):
    stem = file.stem
    longest = next((stem[:k] for k in range(len(stem), 0, -1) if stem[:k] in by_name), '')
    fitting = by_name[longest] if longest else list(rasters)
    found = from_json(file)
    if any(sensor == found.sensor for _, sensor in fitting):
      fitting = [raster for raster in fitting if raster[1] == found.sensor]
    for raster in fitting if longest or len(fitting) == 1 else ():
      facts[raster] = facts[raster].over(found)
  return facts


def from_json(path: pathlib.Path) -> Facts:
  """Facts of a JSON file beside rasters, whichever of the forms above it has; none if it has another."""
  try:
    item = json.loads(path.read_text())
  except (json.JSONDecodeError, UnicodeDecodeError) as e:
    raise ValueError(f'{path} is no readable JSON ({e}); mend it or move it away from the rasters.') from e
  if not isinstance(item, dict):
    return Facts()
  if 'system:id' in item:
    return from_earth_engine(item)
  if item.get('type') == 'Feature' and 'assets' in item:
    return from_stac(item)
  if 'acquisition_date' in item or 'acquisition_time' in item:
    return from_bigearthnet(item)
  return Facts()

"""EarthDaily EarthOne, which was Descartes Labs: Sentinel-2 and Sentinel-1 through the vendor's client."""

import datetime
import functools
import importlib
import json
import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import shapely
import shapely.geometry

from deepsentinel import sensors
from deepsentinel.sources import base, cloudmasks, remote, sidecar

# The successor first; the last real client of the name before it has the same modules.
_PACKAGES = {'earthdaily.earthone': 'earthone', 'descarteslabs': 'descarteslabs'}
# Bands of products that do not say the vendor's own names.
_ALIASES = {
  'coastal-aerosol': 'B1', 'red-edge': 'B5', 'red-edge-2': 'B6', 'red-edge-3': 'B7', 'red-edge-4': 'B8A',
  'water-vapor': 'B9', 'swir1': 'B11', 'swir2': 'B12',
}  # fmt: skip
_POWER_UNITS = {'db': 'db', 'decibel': 'db', 'decibels': 'db', 'power': 'power', 'linear': 'power'}


class _Band(NamedTuple):
  """A band of a product: its name there, and physical value = number x scale + offset, in `unit` where that is said."""

  name: str
  scale: float
  offset: float
  unit: str
  data_type: str


class EarthOne:
  """Scenes of two products of the EarthOne catalogue, an answer for each sensor and patch.

  Bands are found by the names the catalogue gives them; its data range and physical range say what their numbers mean.

  Args:
    s2_product, s1_product: ids; '' leaves that sensor out.
    s2_unit: one of sensors.REFLECTANCE_UNITS; '' takes the catalogue's word.
    s1_unit: unit of the physical values of radar, 'db' or 'power'; '' takes the catalogue's word.
    s1_quantity, s2_level: as for LocalScenes.
    s2_bands, s1_bands: those wanted.
    attempts: requests made for one answer before it counts as failed; between them as long as Retry-After asks, or
      0.5, 1, 2 ... seconds.
  Raises:
    ValueError: the client is not installed, or no sensor is left.
  """

  synthetic = False

  def __init__(
    self,
    s2_product: str = 'esa:sentinel-2:l2a:c1:v1',
    s1_product: str = 'esa:sentinel-1:sigma0v:v1',
    s2_unit: str = '',
    s1_unit: str = '',
    s1_quantity: str = 'sigma0_ellipsoid',
    s2_level: str = 'L2A',
    s2_bands: Sequence[str] = sensors.SENTINEL2_BANDS,
    s1_bands: Sequence[str] = sensors.SENTINEL1_BANDS,
    attempts: int = 6,
  ):
    self._arguments = (s2_product, s1_product, s2_unit, s1_unit, s1_quantity, s2_level, tuple(s2_bands),
                       tuple(s1_bands), attempts)  # fmt: skip
    self._products = {'sentinel2': s2_product, 'sentinel1': s1_product}
    bands = [*(s2_bands if s2_product else ()), *(s1_bands if s1_product else ())]
    if not bands:
      raise ValueError('EarthOne needs s2_product or s1_product, or both; both are empty.')
    for name, value, known in (
      ('s2_unit', s2_unit, sensors.REFLECTANCE_UNITS), ('s1_unit', s1_unit, ('db', 'power'))
    ):  # fmt: skip
      if value and value not in known:
        raise ValueError(f'Unknown {name} {value!r}. Known: {", ".join(known)}.')
    self._units = {'sentinel2': s2_unit, 'sentinel1': s1_unit}
    self.spec = sensors.SensorSpec(tuple(bands), s2_level, s1_quantity)
    self._attempts = attempts
    self._known_bands: dict[str, dict[str, _Band]] = {}
    self._classification: _Band | None = None  # of Sentinel-2, known with its bands
    self._root = _installed()

  def __reduce__(self):
    return type(self), self._arguments

  def connect(self) -> None:
    """Signs in and looks the bands up; ValueError says what is missing."""
    for sensor in self.spec.sensors:
      self._bands(sensor)

  @functools.cached_property
  def _catalog(self) -> Any:
    module = importlib.import_module(f'{self._root}.catalog')
    return module, module.CatalogClient(retries=remote.retry(self._attempts))

  @functools.cached_property
  def _raster(self) -> Any:
    # Its own loop asks again where an answer breaks off, or on 503; the rest is left to us.
    module = importlib.import_module(f'{self._root}.core.client.services.raster')
    return module.Raster(retries=remote.retry(self._attempts))

  def _asked(self, what: str, ask: Callable[[], Any]) -> Any:
    """An answer of the client; ValueError says what was asked and what was wrong with it."""
    exceptions = importlib.import_module(f'{self._root}.exceptions')
    try:
      return remote.again(self._attempts)(ask)
    except (exceptions.AuthError, exceptions.UnauthorizedError) as e:
      raise ValueError(
        f'EarthOne did not let us in ({remote.first_line(e)[:300]}). Run `earthone auth login`, or set '
        'EARTHONE_CLIENT_ID and EARTHONE_CLIENT_SECRET.'
      ) from e
    except (exceptions.ClientError, exceptions.ServerError, *remote.ERRORS, json.JSONDecodeError) as e:
      raise remote.refused(getattr(e, 'status', 0), f'EarthOne, {what}: {remote.first_line(e)[:300]}.') from e

  def _bands(self, sensor: str) -> dict[str, _Band]:
    """Those asked for, by our names; ValueError names one the product lacks."""
    if sensor not in self._known_bands:
      self._known_bands[sensor] = self._found_bands(sensor)
    return self._known_bands[sensor]

  def _found_bands(self, sensor: str) -> dict[str, _Band]:
    catalog, client = self._catalog
    product = self._products[sensor]

    def ask() -> list[Any] | None:
      found = catalog.Product.get(product, client=client)
      return None if found is None else list(found.bands())

    listed = self._asked(f'bands of {product}', ask)
    if listed is None:
      raise ValueError(f'EarthOne has no product {product!r}, or it is not open to you. Pass s{sensor[-1]}_product=...')
    found: dict[str, _Band] = {}
    for band in listed:
      name = _canonical(band)
      if name and name not in found:
        found[name] = _described(band)
      if sensor == 'sentinel2' and _is_classification(band):
        self._classification = _described(band)
    wanted = self.spec.s2_bands if sensor == 'sentinel2' else self.spec.s1_bands
    missing = [band for band in wanted if band not in found]
    if missing:
      raise ValueError(
        f'EarthOne product {product} has no band(s) {", ".join(missing)}; of its bands '
        f'{", ".join(str(b.name) for b in listed)} these are known: {", ".join(found) or "none"}. Pass '
        f's{sensor[-1]}_bands=...'
      )
    return {band: found[band] for band in wanted}

  def _unit(self, sensor: str) -> str:
    """Unit of the numbers of Sentinel-2, or of the physical values of Sentinel-1."""
    bands, product = self._bands(sensor).values(), self._products[sensor]
    if self._units[sensor]:
      return self._units[sensor]
    units = {
      sidecar.unit_of_scale(b.scale, b.offset) if sensor == 'sentinel2' else _POWER_UNITS.get(b.unit.lower(), '')
      for b in bands
    }
    if len(units) != 1 or not (unit := units.pop()):
      known = sensors.REFLECTANCE_UNITS if sensor == 'sentinel2' else ('db', 'power')
      said = '; '.join(f'{b.name}: x {b.scale:g} + {b.offset:g} {b.unit}' for b in bands)
      raise ValueError(
        f'EarthOne does not say what the numbers of {product} are ({said}). State s{sensor[-1]}_unit=...: one of '
        f'{", ".join(known)}.'
      )
    return unit

  def search(
    self, sensor: str, footprint: shapely.Geometry, start: datetime.datetime, end: datetime.datetime
  ) -> list[base.Scene]:
    """Scenes of `sensor` that meet `footprint`, start <= time < end, in order of (time, id)."""
    product = self._products.get(sensor)
    if not product:
      return []
    footprint = base.split_antimeridian(footprint)
    catalog, client = self._catalog
    properties = catalog.properties

    def ask() -> list[Any]:
      search = catalog.Image.search(client=client).filter(properties.product_id == product)
      search = search.filter(properties.acquired >= start.isoformat()).filter(properties.acquired < end.isoformat())
      return list(search.intersects(footprint))

    images = self._asked(f'images of {product}', ask)
    scenes = [self._scene(image, sensor) for image in images if image.geometry is not None]
    return base.scenes_that_meet(scenes, sensor, footprint, start, end)

  def _scene(self, image: Any, sensor: str) -> base.Scene:
    facts = sidecar.Facts()
    for name in (image.provider_id, image.name):
      facts = facts.over(sidecar.from_name(str(name or '')))
    metadata = dict(facts.metadata)
    if sensor == 'sentinel2' and image.cloud_fraction is not None:
      metadata['cloud_share'] = float(image.cloud_fraction)
    if sensor == 'sentinel1' and image.incidence_angle is not None:
      metadata['incidence_deg'] = float(image.incidence_angle)
    outline = base.split_antimeridian(shapely.make_valid(shapely.geometry.shape(image.geometry)))
    time = sidecar.parse_time(image.acquired, image.id)
    return base.Scene(image.id, sensor, outline, time, facts.orbit_pass, facts.relative_orbit, metadata)

  def read(self, scene: base.Scene, grid: base.PatchGrid, bands: Sequence[str]) -> base.Patch:
    """Pixels of `scene` on `grid`, the nearest of the product's; ValueError where EarthOne refuses them.

    Sentinel-2 in the unit of its numbers, Sentinel-1 as physical values.
    """
    known, unit = self._bands(scene.sensor), self._unit(scene.sensor)
    missing = [band for band in bands if band not in known]
    if missing:
      raise ValueError(f'Scene {scene.id} has no band(s) {", ".join(missing)}; it has {", ".join(known)}.')
    chosen = [known[band] for band in bands]
    values = self._pixels(scene, grid, chosen)
    valid = np.moveaxis(~np.ma.getmaskarray(values), 0, 2)
    numbers = np.moveaxis(np.ma.getdata(values), 0, 2)
    if scene.sensor == 'sentinel2':
      numbers = np.where(valid, numbers, 0)
    else:
      scale, offset = np.array([(band.scale, band.offset) for band in chosen]).T
      numbers = np.where(valid, numbers * scale + offset, np.nan).astype(np.float32)
    return base.Patch(numbers, np.any(valid, axis=2), tuple(bands), unit)

  def _pixels(self, scene: base.Scene, grid: base.PatchGrid, bands: Sequence[_Band]) -> np.ma.MaskedArray:
    """Numbers of the product [bands, H, W], masked where it has none."""
    crs = f'EPSG:{grid.epsg}'

    def ask() -> np.ma.MaskedArray:
      values, _ = self._raster.ndarray(
        [scene.id], [band.name for band in bands], data_type=bands[0].data_type, srs=crs, resolution=grid.pixel_m,
        bounds=grid.bounds, bounds_srs=crs, align_pixels=False, resampler='near', order='gdal', masked=True,
        mask_nodata=True, mask_alpha=False, progress=False,
      )  # fmt: skip
      return values

    values = self._asked(f'pixels of {scene.id}', ask)
    if values.shape != (len(bands), grid.height_px, grid.width_px):
      raise ValueError(
        f'EarthOne, pixels of {scene.id}: an array of {values.shape} came, '
        f'{(len(bands), grid.height_px, grid.width_px)} was asked for.'
      )
    return values

  def cloud_mask_of(self, scene: base.Scene) -> str:
    """What the cloud mask of an optical scene is; ValueError where its product has none."""
    self._classes_of(scene)
    return cloudmasks.TITLES[cloudmasks.SCL]

  def cloud_mask(self, scene: base.Scene, grid: base.PatchGrid) -> np.ndarray:
    """bool [H, W]: what the scene classification takes for cloud, shadow or a defect, and where it has no pixel.

    Raises:
      ValueError: the product has none, its numbers are none, or as of `read`.
    """
    band = self._classes_of(scene)
    classes = np.ma.filled(self._pixels(scene, grid, [band])[0], 0)
    where = f'Band {band.name} of {self._products[scene.sensor]}'
    return cloudmasks.hidden(classes, where, 'Take the scenes from stac or earthengine.')

  def _classes_of(self, scene: base.Scene) -> _Band:
    self._bands(scene.sensor)
    if self._classification is None:
      raise ValueError(
        f'EarthOne product {self._products[scene.sensor]} lists no scene classification (band "scl"). '
        'Pass a product that does (s2_product), or take the scenes from stac or earthengine.'
      )
    return self._classification


def _installed() -> str:
  """The package of the client; ValueError with the command that installs it."""
  for package in _PACKAGES:
    try:
      importlib.import_module(package)
      return package
    except ImportError:
      logging.debug('no %s', package, exc_info=True)
  raise ValueError("The client of EarthOne is not installed: in the clone, pip install -e '.[earthone]'.")


def _canonical(band: Any) -> str:
  """Our name of a catalogue's band: by the vendor's name of it, else by its own; '' for any other."""
  for name in (band.vendor_band_name, band.name):
    if name and (found := sidecar.canonical_band(str(name)) or _ALIASES.get(str(name).lower(), '')):
      return found
  return ''


def _is_classification(band: Any) -> bool:
  """Whether a band is sen2cor's scene classification: 'scl', by which users of the platform are seen to mask clouds.

  The vendor's own list of the bands is open to accounts only, so what it holds is checked when it is read.
  """
  names = [str(name) for name in (band.vendor_band_name, band.name) if name]
  return any(cloudmasks.of_name(name) == (cloudmasks.SCL, '') for name in names)


def _described(band: Any) -> _Band:
  """What the catalogue says of a band's numbers; without a physical range they are taken as they are."""
  data, physical = band.data_range, getattr(band, 'physical_range', None)
  scale, offset = 1.0, 0.0
  if data and physical and data[1] != data[0]:
    scale = (physical[1] - physical[0]) / (data[1] - data[0])
    offset = physical[0] - scale * data[0]
  unit = str(getattr(band, 'physical_range_unit', None) or '')
  return _Band(str(band.name), float(scale), float(offset), unit, str(band.data_type or 'UInt16'))

"""Scenes of a STAC API, of a static catalogue or of a file of items; pixels by range reads of their assets."""

import contextlib
import dataclasses
import datetime
import functools
import importlib
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import shapely
import shapely.geometry

from deepsentinel import sensors
from deepsentinel.sources import base, cloudmasks, raster, remote, scenefiles, sidecar

# Sentinel-2 as ESA distributes it: reflectance x 10,000, plus 1000 from this processing baseline on.
PRODUCT_UNIT = 'product'
_OFFSET_FROM = '04.00'
_WIDEST_M2 = 4e11  # no scene is so large: a Sentinel-1 strip of wide swath has 2e11
_PAGE_ITEMS = 100  # servers' own default is often ten; at several hundred some answers grow too large for their gateway
_Read = TypeVar('_Read')


class StacScenes:
  """Sentinel scenes that a STAC catalogue lists.

  Args:
    url: an API ('https://earth-search.aws.element84.com/v1'), a static catalogue or collection (walked once), or a file
      of items (a FeatureCollection or a list); all but an API may be a path.
    s2_collection, s1_collection: ids of the collections; '' leaves that sensor out.
    s2_unit: one of sensors.REFLECTANCE_UNITS, or 'product': as ESA distributes it, with the +1000 offset from
      processing baseline 04.00 on. '' takes the items' word (raster extension).
    s1_unit, s1_quantity, s2_level: as for LocalScenes; '' takes the items' word.
    s2_bands, s1_bands: those wanted, in the order of sensors.ALL_BANDS.
    sign: 'package.module:function' that turns an asset's URL into one with a token, called before each read;
      'planetary_computer:sign' for the Planetary Computer.
    attempts: requests made for one answer before it counts as failed; between them as long as Retry-After asks, or
      0.5, 1, 2 ... seconds.
    timeout_s: longest silence of a server.
  Raises:
    ValueError: an argument contradicts another or says too little; a file of items that is none.
  """

  synthetic = False

  def __init__(
    self,
    url: str,
    s2_collection: str = 'sentinel-2-l2a',
    s1_collection: str = '',
    s2_unit: str = '',
    s1_unit: str = '',
    s1_quantity: str = '',
    s2_level: str = 'L2A',
    s2_bands: Sequence[str] = sensors.SENTINEL2_BANDS,
    s1_bands: Sequence[str] = sensors.SENTINEL1_BANDS,
    sign: str = '',
    attempts: int = 6,
    timeout_s: float = 30.0,
  ):
    self.url, self._sign_name = str(url), sign
    self._collections = {'sentinel2': s2_collection, 'sentinel1': s1_collection}
    self._product_unit = s2_unit == PRODUCT_UNIT
    self._stated = scenefiles.Stated('' if self._product_unit else s2_unit, s1_unit, s1_quantity, s2_level,
                                     tuple(s2_bands), tuple(s1_bands))  # fmt: skip
    if not s2_collection and not s1_collection:
      raise ValueError('A STAC source needs s2_collection or s1_collection, or both; both are empty.')
    quantity = s1_quantity or ('gamma0_terrain' if 'rtc' in s1_collection else '')
    if s1_collection and not quantity:
      raise ValueError(
        f'State s1_quantity=... of the collection {s1_collection!r}: one of {", ".join(sensors.RADAR_QUANTITIES)}.'
      )
    bands = [*(self._stated.s2_bands if s2_collection else ()), *(self._stated.s1_bands if s1_collection else ())]
    self.spec = sensors.SensorSpec(tuple(bands), s2_level, quantity or 'sigma0_ellipsoid')
    self._client = remote.Client(attempts, timeout_s)
    self._arguments = (url, s2_collection, s1_collection, s2_unit, s1_unit, s1_quantity, s2_level, s2_bands, s1_bands,
                       sign, attempts, timeout_s)  # fmt: skip

  def __reduce__(self):
    return type(self), self._arguments

  # ------------------------------------------------------------------ catalogue

  def connect(self) -> None:
    """Opens the catalogue; ValueError says why it cannot be, or what is missing for its pixels."""
    _ = self._listed, self._sign

  def search(
    self, sensor: str, footprint: shapely.Geometry, start: datetime.datetime, end: datetime.datetime
  ) -> list[base.Scene]:
    """Scenes of `sensor` that meet `footprint`, start <= time < end, in order of (time, id); without a band: left out.

    Raises:
      ValueError: the catalogue does not answer, or an item does not say what its numbers are.
    """
    if not self._collections.get(sensor):
      return []
    footprint = base.split_antimeridian(footprint)
    if self._listed is None:
      found = self._asked(sensor, footprint, start, end)
    else:
      scenes, tree = self._listed[sensor]
      found = [scenes[i] for i in tree.query(footprint)]
    return base.scenes_that_meet(found, sensor, footprint, start, end)

  def _asked(
    self, sensor: str, footprint: shapely.Geometry, start: datetime.datetime, end: datetime.datetime
  ) -> list[base.Scene]:
    """What the API answers."""

    def ask() -> list[dict[str, Any]]:
      search = self._api.search(
        collections=[self._collections[sensor]], intersects=shapely.geometry.mapping(footprint), datetime=[start, end],
        limit=_PAGE_ITEMS,
      )  # fmt: skip
      return list(search.items_as_dicts())

    with self._answering():
      items = remote.again(self._client.attempts)(ask)
    return self._scenes(items, sensor)

  @contextlib.contextmanager
  def _answering(self) -> Iterator[None]:
    import pystac_client.exceptions  # here: only this source needs it

    try:
      yield
    except (pystac_client.exceptions.APIError, *remote.ERRORS) as e:
      status = int(getattr(e, 'status_code', None) or 0)
      said = f'{self.url} gave no answer in {self._client.attempts} attempts ({str(e)[:300]}).'
      raise remote.refused(status, said) from e

  @functools.cached_property
  def _api(self) -> Any:
    import pystac_client
    import pystac_client.stac_api_io

    io = pystac_client.stac_api_io.StacApiIO(max_retries=remote.retry(self._client.attempts))
    with self._answering():  # the timeout goes here: `open` takes back the one that StacApiIO was given
      return remote.again(self._client.attempts)(
        pystac_client.Client.open, self.url, stac_io=io, timeout=self._client.timeout_s
      )

  @functools.cached_property
  def _listed(self) -> dict[str, tuple[list[base.Scene], shapely.STRtree]] | None:
    """Scenes by sensor of a catalogue that cannot be searched; None where it can."""
    path = pathlib.Path(self.url)
    content = _json(path) if path.is_file() else None
    if content is not None and not (isinstance(content, dict) and content.get('type') in ('Catalog', 'Collection')):
      items = content.get('features') if isinstance(content, dict) else content
      if not isinstance(items, list) or not all(isinstance(i, dict) and 'assets' in i for i in items):
        raise ValueError(f'{path} is neither a STAC catalogue nor a list of STAC items; give the URL of an API or one.')
      items = [_beside(item, path.parent) for item in items]
    elif '://' in self.url and self._api.conforms_to('ITEM_SEARCH'):
      return None
    else:
      with self._answering():
        items = [item.make_asset_hrefs_absolute().to_dict() for item in self._api.get_items(recursive=True)]
    listed = {}
    for sensor, collection in self._collections.items():
      chosen = [item for item in items if item.get('collection') == collection] if collection else []
      scenes = self._scenes(chosen, sensor)
      listed[sensor] = scenes, shapely.STRtree([scene.footprint for scene in scenes])
    if not any(scenes for scenes, _ in listed.values()):
      known = sorted({str(item.get('collection')) for item in items})
      raise ValueError(
        f'{self.url} has no item of {" or ".join(filter(None, self._collections.values()))} with the bands asked for; '
        f'its items are of {", ".join(known) or "no collection"}. Pass s2_collection=... or s1_collection=...'
      )
    return listed

  def _scenes(self, items: Sequence[Mapping[str, Any]], sensor: str) -> list[base.Scene]:
    """Items as scenes; those are left out that lack a geometry or a band, or of which nobody knows the offset."""
    wanted = self.spec.s2_bands if sensor == 'sentinel2' else self.spec.s1_bands
    scenes = {}
    for item in items:
      assets = _assets(item)
      if not item.get('geometry') or not all(band in assets for band in wanted):
        continue
      facts, footprint = sidecar.from_stac(item), _footprint(item['geometry'])
      guessed = sensor == 'sentinel2' and self._product_unit and sidecar.is_reprocessed(facts)
      if footprint is not None and not guessed:
        chosen = {band: assets[band] for band in wanted}
        scenes[item['id']] = self._scene(item, facts, sensor, footprint, chosen)
    return list(scenes.values())

  def _scene(
    self,
    item: Mapping[str, Any],
    facts: sidecar.Facts,
    sensor: str,
    footprint: shapely.Geometry,
    assets: Mapping[str, Mapping[str, Any]],
  ) -> base.Scene:
    facts = facts.over(sidecar.from_name(str(item['id'])))
    where = f'STAC item {item["id"]} of {self.url}'
    if facts.sensor not in ('', sensor):
      raise ValueError(f'{where} is of {facts.sensor}; {self._collections[sensor]!r} was given as of {sensor}.')
    facts = dataclasses.replace(facts, sensor=sensor)  # whose platform an item may leave out
    unit = self._stated.unit(facts)
    if sensor == 'sentinel2' and self._product_unit:
      baseline = str(facts.metadata.get('processing_baseline', ''))
      if not baseline:
        raise ValueError(f'{where} does not say its processing baseline, which s2_unit="product" needs.')
      unit = 'reflectance_x1e4_plus1000' if baseline >= _OFFSET_FROM else 'reflectance_x1e4'
    short = f's{sensor[-1]}'
    if not unit:
      units = sensors.REFLECTANCE_UNITS if sensor == 'sentinel2' else sensors.BACKSCATTER_UNITS
      products = f', or "{PRODUCT_UNIT}" where they are as ESA distributes them' if sensor == 'sentinel2' else ''
      raise ValueError(
        f'{where} does not say, or not reliably, in what unit its numbers are. State {short}_unit=...: one of '
        f'{", ".join(units)}{products}.'
      )
    for name, said, ours in (
      ('s2_level', facts.level, self.spec.s2_level), ('s1_quantity', facts.quantity, self.spec.s1_quantity)
    ):  # fmt: skip
      if said and said != ours:
        raise ValueError(f'{where} says {said}; {name} is {ours!r}. Pass {name}={said!r}, or another collection.')
    if facts.time is None:
      raise ValueError(f'{where} says no time (datetime or start_datetime).')
    # A word ('nan') where JSON has no number for it; None takes the file's own.
    listed = {band: sidecar.stac_raster(asset).get('nodata') for band, asset in assets.items()}
    nodata = {band: None if value is None else float(value) for band, value in listed.items()}
    where_to_read = {'hrefs': {band: asset['href'] for band, asset in assets.items()}, 'unit': unit, 'nodata': nodata}
    if sensor == 'sentinel2' and (cloud_mask := _classified(item)):
      where_to_read['cloud_mask'] = cloud_mask
    return base.Scene(facts.id, sensor, footprint, facts.time, facts.orbit_pass, facts.relative_orbit,
                      {**facts.metadata, **where_to_read})  # fmt: skip

  # ------------------------------------------------------------------ pixels

  @functools.cached_property
  def _sign(self) -> Callable[[str], str]:
    if not self._sign_name:
      return str
    module, _, name = self._sign_name.partition(':')
    try:
      return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as e:
      raise ValueError(
        f'sign={self._sign_name!r}: {e}. Install it (pip install {module.partition(".")[0].replace("_", "-")}), or '
        'name another function as package.module:function.'
      ) from e

  def read(self, scene: base.Scene, grid: base.PatchGrid, bands: Sequence[str]) -> base.Patch:
    """Pixels of `scene` on `grid`, in the unit of its files; `valid` where any band has data.

    Raises:
      ValueError: a band the scene lacks; a file that is not there, or did not come whole in all attempts.
      remote.Denied: the store wants a token, and a new one did not open it either.
    """
    hrefs = scene.metadata['hrefs']
    missing = [band for band in bands if band not in hrefs]
    if missing:
      raise ValueError(f'Scene {scene.id} has no band(s) {", ".join(missing)}; it has {", ".join(hrefs)}.')
    return self._signed(lambda: self._read(scene, grid, bands))

  def cloud_mask_of(self, scene: base.Scene) -> str:
    """What the cloud mask of an optical scene is; ValueError if its item lists none."""
    if 'cloud_mask' not in scene.metadata:
      raise ValueError(
        f'STAC item {scene.id} of {self.url} lists no scene classification (asset "scl" or "SCL"). Take a collection '
        'of Sentinel-2 L2A that has it, as those of Earth Search, of the Planetary Computer and of the Data Space do.'
      )
    return cloudmasks.TITLES[cloudmasks.SCL]

  def cloud_mask(self, scene: base.Scene, grid: base.PatchGrid) -> np.ndarray:
    """bool [H, W]: what the scene classification takes for cloud, shadow or a defect (`cloudmasks.read`).

    Raises:
      ValueError: the item lists none, or as of `read`.
    """
    self.cloud_mask_of(scene)

    def read() -> np.ndarray:
      href = self._sign(scene.metadata['cloud_mask'])
      return cloudmasks.read(cloudmasks.CloudMask(href, cloudmasks.SCL), grid, self._client_of(href))

    return self._signed(read)

  def _signed(self, read: Callable[[], _Read]) -> _Read:
    """What `read` gives, which is called again with a new token where the store wants one."""
    for last in (False, True):
      try:
        return read()
      except remote.Denied as e:
        if last or not self._sign_name:
          mend = 'sign=... gave a token that is not taken.' if self._sign_name else 'Pass sign="package:function".'
          raise remote.Denied(f'{e} {mend}') from None
    raise AssertionError('not reached')

  def _read(self, scene: base.Scene, grid: base.PatchGrid, bands: Sequence[str]) -> base.Patch:
    unit, parts = scene.metadata['unit'], []
    for band in bands:
      href = self._sign(scene.metadata['hrefs'][band])
      where = raster.RasterBand(href, client=self._client_of(href))
      values, valid = raster.read_bands([where], grid, unit, scene.metadata['nodata'][band])
      parts.append((values[..., 0], valid))
    values, valid = raster.stack_bands(parts, unit)
    return base.Patch(values, valid, tuple(bands), unit)

  def _client_of(self, href: str) -> remote.Client | None:
    """By which a URL is read; None where GDAL knows how ('s3://', a path)."""
    return self._client if href.startswith(('http://', 'https://')) else None


def _json(path: pathlib.Path) -> Any:
  try:
    return json.loads(path.read_text())
  except ValueError as e:
    raise ValueError(f'{path} is no readable JSON: {e}.') from e


def _beside(item: Mapping[str, Any], folder: pathlib.Path) -> dict[str, Any]:
  """An item of a file whose assets lie where they are relative to it."""
  assets = dict(item['assets'])
  for key, asset in assets.items():
    href = str(asset.get('href') or '')
    if href and not href.startswith('/') and '://' not in href:
      assets[key] = {**asset, 'href': str(folder / href)}
  return {**item, 'assets': assets}


def _footprint(geometry: Mapping[str, Any]) -> shapely.Geometry | None:
  """An item's outline within -180 to 180 degrees; None of one that no scene can have.

  Catalogues hold outlines across the antimeridian that run the other way round the globe: what is wider than half of
  it is taken to go on past 180 degrees.
  """
  parts = shapely.get_parts(shapely.geometry.shape(geometry))
  bounds = shapely.bounds(parts)
  for k in np.flatnonzero(bounds[:, 2] - bounds[:, 0] > 180):
    parts[k] = base.past_antimeridian(parts[k])
  outline = base.split_antimeridian(shapely.union_all(shapely.make_valid(parts)))
  return outline if abs(base.GEOD.geometry_area_perimeter(outline)[0]) < _WIDEST_M2 else None


def _assets(item: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
  """Band -> the asset with its finest pixels: 'B02', 'blue', 'B02_10m' or 'vv', whatever the catalogue calls it."""
  found: dict[str, tuple[float, str]] = {}
  for key, asset in item['assets'].items():
    band = sidecar.canonical_band(key) or sidecar.band_of_file(key)[0]
    if band:
      about = sidecar.stac_raster(asset)
      pixel_m = float(asset.get('gsd') or about.get('spatial_resolution') or about.get('gsd') or 0)
      found[band] = min(found.get(band, (pixel_m, key)), (pixel_m, key))
  return {band: item['assets'][key] for band, (_, key) in found.items()}


def _classified(item: Mapping[str, Any]) -> str:
  """URL of the finest scene classification that an item lists ('scl', 'SCL', 'SCL_20m'), or ''."""
  found = [
    (float(asset.get('gsd') or sidecar.stac_raster(asset).get('spatial_resolution') or 0), asset['href'])
    for key, asset in item['assets'].items()
    if cloudmasks.of_name(key) == (cloudmasks.SCL, '')
  ]
  return min(found)[1] if found else ''

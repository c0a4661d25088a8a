"""Google Earth Engine: Sentinel-2 surface reflectance and Sentinel-1 backscatter, through the vendor's client."""

import datetime
import functools
import json
import logging
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import shapely
import shapely.geometry

from deepsentinel import sensors
from deepsentinel.sources import base, cloudmasks, remote, sidecar

HIGH_VOLUME = 'https://earthengine-highvolume.googleapis.com'
_CLOUD_SCORE = 'GOOGLE/CLOUD_SCORE_PLUS/V1/S2_HARMONIZED'
_CLEAR = 0.6  # Cloud Score+ at and above which its makers take a pixel as clear
_MASKED = -9999.0  # below any backscatter; Earth Engine itself writes masked pixels as 0, which is a fair value in dB
_MOST_BYTES = 48 << 20  # of one answer, uncompressed
_CLOUD_STEP = 4  # the cloud share of a patch is counted on every fourth pixel


class EarthEngine:
  """Scenes of Earth Engine's catalogue, an answer for each sensor and patch.

  Pixels come on the patch's grid by Earth Engine's default, the nearest pixel; where a patch lies in the scene's own
  UTM zone, those of 10 m are the product's.

  Args:
    project: a Google Cloud project that is registered for Earth Engine. A service account brings its own.
    s2_collection, s1_collection: ids; '' leaves that sensor out. COPERNICUS/S2_SR_HARMONIZED has the +1000 offset
      removed; COPERNICUS/S1_GRD is sigma0 on the ellipsoid in dB, COPERNICUS/S1_GRD_FLOAT in power.
    s2_bands, s1_bands: those wanted.
    key_file: JSON key of a service account; '' takes the credentials that `earthengine authenticate` or gcloud left.
    cloud_score: fills s2_cloud_share from Cloud Score+, patch by patch, instead of from the whole scene.
    url: the API; the high-volume one answers many small requests at once.
    attempts: requests made for one answer before it counts as failed; between them as long as Retry-After asks, or
      0.5, 1, 2 ... seconds.
    timeout_s: longest silence of the server.
  Raises:
    ValueError: no sensor is left, or a collection whose units are not known.
  """

  synthetic = False

  def __init__(
    self,
    project: str = '',
    s2_collection: str = 'COPERNICUS/S2_SR_HARMONIZED',
    s1_collection: str = 'COPERNICUS/S1_GRD',
    s2_bands: Sequence[str] = sensors.SENTINEL2_BANDS,
    s1_bands: Sequence[str] = sensors.SENTINEL1_BANDS,
    key_file: str = '',
    cloud_score: bool = False,
    url: str = HIGH_VOLUME,
    attempts: int = 6,
    timeout_s: float = 120.0,
  ):
    self._arguments = (project, s2_collection, s1_collection, tuple(s2_bands), tuple(s1_bands), key_file, cloud_score,
                       url, attempts, timeout_s)  # fmt: skip
    self.project, self._key_file, self._url = project, key_file, url
    self._collections = {'sentinel2': s2_collection, 'sentinel1': s1_collection}
    bands = [*(s2_bands if s2_collection else ()), *(s1_bands if s1_collection else ())]
    if not bands:
      raise ValueError('Earth Engine needs s2_collection or s1_collection, or both; both are empty.')
    if s2_collection and not s2_collection.startswith('COPERNICUS/S2'):
      raise ValueError(f's2_collection {s2_collection!r}: the known ones begin with COPERNICUS/S2.')
    if s1_collection not in ('', 'COPERNICUS/S1_GRD', 'COPERNICUS/S1_GRD_FLOAT'):
      raise ValueError(
        f's1_collection {s1_collection!r}: the known ones are COPERNICUS/S1_GRD and COPERNICUS/S1_GRD_FLOAT.'
      )
    level = 'L1C' if s2_collection and '_SR' not in s2_collection else 'L2A'
    self.spec = sensors.SensorSpec(tuple(bands), level, 'sigma0_ellipsoid')
    self._transport = remote.Transport(attempts, timeout_s)
    if cloud_score:
      self.cloud_share = self._cloud_share

  def __reduce__(self):
    return type(self), self._arguments

  @functools.cached_property
  def _ee(self) -> Any:
    """The client, signed in; once a process, as it keeps one session for all."""
    import ee  # here: it takes a second, and only this source needs it
    import google.auth.exceptions
    import google.oauth2.service_account

    credentials: Any = 'persistent'
    if self._key_file:
      path = pathlib.Path(self._key_file)
      try:
        credentials = google.oauth2.service_account.Credentials.from_service_account_file(
          str(path), scopes=ee.oauth.SCOPES
        )
      except (OSError, ValueError) as e:
        raise ValueError(f'key_file {path} is no key of a service account ({e}). Make one in the cloud console.') from e
    ee.data.setMaxRetries(0)  # the transport's own retries heed Retry-After
    try:
      ee.Initialize(credentials, url=self._url, project=self.project or None, http_transport=self._transport)
    except (ee.EEException, google.auth.exceptions.GoogleAuthError, ConnectionError) as e:
      raise ValueError(
        f'Earth Engine did not let us in ({remote.first_line(e)}). Run `earthengine authenticate` or pass '
        'key_file=..., and pass project=... of a project that is registered for Earth Engine.'
      ) from e
    return ee

  def connect(self) -> None:
    """Signs in; ValueError says what is missing."""
    _ = self._ee

  def _asked(self, what: str, ask: Callable[[Any], Any]) -> Any:
    """An answer of the client; ValueError says what was asked and what was wrong with it."""
    ee = self._ee
    import google.auth.exceptions

    try:
      return ask(ee)
    except (ee.EEException, google.auth.exceptions.GoogleAuthError, ConnectionError, ValueError, OSError) as e:
      raise remote.refused(_status(e), f'Earth Engine, {what}: {remote.first_line(e)}.') from e

  # ------------------------------------------------------------------ catalogue

  def search(
    self, sensor: str, footprint: shapely.Geometry, start: datetime.datetime, end: datetime.datetime
  ) -> list[base.Scene]:
    """Scenes of `sensor` that meet `footprint`, start <= time < end, in order of (time, id).

    Sentinel-1 scenes of another mode than IW, or without the bands asked for, are left out.
    """
    collection = self._collections.get(sensor)
    if not collection:
      return []
    footprint = base.split_antimeridian(footprint)
    # A box a part, as the client sends long requests another way; `scenes_that_meet` looks at the outline itself.
    boxes = shapely.geometry.MultiPolygon([shapely.box(*part.bounds) for part in shapely.get_parts(footprint)])
    # endTime is the end of sensing: a scene that begins before `end` ends a little later.
    query = {
      'parent': collection, 'startTime': _stamp(start), 'endTime': _stamp(end + datetime.timedelta(minutes=10)),
      'region': json.dumps(shapely.geometry.mapping(boxes)), 'view': 'FULL',
    }  # fmt: skip
    found = self._asked(f'listing {collection}', lambda ee: ee.data.listImages(query))['images']
    scenes = [scene for image in found if (scene := self._scene(image, sensor)) is not None]
    return base.scenes_that_meet(scenes, sensor, footprint, start, end)

  def _scene(self, image: Mapping[str, Any], sensor: str) -> base.Scene | None:
    asset = f'{self._collections[sensor]}/{str(image["name"]).rpartition("/")[2]}'
    properties = image.get('properties', {})
    if sensor == 'sentinel1' and (
      properties.get('instrumentMode', 'IW') != 'IW'
      or not set(self.spec.s1_bands) <= set(properties.get('transmitterReceiverPolarisation') or self.spec.s1_bands)
    ):
      return None
    outline = _outline(image.get('geometry'))
    if outline is None:
      return None
    time = sidecar.parse_time(image['startTime'], asset)
    facts = sidecar.from_earth_engine({**properties, 'system:id': asset, 'system:index': asset.rpartition('/')[2]})
    if not facts.unit:
      raise ValueError(
        f'{asset} does not say its processing baseline, and so not whether it carries the +1000 offset. Use '
        's2_collection="COPERNICUS/S2_SR_HARMONIZED".'
      )
    metadata = {**facts.metadata, 'asset': asset, 'unit': facts.unit}
    return base.Scene(facts.id, sensor, outline, time, facts.orbit_pass, facts.relative_orbit, metadata)

  # ------------------------------------------------------------------ pixels

  def read(self, scene: base.Scene, grid: base.PatchGrid, bands: Sequence[str]) -> base.Patch:
    """Pixels of `scene` on `grid`; ValueError where Earth Engine refuses them or sends others than asked for."""
    unit, bands = scene.metadata['unit'], tuple(bands)
    if scene.sensor == 'sentinel2':
      values = self._pixels(scene.metadata['asset'], grid, bands, None)
      if values.dtype != np.uint16:
        raise ValueError(f'{scene.metadata["asset"]} came as {values.dtype}; Sentinel-2 is uint16.')
      return base.Patch(values, sensors.observed(values, sensors.S2_NODATA), bands, unit)
    values = self._pixels(scene.metadata['asset'], grid, bands, _MASKED).astype(np.float32)
    valid = np.isfinite(values) & (values > _MASKED / 2)
    values[~valid] = np.nan
    return base.Patch(values, valid.any(2), bands, unit)

  def _pixels(self, asset: str, grid: base.PatchGrid, bands: Sequence[str], masked: float | None) -> np.ndarray:
    """[H, W, C] of an asset on a grid; masked pixels as `masked`, or 0 where that is None."""
    height, width = grid.height_px, grid.width_px
    if height * width * len(bands) * (2 if masked is None else 8) > _MOST_BYTES:
      if height >= width:
        parts = [grid.window(row, 0, rows, width) for row, rows in _halves(height)]
      else:
        parts = [grid.window(0, col, height, cols) for col, cols in _halves(width)]
      return np.concatenate([self._pixels(asset, part, bands, masked) for part in parts], 0 if height >= width else 1)
    t = grid.transform
    request = {
      'fileFormat': 'NUMPY_NDARRAY', 'bandIds': list(bands),
      'grid': {
        'dimensions': {'width': grid.width_px, 'height': grid.height_px}, 'crsCode': f'EPSG:{grid.epsg}',
        'affineTransform': {'scaleX': t.a, 'shearX': t.b, 'translateX': t.c, 'shearY': t.d, 'scaleY': t.e,
                            'translateY': t.f},
      },
    }  # fmt: skip

    def ask(ee: Any) -> np.ndarray:
      if masked is None:
        return ee.data.getPixels({**request, 'assetId': asset})
      image = ee.Image(asset).select(list(bands)).unmask(masked, False)
      return ee.data.computePixels({**request, 'expression': image})

    answer = self._asked(f'pixels of {asset}', ask)
    if answer.dtype.names != tuple(bands) or answer.shape != (grid.height_px, grid.width_px):
      raise ValueError(
        f'Earth Engine, pixels of {asset}: {answer.shape} of {answer.dtype.names} came, '
        f'{(grid.height_px, grid.width_px)} of {tuple(bands)} were asked for.'
      )
    return np.stack([answer[band] for band in bands], axis=2)

  def cloud_mask_of(self, scene: base.Scene) -> str:
    """What the cloud mask of an optical scene is; ValueError where its collection has none."""
    if self.spec.s2_level != 'L2A':
      raise ValueError(
        f'{self._collections["sentinel2"]} has no scene classification. Use s2_collection='
        '"COPERNICUS/S2_SR_HARMONIZED", which has.'
      )
    return cloudmasks.TITLES[cloudmasks.SCL]

  def cloud_mask(self, scene: base.Scene, grid: base.PatchGrid) -> np.ndarray:
    """bool [H, W]: what the scene classification takes for cloud, shadow or a defect; ValueError as of `read`."""
    self.cloud_mask_of(scene)
    return np.isin(self._pixels(scene.metadata['asset'], grid, ('SCL',), None)[..., 0], cloudmasks.SCL_HIDDEN)

  def _cloud_share(self, scene: base.Scene, grid: base.PatchGrid) -> float | None:
    """Share of the grid that Cloud Score+ does not call clear, 0 to 1; None where it has no answer."""
    coarse = base.PatchGrid(
      grid.epsg, grid.x0_m, grid.y0_m, -(-grid.height_px // _CLOUD_STEP), -(-grid.width_px // _CLOUD_STEP),
      grid.pixel_m * _CLOUD_STEP,
    )  # fmt: skip
    try:
      score = self._pixels(f'{_CLOUD_SCORE}/{scene.id}', coarse, ('cs',), _MASKED)[..., 0]
    except ValueError as e:
      logging.warning('The cloud share of %s stays unknown: %s', scene.id, e)
      return None
    known = score > _MASKED / 2
    return float((score[known] < _CLEAR).mean()) if known.any() else None


def _halves(length: int) -> tuple[tuple[int, int], tuple[int, int]]:
  """(first, length) of both halves."""
  return (0, length // 2), (length // 2, length - length // 2)


def _outline(geometry: Mapping[str, Any] | None) -> shapely.Geometry | None:
  """A footprint; Sentinel-2's is listed as a ring."""
  if not geometry:
    return None
  shape = shapely.geometry.shape(geometry)
  if shape.geom_type in ('LinearRing', 'LineString'):
    shape = shapely.Polygon(shape.coords)
  return base.split_antimeridian(shapely.make_valid(shape)) if shape.area else None


def _status(error: BaseException) -> int:
  """HTTP status of a request that came to nothing, 0 where the connection did; of quotas 429, whatever their status.

  The client keeps the message only; the error that it was made of has the status.
  """
  if re.search(r'quota|too many|request rate|RESOURCE_EXHAUSTED', str(error), re.IGNORECASE):
    return 429
  reply = getattr(error.__cause__ or error.__context__, 'resp', None)
  return int(reply.status) if reply is not None else 0 if isinstance(error, OSError) else 400


def _stamp(time: datetime.datetime) -> str:
  return time.astimezone(datetime.UTC).strftime('%Y-%m-%dT%H:%M:%S.%fZ')

"""The pixels of an area: which scenes, and their windows in storage units."""

import concurrent.futures
import dataclasses
import datetime
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import shapely
from absl import logging

from deepsentinel import sensors
from deepsentinel.sources import base, remote

CLOUD_UNKNOWN = 255
_FIELDS = {'sentinel2': 's2', 'sentinel1': 's1'}
_S2_STORED, _S1_STORED = (sensors.S2_NODATA, np.uint16), (sensors.S1_NODATA, np.int16)
_NEAR_DEG = 1e-3  # how far a footprint may miss its pixels, about 100 m

_What = TypeVar('_What')
_Pixels = TypeVar('_Pixels')


@dataclasses.dataclass(frozen=True)
class SceneInput:
  """One sensor's scene and where it is read from."""

  source: base.ImagerySource
  scene: base.Scene
  name: str  # of the source
  stated: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # units and whatever else changes its numbers

  def describe(self) -> dict[str, Any]:
    """Plain values that tell this input from another."""
    more = {'stated': dict(self.stated)} if self.stated else {}
    if hasattr(self.source, 'stamps'):
      more['files'] = self.source.stamps(self.scene)
    return {'source': self.name, 'sensor': self.scene.sensor, 'scene': self.scene.id, 'time': self.time, **more}

  @property
  def time(self) -> str:
    return self.scene.time.astimezone(datetime.UTC).strftime('%Y-%m-%dT%H:%M:%SZ')


def require_cloud_masks(source: base.ImagerySource, name: str) -> None:
  """ValueError if a source, called `name`, has no cloud mask of any scene."""
  if not hasattr(source, 'cloud_mask'):
    raise ValueError(
      f'--mask_clouds: {name!r} has no cloud masks. Leave the flag out, or take the scenes from a source that has '
      'them: stac, earthengine, earthone, local files with their scene classification (SCL) beside them, or synthetic.'
    )


def _cloud_mask_of(item: SceneInput) -> str:
  """What the cloud mask of an optical scene is; ValueError if there is none."""
  require_cloud_masks(item.source, item.name)
  said = getattr(item.source, 'cloud_mask_of', None)
  try:
    return said(item.scene) if said else f"{item.name}'s own cloud mask"
  except ValueError as e:
    raise ValueError(f'--mask_clouds: {e} Or leave the flag out.') from e


def _own_grid(item: SceneInput) -> base.PatchGrid | None:
  """The scene's own pixels, where its source knows them as a projected grid."""
  own = getattr(item.source, 'grid', None)
  try:
    return None if own is None else own(item.scene)
  except ValueError:
    return None


class SceneReader:
  """Windows of one scene a sensor, or of a mosaic of several, in the bands a model wants.

  Args:
    inputs: of one sensor or both; of a sensor's scenes the first is on top, and the others fill what it leaves open.
    bands: the model's bands; those that a source does not have are left out of `spec`.
    mask_clouds: optical pixels under the scenes' own cloud masks are nodata, which further scenes fill.
  Raises:
    ValueError: a scene is given twice, none has one of the bands, or clouds are to be masked of one without a mask.
  """

  def __init__(self, inputs: Sequence[SceneInput], bands: Sequence[str], *, mask_clouds: bool = False):
    self.inputs: dict[str, list[SceneInput]] = {}
    for item in inputs:
      self.inputs.setdefault(item.scene.sensor, []).append(item)
    ids = [(i.scene.sensor, i.scene.id) for i in inputs]  # one place's images of both sensors often share a name
    if len(set(ids)) != len(ids):
      raise ValueError(f'A scene is given twice: {", ".join(i.scene.id for i in inputs)}. Name each once.')
    self.bands: dict[str, tuple[str, ...]] = {}
    for sensor, items in self.inputs.items():
      held = tuple(
        b for b in bands if sensors.BANDS[b].sensor == sensor and all(b in i.source.spec.bands for i in items)
      )
      if held:
        self.bands[sensor] = held
    if not self.bands:
      others = list(dict.fromkeys(b for i in inputs for b in i.source.spec.bands))
      raise ValueError(
        f'The model takes {list(bands)}; these scenes have none of them but {others}. Pass scenes with its bands, or a '
        'checkpoint trained on those at hand.'
      )
    self.mask_clouds = mask_clouds
    self._masks = self._known_masks()
    # Where a mosaic ends its scenes do not: only a scene alone is mirrored at its edges.
    self._extents = {sensor: _own_grid(i[0]) if len(i := self.inputs[sensor]) == 1 else None for sensor in self.bands}
    specs = {sensor: items[0].source.spec for sensor, items in self.inputs.items()}
    known = next(iter(specs.values()))
    self.spec = sensors.SensorSpec(
      tuple(b for b in bands if any(b in held for held in self.bands.values())),
      specs.get('sentinel2', known).s2_level,
      specs.get('sentinel1', known).s1_quantity,
    )

  def _known_masks(self) -> dict[str, str]:
    """Optical scene -> what its cloud mask is; scenes without one are left out, or refused where clouds are masked."""
    if self.mask_clouds and 'sentinel2' not in self.bands:
      raise ValueError('--mask_clouds: there is no optical band of these scenes that the model takes. Leave it out.')
    found = {}
    for item in self.inputs['sentinel2'] if 'sentinel2' in self.bands else ():
      try:
        found[item.scene.id] = _cloud_mask_of(item)
      except ValueError:
        if self.mask_clouds:
          raise
    return found

  @property
  def masked_by(self) -> str:
    """By what clouds are masked; '' where they are not."""
    return ', '.join(dict.fromkeys(self._masks.values())) if self.mask_clouds else ''

  def mirrored(self, grid: base.PatchGrid, pixels: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What `read` gave for `grid`, with a scene's pixels mirrored beyond its edges, so that no false edge is seen.

    Only where the source knows the scene's own pixels; nodata inside a scene stays nodata.
    """
    out = dict(pixels)
    for sensor in self.bands:
      extent = self._extents[sensor]
      if extent is None or extent.epsg != grid.epsg:
        continue
      left, bottom, right, top = extent.bounds
      rows = (grid.y0_m - np.array([top, bottom])) / grid.pixel_m
      cols = (np.array([left, right]) - grid.x0_m) / grid.pixel_m
      # Whole pixels inside the scene, to a thousandth of one.
      first, after = np.ceil([rows[0] - 1e-3, cols[0] - 1e-3]), np.floor([rows[1] + 1e-3, cols[1] + 1e-3])
      sides = np.array([grid.height_px, grid.width_px])
      (first_row, first_col), (row, col) = np.clip(first, 0, sides).astype(int), np.clip(after, 0, sides).astype(int)
      out[_FIELDS[sensor]] = mirror_beyond(pixels[_FIELDS[sensor]], first_row, row, first_col, col)
    return out

  def require_overlap(self, outline: shapely.Geometry) -> None:
    """ValueError if a scene shows nothing of the area, given as its WGS84 outline; says where both lie."""
    outline = base.split_antimeridian(outline)
    for sensor in self.bands:
      for item in self.inputs[sensor]:
        if not shapely.intersects(item.scene.footprint, outline):
          raise ValueError(
            f'Scene {item.scene.id} does not touch the area: it lies within {_box(item.scene.footprint)}, the area '
            f'within {_box(outline)} (west,south,east,north). Pass --bounds or --area inside the scene, or another '
            'scene.'
          )

  @property
  def synthetic(self) -> bool:
    return any(item.source.synthetic for sensor in self.bands for item in self.inputs[sensor])

  def describe(self) -> list[dict[str, Any]]:
    return [{**i.describe(), 'bands': list(bands)} for sensor, bands in self.bands.items() for i in self.inputs[sensor]]

  def read(self, grid: base.PatchGrid, *, clouds: bool = False) -> dict[str, np.ndarray]:
    """'s2' uint16 [H, W, C2] and 's1' int16 [H, W, C1] of `grid`, nodata outside the scenes.

    With `clouds` also 'cloud' uint8 [H, W]: 1 cloud, 0 none, CLOUD_UNKNOWN where the scene has no cloud mask or there
    is no optical pixel. Where clouds are masked, it is 1 where their masks left no scene's pixel.
    """
    out = {}
    for sensor, bands in self.bands.items():
      items, hide = self.inputs[sensor], self.mask_clouds and sensor == 'sentinel2'
      values, number, hidden = self._mosaic(items, grid, bands, hide)
      out[_FIELDS[sensor]] = values
      if clouds and sensor == 'sentinel2':
        shown = self._clouds(items, grid, number) if not hide else np.where(number < 0, CLOUD_UNKNOWN, 0)
        out['cloud'] = np.where(hidden, 1, shown).astype(np.uint8)
    if clouds and 'cloud' not in out:
      out['cloud'] = np.full((grid.height_px, grid.width_px), CLOUD_UNKNOWN, np.uint8)
    return out

  @staticmethod
  def _mosaic(
    items: Sequence[SceneInput], grid: base.PatchGrid, bands: tuple[str, ...], hide: bool
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values [H, W, C], each pixel of the first scene that has most of its bands, and its number int [H, W], or -1.

    With `hide` a scene has nothing under its cloud mask. The third, bool [H, W], is where only that left nothing.
    """
    nodata, dtype = _S2_STORED if sensors.BANDS[bands[0]].sensor == 'sentinel2' else _S1_STORED
    hidden = np.zeros((grid.height_px, grid.width_px), bool)

    def read(item: SceneInput) -> np.ndarray:
      found = _read(item, grid, bands)
      observed = sensors.observed(found, nodata)
      if hide and observed.any():
        cloud = observed & item.source.cloud_mask(item.scene, grid)  # type: ignore[attr-defined]
        found[cloud] = nodata
        hidden[cloud] = True
      return found

    if len(items) == 1:  # whatever its footprint says, which may be roughly drawn
      found = read(items[0])
      number = np.where(sensors.observed(found, nodata), 0, -1)
      return found, number, hidden & (number < 0)
    outline = base.split_antimeridian(grid.outline_lonlat(4))
    reached = [i for i, item in enumerate(items) if shapely.dwithin(item.scene.footprint, outline, _NEAR_DEG)]
    values = np.full((grid.height_px, grid.width_px, len(bands)), nodata, dtype)
    known, number = np.zeros(values.shape[:2], int), np.full(values.shape[:2], -1)
    for i in reached:
      if known.size and known.min() == len(bands):
        break
      found = read(items[i])
      held = (found != nodata).sum(-1)
      better = held > known
      values[better], known[better], number[better] = found[better], held[better], i
    return values, number, hidden & (number < 0)

  def _clouds(self, items: Sequence[SceneInput], grid: base.PatchGrid, number: np.ndarray) -> np.ndarray:
    out = np.full(number.shape, CLOUD_UNKNOWN, np.uint8)
    for i, item in enumerate(items):
      shown = number == i
      if item.scene.id not in self._masks or not shown.any():
        continue
      try:
        out[shown] = item.source.cloud_mask(item.scene, grid)[shown]  # type: ignore[attr-defined]
      except (remote.Denied, remote.QuotaError, remote.NoAnswer):
        raise  # the same command, later, can have it
      except ValueError as e:  # nothing else depends on it
        logging.warning('Where scene %s has cloud stays unknown: %s', item.scene.id, e)
        del self._masks[item.scene.id]
    return out


def _read(item: SceneInput, grid: base.PatchGrid, bands: tuple[str, ...]) -> np.ndarray:
  try:
    return item.source.read(item.scene, grid, bands).to_storage()
  except ValueError as e:
    raise ValueError(str(e) if item.scene.id in str(e) else f'Scene {item.scene.id}: {e}') from e


def mirror_beyond(values: np.ndarray, top: int, bottom: int, left: int, right: int) -> np.ndarray:
  """[H, W, C] whose pixels outside rows top..bottom and columns left..right are those inside, mirrored at the edge."""
  height, width = values.shape[:2]
  if (top, left, bottom, right) == (0, 0, height, width) or top >= bottom or left >= right:
    return values
  inside = values[top:bottom, left:right]
  return np.pad(inside, ((top, height - bottom), (left, width - right), (0, 0)), 'symmetric')


def _box(outline: shapely.Geometry) -> str:
  return ','.join(f'{v:.4f}' for v in shapely.bounds(outline))


def valid_pixels(pixels: dict[str, np.ndarray]) -> np.ndarray:
  """bool [H, W]: where any band of any sensor has data."""
  return functools.reduce(np.logical_or, (observed(pixels, field) for field in ('s2', 's1') if field in pixels))


def observed(pixels: dict[str, np.ndarray], field: str) -> np.ndarray:
  """bool [H, W]: where any band of the sensor of `field`, 's2' or 's1', has data; nowhere where it is not there."""
  if field not in pixels:
    return np.zeros(next(iter(pixels.values())).shape[:2], bool)
  return sensors.observed(pixels[field], {'s2': sensors.S2_NODATA, 's1': sensors.S1_NODATA}[field])


def read_ahead(read: Callable[[_What], _Pixels], wanted: Sequence[_What]) -> Iterator[_Pixels]:
  """`read` of everything wanted, in order, the next one on a thread while the caller works on this one."""
  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    ahead = [pool.submit(read, what) for what in wanted[:1]]
    for i in range(len(wanted)):
      pixels = ahead.pop().result()
      if i + 1 < len(wanted):
        ahead.append(pool.submit(read, wanted[i + 1]))
      yield pixels

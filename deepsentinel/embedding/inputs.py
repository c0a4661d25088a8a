"""The pixels of an area: which scenes, and their windows in storage units."""

import dataclasses
import datetime
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import shapely

from deepsentinel import sensors
from deepsentinel.corpus import pairs
from deepsentinel.sources import base

_FIELDS = {'sentinel2': 's2', 'sentinel1': 's1'}


@dataclasses.dataclass(frozen=True)
class SceneInput:
  """One sensor's scene and where it is read from."""

  source: base.ImagerySource
  scene: base.Scene
  name: str  # of the source
  stated: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # units and whatever else changes its numbers

  def describe(self) -> dict[str, Any]:
    """Plain values that tell this input from another."""
    stated = {'stated': dict(self.stated)} if self.stated else {}
    return {'source': self.name, 'sensor': self.scene.sensor, 'scene': self.scene.id, 'time': self.time, **stated}

  @property
  def time(self) -> str:
    return self.scene.time.astimezone(datetime.UTC).strftime('%Y-%m-%dT%H:%M:%SZ')


def _own_grid(item: SceneInput) -> base.PatchGrid | None:
  """The scene's own pixels, where its source knows them as a projected grid."""
  own = getattr(item.source, 'grid', None)
  try:
    return None if own is None else own(item.scene)
  except ValueError:
    return None


class SceneReader:
  """Windows of one scene, or of one scene a sensor, in the bands a model wants.

  Args:
    inputs: one a sensor.
    bands: the model's bands; those that a source does not have are left out of `spec`.
  Raises:
    ValueError: two inputs of one sensor, or none that has one of the bands.
  """

  def __init__(self, inputs: Sequence[SceneInput], bands: Sequence[str]):
    self.inputs = {i.scene.sensor: i for i in inputs}
    if len(self.inputs) != len(inputs):
      raise ValueError(f'One scene a sensor; found {", ".join(i.scene.id for i in inputs)}.')
    self.bands: dict[str, tuple[str, ...]] = {}
    for sensor, item in self.inputs.items():
      held = tuple(b for b in bands if sensors.BANDS[b].sensor == sensor and b in item.source.spec.bands)
      if held:
        self.bands[sensor] = held
    if not self.bands:
      others = [b for i in inputs for b in i.source.spec.bands]
      raise ValueError(f'The model takes {list(bands)}; these scenes have none of them but {others}.')
    self._extents = {sensor: _own_grid(self.inputs[sensor]) for sensor in self.bands}
    specs = {sensor: item.source.spec for sensor, item in self.inputs.items()}
    known = next(iter(specs.values()))
    self.spec = sensors.SensorSpec(
      tuple(b for b in bands if any(b in held for held in self.bands.values())),
      specs.get('sentinel2', known).s2_level,
      specs.get('sentinel1', known).s1_quantity,
    )

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

  def require_overlap(self, grid: base.PatchGrid) -> None:
    """ValueError if a scene shows nothing of the area; says where both lie."""
    outline = base.split_antimeridian(grid.outline_lonlat())
    for sensor in self.bands:
      scene = self.inputs[sensor].scene
      if not shapely.intersects(scene.footprint, outline):
        raise ValueError(
          f'Scene {scene.id} does not touch the area: it lies within {_box(scene.footprint)}, the area within '
          f'{_box(outline)} (west,south,east,north). Pass --bounds inside the scene, or another scene.'
        )

  @property
  def synthetic(self) -> bool:
    return any(self.inputs[sensor].source.synthetic for sensor in self.bands)

  def describe(self) -> list[dict[str, Any]]:
    return [{**self.inputs[sensor].describe(), 'bands': list(bands)} for sensor, bands in self.bands.items()]

  def read(self, grid: base.PatchGrid) -> dict[str, np.ndarray]:
    """'s2' uint16 [H, W, C2] and 's1' int16 [H, W, C1] of `grid`, nodata outside the scenes."""
    out = {}
    for sensor, bands in self.bands.items():
      item = self.inputs[sensor]
      try:
        out[_FIELDS[sensor]] = item.source.read(item.scene, grid, bands).to_storage()
      except ValueError as e:
        raise ValueError(str(e) if item.scene.id in str(e) else f'Scene {item.scene.id}: {e}') from e
    return out


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
  nodata = {'s2': sensors.S2_NODATA, 's1': sensors.S1_NODATA}
  valid = [np.any(values != nodata[field], axis=-1) for field, values in pixels.items()]
  return functools.reduce(np.logical_or, valid)


def nearest_scene(
  source: base.ImagerySource,
  sensor: str,
  grid: base.PatchGrid,
  time: datetime.datetime,
  *,
  search_days: float = 15.0,
  max_cloud: float = 1.0,
) -> tuple[base.Scene, float]:
  """The scene that shows most of the grid and, of those that show as much, is nearest in time; and the share it shows.

  Args:
    source: where to search.
    sensor: 'sentinel2' or 'sentinel1'.
    grid: the area.
    time: timezone-aware.
    search_days: most days from `time`, either way.
    max_cloud: scenes whose catalogue states a larger cloud share are passed over.
  Raises:
    ValueError: there is none.
  """
  outline = base.split_antimeridian(grid.outline_lonlat())
  reach = datetime.timedelta(days=search_days)
  found = pairs.deduplicate(source.search(sensor, outline, time - reach, time + reach))
  scenes = [s for s in found if s.metadata.get('cloud_share', 0) <= max_cloud]
  if not scenes:
    cloudy = f' ({len(found)} have more cloud than --max_cloud={max_cloud})' if found else ''
    raise ValueError(
      f'No {sensor} scene of the area within {search_days:g} days of {time:%Y-%m-%d}{cloudy}. Pass another --date or '
      'a larger --search_days.'
    )

  def share(scene: base.Scene) -> float:
    if shapely.covers(scene.footprint, outline):
      return 1.0
    return shapely.intersection(scene.footprint, outline).area / outline.area

  shares = {s.id: round(share(s), 3) for s in scenes}
  best = min(scenes, key=lambda s: (-shares[s.id], abs(s.time - time), s.id))
  return best, shares[best.id]


def named_scene(scenes: Sequence[base.Scene], wanted: str, flag: str) -> base.Scene:
  """The scene called `wanted`, or the only one; ValueError lists those there are."""
  names = ', '.join(s.id for s in scenes[:12]) + (f' and {len(scenes) - 12} others' if len(scenes) > 12 else '')
  if wanted:
    for scene in scenes:
      if scene.id == wanted:
        return scene
    raise ValueError(f'{flag}={wanted!r} is not among the scenes: {names}.')
  if len(scenes) != 1:
    raise ValueError(f'{len(scenes)} scenes to choose from; name one with {flag}=... There are: {names}.')
  return scenes[0]

"""What Sentinel-2 sees: surface reflectance with season, relief, haze, cloud and shadow."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from deepsentinel import sensors
from deepsentinel.sources.syntheticearth import clouds, lattice, materials
from deepsentinel.sources.syntheticearth.landscape import Surface
from deepsentinel.sources.syntheticearth.lattice import Points, noise, smoothstep, unit

_BANDS = sensors.SENTINEL2_BANDS
# Per band, B1 to B12: how much of the haze is left, sky light in shadow, a cloud's and cirrus' colour.
_HAZE = np.array((1.0, 0.82, 0.55, 0.37, 0.32, 0.28, 0.25, 0.22, 0.20, 0.17, 0.05, 0.02), np.float32)
_SKY_LIGHT = np.array((0.62, 0.55, 0.46, 0.40, 0.37, 0.35, 0.34, 0.33, 0.32, 0.31, 0.27, 0.25), np.float32)
_CLOUD = np.array((0.98, 0.96, 0.95, 0.96, 0.97, 0.98, 0.99, 1.0, 1.0, 0.80, 0.62, 0.47), np.float32)
_CIRRUS = np.array((0.62, 0.58, 0.54, 0.52, 0.51, 0.50, 0.50, 0.49, 0.48, 0.40, 0.27, 0.20), np.float32)
_BROWNING = {
  'natural grass': 0.95, 'pasture': 0.75, 'gardens': 0.3, 'park': 0.3, 'young trees': 0.45, 'fallow': 0.9, 'heath': 0.4,
  'sparse': 1.0, 'orchard': 0.35, 'vineyard': 0.25, 'broadleaf': 0.2, 'marsh': 0.3,
}  # fmt: skip
_WATER = ('sea', 'river', 'lake')
_THROUGH_WATER = (1, 0.95, 0.8, 0.4, 0.3, 0.12, 0.1, 0.08, 0.06, 0.06, 0.01, 0.0)
_SNOW_CATCH = {
  'conifer': 0.28,
  'broadleaf': 0.4,
  'young trees': 0.6,
  'tile roofs': 0.75,
  'grey roofs': 0.6,
  'paved': 0.4,
  'sea': 0.0,
}


@dataclasses.dataclass(frozen=True)
class Sun:
  elevation_deg: float
  azimuth_deg: float


def effective_day(surface: Surface, lat: np.ndarray, day: float) -> np.ndarray:
  """Day of a temperate year (50 degrees north) with the same state of growth, float32 [N], 0 to 365."""
  a = np.abs(lat)
  north_day = (day + np.where(lat < 0, 182.6, 0)) % 365.25
  # Seasons are short in the cold and fade away in the tropics.
  short = 1 + np.clip(0.03 * (a - 48) + 0.0003 * np.maximum(surface.elevation, 0), -0.33, 0.75)
  short = short * (0.12 + 0.88 * smoothstep(a, 12, 30))
  jitter = (unit(lattice.mix(surface.parcel + np.uint32(31))) - 0.5) * 26
  return np.clip(203 + (north_day - 203) * short + 16 * np.minimum(surface.dry, 0.8) + jitter, 0, 364.9).astype(
    np.float32
  )


def soil_index(surface: Surface) -> np.ndarray:
  """int [N], index into materials.SOILS."""
  value = surface.soil + 0.55 * (unit(surface.parcel, 16) - 0.5) + 0.25 * surface.mottle
  index = np.where(value > 0.62, 1, np.where(value < -0.6, 2, 0))
  return np.where((surface.dry > 0.34) & (surface.moist + value < -0.1), 3, index)


def _lookup(values: dict[str, float], default: float) -> np.ndarray:
  return np.array([values.get(name, default) for name in materials.NAMES], np.float32)


def ground_reflectance(surface: Surface, points: Points, day: float, band: list[int]) -> np.ndarray:
  """float32 [C, N]: reflectance of the ground under even light.

  Args:
    surface: the ground.
    points: its places.
    day: of the year.
    band: positions in sensors.SENTINEL2_BANDS.
  """
  main, contrast = (np.ascontiguousarray(np.moveaxis(t[..., band], -1, 0)) for t in materials.optical_tables())
  growth_day = effective_day(surface, points.lat, day)
  soil = soil_index(surface)
  m = surface.material.astype(np.int64)
  when = (growth_day / materials.DAY_STEP).astype(np.int64)
  kind = m * len(materials.SOILS) + soil
  value = main.reshape(len(band), -1).take(kind * materials.DAYS + when, axis=1)
  other = contrast.reshape(len(band), -1).take(kind, axis=1)
  speckled = 0.9 * surface.grain + 0.75 * surface.texture + 0.5 * surface.mottle
  stripes = np.sin(surface.parcel_v * np.float32(0.19)) * np.float32(0.25)
  strength = materials.texture_strength().take(m)
  blend = np.clip(strength * (np.float32(0.55) + np.float32(2.3) * speckled + stripes), 0, 0.85)
  _blend(value, blend, other)

  # Summer drought bleaches what has no deep roots.
  drought = surface.dry * smoothstep(growth_day, 140, 195) * smoothstep(growth_day, 330, 270)
  if drought.any():
    brown = _lookup(_BROWNING, 0.0).take(m) * np.clip(np.float32(1.5) * drought, 0, 0.9)
    _blend(value, brown, _component('dry grass', band))
  _blend(value, surface.road, _component('asphalt', band))
  if surface.hedge.any():
    trees = main[:, materials.INDEX['broadleaf'], 0].take(when, axis=1)
    _blend(value, surface.hedge, trees * np.float32(0.85))
  # Every parcel, stand and roof has its own shade.
  own = 1 + np.float32(0.26) * (unit(lattice.mix(surface.parcel + np.uint32(5))) - np.float32(0.5))
  own *= 1 + np.float32(0.10) * surface.mottle
  water = np.isin(surface.material, [materials.INDEX[name] for name in _WATER])
  value *= np.where(water, 1 + np.float32(0.05) * surface.mottle, own)
  shallow = np.flatnonzero(water & (surface.elevation > -3) & (surface.elevation < 0))
  if len(shallow):
    sand = _component('sand', band) * np.array(_THROUGH_WATER, np.float32)[band][:, None]
    seen = value[:, shallow]
    _blend(seen, 0.3 * np.exp(surface.elevation[shallow] / np.float32(0.9)), sand)
    value[:, shallow] = seen
  return value


def _component(name: str, band: list[int]) -> np.ndarray:
  """float32 [C, 1]."""
  return np.array(materials.COMPONENTS[name], np.float32)[band][:, None]


def _blend(value: np.ndarray, share: np.ndarray, other: np.ndarray) -> None:
  """Mixes `share` [N] of `other` [C, N] or [C, 1] into value [C, N], in place; a share of 1 leaves exactly `other`."""
  rest = 1 - share
  for band, target in zip(value, np.broadcast_to(other, (len(value), other.shape[1])), strict=True):
    band *= rest
    band += target * share


def snow_share(surface: Surface, points: Points, day: float, weather_salt: int) -> np.ndarray:
  """float32 [N]: share of the pixel under snow."""
  shifted = day + np.where(points.lat < 0, 182.6, 0)
  swing = 7 + 0.16 * np.clip(np.abs(points.lat) - 20, 0, 45)
  now = surface.temperature - swing * np.cos((shifted - 18) / 365.25 * 2 * np.pi)
  if float(now.min()) > 9:
    return np.zeros(len(points), np.float32)
  now = now + 9 * noise(points, 300e3, weather_salt) + 1.2 * surface.mottle + 0.6 * surface.texture
  frozen = np.isin(surface.material, [materials.INDEX['lake'], materials.INDEX['river']])
  share = smoothstep(now, -1.2, -4.5) * _lookup(_SNOW_CATCH, 0.95).take(surface.material)
  share = np.where(frozen, smoothstep(now, -7, -9) * 0.85, share)
  return (share * (1 - 0.6 * surface.road)).astype(np.float32)


def illumination(surface: Surface, sun: Sun) -> np.ndarray:
  """float32 [N]: light on a slope relative to flat ground, with what the terrain correction left of it."""
  zenith, azimuth = np.radians(90 - max(sun.elevation_deg, 10.0)), np.radians(sun.azimuth_deg)
  east, north = surface.slope_east, surface.slope_north
  tilt = (-east * np.sin(azimuth) - north * np.cos(azimuth)) * np.tan(zenith)
  light = np.maximum(1 + tilt, 0) / np.sqrt(1 + east * east + north * north)
  return np.clip(0.22 + 0.78 * light, 0.22, 1.7).astype(np.float32)


def reflectance(
  surface: Surface,
  points: Points,
  bands: list[str],
  day: float,
  sun: Sun,
  weather: clouds.Weather,
  sky: clouds.Sky,
  shade: np.ndarray,
  snow_salt: int,
) -> np.ndarray:
  """float32 [C, N] at 10 m, before the coarser bands are averaged.

  Args:
    surface: the ground. points: its places. bands: names. day: of the year. sun: at the scene.
    weather: of the datatake. sky: over the points. shade: float32 [N] 0..1, shadow of clouds.
    snow_salt: of these days' weather.
  """
  band = [_BANDS.index(name) for name in bands]
  value = ground_reflectance(surface, points, day, band)
  snow = snow_share(surface, points, day, snow_salt)
  if snow.any():
    _blend(value, snow, _component('snow', band) * (np.float32(0.9) + np.float32(0.15) * surface.mottle))
  value *= illumination(surface, sun)
  if shade.any():
    value *= 1 - shade * (1 - _SKY_LIGHT[band][:, None])
  value += np.float32(weather.aerosol) * sky.haze * _HAZE[band][:, None] * (1 - value)
  if sky.cirrus.any():
    _blend(value, sky.cirrus, _CIRRUS[band][:, None])
  if sky.opacity.any():
    top = sky.bright * np.float32(0.82 + 0.18 * np.sin(np.radians(sun.elevation_deg)))
    _blend(value, sky.opacity, top * _CLOUD[band][:, None])
  return value


def sensor_noise(
  rows: np.ndarray, cols: np.ndarray, salt: int, value: np.ndarray, numbers: Sequence[int] | None = None
) -> np.ndarray:
  """Radiometric noise as a function of scene, pixel and band: value float32 [C, H, W] with noise added.

  `numbers` are those of the bands in the sensor's own order, so that a band is the same whichever are read with it.
  """
  numbers = range(len(value)) if numbers is None else numbers
  row_hash = lattice.hash_ints(rows, salt)[:, None]
  h = lattice.mix(row_hash ^ (cols.astype(np.uint32)[None] * np.uint32(0x9E3779B1)))
  for number in range(max(numbers) + 1):
    h = lattice.mix(h + np.uint32(number + 1))
    if number in numbers:
      c = numbers.index(number)
      # Sum of two uniforms: a triangle, near enough to a Gaussian for noise below one per cent.
      n = unit(h) + unit(h, 16) - 1
      value[c] += n * (np.float32(0.0022) + np.float32(0.008) * value[c])
  return value


def coarsen(value: np.ndarray, factor: int) -> np.ndarray:
  """Averages [H, W] over factor x factor blocks and repeats them: a coarser band on the 10 m grid."""
  h, w = value.shape
  mean = value.reshape(h // factor, factor, w // factor, factor).mean(axis=(1, 3))
  return np.repeat(np.repeat(mean, factor, axis=0), factor, axis=1)

"""What Sentinel-1 sees: sigma0 with incidence, slope, moisture, wind and speckle."""

from collections.abc import Sequence

import numpy as np

from deepsentinel.sources.syntheticearth import lattice, materials, optics
from deepsentinel.sources.syntheticearth.landscape import Surface
from deepsentinel.sources.syntheticearth.lattice import Points, noise, unit

# Three-tap smoothing of single-look intensity: the sum of the squared 2-D weights is 1 / 4.4, so 4.4 looks, and
# neighbouring pixels correlate by 0.48, the next ones by 0.07 (IW GRD: 20 x 22 m resolution on 10 m pixels).
_TAP = (4 - np.sqrt(16 - 24 * (1 - np.sqrt(1 / 4.4)))) / 12
_NOISE_FLOOR = np.float32(10 ** (-2.75))
_REFERENCE_DEG = 38.0
_WATER = ('sea', 'river', 'lake')
_CANOPY = ('conifer', 'broadleaf', 'young trees')
_BUILT = ('tile roofs', 'grey roofs', 'large roofs', 'gardens', 'paved')


def backscatter_db(
  surface: Surface, points: Points, bands: list[str], day: float, date: int, incidence_deg: np.ndarray,
  descending: bool, salt: int, seed: int,
) -> np.ndarray:  # fmt: skip
  """float32 [C, N] sigma0 in dB without speckle.

  Args:
    surface: the ground. points: its places. bands: of VV, VH. day: of the year. date: days since 1970.
    incidence_deg: [N]. descending: direction of flight. salt: of the pass. seed: of the world.
  """
  table, growth, grain_db = materials.radar_tables()
  m = surface.material.astype(np.int64)
  when = (optics.effective_day(surface, points.lat, day) / materials.DAY_STEP).astype(np.int64)
  polarisation = [('VV', 'VH').index(b) for b in bands]
  db = np.moveaxis(table[..., polarisation], -1, 0).reshape(len(bands), -1).take(m * materials.DAYS + when, axis=1)
  grown = growth.ravel().take(m * materials.DAYS + when)
  water = np.isin(surface.material, [materials.INDEX[n] for n in _WATER])
  built = np.isin(surface.material, [materials.INDEX[n] for n in _BUILT])

  # Moisture: rain some days ago wets a region, and soils keep it differently.
  rain = noise(points, 70e3, lattice.salt_of(seed, 'rain', date // 3)) + 0.6 * noise(
    points, 21e3, lattice.salt_of(seed, 'rain2', date // 3)
  )
  # Fields differ from their neighbours; canopies, whose stands see the same weather and thin out gradually, less so.
  canopy = np.isin(surface.material, [materials.INDEX[n] for n in _CANOPY])
  own, lot = (
    np.where(canopy, 0.35 * u + 0.9 * smooth, u)
    for u, smooth in (
      (unit(lattice.mix(surface.parcel + np.uint32(11))) - 0.5, surface.mottle),
      (unit(lattice.mix(surface.parcel + np.uint32(37))) - 0.5, surface.texture),
    )
  )
  tilled = unit(lattice.mix(surface.parcel + np.uint32(date // 30 + 71))) - 0.5
  wet = np.where(
    water | built, 0, 4.2 * rain * (1 - 0.6 * grown) + 1.4 * np.clip(surface.moist, -1, 1) - 1.6 * surface.dry
  )
  db += wet.astype(np.float32)
  rough = np.where(water, 0, 3.6 * own + 4.0 * tilled * (1 - grown))
  db += rough.astype(np.float32)
  # Structure of the canopy, on which VH depends more than VV.
  structure = np.where(water, 0, 2.6 * lot)
  db += structure.astype(np.float32) * np.array([(-0.2, 0.8)[p] for p in polarisation], np.float32)[:, None]
  spread = grain_db.take(m)
  db += spread * (1.9 * surface.grain + 1.6 * surface.texture + 1.0 * surface.mottle)

  # Corner reflectors: a few lots return most of a town's power.
  corner = unit(lattice.mix(surface.parcel + np.uint32(23)))
  db += np.where(built, 7.0 * np.maximum(corner - 0.6, 0) / 0.4 - 1.2, 0).astype(np.float32)

  wind = 5.5 * noise(points, 26e3, salt + 3) + 2.5 * noise(points, 3.5e3, salt + 4)
  ripple = np.where(water, wind + 4.0 * (unit(np.array([lattice.mix(np.array([salt], np.uint32))[0]]))[0] - 0.5), 0)
  share = np.array([(1.0, 0.45)[p] for p in polarisation], np.float32)
  db += ripple.astype(np.float32) * share[:, None]
  db -= (10 * surface.road * np.where(built, 0.25, 0.55)).astype(np.float32)
  db += np.float32(3.0) * surface.hedge

  steepness = np.where(water, 0.42, np.where(built, 0.06, 0.115)).astype(np.float32)
  db -= (steepness * (incidence_deg - _REFERENCE_DEG)).astype(np.float32)
  azimuth = np.radians(282.0 if descending else 78.0)
  facing = np.arctan(surface.slope_east * np.sin(azimuth) + surface.slope_north * np.cos(azimuth))
  theta = np.radians(incidence_deg)
  fore = np.sin(theta) / np.clip(np.sin(theta - facing), 0.12, None)
  fore = np.where(theta - facing > np.radians(88), 0.05, fore)
  db += (9 * np.log10(np.clip(fore, 0.05, 8))).astype(np.float32)
  return db


def speckled(
  db: np.ndarray, rows: np.ndarray, cols: np.ndarray, salt: int, numbers: Sequence[int] | None = None
) -> np.ndarray:
  """One look's worth of exponential fading, smoothed with the scene to the product's resolution.

  Args:
    db: float32 [C, H + 2, W + 2] with one pixel of margin.
    rows, cols: int [H + 2], [W + 2] pixel numbers in the UTM zone: the fading is tied to them.
    salt: of the scene.
    numbers: of the C bands in the sensor's own order, so that a band is the same whichever are read with it.
  Returns:
    float32 [C, H, W] dB.
  """
  power = np.exp(db * np.float32(np.log(10) / 10)) + _NOISE_FLOOR
  row_hash = lattice.hash_ints(rows, salt)[:, None]
  h = lattice.mix(row_hash ^ (cols.astype(np.uint32)[None] * np.uint32(0x9E3779B1)))
  numbers = range(len(power)) if numbers is None else numbers
  for number in range(max(numbers) + 1):
    h = lattice.mix(h + np.uint32(101 + number))
    if number in numbers:
      uniform = ((h >> np.uint32(8)).astype(np.float32) + np.float32(0.5)) * np.float32(2**-24)
      power[numbers.index(number)] *= -np.log(uniform)
  b, a = np.float32(_TAP), np.float32(1 - 2 * _TAP)
  power = b * (power[:, :-2] + power[:, 2:]) + a * power[:, 1:-1]
  power = b * (power[:, :, :-2] + power[:, :, 2:]) + a * power[:, :, 1:-1]
  return np.float32(10 / np.log(10)) * np.log(np.maximum(power, np.float32(1e-6)))

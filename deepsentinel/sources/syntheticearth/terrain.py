"""The slow fields of the world: continents, relief, climate, and how much people use the land."""

import dataclasses

import numpy as np

from deepsentinel.sources.syntheticearth import lattice
from deepsentinel.sources.syntheticearth.lattice import Points, fractal, noise, smoothstep

MACRO_SPACING_M = 700.0
RELIEF_SPACING_M = 90.0
_MACRO = ('land', 'mountain', 'hill', 'moist', 'human', 'style', 'lakes', 'soil', 'forest', 'pasture')


@dataclasses.dataclass
class Macro:
  """Fields float32 [N] that vary over kilometres.

  Attributes:
    land: metres above the sea that the continent alone would have; the coast lies near 0.
    mountain, hill: 0..1, share of alpine and of hilly relief.
    moist: about -1..1.
    human: about -1..1, how densely the land is used.
    style: about -1..1, small strips to large open fields.
    lakes: 0..1, lake district.
    soil: about -1..1, soil colour.
    forest, pasture: about -1..1, propensities.
  """

  land: np.ndarray
  mountain: np.ndarray
  hill: np.ndarray
  moist: np.ndarray
  human: np.ndarray
  style: np.ndarray
  lakes: np.ndarray
  soil: np.ndarray
  forest: np.ndarray
  pasture: np.ndarray


def macro_fields(points: Points, seed: int) -> Macro:
  """The macro fields evaluated at the points themselves (nodes of networks; `macro` interpolates for pixels)."""
  s = lambda name: lattice.salt_of(seed, 'macro', name)  # noqa: E731
  land = 255 * (fractal(points, 210e3, 4, s('land')) + 0.53)
  range_field = fractal(points, 150e3, 3, s('mountain'))
  mountain = smoothstep(range_field, 0.16, 0.46) * smoothstep(land, 10, 60)
  hill = smoothstep(fractal(points, 45e3, 2, s('hill')) + 0.7 * range_field, -0.25, 0.45)
  return Macro(
    land=land,
    mountain=mountain,
    hill=hill,
    moist=2.4 * fractal(points, 110e3, 3, s('moist')),
    human=2.4 * fractal(points, 42e3, 3, s('human')) - 1.6 * mountain,
    style=2.4 * fractal(points, 30e3, 2, s('style')) - 0.5 * hill,
    lakes=smoothstep(fractal(points, 60e3, 2, s('lakes')), 0.12, 0.45) * (1 - mountain),
    soil=2.4 * fractal(points, 24e3, 3, s('soil')),
    forest=2.4 * fractal(points, 7.5e3, 4, s('forest'), gain=0.6),
    pasture=2.4 * fractal(points, 12e3, 3, s('pasture'), gain=0.6),
  )


def macro(points: Points, seed: int) -> Macro:
  """The macro fields at pixels, interpolated from nodes 700 m apart."""

  def stack(nodes: Points) -> np.ndarray:
    fields = macro_fields(nodes, seed)
    return np.stack([getattr(fields, name) for name in _MACRO])

  values, _ = lattice.sampled(points, MACRO_SPACING_M, lattice.salt_of(seed, 'macro nodes'), stack, smooth=False)
  return Macro(*values)


def mean_temperature(lat: np.ndarray, elevation: np.ndarray) -> np.ndarray:
  """Yearly mean, degrees C: a fit to European stations (14.5 at 40, 10 at 50, 5.5 at 60 degrees), -6 per km."""
  return 28 - 0.45 * np.maximum(np.abs(lat) - 10, 0) - 0.006 * elevation


def dryness(lat: np.ndarray, moist: np.ndarray) -> np.ndarray:
  """0..1: 0 temperate or rain forest, about 0.5 Mediterranean or savanna, 1 desert."""
  a = np.abs(lat)
  mediterranean = 0.62 * (1 - smoothstep(a, 38, 46.5))
  desert = 1.0 * np.exp(-(((a - 24) / 9.0) ** 2))
  wet = 0.6 * np.exp(-((a / 9.0) ** 2))
  return np.clip(np.maximum(mediterranean * smoothstep(a, 20, 34), desert) - wet - 0.22 * moist, 0, 1.2)


def potential(points: Points, fields: Macro, seed: int) -> np.ndarray:
  """The height that rivers run down: relief without its details, float32 [N]."""
  broad = fractal(points, 26e3, 2, lattice.salt_of(seed, 'valleys'))
  return fields.land + 900 * fields.mountain * (0.6 + broad) + (70 + 160 * fields.hill) * broad


def warp(points: Points, seed: int) -> tuple[np.ndarray, np.ndarray]:
  """Metres (east, north) by which straight lines of the networks are bent: meanders, float32 [N] each."""
  s = lattice.salt_of(seed, 'warp')
  bend = [400 * noise(points, 1400, s + k) + 115 * noise(points, 520, s + 10 + k) for k in (0, 1)]
  return bend[0], bend[1]


def elevation(points: Points, fields: Macro, river_m: np.ndarray, seed: int) -> np.ndarray:
  """Metres above the sea, float32 [N]; below 0 is sea.

  Args:
    points: where.
    fields: macro fields there.
    river_m: distance to the next river: relief flattens towards it.
    seed: of the world.
  """
  s = lattice.salt_of(seed, 'relief')
  coast = 5.0 * fractal(points, 8000, 6, s + 1, gain=0.62)
  shore = smoothstep(fields.land, -2, 40)
  valley = 0.25 + 0.75 * smoothstep(river_m, 60, 1700)
  hills = (16 + 150 * fields.hill) * (fractal(points, 5200, 5, s + 2, gain=0.48) + 0.25)
  alps = fields.mountain * 1900 * (fractal(points, 11e3, 6, s + 3, gain=0.5, ridged=True) - 0.12)
  broad = fields.mountain * 500
  return fields.land * 0.9 + coast + shore * valley * (hills + alps) + shore * broad

"""Clouds of one datatake: continuous over the whole pass, U-shaped in share, with height, thin cirrus and haze."""

import dataclasses
import functools

import numpy as np
import scipy.special
import scipy.stats

from deepsentinel.sources.syntheticearth import lattice
from deepsentinel.sources.syntheticearth.lattice import METRES_PER_DEGREE, Points, fractal, noise, smoothstep

NODE_M = 48.0
# Beta(0.38, 0.31): mean 0.55, most scenes nearly clear or nearly overcast (cf. MODIS and SEN12TP statistics over land).
_COVER_ALPHA, _COVER_BETA = 0.38, 0.31
_SIGMA = 0.277  # standard deviation of lattice.fractal
MASK_OPACITY = 0.2
_THICKNESS = 0.085  # of texture above its threshold that lets 1/e through
_RIM = _THICKNESS * (-np.log(1 - MASK_OPACITY)) ** (1 / 1.3)


@dataclasses.dataclass(frozen=True)
class Weather:
  """One datatake's weather.

  Attributes:
    salt: seeds all of its fields.
    pass_lon: longitude of the pass's descending node, degrees; cirrus is laid out about it.
  """

  salt: int
  pass_lon: float = 0.0

  def _u(self, name: str) -> float:
    return lattice.salt_of(self.salt, name) / 2**32

  @property
  def height_m(self) -> float:
    return 700 + 2600 * self._u('height') ** 1.5

  @property
  def aerosol(self) -> float:
    """How hazy the air is beyond what the atmospheric correction removed, about 0.0 to 0.04 in the blue."""
    return 0.003 + 0.035 * self._u('aerosol') ** 3

  def _cover_field(self, points: Points) -> np.ndarray:
    """Standard normal, varies over some hundred kilometres."""
    z = noise(points, 420e3, self.salt + 1) + 0.75 * noise(points, 150e3, self.salt + 2)
    z += 0.35 * noise(points, 52e3, self.salt + 3)
    # The datatake's own level: weather systems are larger than a pass is wide.
    level = scipy.special.ndtri(min(max(self._u('level'), 1e-4), 1 - 1e-4))
    return 0.75 * level + 0.66 * z / (_SIGMA * 1.31)

  def _texture(self, nodes: Points, bent: Points, threshold: float | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[N] each: cloud texture above its threshold, its fine part, and the cover field."""
    z = self._cover_field(nodes)
    layered = smoothstep(noise(nodes, 230e3, self.salt + 4) + 0.5 * (self._u('layered') - 0.4) + 0.12 * z, -0.35, 0.35)
    layered = 0.25 + 0.72 * layered
    billows = fractal(bent, 1250, 5, self.salt + 20, gain=0.62)
    decks = fractal(bent, 9500, 7, self.salt + 40, gain=0.64)
    texture = layered * decks + np.sqrt(1 - layered**2) * billows
    return texture - (threshold_of(z) if threshold is None else threshold), billows, z

  def _fields(self, nodes: Points, threshold: float | None) -> np.ndarray:
    """[4, N]: cloud texture above its threshold, cirrus, haze, brightness texture."""
    bent = self._bent(nodes)
    texture, billows, z = self._texture(nodes, bent, threshold)
    cirrus = 0.85 * fractal(self._streaks(bent), 1400, 5, self.salt + 60, gain=0.72)
    cirrus += 1.1 * noise(nodes, 90e3, self.salt + 5) + 0.9 * (self._u('cirrus') - 0.78) + 0.06 * z
    haze = 1 + 1.2 * noise(nodes, 40e3, self.salt + 6) + 0.4 * np.tanh(z)
    return np.stack([texture, cirrus, haze, billows])

  def _bent(self, points: Points) -> Points:
    """The plane bent by some kilometres: gradient noise by itself lines up with its lattice."""
    east, north = (
      5500 * noise(points, 24e3, self.salt + 80 + k) + 700 * noise(points, 4300, self.salt + 90 + k) for k in (0, 1)
    )
    return points.shifted(east, north)

  def _streaks(self, points: Points) -> Points:
    """The plane squeezed 7 times along the wind aloft, so that isotropic noise becomes fibres.

    Longitudes count from the pass: the cut lies on the far side of the Earth, and none at Greenwich.
    """
    angle = np.pi * self._u('wind')
    x, y = np.cos(angle), np.sin(angle)
    east, north = 0.65 * lattice.wrap_degrees(points.lon - self.pass_lon), points.lat
    along, across = x * east + y * north, x * north - y * east
    return Points.of(180 + along / 35, across / 5)

  def threshold_for(self, points: Points, share: float) -> float:
    """The threshold that puts cloud over `share` of exactly these points, for `at` and `opacity`."""
    if share <= 0 or share >= 1:
      return 9.0 if share <= 0 else -9.0
    # A cloud's rim only counts from a certain thickness on.
    return float(np.quantile(self._sampled_texture(points, 0.0), 1 - share)) - _RIM

  def _sampled_texture(self, points: Points, threshold: float | None) -> np.ndarray:
    texture = lambda nodes: self._texture(nodes, self._bent(nodes), threshold)[0][None]  # noqa: E731
    return lattice.sampled(points, NODE_M, self.salt, texture, smooth=True)[0][0]

  def at(self, points: Points, threshold: float | None = None) -> 'Sky':
    """The sky over points; `threshold` (of `threshold_for`) instead of the weather's own amount of cloud and cirrus."""
    fields = functools.partial(self._fields, threshold=threshold)
    sky = _sky(*lattice.sampled(points, NODE_M, self.salt, fields, smooth=True)[0])
    return sky if threshold is None else dataclasses.replace(sky, cirrus=np.zeros_like(sky.cirrus))

  def opacity(self, points: Points, threshold: float | None = None) -> np.ndarray:
    """float32 [N]: that of `at`, for a third of its work."""
    return _opacity(self._sampled_texture(points, threshold))

  def covered(self, points: Points) -> np.ndarray:
    """bool [N]: cloud over points far apart, as a catalogue's share is made of; within some per cent of the pixels'."""
    return _sky(*self._fields(points, None)).mask


def _sky(texture: np.ndarray, cirrus: np.ndarray, haze: np.ndarray, billows: np.ndarray) -> 'Sky':
  wisps = smoothstep(cirrus, 0.12, 0.75) * 0.42
  bright = 0.5 + 0.30 * smoothstep(texture, 0.02, 0.42) + 0.13 * billows
  return Sky(_opacity(texture), *(f.astype(np.float32) for f in (wisps, np.maximum(haze, 0.1), bright)))


def _opacity(texture: np.ndarray) -> np.ndarray:
  opacity = 1 - np.exp(-((np.maximum(texture, 0) / _THICKNESS) ** 1.3))
  return np.where(opacity > 0.985, 1, opacity).astype(np.float32)


@dataclasses.dataclass
class Sky:
  """float32 [N] each: opacity of thick cloud, of cirrus, haze about 1, brightness of the cloud top."""

  opacity: np.ndarray
  cirrus: np.ndarray
  haze: np.ndarray
  bright: np.ndarray

  @property
  def mask(self) -> np.ndarray:
    """bool [N]: what a careful cloud mask would call cloud."""
    return 1 - (1 - self.opacity) * (1 - self.cirrus) > MASK_OPACITY


@functools.lru_cache(maxsize=1)
def _knots() -> tuple[np.ndarray, np.ndarray]:
  z = np.linspace(-4, 4, 401)
  cover = scipy.stats.beta.ppf(scipy.special.ndtr(z), _COVER_ALPHA, _COVER_BETA)
  threshold = -_SIGMA * scipy.special.ndtri(np.clip(cover, 1e-7, 1 - 1e-7)) * 1.15
  return z, threshold


def threshold_of(z: np.ndarray) -> np.ndarray:
  """Standard normal to the texture value above which there is cloud."""
  knots, threshold = _knots()
  return np.interp(z, knots, threshold)


def towards_sun(points: Points, height_m: float, sun_elevation_deg: float, sun_azimuth_deg: float) -> Points:
  """Where the cloud stands whose shadow falls on the points."""
  away = height_m / np.tan(np.radians(max(sun_elevation_deg, 12.0)))
  azimuth = np.radians(sun_azimuth_deg)
  lat = points.lat + away * np.cos(azimuth) / METRES_PER_DEGREE
  lon = points.lon + away * np.sin(azimuth) / (METRES_PER_DEGREE * np.cos(np.radians(points.lat)))
  return Points.of(lon, np.clip(lat, -89.9, 89.9))

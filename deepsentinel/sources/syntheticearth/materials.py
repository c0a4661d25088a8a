"""What the ground is made of: spectra of its components, their mixture through the year, and radar backscatter.

Reflectances are plausible surface values for Sentinel-2's twelve L2A bands, in the spirit of the USGS and ECOSTRESS
libraries; backscatter is C-band sigma0 at 38 degrees incidence, in the range of published Sentinel-1 statistics.
"""

import dataclasses
import functools

import numpy as np

from deepsentinel.sources.syntheticearth import seasons

# B1 B2 B3 B4 B5 B6 B7 B8 B8A B9 B11 B12
COMPONENTS = {
  'crop': (0.020, 0.028, 0.062, 0.031, 0.098, 0.305, 0.405, 0.432, 0.452, 0.45, 0.19, 0.085),
  'maize': (0.019, 0.027, 0.056, 0.030, 0.088, 0.255, 0.335, 0.362, 0.385, 0.385, 0.185, 0.085),
  'beet': (0.020, 0.029, 0.074, 0.036, 0.118, 0.365, 0.475, 0.505, 0.515, 0.505, 0.20, 0.095),
  'rape flower': (0.034, 0.042, 0.132, 0.122, 0.175, 0.335, 0.395, 0.43, 0.44, 0.44, 0.205, 0.095),
  'grass': (0.027, 0.039, 0.078, 0.051, 0.122, 0.275, 0.335, 0.36, 0.378, 0.378, 0.215, 0.112),
  'dry grass': (0.048, 0.068, 0.105, 0.128, 0.167, 0.20, 0.22, 0.24, 0.255, 0.26, 0.31, 0.205),
  'straw': (0.068, 0.092, 0.138, 0.182, 0.216, 0.24, 0.262, 0.283, 0.30, 0.305, 0.36, 0.262),
  'broadleaf': (0.015, 0.022, 0.046, 0.023, 0.077, 0.245, 0.325, 0.35, 0.365, 0.37, 0.158, 0.066),
  'autumn leaf': (0.020, 0.030, 0.058, 0.075, 0.135, 0.215, 0.25, 0.272, 0.288, 0.29, 0.19, 0.095),
  'bare trees': (0.026, 0.034, 0.049, 0.057, 0.083, 0.125, 0.143, 0.157, 0.172, 0.178, 0.19, 0.12),
  'conifer': (0.013, 0.018, 0.033, 0.020, 0.049, 0.132, 0.168, 0.184, 0.195, 0.196, 0.086, 0.038),
  'shadow': (0.010, 0.012, 0.018, 0.012, 0.022, 0.055, 0.072, 0.078, 0.082, 0.082, 0.040, 0.018),
  'heath': (0.022, 0.030, 0.046, 0.050, 0.076, 0.128, 0.152, 0.168, 0.182, 0.186, 0.19, 0.112),
  'shrub': (0.026, 0.035, 0.056, 0.050, 0.086, 0.162, 0.192, 0.212, 0.226, 0.228, 0.20, 0.118),
  'peat': (0.026, 0.037, 0.058, 0.060, 0.090, 0.142, 0.166, 0.182, 0.196, 0.196, 0.178, 0.096),
  'reed': (0.028, 0.040, 0.065, 0.058, 0.105, 0.205, 0.243, 0.265, 0.278, 0.278, 0.20, 0.10),
  'soil brown': (0.055, 0.074, 0.104, 0.138, 0.163, 0.183, 0.20, 0.217, 0.235, 0.243, 0.305, 0.258),
  'soil dark': (0.036, 0.046, 0.062, 0.079, 0.094, 0.106, 0.117, 0.128, 0.14, 0.146, 0.198, 0.172),
  'soil pale': (0.075, 0.098, 0.137, 0.175, 0.20, 0.22, 0.238, 0.256, 0.273, 0.28, 0.36, 0.315),
  'soil red': (0.045, 0.056, 0.086, 0.155, 0.186, 0.205, 0.22, 0.235, 0.252, 0.257, 0.335, 0.285),
  'sand': (0.125, 0.155, 0.205, 0.25, 0.275, 0.292, 0.305, 0.32, 0.332, 0.335, 0.40, 0.36),
  'rock': (0.105, 0.125, 0.15, 0.17, 0.184, 0.194, 0.204, 0.214, 0.222, 0.228, 0.265, 0.245),
  'snow': (0.86, 0.88, 0.88, 0.87, 0.865, 0.85, 0.83, 0.81, 0.78, 0.70, 0.10, 0.075),
  'clear water': (0.036, 0.031, 0.023, 0.011, 0.009, 0.007, 0.006, 0.005, 0.004, 0.004, 0.003, 0.002),
  'green water': (0.040, 0.043, 0.062, 0.036, 0.034, 0.019, 0.018, 0.015, 0.013, 0.012, 0.007, 0.005),
  'turbid water': (0.060, 0.072, 0.098, 0.092, 0.083, 0.045, 0.042, 0.034, 0.028, 0.025, 0.012, 0.008),
  'mud': (0.058, 0.072, 0.092, 0.102, 0.108, 0.11, 0.112, 0.112, 0.11, 0.10, 0.085, 0.065),
  'tile roof': (0.068, 0.082, 0.112, 0.172, 0.198, 0.215, 0.23, 0.246, 0.256, 0.26, 0.30, 0.27),
  'grey roof': (0.115, 0.132, 0.148, 0.158, 0.167, 0.176, 0.184, 0.192, 0.198, 0.202, 0.225, 0.215),
  'bright roof': (0.22, 0.25, 0.272, 0.288, 0.296, 0.303, 0.31, 0.316, 0.32, 0.32, 0.33, 0.30),
  'asphalt': (0.075, 0.086, 0.10, 0.11, 0.116, 0.122, 0.127, 0.133, 0.139, 0.143, 0.165, 0.155),
  'concrete': (0.155, 0.185, 0.22, 0.25, 0.264, 0.275, 0.286, 0.297, 0.306, 0.31, 0.35, 0.325),
  'burnt': (0.028, 0.033, 0.041, 0.049, 0.055, 0.063, 0.072, 0.082, 0.092, 0.10, 0.16, 0.17),
}

SOILS = ('soil brown', 'soil dark', 'soil pale', 'soil red')


@dataclasses.dataclass(frozen=True)
class Material:
  """A kind of ground.

  Attributes:
    mixture: component -> share, or the name of a yearly curve in seasons.CURVES; 'soil' stands for the local soil and
      takes what is left.
    contrast: component that texture blends in.
    texture: how strongly texture blends it in, about the standard deviation of its share.
    vv, vh: sigma0 in dB when bare or in winter, and at full growth (the first component's share).
    grain_db: standard deviation of backscatter from pixel to pixel, beyond speckle.
  """

  mixture: dict
  contrast: str
  texture: float
  vv: tuple[float, float]
  vh: tuple[float, float]
  grain_db: float = 0.6


def _m(mixture, contrast, texture, vv, vh, grain_db=0.6):
  pair = lambda v: v if isinstance(v, tuple) else (v, v)  # noqa: E731
  return Material(mixture, contrast, texture, pair(vv), pair(vh), grain_db)


MATERIALS = {
  'sea': _m({'clear water': 0.93, 'green water': 0.07}, 'green water', 0.01, -16.5, -26.0, 0.3),
  'river': _m({'green water': 0.6, 'turbid water': 0.4}, 'turbid water', 0.02, -18.5, -25.5, 0.4),
  'lake': _m({'clear water': 0.7, 'green water': 0.3}, 'green water', 0.02, -20.0, -27.5, 0.3),
  'sand': _m({'sand': 0.9, 'dry grass': 0.1}, 'dry grass', 0.08, -16.5, -24.5),
  'rock': _m({'rock': 0.85, 'dry grass': 0.15}, 'shadow', 0.14, -9.5, -17.5, 1.5),
  'ice': _m({'snow': 0.95, 'rock': 0.05}, 'rock', 0.03, -13.0, -19.5),
  'conifer': _m({'conifer': 0.88, 'heath': 0.12}, 'shadow', 0.26, -9.9, -15.8, 1.0),
  'broadleaf': _m(
    {'broadleaf': 'broadleaf leaf', 'autumn leaf': 'broadleaf autumn', 'bare trees': 'broadleaf twigs'},
    'shadow', 0.20, (-9.7, -10.2), (-15.9, -15.4), 1.0),
  'natural grass': _m(
    {'grass': 'natural grass green', 'dry grass': 'natural grass dry'},
    'shrub', 0.12, (-12.6, -12.0), (-20.0, -18.6)),
  'heath': _m({'heath': 0.72, 'grass': 0.1, 'dry grass': 0.1, 'soil': 0.08}, 'bare trees', 0.14, -12.4, -18.8),
  'shrub': _m({'shrub': 0.62, 'dry grass': 0.18, 'soil': 0.2}, 'dry grass', 0.20, -11.2, -17.4, 0.9),
  'young trees': _m(
    {'broadleaf': 'young trees leaf', 'bare trees': 'young trees twigs', 'conifer': 0.2,
     'grass': 0.2, 'dry grass': 0.1},
    'dry grass', 0.22, -10.6, (-17.0, -16.2), 1.0),
  'sparse': _m({'dry grass': 0.28, 'rock': 0.3, 'soil': 0.42}, 'shrub', 0.12, -11.5, -20.0, 0.9),
  'burnt': _m({'burnt': 0.8, 'soil': 0.2}, 'bare trees', 0.15, -12.0, -19.5),
  'marsh': _m(
    {'reed': 'marsh reed', 'straw': 'marsh straw', 'green water': 0.18, 'mud': 0.07},
    'green water', 0.20, (-11.5, -10.2), (-19.0, -16.8), 1.0),
  'peat': _m(
    {'peat': 0.66, 'heath': 0.16, 'dry grass': 0.08, 'clear water': 0.05},
    'clear water', 0.10, -12.2, -19.6, 0.8),
  'salt marsh': _m({'reed': 0.35, 'mud': 0.4, 'grass': 0.2}, 'turbid water', 0.18, -12.0, -20.0),
  'mud': _m({'mud': 0.75, 'turbid water': 0.25}, 'turbid water', 0.18, -16.0, -24.0),
  'pasture': _m(
    {'grass': 'pasture green', 'dry grass': 'pasture dry'},
    'dry grass', 0.07, (-11.8, -12.2), (-19.2, -18.4)),
  'winter cereal': _m(
    {'crop': 'winter cereal green', 'straw': 'winter cereal straw'},
    'soil', 0.06, (-10.6, -14.2), (-18.6, -20.2)),
  'summer crop': _m(
    {'maize': 'summer crop green', 'straw': 'summer crop straw'},
    'soil', 0.06, (-11.2, -9.8), (-19.4, -15.6)),
  'rapeseed': _m(
    {'crop': 'rapeseed green', 'rape flower': 'rapeseed flower', 'straw': 'rapeseed straw'},
    'soil', 0.05, (-10.2, -9.4), (-17.4, -14.6)),
  'root crop': _m({'beet': 'root crop green'}, 'soil', 0.06, (-11.4, -9.4), (-19.6, -15.4)),
  'fallow': _m({'grass': 'fallow green', 'dry grass': 0.2}, 'soil', 0.10, -11.2, -19.0),
  'vineyard': _m({'maize': 'vineyard green', 'dry grass': 0.14, 'grass': 0.12}, 'grass', 0.08, -10.2, (-17.6, -16.6)),
  'orchard': _m(
    {'broadleaf': 'orchard leaf', 'grass': 0.3, 'bare trees': 'orchard twigs'},
    'shadow', 0.10, -10.2, -16.2, 0.8),
  'olive': _m({'shrub': 0.4, 'dry grass': 0.14}, 'shrub', 0.12, -10.4, -16.4, 0.8),
  'rice': _m(
    {'crop': 'rice green', 'green water': 'rice flood', 'straw': 'rice straw'},
    'soil', 0.05, (-14.5, -11.0), (-22.0, -17.0)),
  'tile roofs': _m(
    {'tile roof': 0.52, 'asphalt': 0.2, 'grass': 0.14, 'shadow': 0.14},
    'grass', 0.14, -5.2, -12.6, 3.0),
  'grey roofs': _m(
    {'grey roof': 0.5, 'asphalt': 0.3, 'concrete': 0.08, 'shadow': 0.12},
    'bright roof', 0.10, -3.8, -11.6, 3.4),
  'gardens': _m(
    {'grass': 0.42, 'bare trees': 0.14, 'broadleaf': 0.16, 'tile roof': 0.1, 'asphalt': 0.1},
    'tile roof', 0.14, -8.8, -15.2, 2.0),
  'large roofs': _m({'bright roof': 0.55, 'grey roof': 0.45}, 'asphalt', 0.20, -4.5, -12.8, 4.2),
  'paved': _m({'asphalt': 0.62, 'concrete': 0.28, 'grass': 0.1}, 'concrete', 0.16, -10.5, -18.5, 2.2),
  'asphalt': _m({'asphalt': 0.9, 'grass': 0.1}, 'concrete', 0.08, -13.5, -21.5, 1.0),
  'park': _m({'grass': 0.6, 'broadleaf': 0.22, 'bare trees': 0.1}, 'broadleaf', 0.18, -10.8, -16.8, 1.0),
  'quarry': _m({'concrete': 0.45, 'rock': 0.4, 'soil': 0.15}, 'soil', 0.16, -9.8, -18.2, 1.8),
  'bare soil': _m({'soil': 1.0}, 'dry grass', 0.05, -11.4, -19.6, 0.8),
}  # fmt: skip
NAMES = tuple(MATERIALS)
INDEX = {name: i for i, name in enumerate(NAMES)}
DAY_STEP = 3
DAYS = 366 // DAY_STEP


def _curve(share, days: np.ndarray) -> np.ndarray:
  if isinstance(share, (int, float)):
    return np.full(len(days), float(share))
  return np.interp(days, *seasons.CURVES[share])


@functools.lru_cache(maxsize=1)
def optical_tables() -> tuple[np.ndarray, np.ndarray]:
  """(reflectance float32 [material, soil, day, 12], reflectance of the contrast component [material, soil, 12])."""
  days = np.arange(DAYS) * DAY_STEP + DAY_STEP / 2
  main = np.zeros((len(NAMES), len(SOILS), DAYS, 12), np.float32)
  contrast = np.zeros((len(NAMES), len(SOILS), 12), np.float32)
  for m, material in enumerate(MATERIALS.values()):
    for s, soil in enumerate(SOILS):
      left = np.ones(len(days))
      for name, share in material.mixture.items():
        weight = _curve(share, days)
        left -= weight
        main[m, s] += weight[:, None] * np.array(COMPONENTS[soil if name == 'soil' else name])
      if 'soil' not in material.mixture:
        main[m, s] += np.maximum(left, 0)[:, None] * np.array(COMPONENTS[soil])
      contrast[m, s] = COMPONENTS[soil if material.contrast == 'soil' else material.contrast]
  return main, contrast


@functools.lru_cache(maxsize=1)
def radar_tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """(dB float32 [material, day, 2], growth float32 [material, day], grain dB float32 [material])."""
  days = np.arange(DAYS) * DAY_STEP + DAY_STEP / 2
  growth = np.stack([np.clip(_curve(next(iter(m.mixture.values())), days), 0, 1) for m in MATERIALS.values()])
  ends = np.array([(m.vv, m.vh) for m in MATERIALS.values()])  # [M, 2 polarisations, 2]
  db = ends[:, None, :, 0] + growth[:, :, None] * (ends[:, None, :, 1] - ends[:, None, :, 0])
  grain = np.array([m.grain_db for m in MATERIALS.values()], np.float32)
  return db.astype(np.float32), growth.astype(np.float32), grain


def texture_strength() -> np.ndarray:
  """float32 [material]."""
  return np.array([m.texture for m in MATERIALS.values()], np.float32)

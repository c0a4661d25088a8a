"""Stored pixels as pictures: true colour, radar and label composites, with one fixed stretch for all.

Fixed rather than per-picture limits, so that two pictures can be compared and a brightening model, scene or season
shows. NumPy only: the corpus' sample sheet, the embedding's maps and the report draw with the same colours.
"""

import numpy as np

from deepsentinel import legend, sensors

REFLECTANCE_RANGE = (0.0, 0.3)  # land lies below 0.3, cloud above: cloud comes out white
GAMMA = 1.8  # opens up forest and water, which reflect a few per cent
VV_RANGE_DB = (-20.0, 0.0)
VH_RANGE_DB = (-27.0, -7.0)
RATIO_RANGE_DB = (0.0, 14.0)  # VV - VH, centred where the centres of the two ranges above put it, so that mid is grey
NODATA_RGB = (70, 70, 78)
UNLABELLED_RGB = (222, 222, 226)


def _scale(values: np.ndarray, low: float, high: float) -> np.ndarray:
  return np.clip((values - low) / (high - low), 0.0, 1.0)


def true_colour(s2: np.ndarray) -> np.ndarray:
  """Red, green and blue reflectance as a picture.

  Args:
    s2: uint16 [..., 3], stored B4, B3, B2 (reflectance x 10,000; 0 = nodata).
  Returns:
    uint8 [..., 3]; nodata in NODATA_RGB, cloud white.
  """
  s2 = np.asarray(s2)
  if s2.ndim < 1 or s2.shape[-1] != 3:
    raise ValueError(f'A true-colour picture needs B4, B3, B2 on the last axis; found shape {s2.shape}.')
  scaled = _scale(s2.astype(np.float32) / sensors.S2_SCALE, *REFLECTANCE_RANGE) ** (1 / GAMMA)
  picture = np.rint(scaled * 255).astype(np.uint8)
  picture[(s2 == sensors.S2_NODATA).any(-1)] = NODATA_RGB
  return picture


def radar(s1: np.ndarray) -> np.ndarray:
  """Backscatter as a picture: red VV, green VH, blue VV - VH, each over its fixed range in dB.

  Args:
    s1: int16 [..., 2], stored VV, VH (dB x 100; -32768 = nodata).
  Returns:
    uint8 [..., 3]; nodata in NODATA_RGB. Towns come out bright, water dark blue, vegetation green.
  """
  s1 = np.asarray(s1)
  if s1.ndim < 1 or s1.shape[-1] != 2:
    raise ValueError(f'A radar picture needs VV, VH on the last axis; found shape {s1.shape}.')
  db = s1.astype(np.float32) / sensors.S1_SCALE
  vv, vh = db[..., 0], db[..., 1]
  channels = _scale(vv, *VV_RANGE_DB), _scale(vh, *VH_RANGE_DB), _scale(vv - vh, *RATIO_RANGE_DB)
  picture = np.rint(np.stack(channels, -1) * 255).astype(np.uint8)
  picture[(s1 == sensors.S1_NODATA).any(-1)] = NODATA_RGB
  return picture


def classes(label: np.ndarray, target: legend.Target) -> np.ndarray:
  """Class numbers of a target (0-based; -1 and below: no label) as uint8 [..., 3] in the legend's colours."""
  label = np.asarray(label).astype(np.int64)
  colours = np.concatenate([target.colours, np.array([UNLABELLED_RGB], np.uint8)])
  if label.size and label.max() >= len(colours) - 1:
    raise ValueError(f'{target.title} has classes 0 to {len(colours) - 2}; found {int(label.max())}.')
  return colours[np.where(label < 0, len(colours) - 1, label)]

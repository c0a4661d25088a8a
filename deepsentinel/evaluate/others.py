"""Encoders of other projects under the same probes: ResNets of torchgeo, for Sentinel-2.

They take reflectance x 10,000 normalised as their own `transforms` say, in their own order of bands. A band that the
pixels lack (B10 of L2A, and of EuroSAT here) is 0 then. Patches keep their size: they are not enlarged to 224 px.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from deepsentinel import sensors
from deepsentinel.evaluation import cells, frozen

# The order of bands of torchgeo's SENTINEL2_ALL weights (SSL4EO-S12, L1C).
BANDS = ('B1', 'B2', 'B3', 'B4', 'B5', 'B6', 'B7', 'B8', 'B8A', 'B9', 'B10', 'B11', 'B12')
_SCALE = 10_000.0
_CROP_PX = 224  # what the weights were trained on
_STRIDE = 2  # cells along an edge that share one feature: the network's stride is 32 px


def load(name: str, *, seed: int = 0) -> frozen.Frozen:
  """An encoder by its name.

  Args:
    name: 'torchgeo:ResNet18_Weights.SENTINEL2_ALL_MOCO', or another of torchgeo's SENTINEL2_ALL weights of a ResNet;
      'torchgeo:resnet18' or 'torchgeo:resnet50' for random weights.
    seed: of random weights.
  Raises:
    ValueError: torchgeo is not installed (says how to install it), or knows no such weights of these bands.
  """
  project, _, which = name.partition(':')
  if project != 'torchgeo' or not which:
    raise ValueError(f'--encoder={name} is none that is known: torchgeo:WEIGHTS, or torchgeo:resnet18.')
  try:
    import torch
    import torchgeo.models
  except ImportError as error:
    raise ValueError(f'--encoder={name} needs torchgeo ({error}): pip install torchgeo') from error
  kind, _, weight = which.partition('_Weights.')
  builder = getattr(torchgeo.models, kind.lower(), None)
  if not kind.lower().startswith('resnet') or builder is None:
    raise ValueError(f'--encoder={name}: torchgeo has no ResNet {kind!r}. Try torchgeo:resnet18.')
  weights: Any = None
  if weight:
    known = getattr(torchgeo.models, f'{kind}_Weights').__members__
    all_bands = [w for w in known if w.startswith('SENTINEL2_ALL')]
    supported = [w for w in all_bands if _is_supported(known[w])]
    if weight not in supported:
      others = ', '.join(w for w in all_bands if w not in supported)
      lacking = f'; {others} take other bands, or more than a mean and a deviation, and are not supported'
      raise ValueError(
        f'--encoder={name}: pass weights of {", ".join(BANDS)}: {", ".join(supported)}{lacking if others else ""}.'
      )
    weights = known[weight]
  torch.manual_seed(seed)
  try:
    model = builder(weights=weights, **({} if weights else {'in_chans': len(BANDS), 'num_classes': 0})).eval()
  except OSError as error:  # no network, a store that refuses
    raise ValueError(f'--encoder={name}: its weights cannot be fetched ({error}). Fetch them once online.') from error
  mean, std = _normalisation(weights)
  sha = hashlib.sha256()
  for key, value in model.state_dict().items():
    sha.update(key.encode() + value.numpy().tobytes())

  def open_for(spec: sensors.SensorSpec) -> frozen.FeatureMap:
    held = [band for band in BANDS if band in spec.bands]
    if not held:
      raise ValueError(f'--encoder={name} knows Sentinel-2; these pixels are {", ".join(spec.bands)}.')
    index, _ = spec.indices(held)
    places = [BANDS.index(band) for band in held]

    def features(stored: Mapping[str, np.ndarray]) -> np.ndarray:
      pixels = stored['s2'][:, 0]
      images = np.zeros((len(pixels), len(BANDS), *pixels.shape[1:3]), np.float32)
      images[:, places] = np.moveaxis((pixels[..., index] - mean[places]) / std[places], -1, 1)
      with torch.inference_mode():
        coarse = model.forward_features(torch.from_numpy(images)).numpy()  # [B, F, ceil(H / 32), ceil(W / 32)]
      fine = np.moveaxis(coarse, 1, -1).repeat(_STRIDE, 1).repeat(_STRIDE, 2)
      side = pixels.shape[1] // cells.CELL_PX
      return fine[:, :side, :side]

    return features

  facts = {'project': 'torchgeo', 'weights': which, 'sha256': sha.hexdigest(), 'stride_px': 32, 'random': not weight}
  key = hashlib.sha256(json.dumps([sha.hexdigest(), mean.tolist(), std.tolist()]).encode()).hexdigest()
  return frozen.Frozen(which, key, _CROP_PX, open_for, facts)


def _is_supported(weights: Any) -> bool:
  bands = weights.meta.get('bands', BANDS)
  return tuple(band.upper() for band in bands) == BANDS and len(_normalisers(weights)) < 2


def _normalisers(weights: Any) -> list[Any]:
  """The modules of the weights' transforms that take a mean away and divide."""
  modules = getattr(getattr(weights, 'transforms', None), 'modules', list)
  return [module for module in modules() if type(module).__name__ == 'Normalize']


def _normalisation(weights: Any) -> tuple[np.ndarray, np.ndarray]:
  """float32 [13] and [13]: mean and standard deviation of reflectance x 10,000 by `BANDS`; 0 and 10,000 unless told."""
  mean, std = np.zeros(len(BANDS), np.float32), np.full(len(BANDS), _SCALE, np.float32)
  for one in _normalisers(weights):
    told = getattr(one, 'flags', None) or vars(one)  # kornia's Normalize keeps them in flags, torchvision's as they are
    mean[:], std[:] = (np.asarray(told[key], np.float32).reshape(-1) for key in ('mean', 'std'))
  return mean, std

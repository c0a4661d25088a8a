"""Flax variables as the state of `modeling_deepsentinel.DeepSentinel`, without PyTorch."""

from typing import Any

import numpy as np
from flax import traverse_util

from deepsentinel.encoders import attention, resnet
from deepsentinel.objectives.landcover import LandCover
from deepsentinel.objectives.scene import Scene
from deepsentinel.train.trained import Trained

WEIGHTS, MODULE = 'pytorch_model.safetensors', 'modeling_deepsentinel.py'
_KNOWN = 'resnet18, resnet18attn, resnet34'
_NAMES = {'kernel': 'weight', 'scale': 'weight', 'bias': 'bias', 'mean': 'running_mean', 'var': 'running_var'}


def layers(trained: Trained) -> dict[str, Any]:
  """What PyTorch has to build: {'stage_sizes', 'attention_after', 'header': None, 'landcover' or 'scene'}, and
  'header_width' of the former.

  Raises:
    ValueError: it is no encoder that is written there; names those that are.
  """
  encoder, name = trained.module.encoder, trained.config['encoder']['name']
  contexts = (None, attention.SelfAttention)
  if type(encoder) is not resnet.ResNet or encoder.conv is not resnet.CONV or encoder.context not in contexts:
    raise ValueError(
      f'PyTorch weights are written of the encoders {_KNOWN}; this one is {name}, of which the Flax weights are '
      'exported. Leave out --pytorch.'
    )
  header = {LandCover: 'landcover', Scene: 'scene'}.get(type(trained.module))
  after = list(encoder.context_after) if encoder.context else []
  built: dict[str, Any] = {'stage_sizes': list(encoder.stage_sizes), 'attention_after': after, 'header': header}
  if header == 'landcover':
    built['header_width'] = trained.module.header_width or encoder.features // 2
  return built


def state_dict(trained: Trained) -> dict[str, np.ndarray]:
  """The variables of encoder and header under PyTorch's names and in its layouts; means and deviations of the bands."""
  out = {key: np.asarray(trained.statistics[key], np.float32) for key in ('mean', 'std')}
  # The decoder of an autoencoder bears the name of a header too.
  wanted = ('encoder', 'header') if layers(trained)['header'] else ('encoder',)
  for tree in trained.variables.values():
    parts = {part: tree[part] for part in wanted if part in tree}
    for path, leaf in traverse_util.flatten_dict(parts).items():
      name = path[-1] if path[-2] == 'Gate' else _NAMES[path[-1]]
      key = '.'.join((*path[:-1], name))
      out[key] = _layout(path, np.asarray(leaf))
      if name == 'running_mean':
        out['.'.join((*path[:-1], 'num_batches_tracked'))] = np.zeros((), np.int64)
  return out


def _layout(path: tuple[str, ...], leaf: np.ndarray) -> np.ndarray:
  if leaf.ndim == 4 and path[-2] == 'DeConv1':
    # [h, w, in, out] -> [in, out, h, w], turned by half a circle: PyTorch's transposed convolution flips no kernel.
    return np.array(leaf[::-1, ::-1].transpose(2, 3, 0, 1), order='C')
  if leaf.ndim == 4:
    return np.array(leaf.transpose(3, 2, 0, 1), order='C')  # [h, w, in, out] -> [out, in, h, w]
  if leaf.ndim == 2:
    return np.array(leaf.T, order='C')
  return np.array(leaf)


def save(trained: Trained) -> bytes:
  """pytorch_model.safetensors."""
  import safetensors.numpy

  return safetensors.numpy.save(state_dict(trained), {'format': 'pt'})

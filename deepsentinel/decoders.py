"""The deconvolution header: a feature map back to pixels (paper, Tables 3 and 8)."""

import functools
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from deepsentinel.encoders import base

_KERNEL = nn.initializers.he_normal()
# Pixels on either side that the two 3x3 convolutions of each up-block add: at 8, 4, 2 and 1 pixels a step.
HEADER_REACH_PX = 2 * (8 + 4 + 2 + 1)
# Least channels of an up-block. Of four, after their ReLUs, too few are left for the classes: at one initialisation in
# three a small encoder then never told farmland from nature, with any pretraining. The paper's end at 32.
_LEAST_CHANNELS = 8


class DeConv(nn.ConvTranspose):
  """Transposed convolution 2x2 / 2 as the one matrix product that it is, since no two inputs share an output.

  The parameters are those of nn.ConvTranspose. XLA's gradient of its own kernel took a tenth of a CPU's training step.
  """

  kernel_size: tuple[int, int] = (2, 2)
  strides: tuple[int, int] = (2, 2)
  padding: str = 'VALID'

  @nn.compact
  def __call__(self, x: Array) -> Array:
    kernel = self.param('kernel', self.kernel_init, (2, 2, x.shape[-1], self.features), self.param_dtype)
    bias = self.param('bias', self.bias_init, (self.features,), self.param_dtype)
    x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
    # [B, H, W, C] -> [B, H, 2, W, 2, features]; a convolution runs over its kernel backwards
    y = jnp.einsum('bhwc,ijcd->bhiwjd', x, kernel[::-1, ::-1], precision=self.precision)
    b, h, w = x.shape[:3]
    return y.reshape(b, 2 * h, 2 * w, self.features) + bias


class UpBlock(nn.Module):
  """Transposed convolution 2x2 / 2, then twice 3x3 convolution, batch norm, ReLU; biases everywhere."""

  channels: int
  norm: Any
  dtype: Any

  operation: ClassVar[str] = 'UpBlockx1 (Table 3)'

  @nn.compact
  def __call__(self, x: Array) -> Array:
    # [B, H, W, C] -> [B, 2H, 2W, channels]
    x = DeConv(self.channels, kernel_init=_KERNEL, dtype=self.dtype, name='DeConv1')(x)
    for i in (1, 2):
      x = nn.Conv(
        self.channels, (3, 3), padding=((1, 1), (1, 1)), kernel_init=_KERNEL, dtype=self.dtype, name=f'Conv{i}'
      )(x)
      x = self.norm(name=f'BatchNorm{i}')(x)
      x = base.Relu(name=f'ReLu{i}')(x)
    return x


def block_channels(features: int, width: int = 0) -> tuple[int, ...]:
  """Channels of the four up-blocks above a feature map of F channels; `width` of the first, 0 for half of F."""
  first = width or features // 2
  return tuple(max(first // 2**i, _LEAST_CHANNELS) for i in range(4))


class DeconvolutionHeader(nn.Module):
  """Four up-blocks and a 1x1 convolution: 16 times the resolution of the feature map.

  Attributes:
    classes: K, the output channels.
    width: channels of the first up-block, halved by each next one down to 8; 0 takes half of the feature map's
      (paper: 256).
    norm: partial of nn.BatchNorm.
    dtype: of the arithmetic.
  """

  classes: int
  width: int = 0
  norm: Any = base.BATCH_NORM
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, feature_map: Array, *, train: bool) -> Array:
    """Logits f32[B, 16 h, 16 w, K] of a feature map f32[B, h, w, F].

    What they are computed from, [B, 16 h, 16 w, C], is kept as the intermediate 'channels' where one asks for it.
    """
    norm = functools.partial(self.norm, use_running_average=not train, dtype=self.dtype)
    x = feature_map
    for i, channels in enumerate(block_channels(feature_map.shape[-1], self.width)):
      x = UpBlock(channels, norm, self.dtype, name=f'Layer{i + 1}')(x)
    self.sow('intermediates', 'channels', x)
    # [B, 16 h, 16 w, C] -> [B, 16 h, 16 w, K]
    return nn.Conv(self.classes, (1, 1), dtype=self.dtype, name='Conv1')(x).astype(jnp.float32)

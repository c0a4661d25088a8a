"""Self-attention over the cells of a feature map, and the ResNet18 that holds it (paper, Tables 4 and 7)."""

import functools
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from deepsentinel.encoders import base
from deepsentinel.encoders.resnet import ResNet


class Energy(nn.Module):
  """How well each cell's query meets each cell's key."""

  operation: ClassVar[str] = 'Matrix Multiplication'

  def __call__(self, query: Array, key: Array) -> Array:
    b, h, w, c = query.shape
    # [B, H, W, C/8] twice -> [B, N, N] with N = H * W; row i is of the query of cell i
    return jnp.einsum('bic,bjc->bij', query.reshape(b, h * w, c), key.reshape(b, h * w, c))


class Softmax(nn.Module):
  operation: ClassVar[str] = 'Softmax'

  def __call__(self, energy: Array) -> Array:
    return nn.softmax(energy.astype(jnp.float32)).astype(energy.dtype)


class Attend(nn.Module):
  """Each cell's sum of all values, weighted by its row of the attention map."""

  operation: ClassVar[str] = 'Matrix Multiplication'

  def __call__(self, value: Array, attention: Array) -> Array:
    b, h, w, c = value.shape
    return jnp.einsum('bij,bjc->bic', attention, value.reshape(b, h * w, c)).reshape(b, h, w, c)


class Gate(nn.Module):
  operation: ClassVar[str] = 'Learned scalar'

  @nn.compact
  def __call__(self, x: Array) -> Array:
    # Zero-initialised gate: the block starts as the identity (SAGAN, eq. 3).
    return x * self.param('scale', nn.initializers.zeros, ()).astype(x.dtype)


class SelfAttention(nn.Module):
  """SAGAN's block: Zhang et al. 2019, 'Self-Attention Generative Adversarial Networks', eq. 1 to 3."""

  dtype: Any = jnp.float32

  operation: ClassVar[str] = 'AttnBlock (Table 4)'

  @nn.compact
  def __call__(self, x: Array) -> Array:
    channels = x.shape[-1]
    if channels < 8:
      raise ValueError(f'Attention needs 8 channels or more (keys have an eighth of them); found {channels}.')
    conv1x1 = functools.partial(nn.Conv, kernel_size=(1, 1), dtype=self.dtype)
    query = conv1x1(channels // 8, name='QueryConv')(x)
    key = conv1x1(channels // 8, name='KeyConv')(x)
    value = conv1x1(channels, name='ValConv')(x)
    energy = Energy(name='Energy')(query, key)
    attention = Softmax(name='AttentionMap')(energy)
    out = Attend(name='PreOut')(value, attention)
    return base.Sum(name='Out')(Gate(name='Gate')(out), x)


ResNet18Attention = functools.partial(ResNet, stage_sizes=(2, 2, 2, 2), context=SelfAttention, context_after=(3, 4))

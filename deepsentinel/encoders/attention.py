"""Self-attention over the cells of a feature map (paper, Table 4), whole or in overlapping windows."""

import functools
import math
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from deepsentinel.encoders import base


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
  """SAGAN's block: Zhang et al. 2019, 'Self-Attention Generative Adversarial Networks', eq. 1 to 3.

  Attributes:
    dtype: of the arithmetic.
    window: 0, or the side of the windows, in cells, in which a larger map is attended to.
    step: from one window to the next, at least half of it.
  """

  dtype: Any = jnp.float32
  window: int = 0
  step: int = 0

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
    if self.window:
      out = in_windows(query, key, value, self.window, self.step)
    else:
      energy = Energy(name='Energy')(query, key)
      attention = Softmax(name='AttentionMap')(energy)
      out = Attend(name='PreOut')(value, attention)
    return base.Sum(name='Out')(Gate(name='Gate')(out), x)


def step_of(window: int) -> int:
  """How far windows of so many cells lie apart: they overlap by half."""
  return math.ceil(window / 2)


def in_windows(query: Array, key: Array, value: Array, window: int, step: int) -> Array:
  """Attention within overlapping windows of a map, blended where they overlap: f32[B, H, W, C], like `value`.

  A raised cosine weights each window, so that its influence ends smoothly: no border shows. The first window begins at
  the map's upper-left corner; beyond the lower and right edges windows see zeros.

  Args:
    query, key: f32[B, H, W, C/8].
    value: f32[B, H, W, C].
    window: side of a window, cells.
    step: from one window to the next, from half of a window to all of it.
  """
  height, width = value.shape[1:3]
  rows, cols = (max(1, math.ceil((side - window) / step) + 1) for side in (height, width))
  beyond = tuple((number - 1) * step + window - side for number, side in ((rows, height), (cols, width)))
  padding = ((0, 0), (0, max(beyond[0], 0)), (0, max(beyond[1], 0)), (0, 0))
  query, key, value = (jnp.pad(x, padding) for x in (query, key, value))
  columns = np.arange(cols)[:, None] * step + np.arange(window)
  weight = raised_cosine(window)

  def one_row(at: Array) -> Array:
    """[B, cols, window, window, C] of the windows whose first row is `at`."""

    def cut(x: Array) -> Array:
      part = jax.lax.dynamic_slice_in_dim(x, at, window, 1)
      # [B, n, W, c] -> [B, n, cols, n, c] -> [B, cols, n, n, c] -> [B, cols, n * n, c]
      return part[:, :, columns].swapaxes(1, 2).reshape(len(x), cols, window**2, x.shape[-1])

    q, k, v = cut(query), cut(key), cut(value)
    energy = jnp.einsum('bwic,bwjc->bwij', q, k).astype(jnp.float32)
    out = jnp.einsum('bwij,bwjc->bwic', nn.softmax(energy).astype(v.dtype), v)
    return out.reshape(len(v), cols, window, window, -1) * (weight[:, None] * weight)[..., None]

  # [rows, B, cols, n, n, C] -> [B, rows, n, cols, n, C]
  parts = jnp.moveaxis(jax.lax.map(one_row, jnp.arange(rows) * step), (0, 2), (1, 3))
  # -> [B, H, cols, n, C] -> [B, H, W, C]
  out = _overlap_add(_overlap_add(parts, step, 1), step, 2)[:, :height, :width]
  total = [_overlap_add(jnp.tile(weight, (n, 1)), step, 0) for n in (rows, cols)]
  return (out / (total[0][:height, None] * total[1][:width])[..., None]).astype(value.dtype)


def raised_cosine(length: int) -> np.ndarray:
  """float32 [length], Hann's window at the middles of its values."""
  return (np.sin(np.pi * (np.arange(length) + 0.5) / length) ** 2).astype(np.float32)


def _overlap_add(parts: Array, step: int, axis: int) -> Array:
  """[.., number, n, ..] with the windows at `axis` -> [.., (number + 1) * step, ..], each `step` after the last one."""
  number, length = parts.shape[axis : axis + 2]
  padded = jnp.pad(parts, [(0, 2 * step - length) if a == axis + 1 else (0, 0) for a in range(parts.ndim)])
  first, second = jnp.split(padded, 2, axis + 1)
  # The second half of each window lies on the first half of the next one.
  one = [(0, 1) if a == axis else (0, 0) for a in range(parts.ndim)]
  before = [(1, 0) if a == axis else (0, 0) for a in range(parts.ndim)]
  out = jnp.pad(first, one) + jnp.pad(second, before)
  return out.reshape(*out.shape[:axis], (number + 1) * step, *out.shape[axis + 2 :])

"""Batch norm whose training step is also fast on a CPU."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax


class BatchNorm(nn.BatchNorm):
  """nn.BatchNorm; on a CPU, training sums over the rows of each channel as a matrix product.

  XLA's own sum goes through memory once a channel there, in the gradient with all of the layer's arithmetic each time.
  Variables and results are the same, but for rounding. On other devices it is nn.BatchNorm itself.

  Attributes:
    across: mean of a tree over the devices of `axis_name`; without it, a layer that has such an axis is nn.BatchNorm.
  """

  across: Callable[[Any], Any] | None = None

  @nn.compact
  def __call__(self, x: Array, use_running_average: bool | None = None) -> Array:
    average = nn.merge_param('use_running_average', self.use_running_average, use_running_average)
    told = self.axis_name is None or self.across is not None
    if average or self.is_initializing() or not told or jax.default_backend() != 'cpu':
      return super().__call__(x, use_running_average)
    channels = x.shape[-1:]
    running = [
      self.variable('batch_stats', name, start, channels, jnp.float32)
      for name, start in (('mean', jnp.zeros), ('var', jnp.ones))
    ]
    scale = self.param('scale', self.scale_init, channels, self.param_dtype)
    bias = self.param('bias', self.bias_init, channels, self.param_dtype)
    y, *found = normalise(x.astype(jnp.float32), scale, bias, self.epsilon, self.across or _alone)
    for variable, value in zip(running, found, strict=True):
      variable.value = self.momentum * variable.value + (1 - self.momentum) * value
    return y.astype(self.dtype or x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def normalise(x: Array, scale: Array, bias: Array, epsilon: float, across: Callable[[Any], Any]) -> tuple[Array, ...]:
  """x normalised over all but its last axis (Ioffe & Szegedy 2015); its mean and variance, for the running average.

  Args:
    x: f32[B, H, W, C].
    scale, bias: f32[C].
    epsilon: added to the variance.
    across: mean of a tree over the devices whose statistics these are.
  Returns:
    f32[B, H, W, C], mean f32[C], variance f32[C].
  """
  return _forward(x, scale, bias, epsilon, across)[0]


def _alone(tree: Any) -> Any:
  return tree


def _forward(x, scale, bias, epsilon, across):
  # f32[2, C] -> f32[C] each
  mean, mean_of_squares = across(jnp.stack([_sums(x), _sums(x * x)]) / (x.size // x.shape[-1]))
  variance = jnp.maximum(mean_of_squares - mean**2, 0)  # rounding may take it below 0
  inverse = lax.rsqrt(variance + epsilon)
  y = (x - mean) * (inverse * scale) + bias
  return (y, mean, variance), (x, scale, mean, inverse)


def _backward(epsilon, across, kept, gradients):
  """Ioffe & Szegedy 2015, section 3. Nothing is learnt through the running averages."""
  del epsilon
  x, scale, mean, inverse = kept
  by_y = gradients[0]
  rows = by_y.size // by_y.shape[-1]
  own = _sums(by_y), _sums(by_y * (x - mean))
  of_all = across(own)
  through_mean, through_variance = of_all[0] / rows, of_all[1] * inverse**2 / rows
  by_x = (by_y - through_mean - (x - mean) * through_variance) * (inverse * scale)
  return by_x, own[1] * inverse, own[0]


normalise.defvjp(_forward, _backward)


def _sums(x: Array) -> Array:
  """f32[B, ..., C] -> f32[C]. A product for each image, and then their sum: no float32 takes in too many numbers."""
  rows = x.reshape(x.shape[0], -1, x.shape[-1])
  # [B, 1, N] x [B, N, C] -> [B, 1, C]
  ones = jnp.ones((rows.shape[0], 1, rows.shape[1]), x.dtype)
  return jnp.matmul(ones, rows, precision=lax.Precision.HIGHEST).sum((0, 1))

"""Variational autoencoder: the image again from a small latent (Kingma and Welling 2014; paper, section 4)."""

import functools
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from deepsentinel import decoders
from deepsentinel.encoders.base import BATCH_NORM
from deepsentinel.objectives import base

DECODED = 'decoded'  # collection that holds the decoded image f32[B, H, W, C], where a caller asks for it
_LOG_VARIANCE_LIMIT = 20.0  # beyond it exp overflows float32 within a few more steps


class VAE(base.Objective):
  """Mean squared error of the decoded image plus a weighted KL divergence of the latent from a standard normal.

  Pixels without a measurement count in no error. A band that sensor dropout hides from the encoder still counts: it has
  to be told from the others.

  The KL divergence of a patch is divided by half of its numbers, the scale at which a weight of 1 makes the loss the
  negative evidence lower bound under unit noise: mean((x - y)^2) + 2 / D * KL.

  Attributes:
    kl_weight: of the KL divergence; 0 reproduces the paper's code.
    sample: draw the latent in training; False decodes its mean.
    latent: channels of the latent at each cell; 0 takes an eighth of the feature map's (paper: 64).
    header_width: channels of the header's first up-block; 0 takes half of the feature map's.
    norm: partial of nn.BatchNorm, for the header.
    dtype: of the arithmetic.
  """

  kl_weight: float = 0.1
  sample: bool = True
  latent: int = 0
  header_width: int = 0
  norm: Any = BATCH_NORM
  dtype: Any = jnp.float32

  views: ClassVar[str] = 'single'

  @nn.compact
  def __call__(self, batch: base.Batch, *, train: bool) -> tuple[Array, dict[str, Array]]:
    images = batch['images'][:, 0]
    bands = images.shape[-1]
    feature_map = self.encode_views(batch, train=train).feature_map[:, 0]
    channels = feature_map.shape[-1]
    conv1x1 = functools.partial(nn.Conv, kernel_size=(1, 1), dtype=self.dtype)
    # [B, h, w, F] -> [B, h, w, Z]
    size = self.latent or channels // 8
    mean = conv1x1(size, name='Mean')(feature_map).astype(jnp.float32)
    log_variance = conv1x1(size, name='LogVariance')(feature_map).astype(jnp.float32)
    log_variance = jnp.clip(log_variance, -_LOG_VARIANCE_LIMIT, _LOG_VARIANCE_LIMIT)
    z = mean
    if train and self.sample:
      z = mean + jnp.exp(0.5 * log_variance) * normal_like(batch['key'], mean)
    decoded = conv1x1(channels, name='FromLatent')(z)
    header = decoders.DeconvolutionHeader(bands, self.header_width, self.norm, self.dtype, name='header')
    decoded = header(decoded, train=train)
    self.sow(DECODED, 'image', decoded)

    error = reconstruction_error(images, decoded, batch['valid'][:, 0])
    kl = kl_divergence(mean, log_variance)
    scaled = 2 * kl / images[0].size
    diagnostics = {
      'reconstruction': error,
      'kl': kl,
      'embedding_norm': jnp.linalg.norm(feature_map.mean((1, 2)), axis=-1),
    }
    return error + self.kl_weight * scaled, diagnostics


def reconstruction_error(images: Array, decoded: Array, valid: Array) -> Array:
  """f32[B]: mean squared error over the valid numbers of f32[B, H, W, C]; 0 where a patch has none."""
  error = jnp.where(valid, images - decoded, 0)
  return (error**2).sum((1, 2, 3)) / jnp.maximum(valid.sum((1, 2, 3)), 1)


def kl_divergence(mean: Array, log_variance: Array) -> Array:
  """f32[B]: KL divergence of N(mean, exp(log_variance)) from N(0, 1) in nats, summed over the latent [B, h, w, Z]."""
  return 0.5 * (mean**2 + jnp.exp(log_variance) - 1 - log_variance).sum((1, 2, 3))


def normal_like(keys: Array, x: Array) -> Array:
  """Standard normal numbers of the shape of x [B, ...], example i from keys[i] alone."""
  return jax.vmap(lambda key, row: jax.random.normal(key, row.shape))(keys, x)

"""Land cover: a class for every pixel, from the encoder's feature map through the deconvolution header."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from jax import Array

from deepsentinel import decoders
from deepsentinel.encoders.base import BATCH_NORM
from deepsentinel.objectives import base

IGNORED = -1


class LandCover(base.Objective):
  """Pixel-wise cross-entropy; pixels labelled -1 count neither in the loss nor in a metric.

  An example's loss is the mean over its labelled pixels (0 where it has none) and its diagnostic 'weight' the labelled
  share, so that the weighted mean over examples is the mean over labelled pixels.

  Attributes:
    classes: K.
    header_width: channels of the header's first up-block; 0 takes half of the feature map's.
    norm: partial of nn.BatchNorm, for the header.
    dtype: of the arithmetic.
    frozen_encoder: True runs the encoder as at inference and passes no gradient to it.
  """

  classes: int = 5
  header_width: int = 0
  norm: Any = BATCH_NORM
  dtype: Any = jnp.float32
  frozen_encoder: bool = False

  views: ClassVar[str] = 'labelled'

  def setup(self) -> None:
    self.header = decoders.DeconvolutionHeader(self.classes, self.header_width, self.norm, self.dtype)

  def predict(self, batch: base.Batch, train: bool = False) -> Array:
    """Logits f32[B, H, W, K] of batch['images'] f32[B, 1, H, W, C]."""
    h, w = batch['images'].shape[2:4]
    if h % self.encoder.stride or w % self.encoder.stride:
      allowed = max(h // self.encoder.stride, 1) * self.encoder.stride
      raise ValueError(
        f'The deconvolution header needs image sides that {self.encoder.stride} divides; found {h} x {w}. '
        f'Pass --config.data.crop_px={allowed}.'
      )
    out = self.encode_views(batch, train=train and not self.frozen_encoder)
    feature_map = out.feature_map[:, 0]
    self.sow('intermediates', 'feature_map', feature_map)
    if self.frozen_encoder:
      feature_map = jax.lax.stop_gradient(feature_map)
    return self.header(feature_map, train=train)

  def __call__(self, batch: base.Batch, *, train: bool) -> tuple[Array, dict[str, Array]]:
    logits, labels = self.predict(batch, train), batch['labels']
    labelled = labels != IGNORED
    pixel_loss = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(labelled, labels, 0))
    # [B, H, W] -> [B]
    count = labelled.sum((1, 2))

    def labelled_mean(x: Array) -> Array:
      return jnp.where(labelled, x, 0).sum((1, 2)) / jnp.maximum(count, 1)

    diagnostics = {
      'weight': labelled.mean((1, 2), dtype=jnp.float32),
      'accuracy': labelled_mean(logits.argmax(-1) == labels),
    }
    return labelled_mean(pixel_loss), diagnostics

"""Scenes: one answer for a whole patch, from the strongest cell of the encoder's feature map and one linear unit."""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import Array

from deepsentinel.objectives import base
from deepsentinel.objectives.landcover import IGNORED


class GlobalMax(nn.Module):
  operation: ClassVar[str] = 'Maximum over cells'

  def __call__(self, x: Array) -> Array:
    # [B, h, w, F] -> [B, F]
    return x.max((1, 2))


class LinearUnit(nn.Module):
  """The header: feature map f32[B, h, w, F] to one logit f32[B, 1], from the global maximum of every channel."""

  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, feature_map: Array, *, train: bool) -> Array:
    strongest = GlobalMax(name='Maximum')(feature_map)
    return nn.Dense(1, dtype=self.dtype, name='Linear')(strongest).astype(jnp.float32)


class Scene(base.Objective):
  """Binary cross-entropy of a linear unit on the global maximum of every feature channel.

  The maximum, not the mean: a mine fills a few cells of a patch. An example whose scene is unknown (label -1) has loss
  and weight 0.

  Attributes:
    dtype: of the arithmetic; the logit is float32.
    frozen_encoder: True runs the encoder as at inference and passes no gradient to it.
  """

  dtype: Any = jnp.float32
  frozen_encoder: bool = False

  views: ClassVar[str] = 'scene'

  def setup(self) -> None:
    self.header = LinearUnit(self.dtype)

  def logit(self, batch: base.Batch, train: bool = False) -> Array:
    """f32[B]: log-odds of the second class, given batch['images'] f32[B, 1, H, W, C]."""
    out = self.encode_views(batch, train=train and not self.frozen_encoder)
    feature_map = out.feature_map[:, 0]
    if self.frozen_encoder:
      feature_map = jax.lax.stop_gradient(feature_map)
    # [B, h, w, F] -> [B]
    return self.header(feature_map, train=train)[:, 0]

  def predict(self, batch: base.Batch, train: bool = False) -> Array:
    """Logits f32[B, 2] of the two classes; their softmax is the sigmoid of `logit`."""
    logit = self.logit(batch, train)
    return jnp.stack([jnp.zeros_like(logit), logit], -1)

  def __call__(self, batch: base.Batch, *, train: bool) -> tuple[Array, dict[str, Array]]:
    logit, labels = self.predict(batch, train)[:, 1], batch['labels']
    known = labels != IGNORED
    loss = optax.sigmoid_binary_cross_entropy(logit, (labels == 1).astype(jnp.float32))
    diagnostics = {
      'weight': known.astype(jnp.float32),
      'accuracy': jnp.where(known, (logit > 0) == (labels == 1), 0).astype(jnp.float32),
    }
    return jnp.where(known, loss, 0), diagnostics

"""The seam of an objective: a batch of views in, one loss an example out."""

import abc
from collections.abc import Callable, Mapping
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from deepsentinel.encoders.base import EncoderOutput

# V, the images of one example, by kind of batch. A triplet is anchor, neighbour, distant.
VIEWS = {'single': 1, 'pair': 2, 'triplet': 3, 'labelled': 1, 'scene': 1}
LABELLED = ('labelled', 'scene')  # these hold labels: of every pixel, of the whole crop

Batch = Mapping[str, Array]


class Objective(nn.Module):
  """Owns its encoder, whose variables therefore sit under 'encoder'.

  Attributes:
    encoder: the encoder.
    gather: function that collects an array f32[B, ...] over all devices, f32[D * B, ...]; train/parallel.py supplies
      it to objectives whose negatives are the other examples of the batch. None: this device's examples only.
  """

  encoder: nn.Module
  gather: Callable[[Array], Array] | None = None

  views: ClassVar[str] = 'single'

  @abc.abstractmethod
  def __call__(self, batch: Batch, *, train: bool) -> tuple[Array, dict[str, Array]]:
    """Loss and diagnostics of a batch.

    Args:
      batch: 'images' f32[B, V, H, W, C] standardised, 'valid' bool[B, V, H, W, C] where a number was measured, optional
        'present' bool[B, V, C], and for views 'labelled' 'labels' int32[B, H, W], 0-based class, -1 ignored;
        for 'scene' 'labels' int32[B]. In training also 'example' int32[B], the examples' numbers in the global batch,
        and 'key' [B], a PRNG key each.
      train: True updates the batch statistics.
    Returns:
      loss f32[B], diagnostics: name -> f32[B]. A diagnostic named 'weight' is the example's weight in every mean of
      loss and diagnostics over examples; without it all count alike.
    """

  def advice(self, means: Mapping[str, float]) -> str:
    """What to change, from the means of loss and diagnostics over the last steps of training; '' if all is well."""
    del means
    return ''

  def encode_views(self, batch: Batch, *, train: bool) -> EncoderOutput:
    """All views in one pass, so that batch norm sees one batch: embedding f32[B, V, E], feature_map f32[B, V, ...]."""
    images, present = batch['images'], batch.get('present')
    b, v = images.shape[:2]
    if v != VIEWS[self.views]:
      raise ValueError(
        f'{type(self).__name__} takes {self.views!r} batches with {VIEWS[self.views]} view(s) an example; found {v}.'
      )
    # [B, V, H, W, C] -> [B * V, H, W, C]
    images = images.reshape(b * v, *images.shape[2:])
    present = None if present is None else present.reshape(b * v, -1)
    out = self.encoder(images, present=present, train=train)
    return EncoderOutput(*(x.reshape(b, v, *x.shape[1:]) for x in out))

  def all_examples(self, x: Array, batch: Batch) -> tuple[Array, Array]:
    """x f32[B, ...] of this device's examples as f32[N, ...] of the global batch; int32[B], where these stand in it."""
    if self.gather is None:
      return x, jnp.arange(len(x))
    return self.gather(x), jnp.searchsorted(self.gather(batch['example']), batch['example'])

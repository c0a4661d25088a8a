"""The seam of an encoder: standardised pixels in, one embedding and a feature map out."""

import abc
import functools
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from deepsentinel.encoders.batchnorm import BatchNorm

# Flax's momentum 0.9 is PyTorch's 0.1.
BATCH_NORM = functools.partial(BatchNorm, momentum=0.9, epsilon=1e-5)


class EncoderOutput(NamedTuple):
  """What an encoder returns.

  Attributes:
    embedding: f32[B, E], the mean of `feature_map` over its cells.
    feature_map: f32[B, H/16, W/16, F], one vector a cell of 16 x 16 pixels.
  """

  embedding: Array
  feature_map: Array


class Encoder(nn.Module):
  """Base of every encoder.

  Attributes:
    width: channels of the stem; 64 is the paper's, 8 or 16 the small twin of tests and the quickstart.
    norm: partial of nn.BatchNorm; train/parallel.py supplies one that is synchronised over the devices.
    dtype: of the arithmetic; parameters and outputs stay float32.
  """

  width: int = 64
  norm: Any = BATCH_NORM
  dtype: Any = jnp.float32

  stride: ClassVar[int] = 16  # pixels a cell of the feature map

  @property
  def features(self) -> int:
    """F, the channels of the feature map."""
    return 8 * self.width

  @property
  def reach_px(self) -> int | None:
    """How far, in pixels, an input can lie from a cell's own pixels and still change it; None: anywhere."""
    return None

  @property
  def lattice_px(self) -> int:
    """Images that begin a multiple of this apart give the same features where they overlap, beyond `reach_px`."""
    return self.stride

  def local(self, window_px: int) -> 'Encoder | None':
    """The same encoder for images larger than its crops, with a finite `reach_px`; None where there is none.

    Args:
      window_px: how far attention looks: overlapping windows of this side, blended.
    """
    return self if self.reach_px is not None else None

  @abc.abstractmethod
  def __call__(self, images: Array, *, present: Array | None = None, train: bool) -> EncoderOutput:
    """Encodes images.

    Args:
      images: f32[B, H, W, C], standardised, invalid pixels 0.
      present: bool[B, C], False for a channel that is to be ignored; None where all are there.
      train: True updates the batch statistics.
    """


def drop_absent(images: Array, present: Array | None) -> Array:
  """`images` f32[B, H, W, C] with the channels that `present` bool[B, C] denies set to 0, the corpus's mean."""
  if present is None:
    return images
  # where, not a product: NaN times 0 is NaN.
  return jnp.where(present[:, None, None, :], images, 0)


class Relu(nn.Module):
  """A module, and so a row of the architecture tables."""

  operation: ClassVar[str] = 'Rectified Linear Activation'

  def __call__(self, x: Array) -> Array:
    return nn.relu(x)


class Sum(nn.Module):
  operation: ClassVar[str] = 'Sum'

  def __call__(self, x: Array, y: Array) -> Array:
    return x + y


class SpatialMean(nn.Module):
  operation: ClassVar[str] = 'Mean over cells'

  def __call__(self, x: Array) -> Array:
    # [B, H, W, F] -> [B, F]
    return x.mean((1, 2))

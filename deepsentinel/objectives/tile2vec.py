"""Tile2Vec: near patches embed nearer than distant ones (Jean et al. 2019; paper, section 4)."""

from typing import ClassVar

import jax.numpy as jnp
from jax import Array

from deepsentinel.objectives import base

POOLINGS = ('mean', 'cell')


def distance(a: Array, b: Array) -> Array:
  """Euclidean distance f32[...] of a, b f32[..., E]; its gradient is 0, not NaN, where they coincide."""
  square = jnp.sum((a - b) ** 2, -1)
  positive = square > 0
  return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0)


class Tile2Vec(base.Objective):
  """Triplet loss max(0, d(anchor, neighbour) - d(anchor, distant) + margin).

  Attributes:
    margin: in units of the embedding.
    pooling: 'mean' compares the patches' embeddings, 'cell' the feature maps cell by cell as the paper's code did.
  """

  margin: float = 0.1
  pooling: str = 'mean'

  views: ClassVar[str] = 'triplet'

  def __call__(self, batch: base.Batch, *, train: bool) -> tuple[Array, dict[str, Array]]:
    if self.pooling not in POOLINGS:
      raise ValueError(f'Unknown Tile2Vec pooling {self.pooling!r}. Known: {", ".join(POOLINGS)}.')
    out = self.encode_views(batch, train=train)
    # [B, 3, N, E]: one vector a patch, or one a cell
    if self.pooling == 'mean':
      vectors = out.embedding[:, :, None]
    else:
      vectors = out.feature_map.reshape(*out.feature_map.shape[:2], -1, out.feature_map.shape[-1])
    anchor, neighbour, distant = vectors[:, 0], vectors[:, 1], vectors[:, 2]
    # [B, N]
    d_neighbour, d_distant = distance(anchor, neighbour), distance(anchor, distant)
    triplet = jnp.maximum(d_neighbour - d_distant + self.margin, 0)
    diagnostics = {
      'd_neighbour': d_neighbour.mean(1),
      'd_distant': d_distant.mean(1),
      'active': (triplet > 0).mean(1, dtype=jnp.float32),
      'embedding_norm': jnp.linalg.norm(out.embedding, axis=-1).mean(1),
    }
    return triplet.mean(1), diagnostics

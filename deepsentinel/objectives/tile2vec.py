"""Tile2Vec: near patches embed nearer than distant ones (Jean et al. 2019; paper, section 4)."""

from collections.abc import Mapping
from typing import ClassVar

import jax.numpy as jnp
from jax import Array

from deepsentinel.objectives import base
from deepsentinel.objectives.similarity import distance, infonce

LOSSES = ('triplet', 'infonce')
POOLINGS = ('mean', 'cell')


class Tile2Vec(base.Objective):
  """An anchor, a neighbour of it and a distant patch, drawn by a law of the data.

  Attributes:
    loss: 'triplet', the paper's: max(0, d(anchor, neighbour) - d(anchor, distant) + margin). Where neighbours are
      hardly more alike than distant patches it is smallest for an encoder that sees no difference at all. 'infonce':
      cross-entropy of picking the neighbour, by cosine similarity, among all neighbours and distant patches of the
      global batch, and the anchor from the neighbour. It has no such way out.
    margin: of the triplet, in units of the embedding.
    temperature: of InfoNCE.
    pooling: 'mean' compares the patches' embeddings, 'cell' the feature maps cell by cell as the paper's code did
      (triplet only).
  """

  loss: str = 'infonce'
  margin: float = 0.1
  temperature: float = 0.1
  pooling: str = 'mean'

  views: ClassVar[str] = 'triplet'

  def __call__(self, batch: base.Batch, *, train: bool) -> tuple[Array, dict[str, Array]]:
    check(self.loss, self.pooling)
    out = self.encode_views(batch, train=train)
    # [B, 3, N, E]: one vector a patch, or one a cell
    if self.pooling == 'mean':
      vectors = out.embedding[:, :, None]
    else:
      vectors = out.feature_map.reshape(*out.feature_map.shape[:2], -1, out.feature_map.shape[-1])
    anchor, neighbour, distant = vectors[:, 0], vectors[:, 1], vectors[:, 2]
    # [B, N]
    d_neighbour, d_distant = distance(anchor, neighbour), distance(anchor, distant)
    diagnostics = {
      'd_neighbour': d_neighbour.mean(1),
      'd_distant': d_distant.mean(1),
      'embedding_norm': jnp.linalg.norm(out.embedding, axis=-1).mean(1),
    }
    if self.loss == 'infonce':
      loss, retrieval = self._infonce(out.embedding, batch)
      return loss, diagnostics | {'retrieval': retrieval}
    triplet = jnp.maximum(d_neighbour - d_distant + self.margin, 0)
    return triplet.mean(1), diagnostics | {'active': (triplet > 0).mean(1, dtype=jnp.float32)}

  def advice(self, means: Mapping[str, float]) -> str:
    near, far, active = (means.get(key, float('nan')) for key in ('d_neighbour', 'd_distant', 'active'))
    if not (active > 0.5 and near > 0.9 * far):
      return ''
    return (
      f'Tile2Vec hardly tells neighbours from distant patches: they lie {near:.3g} and {far:.3g} from the anchor, and '
      f'{100 * active:.0f} % of the triplets are within the margin. The encoder has learned little. Try '
      '--config.pretrain.tile2vec.loss=infonce'
      + (' --config.pretrain.tile2vec.pooling=mean' if self.pooling == 'cell' else '')
      + ', or nearer neighbours.'
    )

  def _infonce(self, embedding: Array, batch: base.Batch) -> tuple[Array, Array]:
    """Loss and retrieval f32[B] of embeddings f32[B, 3, E]."""
    everyone, number = self.all_examples(embedding, batch)
    return infonce(
      embedding[:, 0], embedding[:, 1], everyone[:, 0], everyone[:, 1], number, self.temperature, everyone[:, 2]
    )


def check(loss: str, pooling: str) -> None:
  """Raises ValueError for a loss or pooling that is not known, or a pair that does not go together."""
  if loss not in LOSSES:
    raise ValueError(f'Unknown Tile2Vec loss {loss!r}. Known: {", ".join(LOSSES)}.')
  if pooling not in POOLINGS:
    raise ValueError(f'Unknown Tile2Vec pooling {pooling!r}. Known: {", ".join(POOLINGS)}.')
  if loss == 'infonce' and pooling != 'mean':
    raise ValueError(
      f"Tile2Vec's InfoNCE compares whole patches; found pooling {pooling!r}. Use pooling 'mean', or loss 'triplet'."
    )

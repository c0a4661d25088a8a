"""Contrastive sensor fusion: two views of one place embed alike (Swope et al. 2021; paper, section 4)."""

from typing import ClassVar

import jax.numpy as jnp
from jax import Array

from deepsentinel.objectives import base
from deepsentinel.objectives.similarity import distance, infonce

LOSSES = ('triplet', 'infonce')


class Contrastive(base.Objective):
  """Two augmented views of a patch against the other patches of the global batch.

  Attributes:
    loss: 'triplet', the paper's: max(0, d(a, b) - d(a, n) + margin) with n the second view of the next example of the
      batch. 'infonce', of the original contrastive sensor fusion: cross-entropy of picking the other view of the same
      patch among those of all patches by cosine similarity, both ways.
    margin: of the triplet, in units of the embedding.
    temperature: of InfoNCE.
  """

  loss: str = 'triplet'
  margin: float = 0.1
  temperature: float = 0.1

  views: ClassVar[str] = 'pair'

  def __call__(self, batch: base.Batch, *, train: bool) -> tuple[Array, dict[str, Array]]:
    if self.loss not in LOSSES:
      raise ValueError(f'Unknown contrastive loss {self.loss!r}. Known: {", ".join(LOSSES)}.')
    embedding = self.encode_views(batch, train=train).embedding
    # [B, E] each; all of the global batch [D * B, E]
    a, b = embedding[:, 0], embedding[:, 1]
    everyone, number = self.all_examples(embedding, batch)
    if train and len(everyone) < 2:
      raise ValueError(
        'Contrastive learning needs other examples as negatives: use a batch of two or more, in parts of two or more.'
      )
    if self.loss == 'triplet':
      loss, diagnostics = triplet(a, b, everyone[(number + 1) % len(everyone), 1], self.margin)
    else:
      loss, retrieval = infonce(a, b, everyone[:, 0], everyone[:, 1], number, self.temperature)
      diagnostics = {'retrieval': retrieval}
    return loss, {**diagnostics, 'embedding_norm': jnp.linalg.norm(embedding, axis=-1).mean(1)}


def triplet(a: Array, b: Array, negative: Array, margin: float) -> tuple[Array, dict[str, Array]]:
  """Euclidean triplet loss f32[B] of f32[B, E] each, and its parts."""
  d_positive, d_negative = distance(a, b), distance(a, negative)
  loss = jnp.maximum(d_positive - d_negative + margin, 0)
  return loss, {'d_positive': d_positive, 'd_negative': d_negative, 'active': (loss > 0).astype(jnp.float32)}

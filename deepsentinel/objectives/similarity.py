"""How alike embeddings are, and the losses that objectives make of it."""

import jax
import jax.numpy as jnp
from jax import Array


def distance(a: Array, b: Array) -> Array:
  """Euclidean distance f32[...] of a, b f32[..., E]; its gradient is 0, not NaN, where they coincide."""
  square = jnp.sum((a - b) ** 2, -1)
  positive = square > 0
  return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0)


def unit(x: Array) -> Array:
  """f32[..., E] of length 1; a zero vector stays zero, with gradient 0."""
  square = jnp.sum(x**2, -1, keepdims=True)
  positive = square > 0
  return jnp.where(positive, x / jnp.sqrt(jnp.where(positive, square, 1)), 0)


def infonce(
  a: Array, b: Array, all_a: Array, all_b: Array, number: Array, temperature: float, others: Array | None = None
) -> tuple[Array, Array]:
  """Symmetric InfoNCE (van den Oord et al. 2018; Chen et al. 2020): which of the batch is the partner, both ways.

  Args:
    a, b: f32[B, E], the two partners of each of this device's examples.
    all_a, all_b: f32[N, E], those of the global batch.
    number: int32[B], where among the N the examples stand.
    temperature: what the cosine similarities are divided by.
    others: f32[M, E], embeddings that are nobody's partner.
  Returns:
    loss f32[B], the mean of both directions; f32[B], the share of directions in which the partner is the most similar.
  """
  a, b, all_a, all_b = map(unit, (a, b, all_a, all_b))
  extra = jnp.zeros((0, a.shape[-1]), a.dtype) if others is None else unit(others)
  losses, hits = [], []
  for query, keys in ((a, all_b), (b, all_a)):
    logits = query @ jnp.concatenate([keys, extra]).T / temperature  # [B, N + M]
    right = jnp.take_along_axis(logits, number[:, None], 1)[:, 0]
    losses.append(jax.nn.logsumexp(logits, 1) - right)
    hits.append(logits.argmax(1) == number)
  return (losses[0] + losses[1]) / 2, (hits[0] + hits[1].astype(jnp.float32)) / 2

"""PRNG keys derived from (seed, stream name, step): a resumed run needs no saved key."""

import zlib

import jax
from jax.typing import ArrayLike


def stream_key(seed: ArrayLike, stream: str, step: jax.Array | int) -> jax.Array:
  """The key of one named stream at one step; streams and steps are independent of each other.

  Args:
    seed: the experiment's seed; may be traced.
    stream: any name; its CRC-32 is folded in, so adding a stream changes no other.
    step: int32 scalar, may be traced.
  """
  key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(stream.encode()))
  return jax.random.fold_in(key, step)


def example_keys(key: jax.Array, first_example: jax.Array | int, examples: int) -> jax.Array:
  """keys [B]: one per example, by its number in the global batch, so that the number of devices changes no draw."""
  numbers = first_example + jax.numpy.arange(examples)
  return jax.vmap(lambda number: jax.random.fold_in(key, number))(numbers)

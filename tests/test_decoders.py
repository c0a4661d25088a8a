"""The header's transposed convolution against the one of Flax, whose parameters and tables it keeps."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepsentinel import decoders


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_the_transposed_convolution_is_that_of_flax(dtype):
  images = jax.random.normal(jax.random.key(0), (2, 3, 5, 6))
  ours = decoders.DeConv(4, dtype=dtype)
  theirs = nn.ConvTranspose(4, (2, 2), strides=(2, 2), padding='VALID', dtype=dtype)
  variables = theirs.init(jax.random.key(1), images)
  for mine, flax in zip(*map(jax.tree.leaves, (ours.init(jax.random.key(1), images), variables)), strict=True):
    np.testing.assert_array_equal(mine, flax)

  weight = jax.random.normal(jax.random.key(2), (2, 6, 10, 4))

  def loss(module, params, x):
    y = module.apply({'params': params}, x)
    assert (y.shape, y.dtype) == ((2, 6, 10, 4), dtype)
    return (jnp.sin(y.astype(jnp.float32)) * weight).sum()

  found, expected = (
    jax.value_and_grad(lambda p, x, m=module: loss(m, p, x), argnums=(0, 1))(variables['params'], images)
    for module in (ours, theirs)
  )
  tolerance = 1e-5 if dtype == jnp.float32 else 2e-2  # of the largest
  for mine, flax in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
    mine, flax = np.asarray(mine, np.float32), np.asarray(flax, np.float32)
    assert np.abs(mine - flax).max() <= tolerance * np.abs(flax).max()

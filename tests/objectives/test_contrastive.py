"""Contrastive losses by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepsentinel.encoders.base import EncoderOutput
from deepsentinel.objectives import contrastive
from tests.objectives.test_objectives import Mirror


def _apply(embeddings, train=False, **options):
  """Loss of embeddings [B, 2, E] given as images of one pixel."""
  images = jnp.asarray(embeddings, jnp.float32)[:, :, None, None, :]
  return contrastive.Contrastive(Mirror(), **options).apply({}, {'images': images}, train=train)


def test_triplet_by_hand():
  # d(a, b) = 5 and 0; the negative of the first is the second's second view and the other way round.
  loss, parts = _apply([[[0, 0], [3, 4]], [[0, 6], [0, 6]]], margin=0.5)
  np.testing.assert_allclose(parts['d_positive'], [5, 0])
  np.testing.assert_allclose(parts['d_negative'], [6, np.hypot(3, 2)], rtol=1e-6)
  np.testing.assert_allclose(loss, [0, 0])
  np.testing.assert_allclose(_apply([[[0, 0], [3, 4]], [[0, 6], [0, 6]]], margin=2.0)[0], [1, 0])


def test_infonce_by_hand():
  # Unit vectors: a = (e1, e2), b = (e1, e1); similarities a b' = [[1, 1], [0, 0]], b a' = [[1, 0], [1, 0]].
  loss, parts = _apply([[[1, 0], [2, 0]], [[0, 3], [1, 0]]], loss='infonce', temperature=1.0)
  first = (np.log(2) + np.log(np.e + 1) - 1) / 2
  second = (np.log(2) + np.log(np.e + 1)) / 2
  np.testing.assert_allclose(loss, [first, second], rtol=1e-6)
  np.testing.assert_allclose(parts['retrieval'], [1, 0])


@pytest.mark.parametrize('loss', contrastive.LOSSES)
def test_coincident_and_zero_embeddings_have_finite_gradients(loss):
  def total(x):
    return _apply(x, loss=loss)[0].sum()

  for x in (jnp.ones((3, 2, 4)), jnp.zeros((3, 2, 4))):
    value, gradient = jax.value_and_grad(total)(x)
    assert jnp.isfinite(value)
    assert jnp.isfinite(gradient).all()


@pytest.mark.parametrize('loss', contrastive.LOSSES)
def test_a_batch_of_one_has_no_negatives(loss):
  with pytest.raises(ValueError, match='a batch of two or more'):
    _apply(jnp.ones((1, 2, 4)), train=True, loss=loss)


def test_unknown_loss():
  with pytest.raises(ValueError, match=r"Unknown contrastive loss 'simclr'. Known: triplet, infonce"):
    _apply(jnp.ones((2, 2, 4)), loss='simclr')


def test_negatives_come_from_everyone():
  """Gathered embeddings of four, seen by a device that holds the last two."""
  whole = jnp.asarray(np.random.default_rng(0).normal(size=(4, 2, 3)), jnp.float32)
  for loss in contrastive.LOSSES:
    expected = _apply(whole, loss=loss)[0]

    def gather(x):
      return whole if x.ndim == 3 else jnp.array([0, 1, 6, 7])

    module = contrastive.Contrastive(Mirror(), gather=gather, loss=loss)
    batch = {'images': whole[2:, :, None, None, :], 'example': jnp.array([6, 7])}
    np.testing.assert_allclose(module.apply({}, batch, train=False)[0], expected[2:], rtol=1e-6)


def test_mirror_is_an_encoder():
  assert isinstance(Mirror()(jnp.ones((1, 1, 1, 2)), train=False), EncoderOutput)

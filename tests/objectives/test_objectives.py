"""What every registered objective promises, and the losses by hand."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepsentinel import registry
from deepsentinel.encoders.base import EncoderOutput
from deepsentinel.encoders.resnet import ResNet
from deepsentinel.objectives.base import VIEWS
from deepsentinel.objectives.landcover import LandCover
from deepsentinel.objectives.similarity import distance
from deepsentinel.objectives.tile2vec import LOSSES, Tile2Vec

B, PX, CHANNELS = 8, 32, 6


class Mirror(nn.Module):
  """An encoder that returns its input's cells, so that a loss can be computed by hand."""

  stride = 1

  def __call__(self, images, *, present=None, train):
    return EncoderOutput(images.mean((1, 2)), images)


def example_batch(objective, seed=0):
  rng = np.random.default_rng(seed)
  v = VIEWS[objective.views]
  images = rng.normal(size=(B, v, PX, PX, CHANNELS)).astype(np.float32)
  batch = {
    'images': images,
    'valid': np.ones_like(images, bool),
    'present': rng.random((B, v, CHANNELS)) > 0.2,
    'key': jax.random.split(jax.random.key(seed), B),
    'example': np.arange(B),
  }
  if objective.views == 'labelled':
    batch['labels'] = rng.integers(-1, 5, (B, PX, PX)).astype(np.int32)
  if objective.views == 'scene':
    batch['labels'] = rng.integers(-1, 2, B).astype(np.int32)
  return batch


@pytest.mark.parametrize('name', registry.known('objective'))
def test_an_objective_trains(name):
  encoder = ResNet(stage_sizes=(1, 1, 1, 1), width=8)
  objective = registry.load('objective', name)(encoder=encoder)
  batch = example_batch(objective)
  variables = jax.jit(functools.partial(objective.init, train=False))(jax.random.key(0), batch)
  alone = jax.eval_shape(lambda: encoder.init(jax.random.key(0), batch['images'][:, 0], train=False))
  # Transfer from pretraining to fine-tuning: the encoder's variables sit under 'encoder', as they are alone.
  for collection in ('params', 'batch_stats'):
    assert jax.tree.structure(variables[collection]['encoder']) == jax.tree.structure(alone[collection])

  def total(params, batch):
    variables_ = {**variables, 'params': params}
    (loss, diagnostics), changed = objective.apply(variables_, batch, train=True, mutable=['batch_stats'])
    return loss.sum(), (loss, diagnostics, changed)

  (_, (loss, diagnostics, _)), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(variables['params'], batch)
  assert loss.shape == (B,)
  assert {d.shape for d in diagnostics.values()} == {(B,)}
  for leaf in jax.tree.leaves((loss, diagnostics, gradient)):
    assert np.isfinite(leaf).all()
  assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradient['encoder'])) > 0
  with pytest.raises(ValueError, match=f'takes {objective.views!r} batches'):
    jax.eval_shape(
      lambda: objective.apply(variables, {**batch, 'images': np.ones((B, 5, PX, PX, CHANNELS))}, train=False)
    )


def test_tile2vec_by_hand():
  # Two patches of two cells (1 x 2) with two features; anchor, neighbour, distant.
  a, n, d = [[0, 0], [6, 8]], [[0, 1], [6, 7]], [[3, 5], [6, 8]]
  images = np.array([[a, n, d], [a, a, d]], np.float32)[:, :, None]
  loss, diagnostics = Tile2Vec(Mirror(), loss='triplet', margin=0.1).apply({}, {'images': images}, train=False)
  # means: a (3, 4), n (3, 4), d (4.5, 6.5); d(a, n) = 0, d(a, d) = sqrt(2.25 + 6.25)
  np.testing.assert_allclose(loss, [0, 0], atol=1e-6)
  np.testing.assert_allclose(diagnostics['d_distant'], [8.5**0.5] * 2, rtol=1e-6)
  np.testing.assert_allclose(diagnostics['embedding_norm'], [(5 + 5 + 62.5**0.5) / 3] * 2, rtol=1e-6)

  loss, diagnostics = Tile2Vec(Mirror(), loss='triplet', margin=0.1, pooling='cell').apply(
    {}, {'images': images}, train=False
  )
  # first patch: cells d(a, n) = 1, 1 and d(a, d) = sqrt(34), 0 -> losses 0 and 1.1; second: d(a, n) = 0 -> 0 and 0.1
  np.testing.assert_allclose(loss, [0.55, 0.05], rtol=1e-5)
  np.testing.assert_allclose(diagnostics['active'], [0.5, 0.5])
  np.testing.assert_allclose(diagnostics['d_neighbour'], [1, 0])


def test_tile2vec_agrees_with_pytorch():
  torch = pytest.importorskip('torch', reason='PyTorch is a test-only peer: pip install torch')
  images = np.random.default_rng(0).normal(size=(5, 3, 4, 4, 7)).astype(np.float32)
  ours, _ = Tile2Vec(Mirror(), loss='triplet', margin=0.3).apply({}, {'images': images}, train=False)
  pooled = torch.from_numpy(images.mean((2, 3)))
  peer = torch.nn.TripletMarginLoss(margin=0.3, reduction='none', eps=0)
  np.testing.assert_allclose(ours, peer(pooled[:, 0], pooled[:, 1], pooled[:, 2]), rtol=1e-5, atol=1e-6)


def test_a_triplet_that_tells_nothing_apart_says_what_to_do():
  collapsed = {'d_neighbour': 0.51, 'd_distant': 0.543, 'active': 0.74}
  assert 'they lie 0.51 and 0.543 from the anchor, and 74 % of the' in (
    advice := Tile2Vec(Mirror(), loss='triplet').advice(collapsed)
  )
  assert '--config.pretrain.tile2vec.loss=infonce, or' in advice
  of_cells = Tile2Vec(Mirror(), loss='triplet', pooling='cell').advice(collapsed)
  assert '--config.pretrain.tile2vec.loss=infonce --config.pretrain.tile2vec.pooling=mean, or' in of_cells
  assert not Tile2Vec(Mirror(), loss='triplet').advice({**collapsed, 'd_distant': 0.9})
  assert not Tile2Vec(Mirror(), loss='triplet').advice({**collapsed, 'active': 0.1})
  assert not Tile2Vec(Mirror(), loss='infonce').advice({'d_neighbour': 0.51, 'd_distant': 0.543, 'retrieval': 0.1})


def _infonce(embeddings, **options):
  """Loss of embeddings [B, 3, E] given as images of one pixel."""
  images = jnp.asarray(embeddings, jnp.float32)[:, :, None, None, :]
  return Tile2Vec(Mirror(), loss='infonce', **options).apply({}, {'images': images}, train=False)


def test_tile2vec_infonce_by_hand():
  # Unit vectors: anchors e1, e2; neighbours e1, e1; distant e2, -e1. Keys of an anchor: neighbours, then distant ones.
  loss, diagnostics = _infonce([[[1, 0], [2, 0], [0, 1]], [[0, 3], [1, 0], [-5, 0]]], temperature=1.0)
  e = np.e
  first = np.log(e + e + 1 + 1 / e) - 1  # e1 against e1, e1, e2, -e1
  second = np.log(1 + 1 + e + 1)  # e2 against e1, e1, e2, -e1
  from_first = np.log(e + 1 + 1 + 1 / e) - 1  # e1 against the anchors e1, e2 and the distant e2, -e1
  from_second = np.log(e + 1 + 1 + 1 / e)
  np.testing.assert_allclose(loss, [(first + from_first) / 2, (second + from_second) / 2], rtol=1e-6)
  np.testing.assert_allclose(diagnostics['retrieval'], [1, 0])
  np.testing.assert_allclose(diagnostics['d_neighbour'], [1, 10**0.5], rtol=1e-6)
  # A batch of one has its distant patch to be told from.
  alone, _ = _infonce([[[1, 0], [2, 0], [0, 1]]], temperature=0.5)
  np.testing.assert_allclose(alone, [np.log(e**2 + 1) - 2], rtol=1e-6)


def test_tile2vec_infonce_sees_everyone():
  whole = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3, 5)), jnp.float32)

  def gather(x):
    return whole if x.ndim == 3 else jnp.array([0, 1, 6, 7])

  module = Tile2Vec(Mirror(), gather=gather, loss='infonce')
  batch = {'images': whole[2:, :, None, None, :], 'example': jnp.array([6, 7])}
  np.testing.assert_allclose(module.apply({}, batch, train=False)[0], _infonce(whole)[0][2:], rtol=1e-6)


@pytest.mark.parametrize('value', [0.0, 1.0])
@pytest.mark.parametrize('loss', LOSSES)
def test_tile2vec_has_finite_gradients_where_all_embeddings_coincide(loss, value):
  def total(x):
    return Tile2Vec(Mirror(), loss=loss).apply({}, {'images': x}, train=False)[0].sum()

  loss, gradient = jax.value_and_grad(total)(jnp.full((3, 3, 1, 1, 4), value))
  assert jnp.isfinite(loss)
  assert jnp.isfinite(gradient).all()


def test_coincident_embeddings_have_a_finite_gradient():
  gradient = jax.grad(lambda a, b: distance(a, b).sum())
  np.testing.assert_array_equal(gradient(jnp.ones((2, 3)), jnp.ones((2, 3))), np.zeros((2, 3)))
  np.testing.assert_allclose(gradient(jnp.array([3.0, 4.0]), jnp.zeros(2)), [0.6, 0.8], rtol=1e-6)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'pooling': 'max'}, r"Unknown Tile2Vec pooling 'max'. Known: mean, cell"),
    ({'loss': 'simclr'}, r"Unknown Tile2Vec loss 'simclr'. Known: triplet, infonce"),
    ({'loss': 'infonce', 'pooling': 'cell'}, r"compares whole patches; found pooling 'cell'. Use pooling 'mean'"),
  ],
)
def test_an_unknown_form_of_tile2vec_is_refused(options, message):
  with pytest.raises(ValueError, match=message):
    Tile2Vec(Mirror(), **options).apply({}, {'images': np.zeros((1, 3, 1, 1, 2))}, train=False)


class Bypass(nn.Module):
  """A header that passes the feature map on as logits."""

  def __call__(self, feature_map, *, train):
    return feature_map


class MirrorLandCover(LandCover):
  def setup(self):
    self.header = Bypass()


def test_land_cover_by_hand():
  logits = np.log(np.array([[[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]], [[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]], np.float32))
  images = np.stack([logits, logits])[:, None]
  labels = np.array([[[0, 2], [-1, -1]], [[-1, -1], [-1, -1]]], np.int32)
  objective = MirrorLandCover(Mirror(), classes=3)
  loss, diagnostics = objective.apply({}, {'images': images, 'labels': labels}, train=False)
  np.testing.assert_allclose(loss, [-(np.log(0.7) + np.log(0.1)) / 2, 0], rtol=1e-5)
  np.testing.assert_allclose(diagnostics['weight'], [0.5, 0])
  np.testing.assert_allclose(diagnostics['accuracy'], [0.5, 0])


def test_the_weighted_mean_is_the_mean_over_labelled_pixels():
  torch = pytest.importorskip('torch', reason='PyTorch is a test-only peer: pip install torch')
  rng = np.random.default_rng(0)
  images = rng.normal(size=(4, 1, 8, 8, 5)).astype(np.float32)
  labels = np.where(rng.random((4, 8, 8)) < rng.random((4, 1, 1)), rng.integers(0, 5, (4, 8, 8)), -1).astype(np.int64)
  labels[2] = -1
  objective = MirrorLandCover(Mirror(), classes=5)
  loss, diagnostics = objective.apply({}, {'images': images, 'labels': labels.astype(np.int32)}, train=False)
  ours = (loss * diagnostics['weight']).sum() / diagnostics['weight'].sum()
  logits = torch.from_numpy(images[:, 0].transpose(0, 3, 1, 2))
  theirs = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels), ignore_index=-1)
  np.testing.assert_allclose(ours, theirs.item(), rtol=1e-5)


def test_ignored_pixels_pass_no_gradient():
  objective = MirrorLandCover(Mirror(), classes=3)
  labels = np.array([[[0, -1]]], np.int32)

  def loss(images):
    return objective.apply({}, {'images': images, 'labels': labels}, train=False)[0].sum()

  gradient = jax.grad(loss)(jnp.ones((1, 1, 1, 2, 3)))
  np.testing.assert_array_equal(gradient[0, 0, 0, 1], np.zeros(3))
  np.testing.assert_allclose(gradient[0, 0, 0, 0], [1 / 3 - 1, 1 / 3, 1 / 3], rtol=1e-6)


def test_predict_and_a_frozen_encoder():
  encoder = ResNet(stage_sizes=(1, 1, 1, 1), width=8)
  objective = LandCover(encoder=encoder, classes=5, frozen_encoder=True)
  batch = example_batch(objective)
  variables = jax.jit(functools.partial(objective.init, train=False))(jax.random.key(0), batch)
  predict = jax.jit(lambda v, b: objective.apply(v, b, method='predict'))
  assert predict(variables, batch).shape == (B, PX, PX, 5)

  def total(params):
    out, changed = objective.apply({**variables, 'params': params}, batch, train=True, mutable=['batch_stats'])
    return out[0].sum(), changed['batch_stats']

  gradient, statistics = jax.jit(jax.grad(total, has_aux=True))(variables['params'])
  assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradient['encoder']))
  assert any(np.any(leaf) for leaf in jax.tree.leaves(gradient['header']))
  old, new = variables['batch_stats']['encoder'], statistics['encoder']
  assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True))
  with pytest.raises(ValueError, match=r'found 40 x 40. Pass --config.data.crop_px=32'):
    jax.eval_shape(lambda: objective.apply(variables, {'images': np.ones((1, 1, 40, 40, 6))}, method='predict'))

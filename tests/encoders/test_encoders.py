"""What every registered encoder promises, and the paper's parameter counts."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from deepsentinel import registry
from deepsentinel.decoders import HEADER_REACH_PX, DeconvolutionHeader
from deepsentinel.encoders import attention
from deepsentinel.encoders.base import EncoderOutput

WIDTH, PX, CHANNELS = 8, 32, 14
NAMES = registry.known('encoder')
# The paper's Tables 5 to 8.
PAPER = {'resnet18': 11_211_008, 'resnet34': 21_319_168, 'resnet18attn': 11_621_570}


@functools.cache
def small(name):
  """(module, variables, jitted inference) of the width-8 twin."""
  module = registry.load('encoder', name)(width=WIDTH)
  variables = drawn(module, (1, PX, PX, CHANNELS))
  encode = jax.jit(lambda images, present: module.apply(variables, images, present=present, train=False))
  return module, variables, encode


def drawn(module, shape):
  """Variables of a module, drawn with NumPy: compiling an initialisation takes longer than a test."""
  shapes = jax.eval_shape(functools.partial(module.init, train=False), jax.random.key(0), jnp.zeros(shape))
  rng = np.random.default_rng(0)

  def draw(path, leaf):
    if leaf.ndim == 4:
      return rng.normal(0, (2 / np.prod(leaf.shape[:3])) ** 0.5, leaf.shape).astype(np.float32)
    ones = path[-1].key == 'var' or (path[-1].key == 'scale' and leaf.ndim)
    return (np.ones if ones else np.zeros)(leaf.shape, np.float32)

  return jax.tree_util.tree_map_with_path(draw, shapes)


def noise(b, px, seed=0):
  return np.random.default_rng(seed).normal(size=(b, px, px, CHANNELS)).astype(np.float32)


def parameters(module, shape):
  shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros(shape), train=False))
  count = lambda tree: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))  # noqa: E731
  return count(shapes['params']), {key: count(tree) for key, tree in shapes['params'].items()}


@pytest.mark.parametrize('name', sorted(PAPER))
def test_parameters_are_the_papers(name):
  total, parts = parameters(registry.load('encoder', name)(), (1, 128, 128, CHANNELS))
  assert total == PAPER[name]
  if name == 'resnet18attn':
    assert (parts['Attn1'], parts['Attn2']) == (82_241, 328_321)


def test_the_headers_parameters_are_the_papers():
  total, parts = parameters(DeconvolutionHeader(classes=7), (1, 8, 8, 512))
  assert total == 2_266_631
  assert parts == {'Layer1': 1_705_728, 'Layer2': 426_880, 'Layer3': 106_944, 'Layer4': 26_848, 'Conv1': 231}


@pytest.mark.parametrize('name', NAMES)
def test_output_shapes_and_types(name):
  module, _, encode = small(name)
  out = encode(noise(2, PX), np.ones((2, CHANNELS), bool))
  assert isinstance(out, EncoderOutput)
  cells = PX // module.stride
  assert out.feature_map.shape == (2, cells, cells, module.features)
  assert out.embedding.shape[0] == 2
  assert out.embedding.ndim == 2
  assert {out.embedding.dtype, out.feature_map.dtype} == {jnp.dtype('float32')}
  np.testing.assert_allclose(out.embedding, np.asarray(out.feature_map).mean((1, 2)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('name', NAMES)
def test_bfloat16_arithmetic_keeps_float32_parameters_and_outputs(name):
  _, variables, encode = small(name)
  x = noise(2, PX)
  half = registry.load('encoder', name)(width=WIDTH, dtype=jnp.bfloat16)
  out = jax.jit(lambda v, x: half.apply(v, x, train=False))(variables, x)
  assert out.feature_map.dtype == jnp.float32
  full = np.asarray(encode(x, np.ones((2, CHANNELS), bool)).feature_map)
  assert 0 < np.abs(out.feature_map - full).max() < 0.1 * np.abs(full).max()
  shapes = jax.eval_shape(lambda: half.init(jax.random.key(0), jnp.asarray(x), train=False))
  assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype('float32')}


@pytest.mark.parametrize('name', NAMES)
def test_an_absent_channel_is_ignored_even_where_it_is_nan(name):
  _, _, encode = small(name)
  x, present = noise(2, PX), np.ones((2, CHANNELS), bool)
  present[0, 3] = False
  filled, broken = x.copy(), x.copy()
  filled[0, ..., 3] = 0
  broken[0, ..., 3] = np.nan
  expected = encode(filled, np.ones((2, CHANNELS), bool)).feature_map
  np.testing.assert_array_equal(encode(broken, present).feature_map, expected)
  assert np.abs(encode(x, np.ones((2, CHANNELS), bool)).feature_map - expected)[0].max() > 0


@pytest.mark.parametrize('name', NAMES)
def test_training_updates_the_statistics_and_reaches_every_parameter(name):
  module, variables, _ = small(name)
  x = noise(2, PX)

  def loss(params):
    out, changed = module.apply({**variables, 'params': params}, x, train=True, mutable=['batch_stats'])
    return jnp.sum(out.feature_map**2), changed['batch_stats']

  (_, statistics), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables['params'])
  for old, new in zip(jax.tree.leaves(variables['batch_stats']), jax.tree.leaves(statistics), strict=True):
    assert not np.array_equal(old, new)
  for path, leaf in jax.tree_util.tree_flatten_with_path(gradient)[0]:
    # A closed gate lets no gradient through to what lies behind it.
    behind_gate = any('Conv' in p.key for p in path) and any('Attn' in p.key for p in path)
    assert np.isfinite(leaf).all()
    assert behind_gate or np.abs(leaf).max() > 0, path


def changed_cells(name, px, row, col, bad):
  """(row, col) of the cells that one pixel's value changes, and the cells a side."""
  module, variables, _ = small(name)
  x = noise(1, px)
  y = x.copy()
  y[0, row, col] = bad
  encode = jax.jit(lambda x: module.apply(variables, x, train=False).feature_map)
  different = (np.asarray(encode(x)) != np.asarray(encode(y)))[0].any(-1)
  return np.argwhere(different), px // module.stride, module


@pytest.mark.parametrize('name', NAMES)
def test_a_zero_filled_pixel_changes_nothing_beyond_the_encoders_reach(name):
  module, _, _ = small(name)
  if module.reach_px is None:
    cells, side, _ = changed_cells(name, 64, 0, 0, 0.0)
    pytest.skip(f'{name} sees the whole window ({len(cells)} of {side**2} cells)')
  px = -(-2 * module.reach_px // 16) * 16 + 96
  for row, col in ((px // 2, px // 2), (0, px - 1)):
    cells, _, _ = changed_cells(name, px, row, col, 0.0)
    assert len(cells)
    for at, cell in ((row, cells[:, 0]), (col, cells[:, 1])):
      first, last = cell * module.stride, cell * module.stride + module.stride - 1
      assert (first - module.reach_px <= at).all()
      assert (at <= last + module.reach_px).all()


def test_the_reach_of_resnet18_by_hand():
  # Radius of the receptive field: stem 3; Layer1 4 x 2; Layer2 2 + 3 x 4; Layer3 4 + 3 x 8; Layer4 8 + 3 x 16.
  assert registry.load('encoder', 'resnet18')().reach_px == 3 + 8 + 14 + 28 + 56
  assert HEADER_REACH_PX == 30


def test_attention_starts_as_twice_its_input():
  """Gate 0: the block is the identity, and Sum1 and Sum2 add its input once more."""
  module, variables, _ = small('resnet18attn')
  x = noise(1, PX)
  capture = functools.partial(module.apply, train=False, capture_intermediates=True, mutable=['intermediates'])
  _, state = jax.jit(capture)(variables, x)
  inner = state['intermediates']
  for layer, attn, total in (('Layer3', 'Attn1', 'Sum1'), ('Layer4', 'Attn2', 'Sum2')):
    stage = inner[layer]['__call__'][0]
    np.testing.assert_array_equal(inner[attn]['__call__'][0], stage)
    np.testing.assert_array_equal(inner[total]['__call__'][0], 2 * stage)


@pytest.mark.parametrize(('window', 'step'), [(4, 2), (7, 4), (20, 10)])
def test_attention_in_windows_by_loops(window, step):
  """Each window by itself, in NumPy, weighted by Hann's window at the middles of its cells."""
  rng = np.random.default_rng(0)
  query, key, value = (rng.normal(size=(2, 11, 9, c)).astype(np.float32) for c in (2, 2, 3))
  side = max(11, 9) + 2 * window
  weight = np.outer(*[np.hanning(2 * window + 1)[1::2]] * 2)[..., None]
  total, weights = np.zeros((2, side, side, 3)), np.zeros((side, side, 1))
  q, k, v = (np.pad(x, ((0, 0), (0, side - 11), (0, side - 9), (0, 0))) for x in (query, key, value))
  for row in range(0, max(11 - window, 0) + step, step):
    for col in range(0, max(9 - window, 0) + step, step):
      if (row and row - step + window >= 11) or (col and col - step + window >= 9):
        continue  # the one before it reaches the edge
      at = np.s_[:, row : row + window, col : col + window]
      flat = [x[at].reshape(2, window**2, -1) for x in (q, k, v)]
      energy = scipy.special.softmax(flat[0] @ flat[1].swapaxes(1, 2), -1)
      total[at] += weight * (energy @ flat[2]).reshape(2, window, window, 3)
      weights[at[1:]] += weight
  ours = np.asarray(jax.jit(attention.in_windows, static_argnums=(3, 4))(query, key, value, window, step))
  np.testing.assert_allclose(ours, (total / np.maximum(weights, 1e-9))[:, :11, :9], rtol=1e-3, atol=1e-5)


def test_attention_in_one_window_is_plain_attention():
  block = attention.SelfAttention()
  x = noise(1, 6)[..., :8]
  variables = jax.jit(block.init)(jax.random.key(0), x)
  variables['params']['Gate']['scale'] = jnp.ones(())
  local, whole = (jax.jit(b.apply)(variables, x) for b in (attention.SelfAttention(window=6, step=3), block))
  np.testing.assert_allclose(local, whole, rtol=1e-4, atol=1e-5)


def test_attention_says_what_it_needs():
  with pytest.raises(ValueError, match='8 channels or more'):
    attention.SelfAttention().init(jax.random.key(0), jnp.zeros((1, 2, 2, 4)))


@pytest.mark.parametrize(('features', 'widths'), [(512, [256, 128, 64, 32]), (64, [32, 16, 8, 8]), (8, [8, 8, 8, 8])])
def test_a_header_keeps_eight_channels(features, widths):
  header = DeconvolutionHeader(5)
  shapes = jax.eval_shape(
    functools.partial(header.init, train=False), jax.random.key(0), jax.ShapeDtypeStruct((1, 2, 2, features), 'float32')
  )
  assert [shapes['params'][f'Layer{i}']['Conv1']['kernel'].shape[-1] for i in range(1, 5)] == widths

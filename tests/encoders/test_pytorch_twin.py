"""Encoders and header against a PyTorch twin with the same weights: outputs, gradients, batch statistics."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepsentinel import registry
from deepsentinel.decoders import DeconvolutionHeader
from tests import untrained

torch = pytest.importorskip('torch', reason='PyTorch is a test-only peer: pip install torch')
from torch import nn  # noqa: E402

WIDTH, PX, CHANNELS = 8, 64, 14


class Block(nn.Module):
  """torchvision's BasicBlock, written out."""

  def __init__(self, before, channels, stride):
    super().__init__()
    self.Conv1 = nn.Conv2d(before, channels, 3, stride, 1, bias=False)
    self.BatchNorm1 = nn.BatchNorm2d(channels)
    self.Conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
    self.BatchNorm2 = nn.BatchNorm2d(channels)
    if stride != 1 or before != channels:
      self.Shortcut = nn.Conv2d(before, channels, 1, stride, bias=False)
      self.BatchNormShortcut = nn.BatchNorm2d(channels)

  def forward(self, x):
    y = self.BatchNorm1(self.Conv1(x)).relu()
    y = self.BatchNorm2(self.Conv2(y))
    shortcut = self.BatchNormShortcut(self.Shortcut(x)) if hasattr(self, 'Shortcut') else x
    return (y + shortcut).relu()


class Gate(nn.Module):
  def __init__(self):
    super().__init__()
    self.scale = nn.Parameter(torch.zeros(()))


class Attention(nn.Module):
  """SAGAN's block in the customary PyTorch form: [B, C, N] matrices and bmm."""

  def __init__(self, channels):
    super().__init__()
    self.QueryConv = nn.Conv2d(channels, channels // 8, 1)
    self.KeyConv = nn.Conv2d(channels, channels // 8, 1)
    self.ValConv = nn.Conv2d(channels, channels, 1)
    self.Gate = Gate()

  def forward(self, x):
    query, key, value = (conv(x).flatten(2) for conv in (self.QueryConv, self.KeyConv, self.ValConv))
    attention = torch.softmax(torch.bmm(query.transpose(1, 2), key), -1)
    out = torch.bmm(value, attention.transpose(1, 2)).view(x.shape)
    return self.Gate.scale * out + x


class ResNet(nn.Module):
  def __init__(self, sizes, attention):
    super().__init__()
    self.Conv1 = nn.Conv2d(CHANNELS, WIDTH, 7, 2, 3, bias=False)
    self.BatchNorm1 = nn.BatchNorm2d(WIDTH)
    before = WIDTH
    for i, size in enumerate(sizes):
      channels, stage = WIDTH * 2**i, nn.Module()
      for j in range(size):
        stride = 2 if i and not j else 1
        stage.add_module(f'DownBlock{j + 1}', Block(before, channels, stride))
        before = channels
      self.add_module(f'Layer{i + 1}', stage)
    if attention:
      self.Attn1, self.Attn2 = Attention(4 * WIDTH), Attention(8 * WIDTH)
    self.attention = attention

  def forward(self, x):
    x = self.BatchNorm1(self.Conv1(x)).relu()
    for i in range(4):
      for block in getattr(self, f'Layer{i + 1}').children():
        x = block(x)
      if self.attention and i >= 2:
        x = getattr(self, f'Attn{i - 1}')(x) + x
    return x


class Up(nn.Module):
  def __init__(self, before, channels):
    super().__init__()
    self.DeConv1 = nn.ConvTranspose2d(before, channels, 2, 2)
    self.Conv1 = nn.Conv2d(channels, channels, 3, padding=1)
    self.BatchNorm1 = nn.BatchNorm2d(channels)
    self.Conv2 = nn.Conv2d(channels, channels, 3, padding=1)
    self.BatchNorm2 = nn.BatchNorm2d(channels)

  def forward(self, x):
    x = self.BatchNorm1(self.Conv1(self.DeConv1(x))).relu()
    return self.BatchNorm2(self.Conv2(x)).relu()


class Header(nn.Module):
  def __init__(self, features, classes):
    super().__init__()
    widths = [features, *(max(features // 2 ** (i + 1), 8) for i in range(4))]
    for i in range(4):
      self.add_module(f'Layer{i + 1}', Up(widths[i], widths[i + 1]))
    self.Conv1 = nn.Conv2d(widths[4], classes, 1)

  def forward(self, x):
    for i in range(4):
      x = getattr(self, f'Layer{i + 1}')(x)
    return self.Conv1(x)


TWINS = {
  'resnet18': functools.partial(ResNet, (2, 2, 2, 2), False),
  'resnet34': functools.partial(ResNet, (3, 4, 6, 3), False),
  'resnet18attn': functools.partial(ResNet, (2, 2, 2, 2), True),
}
_NAMES = {'kernel': 'weight', 'scale': 'weight', 'bias': 'bias', 'mean': 'running_mean', 'var': 'running_var'}


def to_torch(tree):
  """A Flax collection's leaves under PyTorch's names and layouts."""
  out = {}
  for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
    parts, leaf = [p.key for p in path], np.asarray(leaf)
    if leaf.ndim == 4 and parts[-2] == 'DeConv1':
      leaf = leaf[::-1, ::-1].transpose(2, 3, 0, 1)  # PyTorch's transposed convolution does not flip its kernel
    elif leaf.ndim == 4:
      leaf = leaf.transpose(3, 2, 0, 1)
    name = parts[-1] if parts[-2] == 'Gate' else _NAMES[parts[-1]]
    out['.'.join([*parts[:-1], name])] = torch.from_numpy(np.array(leaf))
  return out


def scattered(module, x, seed):
  """Variables drawn with NumPy, none of them (norm scales, biases, running statistics, gates) at its initial value."""
  return untrained.draw(jax.eval_shape(functools.partial(module.init, train=False), jax.random.key(0), x), seed)


def twin_of(twin, variables):
  twin.load_state_dict(to_torch(variables['params']) | to_torch(variables['batch_stats']), strict=False)
  missing = set(dict(twin.named_parameters())) ^ set(to_torch(variables['params']))
  assert not missing
  return twin


def nhwc(t):
  return t.detach().numpy().transpose(0, 2, 3, 1)


def assert_close(ours, theirs, tolerance=1e-4):
  scale = np.abs(theirs).max()
  assert np.abs(np.asarray(ours) - theirs).max() <= tolerance * scale


@pytest.mark.parametrize('name', registry.known('encoder'))
def test_an_encoder_agrees_with_its_twin(name):
  if name not in TWINS:
    pytest.skip(f'no PyTorch twin of {name} is written here')
  check(
    registry.load('encoder', name)(width=WIDTH),
    lambda out: out.feature_map,
    TWINS[name](),
    np.random.default_rng(0).normal(size=(2, PX, PX, CHANNELS)).astype(np.float32),
  )


def test_the_header_agrees_with_its_twin():
  x = np.random.default_rng(1).normal(size=(2, 4, 4, 64)).astype(np.float32)
  check(DeconvolutionHeader(classes=5), lambda out: out, Header(64, 5), x)


def check(module, output, twin, x):
  variables = scattered(module, x, seed=2)
  twin = twin_of(twin, variables).eval()
  theirs = nhwc(twin(torch.from_numpy(x.transpose(0, 3, 1, 2))))
  ours = output(jax.jit(lambda v, x: module.apply(v, x, train=False))(variables, x))
  assert_close(ours, theirs)

  # Training: batch statistics, gradients of the weights and of the input.
  weight = np.random.default_rng(3).normal(size=theirs.shape).astype(np.float32)

  def loss(params, x):
    out, changed = module.apply({**variables, 'params': params}, x, train=True, mutable=['batch_stats'])
    return jnp.mean(output(out) * weight), changed['batch_stats']

  gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
  (value, statistics), (by_params, by_x) = gradient(variables['params'], x)
  twin.train()
  images = torch.from_numpy(x.transpose(0, 3, 1, 2)).requires_grad_()
  twin_loss = (twin(images) * torch.from_numpy(weight.transpose(0, 3, 1, 2))).mean()
  twin_loss.backward()
  np.testing.assert_allclose(value, twin_loss.item(), rtol=1e-4, atol=1e-6)
  assert_close(by_x, nhwc(images.grad))
  largest = max(float(p.grad.abs().max()) for p in twin.parameters())
  by_params = to_torch(by_params)
  for key, parameter in twin.named_parameters():
    np.testing.assert_allclose(by_params[key], parameter.grad, rtol=0, atol=1e-4 * largest, err_msg=key)
  buffers, before = dict(twin.named_buffers()), to_torch(variables['batch_stats'])
  for key, value in to_torch(statistics).items():
    theirs, tolerance = buffers[key].numpy(), 1e-4
    if key.endswith('var'):
      # PyTorch keeps the unbiased variance, Flax the biased one: n / (n - 1) of it, n = B * H * W being 32 or more.
      batch_variance = (theirs - 0.9 * before[key].numpy()) / 0.1
      tolerance = tolerance + 0.1 * batch_variance / 32
    assert (np.abs(value.numpy() - theirs) <= tolerance).all(), key

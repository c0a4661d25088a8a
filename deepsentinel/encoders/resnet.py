"""ResNets for 14-channel patches (paper, Tables 2, 5 and 6): no max-pool, no softmax, output at 1/16 of the input.

Modules bear the names of the paper's tables, so that `deepsentinel.describe` and a checkpoint's keys read alike.
"""

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
from jax import Array

from deepsentinel.encoders import attention, base

# PyTorch's initialisation of ResNets: He et al. 2015, normal, fan-out.
_KERNEL = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')
CONV = functools.partial(nn.Conv, use_bias=False, kernel_init=_KERNEL)


class DownBlock(nn.Module):
  """The basic block of He et al. 2016: two 3x3 convolutions and a shortcut, summed before the last activation."""

  channels: int
  stride: int
  conv: Any
  norm: Any  # partial of nn.BatchNorm with use_running_average set

  @nn.compact
  def __call__(self, x: Array) -> Array:
    # Explicit padding: XLA's 'SAME' pads a stride of 2 on the far side only, PyTorch on both.
    conv3x3 = functools.partial(self.conv, kernel_size=(3, 3), padding=((1, 1), (1, 1)))
    # [B, H, W, C] -> [B, H/stride, W/stride, channels]
    y = conv3x3(self.channels, strides=(self.stride, self.stride), name='Conv1')(x)
    y = self.norm(name='BatchNorm1')(y)
    y = base.Relu(name='ReLu1')(y)
    y = conv3x3(self.channels, name='Conv2')(y)
    y = self.norm(name='BatchNorm2')(y)
    shortcut = x
    if self.stride != 1 or x.shape[-1] != self.channels:
      strides = (self.stride, self.stride)
      shortcut = self.conv(self.channels, kernel_size=(1, 1), strides=strides, padding='VALID', name='Shortcut')(x)
      shortcut = self.norm(name='BatchNormShortcut')(shortcut)
    y = base.Sum(name='Sum')(y, shortcut)
    return base.Relu(name='ReLu2')(y)


class Stage(nn.Module):
  """DownBlocks of one width; the first one changes the resolution."""

  blocks: int
  channels: int
  stride: int
  conv: Any
  norm: Any

  table: ClassVar[str] = 'Table 2'

  @property
  def operation(self) -> str:
    return f'DownBlockx{self.blocks} ({self.table})'

  @nn.compact
  def __call__(self, x: Array) -> Array:
    for i in range(self.blocks):
      block = DownBlock(self.channels, self.stride if i == 0 else 1, self.conv, self.norm, name=f'DownBlock{i + 1}')
      x = block(x)
    return x


class ResNet(base.Encoder):
  """Stem 7x7 / 2, then four stages of DownBlocks at strides 1, 2, 2, 2.

  Attributes:
    stage_sizes: DownBlocks of the four stages.
    conv: partial of nn.Conv.
    context: module class put after the stages in `context_after`; its output is added to its input (Sum1, Sum2).
    context_after: stage numbers, from 1.
    local_cells: 0: the context modules see the whole feature map, as in training; else windows of so many cells.
  """

  stage_sizes: tuple[int, ...] = (2, 2, 2, 2)
  conv: Any = CONV
  context: Callable[..., nn.Module] | None = None
  context_after: tuple[int, ...] = ()
  local_cells: int = 0

  @property
  def reach_px(self) -> int | None:
    if self.context is not None and not self.local_cells:
      return None
    reach, pixel = 3, 2  # the 7x7 stem, then one step is two pixels
    for i, blocks in enumerate(self.stage_sizes):
      reach += pixel  # the block's first convolution sees the finer map
      pixel *= 1 if i == 0 else 2
      reach += pixel * (2 * blocks - 1)
    # A value depends on all of the windows that it lies in.
    return reach + len(self.context_after) * self.local_cells * self.stride

  @property
  def lattice_px(self) -> int:
    return max(1, attention.step_of(self.local_cells)) * self.stride

  def local(self, window_px: int) -> base.Encoder | None:
    if self.context is None:
      return self
    # A context of one's own need not know windows.
    return self.clone(local_cells=window_px // self.stride) if hasattr(self.context, 'window') else None

  @nn.compact
  def __call__(self, images: Array, *, present: Array | None = None, train: bool) -> base.EncoderOutput:
    conv = functools.partial(self.conv, dtype=self.dtype)
    norm = functools.partial(self.norm, use_running_average=not train, dtype=self.dtype)
    x = base.drop_absent(images, present)
    # [B, H, W, C] -> [B, H/2, W/2, width]
    x = conv(self.width, kernel_size=(7, 7), strides=(2, 2), padding=((3, 3), (3, 3)), name='Conv1')(x)
    x = norm(name='BatchNorm1')(x)
    x = base.Relu(name='ReLu1')(x)
    for i, blocks in enumerate(self.stage_sizes):
      # [B, H/2, W/2, width] -> ... -> [B, H/16, W/16, 8 * width]
      x = Stage(blocks, self.width * 2**i, 1 if i == 0 else 2, conv, norm, name=f'Layer{i + 1}')(x)
      if self.context is not None and i + 1 in self.context_after:
        k = self.context_after.index(i + 1) + 1
        # Positions of this stage's map a cell.
        scale = self.stride // (2 * 2**i)
        local = {'window': self.local_cells * scale, 'step': attention.step_of(self.local_cells) * scale}
        attended = self.context(dtype=self.dtype, name=f'Attn{k}', **(local if self.local_cells else {}))(x)
        x = base.Sum(name=f'Sum{k}')(attended, x)
    feature_map = x.astype('float32')
    return base.EncoderOutput(base.SpatialMean(name='Embedding')(feature_map), feature_map)


ResNet10 = functools.partial(ResNet, stage_sizes=(1, 1, 1, 1))  # not the paper's: half of ResNet18, for trials
ResNet18 = functools.partial(ResNet, stage_sizes=(2, 2, 2, 2))
ResNet34 = functools.partial(ResNet, stage_sizes=(3, 4, 6, 3))
ResNet18Attention = functools.partial(ResNet18, context=attention.SelfAttention, context_after=(3, 4))

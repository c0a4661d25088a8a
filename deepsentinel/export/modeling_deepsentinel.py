"""DeepSentinel's encoders in PyTorch, for inference and for fine-tuning: one file, beside the weights it reads.

    from modeling_deepsentinel import DeepSentinel

    model = DeepSentinel.from_pretrained('.')    # the folder with model.json and pytorch_model.safetensors
    print(model.bands)                           # the channels, in order
    out = model(pixels)                          # float32 [B, C, H, W]: reflectance (0 to 1) and dB, NaN where no data
    out.embedding                                # [B, F], one vector a patch
    out.feature_map                              # [B, F, H/16, W/16], one vector a cell of 160 m
    out.logits                                   # [B, K, H, W] (land cover), [B, K] (scenes) or None

A band that is not there: any numbers, and `present` (bool [B, C] or [C]) False for it; model.subsets lists the sets of
bands that the model was trained to work with. It needs torch and safetensors, and neither JAX nor DeepSentinel.
"""

import json
import pathlib
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn


class Output(NamedTuple):
  embedding: Tensor
  feature_map: Tensor
  logits: Tensor | None


class DownBlock(nn.Module):
  """Two 3x3 convolutions and a shortcut, summed before the last activation."""

  def __init__(self, before: int, channels: int, stride: int):
    super().__init__()
    self.Conv1 = nn.Conv2d(before, channels, 3, stride, 1, bias=False)
    self.BatchNorm1 = nn.BatchNorm2d(channels)
    self.Conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
    self.BatchNorm2 = nn.BatchNorm2d(channels)
    self.projects = stride != 1 or before != channels
    if self.projects:
      self.Shortcut = nn.Conv2d(before, channels, 1, stride, bias=False)
      self.BatchNormShortcut = nn.BatchNorm2d(channels)

  def forward(self, x: Tensor) -> Tensor:
    y = self.BatchNorm1(self.Conv1(x)).relu()
    y = self.BatchNorm2(self.Conv2(y))
    return (y + (self.BatchNormShortcut(self.Shortcut(x)) if self.projects else x)).relu()


class Gate(nn.Module):
  def __init__(self):
    super().__init__()
    self.scale = nn.Parameter(torch.zeros(()))

  def forward(self, x: Tensor) -> Tensor:
    return self.scale * x


class SelfAttention(nn.Module):
  """SAGAN's block (Zhang et al. 2019): every cell sees every other."""

  def __init__(self, channels: int):
    super().__init__()
    self.QueryConv = nn.Conv2d(channels, channels // 8, 1)
    self.KeyConv = nn.Conv2d(channels, channels // 8, 1)
    self.ValConv = nn.Conv2d(channels, channels, 1)
    self.Gate = Gate()

  def forward(self, x: Tensor) -> Tensor:
    # [B, C, N] with N = H * W
    query, key, value = (conv(x).flatten(2) for conv in (self.QueryConv, self.KeyConv, self.ValConv))
    attention = torch.softmax(torch.bmm(query.transpose(1, 2), key), -1)
    return self.Gate(torch.bmm(value, attention.transpose(1, 2)).view(x.shape)) + x


class Encoder(nn.Module):
  """ResNet: stem 7x7 / 2 without max-pool, then four stages at strides 1, 2, 2, 2; attention after some of them."""

  def __init__(self, bands: int, width: int, stage_sizes: list[int], attention_after: list[int]):
    super().__init__()
    self.attention_after, self.stages = tuple(attention_after), len(stage_sizes)
    self.Conv1 = nn.Conv2d(bands, width, 7, 2, 3, bias=False)
    self.BatchNorm1 = nn.BatchNorm2d(width)
    before = width
    for i, size in enumerate(stage_sizes):
      channels, stage = width * 2**i, nn.Module()
      for j in range(size):
        stage.add_module(f'DownBlock{j + 1}', DownBlock(before, channels, 2 if i and not j else 1))
        before = channels
      self.add_module(f'Layer{i + 1}', stage)
    for k, i in enumerate(attention_after):
      self.add_module(f'Attn{k + 1}', SelfAttention(width * 2 ** (i - 1)))

  def forward(self, x: Tensor) -> Tensor:
    x = self.BatchNorm1(self.Conv1(x)).relu()
    for i in range(1, self.stages + 1):
      for block in getattr(self, f'Layer{i}').children():
        x = block(x)
      if i in self.attention_after:
        x = getattr(self, f'Attn{self.attention_after.index(i) + 1}')(x) + x
    return x


class UpBlock(nn.Module):
  """Transposed convolution 2x2 / 2, then twice 3x3 convolution, batch norm, ReLU."""

  def __init__(self, before: int, channels: int):
    super().__init__()
    self.DeConv1 = nn.ConvTranspose2d(before, channels, 2, 2)
    self.Conv1 = nn.Conv2d(channels, channels, 3, padding=1)
    self.BatchNorm1 = nn.BatchNorm2d(channels)
    self.Conv2 = nn.Conv2d(channels, channels, 3, padding=1)
    self.BatchNorm2 = nn.BatchNorm2d(channels)

  def forward(self, x: Tensor) -> Tensor:
    x = self.BatchNorm1(self.Conv1(self.DeConv1(x))).relu()
    return self.BatchNorm2(self.Conv2(x)).relu()


class LandCoverHeader(nn.Module):
  """Four up-blocks and a 1x1 convolution: a class for every pixel."""

  def __init__(self, features: int, classes: int, width: int):
    super().__init__()
    widths = [features, *(max(width // 2**i, 8) for i in range(4))]
    for i in range(4):
      self.add_module(f'Layer{i + 1}', UpBlock(widths[i], widths[i + 1]))
    self.Conv1 = nn.Conv2d(widths[4], classes, 1)

  def forward(self, x: Tensor) -> Tensor:
    for i in range(1, 5):
      x = getattr(self, f'Layer{i}')(x)
    return self.Conv1(x)


class SceneHeader(nn.Module):
  """One answer a patch, from the strongest cell of every channel: logits [B, 2], of which the first is 0."""

  def __init__(self, features: int):
    super().__init__()
    self.Linear = nn.Linear(features, 1)

  def forward(self, x: Tensor) -> Tensor:
    logit = self.Linear(x.amax((2, 3)))[:, 0]
    return torch.stack([torch.zeros_like(logit), logit], -1)


class DeepSentinel(nn.Module):
  """Encoder, and header where the checkpoint was fine-tuned.

  Attributes:
    about: the content of model.json.
    bands: names of the channels, in order.
    classes: names of the classes of `logits`; empty without a header.
    subsets: sets of bands that the model was also trained to work with.
    shown: bands that it was fine-tuned on; all others are absent to it, whatever they hold.
  """

  def __init__(self, about: dict):
    super().__init__()
    self.about = about
    self.bands = tuple(channel['band'] for channel in about['channels'])
    self.classes, self.subsets = tuple(about['classes']), about['subsets']
    self.shown = tuple(about.get('shown') or self.bands)
    layers, encoder = about['pytorch'], about['encoder']
    self.register_buffer('seen', torch.tensor([band in self.shown for band in self.bands]), persistent=False)
    self.register_buffer('mean', torch.tensor([channel['mean'] for channel in about['channels']]))
    self.register_buffer('std', torch.tensor([channel['std'] for channel in about['channels']]))
    self.encoder = Encoder(len(self.bands), encoder['width'], layers['stage_sizes'], layers['attention_after'])
    self.header: nn.Module | None = None
    if layers['header'] == 'landcover':
      self.header = LandCoverHeader(encoder['features'], len(self.classes), layers['header_width'])
    elif layers['header'] == 'scene':
      self.header = SceneHeader(encoder['features'])

  @classmethod
  def from_pretrained(cls, folder: str | pathlib.Path) -> 'DeepSentinel':
    """The model of an exported folder, ready for inference."""
    folder = pathlib.Path(folder)
    model = cls(json.loads((folder / 'model.json').read_text()))
    model.load_state_dict(load_file(folder / 'pytorch_model.safetensors'))
    return model.eval()

  def physical(self, stored: Tensor) -> Tensor:
    """Integers as DeepSentinel stores them, [B, C, H, W], as float32 reflectance and dB, NaN where there is no data.

    Sentinel-2: reflectance x 10,000, 0 = no data. Sentinel-1: dB x 100, -32768 = no data.
    """
    channels = self.about['channels']
    scale, nodata = (
      torch.tensor([channel[key] for channel in channels], device=stored.device)[:, None, None]
      for key in ('stored_scale', 'stored_nodata')
    )
    return torch.where(stored == nodata, torch.nan, stored.float() / scale)

  def standardise(self, pixels: Tensor, present: Tensor | None = None) -> Tensor:
    """Mean 0 and deviation 1 in every band; then 0, the mean, where there is no data or no such band."""
    if pixels.ndim != 4 or pixels.shape[1] != len(self.bands):
      raise ValueError(f'Pixels are [B, {len(self.bands)}, H, W] of {self.bands}; found {tuple(pixels.shape)}.')
    there = torch.isfinite(pixels) & self.seen[:, None, None]
    if present is not None:
      present = torch.as_tensor(present, dtype=torch.bool, device=pixels.device)
      there = there & present.expand(len(pixels), -1)[:, :, None, None]
    return torch.where(there, (pixels - self.mean[:, None, None]) / self.std[:, None, None], 0)

  def forward(self, pixels: Tensor, present: Tensor | None = None) -> Output:
    """Encodes pixels.

    Args:
      pixels: float32 [B, C, H, W], reflectance (0 to 1) and dB, NaN where there is no data.
      present: bool [B, C] or [C], False for a band that is to be ignored; None where all are there.
    """
    feature_map = self.encoder(self.standardise(pixels, present))
    logits = None
    if self.header is not None:
      if isinstance(self.header, LandCoverHeader) and (pixels.shape[2] % 16 or pixels.shape[3] % 16):
        raise ValueError(f'The land-cover header needs sides that 16 divides; found {tuple(pixels.shape[2:])}.')
      logits = self.header(feature_map)
    return Output(feature_map.mean((2, 3)), feature_map, logits)

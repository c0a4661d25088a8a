"""Tables of an encoder's layers and its header's: input, operation, output shape, parameters; read off the modules.

They are the tables 2 to 8 of the paper, for any encoder. Shapes are NCHW as in the paper; the arrays themselves are
NHWC. Table 2 follows He et al. (the shortcut is summed before the last activation). The paper's last row of each
encoder, a softmax, was never applied and is not here.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from deepsentinel import decoders, legend, registry, sensors
from deepsentinel.objectives import scene
from deepsentinel.train import settings

HEADINGS = ('Layer', 'Input', 'Operation', 'Output shape', 'Parameters')
_ENCODER_TABLES = {'resnet18': 'Table 5', 'resnet34': 'Table 6', 'resnet18attn': 'Table 7'}
_BLOCK_TABLES = (('DownBlock', 'Table 2'), ('UpBlock', 'Table 3'), ('SelfAttention', 'Table 4'))


@dataclasses.dataclass(frozen=True)
class Layer:
  """One call of a submodule. Shapes NCHW without the batch."""

  path: tuple[str, ...]
  kind: str
  inputs: tuple[str, ...]
  operation: str
  shape: tuple[int, ...]
  parameters: int


@dataclasses.dataclass(frozen=True)
class Table:
  title: str
  rows: tuple[tuple[str, ...], ...]
  total: int


def _nchw(shape: Sequence[int]) -> tuple[int, ...]:
  shape = tuple(shape)[1:]
  return (shape[-1], *shape[:-1])


def _show(shape: Sequence[int]) -> str:
  return '[' + ', '.join(['B', *map(str, shape)]) + ']'


def _operation(module: nn.Module) -> str:
  if isinstance(module, nn.Conv | nn.ConvTranspose):
    size = 'x'.join(map(str, module.kernel_size))
    strides = module.strides if isinstance(module.strides, Sequence) else (1,)
    step = f' / {strides[0]}' if strides[0] != 1 else ''
    name = 'Transpose Convolution2D' if isinstance(module, nn.ConvTranspose) else 'Convolution2D'
    return f'{name} {size}{step}'
  if isinstance(module, nn.BatchNorm):
    return 'Batch Normalisation'
  return str(getattr(module, 'operation', type(module).__name__))


def parameter_count(params: Any) -> int:
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def layers(module: nn.Module, shape: Sequence[int], dtype: Any = jnp.float32) -> tuple[list[Layer], int]:
  """Every submodule's call, in order of their ends, and the parameters of the whole; nothing is computed.

  Args:
    module: an encoder or a header, called as module(x, train=False).
    shape: of x, with the batch: (1, H, W, C).
  """
  calls: list[tuple[tuple[str, ...], str, tuple[str, ...], str, tuple[int, ...]]] = []
  names: dict[int, str] = {}  # id of a traced array -> the module that made it
  alive: list[Any] = []  # keeps the ids unique
  running: set[tuple[str, ...]] = set()  # a module that calls its base class's __call__ is one layer

  def record(call, args, kwargs, context):
    path = tuple(context.module.path)
    if context.method_name != '__call__' or not path or path in running:
      return call(*args, **kwargs)
    # An input that no module made is the input of the parent.
    inputs = tuple(names.get(id(a), 'INPUT') for a in args)
    entering = {id(a): names.pop(id(a), None) for a in args}
    running.add(path)
    out = call(*args, **kwargs)
    running.remove(path)
    names.update({key: name for key, name in entering.items() if name is not None})
    calls.append((path, type(context.module).__name__, inputs, _operation(context.module), _nchw(out.shape)))
    names[id(out)] = path[-1]
    alive.extend([*args, out])
    return out

  def run(x):
    with nn.intercept_methods(record):
      return module.init(jax.random.key(0), x, train=False)

  params = jax.eval_shape(run, jax.ShapeDtypeStruct(tuple(shape), dtype))['params']
  rows = []
  for path, kind, inputs, operation, out in calls:
    subtree = params
    for part in path:
      subtree = subtree.get(part, {}) if isinstance(subtree, dict) else {}
    rows.append(Layer(path, kind, inputs, operation, out, parameter_count(subtree)))
  return rows, parameter_count(params)


def table(title: str, rows: Sequence[Layer], total: int, parent: tuple[str, ...], input_shape: str) -> Table:
  """The direct children of `parent` as a table."""
  lines: list[tuple[str, ...]] = []
  for row in rows:
    if row.path[:-1] == parent:
      inputs = row.inputs[0] if len(row.inputs) == 1 else '[' + ', '.join(row.inputs) + ']'
      if not lines and inputs == 'INPUT':
        inputs = f'INPUT {input_shape}'
      lines.append((row.path[-1], inputs, row.operation, _show(row.shape), f'{row.parameters:,}'))
  return Table(title, tuple(lines), total)


def _block_tables(rows: Sequence[Layer], where: str) -> list[Table]:
  """One table for each kind of block in `rows`, of its first instance that changes the shape if there is one."""
  tables = []
  for kind, name in _BLOCK_TABLES:
    blocks = [r for r in rows if r.kind == kind]
    if not blocks:
      continue
    projected = [b for b in blocks if any(r.path == (*b.path, 'Shortcut') for r in rows)]
    block = (projected or blocks)[0]
    place = '/'.join(block.path)
    tables.append(table(f'{name}: {kind} ({where} {place})', rows, block.parameters, block.path, ''))
  return tables


def tables(
  encoder_name: str, width: int, channels: int, crop_px: int, classes: int, *, of_scenes: bool = False
) -> list[Table]:
  """The tables of one encoder and of the header behind it, in the paper's order; `of_scenes` takes the linear unit."""
  encoder = registry.load('encoder', encoder_name)(width=width)
  rows, total = layers(encoder, (1, crop_px, crop_px, channels))
  grid = crop_px // encoder.stride
  header = scene.LinearUnit() if of_scenes else decoders.DeconvolutionHeader(classes)
  header_rows, header_total = layers(header, (1, grid, grid, encoder.features))
  number = _ENCODER_TABLES.get(encoder_name)
  title = f'{number}: {encoder_name}' if number else encoder_name
  title += f', width {width}' if width != 64 else ''
  encoder_input = _show((channels, crop_px, crop_px))
  header_input = _show((encoder.features, grid, grid))
  out = [*_block_tables(rows, encoder_name), *_block_tables(header_rows, 'header')]
  out.append(table(title, rows, total, (), encoder_input))
  out.sort(key=lambda t: t.title if t.title.startswith('Table') else 'Table 7')
  header_title = 'Linear unit' if of_scenes else f'Table 8: deconvolution header, {classes} classes'
  return [*out, table(header_title, header_rows, header_total, (), header_input)]


def render(t: Table, markdown: bool = False) -> str:
  """One table as aligned plain text or as Markdown, with its total."""
  lines: list[tuple[str, ...]] = [HEADINGS, *t.rows]
  widths = [max(len(line[i]) for line in lines) for i in range(len(HEADINGS))]

  def row(line: Sequence[str], gap: str) -> str:
    cells = [cell.ljust(width) for cell, width in zip(line[:-1], widths, strict=False)]
    return gap.join([*cells, line[-1].rjust(widths[-1])])

  if markdown:
    rule = '|' + '|'.join('-' * (w + 2) for w in widths[:-1]) + '|' + '-' * (widths[-1] + 1) + ':|'
    body = [f'| {row(line, " | ")} |' for line in lines]
    return '\n'.join([f'**{t.title}**', '', body[0], rule, *body[1:], '', f'Trainable parameters: {t.total:,}'])
  body = [row(line, '  ') for line in lines]
  total = 'Trainable parameters:' + f'{t.total:,}'.rjust(len(body[0]) - len('Trainable parameters:'))
  return '\n'.join([t.title, '-' * len(body[0]), body[0], '-' * len(body[0]), *body[1:], '-' * len(body[0]), total])


def describe(config: ml_collections.ConfigDict, *, classes: int = 0, markdown: bool = False) -> str:
  """All tables of a config; `classes` 0 takes those of config.finetune.target; ValueError for a wrong config."""
  settings.check(config.to_dict())
  target = legend.target(config.finetune.target)
  classes = classes or len(target.classes)
  if not classes:
    raise ValueError(
      f'config.finetune.target={target.name!r} predicts the classes of a data set, which the config does not hold. '
      'Pass --classes with their number.'
    )
  spec = sensors.SensorSpec(settings.band_list(config.data.bands) or sensors.ALL_BANDS)
  made = tables(
    config.encoder.name, config.encoder.width, len(spec.bands), config.data.crop_px, classes, of_scenes=target.is_scene
  )
  return '\n\n'.join(render(t, markdown) for t in made)

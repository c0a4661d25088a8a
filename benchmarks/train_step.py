"""How long does one training step of Tile2Vec take on a CPU?

    python benchmarks/train_step.py [--encoder=resnet18attn] [--width=64] [--batch=8] [--crop_px=128]
        [--loss=infonce] [--repeats=7] [--no-small]

Ours is the compiled step of training itself, from stored integers to updated weights: standardising, the three views in
one pass, gradient, metrics, Adam; in the way that commands set XLA up. The peer is PyTorch, channels last, with the
network that an export writes (deepsentinel/export/modeling_deepsentinel.py) in training mode, the same loss, its own
Adam, and images that are standardised already. Both have all cores, float32, the same weights and the same batch, and
take turns in one process. The first loss and its gradient must agree, or the benchmark ends with an error.

The first row is the small twin of a laptop: width 8, 16 examples of 64 px.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import flax
import jax
import numpy as np
import sidebyside
from embed_scene import torch_encoder, torch_images, trained

from configs import common
from deepsentinel import sensors
from deepsentinel.export import pytorch
from deepsentinel.train import inputs, loop, models, optimizers, parallel, state, xla

_TOLERANCE = 1e-4  # of the first loss
_APART = 5e-2  # of the gradient's length: a value that rounds to the other side of a ReLU moves all layers before it
_MARGIN, _TEMPERATURE = 0.1, 0.1  # configs/common.py


def configuration(options: argparse.Namespace, width: int) -> dict[str, Any]:
  config = common.get_config()
  config.pretrain.objective, config.pretrain.tile2vec.loss = 'tile2vec', options.loss
  config.encoder.name, config.encoder.width = options.encoder, width
  return config.to_dict()


def stored_batch(examples: int, crop_px: int) -> dict[str, np.ndarray]:
  """Noise in the units of records, 's2' uint16[B, 3, H, W, 12] and 's1' int16[B, 3, H, W, 2]; some has no data."""
  rng, spec = np.random.default_rng(0), sensors.SensorSpec()
  shape = (examples, 3, crop_px, crop_px)
  s2 = rng.integers(200, 4000, (*shape, len(spec.s2_bands))).astype(np.uint16)
  s1 = rng.integers(-2500, -500, (*shape, len(spec.s1_bands))).astype(np.int16)
  s2[0, 0, : crop_px // 4] = sensors.S2_NODATA
  return {'s2': s2, 's1': s1}


def start(config: dict[str, Any]) -> dict[str, Any]:
  """The first variables, the attention's gates open: closed, as they begin, they would hide its gradient."""
  module = models.build(config, 'pretrain')
  variables = state.init_variables(
    module, models.example_inputs(module, len(sensors.SensorSpec().bands)), jax.random.key(0)
  )
  flat = flax.traverse_util.flatten_dict(jax.tree.map(np.asarray, variables))
  opened = {path: np.float32(0.5) if 'Gate' in path else leaf for path, leaf in flat.items()}
  return flax.traverse_util.unflatten_dict(opened)


class Ours:
  """The step of deepsentinel/train on a batch that lies on the device."""

  def __init__(self, config: dict[str, Any], variables: dict[str, Any], batch: dict[str, np.ndarray]):
    model = trained(config['encoder']['name'], config['encoder']['width'], variables)  # for its `prepare` alone
    self.prepare: inputs.Prepare = model.prepare(sensors.SensorSpec())
    optimiser = optimizers.from_config(config['pretrain'], total_steps=1000)
    module = models.build(config, 'pretrain', norm=parallel.norm, gather=parallel.gather)
    self._step = parallel.parallelise(state.train_step(module, optimiser), donate_first=True)
    self._given = parallel.replicate((self.prepare, np.float32(config['pretrain']['learning_rate'])))
    self._state = parallel.replicate(state.create(variables, optimiser))
    self._batch = loop.send(batch)[0]

  def step(self) -> float:
    """Loss before the step."""
    self._state, metrics = self._step(self._state, self._batch, *self._given)
    total, weight = parallel.unreplicate(metrics)['loss']
    return float(total / weight)

  def first_gradient(self) -> Any:
    """Of all parameters, after the first step: Adam's first moment began at 0 and took a tenth of it."""
    (adam,) = (part for part in jax.tree.leaves(self._state.opt_state, is_leaf=_is_adam) if _is_adam(part))
    return jax.tree.map(lambda moment: 10 * moment, parallel.unreplicate(adam.mu))


def _is_adam(node: Any) -> bool:
  return hasattr(node, 'mu')


class Theirs:
  """The same step in PyTorch."""

  def __init__(self, config: dict[str, Any], variables: dict[str, Any], images: np.ndarray):
    import torch

    model = trained(config['encoder']['name'], config['encoder']['width'], variables)
    self._network = torch_encoder(model).train()
    self._optimiser = torch.optim.Adam(self._network.parameters(), lr=config['pretrain']['learning_rate'])
    self._images = torch_images(images.reshape(-1, *images.shape[2:]))
    self._loss = {'infonce': _infonce, 'triplet': _triplet}[config['pretrain']['tile2vec']['loss']]

  def step(self) -> float:
    """Loss before the step."""
    self._optimiser.zero_grad()
    vectors = self._network(self._images).mean((2, 3))
    # [3 * B, E] -> [B, E] of anchors, neighbours, distant patches
    loss = self._loss(*vectors.unflatten(0, (-1, 3)).unbind(1))
    loss.backward()
    self._optimiser.step()
    return float(loss.detach())

  def last_gradient(self) -> dict[str, np.ndarray]:
    return {name: parameter.grad.numpy() for name, parameter in self._network.named_parameters()}


def _triplet(anchor, neighbour, distant):
  d_neighbour, d_distant = ((anchor - other).norm(dim=-1) for other in (neighbour, distant))
  return (d_neighbour - d_distant + _MARGIN).clamp(min=0).mean()


def _infonce(anchor, neighbour, distant):
  import torch
  from torch.nn import functional

  anchor, neighbour, distant = (functional.normalize(x, dim=-1) for x in (anchor, neighbour, distant))
  right = torch.arange(len(anchor))
  losses = [
    functional.cross_entropy(query @ torch.cat([keys, distant]).T / _TEMPERATURE, right)
    for query, keys in ((anchor, neighbour), (neighbour, anchor))
  ]
  return (losses[0] + losses[1]) / 2


def check(ours: Ours, theirs: Theirs, config: dict[str, Any]) -> float:
  """One step of both; how far apart the gradients are, in their length. SystemExit unless they and losses agree."""
  mine, other = ours.step(), theirs.step()
  if abs(mine - other) > _TOLERANCE * max(abs(other), 1):
    raise SystemExit(f'The first losses differ: {mine:.6f} here, {other:.6f} in PyTorch.')
  name, width = config['encoder']['name'], config['encoder']['width']
  as_torch = pytorch.state_dict(trained(name, width, {'params': ours.first_gradient()}))
  pairs = [(as_torch[f'encoder.{key}'], wanted) for key, wanted in theirs.last_gradient().items()]
  length = sum(float((wanted**2).sum()) for _, wanted in pairs) ** 0.5
  apart = sum(float(((found - wanted) ** 2).sum()) for found, wanted in pairs) ** 0.5 / length
  if not apart < _APART:
    raise SystemExit(f'The gradients are {apart:.1e} of their length apart, more than {_APART:g}.')
  print(f'first loss {mine:.6f} and {other:.6f}; gradients {apart:.1e} of their length apart', flush=True)
  return apart


def _seconds(step: Callable[[], float], steps: int) -> Callable[[], float]:
  def run() -> float:
    begun = time.perf_counter()
    for _ in range(steps):
      step()
    return (time.perf_counter() - begun) / steps

  return run


def compare(options: argparse.Namespace, width: int, batch: int, crop_px: int, steps: int) -> sidebyside.Row:
  """Seconds a step of both ways, each measured over so many steps a turn."""
  config, pixels = configuration(options, width), stored_batch(batch, crop_px)
  variables = start(config)
  ours = Ours(config, variables, pixels)
  prepared = inputs.as_stored(ours.prepare, pixels)['images']
  theirs = Theirs(config, variables, np.asarray(prepared))
  apart = check(ours, theirs, config)
  values = sidebyside.alternate(
    {'ours': _seconds(ours.step, steps), 'theirs': _seconds(theirs.step, steps)}, options.repeats
  )
  return sidebyside.Row(
    f'training step, {options.encoder} of width {width}, Tile2Vec ({options.loss}), {batch} x 3 crops of {crop_px} px',
    'PyTorch, channels last', 's', values['ours'], values['theirs'], 1.0,
    f'gradients {apart:.0e} of their length apart',
  )  # fmt: skip


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--encoder', default='resnet18attn')
  parser.add_argument('--width', type=int, default=64, help='channels of its stem')
  parser.add_argument('--batch', type=int, default=8, help='examples of a step; each has three crops')
  parser.add_argument('--crop_px', type=int, default=128)
  parser.add_argument('--loss', choices=('infonce', 'triplet'), default='infonce')
  parser.add_argument('--repeats', type=int, default=7, help='turns of each way')
  parser.add_argument('--small', action=argparse.BooleanOptionalAction, default=True, help='the small twin too')
  options = parser.parse_args()
  xla.prepare_backend()
  import torch

  torch.set_num_threads(sidebyside.cores())
  if len(jax.devices()) > 1 or not parallel.on_cpu():
    raise SystemExit('One CPU device is compared; run with JAX_PLATFORMS=cpu and without virtual devices.')
  rows = [compare(options, width=8, batch=16, crop_px=64, steps=10)] if options.small else []
  rows.append(compare(options, options.width, options.batch, options.crop_px, steps=1))
  sidebyside.leave(__file__, rows)


if __name__ == '__main__':
  main()

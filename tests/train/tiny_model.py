"""A model that compiles in a second, and records in memory, for tests of the training loop."""

from collections.abc import Iterator
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from deepsentinel import legend, sensors
from deepsentinel.encoders import base, standardise
from deepsentinel.objectives.base import Objective
from deepsentinel.train import checkpoint, inputs, loop, models, optimizers, parallel, rngs, state

SPEC = sensors.SensorSpec(('B2', 'B3', 'B8', 'VV', 'VH'))
CROP_PX = 32
CLASSES = 5


def frozen_norm(use_running_average, name):
  """Batch norm that always uses its running statistics."""
  return base.BATCH_NORM(use_running_average=True, name=name)


class TinyEncoder(base.Encoder):
  """One convolution of 16 x 16 pixels and a batch norm."""

  @nn.compact
  def __call__(self, images, *, present=None, train):
    x = base.drop_absent(images, present)
    x = nn.Conv(self.width, (16, 16), (16, 16), name='conv')(x)
    x = nn.tanh(self.norm(use_running_average=not train, name='norm')(x))
    return base.EncoderOutput(x.mean((1, 2)), x)


class TinyLabels(Objective):
  """Class of a 16-px cell from its feature vector; weight as in LandCover: the labelled share."""

  classes: int = CLASSES
  views: ClassVar[str] = 'labelled'

  def advice(self, means):
    return f'Here is what to change, at a loss of {means["loss"]:.3f}.'

  def setup(self):
    self.header = nn.Dense(self.classes)

  def predict(self, batch, train=False):
    logits = self.header(self.encode_views(batch, train=train).feature_map[:, 0])
    return jnp.repeat(jnp.repeat(logits, 16, 1), 16, 2)

  def __call__(self, batch, *, train):
    logits, labels = self.predict(batch, train), batch['labels']
    labelled = labels >= 0
    pixel = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
    loss = jnp.where(labelled, pixel, 0).sum((1, 2)) / jnp.maximum(labelled.sum((1, 2)), 1)
    return loss, {'weight': labelled.mean((1, 2))}


def host_batch(step: int, examples: int, views: int, *, labels: bool, seed: int = 0) -> dict[str, np.ndarray]:
  """A whole global batch in storage units, the same for the same arguments; some pixels are nodata."""
  rng = np.random.default_rng([seed, step])
  shape = (examples, views, CROP_PX, CROP_PX)
  s2 = rng.integers(200, 4000, (*shape, 3), dtype=np.uint16)
  s2[:, :, :4, :4] = sensors.S2_NODATA
  batch = {'s2': s2, 's1': rng.integers(-2500, -500, (*shape, 2), dtype=np.int16)}
  if labels:
    batch['corine'] = rng.integers(0, 45, (examples, CROP_PX, CROP_PX), dtype=np.uint8)
    batch['corine'][::2, : CROP_PX // 2] = legend.CORINE_NODATA  # every second example is half unlabelled
  return batch


def training(examples: int, views: int, *, labels: bool, part: slice = slice(None)):
  """start step -> endless batches; `part` of the global batch."""

  def start(step: int) -> Iterator[dict[str, np.ndarray]]:
    while True:
      yield {k: v[part] for k, v in host_batch(step, examples, views, labels=labels).items()}
      step += 1

  return start


def prepare(*, labels: bool, sensor_dropout: float = 0.0, curriculum=None) -> inputs.Prepare:
  mean, std = standardise.checked(SPEC.bands, (0.2, 0.2, 0.2, -15.0, -15.0), (0.1, 0.1, 0.1, 6.0, 6.0))
  return inputs.Prepare(
    records=SPEC, bands=SPEC.bands, mean=mean, std=std, seed=3,
    sensor_dropout=sensor_dropout, curriculum=curriculum, epochs_per_step=1.0, label_field='corine',
    label_lookup=legend.level_lookup(1) if labels else None,
  )  # fmt: skip


def variables(module: nn.Module) -> dict:
  return state.init_variables(module, models.example_inputs(module, len(SPEC.bands)), rngs.stream_key(0, 'init', 0))


def describe(**changes) -> dict:
  facts = {
    'stage': 'finetune', 'config': {'name': 'tiny'}, 'spec': SPEC, 'statistics': {}, 'subsets': [], 'synthetic': True,
  }  # fmt: skip
  return checkpoint.describe(**{**facts, **changes})


def stage(directory, **changes) -> loop.Stage:
  """A labelled stage of 8 examples a step, with sensor dropout."""
  settings = {
    'name': 'finetune',
    'directory': directory,
    'module': TinyLabels(TinyEncoder(4, norm=parallel.norm)),
    'optimiser': optimizers.adam(1e-2),
    'prepare': prepare(labels=True, sensor_dropout=0.5),
    'initial_variables': lambda: jax.device_get(variables(TinyLabels(TinyEncoder(4)))),
    'training': training(8, 1, labels=True),
    'about': describe(),
    'total_steps': 4,
    'batch_size': 8,
    'examples': 16,
    'log_every': 3,
    'save_every': 2,
    'classes': CLASSES,
  }
  return loop.Stage(**{**settings, **changes})

"""Frozen encoders under a probe: a checkpoint's, and its twin with random weights."""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deepsentinel import sensors
from deepsentinel.train import checkpoint, inputs, rngs
from deepsentinel.train.trained import Trained

FeatureMap = Callable[[Mapping[str, np.ndarray]], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Frozen:
  """An encoder whose features are probed.

  Attributes:
    name: for people, unique in a comparison.
    key: SHA-256 of its parameters, and of whatever else decides its features.
    crop_px: edge of the crops it is shown, a multiple of 16.
    open: contract of the records -> function of stored crops ('s2' uint16 [B, 1, H, W, C2], 's1' int16
      [B, 1, H, W, C1]) -> features f32[B, H/16, W/16, F]; ValueError for a contract that it was not trained for.
    facts: more about it, plain JSON values.
  """

  name: str
  key: str
  crop_px: int
  open: Callable[[sensors.SensorSpec], FeatureMap]
  facts: dict[str, Any] = dataclasses.field(default_factory=dict)


@functools.partial(jax.jit, static_argnums=0)
def _features(encoder, prepare: inputs.Prepare, variables, stored):
  """One compilation for all checkpoints of one architecture."""
  ready = prepare(stored, 0, train=False)
  output = encoder.apply(variables, ready['images'][:, 0], present=ready['present'][:, 0], train=False)
  return output.feature_map


def of_trained(trained: Trained, name: str, *, accept_level: str = '') -> Frozen:
  """A checkpoint's encoder.

  Args:
    trained: from `train.checkpoint.load_trained`.
    name: for people.
    accept_level: 'L1C' or 'L2A': pixels of this level are taken as they are though the checkpoint knows the other.
  """

  def open_for(spec: sensors.SensorSpec) -> FeatureMap:
    level = trained.spec.s2_level if accept_level and accept_level == spec.s2_level else spec.s2_level
    held = [band for band in trained.shown or trained.bands if band in spec.bands]
    subsets = [*trained.subsets, *([held] if held and drops_bands(trained) else [])]
    given = spec
    if trained.shown and held:  # it sees no others
      given, subsets = spec.select(held), [*subsets, list(trained.shown)]
    trained.spec.require(dataclasses.replace(given, s2_level=level), subsets=subsets)
    prepare = trained.prepare(spec)
    variables = {kind: jax.device_put(tree['encoder']) for kind, tree in trained.variables.items() if 'encoder' in tree}
    encoder = trained.module.encoder

    def features(stored: Mapping[str, np.ndarray]) -> np.ndarray:
      return np.asarray(_features(encoder, prepare, variables, dict(stored)))

    return features

  facts = {
    'checkpoint': str(trained.directory), 'step': trained.step, 'sha256': trained.sha256, 'stage': trained.stage,
    'objective': trained.config['pretrain']['objective'] if trained.stage == 'pretrain' else 'fine-tuned',
    'encoder': dict(trained.config['encoder']), 'trained_on_synthetic': trained.synthetic,
  }  # fmt: skip
  return Frozen(name, _key(trained, accept_level), trained.crop_px, open_for, facts)


def drops_bands(trained: Trained) -> bool:
  """Whether it was pretrained with band dropout, and so works with any part of its bands."""
  own = trained.config['pretrain']
  section = own.get(own['objective'], {})
  return trained.stage == 'pretrain' and max(section.get('augment', {}).get('band_dropout', (0,))) > 0


def require_trained_for(source: Trained, shown: tuple[str, ...], subsets: list[list[str]]) -> None:
  """ValueError unless an encoder taken from elsewhere can do with the bands that config.data.bands leaves it."""
  asked = f'config.data.bands asks for {list(shown)}; the encoder of config.pretrain.from_checkpoint was trained on '
  if not set(shown) <= set(source.bands):
    raise ValueError(f'{asked}{list(source.bands)}. Leave config.data.bands empty.')
  if not any(set(subset) == set(shown) for subset in subsets):
    raise ValueError(
      f'{asked}all of {list(source.bands)}, without band dropout: it does not know what to do where some are absent. '
      'Take a checkpoint of contrastive pretraining with config.pretrain.contrastive.augment.band_dropout above 0, '
      'pretrain on these bands, or leave config.data.bands empty.'
    )


def _key(trained: Trained, accept_level: str) -> str:
  """The parameters alone do not say how pixels are standardised."""
  own = [trained.spec.to_dict(), trained.statistics, accept_level, *([trained.shown] if trained.shown else [])]
  rest = json.dumps(own, sort_keys=True)
  return checkpoint.digest({'params': np.frombuffer(bytes.fromhex(trained.sha256), np.uint8),
                            'rest': np.frombuffer(rest.encode(), np.uint8)})  # fmt: skip


def random_twin(trained: Trained, name: str, *, seed: int = 0, accept_level: str = '') -> Frozen:
  """The same architecture with fresh weights and the same statistics: what the architecture alone is worth."""
  encoder = trained.module.encoder
  images = jnp.zeros((1, 32, 32, len(trained.bands)))
  init = jax.jit(
    lambda key: encoder.init(key, images, present=jnp.ones((1, len(trained.bands)), bool), train=False),
    compiler_options={'xla_backend_optimization_level': 0},
  )
  fresh = jax.device_get(init(rngs.stream_key(seed, 'random_encoder', 0)))
  variables = {kind: {'encoder': fresh.get(kind, {})} for kind in ('params', 'batch_stats')}
  twin = dataclasses.replace(trained, variables=variables, sha256=checkpoint.digest(variables['params']))
  facts = {'encoder': dict(trained.config['encoder']), 'seed': seed, 'sha256': twin.sha256}
  return dataclasses.replace(of_trained(twin, name, accept_level=accept_level), facts=facts)


def architecture(trained: Trained) -> str:
  """Equal for checkpoints that have one random twin."""
  own = [
    trained.config['encoder'],
    trained.config['dtype'],
    trained.crop_px,
    trained.spec.to_dict(),
    trained.statistics,
    trained.shown,
  ]
  return json.dumps(own, sort_keys=True)

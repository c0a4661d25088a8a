"""An experiment's objective, with its encoder, from its configuration."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from deepsentinel import legend, registry
from deepsentinel.objectives.base import LABELLED, VIEWS

STAGES = ('pretrain', 'finetune')


def class_names(config: Mapping[str, Any], stage: str) -> tuple[str, ...]:
  """Classes that a stage predicts; empty for pretraining."""
  return legend.target_of(config['finetune']).classes if stage == 'finetune' else ()


def objective_name(config: Mapping[str, Any], stage: str) -> str:
  """Of a stage, as the registry knows it; what is fine-tuned follows from the target."""
  if stage == 'pretrain':
    return config['pretrain']['objective']
  return 'scene' if legend.target_of(config['finetune']).is_scene else 'landcover'


def build(
  config: Mapping[str, Any], stage: str, *, norm: Callable | None = None, gather: Callable | None = None
) -> nn.Module:
  """The objective of a stage.

  A section of `config.pretrain` named like the objective holds its fields; what is no field of it (Tile2Vec's
  neighbour law) belongs to the data.

  Args:
    config: an experiment's configuration, as ConfigDict or plain dict.
    stage: 'pretrain' or 'finetune'.
    norm: partial of batch norm; `parallel.norm` in training, None (plain) for initialising and inference.
    gather: `parallel.gather` in training; None elsewhere.
  """
  norms = {} if norm is None else {'norm': norm}
  encoder = registry.load('encoder', config['encoder']['name'])(
    width=config['encoder']['width'], dtype=jnp.dtype(config['dtype']), **norms
  )
  name = objective_name(config, stage)
  objective = registry.load('objective', name)
  if stage == 'pretrain':
    section = dict(config['pretrain'].get(name, {}))
  else:
    section = {
      'classes': len(class_names(config, stage)),
      'frozen_encoder': config['finetune']['frozen_encoder'],
    }
  fields = {field.name for field in dataclasses.fields(objective)}
  options = {key: value for key, value in section.items() if key in fields}
  if 'norm' in fields:
    options |= norms
  if 'dtype' in fields:
    options['dtype'] = jnp.dtype(config['dtype'])
  if 'gather' in fields:
    options['gather'] = gather
  return objective(encoder=encoder, **options)


def views(config: Mapping[str, Any], stage: str) -> str:
  """The kind of batch a stage trains on: 'single', 'pair', 'triplet', 'labelled' or 'scene'."""
  return registry.load('objective', objective_name(config, stage)).views


def example_inputs(objective: nn.Module, bands: int, crop_px: int = 32) -> dict[str, jax.Array]:
  """One example of zeros, of the kind that `objective` takes: enough to initialise it."""
  v = VIEWS[objective.views]
  images = jnp.zeros((1, v, crop_px, crop_px, bands))
  inputs = {'images': images, 'valid': jnp.ones_like(images, bool), 'present': jnp.ones((1, v, bands), bool)}
  if objective.views in LABELLED:
    inputs['labels'] = jnp.zeros((1, crop_px, crop_px) if objective.views == 'labelled' else (1,), jnp.int32)
  return inputs

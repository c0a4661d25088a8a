"""A trained model, ready to encode or to predict; `checkpoint.load_trained` reads one."""

import dataclasses
import functools
import pathlib
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from deepsentinel import sensors
from deepsentinel.encoders import standardise
from deepsentinel.encoders.base import EncoderOutput
from deepsentinel.train import inputs, models, settings


class Decoded(NamedTuple):
  """What a land-cover model makes of images.

  Attributes:
    feature_map: f32[B, H/16, W/16, F], the encoder's.
    channels: f32[B, H, W, C], the deconvolution header's before its last layer.
    probabilities: f32[B, H, W, K], of the classes.
  """

  feature_map: jax.Array
  channels: jax.Array
  probabilities: jax.Array


@dataclasses.dataclass(frozen=True)
class Trained:
  """One checkpoint.

  Attributes:
    stage: 'pretrain' or 'finetune'.
    config: of the experiment, plain dict.
    spec: the sensor contract; its bands are the channels, in order.
    statistics: BandStatistics.to_dict() of these bands.
    subsets: lists of bands it was also trained to work with.
    module: the objective, with plain batch norm.
    variables: {'params', 'batch_stats'}, NumPy arrays.
    step: finished training steps.
    sha256: of the parameters.
    synthetic: whether it was trained on computed pixels.
    directory: of the checkpoint.
  """

  stage: str
  config: dict[str, Any]
  spec: sensors.SensorSpec
  statistics: dict[str, Any]
  subsets: list[list[str]]
  module: nn.Module
  variables: dict[str, Any]
  step: int
  sha256: str
  synthetic: bool
  directory: pathlib.Path

  @property
  def bands(self) -> tuple[str, ...]:
    return self.spec.bands

  @property
  def shown(self) -> tuple[str, ...]:
    """Bands that it was fine-tuned and tested on, all others being absent to it; empty where it sees all."""
    wanted = settings.band_list(self.config['data'].get('bands', '')) if self.stage == 'finetune' else ()
    return tuple(band for band in self.bands if band in wanted) if set(wanted) < set(self.bands) else ()

  def prepare(self, records: sensors.SensorSpec) -> inputs.Prepare:
    """Stored integers of records of a contract -> what the module takes; nothing is augmented.

    Raises:
      ValueError: the records have none of the bands that the model was fine-tuned on.
    """
    mean, std = standardise.checked(self.bands, self.statistics['mean'], self.statistics['std'])
    shown = tuple(band for band in self.shown if band in records.bands)
    if self.shown and not shown:
      raise ValueError(
        f'The model was fine-tuned on {",".join(self.shown)} alone (config.data.bands); these pixels are '
        f'{",".join(records.bands)}. Pass pixels with its bands, or fine-tune on those at hand.'
      )
    return inputs.Prepare(records=records, bands=self.bands, mean=mean, std=std, seed=0, shown=shown)

  def _present(self, images: np.ndarray, present: np.ndarray | None) -> np.ndarray:
    """bool [B, C]: the bands that are there and are shown to the model."""
    seen = np.array([band in (self.shown or self.bands) for band in self.bands])
    if present is None:
      return np.broadcast_to(seen, (images.shape[0], images.shape[-1]))
    return present & seen if self.shown else present

  @property
  def crop_px(self) -> int:
    return self.config['data']['crop_px']

  @property
  def classes(self) -> tuple[str, ...]:
    """Class names that `predict` tells apart; empty for a pretrained encoder."""
    return models.class_names(self.config, self.stage)

  @functools.cached_property
  def _encode(self):
    encoder = self.module.encoder
    variables = {kind: jax.device_put(tree['encoder']) for kind, tree in self.variables.items() if 'encoder' in tree}
    apply = jax.jit(lambda variables, images, present: encoder.apply(variables, images, present=present, train=False))
    return functools.partial(apply, variables)

  def encode(self, images: np.ndarray, present: np.ndarray | None = None) -> EncoderOutput:
    """images f32[B, H, W, C] standardised, present bool[B, C] -> embedding and feature map; compiled per shape."""
    return self._encode(images, self._present(images, present))

  @functools.cached_property
  def _predict(self):
    variables = jax.device_put(self.variables)
    apply = jax.jit(
      lambda variables, inputs: self.module.apply(variables, inputs, train=False, method='predict').argmax(-1)
    )
    return functools.partial(apply, variables)

  def predict(self, images: np.ndarray, present: np.ndarray | None = None) -> jax.Array:
    """images f32[B, H, W, C] standardised, present bool[B, C] -> class int32[B, H, W], or [B] of scenes.

    Raises:
      ValueError: a pretrained encoder has no classes.
    """
    if not self.classes:
      raise ValueError(f'The {self.stage} checkpoint in {self.directory} predicts no classes; use a fine-tuned one.')
    return self._predict({'images': images[:, None], 'present': self._present(images, present)[:, None]})

  @functools.cached_property
  def _decode(self):
    variables = jax.device_put(self.variables)

    @jax.jit
    def apply(variables, inputs):
      logits, kept = self.module.apply(variables, inputs, train=False, method='predict', mutable=['intermediates'])
      seen = kept['intermediates']
      channels = seen['header']['channels'][0].astype(jnp.float32)
      return Decoded(seen['feature_map'][0], channels, nn.softmax(logits.astype(jnp.float32)))

    return functools.partial(apply, variables)

  def decode(self, images: np.ndarray, present: np.ndarray) -> Decoded:
    """images f32[B, H, W, C] standardised, present bool[B, C] -> all that a model which predicts every pixel knows."""
    return self._decode({'images': images[:, None], 'present': self._present(images, present)[:, None]})

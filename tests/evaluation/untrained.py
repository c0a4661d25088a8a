"""A checkpoint on the disk without the minutes of training it: fresh weights, saved as training saves them."""

import pathlib

import jax

from configs import quickstart
from deepsentinel import sensors
from deepsentinel.train import checkpoint, models, optimizers, rngs, state


def save(
  workdir: pathlib.Path, *, spec: sensors.SensorSpec | None = None, seed: int = 0, crop_px: int = 32, step: int = 0
) -> pathlib.Path:
  """Writes WORKDIR/pretrain of a width-8 ResNet18 and returns WORKDIR."""
  spec = spec or sensors.SensorSpec()
  config = quickstart.get_config()
  config.encoder.name, config.encoder.width, config.data.crop_px = 'resnet18', 8, crop_px
  plain = config.to_dict()
  module = models.build(plain, 'pretrain')
  key = rngs.stream_key(seed, 'init_pretrain', 0)
  variables = jax.device_get(state.init_variables(module, models.example_inputs(module, len(spec.bands)), key))
  radar = [sensors.BANDS[b].sensor == 'sentinel1' for b in spec.bands]
  statistics = {
    'bands': list(spec.bands), 'mean': [-12.0 if r else 0.2 for r in radar], 'std': [5.0 if r else 0.1 for r in radar],
    'count': [1] * len(spec.bands),
  }  # fmt: skip
  about = checkpoint.describe(
    stage='pretrain', config=plain, spec=spec, statistics=statistics, subsets=[], synthetic=True
  )
  checkpoints = checkpoint.Checkpoints(workdir / 'pretrain' / 'checkpoints', about)
  fresh = state.create(variables, optimizers.adam(1e-3))
  checkpoints.save(jax.device_get(fresh.replace(step=fresh.step + step)), {'best': None})
  checkpoints.close()
  return workdir

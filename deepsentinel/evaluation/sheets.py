"""Sheets of what a model sees and makes of it, for TensorBoard: a row per example."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from deepsentinel import composites, legend, sensors
from deepsentinel.evaluation import samples
from deepsentinel.objectives.vae import DECODED
from deepsentinel.train.inputs import Prepare, as_stored

EXAMPLES = 4  # rows of a sheet
_GAP_PX = 2


def stored(images: np.ndarray, valid: np.ndarray, prepare: Prepare) -> dict[str, np.ndarray]:
  """Standardised channels back in storage units, the inverse of `prepare` up to rounding.

  Args:
    images: f32[..., C] of the model's bands.
    valid: bool[..., C]; what is not becomes nodata.
    prepare: that standardised them.
  Returns:
    's2' uint16[..., C2] and 's1' int16[..., C1], of the sensors that the model has.
  """
  values = images * np.asarray(prepare.std, np.float32) + np.asarray(prepare.mean, np.float32)
  spec, fields = sensors.SensorSpec(prepare.bands), {}
  for field, bands, scale, nodata, dtype in (
    ('s2', spec.s2_bands, sensors.S2_SCALE, sensors.S2_NODATA, np.uint16),
    ('s1', spec.s1_bands, sensors.S1_SCALE, sensors.S1_NODATA, np.int16),
  ):
    if bands:
      index = [prepare.bands.index(band) for band in bands]
      low = 1 if field == 's2' else nodata + 1
      number = np.clip(np.rint(values[..., index] * scale), low, np.iinfo(dtype).max)
      fields[field] = np.where(valid[..., index], number, nodata).astype(dtype)
  return fields


def composite(fields: Mapping[str, np.ndarray], bands: Sequence[str]) -> list[np.ndarray]:
  """uint8 [..., 3] pictures of stored pixels: true colour and radar, as far as the bands allow."""
  s2, s1 = samples.picture_bands(sensors.SensorSpec(tuple(bands)), fields.get('s2'), fields.get('s1'))
  drawn = [composites.true_colour(s2)] if s2 is not None else []
  return drawn + ([composites.radar(s1)] if s1 is not None else [])


def sheet(columns: Sequence[np.ndarray]) -> np.ndarray:
  """Columns uint8 [N, H, W, 3] side by side, an example a row, with a black gap: uint8 [.., .., 3]."""
  padded = [np.pad(c, ((0, 0), (0, _GAP_PX), (0, _GAP_PX), (0, 0))) for c in columns]
  # [N, H, W', 3] -> [N * H, W', 3]
  return np.concatenate(padded, 2).reshape(-1, sum(c.shape[2] for c in padded), 3)[:-_GAP_PX, :-_GAP_PX]


def of_labels(module: nn.Module, prepare: Prepare, batch: dict[str, np.ndarray], target: legend.Target) -> Callable:
  """Function of variables and step -> {'validation': sheet of true colour, radar, label and prediction}.

  Args:
    module: an objective with `predict`, built with a plain `norm`.
    prepare: of the labelled records.
    batch: stored validation examples, which are drawn.
    target: of the labels.
  """
  shape = next(batch[field] for field in ('s2', 's1') if field in batch).shape

  def colours(label: np.ndarray) -> np.ndarray:
    """uint8 [N, H, W, 3] of labels [N, H, W], or of scenes [N] as a tile of one colour."""
    picture = composites.classes(label, target)
    return picture if picture.ndim == 4 else np.broadcast_to(picture[:, None, None], (*shape[:1], *shape[2:4], 3))

  label = colours(target.lookup[batch[target.field].astype(np.int64)])
  drawn = [*(column[:, 0] for column in composite(batch, prepare.records.bands)), label]
  predict = jax.jit(lambda variables, inputs: module.apply(variables, inputs, train=False, method='predict').argmax(-1))
  inputs = as_stored(prepare, batch)

  def draw(variables: dict[str, Any], _: int) -> dict[str, np.ndarray]:
    return {'validation': sheet([*drawn, colours(np.asarray(predict(variables, inputs)))])}

  return draw


def of_views(module: nn.Module, prepare: Prepare, batch: dict[str, np.ndarray]) -> Callable:
  """Function of variables and step -> {'views': sheet of what is compared at that step, and of a VAE 'decoded'}.

  Args:
    module: the objective, built with a plain `norm`.
    prepare: of the unlabelled records, with its augmentations; a dropped band keeps its place in the picture.
    batch: stored training examples, which are drawn.
  """

  @jax.jit
  def apply(variables, prepare, batch, step):
    inputs = prepare(batch, step, train=True)
    _, kept = module.apply(variables, inputs, train=False, mutable=[DECODED])
    return inputs['images'], inputs['valid'], jax.tree.leaves(kept)

  def draw(variables: dict[str, Any], step: int) -> dict[str, np.ndarray]:
    images, valid, decoded = jax.device_get(apply(variables, prepare, batch, step))
    by_view = [composite(stored(images[:, v], valid[:, v], prepare), prepare.bands) for v in range(images.shape[1])]
    sheets = {'views': sheet([column for view in by_view for column in view])} if by_view[0] else {}
    for pixels in decoded:
      columns = composite(stored(pixels, np.ones_like(pixels, bool), prepare), prepare.bands)
      sheets |= {'decoded': sheet([*by_view[0], *columns])} if columns else {}
    return sheets

  return draw

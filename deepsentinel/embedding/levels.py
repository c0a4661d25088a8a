"""What can be made of an area: a map, patches, the header's channels, land cover; and the network's part in it."""

import itertools

import jax
import numpy as np
from absl import logging

from deepsentinel import legend, sensors
from deepsentinel.data import statistics
from deepsentinel.embedding import geotiff, inputs
from deepsentinel.sources import base
from deepsentinel.train import inputs as stored_inputs
from deepsentinel.train.trained import Trained

LEVELS = ('map', 'patch', 'header', 'landcover')
_PLACES, _LOOK_PX = 3, 64  # a side: of how many places pixels are looked at first, and how many
PIXELS = ('header', 'landcover')  # one value a pixel, by the deconvolution header


def masked_in_training(model: Trained) -> float:
  """Probability that a training example lost the optical pixels of a part, as a cloud mask takes them."""
  return float(model.config.get(model.stage, {}).get('masked_cloud', 0))


def _knows_radar_alone(model: Trained) -> bool:
  """Whether it was trained to work without any optical band."""
  return any(set(subset) == set(model.spec.s1_bands) for subset in model.subsets)


def warn_of_masks(model: Trained, reader: inputs.SceneReader) -> None:
  """Where clouds are masked: says if the model has seen the optical bands missing as a whole, but never in part."""
  if reader.mask_clouds and not masked_in_training(model):
    logging.warning(
      'This checkpoint was trained to work without optical bands, but not with a part of their pixels missing: what it '
      'makes of the rim of a masked cloud is not tested. One of configs/under_cloud.py (masked_cloud) was trained so.'
    )


def require(model: Trained, level: str, *, mask_clouds: bool = False) -> None:
  """ValueError if there is no such level, this model does not have it, or it was not trained for masked clouds."""
  if level not in LEVELS:
    raise ValueError(f'Unknown level {level!r}. Known: {", ".join(LEVELS)}.')
  if mask_clouds and not masked_in_training(model) and not _knows_radar_alone(model):
    raise ValueError(
      f'--mask_clouds: this checkpoint has never seen missing optical pixels (config.{model.stage}.masked_cloud and '
      'sensor_dropout are 0). Take one that was trained for them (configs/under_cloud.py), or leave out --mask_clouds.'
    )
  if level not in PIXELS:
    return
  if not model.classes:
    raise ValueError(
      f'--level={level} needs a fine-tuned model; this is the {model.stage} stage. Fine-tune it '
      '(python -m deepsentinel.main), or leave out --level.'
    )
  if legend.target_of(model.config['finetune']).is_scene:
    raise ValueError(
      f'--level={level} needs a model that predicts every pixel; this one gives one answer a patch '
      f'(config.finetune.target={model.config["finetune"]["target"]!r}). Leave out --level.'
    )


def look_at_pixels(model: Trained, reader: inputs.SceneReader, grid: base.PatchGrid) -> None:
  """Looks at some pixels before the work begins, and warns where they seem to have the +1000 offset of late baselines.

  Args:
    model: a checkpoint.
    reader: of the pixels.
    grid: the area's box.
  Raises:
    ValueError: the numbers contradict the unit that is stated, or are far more like the model's bands in another order.
  """
  # Of a platform on a network one place, since each is a request a band.
  places = _PLACES if all(not hasattr(i.source, 'connect') for items in reader.inputs.values() for i in items) else 1
  seen: dict[str, list[np.ndarray]] = {band: [] for band in reader.spec.bands}
  height, width = min(_LOOK_PX, grid.height_px), min(_LOOK_PX, grid.width_px)
  for i, j in itertools.product(range(places), repeat=2):
    row, col = ((size - px) * (2 * k + 1) // (2 * places) for size, px, k in
                ((grid.height_px, height, i), (grid.width_px, width, j)))  # fmt: skip
    pixels = reader.read(grid.window(row, col, height, width))
    for field, bands, scale, nodata in (
      ('s2', reader.spec.s2_bands, sensors.S2_SCALE, sensors.S2_NODATA),
      ('s1', reader.spec.s1_bands, sensors.S1_SCALE, sensors.S1_NODATA),
    ):
      for band, values in zip(bands, np.moveaxis(pixels.get(field, np.zeros((0, 0, 0))), -1, 0), strict=False):
        seen[band].append(values[values != nodata] / scale)
  found = {band: values for band, parts in seen.items() if len(values := np.concatenate(parts))}
  if not found:
    return
  here = statistics.BandStatistics(
    tuple(found),
    tuple(float(v.mean()) for v in found.values()),
    tuple(float(v.std()) for v in found.values()),
    tuple(len(v) for v in found.values()),
  )
  trained = statistics.BandStatistics.from_dict(model.statistics).select(list(found))
  order = statistics.better_order(trained, here)
  if order:
    raise ValueError(
      f'The bands {", ".join(found)} of this scene look far more like {", ".join(order)}: they seem to be permuted. '
      "State --option=s2_bands=[...] (s1_bands) in the file's own order or mend its band descriptions; "
      '--nocheck_bands takes them as they are.'
    )
  if offset := statistics.likely_offset(trained, here):
    logging.warning(
      'All Sentinel-2 bands lie about %+.2f from those of training: check whether --s2_unit=reflectance_x1e4_plus1000 '
      'is what the scene has (processing baseline 04.00 and later).',
      offset,
    )


class Network:
  """Windows of stored pixels through a model.

  Args:
    model: a checkpoint.
    spec: of the pixels.
    level: what is wanted of it.
    batch: windows at once; the model is compiled for this number.
  """

  def __init__(self, model: Trained, spec: sensors.SensorSpec, level: str, batch: int):
    self._model, self._level, self._batch = model, level, batch
    self._prepare = model.prepare(spec)

  def __call__(self, windows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """'embedding' of N windows, and what else the level has of 'channels' and 'probabilities'.

    Args:
      windows: 's2' uint16 [N, H, W, C2] and 's1' int16 [N, H, W, C1], as far as the model takes them; N above 0.
    Returns:
      embedding f32[N, H/16, W/16, F], of level 'patch' f32[N, 1, 1, F]; channels f32[N, H, W, C]; probabilities
      f32[N, H, W, K].
    """
    number = len(next(iter(windows.values())))
    parts: list[dict[str, np.ndarray]] = []
    for at in range(0, number, self._batch):
      batch = {field: _padded(values[at : at + self._batch], self._batch) for field, values in windows.items()}
      # One view: [N, 1, H, W, C]
      prepared = stored_inputs.as_stored(self._prepare, {field: values[:, None] for field, values in batch.items()})
      images, present = prepared['images'][:, 0], prepared['present'][:, 0]
      parts.append({name: np.asarray(values) for name, values in self._outputs(images, present).items()})
    return {name: np.concatenate([part[name] for part in parts])[:number] for name in parts[0]}

  def _outputs(self, images: jax.Array, present: jax.Array) -> dict[str, jax.Array]:
    if self._level in PIXELS:
      decoded = self._model.decode(images, present)
      more = {'header': {'channels': decoded.channels}, 'landcover': {'probabilities': decoded.probabilities}}
      return {'embedding': decoded.feature_map, **more[self._level]}
    encoded = self._model.encode(images, present)
    return {'embedding': encoded.embedding[:, None, None] if self._level == 'patch' else encoded.feature_map}


def landcover(probabilities: np.ndarray, valid: np.ndarray) -> np.ndarray:
  """uint8 [H, W]: class number + 1 of probabilities [H, W, K], LANDCOVER_NODATA where not valid."""
  return np.where(valid, probabilities.argmax(-1) + 1, geotiff.LANDCOVER_NODATA).astype(np.uint8)


def entropy(probabilities: np.ndarray) -> np.ndarray:
  """float32 [...] of probabilities [..., K]: Shannon's entropy over that of K equally likely classes, 0 to 1."""
  p = np.clip(probabilities, 1e-12, 1)
  return (-(p * np.log(p)).sum(-1) / np.log(p.shape[-1])).clip(0, 1).astype(np.float32)


def quality(
  probabilities: np.ndarray | None, pixels: dict[str, np.ndarray], valid: np.ndarray, inside: np.ndarray
) -> np.ndarray:
  """uint8 [H, W, 4], geotiff.QUALITY_BANDS.

  Args:
    probabilities: [H, W, K]; None where there was nothing to classify.
    pixels: 's2', 's1' as stored, and 'cloud' as `SceneReader.read` has it.
    valid: bool [H, W], where there is a class.
    inside: bool [H, W], what belongs to the area.
  """
  out = np.full((*valid.shape, len(geotiff.QUALITY_BANDS)), geotiff.QUALITY_NODATA, np.uint8)
  if probabilities is not None:
    steps = np.rint(geotiff.ENTROPY_STEPS * entropy(probabilities))
    out[..., 0] = np.where(valid, steps, geotiff.QUALITY_NODATA)
  out[..., 1], out[..., 2] = inputs.observed(pixels, 's2'), inputs.observed(pixels, 's1')
  out[..., 3] = pixels['cloud']
  out[~inside] = geotiff.QUALITY_NODATA
  return out


def _padded(values: np.ndarray, number: int) -> np.ndarray:
  """Rows up to `number`, so that the encoder is compiled for one shape."""
  return np.concatenate([values, np.repeat(values[:1], number - len(values), 0)]) if len(values) < number else values

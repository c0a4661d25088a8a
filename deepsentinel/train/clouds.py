"""Clouds over training examples, as pure functions on the device: masked away, painted over the optical bands, or their
shadow alone.

So a model learns what an archive has: pixels that a cloud mask took, which are missing, cloud that nobody masked, and
the shadow of clouds that stand elsewhere, mostly outside of the patch. Shapes are those of smooth noise. They are meant
to be as varied as clouds are, not to be those of one simulator: a model is never shown SyntheticEarth's own.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from deepsentinel import sensors

# Octaves of the noise: nodes along a view, strength.
_OCTAVES = ((5, 1.0), (11, 0.4))
# Over so much of the noise (whose standard deviation is near 1) a cloud's rim becomes opaque.
_RIM = 0.5
# Water and ice absorb in the short-wave infrared, and vapour above the cloud at 945 nm: (least, most) that is left.
_LEFT = {'B9': (0.6, 1.0), 'B11': (0.3, 0.9), 'B12': (0.15, 0.8)}
# Sky light, which is what a shadow has left of all light, (least, most): the sky scatters less the longer the wave.
_SKY_LIGHT = {
  'B1': (0.30, 0.60), 'B2': (0.25, 0.55), 'B3': (0.20, 0.45), 'B4': (0.15, 0.40), 'B5': (0.15, 0.35),
  'B6': (0.12, 0.35), 'B7': (0.12, 0.35), 'B8': (0.10, 0.30), 'B8A': (0.10, 0.30), 'B9': (0.10, 0.30),
  'B11': (0.05, 0.25), 'B12': (0.05, 0.20),
}  # fmt: skip
_BRIGHTNESS = (0.3, 1.0)  # reflectance of a cloud top in the visible and near infrared


def masks(keys: Array, shape: tuple[int, int, int], probability: float) -> Array:
  """Parts in the shape of cloud: where smooth noise is highest, over a share between nothing and all.

  Args:
    keys: PRNG keys [B].
    shape: (V, H, W).
    probability: that a view has such a part; its share is then uniform.
  Returns:
    bool [B, V, H, W].
  """
  views, height, width = shape

  def mask(key: Array) -> Array:
    field_key, share_key, whether_key = jax.random.split(key, 3)
    noise, share = _noise(field_key, height, width), jax.random.uniform(share_key)
    return (noise > jnp.quantile(noise, 1 - share)) & (jax.random.uniform(whether_key) < probability)

  return _for_each_view(mask, keys, views)


def paint(keys: Array, values: Array, bands: tuple[str, ...], probability: float) -> Array:
  """Optical reflectance with cloud over it: thick, with a soft rim, bright, darker in the short-wave infrared.

  A third of the painted views are overcast; the cloud's share of the others is uniform.

  Args:
    keys: PRNG keys [B].
    values: f32 [B, V, H, W, C], reflectance or dB.
    bands: C names; radar goes through as it is.
    probability: that a view is painted.
  Returns:
    f32 [B, V, H, W, C].
  """
  _, views, height, width, _ = values.shape
  optical = np.array([sensors.BANDS[band].sensor == 'sentinel2' for band in bands])
  least, most = np.array([_LEFT.get(band, (1.0, 1.0)) for band in bands]).T

  def cloud(key: Array) -> tuple[Array, Array]:
    """Opacity [H, W] and reflectance [H, W, C]."""
    field_key, share_key, whether_key, top_key, texture_key, colour_key = jax.random.split(key, 6)
    noise, share = _noise(field_key, height, width), 1.5 * jax.random.uniform(share_key)
    # Beyond a share of 1 the threshold sinks below all of the noise, until the rims are opaque as well.
    threshold = jnp.quantile(noise, jnp.clip(1 - share, 0, 1)) - 2 * _RIM * jnp.maximum(share - 1, 0)
    opacity = jnp.clip((noise - threshold) / _RIM, 0, 1) * (jax.random.uniform(whether_key) < probability)
    top = jax.random.uniform(top_key, minval=_BRIGHTNESS[0], maxval=_BRIGHTNESS[1])
    top = top * jnp.clip(1 + 0.15 * _noise(texture_key, height, width), 0.5, 1.5)
    # One draw for all bands: a cloud that absorbs much at 1.6 um does so at 2.2 um.
    left = least + (most - least) * jax.random.uniform(colour_key)
    return opacity, top[..., None] * left

  opacity, reflectance = _for_each_view(cloud, keys, views)
  painted = values + opacity[..., None] * (reflectance - values)
  return jnp.where(optical, painted, values)


def shade(keys: Array, values: Array, bands: tuple[str, ...], probability: float) -> Array:
  """Optical reflectance with the shadow of clouds over a part in the shape of cloud, with a soft rim.

  Args:
    keys, values, bands: as `paint`.
    probability: that a view has such a part; its share is then uniform.
  Returns:
    f32 [B, V, H, W, C].
  """
  _, views, height, width, _ = values.shape
  least, most = np.array([_SKY_LIGHT.get(band, (1.0, 1.0)) for band in bands]).T  # radar needs no light

  def left(key: Array) -> Array:
    """Share of the light [H, W, C]."""
    field_key, share_key, whether_key, sky_key = jax.random.split(key, 4)
    noise, share = _noise(field_key, height, width), jax.random.uniform(share_key)
    depth = jnp.clip((noise - jnp.quantile(noise, 1 - share)) / _RIM, 0, 1)
    depth *= jax.random.uniform(whether_key) < probability
    return 1 - depth[..., None] * (1 - least - (most - least) * jax.random.uniform(sky_key))

  return values * _for_each_view(left, keys, views)


def _noise(key: Array, height: int, width: int) -> Array:
  """Smooth noise [H, W] of mean 0, from a quarter of the view down to a tenth in size."""
  parts = []
  for nodes, strength in _OCTAVES:
    key, own = jax.random.split(key)
    parts.append(strength * jax.image.resize(jax.random.normal(own, (nodes, nodes)), (height, width), 'cubic'))
  return sum(parts[1:], parts[0])


def _for_each_view(function, keys: Array, views: int):
  """function(key) for V views of B examples, stacked to [B, V, ...]."""
  return jax.vmap(lambda key: jax.vmap(function)(jax.random.split(key, views)))(keys)

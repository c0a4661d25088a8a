"""A small area in memory and a small model, for the tests of the embedding; as a command it embeds it slowly."""

import datetime
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from deepsentinel import sensors
from deepsentinel.decoders import DeconvolutionHeader
from deepsentinel.embedding import inputs, scene
from deepsentinel.encoders.attention import SelfAttention
from deepsentinel.encoders.resnet import ResNet
from deepsentinel.objectives.landcover import LandCover
from deepsentinel.objectives.tile2vec import Tile2Vec
from deepsentinel.sources import base
from deepsentinel.train.trained import Trained
from tests import untrained

BANDS = ('B2', 'B3', 'B4', 'VV', 'VH')
NOON = datetime.datetime(2020, 6, 1, 12, tzinfo=datetime.UTC)


class ArraySource:
  """One Sentinel-2 and one Sentinel-1 scene held in memory, in storage units."""

  synthetic = True

  def __init__(self, grid, bands=BANDS, seed=0, slow_s=0.0, fail_after=None):
    self.grid_ = grid
    self.spec = sensors.SensorSpec(bands)
    self.reads = 0
    self.slow_s, self.fail_after = slow_s, fail_after
    rng = np.random.default_rng(seed)
    shape = (grid.height_px, grid.width_px)
    self.pixels = {
      'sentinel2': rng.integers(200, 4000, (*shape, len(self.spec.s2_bands))).astype(np.uint16),
      'sentinel1': rng.integers(-2500, -500, (*shape, len(self.spec.s1_bands))).astype(np.int16),
    }
    outline = grid.outline_lonlat()
    self.scenes = {s: base.Scene(f'{s}_a', s, outline, NOON) for s in self.spec.sensors}

  def inputs(self):
    return [inputs.SceneInput(self, s, 'array') for s in self.scenes.values()]

  def search(self, sensor, footprint, start, end):
    return base.scenes_that_meet(self.scenes.values(), sensor, footprint, start, end)

  def read(self, scene_, grid, bands):
    self.reads += 1
    time.sleep(self.slow_s)
    if self.fail_after is not None and self.reads > self.fail_after:
      raise OSError('the disk is gone')
    held = self.spec.s2_bands if scene_.sensor == 'sentinel2' else self.spec.s1_bands
    stored = self.pixels[scene_.sensor][..., [held.index(b) for b in bands]]
    nodata = sensors.S2_NODATA if scene_.sensor == 'sentinel2' else sensors.S1_NODATA
    out = np.full((grid.height_px, grid.width_px, len(bands)), nodata, stored.dtype)
    row = round((self.grid_.y0_m - grid.y0_m) / 10)
    col = round((grid.x0_m - self.grid_.x0_m) / 10)
    top, left = max(-row, 0), max(-col, 0)
    part = stored[max(row, 0) : max(row + grid.height_px, 0), max(col, 0) : max(col + grid.width_px, 0)]
    part = part[: grid.height_px - top, : grid.width_px - left]
    out[top : top + part.shape[0], left : left + part.shape[1]] = part
    unit = 'reflectance_x1e4' if scene_.sensor == 'sentinel2' else 'db_x100'
    return base.Patch(out, (out != nodata).any(-1), tuple(bands), unit)


def make_grid(height_px, width_px):
  return base.PatchGrid(32632, 600_010.0, 5_300_020.0, height_px, width_px)


def make_model(*, attention=False, stage='pretrain', crop_px=64, bands=BANDS, subsets=()):
  """A width-8 ResNet with one block a stage (it looks 49 px beyond a cell), its variables drawn with NumPy."""
  context = {'context': SelfAttention, 'context_after': (3, 4)} if attention else {}
  encoder = ResNet(width=8, stage_sizes=(1, 1, 1, 1), **context)
  module = LandCover(encoder=encoder, classes=5) if stage == 'finetune' else Tile2Vec(encoder=encoder)
  x = jnp.zeros((1, 32, 32, len(bands)))
  parts = {'encoder': jax.eval_shape(lambda: encoder.init(jax.random.key(0), x, train=False))}
  if stage == 'finetune':
    features = jnp.zeros((1, 2, 2, encoder.features))
    parts['header'] = jax.eval_shape(lambda: DeconvolutionHeader(5).init(jax.random.key(0), features, train=False))
  shapes = {kind: {name: tree[kind] for name, tree in parts.items()} for kind in ('params', 'batch_stats')}
  return Trained(
    stage=stage,
    config={
      'data': {'crop_px': crop_px},
      'finetune': {'target': 'corine_level1'},
      'pretrain': {'objective': 'tile2vec'},
      'encoder': {'name': 'made up', 'width': 8},
      'dtype': 'float32',
    },
    spec=sensors.SensorSpec(bands),
    statistics=untrained.statistics(bands),
    subsets=[list(s) for s in subsets],
    module=module,
    variables=untrained.draw(shapes),
    step=7,
    sha256='0123abcd' if not attention else '4567cdef',
    synthetic=True,
    directory=pathlib.Path('run'),
  )


if __name__ == '__main__':
  area = make_grid(16 * 16, 12 * 16)
  source = ArraySource(area, slow_s=float(sys.argv[2]))
  reader = inputs.SceneReader(source.inputs(), BANDS)
  scene.embed(make_model(), reader, area, pathlib.Path(sys.argv[1]), window_px=160, progress=False)

"""The smallest imagery source that keeps the seam's promises: a world of stripes, for tests of the corpus."""

import datetime
import hashlib
import os
import pathlib
import signal
import time

import numpy as np
import shapely

from deepsentinel import sensors
from deepsentinel.sources import base

_DAY = datetime.timedelta(days=1)
_EPOCH = datetime.datetime(2018, 1, 1, tzinfo=datetime.UTC)


class TinyEarth:
  """Sentinel-2 every 5 days at 10:30 and Sentinel-1 every 6 days at 17:00 over everything; pixels from coordinates.

  Args:
    delay_s: time a read takes.
    dark: share of the Sentinel-2 scenes that hold nothing but nodata.
    broken: share of the Sentinel-1 scenes whose reading fails.
    barren: longitude east of which nothing was ever seen.
  """

  synthetic = True
  spec = sensors.SensorSpec(('B2', 'B3', 'B4', 'VV', 'VH'))

  def __init__(self, delay_s: float = 0.0, dark: float = 0.0, broken: float = 0.0, barren: float = 180.0):
    self.delay_s, self.dark, self.broken, self.barren = delay_s, dark, broken, barren

  def search(self, sensor, footprint, start, end):
    every, hour = (5, 10.5) if sensor == 'sentinel2' else (6, 17.0)
    world = shapely.box(-180, -90, self.barren, 90)
    if not shapely.intersects(world, footprint):
      return []
    first = int(np.floor((start - _EPOCH) / _DAY)) - every
    scenes = []
    for day in range(first - first % every, int(np.ceil((end - _EPOCH) / _DAY)) + 1, every):
      when = _EPOCH + day * _DAY + datetime.timedelta(hours=hour)
      if start <= when < end:
        scenes.append(
          base.Scene(f'{sensor}-{when:%Y%m%dT%H%M%S}', sensor, world, when, 'ascending', 7, {'incidence_deg': 39.0})
        )
    return scenes

  def _chance(self, scene):
    return int.from_bytes(hashlib.sha256(scene.id.encode()).digest()[:4]) / 2**32

  def read(self, scene, grid, bands):
    time.sleep(self.delay_s)
    lon, lat = grid.pixel_centres_lonlat()
    wave = np.sin(40 * lon) * np.cos(30 * lat)
    valid = np.ones(wave.shape, bool)
    if scene.sensor == 'sentinel2':
      values = 0.1 + 0.05 * wave[..., None] + 0.01 * np.arange(len(bands))
      if self._chance(scene) < self.dark:
        valid[:] = False
      return base.Patch(values, valid, tuple(bands), 'reflectance')
    if self._chance(scene) < self.broken:
      raise OSError('the archive does not answer')
    return base.Patch(-12 + 3 * wave[..., None] - 6.0 * np.arange(len(bands)), valid, tuple(bands), 'db')


class TinyPlaces(TinyEarth):
  """Three ready-made patches, the last without Sentinel-1, the first with a label map."""

  def places(self):
    for i in range(3):
      when = _EPOCH + i * _DAY
      grid = base.PatchGrid(32633, 500_000.0 + 1000 * i, 5_600_000.0, 32, 32)
      scenes = {s: base.Scene(f'{s}-{i}', s, grid.outline_lonlat(), when) for s in sensors.SENSORS[: 2 - i // 2]}
      yield base.Place(f'place_{i}', grid, scenes, ('Pastures', 'Mixed forest'))

  def labels(self, place):
    return {'corine': np.full((32, 32), 18, np.uint8)} if place.id == 'place_0' else {}


class WatchedEarth(TinyEarth):
  """TinyEarth that writes down what is read of it, and can be made to fail.

  Args:
    log: file to which every read adds a line.
    mended: file without which the scenes of radar that `broken` names cannot be read; '' has none of them fail.
    only_in: process outside of which the source cannot be opened; 0 opens it in all.
    dies: outside of `only_in` the process is killed instead.
    others: of TinyEarth.
  """

  def __init__(self, log='', mended='', only_in=0, dies=False, broken=0.0, **others):
    super().__init__(broken=0.0 if not mended or pathlib.Path(mended).exists() else broken, **others)
    self.log = log
    if only_in not in (0, os.getpid()):
      if dies:
        os.kill(os.getpid(), signal.SIGKILL)
      raise ValueError('no licence on this machine')

  def read(self, scene, grid, bands):
    if self.log:
      with open(self.log, 'a') as file:
        file.write(f'{scene.sensor} {grid.epsg} {grid.x0_m:.0f} {grid.y0_m:.0f}\n')
    return super().read(scene, grid, bands)

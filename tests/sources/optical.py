"""A source of one sensor, as Sentinel-2 catalogues without usable radar are."""

from deepsentinel import sensors
from deepsentinel.sources import synthetic


class Optical(synthetic.SyntheticEarth):
  """SyntheticEarth without its radar."""

  def __init__(self, seed: int = 0, cache_dir: str = ''):
    super().__init__(seed, cache_dir)
    self.spec = sensors.SensorSpec(sensors.SENTINEL2_BANDS, 'L2A', 'sigma0_ellipsoid')

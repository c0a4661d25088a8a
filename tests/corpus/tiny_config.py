"""A corpus of the tiny source: 12 patches of 32 px between Dresden and Poznan."""

from configs.corpora import common

TINY = 'tests.corpus.tiny_source:TinyEarth'


def get_config():
  config = common.get_config()
  config.name = 'tiny'
  config.patches = 12
  config.patch_px = 32
  config.points.bbox = '13,51,15,52'
  config.source = {'name': TINY, 'delay_s': 0.0, 'dark': 0.0, 'broken': 0.0, 'barren': 180.0}
  config.workers = 0
  return config

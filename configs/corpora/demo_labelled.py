"""A labelled corpus of SyntheticEarth, of the size of a laptop: 240 patches in a box of 200 km.

python -m deepsentinel.corpus --config=configs/corpora/demo_labelled.py --out=corpora/demo_labelled
"""

from configs.corpora import common


def get_config():
  config = common.get_config()
  config.name = 'demo_labelled'
  config.labelled = True
  config.patches = 240
  config.points.bbox = '11.0,51.8,13.9,53.6'  # northern Germany, where SyntheticEarth has a bay, mountains and lakes
  config.period.start = '2018-01-01'
  config.period.end = '2019-01-05'
  config.split.block_km = 25.0
  # Of so few patches a tenth would test on a handful of blocks.
  config.split.train, config.split.validation, config.split.test = 0.6, 0.15, 0.25
  return config

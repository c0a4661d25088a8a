"""An unlabelled corpus of SyntheticEarth for pretraining, of the size of a laptop: 360 patches in a box of 200 km.

python -m deepsentinel.corpus --config=configs/corpora/demo_unlabelled.py --out=corpora/demo_unlabelled

The box is that of demo_labelled: pretraining leaves out the patches near its validation and test patches.
"""

from configs.corpora import common


def get_config():
  config = common.get_config()
  config.name = 'demo_unlabelled'
  config.seed = 1
  config.patches = 360
  config.points.bbox = '11.0,51.8,13.9,53.6'
  return config

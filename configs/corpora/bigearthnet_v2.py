"""BigEarthNet v2 pairs as a corpus: ready-made patches of 120 px with class lists, CORINE pixels where there are any.

python -m deepsentinel.corpus --config=configs/corpora/bigearthnet_v2.py --out=corpora/bigearthnet_v2 \
  --config.source.path=/data/BigEarthNet-V2-LMDB

Without the path: the 24 sample pairs below the folder named by the environment variable DEEPSENTINEL_DATA.
"""

import os

from configs.corpora import common


def get_config():
  config = common.get_config()
  config.name = 'bigearthnet_v2'
  config.labelled = True
  config.patches = 0
  config.patch_px = 120
  samples = os.environ.get('DEEPSENTINEL_DATA', 'data')
  config.source = {'name': 'bigearthnet', 'path': f'{samples}/bigearthnet_v2', 'layout': 'v2_lmdb'}
  # Too few to split: all of them pretrain an encoder, and their class lists are probed leaving one out.
  config.split.method = 'none'
  config.workers = 0
  return config

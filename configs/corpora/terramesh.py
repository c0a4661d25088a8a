"""TerraMesh-style stacks as an unlabelled corpus: aligned Sentinel-2 L2A and Sentinel-1 RTC files of 224 px.

python -m deepsentinel.corpus --config=configs/corpora/terramesh.py --out=corpora/terramesh \
  --config.source.path=/data/terramesh

Without the path: the sample places below the folder named by the environment variable DEEPSENTINEL_DATA.
"""

import os

from configs.corpora import common


def get_config():
  config = common.get_config()
  config.name = 'terramesh'
  config.patches = 0
  config.patch_px = 224
  samples = os.environ.get('DEEPSENTINEL_DATA', 'data')
  config.source = {
    'name': 'stacks',
    'path': f'{samples}/terramesh',
    # The files say neither bands nor units; TerraMesh's data card does.
    's2_bands': ['B1', 'B2', 'B3', 'B4', 'B5', 'B6', 'B7', 'B8', 'B8A', 'B9', 'B11', 'B12'],
    's2_unit': 'reflectance_x1e4',
    's1_bands': ['VV', 'VH'],
    's1_unit': 'db',
    's1_quantity': 'gamma0_terrain',
    's2_time_folder': 'LULC',
  }
  config.workers = 0
  return config

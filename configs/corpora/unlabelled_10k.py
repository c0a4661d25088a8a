"""The paper's smaller unlabelled set: 10,000 patches, uniform by area over the world's land.

python -m deepsentinel.corpus --config=configs/corpora/unlabelled_10k.py --out=corpora/unlabelled_10k

The pixels are SyntheticEarth's unless a platform follows the name: `unlabelled_10k.py:planetary_computer`.
"""

from configs.corpora import common


def get_config(platform: str = 'synthetic'):
  config = common.get_config(platform)
  config.name = 'unlabelled_10k'
  config.patches = 10_000
  config.period.start = '2019-01-01'
  config.period.end = '2020-01-05'
  return config

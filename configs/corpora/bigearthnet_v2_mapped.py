"""Those BigEarthNet v2 pairs that have CORINE pixels, in train, validation and test at once.

Of the 24 sample pairs that is one: enough to see that the chain runs and that labels lie where they belong, and for
nothing else. With the whole BigEarthNet v2 at hand, set --config.split.method=blocks.

python -m deepsentinel.corpus --config=configs/corpora/bigearthnet_v2_mapped.py --out=corpora/bigearthnet_v2_mapped
"""

from configs.corpora import bigearthnet_v2


def get_config():
  config = bigearthnet_v2.get_config()
  config.name = 'bigearthnet_v2_mapped'
  config.source.mapped_only = True
  config.split.method = 'shared'
  return config

"""The corpus that benchmarks/stac_corpus.py samples."""

from configs.corpora import common


def get_config():
  config = common.get_config()
  config.name = 'stac_corpus'
  config.period.start, config.period.end = '2018-01-01', '2019-01-05'
  config.source = {
    'name': 'stac', 'url': '', 's2_collection': 'sentinel-2-c1-l2a', 's1_collection': 'sentinel-1-rtc',
    's2_bands': ['B2', 'B3', 'B4', 'B8'],
  }  # fmt: skip
  return config

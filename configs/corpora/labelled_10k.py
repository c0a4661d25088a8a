"""The paper's labelled set: 10,000 patches in the EU and the United Kingdom, CORINE 2018 and OpenStreetMap.

python -m deepsentinel.corpus --config=configs/corpora/labelled_10k.py --out=corpora/labelled_10k

The pixels are SyntheticEarth's unless a platform follows the name (`labelled_10k.py:planetary_computer`), with the
files of labels: --config.labels.corine.path=... --config.labels.osm.path=...
"""

from configs.corpora import common


def get_config(platform: str = 'synthetic'):
  config = common.get_config(platform)
  config.name = 'labelled_10k'
  config.labelled = True
  config.patches = 10_000
  config.points.countries = 'EU27_GB'
  config.points.bbox = '-31.5,27.5,45,71.5'  # what CORINE's main layer covers; cuts overseas parts
  config.period.start = '2018-01-01'
  config.period.end = '2019-01-05'
  return config

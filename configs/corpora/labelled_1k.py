"""The paper's labelled demo: 1,000 patches in the EU and the United Kingdom, CORINE 2018 and OpenStreetMap.

python -m deepsentinel.corpus --config=configs/corpora/labelled_1k.py --out=corpora/labelled_1k

The pixels are SyntheticEarth's unless a platform follows the name (`labelled_1k.py:planetary_computer`), with the files
of labels: --config.labels.corine.path=... --config.labels.osm.path=...
"""

from configs.corpora import common


def get_config(platform: str = 'synthetic'):
  config = common.get_config(platform)
  config.name = 'labelled_1k'
  config.labelled = True
  config.patches = 1_000
  config.points.countries = 'EU27_GB'
  config.points.bbox = '-31.5,27.5,45,71.5'  # what CORINE's main layer covers; cuts overseas parts
  config.period.start = '2018-01-01'
  config.period.end = '2019-01-05'
  return config

"""Coal mines of SyntheticEarth and background near them, of the size of a laptop: some 320 patches in a box of 280 km.

python -m deepsentinel.corpus --config=configs/corpora/demo_mines.py --out=corpora/demo_mines

The real ones come from files: --config.mines.polygons=mining_polygons.gpkg --config.mines.register=coal_mines.geojson,
with a --config.source that has their scenes.
"""

from configs.corpora import common


def get_config():
  config = common.get_config()
  config.name = 'demo_mines'
  config.patches = 0
  config.patch_px = 128
  config.points.bbox = '10.0,50.5,14.0,53.0'
  config.mines.polygons = 'source'
  config.mines.match_km = 2.0
  config.mines.background = 2
  config.mines.max_km = 30.0
  config.split.block_km = 25.0
  # So few mines that a tenth of them would test nothing.
  config.split.train, config.split.validation, config.split.test = 0.6, 0.2, 0.2
  return config

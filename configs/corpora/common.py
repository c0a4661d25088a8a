"""Every setting of a corpus, with the paper's values. The other configs change a few of them.

The paper's corpora take a platform after a colon: `--config=configs/corpora/labelled_1k.py:planetary_computer`.
"""

import ml_collections

PLATFORMS = {
  'synthetic': {'name': 'synthetic', 'seed': 0},
  # With a project registered for it: --config.source.project=...; key_file=... of a service account, or the credentials
  # that `earthengine authenticate` left.
  'earthengine': {'name': 'earthengine', 'project': '', 'key_file': ''},
  # With an account (pip install -e '.[earthone]', `earthone auth login`); Descartes Labs' successor.
  'earthone': {'name': 'earthone'},
  # Without an account (pip install planetary-computer). Its Sentinel-2 carries the +1000 offset of newer products; its
  # Sentinel-1 is terrain-corrected gamma0, which is not Earth Engine's sigma0.
  'planetary_computer': {
    'name': 'stac', 'url': 'https://planetarycomputer.microsoft.com/api/stac/v1', 's2_collection': 'sentinel-2-l2a',
    's1_collection': 'sentinel-1-rtc', 's2_unit': 'product', 'sign': 'planetary_computer:sign',
  },
  # Without an account; Sentinel-2 only, as its Sentinel-1 has no georeferenced pixels.
  'earth_search': {
    'name': 'stac', 'url': 'https://earth-search.aws.element84.com/v1', 's2_collection': 'sentinel-2-c1-l2a',
  },
  # With a free account, whose keys GDAL takes: AWS_S3_ENDPOINT=eodata.dataspace.copernicus.eu AWS_VIRTUAL_HOSTING=FALSE
  # AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=...; Sentinel-2 only, for the same reason.
  'copernicus': {
    'name': 'stac', 'url': 'https://stac.dataspace.copernicus.eu/v1', 's2_collection': 'sentinel-2-l2a',
    's2_unit': 'product',
  },
}  # fmt: skip


def get_config(platform: str = 'synthetic') -> ml_collections.ConfigDict:
  if platform not in PLATFORMS:
    raise ValueError(f'Unknown platform {platform!r} after the colon of --config. Known: {", ".join(PLATFORMS)}.')
  config = ml_collections.ConfigDict()
  config.name = 'common'
  config.seed = 0  # of points, blocks, pairs and splits; each point has its own random stream
  config.labelled = False  # with label maps (CORINE, OpenStreetMap, another) and a train/validation/test split
  config.patches = 1000  # 0: every patch of a source that is itself a set of patches, every mine
  config.patch_px = 256
  config.pixel_m = 10.0

  # Which platform, by its name in deepsentinel/registry.py (or 'package.module:Class'); the other keys are its
  # arguments.
  config.source = ml_collections.ConfigDict(PLATFORMS[platform])

  # Likewise for the label sources. With no path, SyntheticEarth writes its own vector files, and a source of ready-made
  # patches brings its own maps.
  config.labels = ml_collections.ConfigDict()
  config.labels.corine = ml_collections.ConfigDict({'name': 'corine', 'path': '', 'layer': ''})
  config.labels.osm = ml_collections.ConfigDict({'name': 'openstreetmap', 'path': '', 'index_dir': ''})
  # Any other map of classes, for places that CORINE does not cover: a GeoTIFF, a folder of tiles or a pattern; and its
  # legend: 'worldcover', 'cdl', a CSV file (value,name,colour[,corine_level1]), or '' for one in the raster itself.
  config.labels.landcover = ml_collections.ConfigDict({'name': 'raster', 'path': '', 'legend': ''})

  config.points = ml_collections.ConfigDict()
  config.points.countries = ''  # ISO 3166 alpha-3 codes or EU27_GB, by commas; '' all land but Antarctica
  config.points.bbox = ''  # 'west,south,east,north' in degrees; '' no limit
  config.points.max_redraws = 50  # replacements for a point that has no pair of scenes in its 12-day block

  # Instead of points drawn on land: a patch on every coal mine, and background near it.
  config.mines = ml_collections.ConfigDict()
  config.mines.polygons = ''  # vector file of mine polygons; 'source': those that SyntheticEarth writes of points.bbox
  config.mines.register = ''  # vector file of points of coal mines; '': every polygon is of a coal mine
  config.mines.match_km = 5.0  # a polygon this close to a point of the register is a coal mine
  config.mines.background = 1  # patches of background for each mine
  config.mines.min_km = 5.0  # least distance of a background point from every polygon, coal or not
  config.mines.max_km = 50.0  # and furthest from its own mine

  # From start up to, not including, end, in 12-day blocks: each block gets points in proportion to its days.
  config.period = ml_collections.ConfigDict({'start': '2019-01-01', 'end': '2020-01-05'})
  config.max_gap_days = 3.0  # between the two acquisitions, inclusive

  config.split = ml_collections.ConfigDict()
  # 'blocks' | 'random' (for comparison: neighbours leak) | 'none' (all train) | 'shared' (each patch in every split)
  config.split.method = 'blocks'
  config.split.block_km = 50.0
  # So many assignments of blocks to splits are drawn, and the one whose splits hold the classes most alike is taken; 1
  # takes the first, blind to the labels.
  config.split.draws = 200
  config.split.buffer_km = 3.7  # train patches closer than this to a held-out one are dropped
  config.split.train = 0.7
  config.split.validation = 0.2
  config.split.test = 0.1

  config.workers = 2  # processes that fetch
  return config

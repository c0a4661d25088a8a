"""Bad input to the commands that sample and package a corpus: one sentence each (TRIALS.md)."""

import json
import pathlib
import shutil

import geopandas
import numpy as np
import pytest
import rasterio
import shapely

from tests import broken_inputs, commands, tiny_records, trials

SECTION = 'Corpora'
CORPUS = 'deepsentinel.corpus'
ALL_KEYS = 'configs/corpora/common.py lists every key'
TINY = ('--config=tests/corpus/tiny_config.py', '--config.patches=3')
LABELLED = '--config=configs/corpora/demo_labelled.py'
UNKNOWN_SIZE = 'unknown size of the data set'
# A corpus of SyntheticEarth that takes a second.
SAMPLING = ('--config=configs/corpora/demo_unlabelled.py', '--config.patches=3', '--config.patch_px=32',
            '--config.workers=0')  # fmt: skip

EARTH_ENGINE = ('--config=configs/corpora/unlabelled_10k.py:earthengine',)


def sampling(name: str, arguments: str, *says: str, common: tuple[str, ...] = (), begins: bool = False) -> trials.Trial:
  common = (*(common or SAMPLING), '--out={out}')
  return trials.Trial(name, CORPUS, tuple(arguments.split()), says, common, begins=begins)


def building(name: str, arguments: str, *says: str, builder: str = 'labelled', **environment: str) -> trials.Trial:
  flags = ('build', f'tfds_builders/deepsentinel_{builder}', *arguments.split(), '--data_dir={out}')
  return trials.Trial(name, commands.TFDS, flags, says, (), environment, begins=name != UNKNOWN_SIZE)


TRIALS = [
  sampling('misspelt setting', '--config.points.box=11,51,12,52', "'box'", 'Did you mean "bbox"', ALL_KEYS),
  sampling('misspelt corpus flag', '--retry_faild', "flag 'retry_faild'. Did you mean: retry_failed", '--help'),
  trials.Trial('no output folder', CORPUS, SAMPLING, ('Flag --out must have a value', '--help')),
  sampling('unknown imagery source', '--config.source.name=synthetik', "Unknown imagery source 'synthetik'",
           "Did you mean 'synthetic'?"),
  sampling('unknown platform', '--config=configs/corpora/unlabelled_10k.py:google', "Unknown platform 'google' after "
           'the colon of --config', 'planetary_computer'),
  sampling('Earth Engine without credentials', '--config.patches=3', 'Earth Engine did not let us in',
           '`earthengine authenticate`', 'key_file=', 'project=', common=EARTH_ENGINE, begins=True),
  sampling('Earth Engine with a key that is none', '--config.source.key_file={made}/absent.json',
           'key_file {made}/absent.json is no key of a service account', common=EARTH_ENGINE, begins=True),
  sampling('unknown country code', '--config.points.countries=GER', "Unknown country code 'GER'", 'Did you mean',
           'ISO 3166 alpha-3 codes such as DEU'),
  sampling('bounding box of two numbers', '--config.points.bbox=11,52', "'west,south,east,north' in degrees",
           "found '11,52'"),
  sampling('bounding box upside down', '--config.points.bbox=11,54,12,52', "Bounding box '11,54,12,52'",
           'south below north'),
  sampling('bounding box at sea', '--config.points.bbox=-40,30,-39,31', 'no land', '(-40.0, 30.0, -39.0, 31.0)'),
  sampling('date that is none', '--config.period.start=2019-13-01', 'period.start must be a date like 2018-01-31',
           "found '2019-13-01'"),
  sampling('period that ends before it starts', '--config.period.end=2017-01-01', 'period.start 2019-01-01 is not '
           'before period.end 2017-01-01'),
  sampling('no patches', '--config.patches=0', 'patches is 0', 'needs 1 or more'),
  sampling('patch of no pixels', '--config.patch_px=-1', 'patch_px is -1; allowed: 1 and above'),
  sampling('split shares above 1', '--config.split.train=0.9', 'must add up to 1; found [0.9, 0.2, 0.1]'),
  sampling('labelled without labels', '--config.labelled=True', 'state labels.corine.path',
           'labels.landcover.path', 'labelled=False', common=TINY),
  sampling('CORINE file that is not there', '--config.labelled=True --config.labels.corine.path={made}/absent.gpkg',
           '{made}/absent.gpkg'),
  sampling('OpenStreetMap file that is not there', '--config.labelled=True --config.labels.osm.path={made}/absent.pbf',
           '{made}/absent.pbf'),
  sampling('land-cover map that is not there', '--config.labelled=True '
           '--config.labels.landcover.path={made}/absent.tif', 'Label raster not found: {made}/absent.tif', 'path=',
           common=TINY),
  sampling('land-cover map without a legend', '--config.labelled=True --config.labels.landcover.path={made}/map.tif',
           '{made}/map.tif has no names of classes in itself', 'legend=', common=TINY),
  sampling('unknown legend', '--config.labelled=True --config.labels.landcover.path={made}/map.tif '
           '--config.labels.landcover.legend=worldcovr', "Legend 'worldcovr' is neither a file nor a ready legend",
           'cdl, worldcover', common=TINY),
  sampling('legend with a value twice', '--config.labelled=True --config.labels.landcover.path={made}/map.tif '
           '--config.labels.landcover.legend={made}/twice.csv', '{made}/twice.csv, line 3: value 1 is there twice',
           'Keep one', common=TINY),
  sampling('legend that lacks a number of the map', '--config.labelled=True '
           '--config.labels.landcover.path={made}/map.tif --config.labels.landcover.legend=worldcover',
           'Not one of 3 patches', '{made}/map.tif holds 7, which the legend lacks (worldcover)', 'Add a line for it',
           common=TINY, begins=True),
  sampling('all-nodata patches', '--config.source.dark=1.0', 'Not one of 3 patches could be fetched',
           'of 3: sentinel2: all pixels are nodata', '--retry_failed', common=TINY, begins=True),
  sampling('source that does not answer', '--config.source.broken=1.0', 'Not one of 3 patches', 'of 3: '
           'sentinel1: OSError: the archive does not answer', '--retry_failed', common=TINY, begins=True),
  sampling('mine polygons that are not there', '--config.mines.polygons={made}/absent.gpkg',
           'mines.polygons names {made}/absent.gpkg, which is not there', 'State a GeoPackage', common=TINY),
  sampling('points where mine polygons are expected', '--config.mines.polygons={made}/points.geojson',
           '{made}/points.geojson holds Point; Polygons are expected', 'mines.register', common=TINY),
  sampling('mine polygons without a CRS', '--config.mines.polygons={made}/no_crs.parquet',
           '{made}/no_crs.parquet has no CRS', 'ogr2ogr -a_srs', common=TINY),
  sampling('no mine in the box', '--config.mines.polygons={made}/mines.geojson --config.points.bbox=5,45,6,46',
           'None of the 1 polygons of mines.polygons', 'Choose a region', common=TINY),
  sampling('register of other mines', '--config.mines.polygons={made}/mines.geojson '
           '--config.mines.register={made}/points.geojson', 'No point of mines.register lies within mines.match_km=5',
           'Raise mines.match_km', common=TINY),
  sampling('background that may hold a mine', '--config.mines.polygons={made}/mines.geojson --config.mines.min_km=0.1',
           'mines.min_km is 0.1; allowed: 0.23 and above', common=TINY),
  sampling('mines of a source that has none', '--config.mines.polygons=source', 'writes no mines',
           'Name a vector file', common=TINY),
  sampling('corpus folder of another config', '--out={made}/corpus --config.patch_px=64',
           '{made}/corpus holds a corpus of another config. What differs: ', 'patch_px: 32 -> 64', 'another --out'),
  sampling('corpus folder of something else', '--out={made}/thesis', 'no corpus, and not empty (thesis.tex)',
           'another --out'),
  sampling('corpus folder with a damaged card', '--out={made}/damaged_card', '{made}/damaged_card/corpus.json is '
           'damaged', 'Restore it'),
  sampling('corpus folder with a damaged manifest', '--out={made}/damaged_manifest',
           '{made}/damaged_manifest/manifest.parquet is damaged', 'Remove it and run the command'),
  sampling('corpus folder that is a file', '--out={made}/file', '{made}/file: File exists', 'choose another folder'),
  sampling('corpus folder below a file', '--out={made}/file/x', '{made}/file/x: Not a directory',
           'choose another folder'),
  sampling('unknown runner', '--runner=FlunkRunner --staging={made}/staging', "Unknown runner 'FlunkRunner'",
           'DataflowRunner', 'FlinkRunner', 'SparkRunner', common=TINY),
  sampling('runner without a staging place', '--runner=FlinkRunner', '--runner=FlinkRunner needs --staging=URL',
           'gs://BUCKET/NAME', common=TINY),
  sampling('staging place without a runner', '--staging={made}/staging', 'name one with --runner=NAME', common=TINY),
  sampling('staging place of something else', '--runner=BundleBasedDirectRunner --staging={made}/thesis',
           '--staging={made}/thesis is not empty (thesis.tex)', 'Name a place of its own', common=TINY, begins=True),
  # tfds build.
  building('no corpus named', '--config=custom', '--manual_dir=DIR or DEEPSENTINEL_CORPUS=DIR',
           '`python -m deepsentinel.corpus --config=configs/corpora/NAME.py --out=DIR` samples one'),
  building('folder that is no corpus', '--config=custom --manual_dir={made}/thesis',
           '--manual_dir names {made}/thesis, which is no corpus folder: it holds no corpus.json',
           'python -m deepsentinel.corpus'),
  building('corpus folder that is not there', '--config=custom', '$DEEPSENTINEL_CORPUS names /absent, which is no '
           'corpus', 'python -m deepsentinel.corpus', DEEPSENTINEL_CORPUS='/absent'),
  building('unlabelled corpus given as labelled', '--config=custom --manual_dir={made}/corpus',
           'The corpus {made}/corpus has no labels', '`tfds build tfds_builders/deepsentinel_unlabelled`'),
  building('corpus of something else given as mines', '--config=custom --manual_dir={made}/corpus',
           'The corpus {made}/corpus is not of mines', '`tfds build tfds_builders/deepsentinel_unlabelled`',
           builder='mines'),
  building('corpus that is half sampled', '--config=custom --manual_dir={made}/half', '{made}/half is not sampled to '
           'its end', 'it goes on where it stopped'),
  building('manifest row whose file is gone', '--config=custom --manual_dir={made}/lost_file',
           "{made}/lost_file: manifest row 'tiny_00002': file s1.tif is gone", 'python -m deepsentinel.corpus'),
  building('patch file cut short', '--config=custom --manual_dir={made}/cut_file', "manifest row 'tiny_00002': file "
           's2.tif', 'is not the one that was fetched', 'python -m deepsentinel.corpus'),
  building(UNKNOWN_SIZE, '--config=labeled_10k', 'labeled_10k not found', 'labelled_10k'),
]  # fmt: skip


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  folder = tmp_path_factory.mktemp('inputs')
  finished = commands.run(CORPUS, *SAMPLING, f'--out={folder}/corpus')
  assert finished.code == 0, finished.err
  shutil.copytree(folder / 'corpus', folder / 'damaged_card')
  (folder / 'damaged_card' / 'corpus.json').write_text('{"name"')
  shutil.copytree(folder / 'corpus', folder / 'damaged_manifest')
  _cut(folder / 'damaged_manifest' / 'manifest.parquet')
  labelled = tiny_records.write_corpus(folder / 'labelled', patches=5, patch_px=16)
  for name in ('half', 'lost_file', 'cut_file'):
    shutil.copytree(labelled, folder / name)
  broken_inputs.change_json(folder / 'half' / 'corpus.json', complete=False)
  (folder / 'lost_file' / 'patches' / 'tiny_00002' / 's1.tif').unlink()
  _cut(folder / 'cut_file' / 'patches' / 'tiny_00002' / 's2.tif')
  (folder / 'thesis').mkdir()
  (folder / 'thesis' / 'thesis.tex').write_text('x')
  (folder / 'file').write_text('not a folder')
  mine, point = shapely.Point(14, 51.5).buffer(0.01), shapely.Point(14.5, 51.5)
  geopandas.GeoDataFrame(geometry=[mine], crs=4326).to_file(folder / 'mines.geojson')
  geopandas.GeoDataFrame(geometry=[point], crs=4326).to_file(folder / 'points.geojson')
  geopandas.GeoDataFrame(geometry=[mine]).to_parquet(folder / 'no_crs.parquet')
  profile = {'driver': 'GTiff', 'height': 4, 'width': 4, 'count': 1, 'dtype': 'uint8', 'crs': 4326}
  with rasterio.open(folder / 'map.tif', 'w', transform=rasterio.Affine(1, 0, 12, 0, -1, 54), **profile) as file:
    file.write(np.full((1, 4, 4), 7, np.uint8))
  (folder / 'twice.csv').write_text('value,name,colour\n1,a,#00ff00\n1,b,#0000ff\n')
  return folder


def _cut(file: pathlib.Path) -> None:
  file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize('trial', TRIALS, ids=lambda trial: trial.name)
def test_one_sentence(trial, made, tmp_path):
  trials.check(trial, SECTION, made, tmp_path / 'out')
  assert not list((tmp_path / 'out').rglob('*.tfrecord*'))


def test_the_table_holds_these_trials():
  trials.check_names(SECTION, [trial.name for trial in TRIALS])


@pytest.mark.parametrize('damage', ['lost', 'cut', 'no manifest'])
def test_the_mend_that_is_named_mends(damage, made, tmp_path):
  """A lost or damaged patch file, and a damaged manifest that was removed: the sampling command restores all of it."""
  folder = tmp_path / 'corpus'
  shutil.copytree(made / 'corpus', folder)
  before = {f: f.read_bytes() for f in folder.rglob('*.tif')}
  broken = next(iter(before))
  if damage == 'lost':
    broken.unlink()
  elif damage == 'cut':
    _cut(broken)
  else:
    (folder / 'manifest.parquet').unlink()
  finished = commands.run(CORPUS, *SAMPLING, f'--out={folder}')
  assert finished.code == 0, finished.err
  assert {f: f.read_bytes() for f in folder.rglob('*.tif')} == before
  assert json.loads((folder / 'corpus.json').read_text())['counts']['done'] == 3

"""Bad input to the commands that use what was trained: evaluate clouds, search, detect, export (TRIALS.md)."""

import json
import shutil
import warnings

import geopandas
import pytest
import shapely

from deepsentinel.embedding import index, rows
from deepsentinel.export import folder as export_folder
from tests import broken_inputs, tiny_records, trials, untrained
from tests.embedding import cell_maps

SECTION = 'Use of what was trained'
OUT = ('--out={out}',)


def clouds(name: str, arguments: str, *says: str, run: str = 'run', begins: bool = False) -> trials.Trial:
  first = ['clouds', f'--checkpoint={{made}}/{run}']
  first += [flag for flag in ('--data={made}/labelled', '--out={out}') if flag.partition('=')[0] not in arguments]
  return trials.Trial(name, 'deepsentinel.evaluate', (*first, *arguments.split()), says, begins=begins)


def search(name: str, arguments: str, *says: str, common: tuple[str, ...] = OUT) -> trials.Trial:
  return trials.Trial(name, 'deepsentinel.search', tuple(arguments.split()), says, common)


def build(name: str, arguments: str, *says: str) -> trials.Trial:
  return trials.Trial(name, 'deepsentinel.search', ('build', *arguments.split(), *OUT), says)


def detect(name: str, arguments: str, *says: str) -> trials.Trial:
  return trials.Trial(name, 'deepsentinel.detect', tuple(arguments.split()), says, ('--embedding={made}/maps', *OUT))


def export(name: str, arguments: str, *says: str) -> trials.Trial:
  return trials.Trial(name, 'deepsentinel.export', tuple(arguments.split()), says, ('--checkpoint={made}/run', *OUT))


INDEX = '--index={made}/index'
INSIDE, ELSEWHERE = (','.join(f'{v:.4f}' for v in cell_maps.lonlat(*at)) for at in ((5.5, 5.5), (900, 900)))
TRIALS = [
  # evaluate clouds
  clouds('clouds of a pretrained run', '', 'No finetune checkpoint in {made}/pretrained',
         'python -m deepsentinel.main', run='pretrained'),
  clouds('clouds of a checkpoint that needs both sensors', '', 'was not trained to do '
         'with VV,VH alone', '--config=configs/under_cloud.py', run='needs_both'),
  clouds('clouds of one checkpoint twice', '--checkpoint={made}/same', 'Name each once'),
  clouds('clouds over records without labels', '--data={made}/unlabelled', '{made}/unlabelled holds no labels',
         'tfds_builders/deepsentinel_labelled'),
  clouds('clouds over real records', '--data={made}/measured', "sampled from 'local'",
         '--data=deepsentinel_labelled/demo'),
  clouds('clouds over records of another SyntheticEarth', '', 'which synthetic does not have', 'Sample the corpus',
         begins=True),
  trials.Trial('misspelt clouds', 'deepsentinel.evaluate', ('cloud', '--checkpoint={made}/run'),
               ('Unexpected argument(s) cloud', 'the first word may be clouds or benchmark')),
  clouds('cloud shares that are no numbers', '--shares=0,half', '--shares=0,half are no numbers from 0 to 1'),
  clouds('cloud shares without 0', '--shares=0.5,1', '0..1 and start at 0'),
  clouds('clouds into the folder of another comparison', '--out={made}/compared', '{made}/compared holds another '
         'comparison', 'Pass another --out'),
  # search
  search('search for nothing', INDEX, 'Pass one of --point, --polygon, --patch; found none'),
  search('search in a map', f'--index={{made}}/maps --point={INSIDE}', '{made}/maps holds an embedding and no index',
         'search build --embedding={made}/maps'),
  search('search in an index that is not there', f'--index={{made}}/absent --point={INSIDE}', 'the index is not there',
         'search build'),
  search('search in a damaged index', f'--index={{made}}/damaged_index --point={INSIDE}', 'is damaged',
         'Remove it and build it again'),
  search('search at a place by name', f'{INDEX} --point=Berlin', '--point=Berlin is no LON,LAT in degrees'),
  search('search outside the index', f'{INDEX} --point={ELSEWHERE}', f'Point {float(ELSEWHERE.split(",")[0]):g}',
         'west,south,east,north'),
  search('search for a row that is not there', f'{INDEX} --patch=maps/99_99', '--patch=maps/99_99 is not in the index',
         'such as maps/0_0'),
  search('search for more than there is', f'{INDEX} --point={INSIDE} --k=1000', '--k=1000: the index has 118 rows',
         'Pass --k=1 to 118'),
  search('search for a polygon without a CRS', f'{INDEX} --polygon={{made}}/no_crs.gpkg', 'does not say its CRS',
         'ogr2ogr -a_srs'),
  search('search from a map of another checkpoint', f'{INDEX} --embedding={{made}}/other --point={INSIDE}',
         'is of checkpoint cdcdcdcdcdcd, the index of abababababab', 'Embed it with the checkpoint of the index'),
  search('misspelt build', 'biuld --embedding={made}/maps', 'Unexpected argument(s) biuld', 'may be build'),
  build('index of two checkpoints', '--embedding={made}/maps --embedding={made}/other', 'vectors of two models cannot '
        'be compared', 'build two indices'),
  build('index of a folder without an embedding', '--embedding={made}/folder', '{made}/folder/embedding.tif is not '
        'there', 'python -m deepsentinel.embed'),
  build('index of records without a checkpoint', '--data={made}/labelled', '--checkpoint=RUN and --data=RECORDS go '
        'together'),
  # detect
  detect('detect without examples', '', 'Pass the examples as --examples=FILE'),
  detect('detect from positive examples alone', f'--positive={INSIDE}', 'holds no negative example',
         'Add --negative=LON,LAT'),
  detect('detect with an example by name', '--positive=Berlin --negative=Paris', '--positive=Berlin is no LON,LAT'),
  detect('detect with examples elsewhere', f'--positive={ELSEWHERE} --negative={ELSEWHERE}', 'All 2 examples '
         'lie outside', 'Give examples there'),
  detect('detect without a column of labels', '--examples={made}/unnamed.geojson', "no column 'label'. Columns: kind",
         'Name one with --label'),
  detect('detect with other labels', '--examples={made}/unnamed.geojson --label=kind', "feature 1: kind is 'mine'",
         'Allowed: 1 or positive, 0 or negative'),
  detect('detect with a probability above 1', f'--positive={INSIDE} --threshold=2', '--threshold=2',
         '[0, 1]'),
  # export
  export('export without a checkpoint', '--checkpoint={made}/folder', 'No checkpoint in {made}/folder',
         'python -m deepsentinel.main'),
  export('export of an export', '--checkpoint={made}/exported', 'was exported already', 'takes a run'),
  export('export into other files', '--out={made}/thesis', 'holds other files (thesis.tex)', 'a folder of its own'),
  export('export over another checkpoint', '--checkpoint={made}/needs_both --out={made}/exported',
         '{made}/exported holds another checkpoint', 'Choose another folder'),
  export('export under a licence in words', '--licence=CC-BY', "--licence='CC-BY' is no identifier", 'cc-by-4.0'),
  export('export for a PyTorch that lacks the encoder', '--checkpoint={made}/own --pytorch', 'this one is tests.train',
         'Leave out --pytorch'),
  export('export with the evaluation of another checkpoint', '--evaluation={made}/evaluated', 'is of other weights',
         'Evaluate this checkpoint: `python -m deepsentinel.evaluate --checkpoint={made}/run'),
  export('export with a damaged evaluation', '--evaluation={made}/damaged.json', '{made}/damaged.json is damaged',
         'Run the evaluate command'),
  export('export with something else as evaluation', '--evaluation={made}/exported/model.json',
         'model.json is neither an evaluation.json nor a robustness.json', 'python -m deepsentinel.evaluate'),
  export('export with a folder without an evaluation', '--evaluation={made}/folder',
         'holds neither evaluation.json nor robustness.json', 'python -m deepsentinel.evaluate'),
]  # fmt: skip


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  home = tmp_path_factory.mktemp('inputs')
  for kind in ('labelled', 'unlabelled'):
    shutil.copytree(tiny_records.tiny_records(labelled=kind == 'labelled'), home / kind)
  shutil.copytree(home / 'labelled', home / 'measured')
  card = json.loads((home / 'measured' / 'metadata.json').read_text())['card']
  broken_inputs.change_json(home / 'measured' / 'metadata.json', card={**card, 'source': {'name': 'local'}})
  untrained.save(home / 'run', encoder='resnet10')
  untrained.save(home / 'pretrained', stage='pretrain', encoder='resnet10')
  untrained.save(home / 'needs_both', encoder='resnet10', seed=1, subsets=[])
  untrained.save(home / 'own', encoder='tests.train.tiny_model:TinyEncoder', width=4)
  shutil.copytree(home / 'run', home / 'same')
  export_folder.export(home / 'run', home / 'exported')
  (home / 'compared' / 'clouds').mkdir(parents=True)
  (home / 'compared' / 'clouds' / 'job.json').write_text('{}')
  cell_maps.write(home / 'maps', cell_maps.random_vectors(12, 10), computed=True)
  cell_maps.write(home / 'other', cell_maps.random_vectors(12, 10, seed=1), sha='cd' * 32)
  index.build([rows.of_embedding(home / 'maps', 1)], home / 'index', mean_cells=1, progress=False)
  shutil.copytree(home / 'index', home / 'damaged_index')
  vectors = home / 'damaged_index' / 'index.faiss'
  vectors.write_bytes(vectors.read_bytes()[:-10])
  points = [shapely.Point(*cell_maps.lonlat(row + 0.5, 4.5)) for row in range(2)]
  named = geopandas.GeoDataFrame({'kind': ['mine', 'field']}, geometry=points, crs=4326)
  named.to_file(home / 'unnamed.geojson')
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # that it has no CRS
    geopandas.GeoDataFrame(geometry=[points[0].buffer(0.01)]).to_file(home / 'no_crs.gpkg')
  (home / 'folder').mkdir()
  (home / 'thesis').mkdir()
  (home / 'thesis' / 'thesis.tex').write_text('x')
  (home / 'damaged.json').write_text('{"kind": "ma')
  lacks = dict.fromkeys(('data', 'title', 'classes', 'synthetic', 'patches', 'blocks', 'fractions', 'caveats', 'rows'))
  other = {'name': 'another', 'kind': 'embedding', 'stage': 'finetune', 'step': 9, 'sha256': 'ef' * 32}
  (home / 'evaluated').mkdir()
  (home / 'evaluated' / 'evaluation.json').write_text(json.dumps({**lacks, 'kind': 'maps', 'methods': [other]}))
  return home


@pytest.mark.parametrize('trial', TRIALS, ids=lambda trial: trial.name)
def test_one_sentence(trial, made, tmp_path):
  trials.check(trial, SECTION, made, tmp_path / 'out')


def test_the_table_holds_these_trials():
  trials.check_names(SECTION, [trial.name for trial in TRIALS])

"""A map of its own legend from GeoTIFF to report: corpus, `tfds build`, fine-tuning on its classes and on level 1."""

import json
import shutil

import numpy as np
import pytest
import rasterio

from configs import common, none_resnet18
from deepsentinel import corpus, curriculum, experiment, layertables, legend
from deepsentinel.data import records
from deepsentinel.report import html
from deepsentinel.train import checkpoint, settings
from tests import commands, tiny_records
from tests.corpus import test_landcover as landcover

COLOURS = ('#e0c040', '#207030')


@pytest.fixture(scope='module')
def sampled(tmp_path_factory):
  folder = tmp_path_factory.mktemp('landcover')
  return corpus.run(landcover.config_of(landcover.world(folder)), folder / 'corpus')


@pytest.fixture(scope='module')
def prepared(sampled):
  return tiny_records.prepare(sampled.path)


def config_of(prepared, **changes):
  config = none_resnet18.get_config('small')
  config.data.labelled = str(prepared)
  config.data.crop_px = 32
  config.encoder.name, config.encoder.width = 'resnet10', 8
  config.finetune.target = 'landcover'
  config.finetune.duration = common.duration(steps=2)
  config.finetune.batch_size = 4
  config.finetune.validate_every_steps = 1
  config.evaluation.batch_size = 4
  config.update_from_flattened_dict(changes)
  return config


@pytest.fixture(scope='module')
def run(prepared, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('runs') / 'landcover'
  experiment.run(config_of(prepared), workdir, progress_bar=False)
  return workdir


def test_records_hold_the_map_and_the_card_its_legend(sampled, prepared):
  for split in records.splits(prepared):
    own = records.RecordSet(prepared, split)
    assert legend.map_classes(own.card['landcover']) == sampled.landcover
    for i, patch in enumerate(own.table['id']):
      np.testing.assert_array_equal(own.read('landcover', [i])[0], sampled.read(patch)['landcover'])


def test_unlabelled_records_of_the_corpus_hold_no_map(sampled, tmp_path):
  unlabelled = tiny_records.prepare(sampled.path, tmp_path, labelled=False)
  own = records.RecordSet(unlabelled, 'train')
  assert set(own.fields) == {'s2', 's1'}
  with pytest.raises(
    ValueError, match=r"target='landcover' needs a land-cover map, which .* lacks.*labels.landcover.path"
  ):
    experiment.run(config_of(unlabelled), tmp_path / 'run', progress_bar=False)
  assert not (tmp_path / 'run').exists()


def test_classes_are_those_of_the_legend(run, prepared):
  test = json.loads((run / 'test.json').read_text())
  assert (test['target'], test['classes']) == ('landcover', ['Wheat', 'Spruce'])
  split = records.RecordSet(prepared, 'test')
  stored = split.read('landcover', np.arange(len(split)))
  assert np.sum(test['methods']['model']['confusion'], 1).tolist() == [(stored == 1).sum(), (stored == 2).sum()]
  # The run and its checkpoint say their classes by themselves, without the records.
  assert [c['name'] for c in json.loads((run / 'config.json').read_text())['finetune']['legend']] == ['Wheat', 'Spruce']
  trained = checkpoint.load_trained(run)
  assert trained.classes == ('Wheat', 'Spruce')
  assert set(np.unique(trained.predict(np.zeros((1, 32, 32, len(trained.bands)), np.float32)))) <= {0, 1}
  with np.load(run / 'samples.npz') as samples:
    assert set(np.unique(samples['label'])) <= {0, 1}
  assert experiment.run(config_of(prepared), run) == run / 'report.html'  # finished: nothing to do


def test_the_report_draws_the_legends_colours(run, tmp_path):
  html.write_report([run], tmp_path / 'report.html')
  text = (tmp_path / 'report.html').read_text()
  assert 'Classes are those of Land-cover map' in text
  for colour in COLOURS:
    assert colour in text


def test_a_map_of_an_area_has_the_legends_classes(run, tmp_path):
  finished = commands.run(
    'deepsentinel.embed', f'--checkpoint={run}', '--source=synthetic', '--bounds=12.20,52.30,12.21,52.31',
    '--date=2018-06-15', '--max_cloud=0.1', '--level=landcover', f'--out={tmp_path / "map"}',
  )  # fmt: skip
  assert finished.code == 0, finished.err
  with rasterio.open(tmp_path / 'map' / 'landcover.tif') as file:
    assert [file.tags()[f'class_{i}'] for i in (1, 2)] == ['Wheat', 'Spruce']
    assert [file.colormap(1)[i][:3] for i in (1, 2)] == [(224, 192, 64), (32, 112, 48)]
    assert set(np.unique(file.read(1))) <= {1, 2}


def test_another_legend_is_another_experiment(run, prepared):
  config = json.loads((run / 'config.json').read_text())
  config['finetune']['legend'][0]['name'] = 'Maize'
  changed = run.parent / 'changed'
  changed.mkdir()
  (changed / 'config.json').write_text(json.dumps(config))
  with pytest.raises(ValueError, match=r'another configuration \(config.finetune.legend'):
    experiment.run(config_of(prepared), changed, progress_bar=False)


def test_level_1_through_the_crosswalk(prepared):
  config = settings.with_legend(config_of(prepared, **{'finetune.target': 'landcover_level1'}).to_dict())
  target = legend.target_of(config['finetune'])
  assert target.classes == legend.LEVEL1_NAMES
  split = records.RecordSet(prepared, 'test')
  stored = split.read('landcover', np.arange(len(split)))
  found = target.lookup[stored]
  assert (found[stored == 1] == legend.LEVEL1_NAMES.index('agriculture')).all()
  assert (found[stored == 2] == legend.LEVEL1_NAMES.index('natural')).all()
  assert (found[stored == 0] == -1).all()
  assert set(curriculum.open_data(config, progress=False).labelled) >= {'train', 'test'}


def test_targets_that_the_records_do_not_know_are_refused(prepared, tmp_path):
  with pytest.raises(ValueError, match=r"No train patch of .* has a label of config.finetune.target='corine_level1'"):
    curriculum.open_data(config_of(prepared, **{'finetune.target': 'corine_level1'}).to_dict(), progress=False)
  with pytest.raises(ValueError, match=r'predicts the classes of a data set.*--classes'):
    layertables.describe(config_of(prepared))
  assert '2' in layertables.describe(config_of(prepared), classes=2)


def test_a_legend_without_a_crosswalk_has_no_level_1(prepared, tmp_path):
  shutil.copytree(prepared, tmp_path / 'records')
  metadata = json.loads((prepared / 'metadata.json').read_text())
  for entry in metadata['card']['landcover']:
    entry['corine_level1'] = ''
  (tmp_path / 'records' / 'metadata.json').write_text(json.dumps(metadata))
  config = config_of(tmp_path / 'records', **{'finetune.target': 'landcover_level1'})
  with pytest.raises(ValueError, match="'landcover_level1' needs a column corine_level1 in the legend"):
    experiment.run(config, tmp_path / 'run', progress_bar=False)
  assert not (tmp_path / 'run').exists()

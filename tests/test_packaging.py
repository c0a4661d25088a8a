"""What `tfds build` does with corpora that are whole, absent, half sampled or damaged, and when it is killed."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds

from deepsentinel import packaging
from deepsentinel.data import records
from tests import tiny_records
from tfds_builders.deepsentinel_labelled import deepsentinel_labelled_dataset_builder as labelled_builder
from tfds_builders.deepsentinel_unlabelled import deepsentinel_unlabelled_dataset_builder as unlabelled_builder


@pytest.fixture(scope='module')
def corpus(tmp_path_factory) -> pathlib.Path:
  return tiny_records.write_corpus(tmp_path_factory.mktemp('corpus'), patches=8, patch_px=16)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
  """Neither the checkout's corpora/ nor the user's environment play a part."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.delenv(packaging.ENVIRONMENT, raising=False)


def build(module, data_dir, config='custom', **options) -> pathlib.Path:
  builder = module.Builder(data_dir=data_dir, config=config)
  builder.download_and_prepare(download_config=tfds.download.DownloadConfig(**options))
  return pathlib.Path(builder.data_dir)


def contents(directory: pathlib.Path) -> dict[str, dict[str, np.ndarray]]:
  """split -> field -> all patches, in order; with the ids."""
  splits = [s['name'] for s in json.loads((directory / 'dataset_info.json').read_text())['splits']]
  sets = {split: records.RecordSet(directory, split, threads=1) for split in splits}
  return {
    split: {'id': np.array(rs.table['id'])} | {f: rs.read(f, np.arange(len(rs))) for f in rs.fields}
    for split, rs in sets.items()
  }


def assert_same(a: dict, b: dict) -> None:
  assert a.keys() == b.keys()
  for split in a:
    for name in a[split]:
      np.testing.assert_array_equal(a[split][name], b[split][name])


def test_beam_and_plain_builds_hold_the_same_records(corpus, tmp_path):
  from apache_beam.options import pipeline_options

  plain = build(labelled_builder, tmp_path / 'plain', manual_dir=corpus)
  options = pipeline_options.PipelineOptions(flags=['--direct_num_workers=1'])
  config = {'manual_dir': corpus, 'beam_options': options}
  beam = build(labelled_builder, tmp_path / 'beam', **config)
  assert_same(contents(plain), contents(beam))


def test_environment_names_the_corpus_and_manual_dir_goes_first(corpus, tmp_path, monkeypatch):
  other = tiny_records.write_corpus(tmp_path / 'other', patches=3, patch_px=16, labelled=False, name='other')
  monkeypatch.setenv(packaging.ENVIRONMENT, str(other))
  by_environment = build(unlabelled_builder, tmp_path / 'a')
  assert set(contents(by_environment)['train']['id']) == {'other_00000', 'other_00001', 'other_00002'}
  # A labelled corpus without its labels, keeping its splits.
  by_flag = contents(build(unlabelled_builder, tmp_path / 'b', manual_dir=corpus))
  assert list(by_flag) == ['train', 'validation', 'test']
  assert all(sorted(fields) == ['id', 's1', 's2'] for fields in by_flag.values())


def test_records_of_another_corpus_are_not_taken_for_this_ones(corpus, tmp_path):
  """TFDS returns where there are records, whatever corpus is named."""
  other = tiny_records.write_corpus(tmp_path / 'other', patches=5, patch_px=16)
  made = build(labelled_builder, tmp_path / 'tfds', manual_dir=corpus)
  before = contents(made)
  with pytest.raises(ValueError, match=r'holds the records of another corpus than .*other .*counts.*--overwrite'):
    build(labelled_builder, tmp_path / 'tfds', manual_dir=other)
  assert_same(contents(build(labelled_builder, tmp_path / 'tfds', manual_dir=corpus)), before)
  assert_same(contents(build(labelled_builder, tmp_path / 'tfds')), before)  # no corpus is named


def test_corpus_without_labels_is_refused_by_the_labelled_builder(tmp_path):
  other = tiny_records.write_corpus(tmp_path / 'other', patches=2, patch_px=16, labelled=False)
  with pytest.raises(ValueError, match=r'has no labels\. Package it with `tfds build tfds_builders/deepsentinel_unlab'):
    build(labelled_builder, tmp_path / 'tfds', manual_dir=other)


def test_published_sizes_are_known_and_name_the_command_that_samples_them(tmp_path):
  for module, names in (
    (labelled_builder, ['demo', 'labelled_1k', 'labelled_10k', 'custom']),
    (unlabelled_builder, ['demo', 'unlabelled_10k', 'unlabelled_100k', 'custom']),
  ):
    assert list(module.Builder.builder_configs) == names
    assert [config.name for config in module.Builder.BUILDER_CONFIGS] == ['demo']
    command = f'python -m deepsentinel.corpus --config=configs/corpora/{names[2]}.py --out=corpora/{names[2]}'
    with pytest.raises(ValueError, match=f"'{names[2]}', packages a corpus that is not there") as error:
      build(module, tmp_path / 'tfds', config=names[2])
    assert command in str(error.value)
  with pytest.raises(ValueError, match='name it with --manual_dir=DIR or DEEPSENTINEL_CORPUS=DIR'):
    build(labelled_builder, tmp_path / 'tfds')
  with pytest.raises(ValueError, match='BuilderConfig labeled_10k not found') as error:
    build(labelled_builder, tmp_path / 'tfds', config='labeled_10k')
  assert 'labelled_10k' in str(error.value)


def test_half_sampled_and_foreign_folders_are_refused(corpus, tmp_path):
  half = pathlib.Path(shutil.copytree(corpus, tmp_path / 'half'))
  card = json.loads((half / 'corpus.json').read_text())
  (half / 'corpus.json').write_text(json.dumps({**card, 'complete': False}))
  with pytest.raises(ValueError, match='is not sampled to its end'):
    build(labelled_builder, tmp_path / 'tfds', manual_dir=half)
  (tmp_path / 'empty').mkdir()
  with pytest.raises(ValueError, match=r'--manual_dir names .*empty, which is no corpus folder'):
    build(labelled_builder, tmp_path / 'tfds', manual_dir=tmp_path / 'empty')


@pytest.mark.parametrize('damage', ['gone', 'corrupt'])
def test_missing_or_damaged_patch_file_names_row_file_and_mend(corpus, tmp_path, damage):
  broken = pathlib.Path(shutil.copytree(corpus, tmp_path / 'broken'))
  file = broken / 'patches' / 'tiny_00002' / 's1.tif'
  if damage == 'gone':
    file.unlink()
  else:
    file.write_bytes(file.read_bytes()[:-100] + bytes(100))
  with pytest.raises(ValueError, match='tiny_00002') as error:
    build(labelled_builder, tmp_path / 'tfds', manual_dir=broken)
  assert str(broken) in str(error.value)
  assert file.name in str(error.value)
  assert 'python -m deepsentinel.corpus' in str(error.value)
  assert not list((tmp_path / 'tfds').rglob('*.tfrecord*'))


def test_without_flags_only_the_demo_is_built(corpus, tmp_path):
  shutil.copytree(corpus, tmp_path / 'corpora' / 'demo_labelled')
  result = tiny_records.tfds_build('deepsentinel_labelled', f'--data_dir={tmp_path / "tfds"}', cwd=tmp_path)
  assert result.code == 0, result.err
  assert [p.name for p in (tmp_path / 'tfds' / 'deepsentinel_labelled').glob('[!.]*')] == ['demo']
  assert records.resolve('deepsentinel_labelled', tmp_path / 'tfds').parent.name == 'demo'


def test_killed_build_is_completed_by_the_same_command(corpus, tmp_path):
  whole = contents(build(labelled_builder, tmp_path / 'whole', manual_dir=corpus))
  data_dir = tmp_path / 'killed'
  command = (
    'import time; from deepsentinel.corpus import examples; real = examples.example\n'
    'examples.example = lambda *a: (time.sleep(0.5), real(*a))[1]\n'
    'import tensorflow_datasets as tfds\n'
    'from tfds_builders.deepsentinel_labelled import deepsentinel_labelled_dataset_builder as m\n'
    f'm.Builder(data_dir={str(data_dir)!r}, config="custom").download_and_prepare(\n'
    f'  download_config=tfds.download.DownloadConfig(manual_dir={str(corpus)!r}))'
  )
  environment = {
    **os.environ,
    'PYTHONPATH': os.pathsep.join([str(tiny_records.ROOT), os.environ.get('PYTHONPATH', '')]),
  }
  process = subprocess.Popen([sys.executable, '-c', command], env=environment, stderr=subprocess.PIPE)
  parent = data_dir / 'deepsentinel_labelled' / 'custom'
  deadline = time.monotonic() + 60
  while not list(parent.glob('incomplete.*')) and process.poll() is None and time.monotonic() < deadline:
    time.sleep(0.05)
  time.sleep(1)  # some patches in
  process.send_signal(signal.SIGKILL)
  process.wait()
  left = list(parent.glob('incomplete.*'))
  assert len(left) == 1, process.stderr.read().decode()
  again = build(labelled_builder, data_dir, manual_dir=corpus)
  assert_same(contents(again), whole)
  assert not list(parent.glob('incomplete.*'))


def test_second_build_of_the_same_version_waits_its_turn(tmp_path):
  partial = tmp_path / 'incomplete.ABCDEF_1.0.0'
  partial.mkdir()
  with (
    packaging.only_writer(partial),
    pytest.raises(ValueError, match='Another process is building into'),
    packaging.only_writer(tmp_path / 'incomplete.GHIJKL_1.0.0'),
  ):
    pass
  assert partial.is_dir()


_WRITE_ONE = """
import hashlib
import numpy as np
import tensorflow_datasets as tfds
from deepsentinel import packaging, sensors
from tensorflow_datasets.core import example_serializer

features = packaging.features(sensors.SensorSpec(), 4, labelled=True)
record = {}
for name, feature in features.items():
  if isinstance(feature, tfds.features.Text):
    record[name] = 'a'
  else:
    record[name] = np.ones(feature.shape, feature.np_dtype)
serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
print(hashlib.sha256(serializer.serialize_example(features.encode_example(record))).hexdigest())
"""


def test_every_process_writes_the_same_bytes(repository):
  """Fresh processes: protobuf orders a map by where things lie in memory."""
  runs = [
    subprocess.run([sys.executable, '-c', _WRITE_ONE], cwd=repository, capture_output=True, text=True, check=False)
    for _ in range(2)
  ]
  assert [run.returncode for run in runs] == [0, 0], runs[0].stderr
  assert runs[0].stdout == runs[1].stdout

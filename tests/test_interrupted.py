"""`kill -9` in the middle of fetching, packaging, training and embedding: the same command goes on.

Each killed command is shown to have been in the middle of its work, and its result is compared with that of a command
that was left alone.
"""

import json
import os
import pathlib
import shutil
import signal

import jax
import numpy as np
import pandas as pd
import pytest
import rasterio

from deepsentinel import corpus
from deepsentinel.data import records
from deepsentinel.train import checkpoint
from tests import commands, tiny_records, trials

PATCHES = 6
FETCH = (
  'deepsentinel.corpus', '--config=configs/corpora/demo_labelled.py', f'--config.patches={PATCHES}',
  '--config.patch_px=64', '--config.split.method=shared', '--config.workers=2',
)  # fmt: skip
# By the process that was started: no number depends on it, and a corpus may go on with another number of workers.
ALONE = '--config.workers=1'
STEPS, EVERY = 6, 2
# The programs of test_main.py, on the same records: compiled once for both.
TRAIN = (
  'deepsentinel.main', '--config=configs/quickstart.py', '--noprogress', '--config.data.crop_px=32',
  '--config.encoder.name=resnet10', '--config.encoder.width=8', '--config.pretrain.tile2vec.max_distance_km=10',
  '--config.pretrain.batch_size=4', f'--config.pretrain.duration.steps={STEPS}', '--config.finetune.batch_size=4',
  '--config.pretrain.sensor_dropout=0.3', f'--config.finetune.duration.steps={STEPS}', '--config.log_every_steps=3',
  '--config.finetune.validate_every_steps=3', '--config.evaluation.batch_size=4',
  '--config.evaluation.random_forest=False', f'--config.checkpoint.every_steps={EVERY}', '--config.checkpoint.keep=9',
)  # fmt: skip
# Four strips of 64 px.
EMBED = (
  'deepsentinel.embed', '--source=synthetic', '--bounds=12.200,52.300,12.208,52.323', '--date=2018-06-15',
  '--window_px=192', '--noprogress',
)  # fmt: skip

pytestmark = pytest.mark.slow


def succeed(*command: object) -> commands.Finished:
  finished = commands.run(*map(str, command))
  assert finished.code == 0, finished.err
  return finished


def fetched(folder: pathlib.Path) -> int:
  journal = folder / 'journal.jsonl'
  return journal.read_text().count('"done"') if journal.exists() else 0


def assert_same_corpus(a: pathlib.Path, b: pathlib.Path) -> None:
  """Patch files byte for byte, and every column of the manifest."""
  files = sorted(f.relative_to(a) for f in (a / 'patches').rglob('*') if f.is_file())
  assert files == sorted(f.relative_to(b) for f in (b / 'patches').rglob('*') if f.is_file())
  for file in files:
    assert (a / file).read_bytes() == (b / file).read_bytes(), file
  pd.testing.assert_frame_equal(corpus.Corpus(a).manifest(), corpus.Corpus(b).manifest())


@pytest.fixture(scope='module')
def whole(tmp_path_factory) -> pathlib.Path:
  """Results of commands that were left alone."""
  return tmp_path_factory.mktemp('left alone')


@pytest.fixture(scope='module')
def sampled(whole) -> pathlib.Path:
  succeed(*FETCH, ALONE, f'--out={whole}/corpus')
  return whole / 'corpus'


def build(corpus_dir: pathlib.Path, data_dir: pathlib.Path) -> tuple[str, ...]:
  builder = 'tfds_builders/deepsentinel_labelled'
  return (commands.TFDS, 'build', builder, '--config=custom', f'--data_dir={data_dir}', f'--manual_dir={corpus_dir}')


def prepared_in(data_dir: pathlib.Path) -> pathlib.Path:
  return data_dir / 'deepsentinel_labelled' / 'custom' / '1.0.0'


@pytest.fixture(scope='module')
def prepared(sampled, whole) -> pathlib.Path:
  succeed(*build(sampled, whole / 'tfds'))
  return prepared_in(whole / 'tfds')


@pytest.fixture(scope='module')
def training() -> tuple[str, ...]:
  """The command that trains, without its --workdir."""
  kinds = {kind: tiny_records.tiny_records(labelled=kind == 'labelled') for kind in ('labelled', 'unlabelled')}
  return (*TRAIN, *(f'--config.data.{kind}={prepared}' for kind, prepared in kinds.items()))


@pytest.fixture(scope='module')
def trained(training, whole) -> pathlib.Path:
  succeed(*training, f'--workdir={whole}/run')
  return whole / 'run'


def test_fetch(sampled, tmp_path):
  command, folder = (*FETCH, f'--out={tmp_path}/corpus'), tmp_path / 'corpus'
  running = commands.Running(*command)
  running.wait_until(lambda: fetched(folder) >= 2)
  running.kill()
  half = corpus.Corpus(folder)
  done = list(half.manifest().query('state == "done"')['id'])
  assert 2 <= len(done) < PATCHES
  assert not half.card['complete']
  assert 'is not sampled to its end' in commands.run(*build(folder, tmp_path / 'tfds')).error
  before = {i: trials.snapshot(folder / 'patches' / i) for i in done}
  succeed(*command, ALONE)
  assert_same_corpus(folder, sampled)
  assert {i: trials.snapshot(folder / 'patches' / i) for i in done} == before, 'a patch was fetched again'


def test_a_worker_of_the_fetch_dies(sampled, tmp_path):
  command, folder = (*FETCH, f'--out={tmp_path}/corpus'), tmp_path / 'corpus'
  running = commands.Running(*command)
  running.wait_until(lambda: fetched(folder) >= 1)
  os.kill(_workers(running.pid)[0], signal.SIGKILL)
  error = running.finish().error
  assert 'A worker process died' in error
  assert 'What was fetched is kept: run the same command again, with fewer --config.workers' in error
  done = list(corpus.Corpus(folder).manifest().query('state == "done"')['id'])
  assert 1 <= len(done) < PATCHES
  before = {i: trials.snapshot(folder / 'patches' / i) for i in done}
  succeed(*command, ALONE)
  assert_same_corpus(folder, sampled)
  assert {i: trials.snapshot(folder / 'patches' / i) for i in done} == before, 'a patch was fetched again'
  shown = 'python -m deepsentinel.corpus, and kill -9 of one of its worker processes'
  trials.check_row('Interruptions', 'a worker process dies', shown, trials.plain(error, folder, folder))


def test_ctrl_c_in_the_fetch(tmp_path):
  """Which a terminal sends to the whole group: one line, and none from the workers."""
  running = commands.Running(*FETCH, f'--out={tmp_path}/corpus')
  running.wait_until(lambda: fetched(tmp_path / 'corpus') >= 1)
  os.killpg(running.pid, signal.SIGINT)
  finished = running.finish()
  assert finished.code == 130
  assert finished.err.rstrip().endswith('Stopped; the same command goes on.')
  assert 'Traceback' not in finished.err
  assert not corpus.Corpus(tmp_path / 'corpus').card['complete']


def _workers(pid: int) -> list[int]:
  """The fetching processes below a process: its children, but for Python's resource tracker."""
  children = pathlib.Path(f'/proc/{pid}/task/{pid}/children').read_text().split()
  return [int(c) for c in children if b'spawn_main' in pathlib.Path(f'/proc/{c}/cmdline').read_bytes()]


def test_tfds_build(sampled, prepared, tmp_path):
  command, parent = build(sampled, tmp_path), prepared_in(tmp_path).parent
  running = commands.Running(*command)
  running.wait_until(lambda: any(parent.glob('incomplete.*')))
  running.kill()
  assert list(parent.glob('incomplete.*'))
  assert not prepared_in(tmp_path).exists()
  succeed(*command)
  assert not list(parent.glob('incomplete.*'))
  names = [f.name for f in prepared.glob('*.tfrecord*')]
  assert len(names) == len(records.splits(prepared)) == 3
  for name in names:
    assert (prepared_in(tmp_path) / name).read_bytes() == (prepared / name).read_bytes()
  for split in records.splits(prepared):
    a, b = records.RecordSet(prepared, split), records.RecordSet(prepared_in(tmp_path), split)
    pd.testing.assert_frame_equal(a.table, b.table)
    for field in a.fields:
      np.testing.assert_array_equal(a.read(field, range(len(a))), b.read(field, range(len(b))))
  before = trials.snapshot(tmp_path)
  succeed(*command)
  assert trials.snapshot(tmp_path) == before, 'a finished build was done again'


def checkpoints(stage: pathlib.Path) -> dict[str, int]:
  """Step -> time of the last change of a whole checkpoint of a stage."""
  folders = (stage / 'checkpoints').glob('*')
  return {f.name: f.stat().st_mtime_ns for f in folders if f.name.isdigit()}


def unfinished(stage: pathlib.Path) -> list[pathlib.Path]:
  """Checkpoints that are being written."""
  return list((stage / 'checkpoints').glob('*.orbax-checkpoint-tmp*'))


def metric_rows(stage: pathlib.Path) -> list[tuple]:
  """metrics.csv without what depends on the clock; no row stands there twice."""
  table = pd.read_csv(stage / 'metrics.csv', dtype=str)
  table = table[table['name'] != 'patches_per_s']
  assert len(table)
  assert not table.duplicated(['step', 'split', 'name']).any()
  return list(table[['step', 'epoch', 'split', 'name', 'value']].itertuples(index=False, name=None))


def scores(run: pathlib.Path) -> dict:
  test = json.loads((run / 'test.json').read_text())
  for method in test['methods'].values():
    method.pop('seconds', None)
  return test


def assert_same_run(a: pathlib.Path, b: pathlib.Path) -> None:
  """Parameters, metrics and scores, bit for bit."""
  for stage in ('pretrain', 'finetune'):
    x, y = checkpoint.load_trained(a, stage), checkpoint.load_trained(b, stage)
    assert (x.step, x.sha256) == (y.step, y.sha256)
    jax.tree.map(np.testing.assert_array_equal, x.variables, y.variables)
    assert metric_rows(a / stage) == metric_rows(b / stage)
  assert scores(a) == scores(b)


def test_pretraining_and_fine_tuning(training, trained, tmp_path):
  """Killed in pretraining while a checkpoint is written, and in fine-tuning; one run directory all along."""
  command, run = (*training, f'--workdir={tmp_path}/run'), tmp_path / 'run'
  pretrain, finetune = run / 'pretrain', run / 'finetune'

  running = commands.Running(*command)
  running.wait_until(lambda: checkpoints(pretrain).keys() >= {'2'} and bool(unfinished(pretrain)))
  running.kill()
  assert unfinished(pretrain), 'the checkpoint was written before the kill'
  first = checkpoints(pretrain)
  assert '2' in first
  assert str(STEPS) not in first
  assert not finetune.exists()

  running = commands.Running(*command)
  running.wait_until(lambda: checkpoints(finetune).keys() >= {'2'})
  running.kill()
  second = checkpoints(pretrain), checkpoints(finetune)
  assert str(STEPS) in second[0]
  assert second[0].items() >= first.items(), 'finished steps were done again'
  assert str(STEPS) not in second[1]
  assert not (run / 'test.json').exists()

  succeed(*command)
  assert checkpoints(pretrain) == second[0], 'a finished stage was done again'
  assert checkpoints(finetune).items() >= second[1].items(), 'finished steps were done again'
  assert_same_run(run, trained)


def test_embedding(trained, tmp_path):
  def command(out: str) -> tuple[str, ...]:
    return (*EMBED, f'--checkpoint={trained}', f'--out={tmp_path / out}')

  succeed(*command('whole'))
  running = commands.Running(*command('killed'))
  strips = tmp_path / 'killed' / 'strips'
  running.wait_until(lambda: len(list(strips.glob('embedding_*.npy'))) >= 1)
  running.kill()
  finished = {f.name: f.stat().st_mtime_ns for f in strips.glob('embedding_*.npy')}
  assert 1 <= len(finished) < 4
  assert not (tmp_path / 'killed' / 'embedding.tif').exists()
  running = commands.Running(*command('killed'))
  running.wait_until(lambda: len(list(strips.glob('embedding_*.npy'))) == 4)
  assert {name: (strips / name).stat().st_mtime_ns for name in finished} == finished, 'a strip was done again'
  ended = running.finish()
  assert ended.code == 0, ended.err
  assert f'{len(finished)} strips were there already' in ended.out
  with (
    rasterio.open(tmp_path / 'whole' / 'embedding.tif') as a,
    rasterio.open(tmp_path / 'killed' / 'embedding.tif') as b,
  ):
    assert a.shape[0] > 12
    assert (a.transform, a.crs, a.tags()) == (b.transform, b.crs, b.tags())
    np.testing.assert_array_equal(a.read(), b.read())
  assert not strips.exists()
  before = trials.snapshot(tmp_path / 'killed')
  succeed(*command('killed'))
  assert trials.snapshot(tmp_path / 'killed') == before, 'a finished embedding was done again'
  shutil.rmtree(tmp_path / 'whole')

"""The whole curriculum on records at a URL: as from a folder, through faults, and on after a store was away."""

import csv
import json
import pathlib
import time

import numpy as np
import pytest

from configs import quickstart
from deepsentinel import curriculum
from deepsentinel.corpus import publish
from tests import commands, tiny_records
from tests.sources import loopback

STEPS = 12
FLAGS = [
  '--config=configs/quickstart.py', '--noprogress',
  *(f'--config.{key}={value}' for key, value in {
    'data.labelled': 'deepsentinel_labelled/custom', 'data.unlabelled': 'deepsentinel_unlabelled/custom',
    'data.crop_px': 32, 'encoder.name': 'resnet10', 'encoder.width': 8, 'pretrain.batch_size': 4,
    'pretrain.duration.steps': STEPS, 'pretrain.tile2vec.max_distance_km': 10, 'finetune.batch_size': 4,
    'finetune.duration.steps': 3, 'finetune.validate_every_steps': 2, 'evaluation.batch_size': 4,
    'evaluation.random_forest': False, 'log_every_steps': 3,
  }.items()),
]  # fmt: skip


@pytest.fixture(scope='module')
def server(tmp_path_factory):
  """A web server that has the records of a folder, which were published into it."""
  folder = tmp_path_factory.mktemp('www')
  for labelled in (True, False):
    prepared = tiny_records.tiny_records(labelled=labelled)
    publish.publish(prepared, str(folder.joinpath(*prepared.parts[-3:])), progress=False)
  with loopback.Server(folder).running() as server:
    yield server


@pytest.fixture(scope='module')
def expected(server, tmp_path_factory) -> tuple[dict, dict]:
  """What a run from the folder comes to."""
  workdir = tmp_path_factory.mktemp('runs') / 'folder'
  finished = commands.run(
    'deepsentinel.main', *FLAGS, f'--config.data.data_dir={server.folder}', f'--workdir={workdir}'
  )
  assert finished.code == 0, finished.err
  return results(workdir)


def results(workdir: pathlib.Path) -> tuple[dict, dict]:
  """(what was trained, with the checksums of all parameters; the test scores), without what a clock says."""
  stages = json.loads((workdir / 'experiment.json').read_text())['stages']
  methods = json.loads((workdir / 'test.json').read_text())['methods']
  for part in (*stages.values(), *methods.values()):
    part.pop('seconds')
  return stages, methods


def state(folder: pathlib.Path) -> list[tuple[str, int]]:
  return [(str(p.relative_to(folder)), p.stat().st_mtime_ns) for p in sorted(folder.rglob('*'))]


def test_downloaded_records_are_read_from_the_copy(server, tmp_path, monkeypatch):
  monkeypatch.setenv('DEEPSENTINEL_CACHE', str(tmp_path))
  server.faults = []
  config = quickstart.get_config()
  config.data.labelled, config.data.data_dir = 'deepsentinel_labelled/custom', f'{server.url}/data'
  config.data.crop_px, config.data.download, config.pretrain.objective = 32, True, 'none'
  opened = curriculum.open_data(config.to_dict(), progress=False).labelled
  assert set(opened) == {'train', 'validation', 'test'}
  asked = server.seen['GET']
  assert asked > 0
  for split in opened.values():
    assert split.directory.parent == tmp_path / 'records'
    assert split.read('s2', np.arange(len(split))).any()
  assert server.seen['GET'] == asked


@pytest.mark.slow
def test_a_run_whose_store_goes_away_and_stumbles_ends_as_one_from_the_folder(server, expected, tmp_path):
  """What it has is kept; the same command goes on, through faults, and writes nothing to the store."""
  before = state(server.folder)
  url, workdir = f'{server.url}/data', tmp_path / 'run'
  command = ('deepsentinel.main', *FLAGS, f'--config.data.data_dir={url}', f'--workdir={workdir}')
  server.faults, server.latency_s = [], 0.05
  running = commands.Running(*command, DEEPSENTINEL_CACHE=str(tmp_path / 'cache'))
  metrics = workdir / 'pretrain' / 'metrics.csv'
  running.wait_until(lambda: metrics.exists() and '\n3,' in metrics.read_text())
  server.faults = [['^/data/.*tfrecord', 'status:403', 10**6]]
  failed = running.finish()
  assert failed.error.startswith(f'error: {url}/deepsentinel_unlabelled/custom/1.0.0/deepsentinel_unlabelled-train.tfr')
  assert 'is not open to this account (403' in failed.error
  (saved,) = (workdir / 'pretrain' / 'checkpoints').glob('[0-9]*')  # of no round number: when the store went away
  assert 3 <= int(saved.name) < STEPS
  server.latency_s = 0.0
  server.faults = [['^/data/.*tfrecord', fault, 1] for fault in ('status:500', 'reset', 'truncated', 'status:429') * 2]
  began = time.time()
  finished = commands.run(*command, DEEPSENTINEL_CACHE=str(tmp_path / 'cache'))
  assert finished.code == 0, finished.err
  assert not any(count for _, _, count in server.faults)
  assert results(workdir) == expected
  assert state(server.folder) == before
  page = (workdir / 'report.html').read_text()
  assert 'Not on the map' not in page  # the page reads the corpora where they lie
  assert 'tfds build' not in page
  assert saved.stat().st_mtime < began
  with metrics.open() as file:
    steps = [int(row['step']) for row in csv.DictReader(file) if row['name'] == 'loss']
  assert steps == sorted(set(steps))

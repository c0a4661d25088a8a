"""The probe during training: in the metrics, the same after a resume, and nothing of the training changed by it."""

import csv

import jax
import numpy as np
import pytest

from deepsentinel import legend
from deepsentinel.evaluation import during
from deepsentinel.train import checkpoint, loop, state
from tests.data import memory_records
from tests.train import tiny_model

TARGET = legend.target('corine_level1')
ARABLE, SEA = (legend.CORINE_INDEX[code] for code in (211, 523))


@pytest.fixture(scope='module')
def records():
  rng = np.random.default_rng(0)
  kind = rng.integers(0, 2, (20, 3, 3)).repeat(16, 1).repeat(16, 2)
  s2 = (np.where(kind == 1, 400, 3000)[..., None] + rng.integers(0, 200, (20, 48, 48, 3))).astype(np.uint16)
  s1 = rng.integers(-2500, -500, (20, 48, 48, 2)).astype(np.int16)
  corine = np.where(kind == 1, SEA, ARABLE).astype(np.uint8)
  return memory_records.MemoryRecords(
    count=20, patch_px=48, spec=tiny_model.SPEC, labelled=True, split='validation',
    arrays={'s2': s2, 's1': s1, 'corine': corine},
  )  # fmt: skip


def _probe(records):
  module = tiny_model.TinyLabels(tiny_model.TinyEncoder(4))
  return during.of_labels(module, tiny_model.prepare(labels=True), records, TARGET, 48)


def _stage(directory, records, probed, **changes):
  more = {'probe': lambda: _probe(records), 'probe_every': 2} if probed else {}
  return tiny_model.stage(directory, total_steps=5, **more, **changes)


def _end(stage):
  like = state.create(stage.initial_variables(), stage.optimiser)
  checkpoints = checkpoint.Checkpoints(stage.directory / 'checkpoints', stage.about)
  try:
    return checkpoints.restore(like)[1]['sha256_all']
  finally:
    checkpoints.close()


def _rows(directory):
  with (directory / 'metrics.csv').open() as file:
    rows = list(csv.DictReader(file))
  return {(int(r['step']), r['name']): r['value'] for r in rows if r['split'] == 'probe'}


@pytest.fixture(scope='module')
def probed(records, tmp_path_factory):
  stage = _stage(tmp_path_factory.mktemp('probed'), records, True)
  loop.train(stage, progress_bar=False)
  return stage


def test_scores_stand_beside_the_loss(probed):
  rows = _rows(probed.directory)
  assert {step for step, _ in rows} == {2, 4, 5}
  names = {'linear_weighted_iou', 'knn_weighted_iou', 'effective_rank', 'alignment', 'uniformity', 'dead_share'}
  assert {name for _, name in rows} == names
  assert float(rows[5, 'linear_weighted_iou']) > 0.9  # brightness tells the classes apart
  assert 0 < float(rows[5, 'effective_rank']) <= 4


def test_the_training_ends_with_the_same_arrays(probed, records, tmp_path):
  plain = _stage(tmp_path, records, False)
  loop.train(plain, progress_bar=False)
  assert _end(plain) == _end(probed)
  assert _rows(tmp_path) == {}


def test_a_resumed_run_has_the_same_rows(probed, records, tmp_path):
  def until_killed(step):
    for number, batch in enumerate(tiny_model.training(8, 1, labels=True)(step)):
      if step + number == 3:
        raise RuntimeError('killed')
      yield batch

  with pytest.raises(RuntimeError, match='killed'):
    loop.train(_stage(tmp_path, records, True, training=until_killed), progress_bar=False)
  resumed = _stage(tmp_path, records, True)
  loop.train(resumed, progress_bar=False)
  assert _rows(tmp_path) == _rows(probed.directory)
  assert _end(resumed) == _end(probed)


def test_it_is_a_function_of_the_variables(records):
  probe, fresh = _probe(records), jax.device_get(tiny_model.variables(tiny_model.TinyLabels(tiny_model.TinyEncoder(4))))
  assert probe(fresh) == probe(fresh) == _probe(records)(fresh)
  spoilt = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), fresh)
  assert probe(spoilt) == {}  # the loop says what is wrong with such a model


def test_validation_without_labels_is_refused():
  empty = memory_records.MemoryRecords(
    count=4, patch_px=48, spec=tiny_model.SPEC, labelled=True, arrays={'corine': np.zeros((4, 48, 48), np.uint8)}
  )
  with pytest.raises(ValueError, match='too few have a label of CORINE level 1'):
    _probe(empty)

import csv
import errno
import os
import shutil
import signal
import struct

import flax.struct
import jax
import numpy as np
import optax
import pytest
from tensorboardX.proto import event_pb2

from deepsentinel import sensors
from deepsentinel.evaluation import metrics as metrics_lib
from deepsentinel.train import checkpoint, loop, parallel, state
from tests.train import tiny_model


def _final(stage: loop.Stage) -> tuple[state.TrainState, dict]:
  """The newest checkpoint of a stage."""
  like = state.create(stage.initial_variables(), stage.optimiser)
  checkpoints = checkpoint.Checkpoints(stage.directory / 'checkpoints', stage.about)
  try:
    return checkpoints.restore(like)
  finally:
    checkpoints.close()


def _rows(stage: loop.Stage) -> list[tuple]:
  """metrics.csv without what depends on the clock."""
  with (stage.directory / 'metrics.csv').open() as file:
    rows = list(csv.DictReader(file))
  return [(r['step'], r['epoch'], r['split'], r['name'], r['value']) for r in rows if r['name'] != 'patches_per_s']


def _validation():
  """Two batches of 8, of which the last has 3 examples of padding."""
  for step, used in ((100, 8), (101, 5)):
    batch = tiny_model.host_batch(step, 8, 1, labels=True)
    yield {**batch, 'mask': np.arange(8) < used}


def _assert_same_arrays(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_four_steps_equal_two_then_two(tmp_path, caplog):
  whole = tiny_model.stage(tmp_path / 'whole', validation=_validation, validate_every=2)
  assert loop.train(whole, progress_bar=False).steps == 4
  assert caplog.text.count('Here is what to change, at a loss of') == 1  # the objective's, after the last step
  halves = tiny_model.stage(tmp_path / 'halves', validation=_validation, validate_every=2)
  killed = RuntimeError('killed')

  def training_until_killed(step):
    for number, batch in enumerate(tiny_model.training(8, 1, labels=True)(step)):
      if step + number == 3:  # step 2 is running, the checkpoint of step 2 is saved
        raise killed
      yield batch

  with pytest.raises(RuntimeError, match='killed'):
    loop.train(tiny_model.stage(
      tmp_path / 'halves', validation=_validation, validate_every=2, training=training_until_killed
    ), progress_bar=False)  # fmt: skip
  assert int(_final(halves)[0].step) == 2
  loop.train(halves, progress_bar=False)
  (state_a, progress_a), (state_b, progress_b) = _final(whole), _final(halves)
  _assert_same_arrays(state_a, state_b)
  assert progress_a['sha256_all'] == progress_b['sha256_all']
  assert progress_a['best'] == progress_b['best']
  assert _rows(whole) == _rows(halves)
  assert len(set(_rows(whole))) == len(_rows(whole))


def _pictures_on_the_board(directory) -> list[tuple[int, str]]:
  """(step, tag) of the pictures in TensorBoard's files, which are records of length, checksum, event, checksum."""
  found = []
  for path in directory.glob('tensorboard/*'):
    content, at = path.read_bytes(), 0
    while at < len(content):
      (length,) = struct.unpack_from('<Q', content, at)
      event = event_pb2.Event.FromString(content[at + 12 : at + 12 + length])
      found += [(event.step, value.tag) for value in event.summary.value if value.HasField('image')]
      at += 16 + length
  return found


@pytest.mark.parametrize(('validates', 'steps'), [(True, [1, 2, 3, 4]), (False, [2, 4])])
def test_pictures_at_each_validation_or_else_at_each_checkpoint(tmp_path, validates, steps):
  settings = {'validation': _validation, 'validate_every': 1} if validates else {}
  drawn = []

  def draw(variables, step):
    drawn.append((step, sorted(variables)))
    return {'sheet': np.zeros((4, 4, 3), np.uint8)}

  loop.train(tiny_model.stage(tmp_path, pictures=lambda: draw, **settings), progress_bar=False)
  assert drawn == [(step, ['batch_stats', 'params']) for step in steps]
  assert _pictures_on_the_board(tmp_path) == [(step, 'sheet') for step in steps]


def test_too_little_memory_names_the_keys(tmp_path):
  stage = tiny_model.stage(tmp_path, initial_variables=lambda: jax.numpy.ones(1 << 44))
  mend = r'too little memory: Out of memory allocating \d+ bytes. Raise --config.finetune.accumulate \(now 1\)'
  with pytest.raises(ValueError, match=mend):
    loop.train(stage, progress_bar=False)


def test_damaged_newest_checkpoint_falls_back(tmp_path, caplog):
  stage = tiny_model.stage(tmp_path / 'a')
  loop.train(stage, progress_bar=False)
  whole, _ = _final(stage)
  rows = _rows(stage)
  folder = stage.directory / 'checkpoints'
  assert sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) == [2, 4]
  largest = max((p for p in (folder / '4').rglob('*') if p.is_file()), key=lambda p: p.stat().st_size)
  largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
  shutil.copytree(folder / '2', folder / '6.orbax-checkpoint-tmp')  # what a kill leaves in the middle of a save
  assert int(_final(stage)[0].step) == 2
  assert 'is damaged' in caplog.text
  assert (stage.directory / 'damaged' / '4').is_dir()  # nothing is destroyed
  loop.train(stage, progress_bar=False)
  _assert_same_arrays(_final(stage)[0], whole)
  assert _rows(stage) == rows


def test_a_disk_that_cannot_be_read_costs_no_checkpoint(tmp_path, monkeypatch):
  stage = tiny_model.stage(tmp_path / 'a')
  loop.train(stage, progress_bar=False)
  before = sorted(path.name for path in (stage.directory / 'checkpoints').iterdir())

  def unreadable(self, step):
    raise OSError(errno.ESTALE, 'Stale file handle')

  with monkeypatch.context() as patched:
    patched.setattr(checkpoint.Checkpoints, '_read', unreadable)
    with pytest.raises(OSError, match='Stale file handle'):
      _final(stage)
  assert sorted(path.name for path in (stage.directory / 'checkpoints').iterdir()) == before
  assert int(_final(stage)[0].step) == 4


def test_a_file_that_the_system_refuses_costs_no_checkpoint(tmp_path):
  """TensorStore says it as a ValueError, as it says that a file is damaged."""
  stage = tiny_model.stage(tmp_path / 'pretrain')
  loop.train(stage, progress_bar=False)
  folder = stage.directory / 'checkpoints'
  before = sorted(path.name for path in folder.iterdir())
  kept = {}
  for path in folder.rglob('d/*'):
    kept[path] = path.read_bytes()
    path.unlink()
    path.symlink_to(path.name)  # a loop of links: opening it fails, whoever tries
  for read in (lambda: _final(stage), lambda: checkpoint.load_trained(stage.directory)):
    with pytest.raises(OSError, match=r'Too many levels of symbolic links.*left as they are'):
      read()
  assert sorted(path.name for path in folder.iterdir()) == before
  for path, content in kept.items():
    path.unlink()
    path.write_bytes(content)
  assert int(_final(stage)[0].step) == 4


def test_changed_numbers_are_found(tmp_path, monkeypatch):
  """Damage that leaves a readable file: the digests do not fit."""
  stage = tiny_model.stage(tmp_path / 'a')
  written = checkpoint.digest
  monkeypatch.setattr(checkpoint, 'digest', lambda tree: written(jax.tree.map(lambda leaf: leaf + 1, tree)))
  loop.train(stage, progress_bar=False)
  monkeypatch.setattr(checkpoint, 'digest', written)
  assert _final(stage) is None


def test_nan_loss_raises_and_keeps_the_last_good_checkpoint(tmp_path):
  def huge(step):
    for number, batch in enumerate(tiny_model.training(8, 1, labels=True)(step)):
      yield batch if step + number != 3 else {**batch, 's1': np.full_like(batch['s1'], 7)}

  class Prepare(flax.struct.PyTreeNode):
    def __call__(self, batch, step, *, train, first=0):
      inputs = tiny_model.prepare(labels=True)(batch, step, train=train, first=first)
      broken = (batch['s1'] == 7).all(axis=(1, 2, 3, 4))
      return {**inputs, 'images': inputs['images'] * jax.numpy.where(broken, np.nan, 1)[:, None, None, None, None]}

  stage = tiny_model.stage(tmp_path / 'a', training=huge, prepare=Prepare(), total_steps=8, save_every=1)
  with pytest.raises(loop.NotFiniteError, match=r'loss is nan at step 4 .* checkpoint is step 3 .*learning_rate'):
    loop.train(stage, progress_bar=False)
  restored, _ = _final(stage)
  assert int(restored.step) == 3
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(restored.params))


def test_sigterm_saves_and_the_same_call_goes_on(tmp_path):
  def terminated(step):
    for number, batch in enumerate(tiny_model.training(8, 1, labels=True)(step)):
      if step + number == 2:
        os.kill(os.getpid(), signal.SIGTERM)
      yield batch

  before = signal.getsignal(signal.SIGTERM)
  whole = tiny_model.stage(tmp_path / 'whole', save_every=100)
  loop.train(whole, progress_bar=False)
  stopped = tiny_model.stage(tmp_path / 'stopped', save_every=100, training=terminated)
  with pytest.raises(SystemExit) as exit_:
    loop.train(stopped, progress_bar=False)
  assert exit_.value.code == 128 + signal.SIGTERM
  assert signal.getsignal(signal.SIGTERM) == before
  assert int(_final(stopped)[0].step) in (1, 2)
  loop.train(tiny_model.stage(tmp_path / 'stopped', save_every=100), progress_bar=False)
  _assert_same_arrays(_final(whole)[0], _final(stopped)[0])
  assert _rows(whole) == _rows(stopped)


def test_checkpoint_of_another_contract(tmp_path):
  stage = tiny_model.stage(tmp_path / 'a', total_steps=1)
  loop.train(stage, progress_bar=False)
  other = sensors.SensorSpec(tiny_model.SPEC.bands, s1_quantity='gamma0_terrain')
  with pytest.raises(ValueError, match='radar quantity sigma0_ellipsoid against gamma0_terrain'):
    loop.train(tiny_model.stage(tmp_path / 'a', about=tiny_model.describe(spec=other)), progress_bar=False)


def test_early_stopping_keeps_the_best(tmp_path):
  """A learning rate far too high: the loss of the first validation is never reached again."""
  stage = tiny_model.stage(
    tmp_path / 'a', validation=_validation, patience_epochs=2, total_steps=40, optimiser=optax.sgd(50.0),
    save_every=100, keep=1,
  )  # fmt: skip
  outcome = loop.train(stage, progress_bar=False)
  assert outcome.stopped_early
  assert outcome.steps < 40
  steps = sorted(int(p.name) for p in (stage.directory / 'checkpoints').iterdir() if p.name.isdigit())
  assert steps == sorted({outcome.best['step'], outcome.steps})
  assert stage.epoch(outcome.steps) - outcome.best['epoch'] >= 2
  validations = {int(r[0]): float(r[4]) for r in _rows(stage) if r[2:4] == ('validation', 'loss')}
  assert outcome.best['loss'] == min(validations.values())
  again = loop.train(stage, progress_bar=False)
  assert (again.steps, again.best, again.stopped_early) == (outcome.steps, outcome.best, True)


def test_evaluation_counts_each_pixel_once():
  """Against a plain NumPy pass over the same pixels, padding and uncounted pixels left out."""
  module = tiny_model.TinyLabels(tiny_model.TinyEncoder(4))
  variables = tiny_model.variables(module)
  prepare = tiny_model.prepare(labels=True)
  counted = np.zeros((8, 32, 32), bool)
  counted[:, :, 7:] = True
  batches = [{**batch, 'count': counted} for batch in _validation()]
  means, confusions = loop.evaluator(module, prepare, classes=5)(parallel.replicate(variables), batches, None)

  label, prediction, losses = [], [], []
  for batch in batches:
    ready = prepare({k: v for k, v in batch.items() if k not in ('mask', 'count')}, 0, train=False)
    logits = np.asarray(module.apply(variables, ready, method='predict'), np.float64)
    keep = batch['mask'][:, None, None] & counted & (np.asarray(ready['labels']) >= 0)
    label.append(np.asarray(ready['labels'])[keep])
    prediction.append(logits.argmax(-1)[keep])
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    losses.append(-np.take_along_axis(log_p[keep], label[-1][:, None], -1))
  expected = metrics_lib.confusion_matrix(np.concatenate(label), np.concatenate(prediction), 5)
  np.testing.assert_array_equal(confusions.sum(0), expected)
  assert len(confusions) == sum(len(batch['mask']) for batch in batches)
  np.testing.assert_allclose(means['loss'], np.concatenate(losses).mean(), rtol=1e-5)


def test_a_profile_holds_a_trace(tmp_path):
  stage = tiny_model.stage(tmp_path / 'a', total_steps=6)
  loop.train(stage, progress_bar=False, profile=True)
  assert list((stage.directory / 'profile').rglob('*.xplane.pb'))


def test_batch_must_divide(tmp_path):
  with pytest.raises(ValueError, match='Batch size 6 does not divide over 4 devices; nearest that do: 4, 8'):
    loop.train(tiny_model.stage(tmp_path, batch_size=6), progress_bar=False)

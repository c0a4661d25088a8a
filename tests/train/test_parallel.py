import socket

import jax
import numpy as np
import pytest

from deepsentinel.train import parallel
from tests import commands


def _free_port() -> int:
  with socket.socket() as listener:
    listener.bind(('127.0.0.1', 0))
    return listener.getsockname()[1]


def test_gradients_do_not_depend_on_devices_and_processes(tmp_path):
  port = _free_port()
  layouts = {'one': (1, 1, 0), 'four': (4, 1, 0), 'first of two': (2, 2, 0), 'second of two': (2, 2, 1)}
  runs = {
    name: commands.Running('tests.train.gradient_worker', *layout, port, tmp_path / f'{name}.npz')
    for name, layout in layouts.items()
  }
  results = {}
  for name, run in runs.items():
    ended = run.finish()
    assert ended.code == 0, f'{name}:\n{ended.err}'
    results[name] = dict(np.load(tmp_path / f'{name}.npz'))
  one = results.pop('one')
  gradients = [key for key in one if "['gradient']" in key]
  for model in ('tile2vec', 'near infonce', 'triplet', 'infonce', 'vae', 'labels'):
    largest = max(np.abs(one[key]).max() for key in gradients if key.startswith(model))
    assert largest > 1e-3
    for key in (k for k in one if k.startswith(model)):
      scale = largest if key in gradients else np.abs(one[key]).max()
      for name, other in results.items():
        assert np.abs(other[key] - one[key]).max() <= 1e-5 * scale, (name, key)


def test_an_error_on_one_process_ends_all():
  port = _free_port()
  runs = [commands.Running('tests.train.failing_worker', process, port) for process in (0, 1)]
  failed, waited = (run.finish(limit_s=100) for run in reversed(runs))
  assert failed.code == 1
  assert failed.error == 'error: The records are not there. Bring them.'
  assert waited.code not in (0, None)


def test_processes_agree_on_a_number_that_only_rises(monkeypatch):
  asked = []
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  monkeypatch.setattr('jax.experimental.multihost_utils.reached_preemption_sync_point', asked.append)
  for _ in range(3):
    parallel.stop_agreed(False)
  assert asked == [asked[0], asked[0] + 1, asked[0] + 2]


@pytest.mark.parametrize(
  ('batch_size', 'devices', 'nearest'), [(500, 8, '496, 504'), (3, 4, '4'), (0, 2, '2'), (1023, 8, '1016, 1024')]
)
def test_batch_that_does_not_divide(batch_size, devices, nearest):
  with pytest.raises(ValueError) as error:
    parallel.check_batch_size(batch_size, devices)
  assert str(error.value) == (
    f'Batch size {batch_size} does not divide over {devices} devices; nearest that do: {nearest}.'
  )


def test_parts_that_do_not_divide():
  with pytest.raises(ValueError, match=r'holds 6 examples of a batch of 12, .*accumulate=4 .* do: 1, 2, 3, 6. '):
    parallel.check_batch_size(12, 2, key='pretrain.batch_size', parts=4)


def test_batch_that_divides():
  parallel.check_batch_size(496, 8)


def test_shard_and_replicate_round_trip():
  batch = {'x': np.arange(24, dtype=np.uint16).reshape(8, 3)}
  placed = parallel.shard(batch)
  assert placed['x'].shape == (jax.local_device_count(), 8 // jax.local_device_count(), 3)
  np.testing.assert_array_equal(parallel.unshard(placed)['x'], batch['x'])
  tree = {'a': np.float32(3), 'b': np.arange(4)}
  back = parallel.unreplicate(parallel.replicate(tree))
  np.testing.assert_array_equal(back['b'], tree['b'])
  assert back['a'].shape == ()


def test_gather_keeps_the_order_of_the_global_batch():
  batch = np.arange(8, dtype=np.float32).reshape(8, 1)
  gathered = parallel.parallelise(lambda x: parallel.gather(x))(parallel.shard(batch))
  for replica in np.asarray(gathered):
    np.testing.assert_array_equal(replica, batch)


def test_half_named_processes():
  with pytest.raises(ValueError, match='no coordinator'):
    parallel.initialise('', 2, 0)
  with pytest.raises(ValueError, match='--processes and --process'):
    parallel.initialise('127.0.0.1:1', 2, -1)


@pytest.mark.parametrize('given', [('auto',), ('127.0.0.1:1', 2, 0)])
def test_processes_wait_for_the_one_that_writes_the_report(given, monkeypatch):
  seen = {}
  monkeypatch.setattr(parallel.jax.distributed, 'initialize', lambda *_, **options: seen.update(options))
  monkeypatch.setattr(parallel.jax.config, 'update', lambda *_: None)
  parallel.initialise(*given)
  assert seen['shutdown_timeout_seconds'] >= 3600

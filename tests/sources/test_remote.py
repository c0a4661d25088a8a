"""Patience: how often, how long and for whom a platform is asked again, on a server on loopback."""

import time

import pytest
import requests
import tenacity

from deepsentinel.sources import remote
from tests.sources import loopback


@pytest.fixture
def server(tmp_path):
  (tmp_path / 'file').write_bytes(bytes(range(100)))
  here = loopback.Server(tmp_path)
  with here.running():
    yield here


def read(server, attempts=2, timeout_s=5.0):
  return remote.Client(attempts, timeout_s).read(f'{server.url}/data/file', 10, 19)


def test_waits_grow_exponentially_and_differ():
  waits = []
  for _ in range(20):
    retry = remote.retry(8)
    found = []
    for _ in range(4):
      retry = retry.increment('GET', '/', response=None, error=requests.ConnectionError())
      found.append(retry.get_backoff_time())
    waits.append(found)
  for least, drawn in zip((0, 1, 2, 4), zip(*waits, strict=True), strict=True):  # urllib3 asks again at once, once
    assert all(least <= wait <= least + 0.5 for wait in drawn)
    assert least == 0 or len(set(drawn)) > 15, 'all processes would come back at the same moment'
  # Those that wait for an answer that broke off: from nothing up to a bound that doubles.
  again = remote.again(8)
  state = tenacity.RetryCallState(again, None, (), {})
  for number in (1, 3, 5):
    state.attempt_number = number
    drawn = [again.wait(state) for _ in range(50)]
    assert max(drawn) <= 0.5 * 2 ** (number - 1) < 5 * max(drawn)
    assert len(set(drawn)) > 40


def test_retry_after_is_heeded(server):
  server.faults = [['file', 'status:429', 2]]  # with Retry-After: 1
  start = time.monotonic()
  assert read(server, attempts=3) == (bytes(range(10, 20)), 100)
  assert time.monotonic() - start >= 2
  assert server.seen['GET'] == 3


@pytest.mark.parametrize(
  ('fault', 'kind', 'asked', 'says'),
  [
    ('status:429', remote.QuotaError, 2, r'429 Too Many Requests in 2 attempts\. Fewer --config\.workers'),
    ('status:400', remote.BadRequest, 1, r'400 Bad Request\.'),
    ('status:403', remote.Denied, 1, 'is not open to this request'),
    ('status:503', remote.NoAnswer, 2, '503 Service Unavailable in 2 attempts'),
    ('slow', remote.NoAnswer, 2, 'gave no whole answer in 2 attempts .*timed out'),
    ('truncated', remote.NoAnswer, 2, 'gave no whole answer in 2 attempts'),
  ],
)
def test_quotas_bad_requests_and_silence_are_told_apart(server, fault, kind, asked, says):
  server.faults, server.slow_s = [['file', fault, 9]], 2.0
  with pytest.raises(ValueError, match=says) as error:
    read(server, timeout_s=0.3)
  assert type(error.value) is kind
  assert server.seen['GET'] == asked

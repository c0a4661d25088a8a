import os
import signal
import time

import pytest

from deepsentinel.corpus.pool import Pool


def interrupt(pid: int, number: int) -> None:
  if number:
    os.kill(pid, number)
  else:
    time.sleep(1)


def test_a_ctrl_c_is_raised_where_no_lock_of_the_executor_is_taken():
  with Pool(2) as pool, pytest.raises(KeyboardInterrupt) as raised:
    list(pool.results(interrupt, [(os.getpid(), signal.SIGINT), (os.getpid(), 0)]))
  assert (raised.traceback[-1].path.name, raised.traceback[-1].name) == ('pool.py', 'results')
  assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_workers_are_deaf_to_ctrl_c_from_their_start():
  with Pool(2) as pool:
    for mask in pool.results(signal.pthread_sigmask, [(signal.SIG_BLOCK, ())] * 2):
      assert signal.SIGINT in mask
  assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())

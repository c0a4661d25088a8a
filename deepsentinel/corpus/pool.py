"""The processes that do a corpus' work: searching and fetching, as many at a time as a platform likes."""

import collections
import concurrent.futures
import contextlib
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any

_QUEUED_PER_WORKER = 4  # enough that none waits, few enough that little is lost


def _follow_parent() -> None:
  """Leaves a Ctrl-C to the process that started this worker, and ends the worker with it, however that ends."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)

  def watch(parent):
    parent.join()
    os._exit(1)

  parent = multiprocessing.parent_process()
  if parent is not None:
    threading.Thread(target=watch, args=(parent,), daemon=True).start()


@contextlib.contextmanager
def _ctrl_c_noted(ended: queue.SimpleQueue) -> Iterator[None]:
  """Within it a Ctrl-C is a None in the queue.

  A KeyboardInterrupt, which is raised wherever the main thread is, may leave a lock of the executor taken; the
  executor's end would then wait for ever.
  """
  raised_here = threading.current_thread() is threading.main_thread()
  if not raised_here or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
    yield
    return
  signal.signal(signal.SIGINT, lambda *_: ended.put(None))
  try:
    yield
  finally:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def _ctrl_c_blocked() -> Iterator[None]:
  """Within it a Ctrl-C waits; a process that is started never sees one, not even before it can ignore it."""
  before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
  try:
    yield
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Pool:
  """`workers` processes, started when there is work for two; with one, this process works itself.

  A context: at its end the processes end.
  """

  def __init__(self, workers: int):
    self.workers = workers
    self._executor: concurrent.futures.ProcessPoolExecutor | None = None

  def __enter__(self) -> 'Pool':
    return self

  def __exit__(self, *error: Any) -> None:
    if self._executor is not None:
      self._executor.shutdown(cancel_futures=True)

  def results(self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
    """What `function` gives for each of `calls`, its arguments, in the order in which they are ready.

    Raises:
      ValueError: a process died.
    """
    if self.workers < 2 or (len(calls) < 2 and self._executor is None):
      for call in calls:
        yield function(*call)
      return
    if self._executor is None:
      context = multiprocessing.get_context('spawn')  # forked GDAL and PROJ handles are not safe to use
      self._executor = concurrent.futures.ProcessPoolExecutor(self.workers, context, _follow_parent)
    waiting = collections.deque(calls)
    running: set[concurrent.futures.Future] = set()
    ended: queue.SimpleQueue[concurrent.futures.Future | None] = queue.SimpleQueue()
    try:
      while waiting or running:
        with _ctrl_c_noted(ended):
          while waiting and len(running) < self.workers * _QUEUED_PER_WORKER:
            with _ctrl_c_blocked():
              future = self._executor.submit(function, *waiting.popleft())
            future.add_done_callback(ended.put)
            running.add(future)
          ready = ended.get()
        if ready is None:
          raise KeyboardInterrupt
        running.remove(ready)
        yield ready.result()
    except BrokenProcessPool as e:
      raise ValueError(
        f'A worker process died ({e}); most often the memory was too small. What was fetched is kept: '
        'run the same command again, with fewer --config.workers.'
      ) from e
    finally:
      for future in running:
        future.cancel()

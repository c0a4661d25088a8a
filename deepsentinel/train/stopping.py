"""Leaving the training loop when the process is told to end."""

import signal
import threading


class StopRequest:
  """Notes SIGTERM and the first Ctrl-C, so that the loop can save; a second signal ends the process at once.

  With several processes JAX's own service watches for SIGTERM, and the processes agree on the step to stop at.
  """

  def __init__(self, processes: int):
    self.number = 0
    main_thread = threading.current_thread() is threading.main_thread()
    self._signals = (signal.SIGTERM, signal.SIGINT) if main_thread and processes == 1 else ()

  def __enter__(self):
    self._before = {number: signal.signal(number, self._note) for number in self._signals}
    return self

  def _note(self, number, frame):
    self.number = number
    signal.signal(number, signal.SIG_DFL)

  def __exit__(self, *error):
    for number, handler in self._before.items():
      signal.signal(number, handler)

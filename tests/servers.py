"""Servers on loopback, in processes of their own."""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence


def free_port() -> int:
  with socket.socket() as s:
    s.bind(('127.0.0.1', 0))
    return s.getsockname()[1]


def wait_for(port: int, process: subprocess.Popen) -> None:
  for _ in range(600):
    assert process.poll() is None, 'the server did not start'
    with socket.socket() as s:
      if s.connect_ex(('127.0.0.1', port)) == 0:
        return
    time.sleep(0.05)
  raise AssertionError('the server does not answer')


@contextlib.contextmanager
def serving(command: Sequence[str], port: int, cwd: pathlib.Path, **environment: str) -> Iterator[None]:
  """A server, with what it starts, from when it answers until the block ends."""
  process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=cwd,
                             env={**os.environ, **environment}, start_new_session=True)  # fmt: skip
  try:
    wait_for(port, process)
    yield
  finally:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()

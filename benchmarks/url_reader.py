"""Batches a second of records at a URL: range reads of the crops, and the whole shards downloaded first.

  python benchmarks/url_reader.py [--records=150] [--batches=20] [--latency_ms=20] [--mbit=1000] [--repeats=3]

A web server on loopback, in a process of its own, answers each request after --latency_ms; all its replies share a line
of --mbit. Both ways deliver the same batches of 64 crops of 128 px of 's2' and 's1': `RecordSet` of the URL, and
fsspec's `get` of the shards, eight at a time, with `RecordSet` of the folder after it. They alternate. Who reads each
record often is faster with the shards downloaded: the last line says from how many epochs on.
"""

import argparse
import functools
import http.server
import multiprocessing
import os
import pathlib
import re
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import fsspec
import numpy as np
import patchformats
import patchreaders
import sidebyside

from deepsentinel.data import records

_PIECE = 64 << 10


class _Line:
  """A line of so many bytes a second, shared by all who send."""

  def __init__(self, bytes_per_s: float):
    self._bytes_per_s, self._free_at, self._lock = bytes_per_s, 0.0, threading.Lock()

  def pass_on(self, count: int) -> None:
    with self._lock:
      self._free_at = max(self._free_at, time.monotonic()) + count / self._bytes_per_s
      wait = self._free_at - time.monotonic()
    time.sleep(max(wait, 0))


class _Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = 'HTTP/1.1'

  def __init__(self, folder: pathlib.Path, latency_s: float, line: _Line, *arguments: Any):
    self.folder, self.latency_s, self.line = folder, latency_s, line
    super().__init__(*arguments)

  def log_message(self, format: str, *arguments: Any) -> None:
    pass

  def do_GET(self) -> None:
    time.sleep(self.latency_s)
    path = self.folder / self.path.strip('/')
    if not path.is_file():
      self.send_error(404)
      return
    size = path.stat().st_size
    asked = re.fullmatch(r'bytes=(\d+)-(\d+)', self.headers.get('Range') or '')
    first, last = (int(asked[1]), min(int(asked[2]), size - 1)) if asked else (0, size - 1)
    self.send_response(206 if asked else 200)
    self.send_header('Content-Length', str(last + 1 - first))
    self.send_header('Content-Range', f'bytes {first}-{last}/{size}')
    self.end_headers()
    if self.command == 'HEAD':
      return
    with path.open('rb') as file:
      file.seek(first)
      while piece := file.read(min(_PIECE, last + 1 - file.tell())):
        self.line.pass_on(len(piece))
        self.wfile.write(piece)

  do_HEAD = do_GET


def serve(folder: pathlib.Path, latency_s: float, bytes_per_s: float, port: Connection) -> None:
  """In a process of its own; sends its port."""
  handler = functools.partial(_Handler, folder, latency_s, _Line(bytes_per_s))
  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
    port.send(server.server_address[1])
    server.serve_forever()


def read(directory: str | pathlib.Path, batches: int, began: float) -> tuple[float, float]:
  """(seconds until the first batch, until the last)."""
  split = records.RecordSet(directory, 'train')
  rng = np.random.default_rng(0)
  first = 0.0
  for number in range(batches):
    index = rng.integers(0, len(split), patchreaders.BATCH)
    row, col = rng.integers(0, patchformats.PATCH_PX - patchreaders.CROP_PX + 1, (2, len(index)))
    for field in patchformats.FIELDS:
      split.read_crops(field, index, row, col, patchreaders.CROP_PX)
    first = first if number else time.perf_counter() - began
  return first, time.perf_counter() - began


def ranges(url: str, batches: int) -> tuple[float, float]:
  return read(url, batches, time.perf_counter())


def download(url: str, batches: int, names: list[str]) -> tuple[float, float]:
  began = time.perf_counter()
  with tempfile.TemporaryDirectory() as folder:
    store = fsspec.filesystem('http')
    store.get([f'{url}/{name}' for name in names], [f'{folder}/{name}' for name in names], batch_size=8)
    return read(pathlib.Path(folder), batches, began)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--records', type=int, default=150, help='records in the shards (1.8 MB each)')
  parser.add_argument('--batches', type=int, default=20, help='batches of one run')
  parser.add_argument('--latency_ms', type=float, default=20, help='before each reply')
  parser.add_argument('--mbit', type=float, default=1000, help='of the line, a second')
  parser.add_argument('--repeats', type=int, default=3, help='runs of each way, alternating')
  parser.add_argument('--dir', type=pathlib.Path, default=pathlib.Path('.cache/benchmarks'), help='keeps the shards')
  options = parser.parse_args()
  directory = patchformats.records(options.dir, options.records).resolve()
  records.RecordSet(directory, 'train')  # writes the index, as publishing does
  names = sorted(path.name for path in directory.iterdir())
  context = multiprocessing.get_context('spawn')
  here, there = context.Pipe()
  arguments = (directory, options.latency_ms / 1000, options.mbit * 125_000, there)
  server = context.Process(target=serve, args=arguments, daemon=True)
  server.start()
  url = f'http://127.0.0.1:{here.recv()}'
  ways: dict[str, Callable[[], tuple[float, float]]] = {
    'ranges': lambda: ranges(url, options.batches),
    'download': lambda: download(url, options.batches, names),
  }
  firsts: dict[str, list[float]] = {way: [] for way in ways}

  def run(way: str) -> float:
    """Seconds until the last batch; keeps those until the first, too. Nothing is kept from the run before."""
    with tempfile.TemporaryDirectory() as cache:
      os.environ['DEEPSENTINEL_CACHE'] = cache
      first, total = ways[way]()
    firsts[way].append(first)
    return total

  seconds = sidebyside.alternate({way: functools.partial(run, way) for way in ways}, options.repeats)
  server.kill()

  firsts = {way: values[1:] for way, values in firsts.items()}  # as `alternate`, without the first run
  line = f'{options.records} records at a URL, {options.latency_ms:g} ms a request, {options.mbit:g} Mbit/s'
  peer = 'shards downloaded first'
  rates = {way: [options.batches / value for value in values] for way, values in seconds.items()}
  ahead = []
  for first, total, first_get, total_get in zip(
    firsts['ranges'], seconds['ranges'], firsts['download'], seconds['download'], strict=True
  ):
    slower = ((total - first) - (total_get - first_get)) / max(options.batches - 1, 1)  # seconds a batch
    count = max(first_get - first, 0) / slower if slower > 0 else float('inf')
    ahead.append(count * patchreaders.BATCH / options.records)
  note = f'with the first; the download is ahead after {statistics.median(ahead):.1f} epochs'
  what = f'{options.batches} batches of {patchreaders.BATCH} random {patchreaders.CROP_PX}-px crops'
  sidebyside.leave(
    __file__,
    [
      sidebyside.Row(f'the first batch of {line}', peer, 's', firsts['ranges'], firsts['download']),
      sidebyside.Row(f'{what} of {line}', peer, 'batches/s', rates['ranges'], rates['download'], 0, note),
    ],
  )


if __name__ == '__main__':
  main()

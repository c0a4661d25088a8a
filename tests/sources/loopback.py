"""An HTTP server on loopback that answers as a platform does, with faults put in on demand."""

import collections
import contextlib
import gzip
import http.server
import json
import pathlib
import re
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple


class Answer(NamedTuple):
  """Status, body and headers of a reply."""

  status: int
  content: bytes
  headers: dict[str, str] = {}  # noqa: RUF012

  @classmethod
  def of_json(cls, content: Any, status: int = 200) -> 'Answer':
    return cls(status, json.dumps(content).encode(), {'Content-Type': 'application/json'})


class Server(http.server.ThreadingHTTPServer):
  """Serves what `answer` says, and under /data/ the files of `folder`, with Range and ETag, and what its folders hold.

  Attributes:
    faults: [pattern of the path ('HEAD /...' of such a request), kind, count] still to be put in: 'status:429' (with
      Retry-After: 1) or any other status, 'reset', 'truncated', 'slow'.
    seen: how often each kind of fault was put in, and requests by 'GET', 'HEAD' and 'POST'.
    latency_s: before each reply.
    lists: whether folders say what they hold.
    packs: whether JSON files come compressed, and then without Range, where the client lets them.
    token: what ?token= of a file request has to be; '' asks for none.
  """

  daemon_threads = True
  ranges = True
  lists = True
  packs = False
  latency_s = 0.0

  def __init__(self, folder: pathlib.Path):
    super().__init__(('127.0.0.1', 0), _Handler)
    self.folder = folder
    self.faults: list[list[Any]] = []
    self.seen: collections.Counter = collections.Counter()
    self.token = ''
    self.slow_s = 3.0
    self.mistakes: list[BaseException | None] = []
    self._lock = threading.Lock()

  def answer(self, path: str, arguments: str, body: bytes, headers: Any) -> Answer:
    """The platform's reply to a request for anything but a file."""
    raise NotImplementedError

  @property
  def url(self) -> str:
    return f'http://127.0.0.1:{self.server_address[1]}'

  def fault(self, path: str) -> str:
    """The fault to put into this reply, which is then one less to come."""
    with self._lock:
      for entry in self.faults:
        if entry[2] and re.search(entry[0], path):
          entry[2] -= 1
          self.seen[entry[1]] += 1
          return entry[1]
    return ''

  def handle_error(self, request, client_address) -> None:
    """Clients that hang up are part of the game; a mistake in `answer` is kept for the end."""
    error = sys.exc_info()[1]
    if not isinstance(error, OSError) and 'closed file' not in str(error):
      self.mistakes.append(error)

  @contextlib.contextmanager
  def running(self) -> Iterator['Server']:
    threading.Thread(target=self.serve_forever, kwargs={'poll_interval': 0.05}, daemon=True).start()
    try:
      yield self
    finally:
      self.shutdown()
      self.server_close()
      for mistake in self.mistakes:
        raise AssertionError('The server on loopback could not answer.') from mistake


class _Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = 'HTTP/1.1'
  server: Server

  def log_message(self, format: str, *arguments: Any) -> None:
    pass

  def do_GET(self) -> None:
    self.server.seen[self.command] += 1
    body = self.rfile.read(int(self.headers.get('Content-Length') or 0))
    path, _, arguments = self.path.partition('?')
    time.sleep(self.server.latency_s)
    fault = self.server.fault(path if self.command != 'HEAD' else f'HEAD {path}')
    if fault.startswith('status:'):
      headers = {'Content-Type': 'application/json'} | ({'Retry-After': '1'} if fault == 'status:429' else {})
      self._send(Answer(int(fault[7:]), b'{"error": {"message": "put in"}}', headers))
    elif fault == 'reset':
      self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
      for part in (self.rfile, self.wfile, self.connection):
        part.close()
      self.close_connection = True
    elif path.startswith('/data/'):
      self._send(self._file(self.server.folder / path[6:], arguments), fault)
    else:
      self._send(self.server.answer(path, arguments, body, self.headers), fault)

  do_POST = do_PUT = do_HEAD = do_GET

  def _file(self, path: pathlib.Path, arguments: str) -> Answer:
    if self.server.token and f'token={self.server.token}' not in arguments:
      return Answer(403, b'expired')
    if path.is_dir() and self.server.lists:
      links = ''.join(f'<a href="{p.name}{"/" if p.is_dir() else ""}">{p.name}</a>' for p in sorted(path.iterdir()))
      return Answer(200, links.encode(), {'Content-Type': 'text/html'})
    if not path.is_file():
      return Answer(404, b'no such file')
    about = path.stat()
    headers = {'ETag': f'"{about.st_mtime_ns:x}-{about.st_size:x}"'}
    if self.server.packs and path.suffix == '.json' and 'gzip' in (self.headers.get('Accept-Encoding') or ''):
      self.server.seen['packed'] += 1
      return Answer(200, gzip.compress(path.read_bytes()), {'Content-Encoding': 'gzip'})
    match = re.fullmatch(r'bytes=(\d+)-(\d*)', self.headers.get('Range') or '')
    if not match or not self.server.ranges:
      return Answer(200, path.read_bytes(), headers)
    first, last = int(match[1]), min(int(match[2] or about.st_size - 1), about.st_size - 1)
    if first > last:
      return Answer(416, b'', {'Content-Range': f'bytes */{about.st_size}'})
    with path.open('rb') as file:
      file.seek(first)
      content = file.read(last + 1 - first)
    return Answer(206, content, {**headers, 'Content-Range': f'bytes {first}-{last}/{about.st_size}'})

  def _send(self, answer: Answer, fault: str = '') -> None:
    self.send_response(answer.status)
    for name, value in answer.headers.items():
      self.send_header(name, value)
    self.send_header('Content-Length', str(len(answer.content)))
    self.end_headers()
    if self.command == 'HEAD':
      return
    if fault == 'truncated':
      self.wfile.write(answer.content[: len(answer.content) // 2])
      self.wfile.flush()
      self.connection.shutdown(socket.SHUT_RDWR)
      self.close_connection = True
      return
    if fault == 'slow':
      time.sleep(self.server.slow_s)
    self.wfile.write(answer.content)

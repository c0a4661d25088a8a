"""A STAC API and the files behind it on loopback, with faults put in on demand."""

import collections
import contextlib
import datetime
import http.server
import json
import pathlib
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

import shapely

_CORE = 'https://api.stacspec.org/v1.0.0/'
_PAGE = 2  # items a page, so that every search of more has to follow links


class Server(http.server.ThreadingHTTPServer):
  """Serves `items` under /search and the files of `folder` under /data/, with Range.

  Attributes:
    items: the catalogue, with asset hrefs as the client shall see them.
    faults: (pattern of the path, kind, count) still to be put in: 'status:429' (with Retry-After: 1), 'status:500',
      'reset', 'truncated', 'slow'.
    seen: how often each kind of fault was put in, and under 'GET' and 'POST' the requests.
    token: what ?token= of a file request has to be; '' asks for none.
  """

  daemon_threads = True

  def __init__(self, folder: pathlib.Path):
    super().__init__(('127.0.0.1', 0), _Handler)
    self.folder = folder
    self.items: list[dict[str, Any]] = []
    self.faults: list[list[Any]] = []
    self.seen: collections.Counter = collections.Counter()
    self.token = ''
    self.slow_s = 3.0
    self.lock = threading.Lock()

  @property
  def url(self) -> str:
    return f'http://127.0.0.1:{self.server_address[1]}'

  def fault(self, path: str) -> str:
    with self.lock:
      for entry in self.faults:
        if entry[2] and re.search(entry[0], path):
          entry[2] -= 1
          self.seen[entry[1]] += 1
          return entry[1]
    return ''

  def handle_error(self, request, client_address) -> None:
    """Clients that hang up are part of the game."""


@contextlib.contextmanager
def serve(folder: pathlib.Path) -> Iterator[Server]:
  server = Server(folder)
  thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.05}, daemon=True)
  thread.start()
  try:
    yield server
  finally:
    server.shutdown()
    server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = 'HTTP/1.1'
  server: Server

  def log_message(self, format: str, *arguments: Any) -> None:
    pass

  def do_HEAD(self) -> None:
    self._answer(body=False)

  def do_GET(self) -> None:
    self._answer()

  def do_POST(self) -> None:
    self._answer()

  def _answer(self, body: bool = True) -> None:
    self.server.seen[self.command] += 1
    length = int(self.headers.get('Content-Length') or 0)
    query = self.rfile.read(length)
    path, _, arguments = self.path.partition('?')
    fault = self.server.fault(path)
    if fault.startswith('status:'):
      self._send(int(fault[7:]), b'{"code": "no"}', {'Retry-After': '1'} if fault == 'status:429' else {})
    elif fault == 'reset':
      self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
      for part in (self.rfile, self.wfile, self.connection):
        part.close()
      self.close_connection = True
    elif path.startswith('/data/'):
      self._file(self.server.folder / path[6:], arguments, fault, body)
    else:
      self._json(self._catalogue(path, json.loads(query) if query else {}), fault)

  def _catalogue(self, path: str, query: dict[str, Any]) -> dict[str, Any]:
    url = self.server.url
    if path == '/':
      return {
        'type': 'Catalog', 'id': 'loopback', 'description': 'loopback', 'stac_version': '1.0.0',
        'conformsTo': [_CORE + 'core', _CORE + 'item-search'],
        'links': [{'rel': 'self', 'href': url}, {'rel': 'root', 'href': url}]
        + [{'rel': 'search', 'href': f'{url}/search', 'method': method, 'type': 'application/geo+json'}
           for method in ('GET', 'POST')],
      }  # fmt: skip
    start, end = (datetime.datetime.fromisoformat(t) for t in query['datetime'].split('/'))
    area = shapely.geometry.shape(query['intersects'])
    found = [
      item for item in self.server.items
      if item['collection'] in query['collections'] and shapely.geometry.shape(item['geometry']).intersects(area)
      and start <= datetime.datetime.fromisoformat(item['properties']['datetime']) <= end
    ]  # fmt: skip
    at = int(query.get('token', 0))
    links = [{'rel': 'next', 'href': f'{url}/search', 'method': 'POST', 'body': {**query, 'token': str(at + _PAGE)}}]
    return {
      'type': 'FeatureCollection', 'features': found[at : at + _PAGE],
      'links': links if at + _PAGE < len(found) else [],
    }  # fmt: skip

  def _json(self, content: dict[str, Any], fault: str) -> None:
    self._send(200, json.dumps(content).encode(), {'Content-Type': 'application/json'}, fault)

  def _file(self, path: pathlib.Path, arguments: str, fault: str, body: bool) -> None:
    if self.server.token and f'token={self.server.token}' not in arguments:
      self._send(403, b'expired')
      return
    if not path.is_file():
      self._send(404, b'no such file')
      return
    content, headers = path.read_bytes(), {'Accept-Ranges': 'bytes'}
    total, status = len(content), 200
    if match := re.fullmatch(r'bytes=(\d+)-(\d*)', self.headers.get('Range') or ''):
      first, last = int(match[1]), min(int(match[2] or total - 1), total - 1)
      content, status = content[first : last + 1], 206
      headers['Content-Range'] = f'bytes {first}-{last}/{total}'
    self._send(status, content, headers, fault, body)

  def _send(
    self, status: int, content: bytes, headers: dict[str, str] | None = None, fault: str = '', body: bool = True
  ) -> None:
    self.send_response(status)
    for name, value in (headers or {}).items():
      self.send_header(name, value)
    self.send_header('Content-Length', str(len(content)))
    self.end_headers()
    if not body:
      return
    if fault == 'truncated':
      self.wfile.write(content[: len(content) // 2])
      self.wfile.flush()
      self.connection.shutdown(socket.SHUT_RDWR)
      self.close_connection = True
      return
    if fault == 'slow':
      time.sleep(self.server.slow_s)
    self.wfile.write(content)

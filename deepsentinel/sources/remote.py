"""Files and catalogues over HTTP, with patience: what a busy platform refuses is asked for again, by its own rules."""

import collections
import io
import urllib.parse
from collections.abc import Callable
from typing import Any

import rasterio.abc
import requests
import requests.adapters
import tenacity
import urllib3

_BLOCK = 1 << 16  # bytes fetched and kept at once: a file's header, or a piece of a tile
_BLOCKS = 256  # kept a file
_BUSY = (408, 429, 500, 502, 503, 504)
_DENIED = (401, 403)
_QUOTA_MEND = 'Fewer --config.workers ask less at a time; what failed is tried again with --retry_failed.'
# What a connection can do in the middle of an answer: break off, stall, or end before its announced length.
BROKEN = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
ERRORS = (requests.RequestException, urllib3.exceptions.HTTPError)


class Denied(ValueError):
  """The server wants another token (401, 403)."""


class QuotaError(ValueError):
  """The platform lets no more through for now (429), however patient one is: the same request is good later."""


class BadRequest(ValueError):
  """The platform will not answer this request (400 and its like), now or later."""


class NoAnswer(ValueError):
  """The platform gave no answer, or no whole one, in all attempts (500 and its like, a connection that breaks off)."""


def refused(status: int, message: str) -> ValueError:
  """The error of a request that was not answered: which, says the HTTP status; 0 where there was none."""
  if status == 429:
    return QuotaError(f'{message} {_QUOTA_MEND}')
  if status in _DENIED:
    return Denied(message)
  return BadRequest(message) if 400 <= status < 500 and status not in _BUSY else NoAnswer(message)


def plain(url: str) -> str:
  """A URL without its query, which may hold a token."""
  return urllib.parse.urlsplit(url)._replace(query='', fragment='').geturl()


def first_line(error: BaseException) -> str:
  """What an error says, on its first line, without the full stop: platforms send whole pages."""
  return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip('.')


def retry(attempts: int) -> urllib3.Retry:
  """Up to `attempts` requests in all, after Retry-After where the server says so, else after 0.5, 1, 2 ... seconds."""
  return urllib3.Retry(
    total=attempts - 1, backoff_factor=0.5, backoff_max=60, backoff_jitter=0.5, status_forcelist=_BUSY,
    allowed_methods=None, respect_retry_after_header=True, raise_on_status=False,
  )  # fmt: skip


def again(attempts: int) -> tenacity.Retrying:
  """Calls a function again whose answer broke off: urllib3 retries requests, not the reading of what they return."""
  return tenacity.Retrying(
    retry=tenacity.retry_if_exception(_broke_off), stop=tenacity.stop_after_attempt(attempts),
    wait=tenacity.wait_random_exponential(multiplier=0.5, max=60), reraise=True,
  )  # fmt: skip


def _broke_off(error: BaseException | None) -> bool:
  """Whether an answer that broke off is the error or its cause (clients wrap what they catch)."""
  while error is not None:
    if isinstance(error, BROKEN):
      return not any(isinstance(part, urllib3.exceptions.MaxRetryError) for part in error.args)  # urllib3 gave up
    error = error.__cause__ or error.__context__
  return False


class Client:
  """HTTP reads with retries.

  Args:
    attempts: requests made for one answer before it counts as failed.
    timeout_s: longest silence of the server.
  """

  def __init__(self, attempts: int = 6, timeout_s: float = 30.0):
    if attempts < 1 or timeout_s <= 0:
      raise ValueError(f'attempts must be 1 or more and timeout_s above 0; found {attempts} and {timeout_s}.')
    self.attempts, self.timeout_s = attempts, timeout_s
    self.session = requests.Session()
    adapter = requests.adapters.HTTPAdapter(max_retries=retry(attempts), pool_maxsize=16)
    self.session.mount('http://', adapter)
    self.session.mount('https://', adapter)

  def __reduce__(self):
    return type(self), (self.attempts, self.timeout_s)

  def read(self, url: str, first: int, last: int) -> tuple[bytes, int]:
    """Bytes first to last (inclusive; fewer at the end of the file), and the length of the file.

    Raises:
      Denied: the server wants another token.
      QuotaError, BadRequest, NoAnswer: as they say, after all attempts.
      ValueError: the file is not there, or the server cannot do ranges.
    """
    try:
      return again(self.attempts)(self._read, url, first, last)
    except ERRORS as e:
      raise NoAnswer(f'{plain(url)} gave no whole answer in {self.attempts} attempts ({e}).') from e

  def _read(self, url: str, first: int, last: int) -> tuple[bytes, int]:
    with self.session.get(
      url, headers={'Range': f'bytes={first}-{last}'}, timeout=self.timeout_s, stream=True
    ) as answer:
      if answer.status_code in _DENIED:
        raise Denied(f'{plain(url)} is not open to this request ({answer.status_code} {answer.reason}).')
      if answer.status_code == 404:
        raise ValueError(f'{plain(url)} is not there (404): the catalogue lists a file that its store does not hold.')
      if not answer.ok:
        in_all = f' in {self.attempts} attempts' if answer.status_code in _BUSY else ''
        raise refused(answer.status_code, f'{plain(url)}: {answer.status_code} {answer.reason}{in_all}.')
      total = answer.headers.get('Content-Range', '').rpartition('/')[2]
      if answer.status_code != 206 or not total.isdigit():
        raise ValueError(f'{plain(url)} comes whole only; the server has to answer requests with Range.')
      content = answer.content
    if len(content) != min(last, int(total) - 1) - first + 1:
      raise requests.ConnectionError(f'{len(content)} bytes came of {last - first + 1}')
    return content, int(total)


class Folder(rasterio.abc.FileContainer):
  """What `rasterio.open(url, opener=Folder(client, url))` asks of a file and its surroundings: it alone is there.

  GDAL would else ask the server for a dozen files beside each raster. It also turns what is raised while it reads into
  an error of its own, without the cause; `failure` keeps that.
  """

  def __init__(self, client: Client, url: str):
    self._client, self._url = client, url
    self._size = 0
    self.failure: Exception | None = None

  def open(self, path: str, mode: str = 'r', **kwargs: Any) -> 'File':
    if path != self._url:
      raise FileNotFoundError(path)
    file = File(path, self.fetch)
    self._size = file.size
    return file

  def fetch(self, url: str, first: int, last: int) -> tuple[bytes, int]:
    """`Client.read`, which is not asked again once it gave up."""
    if self.failure is None:
      try:
        return self._client.read(url, first, last)
      except Exception as e:
        self.failure = e
    raise OSError(str(self.failure))

  def isfile(self, path: str) -> bool:
    return path == self._url

  def isdir(self, path: str) -> bool:
    return False

  def ls(self, path: str) -> list[str]:
    return []

  def mtime(self, path: str) -> int:
    return 0

  def size(self, path: str) -> int:
    return self._size

  def rm(self, path: str) -> None:
    raise OSError(f'{plain(path)} is only read.')


class File(io.RawIOBase):
  """A remote file that is read in pieces, of which the last ones are kept.

  Args:
    url: of the file.
    fetch: (url, first byte, last byte) -> their content and the length of the file.
  """

  def __init__(self, url: str, fetch: Callable[[str, int, int], tuple[bytes, int]]):
    super().__init__()
    self.url, self._fetch, self._at = url, fetch, 0
    self._blocks: collections.OrderedDict[int, bytes] = collections.OrderedDict()
    self.size = 0
    self._load(0, 0)

  def _load(self, first: int, last: int) -> None:
    """Blocks first to last, inclusive, into memory."""
    content, self.size = self._fetch(self.url, first * _BLOCK, (last + 1) * _BLOCK - 1)
    for number in range(first, last + 1):
      self._blocks[number] = content[(number - first) * _BLOCK : (number - first + 1) * _BLOCK]

  def readable(self) -> bool:
    return True

  def seekable(self) -> bool:
    return True

  def tell(self) -> int:
    return self._at

  def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
    self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
    return self._at

  def read(self, size: int = -1) -> bytes:
    end = self.size if size < 0 else min(self._at + size, self.size)
    if self._at >= end:
      return b''
    first, last = self._at // _BLOCK, (end - 1) // _BLOCK
    missing = [number for number in range(first, last + 1) if number not in self._blocks]
    if missing:
      self._load(missing[0], missing[-1])
    content = b''.join(self._blocks[number] for number in range(first, last + 1))
    part = content[self._at - first * _BLOCK : end - first * _BLOCK]
    for number in range(first, last + 1):
      self._blocks.move_to_end(number)
    while len(self._blocks) > _BLOCKS:
      self._blocks.popitem(last=False)
    self._at = end
    return part


class Transport:
  """What Google's clients take for httplib2.Http: requests with retries that heed Retry-After, as theirs do not.

  Args:
    attempts, timeout_s: as of Client.
  """

  def __init__(self, attempts: int, timeout_s: float):
    client = Client(attempts, timeout_s)
    self.attempts, self.timeout = attempts, timeout_s
    self.session = client.session

  def request(
    self, uri: str, method: str = 'GET', body: Any = None, headers: Any = None, redirections: Any = None,
    connection_type: Any = None,
  ) -> tuple[Any, bytes]:  # fmt: skip
    """One reply, as an httplib2.Response and its body; ConnectionError where there was none in all attempts."""
    import httplib2  # here: every reader of rasters imports this module, and only Google's clients want it

    def ask() -> requests.Response:
      return self.session.request(method, uri, data=body, headers=headers, timeout=self.timeout)

    try:
      reply = again(self.attempts)(ask)
    except ERRORS as e:
      raise ConnectionError(f'{plain(uri)} gave no whole answer in {self.attempts} attempts ({e}).') from e
    return httplib2.Response({**reply.headers, 'status': reply.status_code}), reply.content

  def close(self) -> None:
    self.session.close()

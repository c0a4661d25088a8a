"""Folders at a URL: any store that fsspec knows, asked again where it is busy, and what is wrong with it for good.

A folder is a `pathlib.Path`, or the str of a URL such as 'gs://BUCKET/NAME'. From a URL is only read here; what is made
of its files is kept on this machine, below $DEEPSENTINEL_CACHE (default ~/.cache/deepsentinel).
"""

import bisect
import errno
import hashlib
import logging
import os
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import fsspec
import fsspec.asyn
import fsspec.utils
import tenacity

ATTEMPTS = 5  # to open a store or to send a file
READ_ATTEMPTS = 10  # to read while training: a store may be away for a minute or two
_EXTRAS = {'gs': 'gcsfs', 'gcs': 'gcsfs', 'az': 'adlfs', 'abfs': 'adlfs', 'abfss': 'adlfs', 's3': 's3fs',
           'http': 'aiohttp', 'https': 'aiohttp'}  # fmt: skip
_AZURE = 'Set AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY.'
_GOOGLE = 'Log in with `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS.'
_LOGINS = {'gs': _GOOGLE, 'gcs': _GOOGLE, 'az': _AZURE, 'abfs': _AZURE, 'abfss': _AZURE,
           's3': 'Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.'}  # fmt: skip
_BUSY = (408, 425, 429, 500, 502, 503, 504)
_FOR_GOOD = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError, ValueError, TypeError)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
_LONGEST_WAIT_S = 60.0
_ATTEMPT_S = 15.0  # times the attempts: some clients are patient themselves
_MAX_GAP = 128 << 10  # bytes: a request costs about the time in which so many come
_MAX_BLOCK = 8 << 20
_REQUESTS = 64  # at a time
# What tells one state of a file from another, the surest first.
_VERSIONS = ('generation', 'etag', 'ETag', 'md5Hash', 'last_modified', 'LastModified', 'Last-Modified', 'mtime',
             'created')  # fmt: skip

Folder = pathlib.Path | str


class Unreadable(ValueError):
  """A store did not give what was asked for; says why and what to do."""


class ShortAnswer(OSError):
  """Fewer bytes came than were asked for."""


def is_url(folder: str | os.PathLike) -> bool:
  """Whether a folder is named by a URL."""
  return '://' in os.fspath(folder)


def folder_of(name: str | os.PathLike) -> Folder:
  """A folder as this module takes it: the URL without a last slash, or the path with ~ replaced."""
  return os.fspath(name).rstrip('/') if is_url(name) else pathlib.Path(name).expanduser()


def plain(folder: Folder) -> Folder:
  """A folder as it may be shown: a URL without its query, which may hold a token."""
  return folder.partition('?')[0] if isinstance(folder, str) else folder


def join(folder: Folder, name: str) -> Folder:
  """A file or folder below a folder; the query of a URL stays behind the path."""
  if isinstance(folder, pathlib.Path):
    return folder / name
  base, mark, query = folder.partition('?')
  return f'{base.rstrip("/")}/{name}{mark}{query}'


def open_store(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
  """fsspec's file system and the path within it; ValueError with the command that installs a missing package."""
  protocol = url.partition('://')[0] if '://' in url else 'file'
  try:
    options: dict[str, Any] = {'auto_mkdir': True} if protocol in ('file', 'local') else {}
    if protocol in ('http', 'https'):
      import aiohttp

      patience = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
      # As they are: a web server that compresses JSON on the way does not do ranges of it.
      headers = {'Accept-Encoding': 'identity'}
      options = {'client_kwargs': {'timeout': patience, 'trust_env': True, 'headers': headers}}
    for chatty in ('gcsfs', 'google.auth', 'azure'):  # they log a traceback for what is asked again and said here
      logging.getLogger(chatty).setLevel(logging.CRITICAL)
    store, root = fsspec.core.url_to_fs(url, **options)
  except ImportError as e:
    package = _EXTRAS.get(protocol)
    mend = f'pip install {package}' if package else str(e)
    raise ValueError(f'{plain(url)} needs a package that is not installed: {mend}.') from e
  except ValueError as e:
    mend = _LOGINS.get(protocol, 'Pass a folder or a URL such as gs://BUCKET/NAME or az://CONTAINER/NAME.')
    raise ValueError(f'{plain(url)}: {_first_line(e)}. {mend}') from e
  except Exception as e:  # a client may fail in any way while it looks for credentials
    raise Unreadable(_failure(url, e, 1)) from e
  return store, root.rstrip('/')


def patiently(ask: Callable, *arguments: Any, attempts: int = 0, **named: Any) -> Any:
  """Calls a store, again where it is busy or breaks off, after Retry-After where it says so.

  What is wrong for good (no file, no right) raises at once.
  """
  attempts = attempts or ATTEMPTS
  retrying = tenacity.Retrying(
    retry=tenacity.retry_if_exception(lambda error: not _for_good(error)),
    stop=tenacity.stop_after_attempt(attempts) | tenacity.stop_after_delay(_ATTEMPT_S * attempts),
    wait=_wait, reraise=True,
  )  # fmt: skip
  return retrying(ask, *arguments, **named)


def read_file(folder: Folder, name: str) -> bytes | None:
  """A small file, whole; None where it is not there; ValueError where a store does not give it."""
  if isinstance(folder, str):
    return Store(folder).read(name)
  path = folder / name
  return path.read_bytes() if path.is_file() else None


def holds(folder: Folder, name: str) -> bool:
  """Whether a file is there."""
  if isinstance(folder, pathlib.Path):
    return (folder / name).is_file()
  return Store(folder).info(name) is not None


def folders(folder: Folder) -> list[str]:
  """Names of the folders in a folder; none where there is nothing, or where a web server does not list them."""
  if isinstance(folder, pathlib.Path):
    return sorted(path.name for path in folder.glob('*') if path.is_dir())
  return Store(folder).folders()


def cache() -> pathlib.Path:
  """The folder of this machine for what can be made or fetched again: $DEEPSENTINEL_CACHE, or ~/.cache/deepsentinel."""
  return pathlib.Path(os.environ.get('DEEPSENTINEL_CACHE') or '~/.cache/deepsentinel').expanduser()


def kept_in(url: str, state: Sequence[Any], kind: str = 'records') -> pathlib.Path:
  """The folder of this machine that keeps what is made of a URL's files, in the state that they are in."""
  shown = str(plain(url))
  digest = hashlib.sha256(repr((shown, list(state))).encode()).hexdigest()[:16]
  name = '-'.join(re.sub(r'[^\w.]+', '_', part) for part in shown.rstrip('/').split('/')[-3:])
  return cache() / kind / f'{name}-{digest}'


class Store:
  """A folder at a URL, for reading; every failure is a ValueError that says what to do.

  Attributes:
    url: of the folder.
    concurrent: whether many ranges are asked for at a time.
  """

  def __init__(self, url: str):
    self.url = url
    self._fs, self._root = open_store(url)
    self.concurrent = isinstance(self._fs, fsspec.asyn.AsyncFileSystem)

  def __reduce__(self):
    return type(self), (self.url,)

  def _path(self, name: str) -> str:
    return str(join(self._root, name)) if '?' in self.url else f'{self._root}/{name}'

  def read(self, name: str) -> bytes | None:
    """A small file, whole; None where it is not there."""
    try:
      return patiently(self._fs.cat_file, self._path(name))
    except Exception as e:  # a store can fail in any way
      if _is_absent(e):
        return None
      raise Unreadable(_failure(str(join(self.url, name)), e, ATTEMPTS)) from e

  def info(self, name: str) -> Mapping[str, Any] | None:
    """What fsspec says of a file, asked for anew; None where it is not there."""
    try:
      self._fs.invalidate_cache()
      found = patiently(self._fs.info, self._path(name))
    except Exception as e:  # a store can fail in any way
      if _is_absent(e):
        return None
      raise Unreadable(_failure(str(join(self.url, name)), e, ATTEMPTS)) from e
    return found if found.get('type') != 'directory' else None

  def folders(self) -> list[str]:
    """Names of the folders in this one; none where nothing is there or the server does not list them."""
    try:
      self._fs.invalidate_cache()
      found = patiently(self._fs.ls, self._root, detail=True)
    except Exception as e:  # a store can fail in any way
      if _is_absent(e):
        return []
      raise Unreadable(_failure(self.url, e, ATTEMPTS)) from e
    return sorted({i['name'].rstrip('/').rpartition('/')[2] for i in found if i['type'] == 'directory'})

  def download(self, name: str, path: pathlib.Path) -> None:
    """A file to this machine; OSError where that has no room for it."""
    try:
      patiently(self._fs.get_file, self._path(name), str(path), attempts=READ_ATTEMPTS)
    except Exception as e:  # a store can fail in any way
      if isinstance(e, OSError) and e.errno in _NO_ROOM:
        raise
      raise Unreadable(_failure(str(join(self.url, name)), e, READ_ATTEMPTS)) from e

  def require_ranges(self, name: str) -> None:
    """ValueError if the store answers a request for a byte of a file with all of it."""
    self.ranges([(name, 0, 1)])

  def ranges(self, wanted: Sequence[tuple[str, int, int]]) -> list[memoryview]:
    """Parts of files; near ones come in one request, many at a time, and again alone those that failed.

    Args:
      wanted: (name, first byte, byte after the last) of each.
    Returns:
      their bytes.
    Raises:
      ValueError: the store did not give one of them in all attempts, or does not do ranges.
    """
    paths = [self._path(name) for name, _, _ in wanted]
    starts, ends = ([part[k] for part in wanted] for k in (1, 2))
    merged = fsspec.utils.merge_offset_ranges(paths, starts, ends, max_gap=_MAX_GAP, max_block=_MAX_BLOCK)
    blocks = sorted(set(zip(*merged, strict=True)))
    got: dict[tuple, bytes] = {}
    options = {'batch_size': _REQUESTS} if self.concurrent else {}
    blamed = self._root

    def ask() -> None:
      nonlocal blamed
      missing = [block for block in blocks if block not in got]
      columns = [list(column) for column in zip(*missing, strict=True)]
      failures: list[tuple[str, BaseException]] = []
      for block, answer in zip(missing, self._fs.cat_ranges(*columns, on_error='return', **options), strict=True):
        size = block[2] - block[1]
        if isinstance(answer, BaseException):
          failures.append((block[0], answer))
        elif len(answer) > size:
          failures.append((block[0], ValueError('it comes whole only; the server has to answer requests with Range')))
        elif len(answer) < size:
          failures.append((block[0], ShortAnswer(f'{len(answer)} bytes came of {size}')))
        else:
          got[block] = answer
      if failures:
        blamed, error = next((failure for failure in failures if _for_good(failure[1])), failures[0])
        raise error

    if blocks:
      try:
        patiently(ask, attempts=READ_ATTEMPTS)
      except Exception as e:  # a store can fail in any way
        name = next((name for name, _, _ in wanted if self._path(name) == blamed), '')
        raise Unreadable(_failure(str(join(self.url, name)), e, READ_ATTEMPTS)) from e
    found = []
    for path, start, end in zip(paths, starts, ends, strict=True):
      block = blocks[bisect.bisect_right(blocks, (path, start, float('inf'))) - 1]
      found.append(memoryview(got[block])[start - block[1] : end - block[1]])
    return found


def state_of(info: Mapping[str, Any]) -> tuple[int, str]:
  """(bytes, whatever tells the file from a later one of its name: generation, ETag or time; '' if nothing does)."""
  return int(info['size']), next((str(info[key]) for key in _VERSIONS if info.get(key)), '')


def _failure(url: str, error: BaseException, attempts: int) -> str:
  shown, reason = plain(url), _first_line(error)
  if _status(error) in (401, 403) or isinstance(error, PermissionError) or reason.startswith('Forbidden'):
    return f'{shown} is not open to this account ({reason}). {_LOGINS.get(url.partition("://")[0], "")}'.rstrip()
  if _is_absent(error):
    return f'{shown} is not there any more. Publish it again and run the same command again.'
  if _for_good(error):
    return f'{shown} cannot be read: {reason}.'
  return (
    f'{shown} gave no whole answer in {attempts} attempts ({reason}). Once it does, run the same command again: it '
    'goes on where it stopped.'
  )


def _answer(error: BaseException) -> BaseException:
  """The error that tells what a server answered: fsspec says 'not found' of whatever a web server did."""
  return error.__cause__ if isinstance(error, FileNotFoundError) and error.__cause__ else error


def _status(error: BaseException) -> int:
  """The HTTP status that an error came with; 0 without one."""
  for key in ('status', 'status_code', 'code'):
    if str(value := getattr(_answer(error), key, '')).isdigit():
      return int(value)
  return 0


def _for_good(error: BaseException) -> bool:
  """Whether to ask again is of no use."""
  if status := _status(error):
    return status not in _BUSY
  if isinstance(error, FileNotFoundError) and type(_answer(error)).__module__.startswith('aiohttp'):
    return False
  if isinstance(error, OSError) and error.errno in _NO_ROOM:
    return True
  return isinstance(error, _FOR_GOOD) or str(error).startswith('Forbidden') or not isinstance(error, Exception)


def _is_absent(error: BaseException) -> bool:
  """Whether a store said that nothing of that name is there."""
  kinds = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
  return isinstance(error, kinds) and _status(error) in (0, 404, 410) and _for_good(error)


def _wait(state: tenacity.RetryCallState) -> float:
  error = state.outcome.exception() if state.outcome else None
  backoff = tenacity.wait_random_exponential(multiplier=0.5, max=_LONGEST_WAIT_S)(state)
  said = (getattr(_answer(error), 'headers', None) or {}).get('Retry-After', '') if error else ''
  return max(backoff, min(float(said), _LONGEST_WAIT_S)) if str(said).isdigit() else backoff


def _first_line(error: BaseException) -> str:
  said = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip('.')
  return re.sub(r'\?\S*', '', said)[:300]

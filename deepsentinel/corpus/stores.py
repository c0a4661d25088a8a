"""Stores on a network, or folders, through fsspec: opened by URL, listed, and asked again where they are busy."""

from collections.abc import Mapping
from typing import Any

import fsspec
import tenacity

_EXTRAS = {'gs': 'gcsfs', 'gcs': 'gcsfs', 'az': 'adlfs', 'abfs': 'adlfs', 'abfss': 'adlfs', 's3': 's3fs'}
_ATTEMPTS = 5


def opened(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
  """fsspec's file system and the path within it; ValueError with the command that installs a missing package."""
  try:
    local = {'auto_mkdir': True} if url.partition('://')[0] in (url, 'file', 'local') else {}
    store, root = fsspec.core.url_to_fs(url, **local)
  except ImportError as e:
    package = _EXTRAS.get(url.partition('://')[0])
    mend = f'pip install {package}' if package else str(e)
    raise ValueError(f'{url} needs a package that is not installed: {mend}.') from e
  except ValueError as e:
    raise ValueError(f'{url}: {e}. Pass a folder or a URL such as gs://BUCKET/NAME or az://CONTAINER/NAME.') from e
  return store, root.rstrip('/')


def listing(store: fsspec.AbstractFileSystem, root: str) -> dict[str, Mapping[str, Any]]:
  """What is at `root`, by its path below it."""
  store.invalidate_cache()
  try:
    found = patiently(store.find, root, detail=True)
  except FileNotFoundError:
    return {}
  prefix = store._strip_protocol(root).rstrip('/') + '/'
  return {path.removeprefix(prefix): info for path, info in found.items()}


def patiently(ask: Any, *arguments: Any, **named: Any) -> Any:
  """Calls a store, again where it is busy or breaks off; what is wrong for good (no file, no right) raises at once."""
  for_good = tenacity.retry_if_not_exception_type(
    (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError, ValueError, TypeError)
  )
  wait = tenacity.wait_random_exponential(multiplier=0.5, max=30)
  retrying = tenacity.Retrying(retry=for_good, stop=tenacity.stop_after_attempt(_ATTEMPTS), wait=wait, reraise=True)
  return retrying(ask, *arguments, **named)

"""Stores to publish to and to read from: a folder, and real emulators of Google's and of Azure's on loopback."""

import contextlib
import importlib.util
import pathlib
import shutil
import sys
from collections.abc import Iterator

import fsspec
import pytest

from tests import servers

STORES = ('file', 'gs', 'az')
AZURITE = shutil.which('azurite-blob')
AZURE_KEY = 'Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=='  # published


@contextlib.contextmanager
def store(kind: str, tmp_path: pathlib.Path) -> Iterator[str]:
  """URL of an empty place in a store of STORES; skips where its emulator is not installed."""
  if kind == 'file':
    yield str(tmp_path / 'a store' / 'tiny')
    return
  port = servers.free_port()
  if kind == 'gs':
    if not all(importlib.util.find_spec(name) for name in ('gcp_storage_emulator', 'gcsfs')):
      pytest.skip('gcp-storage-emulator and gcsfs are not installed')
    command = [sys.executable, '-m', 'gcp_storage_emulator', 'start', '--in-memory', f'--port={port}']
    command.append('--host=127.0.0.1')
    variable, value = 'STORAGE_EMULATOR_HOST', f'http://127.0.0.1:{port}'
  else:
    if AZURITE is None or importlib.util.find_spec('adlfs') is None:
      pytest.skip('Azurite (npm install -g azurite) and adlfs are not installed')
    command = [AZURITE, '--inMemoryPersistence', '--skipApiVersionCheck', '--silent', '--blobHost', '127.0.0.1',
               '--blobPort', str(port)]  # fmt: skip
    variable = 'AZURE_STORAGE_CONNECTION_STRING'
    value = (
      f'DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey={AZURE_KEY};'
      f'BlobEndpoint=http://127.0.0.1:{port}/devstoreaccount1;'
    )
  with pytest.MonkeyPatch.context() as patch, servers.serving(command, port, tmp_path):
    patch.setenv(variable, value)
    fsspec.get_filesystem_class(kind).clear_instance_cache()  # of an emulator before this one
    fsspec.filesystem(kind).mkdir('bucket')
    yield f'{kind}://bucket/sets/tiny'

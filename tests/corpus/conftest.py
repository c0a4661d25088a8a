"""Fixtures of the corpus tests: an empty place on each kind of store."""

import importlib.util
import shutil
import sys

import fsspec
import pytest

from tests.corpus import servers

AZURITE = shutil.which('azurite-blob')
AZURE_KEY = 'Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=='  # published


@pytest.fixture(params=['file', 'gs', 'az'])
def store(request, tmp_path, monkeypatch):
  """URL of an empty place: a folder, or real emulators of Google Cloud Storage and of Azure on loopback."""
  if request.param == 'file':
    yield str(tmp_path / 'a store' / 'tiny')
    return
  port = servers.free_port()
  if request.param == 'gs':
    if not all(importlib.util.find_spec(name) for name in ('gcp_storage_emulator', 'gcsfs')):
      pytest.skip('gcp-storage-emulator and gcsfs are not installed')
    command = [sys.executable, '-m', 'gcp_storage_emulator', 'start', '--in-memory', f'--port={port}']
    command.append('--host=127.0.0.1')
    monkeypatch.setenv('STORAGE_EMULATOR_HOST', f'http://127.0.0.1:{port}')
  else:
    if AZURITE is None or importlib.util.find_spec('adlfs') is None:
      pytest.skip('Azurite (npm install -g azurite) and adlfs are not installed')
    command = [AZURITE, '--inMemoryPersistence', '--skipApiVersionCheck', '--silent', '--blobHost', '127.0.0.1',
               '--blobPort', str(port)]  # fmt: skip
    monkeypatch.setenv('AZURE_STORAGE_CONNECTION_STRING', (
      f'DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey={AZURE_KEY};'
      f'BlobEndpoint=http://127.0.0.1:{port}/devstoreaccount1;'
    ))  # fmt: skip
  with servers.serving(command, port, tmp_path):
    fsspec.filesystem(request.param, skip_instance_cache=True).mkdir('bucket')
    yield f'{request.param}://bucket/sets/tiny'

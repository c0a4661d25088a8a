"""A checkpoint at a URL: copied once, checked, pinned, there without a network, and whole after a kill."""

import hashlib
import logging
import pathlib
import re
import shutil

import pytest

from deepsentinel.data import stores
from deepsentinel.evaluate import run
from deepsentinel.export import folder
from deepsentinel.train import checkpoint, exported
from tests import commands, emulators, untrained
from tests.sources import loopback


@pytest.fixture(scope='module')
def shared(tmp_path_factory) -> pathlib.Path:
  made = tmp_path_factory.mktemp('made')
  return folder.export(untrained.save(made / 'run', stage='pretrain'), made / 'www' / 'shared').folder


@pytest.fixture
def server(shared, tmp_path):
  """A web server with a copy of the folder."""
  shutil.copytree(shared, tmp_path / 'www' / 'shared')
  with loopback.Server(tmp_path / 'www').running() as server:
    yield server


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> pathlib.Path:
  monkeypatch.setenv('DEEPSENTINEL_CACHE', str(tmp_path / 'cache'))
  monkeypatch.setattr(stores, 'ATTEMPTS', 2)
  monkeypatch.setattr(stores, 'READ_ATTEMPTS', 3)
  return tmp_path / 'cache' / 'checkpoints'


def pin_of(shared: pathlib.Path) -> str:
  return hashlib.sha256((shared / 'model.safetensors').read_bytes()).hexdigest()


def test_it_is_copied_once_and_needs_no_network_then(server, shared, caplog):
  url, pin = f'{server.url}/data/shared', pin_of(shared)
  expected = checkpoint.load_trained(shared).sha256
  server.faults = [['safetensors', 'truncated', 1], ['model.json', 'status:503', 1]]
  assert checkpoint.load_trained(f'{url}/').sha256 == expected
  assert not any(count for _, _, count in server.faults)
  before = server.seen['GET']
  assert checkpoint.load_trained(url, 'pretrain').sha256 == expected
  assert server.seen['GET'] == before + 1  # SHA256SUMS, which says that all is here
  assert checkpoint.load_trained(f'{url}#sha256={pin}').sha256 == expected
  assert server.seen['GET'] == before + 1  # pinned: nothing can be newer
  server.faults = [['', 'status:503', 10**6]]
  with caplog.at_level(logging.WARNING):
    assert checkpoint.load_trained(url).sha256 == expected
  assert 'The copy of an earlier time is used' in caplog.text
  with pytest.raises(ValueError, match='gave no whole answer'):
    checkpoint.load_trained(f'{url}@sha256:{"1" * 64}')


def test_probes_of_a_url(server, shared):
  url, pin = f'{server.url}/data/shared', pin_of(shared)
  for name in (url, f'{url}/', f'{url}#sha256={pin}'):
    found = run.load([name], 'pretrain')
    assert {key: model.sha256 for key, model in found.items()} == {'shared': checkpoint.load_trained(shared).sha256}


def test_a_later_version_is_copied_and_a_pin_keeps_the_earlier(server, shared, tmp_path):
  url, old, pin = f'{server.url}/data/shared', checkpoint.load_trained(shared), pin_of(shared)
  assert checkpoint.load_trained(f'{url}#sha256={pin}').sha256 == old.sha256
  newer = untrained.save(tmp_path / 'run', stage='pretrain', width=16)
  shutil.rmtree(server.folder / 'shared')
  folder.export(newer, server.folder / 'shared')
  assert checkpoint.load_trained(f'{url}#sha256={pin}').sha256 == old.sha256
  assert checkpoint.load_trained(url).sha256 == checkpoint.load_trained(newer).sha256
  with pytest.raises(ValueError, match=f'{url} holds other weights than those pinned'):
    checkpoint.load_trained(f'{url}#sha256={pin}')


@pytest.mark.parametrize('name', ['model.safetensors', 'model.json'])
@pytest.mark.parametrize('change', [lambda b: b[:-50], lambda b: b[:-1] + b'?'], ids=['truncated', 'altered'])
def test_a_file_that_is_not_what_was_exported_is_refused(server, cache, name, change):
  path = server.folder / 'shared' / name
  whole = path.read_bytes()
  path.write_bytes(change(whole))
  url = f'{server.url}/data/shared'
  with pytest.raises(ValueError, match=re.escape(f'{url}/{name} is not what was published. Export the checkpoint aga')):
    checkpoint.load_trained(url)
  assert not list(cache.rglob('*.part'))
  path.write_bytes(whole)
  assert checkpoint.load_trained(url).stage == 'pretrain'


def test_a_copy_that_was_damaged_is_copied_again(server, cache):
  url = f'{server.url}/data/shared'
  loaded = checkpoint.load_trained(url)
  (loaded.directory / 'model.safetensors').write_bytes(b'damaged')
  assert checkpoint.load_trained(url).sha256 == loaded.sha256


def test_what_is_no_exported_checkpoint(server, tmp_path):
  (server.folder / 'run').mkdir()
  for name in ('run', 'nothing'):
    with pytest.raises(ValueError, match=f'{name} has no SHA256SUMS of an exported checkpoint') as error:
      checkpoint.load_trained(f'{server.url}/data/{name}')
    assert '`python -m deepsentinel.export --checkpoint=RUN --out=FOLDER`' in str(error.value)
  (server.folder / 'run' / 'SHA256SUMS').write_text(f'{"0" * 64}  ../model.json\n')
  with pytest.raises(ValueError, match=r"names '\.\./model\.json', which is no file below it"):
    checkpoint.load_trained(f'{server.url}/data/run')


def test_a_killed_copy_goes_on(server, cache):
  """kill -9 while the weights come; the same command ends as if nothing had been, and nothing half is left."""
  url = f'{server.url}/data/shared'
  server.slow_s, server.faults = 30.0, [['safetensors', 'slow', 1]]
  command = (
    'deepsentinel.embed', f'--checkpoint={url}', '--source=synthetic', '--bounds=12,52,12.01,52.01',
    '--date=2018-06-15', f'--out={cache.parent / "maps"}',
  )  # fmt: skip
  running = commands.Running(*command, DEEPSENTINEL_CACHE=str(cache.parent))
  running.wait_until(lambda: any(cache.rglob('.model.safetensors.part')))
  running.kill()
  assert not list(cache.rglob('model.safetensors'))
  finished = commands.run(*command, DEEPSENTINEL_CACHE=str(cache.parent))
  assert finished.code == 0, finished.err
  assert (cache.parent / 'maps' / 'embedding.tif').exists()
  assert not list(cache.rglob('*.part'))
  before = server.seen['GET']
  assert checkpoint.load_trained(url).stage == 'pretrain'
  assert server.seen['GET'] == before + 1


@pytest.mark.slow
def test_from_googles_store(shared, tmp_path):
  with emulators.store('gs', tmp_path) as url:
    store, root = stores.open_store(url)
    for path in shared.iterdir():
      store.put_file(str(path), f'{root}/{path.name}')
    assert checkpoint.load_trained(f'{url}#sha256={pin_of(shared)}').sha256 == checkpoint.load_trained(shared).sha256
    assert exported.is_exported(checkpoint.load_trained(url).directory)

"""Publishing: to a folder, and to real emulators of Google Cloud Storage and of Azure on loopback."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from deepsentinel import corpus
from deepsentinel.corpus import publish
from deepsentinel.data import stores
from tests import commands
from tests.corpus.tiny_config import get_config


@pytest.fixture(scope='module')
def made(tmp_path_factory) -> pathlib.Path:
  config = get_config()
  config.patches = 3
  return corpus.run(config, tmp_path_factory.mktemp('corpus') / 'out').path


def test_a_corpus_is_published_whole_and_once(made, store):
  sent = publish.publish(made, store, progress=False)
  files = {path.relative_to(made).as_posix() for path in publish.files_of(made)}
  assert {'manifest.parquet', 'corpus.json', 'corpus.html', 'patches/p000000/s2.tif'} <= files
  assert sent == len(files)
  there, root = stores.open_store(store)
  listed = publish.listing(there, root)
  assert set(listed) == files | {publish.CARD, publish.SUMS}
  assert publish.verify(store, progress=False) == len(files)
  card = there.cat_file(f'{root}/{publish.CARD}').decode()
  assert '3 of 32 x 32 px' in card

  # Again: what is there stays, what is damaged or gone comes anew.
  there.pipe_file(f'{root}/corpus.json', b'{}')
  there.rm_file(f'{root}/patches/p000001/s1.tif')
  with pytest.raises(ValueError, match=r'2 of \d+ files at .* are gone or not what was published'):
    publish.verify(store, progress=False)
  assert publish.publish(made, store, progress=False) == 2
  assert publish.verify(store, progress=False) == len(files)


def test_a_changed_file_of_the_same_length_is_sent(made, store, tmp_path):
  """Where a store says no MD5, its length alone would pass."""
  folder = tmp_path / 'corpus'
  shutil.copytree(made, folder)
  publish.publish(folder, store, progress=False)
  card = (folder / 'corpus.json').read_text()
  assert '"name": "tiny"' in card
  (folder / 'corpus.json').write_text(card.replace('"name": "tiny"', '"name": "ynit"'))
  assert publish.publish(folder, store, progress=False) == 1
  publish.verify(store, progress=False)


def test_a_file_is_read_once_to_be_compared(made, store, monkeypatch):
  publish.publish(made, store, progress=False)
  read = []
  digests = publish.digests
  monkeypatch.setattr(publish, 'digests', lambda path, **named: read.append((path, named)) or digests(path, **named))
  opened = []
  whole = pathlib.Path.open
  monkeypatch.setattr(pathlib.Path, 'open', lambda path, *a, **b: opened.append(path) or whole(path, *a, **b))
  assert publish.publish(made, store, progress=False) == 0
  tifs = [path for path in publish.files_of(made) if path.suffix == '.tif']
  assert sorted(path for path in opened if path.suffix == '.tif') == tifs
  assert [named['md5'] for path, named in read] == [not store.startswith('/')] * len(read)
  # Other content of the same length is noticed where the store says an MD5.
  there, root = stores.open_store(store)
  there.pipe_file(f'{root}/corpus.json', b'x' * (made / 'corpus.json').stat().st_size)
  assert publish.publish(made, store, progress=False) == (not store.startswith('/'))


def test_a_killed_command_goes_on(made, tmp_path):
  store = tmp_path / 'store'
  big = tmp_path / 'corpus'
  shutil.copytree(made, big)
  for i in range(400):
    (big / f'extra{i}.bin').write_bytes(os.urandom(200_000))
  command = [sys.executable, '-m', 'deepsentinel.corpus', 'publish', str(big), str(store)]
  process = subprocess.Popen(command, cwd=commands.ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
  for _ in range(600):
    if len(list(store.glob('*'))) > 20:
      break
    time.sleep(0.05)
  process.send_signal(signal.SIGKILL)
  process.wait()
  assert not (store / publish.SUMS).exists()
  with pytest.raises(ValueError, match=r'has no SHA256SUMS: the copy is not whole'):
    publish.verify(str(store), progress=False)
  done = subprocess.run([*command, '--verify'], cwd=commands.ROOT, capture_output=True, text=True, check=True)
  sent, read = re.search(r'; (\d+) files were not there yet; (\d+) files were read back', done.stdout).groups()
  assert int(read) == len(list(publish.files_of(big)))
  assert int(sent) <= int(read) - 20


def test_what_cannot_be_published_is_said(made, tmp_path, monkeypatch):
  with pytest.raises(ValueError, match=r'is neither a corpus .corpus.json. nor records'):
    publish.publish(tmp_path, 'memory://x', progress=False)
  with pytest.raises(ValueError, match=r'Pass a folder or a URL'):
    publish.publish(made, 'gopher://x/y', progress=False)
  monkeypatch.setitem(sys.modules, 's3fs', None)
  with pytest.raises(ValueError, match=r'needs a package that is not installed: pip install s3fs'):
    publish.publish(made, 's3://bucket/x', progress=False)
  (tmp_path / 'file').write_text('')
  with pytest.raises(ValueError, match=r'files could not be sent .* such as .*Run the same command again'):
    publish.publish(made, str(tmp_path / 'file' / 'below'), progress=False)
  command = [sys.executable, '-m', 'deepsentinel.corpus', 'publish', str(made)]
  failed = subprocess.run(command, cwd=commands.ROOT, capture_output=True, text=True, check=False)
  assert failed.returncode == 1
  assert failed.stderr.startswith('error: publish wants a folder and a URL')

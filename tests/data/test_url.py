"""Records read from where they were published, by range requests: a real web server on loopback, and emulators."""

import itertools
import os
import pathlib
import pickle
import shutil
import sys

import fsspec
import numpy as np
import pytest

from deepsentinel.corpus import publish
from deepsentinel.data import batches, download, neighbours, recordindex, records, shards, statistics, stores
from tests import emulators, tiny_records
from tests.sources import loopback

NAME = 'deepsentinel_labelled/custom/1.0.0'


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> pathlib.Path:
  monkeypatch.setenv('DEEPSENTINEL_CACHE', str(tmp_path / 'cache'))
  return tmp_path / 'cache' / 'records'


@pytest.fixture(scope='module')
def made(tmp_path_factory) -> pathlib.Path:
  """Prepared records of which nothing was computed yet."""
  prepared = tiny_records.tiny_records(num_shards=2)
  unused = shutil.ignore_patterns('band_statistics*', 'index*')
  return pathlib.Path(shutil.copytree(prepared, tmp_path_factory.mktemp('made') / NAME, ignore=unused))


@pytest.fixture
def server(made, tmp_path):
  """A web server with the records, published, in its folder."""
  publish.publish(made, str(tmp_path / 'www' / NAME), progress=False)
  with loopback.Server(tmp_path / 'www').running() as server:
    yield server


@pytest.fixture
def url(server) -> str:
  return f'{server.url}/data/{NAME}'


def some_batches(split: records.RecordSet) -> list[batches.Batch]:
  sampler = neighbours.NeighbourSampler.from_records(split.table, max_distance_km=10)
  drawn = batches.training_batches(split, views='triplet', batch_size=8, crop_px=16, seed=1, neighbours=sampler)
  covering = batches.evaluation_batches(split, batch_size=5, crop_px=20, fields=('s2', 's1', 'corine', 'osm', 'scene'))
  return [*itertools.islice(drawn, 3), *covering]


def assert_same(found: records.RecordSet, expected: records.RecordSet) -> None:
  assert found.table.equals(expected.table)
  for a, b in zip(some_batches(found), some_batches(expected), strict=True):
    assert a.keys() == b.keys()
    for key in a:
      np.testing.assert_array_equal(a[key], b[key], strict=True)


def state(folder: pathlib.Path) -> list[tuple[str, int]]:
  return [(str(p.relative_to(folder)), p.stat().st_mtime_ns) for p in sorted(folder.rglob('*'))]


def test_batches_from_a_web_server_equal_those_of_the_folder(made, server, url, cache):
  before = state(server.folder)
  found = records.RecordSet(url)
  assert_same(found, records.RecordSet(made))
  assert_same(pickle.loads(pickle.dumps(found)), records.RecordSet(made))
  found.verify(progress=False)
  assert statistics.band_statistics(found, progress=False) == statistics.band_statistics(
    records.RecordSet(made), progress=False
  )
  assert state(server.folder) == before
  assert found.kept.parent == cache
  assert {p.name.split('-')[0] for p in found.kept.iterdir()} >= {'index.train.parquet', 'band_statistics'}


@pytest.mark.parametrize('kind', [*emulators.STORES, 'memory'])
def test_batches_from_any_store_equal_those_of_the_folder(made, kind, tmp_path):
  with emulators.store(kind, tmp_path) if kind != 'memory' else memory() as place:
    url = f'file://{place}' if kind == 'file' else place
    publish.publish(made, url, progress=False)
    assert publish.verify(url, progress=False) == len(list(publish.files_of(made)))
    assert publish.publish(made, url, progress=False) == 0
    assert_same(records.RecordSet(records.resolve(url)), records.RecordSet(made))


class memory:
  """fsspec's own store, which reads one range after the other."""

  def __enter__(self) -> str:
    return 'memory://sets/tiny'

  def __exit__(self, *_) -> None:
    fsspec.filesystem('memory').rm('/sets', recursive=True)


def test_only_the_crops_are_read_and_near_ones_at_once(server, url, made):
  found = records.RecordSet(url)
  before = server.seen['GET']
  index, zeros = np.arange(len(found)), np.zeros(len(found), int)
  found.read_crops('s2', index, zeros, zeros, 8)
  # The records of a shard lie within the gap that is cheaper to read than to ask for again.
  assert server.seen['GET'] - before == len(list(made.glob('*-train.tfrecord-*')))
  store = stores.Store(url)
  name = next(made.glob('*-train.tfrecord-*')).name
  whole = (made / name).read_bytes()
  wanted = [(name, 0, 10), (name, 5, 9), (name, 30_000, 30_001), (name, 0, 10), (name, 7, 7)]
  assert [bytes(part) for part in store.ranges(wanted)] == [whole[a:b] for _, a, b in wanted]


def test_the_published_index_is_used_and_kept(server, url, monkeypatch):
  monkeypatch.setattr(recordindex, 'build', lambda *_: pytest.fail('indexed again'))
  assert len(records.RecordSet(url)) == 8
  (server.folder / NAME / 'index.train.parquet').unlink()
  assert len(records.RecordSet(url)) == 8  # from the cache


@pytest.mark.parametrize('how', ['none', 'of other shards', 'damaged'])
def test_without_an_index_of_these_shards_one_is_made_once(server, url, how, tmp_path, monkeypatch, caplog):
  path = server.folder / NAME / 'index.train.parquet'
  if how == 'none':
    path.unlink()
  elif how == 'damaged':
    path.write_bytes(path.read_bytes()[:-20])
  else:  # records in another order: header and checksum of the first tell
    shard = next((server.folder / NAME).glob('*-train.tfrecord-*'))
    content = shard.read_bytes()
    size = 16 + int.from_bytes(content[:8], 'little')
    shard.write_bytes(content[size:] + content[:size])
  found = records.RecordSet(url)
  folder = shutil.copytree(server.folder / NAME, tmp_path / 'downloaded')
  assert_same(found, records.RecordSet(folder))
  assert 'has no index of these shards' in caplog.text
  monkeypatch.setattr(recordindex, 'build', lambda *_: pytest.fail('indexed again'))
  assert len(records.RecordSet(url)) == 8


def test_published_statistics_are_taken(made, server, tmp_path, monkeypatch):
  copy = shutil.copytree(made, tmp_path / 'copy')
  expected = statistics.band_statistics(records.RecordSet(copy), progress=False)
  publish.publish(copy, str(server.folder / 'again'), progress=False)
  found = records.RecordSet(f'{server.url}/data/again')
  monkeypatch.setattr(records.RecordSet, 'read', lambda *_: pytest.fail('read pixels'))
  assert statistics.band_statistics(found, progress=False) == expected


@pytest.mark.parametrize('fault', ['status:500', 'status:429', 'reset', 'truncated'])
def test_faults_change_no_batch(made, server, url, fault):
  server.faults = [['^/data/.*json', fault, 2], ['^HEAD', fault if fault != 'truncated' else 'reset', 1]]
  found = records.RecordSet(url)
  server.faults += [['^/data/.*tfrecord', fault, 3]]
  assert_same(found, records.RecordSet(made))
  assert server.seen[fault] >= 5
  assert all(not count for _, _, count in server.faults)


def test_what_fails_for_good_is_said_and_reading_goes_on_after_it(server, url, monkeypatch):
  found = records.RecordSet(url)
  expected = found.read('s2', [0, 7])
  monkeypatch.setattr(stores, 'READ_ATTEMPTS', 3)
  for fault, said in [
    (
      'status:503',
      r'gave no whole answer in 3 attempts \(503.*run the same command again: it goes on where it stopped',
    ),
    ('truncated', r'gave no whole answer in 3 attempts'),
    ('status:403', r'is not open to this account \(403'),
    ('status:401', r'is not open to this account \(401'),
  ]:
    server.faults = [['^/data/.*tfrecord', fault, 99]]
    with pytest.raises(stores.Unreadable, match=rf'{url}/\S*tfrecord-0000\d-of-00002 {said}') as error:
      next(batches.training_batches(found, views='single', batch_size=4, crop_px=8, seed=0))
    assert '\n' not in str(error.value)
  server.faults = []
  np.testing.assert_array_equal(found.read('s2', [0, 7]), expected)


@pytest.mark.parametrize('how', ['other pixels', 'shorter', 'gone'])
def test_a_shard_that_is_replaced_is_refused(server, url, how, monkeypatch):
  monkeypatch.setattr(shards, 'CHECK_S', 0.0)
  monkeypatch.setattr(stores, 'READ_ATTEMPTS', 2)
  found = records.RecordSet(url)
  found.read('s2', [7])
  shard = sorted((server.folder / NAME).glob('*-train.tfrecord-*'))[-1]
  content = bytearray(shard.read_bytes())
  if how == 'gone':
    shard.unlink()
  else:
    content[len(content) // 2] ^= 1
    shard.write_bytes(content if how == 'other pixels' else content[: len(content) // 2])
  said = 'is not there, so the records are not whole' if how == 'gone' else 'was replaced while it was read'
  with pytest.raises(ValueError, match=rf'{shard.name} {said}'):
    found.read('s2', [7])


def test_a_web_server_that_compresses_json(server, url, made):
  server.packs = True
  assert_same(records.RecordSet(url, 'train'), records.RecordSet(made, 'train'))


def test_what_cannot_be_read_is_said(server, url, monkeypatch):
  shard = sorted((server.folder / NAME).glob('*-test.tfrecord-*'))[0]
  content = shard.read_bytes()
  shard.unlink()
  with pytest.raises(
    ValueError, match=rf'{shard.name} is not there, so the records are not whole\. Publish them again'
  ):
    records.RecordSet(url, 'test')
  shard.write_bytes(content[:-5])
  with pytest.raises(ValueError, match=rf'{url}/{shard.name} is cut short or damaged: .*Publish the records again'):
    records.RecordSet(url, 'test')
  server.ranges = False
  with pytest.raises(
    ValueError, match=r'cannot be read: it comes whole only; the server has to answer requests with R'
  ):
    records.RecordSet(url)
  server.ranges = True
  path = server.folder / NAME / 'metadata.json'
  path.write_text('{')
  with pytest.raises(ValueError, match=r'metadata\.json is damaged'):
    records.RecordSet(url)
  path.unlink()
  with pytest.raises(ValueError, match=r'is no prepared data set: metadata\.json is not there\. `python -m .* publish'):
    records.RecordSet(url)
  server.faults = [['/data/', 'status:403', 99]]
  with pytest.raises(ValueError, match=r'is not open to this account'):
    records.resolve(url)


def test_a_download_is_checked_and_goes_on(made, server, url, cache, monkeypatch):
  monkeypatch.setattr(stores, 'READ_ATTEMPTS', 2)
  assert download.download(made) == made
  last = sorted(made.glob('*.tfrecord-*'))[-1].name
  server.faults = [[last, 'status:403', 99], ['train.tfrecord', 'truncated', 1]]
  with pytest.raises(ValueError, match=rf'{last} is not open to this account'):
    download.download(url, progress=False)
  server.faults, before = [], server.seen['GET']
  (kept,) = cache.iterdir()
  there = {path.name for path in kept.glob('[!.]*')}
  whole = download.download(url, progress=False)
  assert whole == kept
  assert server.seen['GET'] - before == 1 + len(list(publish.files_of(made))) - len(there)  # the first is SHA256SUMS
  assert_same(records.RecordSet(whole), records.RecordSet(made))
  before = server.seen['GET']
  assert download.download(url, progress=False) == whole
  assert server.seen['GET'] - before == 1
  # Another state of the records is another folder; one that is not what its list says is refused.
  sums = server.folder / NAME / 'SHA256SUMS'
  listed = sums.read_text()
  sums.write_text(listed.replace(listed[:64], 64 * '0'))
  with pytest.raises(ValueError, match=r'is not what was published\. Publish the records again'):
    download.download(url, progress=False)
  sums.write_text(f'{64 * "0"}  ../../escaped\n')
  with pytest.raises(ValueError, match=r"names '\.\./\.\./escaped', which is no file below it"):
    download.download(url, progress=False)
  sums.unlink()
  with pytest.raises(ValueError, match=r'has no SHA256SUMS.*--config\.data\.download=False'):
    download.download(url, progress=False)


def test_names_are_found_below_a_url(server, url):
  home = f'{server.url}/data/'
  for name in (url, f'{url}/', url.removesuffix('/1.0.0')):
    assert records.resolve(name) == url
  for name in ('deepsentinel_labelled', 'deepsentinel_labelled/custom', 'deepsentinel_labelled/custom:1.0.0'):
    assert records.resolve(name, home) == url
  assert records.splits(url) == ['train', 'validation', 'test']
  with pytest.raises(ValueError, match=r'/data/other holds no prepared records .*publish FOLDER http\S+/data/other`'):
    records.resolve(f'{home}other')
  with pytest.raises(
    ValueError, match=r'labelled/demo is not prepared in .* Prepared there: custom\. Publish it there'
  ):
    records.resolve('deepsentinel_labelled/demo', home)
  server.lists = False
  assert records.resolve('deepsentinel_labelled/custom:1.0.0', home) == url
  with pytest.raises(ValueError, match=r"name the version as well: 'deepsentinel_labelled/custom:1\.0\.0'"):
    records.resolve('deepsentinel_labelled/custom', home)


def test_a_token_in_the_query_is_sent_and_not_shown(server, url):
  server.token = 'secret'
  assert len(records.RecordSet(f'{url}?token=secret')) == 8
  with pytest.raises(ValueError, match='is not open to this account') as error:
    records.RecordSet(f'{url}?token=wrong')
  assert 'wrong' not in str(error.value)


def test_a_missing_package_or_login_is_said(monkeypatch):
  for url, package in (('s3://bucket/x', 's3fs'), ('https://example.org/x', 'aiohttp')):
    with monkeypatch.context() as patch:
      patch.setitem(sys.modules, package, None)
      with pytest.raises(ValueError, match=f'needs a package that is not installed: pip install {package}'):
        records.resolve('deepsentinel_labelled/demo', url)
  with pytest.raises(ValueError, match='Pass a folder or a URL'):
    records.resolve('gopher://x/y')
  pytest.importorskip('adlfs')
  for name in [name for name in os.environ if name.startswith('AZURE_')]:
    monkeypatch.delenv(name)
  with pytest.raises(ValueError, match='Set AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT_NAME'):
    records.resolve('az://container/records')

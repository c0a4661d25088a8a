"""Random access to records, against TFDS's own deserialisation of the same shards."""

import functools
import json
import os
import pathlib
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import given, settings
from hypothesis import strategies as st

from deepsentinel import schema
from deepsentinel.data import recordindex, records, shards
from tests import tiny_records

PX = 32


@pytest.fixture(scope='session')
def labelled() -> pathlib.Path:
  return tiny_records.tiny_records()


@pytest.fixture(scope='session')
def unlabelled() -> pathlib.Path:
  return tiny_records.tiny_records(labelled=False)


@pytest.fixture
def copied(labelled, tmp_path) -> pathlib.Path:
  """A copy that a test may damage."""
  return pathlib.Path(shutil.copytree(labelled, tmp_path / 'prepared'))


def shard_records(path: pathlib.Path) -> list[bytes]:
  """Splits a TFRecord shard by its length fields alone."""
  data, at, out = path.read_bytes(), 0, []
  while at < len(data):
    size = int.from_bytes(data[at : at + 8], 'little')
    out.append(data[at + 12 : at + 12 + size])
    at += 16 + size
  return out


def oracle(directory: pathlib.Path, split: str) -> list[dict]:
  """Every record of a split as TFDS itself decodes it, in shard order."""
  features = tfds.builder_from_directory(directory).info.features
  shards = sorted(directory.glob(f'*-{split}.tfrecord-*'))
  return [features.deserialize_example_np(r) for shard in shards for r in shard_records(shard)]


@pytest.mark.parametrize('split', ['train', 'validation', 'test'])
def test_whole_patches_and_scalars_equal_tfds(labelled, split):
  rs = records.RecordSet(labelled, split)
  expected = oracle(labelled, split)
  assert len(rs) == len(expected) > 0
  for field in rs.fields:
    actual = rs.read(field, np.arange(len(rs)))
    np.testing.assert_array_equal(actual, np.stack([e[field] for e in expected]), strict=True)
  assert list(rs.table.columns) == [c.name for c in schema.SCALARS]
  for column in schema.SCALARS:
    for i, e in enumerate(expected):
      want = e[column.name].decode() if column.dtype == 'string' else e[column.name]
      assert rs.table[column.name][i] == want, (column.name, i)


def test_northings_keep_their_centimetres(labelled):
  """float64 scalars come back exactly; as float32 a northing of 5,374,650.25 m would not."""
  manifest = tiny_records.geopandas.read_parquet(labelled.parents[3] / 'corpus' / 'manifest.parquet').set_index('id')
  table = records.RecordSet(labelled, 'train').table
  for name in ('lon_deg', 'lat_deg', 'x0_m', 'y0_m'):
    np.testing.assert_array_equal(table[name], manifest.loc[table['id'], name])


def test_splits_hold_their_manifest_rows_and_nothing_else(labelled, unlabelled):
  manifest = tiny_records.geopandas.read_parquet(labelled.parents[3] / 'corpus' / 'manifest.parquet')
  for split in ('train', 'validation', 'test'):
    expected = manifest.query('state == "done" and split == @split')['id']
    assert sorted(records.RecordSet(labelled, split).table['id']) == sorted(expected)
  assert len(records.RecordSet(unlabelled, 'train')) == 12
  assert list(records.RecordSet(unlabelled, 'train').fields) == ['s2', 's1']


@given(data=st.data(), threads=st.sampled_from([1, 3]), crop=st.integers(1, PX))
@settings(max_examples=60, deadline=None)
def test_any_crops_equal_slices_of_the_oracle(labelled, data, threads, crop):
  rs = _opened(labelled, threads)
  count = data.draw(st.integers(0, 9))
  index = data.draw(st.lists(st.integers(0, len(rs) - 1), min_size=count, max_size=count))
  row, col = (data.draw(st.lists(st.integers(0, PX - crop), min_size=count, max_size=count)) for _ in range(2))
  for field, known in rs.fields.items():
    whole = _decoded(labelled, field)
    expected = [whole[i, r : r + crop, c : c + crop] for i, r, c in zip(index, row, col, strict=True)]
    actual = rs.read_crops(field, index, row, col, crop)
    assert actual.shape == (count, crop, crop, *known.shape[2:])
    assert actual.dtype == known.dtype
    if count:
      np.testing.assert_array_equal(actual, np.stack(expected))


@functools.cache
def _opened(directory, threads):
  return records.RecordSet(directory, 'train', threads=threads)


@functools.cache
def _decoded(directory, field):
  return np.stack([e[field] for e in oracle(directory, 'train')])


@pytest.mark.parametrize(('px', 'crop'), [(1400, 700), (1400, 1400), (300_000, 2)])
def test_crops_of_several_bands(tmp_path, px, crop):
  """Bands are half a megabyte: a crop may need several, and one row may be longer."""
  pixels = np.random.default_rng(0).integers(0, 65535, (crop + 9 if px > crop else crop, px), np.uint16)
  (tmp_path / 'shard').write_bytes(b'x' * 7 + pixels.tobytes())
  local = shards.LocalShards(tmp_path, ['shard'])
  row, col = (5, 30) if px > crop else (0, 0)
  out = np.empty((1, crop, crop), np.uint16)
  first = 7 + row * px * 2
  local.read_bands(np.zeros(1, int), np.array([first]), np.array([col * 2]), px * 2, out.view(np.uint8))
  np.testing.assert_array_equal(out[0], pixels[row : row + crop, col : col + crop])


def test_short_reads_are_finished(labelled, monkeypatch):
  """A file system may return fewer bytes than asked for, without the file having ended."""
  expected = records.RecordSet(labelled, 'train').read('s2', [0, 3])
  real = os.preadv
  monkeypatch.setattr(os, 'preadv', lambda fd, buffers, offset: real(fd, buffers, offset) - 10)
  pread = os.pread
  monkeypatch.setattr(os, 'pread', lambda fd, count, offset: pread(fd, min(count, 1000), offset))
  np.testing.assert_array_equal(records.RecordSet(labelled, 'train').read('s2', [0, 3]), expected)


def test_reads_into_given_array_and_refuses_a_wrong_one(labelled):
  rs = records.RecordSet(labelled, 'train')
  out = np.zeros((2, 8, 8, 2), np.int16)
  assert rs.read_crops('s1', [0, 1], [1, 2], [3, 4], 8, out=out) is out
  np.testing.assert_array_equal(out[1], rs.read('s1', [1])[0, 2:10, 4:12])
  with pytest.raises(ValueError, match=r'C-contiguous int16 \(2, 8, 8, 2\); found float32'):
    rs.read_crops('s1', [0, 1], [1, 2], [3, 4], 8, out=out.astype(np.float32))


def test_bad_requests_say_what_is_allowed(labelled):
  rs = records.RecordSet(labelled, 'train')
  with pytest.raises(ValueError, match=r"no field 's3'\. Fields: s2, s1, corine, osm"):
    rs.read('s3', [0])
  with pytest.raises(ValueError, match='Crop 1 at row 25, column 0 leaves its patch; crop_px=8 allows 0 to 24'):
    rs.read_crops('s2', [0, 0], [0, 25], [0, 0], 8)
  with pytest.raises(ValueError, match=r"Record number 8 is not there; split 'train' has 0 to 7"):
    rs.read('s2', [8])
  with pytest.raises(ValueError, match='crop_px=33 does not fit into patches of 32 px'):
    rs.read_crops('s2', [0], [0], [0], 33)
  with pytest.raises(ValueError, match=r"no split 'dev'\. Splits: train, validation, test"):
    records.RecordSet(labelled, 'dev')


def test_pickles(labelled):
  rs = pickle.loads(pickle.dumps(records.RecordSet(labelled, 'test')))
  assert rs.read('s2', [0]).shape == (1, PX, PX, 12)


def test_index_is_stored_and_used(copied, monkeypatch):
  records.RecordSet(copied, 'train')
  assert (copied / 'index.train.parquet').is_file()
  monkeypatch.setattr(recordindex, 'build', lambda *_: pytest.fail('indexed again'))
  assert len(records.RecordSet(copied, 'train')) == 8


@pytest.mark.parametrize('how', ['other shard of the same size', 'broken file', 'other features'])
def test_stale_index_is_rebuilt(copied, how):
  shard = next(copied.glob('*-train.tfrecord-*'))
  before = records.RecordSet(copied, 'train').table['id'].tolist()
  if how == 'other shard of the same size':
    data = shard.read_bytes()
    size = 16 + int.from_bytes(data[:8], 'little')
    shard.write_bytes(data[size:] + data[:size])
    expected = before[1:] + before[:1]
  else:
    expected = before
    path = copied / ('index.train.parquet' if how == 'broken file' else 'features.json')
    path.write_bytes(path.read_bytes()[:-20] if how == 'broken file' else path.read_bytes() + b'\n')
  assert records.RecordSet(copied, 'train').table['id'].tolist() == expected
  assert not list(copied.glob('.index*'))


def test_read_only_directory_is_indexed_in_memory(copied, monkeypatch):
  (copied / 'index.train.parquet').unlink(missing_ok=True)

  def refuse(**_):
    raise PermissionError(13, 'Permission denied')

  monkeypatch.setattr(recordindex.tempfile, 'mkstemp', refuse)
  with pytest.warns(UserWarning, match='the records are indexed anew each time'):
    assert len(records.RecordSet(copied, 'train')) == 8


@pytest.mark.parametrize('indexed', [False, True])
@pytest.mark.parametrize('cut', ['in the middle', 'between records', 'in a header'])
def test_truncated_shard_is_named_with_its_sizes(copied, cut, indexed):
  if indexed:
    records.RecordSet(copied, 'train')
  else:
    (copied / 'index.train.parquet').unlink(missing_ok=True)
  shard = next(copied.glob('*-train.tfrecord-*'))
  whole = shard.stat().st_size
  first = 16 + int.from_bytes(shard.read_bytes()[:8], 'little')
  keep = {'in the middle': whole // 2, 'between records': 3 * first, 'in a header': 3 * first + 5}[cut]
  os.truncate(shard, keep)
  with pytest.raises(ValueError) as error:
    records.RecordSet(copied, 'train')
  message = str(error.value)
  assert str(shard) in message
  assert f'found {keep:,} bytes, expected {whole:,}' in message
  assert '--overwrite' in message


def test_missing_shard_is_named(copied):
  shard = next(copied.glob('*-test.tfrecord-*'))
  shard.unlink()
  with pytest.raises(ValueError, match=f'{shard.name} is cut short or damaged: found 0 bytes.*no such file'):
    records.RecordSet(copied, 'test')


def test_shard_that_shrinks_while_open_raises(copied):
  rs = records.RecordSet(copied, 'train', threads=1)
  shard = next(copied.glob('*-train.tfrecord-*'))
  os.truncate(shard, shard.stat().st_size // 2)
  with pytest.raises(ValueError, match='it became shorter while it was open'):
    rs.read('s2', [len(rs) - 1])


def test_verify_names_shard_record_and_patch(copied):
  rs = records.RecordSet(copied, 'train')
  rs.verify(progress=False)
  shard = next(copied.glob('*-train.tfrecord-*'))
  data = bytearray(shard.read_bytes())
  size = 16 + int.from_bytes(data[:8], 'little')
  data[3 * size + 600] ^= 1
  shard.write_bytes(data)
  with pytest.raises(ValueError, match=f'record 3 .*patch {rs.table["id"][3]!r}.*does not match its checksum'):
    rs.verify(progress=False)


def test_checksum_is_tensorflows():
  """RFC 3720, B.4: CRC-32C of 32 zero bytes is 0x8A9136AA; masked as in record_writer.h."""
  crc = 0x8A9136AA
  masked = (((crc >> 15) | (crc << 17)) + 0xA282EAD8) % 2**32
  assert recordindex.masked_crc32c(bytes(32)) == masked


def test_foreign_directories_are_refused(copied):
  features = json.loads((copied / 'features.json').read_text())
  features['featuresDict']['features']['s2']['tensor']['encoding'] = 'zlib'
  (copied / 'features.json').write_text(json.dumps(features))
  with pytest.raises(ValueError, match=r"field 's2' is stored as zlib uint16 \(32, 32, 12\); the reader needs raw"):
    records.RecordSet(copied, 'train')
  (copied / 'metadata.json').write_text('{}')
  with pytest.raises(ValueError, match='no corpus card'):
    records.RecordSet(copied, 'train')


def test_resolve(labelled, tmp_path, monkeypatch):
  home = labelled.parents[2]
  assert records.resolve(labelled) == labelled
  assert records.resolve(labelled.parent) == labelled
  assert records.resolve('deepsentinel_labelled/custom', home) == labelled
  assert records.resolve('deepsentinel_labelled', home) == labelled
  monkeypatch.setenv('TFDS_DATA_DIR', str(home))
  assert records.resolve('deepsentinel_labelled/custom:1.0.0') == labelled
  with pytest.raises(ValueError, match=r'labelled_10k\.py --out=corpora/labelled_10k`, then `tfds build') as error:
    records.resolve('deepsentinel_labelled/labelled_10k', home)
  assert 'Prepared there: custom' in str(error.value)
  with pytest.raises(ValueError, match='`tfds build tfds_builders/deepsentinel_labelled --config=demo`'):
    records.resolve('deepsentinel_labelled', tmp_path)
  with pytest.raises(ValueError, match='neither a prepared directory nor a known data set'):
    records.resolve('imagenet', tmp_path)
  shutil.copytree(labelled, tmp_path / 'deepsentinel_labelled' / 'custom' / '1.0.0')
  shutil.copytree(labelled, tmp_path / 'deepsentinel_labelled' / 'demo' / '1.0.0')
  with pytest.raises(ValueError, match=r'prepared in .* as custom, demo; say which'):
    records.resolve('deepsentinel_labelled', tmp_path)


def test_reading_imports_neither_tensorflow_nor_jax(labelled):
  code = (
    'import sys; from deepsentinel.data import records; '
    f'rs = records.RecordSet({str(labelled)!r}, "train"); rs.read("s2", [0]); rs.verify(False); '
    'print([m for m in ("tensorflow", "tensorflow_datasets", "jax", "apache_beam") if m in sys.modules])'
  )
  result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
  assert result.stdout.strip() == '[]'


@pytest.mark.parametrize('optional', [True, False])
def test_a_scalar_that_older_records_lack(copied, monkeypatch, optional):
  """Records packaged before a scalar was known hold its missing value, if it is one that may be missing."""
  assert set(records.RecordSet(copied, 'train').table['scene']) == {0}
  later = schema.ScalarField('later', 'int32', 7, 'of a later version', optional=optional)
  monkeypatch.setattr(schema, 'SCALARS', (*schema.SCALARS, later))
  for index in copied.glob('index.*.parquet'):
    index.unlink()
  if optional:
    assert set(records.RecordSet(copied, 'train').table['later']) == {7}
  else:
    with pytest.raises(ValueError, match='it lacks later'):
      records.RecordSet(copied, 'train')

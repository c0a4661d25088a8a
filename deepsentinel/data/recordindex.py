"""Where every tensor of every record lies within the TFRecord shards.

A shard is a run of records: uint64 length, uint32 masked CRC32C of the length, the bytes of one tf.train.Example,
uint32 masked CRC32C of those bytes, all little-endian (TensorFlow, core/lib/io/record_writer.h). The walk below reads
the protobuf wire format and skips over the tensors, so that indexing touches a few kilobytes a record.
"""

import concurrent.futures
import dataclasses
import functools
import hashlib
import json
import math
import os
import pathlib
import struct
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import tqdm
from absl import logging

from deepsentinel import schema
from deepsentinel.data import stores
from deepsentinel.data.shards import truncated

FORMAT = 2
HEADER = struct.Struct('<QI')
CRC = struct.Struct('<I')
_SHARD, _START, _BYTES, _CRC = 'shard_', 'start_', 'bytes_', 'crc_'  # scalars have no trailing underscore


@dataclasses.dataclass(frozen=True)
class RecordIndex:
  """One split.

  Attributes:
    shard: int32 [N], number of the record's shard.
    start: int64 [N], offset of the Example within its shard.
    size: int64 [N], bytes of the Example.
    crc: uint32 [N], its masked CRC32C as the shard states it.
    offsets: tensor field -> int64 [N], offset of its first byte within the shard.
    table: the scalars, one row a record.
  """

  shard: np.ndarray
  start: np.ndarray
  size: np.ndarray
  crc: np.ndarray
  offsets: dict[str, np.ndarray]
  table: pd.DataFrame


def masked_crc32c(data: bytes) -> int:
  """TFRecord's checksum of `data`: CRC-32C, rotated right by 15 bits, plus a constant (record_writer.h)."""
  import google_crc32c

  crc = google_crc32c.value(data)
  return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _varint(data: bytes, position: int) -> tuple[int, int]:
  value = shift = 0
  while True:
    byte = data[position]
    position += 1
    value |= (byte & 0x7F) << shift
    if byte < 0x80:
      return value, position
    shift += 7


class _Window:
  """Reads a shard at any position through a small buffer; `read` takes a position and a count."""

  def __init__(self, read: Callable[[int, int], bytes], window_bytes: int):
    self._read, self._window_bytes = read, window_bytes
    self._start, self._data = 0, b''

  def at(self, position: int, count: int) -> bytes:
    """`count` bytes from `position`, fewer where the file ends."""
    begin = position - self._start
    if begin < 0 or begin + count > len(self._data):
      self._data = self._read(position, max(count, self._window_bytes))
      self._start, begin = position, 0
    return self._data[begin : begin + count]

  def varint(self, position: int) -> tuple[int, int]:
    value, used = _varint(self.at(position, 10), 0)
    return value, position + used


def _feature(window: _Window, position: int, end: int) -> tuple[str, Any]:
  """One tf.train.Feature: ('bytes', (offset, length) of each value), ('int64', values) or ('float', raw float32)."""
  if position == end:
    return 'none', []
  tag, position = window.varint(position)
  length, position = window.varint(position)
  end = position + length
  if tag == 0x0A:  # bytes_list
    values = []
    while position < end:
      _, position = window.varint(position)
      length, position = window.varint(position)
      values.append((position, length))
      position += length
    return 'bytes', values
  data = window.at(position, length)
  if tag == 0x12:  # float_list, packed or one by one
    if data[:1] == b'\x0a':
      return 'float', data[_varint(data, 1)[1] :]
    return 'float', b''.join(data[i + 1 : i + 5] for i in range(0, len(data), 5))
  if tag == 0x1A:  # int64_list, packed or one by one
    integers, at = [], 0
    packed = data[:1] == b'\x0a'
    if packed:
      _, at = _varint(data, 1)
    while at < len(data):
      value, at = _varint(data, at if packed else at + 1)
      integers.append(value - (1 << 64) if value >> 63 else value)
    return 'int64', integers
  raise ValueError(f'protobuf tag {tag} is no tf.train.Feature')


def _entries(window: _Window, start: int, size: int) -> Iterator[tuple[str, int, int]]:
  """(name, position, end) of every tf.train.Feature of an Example; their order within a record is arbitrary."""
  tag, position = window.varint(start)
  length, position = window.varint(position)
  if tag != 0x0A or position + length != start + size:
    raise ValueError('it does not hold a tf.train.Example')
  while position < start + size:
    _, position = window.varint(position)
    length, position = window.varint(position)
    entry_end = position + length
    _, position = window.varint(position)
    length, position = window.varint(position)
    name = window.at(position, length).decode()
    position += length
    _, position = window.varint(position)
    length, position = window.varint(position)
    yield name, position, position + length
    position = entry_end


def _scalar(column: schema.ScalarField, kind: str, value: Any, window: _Window) -> Any:
  if kind == 'bytes':
    offset, length = value[0]
    data = window.at(offset, length)
    return data.decode() if column.dtype == 'string' else np.frombuffer(data, column.dtype)[0]
  return np.frombuffer(value, '<f4')[0] if kind == 'float' else value[0]


def _walk_record(window: _Window, start: int, size: int, fields: Mapping[str, schema.TensorField]):
  """(offset of each tensor, value of each scalar) of the Example at `start`."""
  columns = {column.name: column for column in schema.SCALARS}
  offsets, scalars = {}, {}
  for name, position, end in _entries(window, start, size):
    if name not in fields and name not in columns:
      continue
    kind, value = _feature(window, position, end)
    if name in columns:
      scalars[name] = _scalar(columns[name], kind, value, window)
      continue
    field = fields[name]
    expected = math.prod(field.shape) * np.dtype(field.dtype).itemsize
    if kind != 'bytes' or len(value) != 1 or value[0][1] != expected:
      raise ValueError(f'field {name!r} is not {expected} raw bytes ({field.dtype} {field.shape})')
    offsets[name] = value[0][0]
  scalars = {c.name: c.missing for c in schema.SCALARS if c.optional} | scalars
  missing = sorted({*fields, *columns} - {*offsets, *scalars})
  if missing:
    raise ValueError(f'it lacks {", ".join(missing)}')
  return offsets, scalars


def _walk_shard(shards, number: int, records: int, expected_bytes: int | None, fields, progress) -> list[tuple]:
  """(start, size, crc, offsets, scalars) of each of the `records` records of a shard."""
  path, found = shards.path(number), shards.size(number)
  expected = f'{expected_bytes:,}' if expected_bytes is not None else f'{records} whole records'
  rows: list[tuple] = []
  window = _Window(functools.partial(shards.read, number), shards.window_bytes)
  position = 0
  while position < found:
    header = window.at(position, HEADER.size)
    size = HEADER.unpack(header)[0] if len(header) == HEADER.size else 0
    end = position + HEADER.size + size + CRC.size
    if len(header) < HEADER.size or end > found:
      raise truncated(path, found, expected, f'record {len(rows)} of {records} begins at byte {position:,}')
    if masked_crc32c(header[:8]) != HEADER.unpack(header)[1]:
      raise truncated(path, found, expected, f'record {len(rows)} at byte {position:,} has a damaged header')
    try:
      offsets, scalars = _walk_record(window, position + HEADER.size, size, fields)
    except stores.Unreadable:
      raise
    except (ValueError, IndexError, UnicodeDecodeError, struct.error) as error:
      raise truncated(path, found, expected, f'record {len(rows)} at byte {position:,}: {error}') from error
    crc = CRC.unpack(window.at(end - CRC.size, CRC.size))[0]
    rows.append((position + HEADER.size, size, crc, offsets, scalars))
    position = end
    progress.update()
  if len(rows) != records:
    raise truncated(path, found, expected, f'it holds {len(rows)} records, dataset_info.json says {records}')
  return rows


def build(shards, lengths: Sequence[int], split_bytes: int, fields: Mapping[str, schema.TensorField]) -> RecordIndex:
  """Walks all shards of a split.

  Args:
    shards: `shards.LocalShards` or `UrlShards`.
    lengths: records of each, from dataset_info.json.
    split_bytes: bytes of all Examples of the split, from dataset_info.json; 0 where unknown.
    fields: the tensors to look for.
  Raises:
    ValueError: a shard is cut short, damaged or holds other records; names the shard, expected and found size.
  """
  sizes = [shards.size(number) for number in range(len(shards))]
  whole = split_bytes + sum(lengths) * (HEADER.size + CRC.size)
  with tqdm.tqdm(total=sum(lengths), desc='Indexing records', unit=' records', leave=False, delay=1) as progress:

    def walk(number: int) -> list[tuple]:
      # Where this shard alone is damaged, the others say how long it was.
      expected = whole - (sum(sizes) - sizes[number]) if split_bytes else None
      return _walk_shard(shards, number, lengths[number], expected, fields, progress)

    parts = _map(walk, len(sizes), shards.walkers)
  rows = [row for part in parts for row in part]
  table = {c.name: [row[4][c.name] for row in rows] for c in schema.SCALARS}
  return RecordIndex(
    shard=np.repeat(np.arange(len(parts), dtype=np.int32), [len(part) for part in parts]),
    start=np.array([row[0] for row in rows], np.int64),
    size=np.array([row[1] for row in rows], np.int64),
    crc=np.array([row[2] for row in rows], np.uint32),
    offsets={name: np.array([row[3][name] for row in rows], np.int64) for name in fields},
    table=pd.DataFrame({c.name: _column(c, table[c.name]) for c in schema.SCALARS}),
  )


def _map(walk: Callable[[int], list[tuple]], count: int, workers: int) -> list[list[tuple]]:
  """`walk` of 0 to count - 1, several at a time where that is worth it."""
  if workers == 1:
    return [walk(number) for number in range(count)]
  with concurrent.futures.ThreadPoolExecutor(workers) as pool:
    try:
      return list(pool.map(walk, range(count)))
    except BaseException:
      pool.shutdown(cancel_futures=True)
      raise


def _column(column: schema.ScalarField, values: list):
  return np.array(values, object if column.dtype == 'string' else column.dtype)


def _signature(folder: stores.Folder, shards, lengths: Sequence[int]) -> dict:
  """What an index was made of: if any of it differs, the index is stale."""
  features = hashlib.sha256(stores.read_file(folder, 'features.json') or b'').hexdigest()
  files = [[pathlib.PurePath(shards.path(i)).name, shards.size(i), length] for i, length in enumerate(lengths)]
  return {'format': FORMAT, 'features': features, 'shards': files}


def save(index: RecordIndex, path: pathlib.Path, signature: dict) -> None:
  """Writes the index atomically; a read-only directory is no error, only a warning."""
  frame = index.table.assign(**{_SHARD: index.shard, _START: index.start, _BYTES: index.size, _CRC: index.crc})
  frame = frame.assign(**{f'{name}_': offset for name, offset in index.offsets.items()})
  table = pyarrow.Table.from_pandas(frame, preserve_index=False)
  table = table.replace_schema_metadata({b'deepsentinel': json.dumps(signature).encode()})
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.name}.')
  except OSError as error:
    warnings.warn(f'Cannot write {path} ({error.strerror}); the records are indexed anew each time.', stacklevel=3)
    return
  try:
    with os.fdopen(handle, 'wb') as file:
      pyarrow.parquet.write_table(table, file)
    os.chmod(partial, 0o644)
    os.replace(partial, path)
  except BaseException:
    os.unlink(partial)
    raise


def load(source: pathlib.Path | bytes, signature: dict, fields: Mapping[str, schema.TensorField]) -> RecordIndex | None:
  """A saved index, or None where there is none or it was made of other shards."""
  if isinstance(source, pathlib.Path) and not source.is_file():
    return None
  try:
    table = pyarrow.parquet.read_table(pyarrow.BufferReader(source) if isinstance(source, bytes) else source)
  except (pyarrow.ArrowInvalid, OSError):
    return None
  said = json.loads((table.schema.metadata or {}).get(b'deepsentinel', b'null'))
  if said != signature:
    return None
  columns = {name: table[name].to_numpy() for name in table.column_names}
  return RecordIndex(
    shard=columns[_SHARD],
    start=columns[_START],
    size=columns[_BYTES],
    crc=columns[_CRC],
    offsets={name: columns[f'{name}_'] for name in fields},
    table=pd.DataFrame({c.name: _column(c, list(columns[c.name])) for c in schema.SCALARS}),
  )


def _agrees(index: RecordIndex, shards) -> bool:
  """Whether the first and the last record of every shard are the ones indexed: header and checksum stand there."""
  order = np.arange(len(index.shard))
  ends: list[int] = []
  for number in range(len(shards)):
    members = order[index.shard == number]
    ends += [members[0], members[-1]] if members.size else []
  wanted = []
  for i in ends:
    number, start, size = int(index.shard[i]), int(index.start[i]), int(index.size[i])
    wanted += [(number, start - HEADER.size, HEADER.size), (number, start + size, CRC.size)]
  found = iter(shards.read_all(wanted))
  for i, header, footer in zip(ends, found, found, strict=True):
    if len(header) < HEADER.size or HEADER.unpack(header)[0] != index.size[i]:
      return False
    if len(footer) < CRC.size or CRC.unpack(footer)[0] != index.crc[i]:
      return False
  return True


def load_or_build(
  folder: stores.Folder,
  split: str,
  shards,
  lengths: Sequence[int],
  split_bytes: int,
  fields: Mapping[str, schema.TensorField],
) -> RecordIndex:
  """The index of a split: the one kept, the one published with the shards, or a new one where both are stale.

  Args:
    folder: the prepared directory.
    split: its name.
    shards: `shards.LocalShards` or `UrlShards`.
    lengths, split_bytes, fields: as of `build`.
  Raises:
    ValueError: a shard is damaged, or cannot be read.
  """
  name = f'index.{split}.parquet'
  path, signature = shards.kept / name, _signature(folder, shards, lengths)
  index = load(path, signature, fields)
  if index is not None and _agrees(index, shards):
    return index
  published = stores.read_file(folder, name) if isinstance(folder, str) else None
  index = load(published, signature, fields) if published else None
  if index is None or not _agrees(index, shards):
    if isinstance(folder, str):
      logging.warning(
        '%s has no index of these shards: they are indexed by range reads, once. `python -m deepsentinel.corpus '
        'publish FOLDER URL` publishes it with them.', stores.plain(folder),
      )  # fmt: skip
    index = build(shards, lengths, split_bytes, fields)
  save(index, path, signature)
  return index

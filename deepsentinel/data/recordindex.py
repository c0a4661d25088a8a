"""Where every tensor of every record lies within the TFRecord shards.

A shard is a run of records: uint64 length, uint32 masked CRC32C of the length, the bytes of one tf.train.Example,
uint32 masked CRC32C of those bytes, all little-endian (TensorFlow, core/lib/io/record_writer.h). The walk below reads
the protobuf wire format and skips over the tensors, so that indexing touches a few kilobytes a record.
"""

import dataclasses
import hashlib
import json
import math
import os
import pathlib
import struct
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import tqdm

from deepsentinel import schema

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
  """Reads a file at any position through a small buffer."""

  def __init__(self, file: int, size: int, window_bytes: int = 4096):
    self._file, self._size, self._window_bytes = file, size, window_bytes
    self._start, self._data = 0, b''

  def at(self, position: int, count: int) -> bytes:
    """`count` bytes from `position`, fewer where the file ends."""
    begin = position - self._start
    if begin < 0 or begin + count > len(self._data):
      self._data = os.pread(self._file, max(count, self._window_bytes), position)
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


def truncated(shard: pathlib.Path, found: int, expected: str, detail: str) -> ValueError:
  """The error for a shard that ends too early."""
  return ValueError(
    f'{shard} is cut short or damaged: found {found:,} bytes, expected {expected}; {detail}. Restore this file from '
    'where the records were copied from, or write them anew with `tfds build tfds_builders/... --overwrite`.'
  )


def _walk_shard(path: pathlib.Path, records: int, expected_bytes: int | None, fields, progress) -> list[tuple]:
  """(start, size, crc, offsets, scalars) of each of the `records` records of a shard."""
  found = path.stat().st_size
  expected = f'{expected_bytes:,}' if expected_bytes is not None else f'{records} whole records'
  rows: list[tuple] = []
  file = os.open(path, os.O_RDONLY)
  try:
    window = _Window(file, found)
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
      except (ValueError, IndexError, UnicodeDecodeError, struct.error) as error:
        raise truncated(path, found, expected, f'record {len(rows)} at byte {position:,}: {error}') from error
      crc = CRC.unpack(window.at(end - CRC.size, CRC.size))[0]
      rows.append((position + HEADER.size, size, crc, offsets, scalars))
      position = end
      progress.update()
  finally:
    os.close(file)
  if len(rows) != records:
    raise truncated(path, found, expected, f'it holds {len(rows)} records, dataset_info.json says {records}')
  return rows


def build(
  shards: Sequence[pathlib.Path], lengths: Sequence[int], split_bytes: int, fields: Mapping[str, schema.TensorField]
) -> RecordIndex:
  """Walks all shards of a split.

  Args:
    shards: TFRecord files, in order.
    lengths: records of each, from dataset_info.json.
    split_bytes: bytes of all Examples of the split, from dataset_info.json; 0 where unknown.
    fields: the tensors to look for.
  Raises:
    ValueError: a shard is cut short, damaged or holds other records; names the shard, expected and found size.
  """
  sizes = [path.stat().st_size for path in shards]
  whole = split_bytes + sum(lengths) * (HEADER.size + CRC.size)
  rows, shard = [], []
  with tqdm.tqdm(total=sum(lengths), desc='Indexing records', unit=' records', leave=False, delay=1) as progress:
    for number, (path, records) in enumerate(zip(shards, lengths, strict=True)):
      # Where this shard alone is damaged, the others say how long it was.
      expected = whole - (sum(sizes) - sizes[number]) if split_bytes else None
      part = _walk_shard(path, records, expected, fields, progress)
      rows += part
      shard += [number] * len(part)
  table = {c.name: [row[4][c.name] for row in rows] for c in schema.SCALARS}
  return RecordIndex(
    shard=np.array(shard, np.int32),
    start=np.array([row[0] for row in rows], np.int64),
    size=np.array([row[1] for row in rows], np.int64),
    crc=np.array([row[2] for row in rows], np.uint32),
    offsets={name: np.array([row[3][name] for row in rows], np.int64) for name in fields},
    table=pd.DataFrame({c.name: _column(c, table[c.name]) for c in schema.SCALARS}),
  )


def _column(column: schema.ScalarField, values: list):
  return np.array(values, object if column.dtype == 'string' else column.dtype)


def _signature(directory: pathlib.Path, shards: Sequence[pathlib.Path], lengths: Sequence[int]) -> dict:
  """What an index was made of: if any of it differs, the index is stale."""
  features = hashlib.sha256((directory / 'features.json').read_bytes()).hexdigest()
  files = [[path.name, path.stat().st_size, length] for path, length in zip(shards, lengths, strict=True)]
  return {'format': FORMAT, 'features': features, 'shards': files}


def save(index: RecordIndex, path: pathlib.Path, signature: dict) -> None:
  """Writes the index atomically; a read-only directory is no error, only a warning."""
  frame = index.table.assign(**{_SHARD: index.shard, _START: index.start, _BYTES: index.size, _CRC: index.crc})
  frame = frame.assign(**{f'{name}_': offset for name, offset in index.offsets.items()})
  table = pyarrow.Table.from_pandas(frame, preserve_index=False)
  table = table.replace_schema_metadata({b'deepsentinel': json.dumps(signature).encode()})
  try:
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


def load(path: pathlib.Path, signature: dict, fields: Mapping[str, schema.TensorField]) -> RecordIndex | None:
  """The saved index, or None where there is none or it was made of other shards."""
  if not path.is_file():
    return None
  try:
    table = pyarrow.parquet.read_table(path)
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


def _agrees(index: RecordIndex, shards: Sequence[pathlib.Path]) -> bool:
  """Whether the first and the last record of every shard are the ones indexed: header and checksum stand there."""
  order = np.arange(len(index.shard))
  for number, path in enumerate(shards):
    members = order[index.shard == number]
    if not members.size:
      continue
    with open(path, 'rb', buffering=0) as file:
      for i in (members[0], members[-1]):
        file.seek(index.start[i] - HEADER.size)
        header = file.read(HEADER.size)
        file.seek(index.start[i] + index.size[i])
        footer = file.read(CRC.size)
        if len(header) < HEADER.size or HEADER.unpack(header)[0] != index.size[i]:
          return False
        if len(footer) < CRC.size or CRC.unpack(footer)[0] != index.crc[i]:
          return False
  return True


def load_or_build(
  directory: pathlib.Path,
  split: str,
  shards: Sequence[pathlib.Path],
  lengths: Sequence[int],
  split_bytes: int,
  fields: Mapping[str, schema.TensorField],
) -> RecordIndex:
  """The index of a split: the one stored beside the shards, or a new one where that is missing or stale."""
  for path in shards:
    if not path.is_file():
      raise truncated(path, 0, 'a TFRecord shard', 'there is no such file')
  path = directory / f'index.{split}.parquet'
  signature = _signature(directory, shards, lengths)
  index = load(path, signature, fields)
  if index is None or not _agrees(index, shards):
    index = build(shards, lengths, split_bytes, fields)
    save(index, path, signature)
  return index

"""Random access to prepared records: any crop of any patch of a TFDS directory, without TensorFlow.

A read touches only the crop's rows, with `preadv` on several threads, and puts them into the batch array. Files are
never mapped: a shard that is cut while mapped kills the process, while a short read raises.
"""

import concurrent.futures
import functools
import itertools
import json
import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import tqdm

from deepsentinel import schema, sensors
from deepsentinel.data import recordindex

BUILDERS = ('deepsentinel_labelled', 'deepsentinel_unlabelled', 'deepsentinel_mines')
_OPEN_FILES = 256
_BAND_BYTES = 512 << 10  # of a scratch buffer; stays in a core's cache


class _Shard:
  """An open file that closes itself when the last reader lets go of it."""

  def __init__(self, path: pathlib.Path):
    self.path = path
    self.descriptor = os.open(path, os.O_RDONLY)

  def __del__(self):
    if hasattr(self, 'descriptor'):
      os.close(self.descriptor)


class RecordSet:
  """One split of a prepared directory.

  Attributes:
    directory: the prepared directory (holds dataset_info.json).
    split: its name.
    card: the corpus card the records were packaged with.
    spec: the sensor contract.
    patch_px: edge of a patch.
    labelled: whether records hold 'corine', 'osm' and, with a legend in the card, 'landcover'.
    synthetic: whether the pixels come from SyntheticEarth.
    fields: tensor name -> schema.TensorField.
    table: scalars, row i = record i.
  """

  def __init__(self, directory: str | os.PathLike, split: str = 'train', threads: int = 4):
    """Opens a split and checks it.

    Args:
      directory: a prepared directory; `resolve` finds it by name.
      split: 'train', 'validation' or 'test'.
      threads: reading threads of one batch.
    Raises:
      ValueError: not a prepared directory, no such split, or a shard that is missing, cut short or damaged.
    """
    self.directory = pathlib.Path(directory)
    self.split = split
    self._threads = max(1, threads)
    info = _read_json(self.directory / 'dataset_info.json')
    self.card = card(self.directory)
    self.spec = sensors.SensorSpec.from_dict(self.card['spec'])
    self.patch_px: int = self.card['patch_px']
    self.labelled: bool = self.card['labelled']
    self.synthetic: bool = self.card['synthetic']
    self.fields = schema.tensor_fields(self.spec, self.patch_px, self.labelled, bool(self.card.get('landcover')))
    _check_features(self.directory, self.fields)
    if info.get('fileFormat', 'tfrecord') != 'tfrecord':
      raise ValueError(
        f'{self.directory} is in file format {info["fileFormat"]!r}; this reader needs tfrecord. '
        'Run `tfds build` with --file_format=tfrecord.'
      )
    splits = {s['name']: s for s in info.get('splits', [])}
    if split not in splits:
      raise ValueError(f'{self.directory} has no split {split!r}. Splits: {", ".join(splits) or "none"}.')
    lengths = [int(n) for n in splits[split]['shardLengths']]
    names = [f'{info["name"]}-{split}.tfrecord-{i:05d}-of-{len(lengths):05d}' for i in range(len(lengths))]
    self._shards = [self.directory / name for name in names]
    self._index = recordindex.load_or_build(
      self.directory, split, self._shards, lengths, int(splits[split].get('numBytes', 0)), self.fields
    )
    self.table: pd.DataFrame = self._index.table
    self._start()

  def _start(self) -> None:
    # Eagerly: the first batches are asked for by several threads at once.
    self._open = functools.lru_cache(maxsize=_OPEN_FILES)(lambda number: _Shard(self._shards[number]))
    self._pool = concurrent.futures.ThreadPoolExecutor(self._threads) if self._threads > 1 else None

  def __getstate__(self) -> dict:
    return {k: v for k, v in self.__dict__.items() if k not in ('_open', '_pool')}

  def __setstate__(self, state: dict) -> None:
    self.__dict__.update(state)
    self._start()

  def __len__(self) -> int:
    return len(self._index.shard)

  def __repr__(self) -> str:
    return f'RecordSet({str(self.directory)!r}, {self.split!r}: {len(self)} patches of {self.patch_px} px)'

  def read(self, field: str, index: Sequence[int] | np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Whole patches [B, patch_px, patch_px(, C)] of `field`, in the order of `index`."""
    zeros = np.zeros(len(index), np.int64)
    return self.read_crops(field, index, zeros, zeros, self.patch_px, out)

  def read_crops(
    self,
    field: str,
    index: Sequence[int] | np.ndarray,
    row: Sequence[int] | np.ndarray,
    col: Sequence[int] | np.ndarray,
    crop_px: int,
    out: np.ndarray | None = None,
  ) -> np.ndarray:
    """Crops of one field.

    Args:
      field: a name of `fields`.
      index: int [B], record numbers; may repeat.
      row, col: int [B], upper-left pixel of each crop within its patch.
      crop_px: edge of a crop.
      out: C-contiguous array of the result's shape and dtype to read into; made where None.
    Returns:
      [B, crop_px, crop_px(, C)] in the field's stored dtype.
    Raises:
      ValueError: unknown field, a crop that leaves its patch, or a shard that became shorter since it was opened.
    """
    known = self._field(field)
    index, row, col = (np.asarray(a, np.int64).reshape(-1) for a in (index, row, col))
    self._check_crops(index, row, col, crop_px)
    shape = (len(index), crop_px, crop_px, *known.shape[2:])
    if out is None:
      out = np.empty(shape, known.dtype)
    elif out.shape != shape or out.dtype != known.dtype or not out.flags.c_contiguous:
      raise ValueError(
        f'`out` for {field!r} must be C-contiguous {known.dtype} {shape}; found {out.dtype} {out.shape}.'
      )
    pixel_bytes = math.prod(known.shape[2:]) * np.dtype(known.dtype).itemsize
    shard = self._index.shard[index]
    start = self._index.offsets[field][index] + row * known.shape[1] * pixel_bytes
    left = col * pixel_bytes
    # [B, crop, crop * bytes of a pixel]
    target = out.reshape(*shape[:2], math.prod(shape[2:])).view(np.uint8)
    stride = known.shape[1] * pixel_bytes
    if self._pool is None or len(index) < 2 * self._threads:
      self._read_bands(shard, start, left, stride, target)
      return out
    parts = np.linspace(0, len(index), self._threads + 1).astype(int)
    jobs = [
      self._pool.submit(self._read_bands, shard[a:b], start[a:b], left[a:b], stride, target[a:b])
      for a, b in itertools.pairwise(parts.tolist())
    ]
    for job in jobs:
      job.result()
    return out

  def _read_bands(
    self, shard: np.ndarray, start: np.ndarray, left: np.ndarray, stride: int, target: np.ndarray
  ) -> None:
    """Fills `target` crop by crop: bands of the crop's rows into a scratch buffer, their columns from there.

    Measured on one core, 128-px crops of 256-px patches: bands 6,100 crops/s, one gathering `preadv` a crop (rows into
    the target, gaps into scratch) 4,000, one read a row 1,800 (benchmarks/record_reader.py).

    Args:
      shard, start, left: int [B]; shard number, offset of the crop's first row in it, bytes to skip at its left.
      stride: bytes of a patch's row.
      target: uint8 [B, rows, width].
    """
    rows, width = target.shape[1:]
    whole = width == stride
    band = rows if whole else max(1, min(rows, _BAND_BYTES // stride))
    scratch = np.empty((0 if whole else band, stride), np.uint8)
    numbers, starts, lefts = shard.tolist(), start.tolist(), left.tolist()
    for crop, number, offset, skip in zip(target, numbers, starts, lefts, strict=True):
      file = self._open(number)
      for row in range(0, rows, band):
        count = min(band, rows - row)
        read = crop if whole else scratch[:count]
        if os.preadv(file.descriptor, [read.data], offset + row * stride) != read.nbytes:
          _finish_read(file, read, offset + row * stride)
        if not whole:
          crop[row : row + count] = read[:, skip : skip + width]

  def _field(self, name: str) -> schema.TensorField:
    if name not in self.fields:
      raise ValueError(f'Records of {self.directory} have no field {name!r}. Fields: {", ".join(self.fields)}.')
    return self.fields[name]

  def _check_crops(self, index: np.ndarray, row: np.ndarray, col: np.ndarray, crop_px: int) -> None:
    if not len(index) == len(row) == len(col):
      raise ValueError(f'index, row and col must be of one length; found {len(index)}, {len(row)} and {len(col)}.')
    limit = self.patch_px - crop_px
    if crop_px < 1 or limit < 0:
      raise ValueError(
        f'crop_px={crop_px} does not fit into patches of {self.patch_px} px; choose 1 to {self.patch_px}.'
      )
    if not len(index):
      return
    if index.min() < 0 or index.max() >= len(self):
      raise ValueError(
        f'Record number {index.min() if index.min() < 0 else index.max()} is not there; split {self.split!r} has '
        f'0 to {len(self) - 1}.'
      )
    if min(row.min(), col.min()) < 0 or max(row.max(), col.max()) > limit:
      at = int(np.flatnonzero((row < 0) | (col < 0) | (row > limit) | (col > limit))[0])
      raise ValueError(
        f'Crop {at} at row {row[at]}, column {col[at]} leaves its patch; crop_px={crop_px} allows 0 to {limit}.'
      )

  def verify(self, progress: bool = True) -> None:
    """Checks the CRC32C of every record; partial reads skip it.

    Raises:
      ValueError: names the first damaged record, its shard and its patch id.
    """
    i = self._index
    for n in tqdm.trange(len(self), desc=f'Verifying {self.split}', unit=' records', leave=False, disable=not progress):
      file = self._open(int(i.shard[n]))
      # The index holds the checksum as it was when the shard was indexed; the shard's own stands behind the data.
      data = os.pread(file.descriptor, int(i.size[n]) + recordindex.CRC.size, int(i.start[n]))
      if len(data) < i.size[n] + recordindex.CRC.size:
        raise recordindex.truncated(
          file.path,
          os.fstat(file.descriptor).st_size,
          f'at least {i.start[n] + i.size[n] + 4:,}',
          f'record {n} is not whole',
        )
      stated = recordindex.CRC.unpack(data[-recordindex.CRC.size :])[0]
      if recordindex.masked_crc32c(data[: -recordindex.CRC.size]) != stated:
        raise ValueError(
          f'{file.path}: record {n} of split {self.split!r} (patch {self.table["id"][n]!r}, byte {i.start[n]:,}) does '
          'not match its checksum. Restore this file from where the records were copied from, or write them anew with '
          '`tfds build tfds_builders/... --overwrite`.'
        )


def _finish_read(file: _Shard, target: np.ndarray, offset: int) -> None:
  """Reads again in pieces what came short (a signal, a network file system); raises where the file has ended."""
  data = bytearray()
  while len(data) < target.nbytes:
    more = os.pread(file.descriptor, target.nbytes - len(data), offset + len(data))
    if not more:
      size = os.fstat(file.descriptor).st_size
      expected = f'at least {offset + target.nbytes:,}'
      raise recordindex.truncated(file.path, size, expected, 'it became shorter while it was open')
    data += more
  target[...] = np.frombuffer(data, np.uint8).reshape(target.shape)


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  if not path.is_file():
    raise ValueError(
      f'{path.parent} is no prepared data set: {path.name} is not there. '
      '`tfds build tfds_builders/deepsentinel_labelled` makes one.'
    )
  try:
    return json.loads(path.read_text())
  except ValueError as error:
    raise ValueError(
      f'{path} is damaged ({error}). Restore this file from where the records were copied from, or write them anew '
      'with `tfds build tfds_builders/... --overwrite`.'
    ) from error


def _check_features(directory: pathlib.Path, fields: dict[str, schema.TensorField]) -> None:
  """Checks features.json against the schema: every tensor raw, of the promised shape and dtype."""
  features = _read_json(directory / 'features.json').get('featuresDict', {}).get('features', {})
  for name, field in fields.items():
    tensor = features.get(name, {}).get('tensor', {})
    shape = tuple(int(d) for d in tensor.get('shape', {}).get('dimensions', []))
    found = (tensor.get('encoding'), tensor.get('dtype'), shape)
    if found != ('bytes', field.dtype, field.shape):
      raise ValueError(
        f'{directory}: field {name!r} is stored as {found[0]} {found[1]} {found[2]}; the reader needs raw bytes of '
        f'{field.dtype} {field.shape}. Run `tfds build` with the builders of this project.'
      )


def _command(name: str, config: str) -> str:
  """The commands that make a data set."""
  build = f'tfds build tfds_builders/{name} --config={config}'
  if config == 'demo':
    return f'`{build}` (samples its own corpus)'
  if config == 'custom':
    return (
      f'`python -m deepsentinel.corpus --config=configs/corpora/NAME.py --out=DIR`, then `{build} --manual_dir=DIR`'
    )
  return f'`python -m deepsentinel.corpus --config=configs/corpora/{config}.py --out=corpora/{config}`, then `{build}`'


def splits(directory: str | os.PathLike) -> list[str]:
  """Names of the splits of a prepared directory, in the order in which they were written."""
  return [split['name'] for split in _read_json(pathlib.Path(directory) / 'dataset_info.json').get('splits', [])]


def card(directory: str | os.PathLike) -> dict[str, Any]:
  """The corpus card that the records of a prepared directory were packaged with; ValueError if there is none."""
  found = _read_json(pathlib.Path(directory) / 'metadata.json').get('card', {})
  if not found:
    raise ValueError(
      f'{directory} was not packaged by a DeepSentinel builder: metadata.json holds no corpus card. '
      '`tfds build tfds_builders/deepsentinel_labelled` makes records with one.'
    )
  return found


def _newest_version(folder: pathlib.Path) -> pathlib.Path | None:
  versions = [p.parent for p in folder.glob('*.*.*/dataset_info.json') if p.parent.name.replace('.', '').isdigit()]
  return max(versions, key=lambda p: tuple(map(int, p.name.split('.'))), default=None)


def resolve(name: str | os.PathLike, data_dir: str | os.PathLike = '') -> pathlib.Path:
  """The prepared directory of a data set.

  Args:
    name: a path (prepared directory, or the folder of a config above it), or 'deepsentinel_labelled/demo',
      'deepsentinel_labelled/demo:1.0.0', or 'deepsentinel_labelled' where only one config is prepared.
    data_dir: where names are looked up; default $TFDS_DATA_DIR or ~/tensorflow_datasets.
  Raises:
    ValueError: nothing is prepared there; names the commands that make it.
  """
  path = pathlib.Path(name).expanduser()
  if (path / 'dataset_info.json').is_file():
    return path
  if path.is_dir() and (newest := _newest_version(path)):
    return newest
  home = pathlib.Path(data_dir or os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets').expanduser()
  dataset, _, config = str(name).replace(':', '/').partition('/')
  config, _, version = config.partition('/')
  if dataset not in BUILDERS:
    raise ValueError(
      f'{name!r} is neither a prepared directory nor a known data set. Known: {", ".join(BUILDERS)} '
      "(with '/CONFIG'), or the path of a directory that `tfds build` wrote."
    )
  prepared = {p.name: newest for p in sorted((home / dataset).glob('*')) if (newest := _newest_version(p))}
  if not config and len(prepared) > 1:
    raise ValueError(
      f"{dataset} is prepared in {home} as {', '.join(prepared)}; say which: '{dataset}/{next(iter(prepared))}'."
    )
  config = config or next(iter(prepared), 'demo')
  found = prepared.get(config)
  if found is not None and version:
    found = found.parent / version if (found.parent / version / 'dataset_info.json').is_file() else None
  if found is None:
    also = f' Prepared there: {", ".join(prepared)}.' if prepared else ''
    wanted = f'{dataset}/{config}' + (f' version {version}' if version else '')
    raise ValueError(
      f'{wanted} is not prepared in {home}.{also} Make it with {_command(dataset, config)}'
      + (f' --data_dir={home}.' if data_dir else '.')
    )
  return found

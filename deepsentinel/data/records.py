"""Random access to prepared records: any crop of any patch of a TFDS directory, without TensorFlow.

A read touches only the crop's rows, with `preadv` on several threads or by range requests to a URL, and puts them into
the batch array. Files are never mapped: a shard that is cut while mapped kills the process, while a short read raises.
"""

import concurrent.futures
import hashlib
import itertools
import json
import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import tqdm

from deepsentinel import schema, sensors
from deepsentinel.data import memory, recordindex, stores
from deepsentinel.data import shards as shards_lib

BUILDERS = ('deepsentinel_labelled', 'deepsentinel_unlabelled', 'deepsentinel_mines')


class RecordSet:
  """One split of a prepared directory.

  Attributes:
    directory: the prepared directory (holds dataset_info.json), or its URL.
    kept: the folder that keeps what is made of the records: the directory, or one of this machine for a URL.
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
      directory: a prepared directory or the URL of one; `resolve` finds it by name.
      split: 'train', 'validation' or 'test'.
      threads: reading threads of one batch.
    Raises:
      ValueError: not a prepared directory, no such split, or a shard that is missing, cut short or damaged; a store
        that refuses.
    """
    self.directory: stores.Folder = stores.folder_of(directory)
    self.split = split
    self._threads = max(1, threads)
    info = _read_json(self.directory, 'dataset_info.json')
    self.card = card(directory)
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
    self._shards = shards_lib.open_shards(self.directory, names)
    self.kept = self._shards.kept
    self._index = recordindex.load_or_build(
      self.directory, split, self._shards, lengths, int(splits[split].get('numBytes', 0)), self.fields
    )
    self.table: pd.DataFrame = self._index.table
    self._start()

  def _start(self) -> None:
    # Eagerly: the first batches are asked for by several threads at once.
    threads = 1 if self._shards.concurrent else self._threads
    self._pool = concurrent.futures.ThreadPoolExecutor(threads) if threads > 1 else None
    self._memory = memory.Memory()

  def __getstate__(self) -> dict:
    return {k: v for k, v in self.__dict__.items() if k not in ('_pool', '_memory')}

  def __setstate__(self, state: dict) -> None:
    self.__dict__.update(state)
    self._start()

  def __len__(self) -> int:
    return len(self._index.shard)

  def __repr__(self) -> str:
    return f'RecordSet({str(self.directory)!r}, {self.split!r}: {len(self)} patches of {self.patch_px} px)'

  @property
  def fingerprint(self) -> str:
    """SHA-256 of what the split holds: the checksums of its records, in order, and their contract."""
    about = json.dumps([self.spec.to_dict(), self.patch_px, len(self)]).encode()
    return hashlib.sha256(about + np.ascontiguousarray(self._index.crc).tobytes()).hexdigest()

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
      ValueError: unknown field, a crop that leaves its patch, or a shard that became shorter since it was opened; a
        store that does not answer.
    """
    known = self._field(field)
    index, row, col = (np.asarray(a, np.int64).reshape(-1) for a in (index, row, col))
    self._check_crops(index, row, col, crop_px)
    shape = (len(index), crop_px, crop_px, *known.shape[2:])
    if out is None:
      out = self._memory.empty(shape, known.dtype)
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
      self._shards.read_bands(shard, start, left, stride, target)
      return out
    parts = np.linspace(0, len(index), self._threads + 1).astype(int)
    jobs = [
      self._pool.submit(self._shards.read_bands, shard[a:b], start[a:b], left[a:b], stride, target[a:b])
      for a, b in itertools.pairwise(parts.tolist())
    ]
    for job in jobs:
      job.result()
    return out

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
      number, start, size = int(i.shard[n]), int(i.start[n]), int(i.size[n])
      # The index holds the checksum as it was when the shard was indexed; the shard's own stands behind the data.
      data = self._shards.read(number, start, size + recordindex.CRC.size)
      path = self._shards.path(number)
      if len(data) < size + recordindex.CRC.size:
        expected = f'at least {start + size + 4:,}'
        raise shards_lib.truncated(path, self._shards.size(number), expected, f'record {n} is not whole')
      stated = recordindex.CRC.unpack(data[-recordindex.CRC.size :])[0]
      if recordindex.masked_crc32c(data[: -recordindex.CRC.size]) != stated:
        raise ValueError(
          f'{path}: record {n} of split {self.split!r} (patch {self.table["id"][n]!r}, byte {start:,}) does '
          'not match its checksum. Restore this file from where the records were copied from, or write them anew with '
          '`tfds build tfds_builders/... --overwrite`.'
        )


def _read_json(directory: stores.Folder, name: str) -> dict[str, Any]:
  content = stores.read_file(directory, name)
  if content is None:
    make = '`tfds build tfds_builders/deepsentinel_labelled` makes one.'
    if isinstance(directory, str):
      make = '`python -m deepsentinel.corpus publish FOLDER URL` publishes one.'
    raise ValueError(f'{stores.plain(directory)} is no prepared data set: {name} is not there. {make}')
  try:
    return json.loads(content)
  except ValueError as error:
    raise ValueError(
      f'{stores.plain(stores.join(directory, name))} is damaged ({error}). Restore this file from where the records '
      'were copied from, or write them anew with `tfds build tfds_builders/... --overwrite`.'
    ) from error


def _check_features(directory: stores.Folder, fields: dict[str, schema.TensorField]) -> None:
  """Checks features.json against the schema: every tensor raw, of the promised shape and dtype."""
  features = _read_json(directory, 'features.json').get('featuresDict', {}).get('features', {})
  for name, field in fields.items():
    tensor = features.get(name, {}).get('tensor', {})
    shape = tuple(int(d) for d in tensor.get('shape', {}).get('dimensions', []))
    found = (tensor.get('encoding'), tensor.get('dtype'), shape)
    if found != ('bytes', field.dtype, field.shape):
      raise ValueError(
        f'{stores.plain(directory)}: field {name!r} is stored as {found[0]} {found[1]} {found[2]}; the reader needs '
        f'raw bytes of {field.dtype} {field.shape}. Run `tfds build` with the builders of this project.'
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
  return [split['name'] for split in _read_json(stores.folder_of(directory), 'dataset_info.json').get('splits', [])]


def card(directory: str | os.PathLike) -> dict[str, Any]:
  """The corpus card that the records of a prepared directory were packaged with; ValueError if there is none."""
  found = _read_json(stores.folder_of(directory), 'metadata.json').get('card', {})
  if not found:
    raise ValueError(
      f'{directory} was not packaged by a DeepSentinel builder: metadata.json holds no corpus card. '
      '`tfds build tfds_builders/deepsentinel_labelled` makes records with one.'
    )
  return found


def _newest_version(folder: stores.Folder) -> stores.Folder | None:
  versions = [name for name in stores.folders(folder) if name.count('.') == 2 and name.replace('.', '').isdigit()]
  for name in sorted(versions, key=lambda name: tuple(map(int, name.split('.'))), reverse=True):
    if stores.holds(stores.join(folder, name), 'dataset_info.json'):
      return stores.join(folder, name)
  return None


def resolve(name: str | os.PathLike, data_dir: str | os.PathLike = '') -> stores.Folder:
  """The prepared directory of a data set.

  Args:
    name: a path or a URL (prepared directory, or the folder of a config above it), or 'deepsentinel_labelled/demo',
      'deepsentinel_labelled/demo:1.0.0', or 'deepsentinel_labelled' where only one config is prepared.
    data_dir: the folder or URL where names are looked up; default $TFDS_DATA_DIR or ~/tensorflow_datasets.
  Raises:
    ValueError: nothing is prepared there; names the commands that make it.
  """
  given = stores.folder_of(name)
  if stores.holds(given, 'dataset_info.json'):
    return given
  if newest := _newest_version(given):
    return newest
  if isinstance(given, str):
    raise ValueError(
      f'{stores.plain(given)} holds no prepared records (no dataset_info.json). Publish some there: '
      f'`python -m deepsentinel.corpus publish FOLDER {stores.plain(given)}`, FOLDER made by `tfds build`.'
    )
  home = stores.folder_of(data_dir or os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets')
  dataset, _, config = str(name).replace(':', '/').partition('/')
  config, _, version = config.partition('/')
  if dataset not in BUILDERS:
    raise ValueError(
      f'{name!r} is neither a prepared directory nor a known data set. Known: {", ".join(BUILDERS)} '
      "(with '/CONFIG'), or the path of a directory that `tfds build` wrote."
    )
  above = stores.join(home, dataset)
  if (
    config and version and stores.holds(exact := stores.join(stores.join(above, config), version), 'dataset_info.json')
  ):
    return exact
  found = {n: newest for n in stores.folders(above) if (newest := _newest_version(stores.join(above, n)))}
  if not config and len(found) > 1:
    raise ValueError(
      f"{dataset} is prepared in {home} as {', '.join(found)}; say which: '{dataset}/{next(iter(found))}'."
    )
  config = config or next(iter(found), 'demo')
  if config in found and not version:
    return found[config]
  raise ValueError(_not_prepared(home, dataset, config, version, list(found), bool(data_dir)))


def _not_prepared(home: stores.Folder, dataset: str, config: str, version: str, found: list[str], named: bool) -> str:
  """What to do about a data set that is not there."""
  also = f' Prepared there: {", ".join(found)}.' if found else ''
  said = (
    f'{dataset}/{config}' + (f' version {version}' if version else '') + f' is not prepared in {stores.plain(home)}.'
  )
  if isinstance(home, str):
    return (
      f'{said}{also} Publish it there with `python -m deepsentinel.corpus publish FOLDER '
      f'{stores.plain(home)}/{dataset}/{config}/1.0.0`; of a server that lists no folders, name the version as well: '
      f"'{dataset}/{config}:1.0.0'."
    )
  return f'{said}{also} Make it with {_command(dataset, config)}' + (f' --data_dir={home}.' if named else '.')

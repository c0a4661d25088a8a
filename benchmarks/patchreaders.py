"""Ways of reading random crops into batches: RecordSet, and what users have of other libraries.

A reader is a function (batches, seed) -> that many batches, each 's2' uint16 [B, V, crop, crop, C] and 's1' int16
[B, V, crop, crop, C] with the 'index', 'row' and 'col' [B, V] that it read. The plan is the same for all who can read
by number: every patch is the first view once an epoch, in a new order, and the other views are drawn from all.
"""

import concurrent.futures
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import rasterio
from patchformats import FIELDS, PATCH_PX, SPEC
from rasterio.windows import Window

from deepsentinel import schema
from deepsentinel.data import batches
from deepsentinel.data import records as records_lib

CROP_PX = 128
BATCH = 64
_SHUFFLE = 256  # crops in tf.data's buffer

Batch = dict[str, np.ndarray]
Reader = Callable[[int, int], Iterator[Batch]]


def plans(patches: int, views: int, count: int, seed: int) -> Iterator[batches.Plan]:
  """`count` plans of BATCH examples of `views` crops."""
  rng = np.random.default_rng(seed)
  order = np.concatenate([rng.permutation(patches) for _ in range(-(-count * BATCH // patches))])
  for first in order[: count * BATCH].reshape(count, BATCH):
    index = np.concatenate([first[:, None], rng.integers(0, patches, (BATCH, views - 1))], 1)  # [B, V]
    row, col = rng.integers(0, PATCH_PX - CROP_PX + 1, (2, *index.shape))
    yield batches.Plan(index, row, col)


def record_set(records: records_lib.RecordSet, views: int) -> Reader:
  """Ours: the pixels of a plan, on the threads of the record set."""

  def run(count: int, seed: int) -> Iterator[Batch]:
    for plan in plans(len(records), views, count, seed):
      yield batches.read_plan(records, plan, CROP_PX, FIELDS)

  return run


class Files:
  """Crops of patches that are files of their own; a map-style PyTorch data set.

  Args:
    folder: of the files.
    crop: (folder, number, row, col) -> 's2' and 's1' of one crop.
  """

  def __init__(self, folder: pathlib.Path, crop: Callable[[pathlib.Path, int, int, int], Batch]):
    self._folder, self._crop = folder, crop

  def __getitem__(self, key: np.ndarray) -> Batch:
    """Of `key` [V, 3] (number, row, column): 's2' and 's1' [V, crop, crop, C], and the key by its parts."""
    views = [self._crop(self._folder, *place) for place in key.tolist()]
    index, row, col = key.T
    return {field: np.stack([view[field] for view in views]) for field in FIELDS} | _places(index, row, col)


def npz_crop(folder: pathlib.Path, number: int, row: int, col: int) -> Batch:
  with np.load(folder / f'{number:06d}.npz') as file:
    return {field: file[field][row : row + CROP_PX, col : col + CROP_PX] for field in FIELDS}


def geotiff_crop(folder: pathlib.Path, number: int, row: int, col: int) -> Batch:
  crop = {}
  for field in FIELDS:
    with rasterio.open(folder / f'{number:06d}_{field}.tif') as file:
      pixels = file.read(window=Window(col, row, CROP_PX, CROP_PX))  # [C, crop, crop]
    crop[field] = np.moveaxis(pixels, 0, -1)
  return crop


def on_threads(files: Files, patches: int, views: int, threads: int) -> Reader:
  """Examples of a batch read on `threads` threads; GDAL, which does the work, runs beside Python."""
  pool = concurrent.futures.ThreadPoolExecutor(threads)
  each: Callable[..., Iterator[Batch]] = map if threads == 1 else pool.map

  def run(count: int, seed: int) -> Iterator[Batch]:
    for plan in plans(patches, views, count, seed):
      examples = list(each(files.__getitem__, _keys(plan)))
      yield {name: np.stack([example[name] for example in examples]) for name in examples[0]}

  return run


class _Sampler:
  """Keys of each batch of the next run, for a DataLoader whose workers stay."""

  def __init__(self, patches: int, views: int):
    self.patches, self.views, self.count, self.seed = patches, views, 0, 0

  def __iter__(self) -> Iterator[list[np.ndarray]]:
    for plan in plans(self.patches, self.views, self.count, self.seed):
      yield list(_keys(plan))


def torch_loader(files: Files, patches: int, views: int, workers: int) -> Reader:
  """PyTorch's DataLoader, with worker processes that stay; in this process where one core is all there is."""
  import torch

  torch.set_num_threads(1)  # its threads would take the cores from the workers
  sampler = _Sampler(patches, views)
  options: dict[str, Any] = {}
  if workers > 1:
    options = {'num_workers': workers, 'persistent_workers': True, 'multiprocessing_context': 'spawn'}
  loader = torch.utils.data.DataLoader(files, batch_sampler=sampler, **options)

  def run(count: int, seed: int) -> Iterator[Batch]:
    sampler.count, sampler.seed = count, seed
    for batch in loader:
      yield {name: values.numpy() for name, values in batch.items()}

  return run


def tf_data(records: records_lib.RecordSet, views: int, threads: int) -> Reader:
  """tf.data of the shards as TensorFlow's guide to performance writes it, decoding only the two sensors.

  It reads records one after another, in a random order of shards and through a buffer of crops, so it cannot take
  neighbours by number: where more than one view is wanted the patches of an example must stand side by side in the
  shards. Here these are records in a row, which is the same work.
  """
  import tensorflow as tf

  tf.config.set_visible_devices([], 'GPU')
  tf.config.threading.set_inter_op_parallelism_threads(threads)
  tf.config.threading.set_intra_op_parallelism_threads(threads)
  parallel = {'num_parallel_calls': tf.data.AUTOTUNE, 'deterministic': False} if threads > 1 else {}
  number_of = {name: number for number, name in enumerate(records.table['id'])}
  shards = sorted(str(path) for path in pathlib.Path(records.directory).glob('*.tfrecord-*'))
  fields = schema.tensor_fields(SPEC, PATCH_PX, labelled=False)
  described = {name: tf.io.FixedLenFeature([], tf.string) for name in (*FIELDS, 'id')}

  def crop(record):
    example = tf.io.parse_single_example(record, described)
    row, col = tf.unstack(tf.random.uniform([2], 0, PATCH_PX - CROP_PX + 1, tf.int32))
    made = {'id': example['id'], 'row': row, 'col': col}
    for name in FIELDS:
      pixels = tf.reshape(tf.io.decode_raw(example[name], fields[name].dtype), fields[name].shape)
      made[name] = tf.slice(pixels, [row, col, 0], [CROP_PX, CROP_PX, -1])
    return made

  def run(count: int, seed: int) -> Iterator[Batch]:
    data = tf.data.Dataset.from_tensor_slices(shards).shuffle(len(shards), seed=seed).repeat()
    data = data.interleave(tf.data.TFRecordDataset, cycle_length=len(shards), **parallel)
    data = data.map(crop, **parallel).batch(views).shuffle(_SHUFFLE // views, seed=seed)
    options = tf.data.Options()
    options.threading.private_threadpool_size = threads
    data = data.batch(BATCH).take(count).prefetch(2).with_options(options)
    for batch in data.as_numpy_iterator():
      index = [[number_of[name.decode()] for name in names] for names in batch.pop('id').tolist()]
      yield batch | {'index': np.array(index)}

  return run


def copies(arrays: dict[str, np.ndarray], views: int, threads: int) -> Reader:
  """The bare loop: crops copied from patches in memory into the same batch each time. The least that there is to do."""
  pool = concurrent.futures.ThreadPoolExecutor(threads)
  out = {name: np.empty((BATCH * views, CROP_PX, CROP_PX, a.shape[-1]), a.dtype) for name, a in arrays.items()}

  def copy(places: np.ndarray, begin: int) -> None:
    for at, (index, row, col) in enumerate(places.tolist(), begin):
      for name, array in arrays.items():
        out[name][at] = array[index, row : row + CROP_PX, col : col + CROP_PX]

  def run(count: int, seed: int) -> Iterator[Batch]:
    for plan in plans(len(arrays['s2']), views, count, seed):
      parts = np.array_split(_keys(plan).reshape(-1, 3), threads)
      begins = np.cumsum([0, *map(len, parts)])[:-1]
      list(pool.map(copy, parts, begins.tolist()) if threads > 1 else map(copy, parts, begins.tolist()))
      pixels = {name: values.reshape(BATCH, views, *values.shape[1:]) for name, values in out.items()}
      yield pixels | _places(plan.index, plan.row, plan.col)

  return run


def check(batch: Batch, records: records_lib.RecordSet, name: str) -> None:
  """Ends the benchmark if a batch does not hold the pixels that the records hold there."""
  index, row, col = (batch[key].reshape(-1) for key in ('index', 'row', 'col'))
  for field in FIELDS:
    expected = records.read_crops(field, index, row, col, CROP_PX)
    found = batch[field].reshape(expected.shape)
    if found.dtype != expected.dtype or not np.array_equal(found, expected):
      raise SystemExit(f'{name} reads other pixels of {field!r} than RecordSet.')


def _places(index: np.ndarray, row: np.ndarray, col: np.ndarray) -> Batch:
  return {'index': index, 'row': row, 'col': col}


def _keys(plan: batches.Plan) -> np.ndarray:
  """[B, V, 3]: number, row and column."""
  return np.stack([plan.index, plan.row, plan.col], -1)

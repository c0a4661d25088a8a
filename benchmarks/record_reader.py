"""Patches a second: random 128-px crops of 256-px records through RecordSet and through tf.data, on one core.

  python benchmarks/record_reader.py [--records=600] [--ids=10000] [--repeats=3]

Both read the same shards (uncompressed, in the page cache), deliver batches of 64 crops of 's2' and 's1' and visit
every record once an epoch in a new random order, until --ids crops are read. tf.data runs as TFDS builds it, without
autocache and decoding only the two fields. The two alternate within one process that is bound to one core.
"""

import argparse
import json
import os
import pathlib
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from deepsentinel import schema, sensors
from deepsentinel.data import records

PATCH_PX = 256
CROP_PX = 128
BATCH = 64
SHARDS = 8
NAME = 'deepsentinel_unlabelled'


def write_records(directory: pathlib.Path, count: int) -> None:
  """Writes `count` records of random pixels, as the builder's features serialise them."""
  import tensorflow as tf
  import tensorflow_datasets as tfds
  import tqdm

  from deepsentinel import packaging

  spec = sensors.SensorSpec()
  features = packaging.features(spec, PATCH_PX, labelled=False)
  rng = np.random.default_rng(0)
  directory.mkdir(parents=True, exist_ok=True)
  lengths = [len(part) for part in np.array_split(np.arange(count), SHARDS)]
  template = tfds.core.ShardedFileTemplate(
    data_dir=directory, dataset_name=NAME, split='train', filetype_suffix='tfrecord'
  )
  number = written = 0
  progress = tqdm.tqdm(total=count, desc='Writing records', leave=False)
  for shard, length in enumerate(lengths):
    with tf.io.TFRecordWriter(str(template.sharded_filepath(shard_index=shard, num_shards=SHARDS))) as writer:
      for _ in range(length):
        example: dict[str, Any] = {c.name: c.missing for c in schema.SCALARS} | {'id': f'{number:06d}'}
        for field in schema.tensor_fields(spec, PATCH_PX, labelled=False).values():
          limits = np.iinfo(field.dtype)
          example[field.name] = rng.integers(limits.min, limits.max, field.shape, field.dtype, endpoint=True)
        data = features.serialize_example(example)
        writer.write(data)
        written += len(data)
        number += 1
        progress.update()
  split = tfds.core.SplitInfo(name='train', shard_lengths=lengths, num_bytes=written, filename_template=template)
  tfds.folder_dataset.write_metadata(
    data_dir=directory, features=features, split_infos=[split], filename_template=template, check_data=False
  )
  card = {'spec': spec.to_dict(), 'patch_px': PATCH_PX, 'labelled': False, 'synthetic': True, 'name': 'benchmark'}
  (directory / 'metadata.json').write_text(json.dumps({'card': card}))


def epochs(count: int, ids: int, rng: np.random.Generator) -> np.ndarray:
  """int64 [ids]: permutations of 0 .. count - 1, one after another."""
  return np.concatenate([rng.permutation(count) for _ in range(-(-ids // count))])[:ids]


def record_set(directory: pathlib.Path, ids: int) -> Callable[[int], Iterator[dict]]:
  reader = records.RecordSet(directory, 'train', threads=1)

  def batches(seed: int) -> Iterator[dict]:
    rng = np.random.default_rng(seed)
    order = epochs(len(reader), ids, rng)
    for begin in range(0, ids, BATCH):
      index = order[begin : begin + BATCH]
      row, col = rng.integers(0, PATCH_PX - CROP_PX + 1, (2, len(index)))
      yield {field: reader.read_crops(field, index, row, col, CROP_PX) for field in ('s2', 's1')}

  return batches


def tf_data(directory: pathlib.Path, ids: int) -> Callable[[int], Iterator[dict]]:
  import tensorflow as tf
  import tensorflow_datasets as tfds

  tf.config.threading.set_inter_op_parallelism_threads(1)
  tf.config.threading.set_intra_op_parallelism_threads(1)
  builder = tfds.builder_from_directory(directory)

  def crop(example: dict) -> dict:
    row, col = tf.unstack(tf.random.uniform([2], 0, PATCH_PX - CROP_PX + 1, tf.int32))
    return {f: example[f][row : row + CROP_PX, col : col + CROP_PX] for f in ('s2', 's1')}

  def batches(seed: int) -> Iterator[dict]:
    data = builder.as_dataset(
      split='train',
      shuffle_files=True,
      decoders=tfds.decode.PartialDecoding({'s2': True, 's1': True}),
      read_config=tfds.ReadConfig(try_autocache=False, shuffle_seed=seed),
    )
    data = data.repeat().map(crop).shuffle(512, seed=seed).batch(BATCH).take(-(-ids // BATCH)).prefetch(2)
    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    return data.with_options(options).as_numpy_iterator()

  return batches


def rate(batches: Iterator[dict]) -> float:
  """Crops a second of one run."""
  count, begin = 0, time.perf_counter()
  for batch in batches:
    count += len(batch['s2'])
  return count / (time.perf_counter() - begin)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--records', type=int, default=600, help='records in the shards (1.8 MB each)')
  parser.add_argument('--ids', type=int, default=10_000, help='crops of one run')
  parser.add_argument('--repeats', type=int, default=3, help='runs of each reader, alternating')
  parser.add_argument('--dir', default='.cache/benchmarks', help='where the shards are kept')
  options = parser.parse_args()
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  os.environ['CUDA_VISIBLE_DEVICES'] = ''
  directory = pathlib.Path(options.dir, f'records_{options.records}')
  if not (directory / 'metadata.json').is_file():
    write_records(directory, options.records)
  if hasattr(os, 'sched_setaffinity'):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

  readers = {'tf.data': tf_data(directory, options.ids), 'RecordSet': record_set(directory, options.ids)}
  for path in sorted(directory.glob('*.tfrecord-*')):
    path.read_bytes()  # both start from a warm page cache
  rates: dict[str, list[float]] = {name: [] for name in readers}
  for repeat in range(options.repeats):
    for name, batches in readers.items():
      rates[name].append(rate(batches(repeat)))

  print(f'{options.ids:,} random {CROP_PX}-px crops of {options.records} records of {PATCH_PX} px, one core, crops/s')
  print(f'{"reader":<12}{"median":>10}{"min":>10}{"max":>10}')
  for name, values in rates.items():
    print(f'{name:<12}{statistics.median(values):>10,.0f}{min(values):>10,.0f}{max(values):>10,.0f}')
  ratios = [ours / theirs for ours, theirs in zip(rates['RecordSet'], rates['tf.data'], strict=True)]
  print(f'ratio of the pairs: {statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})')


if __name__ == '__main__':
  main()

"""Random 128-px crops of 256-px patches a second: RecordSet, what users have instead, and what the machine can do.

  python benchmarks/record_reader.py [--records=150] [--seconds=1] [--repeats=3] [--cores=1,all]

Each reader makes batches of 64 examples of 's2' uint16 and 's1' int16 from the same patches in the page cache: single
crops, and Tile2Vec's triplets of three patches. Peers: tf.data on the same shards; one compressed .npz a patch through
PyTorch's DataLoader (left out where PyTorch is not installed); tiled GeoTIFFs through rasterio, stored and deflated.
The machine: whole shards read into one buffer, and the same crops copied from memory. Readers alternate in one process
bound to its cores; each run takes about --seconds once its first batches are there. All pixels of a first batch are
compared with RecordSet's.
"""

import argparse
import concurrent.futures
import functools
import importlib.util
import math
import multiprocessing
import os
import pathlib
import time
from collections.abc import Callable, Sequence

import numpy as np
import patchformats
import patchreaders
import sidebyside

from deepsentinel.data import records as records_lib

_TF_DATA, _NPZ, _STORED, _DEFLATED, _COPY = (
  'tf.data', 'compressed .npz, PyTorch DataLoader', 'GeoTIFF, rasterio', 'GeoTIFF (deflate), rasterio',
  'bare loop that copies the crops from memory',
)  # fmt: skip
_AIMS = {_TF_DATA: 5.0, _NPZ: 20.0, _STORED: 20.0, _DEFLATED: 20.0, _COPY: 0.5}
_READ = 'whole shards read into one buffer'
_PIECE = 512 << 10
VIEWS = {'single crops': 1, 'triplets': 3}


def rate(reader: patchreaders.Reader, views: int, count: int, skip: int) -> float:
  """Crops a second of `count` batches that follow the first `skip`, in which workers start and buffers fill."""
  batches = reader(skip + count, 0)
  for _ in range(skip):
    next(batches)
  begun = time.perf_counter()
  for _ in batches:
    pass
  return count * patchreaders.BATCH * views / (time.perf_counter() - begun)


def timed(reader: patchreaders.Reader, views: int, seconds: float, cores: int, skip: int) -> Callable[[], float]:
  """A run of about `seconds`; workers take batches in turn, so it is a whole number of turns."""
  guess = rate(reader, views, cores, skip) / (patchreaders.BATCH * views)  # batches a second
  return functools.partial(rate, reader, views, cores * math.ceil(guess * seconds / cores), skip)


def read_bandwidth(paths: Sequence[pathlib.Path], cores: int) -> float:
  """MB a second of whole files."""

  def read(path: pathlib.Path) -> int:
    buffer, total = bytearray(_PIECE), 0
    with path.open('rb') as file:
      while count := os.readv(file.fileno(), [buffer]):
        total += count
    return total

  begun = time.perf_counter()
  with concurrent.futures.ThreadPoolExecutor(cores) as pool:
    total = sum(pool.map(read, paths))
  return total / 1e6 / (time.perf_counter() - begun)


def readers(records: records_lib.RecordSet, home: pathlib.Path, views: int, cores: int) -> dict:
  """Name -> reader, ours first."""
  patches = len(records)
  made = {'RecordSet': patchreaders.record_set(records, views)}
  made[_TF_DATA] = patchreaders.tf_data(records, views, cores)
  if importlib.util.find_spec('torch'):
    files = patchreaders.Files(patchformats.npz(home, patches), patchreaders.npz_crop)
    made[_NPZ] = patchreaders.torch_loader(files, patches, views, cores)
  else:
    print(f'left out: {_NPZ}; PyTorch is not installed (`make peers` installs it)')
  for name, compress in ((_STORED, 'none'), (_DEFLATED, 'deflate')):
    files = patchreaders.Files(patchformats.geotiffs(home, patches, compress), patchreaders.geotiff_crop)
    made[name] = patchreaders.on_threads(files, patches, views, cores)
  arrays = {field: records.read(field, np.arange(patches)) for field in patchformats.FIELDS}
  made[_COPY] = patchreaders.copies(arrays, views, cores)
  return made


def compare(home: pathlib.Path, cores: int, where: str, options: argparse.Namespace) -> list[sidebyside.Row]:
  """The rows of one number of cores; in a process of its own, since libraries ask for the cores when they start."""
  if hasattr(os, 'sched_setaffinity'):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
  directory = patchformats.records(home, options.records)
  shards = sorted(directory.glob('*.tfrecord-*'))
  records = records_lib.RecordSet(directory, 'train', threads=cores)
  rows = []
  for what, views in VIEWS.items():
    made = readers(records, home, views, cores)
    for name, reader in made.items():
      patchreaders.check(next(iter(reader(1, 0))), records, name)
    runs = {}
    for name, reader in made.items():
      skip = cores if cores > 1 or name == _TF_DATA else 0
      runs[name] = timed(reader, views, options.seconds, cores, skip)
    if views == 1:
      runs[_READ] = functools.partial(read_bandwidth, shards, cores)
    rates = sidebyside.alternate(runs, options.repeats)
    ours = rates.pop('RecordSet')
    stage = f'random {patchreaders.CROP_PX}-px crops of {patchformats.PATCH_PX}-px patches to a batch, {what}, {where}'
    if _READ in rates:
      # What `preadv` reads: the rows that hold the crop. The crop is half of them.
      pixel = sum(records.fields[field].shape[2] * 2 for field in patchformats.FIELDS)
      megabytes = patchreaders.CROP_PX * patchformats.PATCH_PX * pixel / 1e6
      read = [megabytes * value for value in ours]
      note = 'rows that hold the crops, of which these are half'
      raw = sidebyside.Row(stage, _READ, 'MB/s', read, rates.pop(_READ), 0.5, note)
      rows.append(raw)
    for name, theirs in rates.items():
      note = 'its triplets must lie side by side in the shards' if views > 1 and name == _TF_DATA else ''
      rows.append(sidebyside.Row(stage, name, 'crops/s', ours, theirs, _AIMS[name], note))
  return rows


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--records', type=int, default=150, help='patches (1.8 MB each in the shards, 7 MB in all)')
  parser.add_argument('--seconds', type=float, default=1.0, help='of one run')
  parser.add_argument('--repeats', type=int, default=3, help='runs of each reader, alternating')
  parser.add_argument('--cores', default='1,all', help='numbers of cores, one after another')
  parser.add_argument('--dir', type=pathlib.Path, default=pathlib.Path('.cache/benchmarks'), help='keeps the patches')
  options = parser.parse_args()
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  os.environ['CUDA_VISIBLE_DEVICES'] = ''
  os.environ['GDAL_DISABLE_READDIR_ON_OPEN'] = 'EMPTY_DIR'  # as GDAL advises for files without side files
  there = sidebyside.cores()
  # The peers' files are written here, on all cores, and are on the disk before the first run.
  if importlib.util.find_spec('torch'):
    patchformats.npz(options.dir, options.records)
  for compress in ('none', 'deflate'):
    patchformats.geotiffs(options.dir, options.records, compress)
  os.sync()
  rows = []
  for cores in dict.fromkeys(there if part == 'all' else int(part) for part in options.cores.split(',')):
    where = 'one core' if cores == 1 else f'{cores} cores'
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as alone:
      rows += alone.submit(compare, options.dir, cores, where, options).result()
  sidebyside.leave(__file__, rows)


if __name__ == '__main__':
  main()

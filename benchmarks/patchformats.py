"""The same made-up patches in the formats in which users keep them: TFRecord shards, compressed .npz, GeoTIFFs.

Pixels are as hard to compress as real ones, since that decides what the compressed formats take: zlib leaves 0.50 of
Sentinel-2 and 0.80 of Sentinel-1, as it does of the SSL4EO-S12 samples.
"""

import concurrent.futures
import functools
import json
import multiprocessing
import pathlib
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import rasterio
from scipy import ndimage

from deepsentinel import schema, sensors

PATCH_PX = 256
FIELDS = ('s2', 's1')
SPEC = sensors.SensorSpec()
_SHARDS = 8
_NAME = 'deepsentinel_unlabelled'
_COVERS = 4
_NOISE = {'s2': 20.0, 's1': 200.0}  # standard deviation within a cover, storage units


def patch(number: int) -> dict[str, np.ndarray]:
  """Pixels of one patch: 's2' uint16 and 's1' int16, [PATCH_PX, PATCH_PX, C]; a few covers, and noise."""
  rng = np.random.default_rng(number)
  fields = rng.standard_normal((_COVERS, PATCH_PX, PATCH_PX), np.float32)
  cover = ndimage.gaussian_filter(fields, (0, 12, 12)).argmax(0)
  made = {}
  for field in schema.tensor_fields(SPEC, PATCH_PX, labelled=False).values():
    least, most = (200, 4000) if field.name == 's2' else (-2500, -500)
    mean = rng.integers(least, most, (_COVERS, field.shape[2]))
    noise = _NOISE[field.name] * rng.standard_normal(field.shape, np.float32)
    pixels = np.rint(mean[cover] + noise).astype(field.dtype)
    if field.name == 's2':  # most bands are of 20 m, on the grid of 10 m: each pixel stands there four times
      coarse = [i for i, band in enumerate(SPEC.s2_bands) if sensors.BANDS[band].native_gsd_m > 10]
      pixels[..., coarse] = pixels[::2, ::2, coarse].repeat(2, 0).repeat(2, 1)
    made[field.name] = pixels
  return made


def records(home: pathlib.Path, count: int) -> pathlib.Path:
  """A prepared directory of `count` patches, as the builder's features serialise them; made once."""
  directory = home / f'records_{count}'
  if (directory / 'metadata.json').is_file():
    return directory
  import tensorflow as tf
  import tensorflow_datasets as tfds
  import tqdm

  from deepsentinel import packaging

  features = packaging.features(SPEC, PATCH_PX, labelled=False)
  directory.mkdir(parents=True, exist_ok=True)
  lengths = [len(part) for part in np.array_split(np.arange(count), _SHARDS)]
  template = tfds.core.ShardedFileTemplate(
    data_dir=directory, dataset_name=_NAME, split='train', filetype_suffix='tfrecord'
  )
  number = written = 0
  progress = tqdm.tqdm(total=count, desc='Writing records', leave=False)
  for shard, length in enumerate(lengths):
    with tf.io.TFRecordWriter(str(template.sharded_filepath(shard_index=shard, num_shards=_SHARDS))) as writer:
      for _ in range(length):
        scalars: dict[str, Any] = {c.name: c.missing for c in schema.SCALARS} | {'id': f'{number:06d}'}
        scalars |= {'lon_deg': 5.0 + number % 20, 'lat_deg': 40.0 + number // 20}  # a degree apart: each has neighbours
        data = features.serialize_example(scalars | patch(number))
        writer.write(data)
        written += len(data)
        number += 1
        progress.update()
  split = tfds.core.SplitInfo(name='train', shard_lengths=lengths, num_bytes=written, filename_template=template)
  tfds.folder_dataset.write_metadata(
    data_dir=directory, features=features, split_infos=[split], filename_template=template, check_data=False
  )
  card = {'spec': SPEC.to_dict(), 'patch_px': PATCH_PX, 'labelled': False, 'synthetic': True, 'name': 'benchmark'}
  (directory / 'metadata.json').write_text(json.dumps({'card': card}))
  return directory


def npz(home: pathlib.Path, count: int) -> pathlib.Path:
  """A folder of one compressed .npz a patch, NUMBER.npz with 's2' and 's1'; made once."""
  return _files(home / f'npz_{count}', count, _write_npz)


def geotiffs(home: pathlib.Path, count: int, compress: str) -> pathlib.Path:
  """A folder of tiled GeoTIFFs, NUMBER_s2.tif and NUMBER_s1.tif of each patch; made once.

  Args:
    home: the folder above it.
    count: patches.
    compress: 'none' or 'deflate'.
  """
  return _files(home / f'geotiff_{compress}_{count}', count, functools.partial(_write_geotiffs, compress=compress))


def _files(folder: pathlib.Path, count: int, write: Callable[[pathlib.Path], None]) -> pathlib.Path:
  done = folder / 'done'
  if not done.exists():
    folder.mkdir(parents=True, exist_ok=True)
    stems = [folder / f'{number:06d}' for number in range(count)]
    print(f'writing {count} patches to {folder}')
    with concurrent.futures.ProcessPoolExecutor(mp_context=multiprocessing.get_context('spawn')) as pool:
      list(pool.map(write, stems, chunksize=10))
    done.touch()
  return folder


def _write_npz(stem: pathlib.Path) -> None:
  np.savez_compressed(stem.with_suffix('.npz'), allow_pickle=False, **patch(int(stem.name)))


def _write_geotiffs(stem: pathlib.Path, compress: str) -> None:
  predictor = {} if compress == 'none' else {'predictor': 2}
  for field, pixels in patch(int(stem.name)).items():
    with warnings.catch_warnings():
      warnings.simplefilter('ignore', rasterio.errors.NotGeoreferencedWarning)
      with rasterio.open(
        f'{stem}_{field}.tif', 'w', driver='GTiff', height=PATCH_PX, width=PATCH_PX, count=pixels.shape[-1],
        dtype=pixels.dtype, tiled=True, blockxsize=128, blockysize=128, interleave='band', compress=compress,
        crs='EPSG:32633', transform=rasterio.transform.from_origin(500_000, 5_000_000, 10, 10), **predictor,
      ) as file:  # fmt: skip
        file.write(np.moveaxis(pixels, -1, 0))

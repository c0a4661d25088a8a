"""Two thousand patches from a STAC API to records, killed three times: the same as undisturbed, how fast, how large.

    python benchmarks/stac_corpus.py

A STAC server on loopback lists a year of one place (a Sentinel-2 tile every five days, Sentinel-1 every six) and serves
its files by ranges. `python -m deepsentinel.corpus` and `tfds build` run undisturbed, and once more with kill -9 at
three random moments of the sampling, each followed by the same command. Manifests, patch files and shards are compared,
byte for byte where they are files. Nothing here is of a real place.
"""

import hashlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import psutil
import rasterio
import shapely
from absl import app, flags

from deepsentinel import corpus
from tests.sources import stac_server

_PATCHES = flags.DEFINE_integer('patches', 2000, 'Number of patches.')
_PATCH_PX = flags.DEFINE_integer('patch_px', 64, 'Edge of a patch, pixels.')
_WORKERS = flags.DEFINE_integer('workers', 2, 'Processes that fetch.')
_SEED = flags.DEFINE_integer('seed', 0, 'Of the moments of the kills.')
_DIR = flags.DEFINE_string('dir', '.cache/benchmarks/stac_corpus', 'Where corpora and records are written; emptied.')

_SIDE = 4096
_BANDS = {'sentinel2': {'blue': 'B2', 'green': 'B3', 'red': 'B4', 'nir': 'B8'}, 'sentinel1': {'vv': 'VV', 'vh': 'VH'}}
_BOX = (9.02, 50.30, 9.52, 50.50)  # within the files


def write_files(folder: pathlib.Path) -> None:
  rng = np.random.default_rng(0)
  folder.mkdir(parents=True)
  for sensor, bands in _BANDS.items():
    for name in bands:
      optical = sensor == 'sentinel2'
      values = rng.integers(1001, 6000, (_SIDE, _SIDE), np.uint16) if optical else rng.gamma(4.4, 0.02, (_SIDE, _SIDE))
      with rasterio.open(
        folder / f'{name}.tif', 'w', driver='GTiff', height=_SIDE, width=_SIDE, count=1, nodata=0, tiled=True,
        dtype='uint16' if optical else 'float32', crs='EPSG:32632', compress='deflate',
        transform=rasterio.transform.from_origin(500_000, 5_597_000, 10, 10),
      ) as file:  # fmt: skip
        file.write(values[None].astype(file.dtypes[0]))


def items(url: str) -> list[dict]:
  found = []
  for sensor, every in (('sentinel2', 5), ('sentinel1', 6)):
    collection = {'sentinel2': 'sentinel-2-c1-l2a', 'sentinel1': 'sentinel-1-rtc'}[sensor]
    scale = [{'nodata': 0, 'scale': 0.0001, 'offset': -0.1}] if sensor == 'sentinel2' else [{'nodata': 0}]
    for day in np.arange('2017-12-20', '2019-01-20', every, dtype='datetime64[D]'):
      found.append({
        'type': 'Feature', 'stac_version': '1.0.0', 'id': f'{sensor}_{day}', 'collection': collection, 'links': [],
        'geometry': shapely.geometry.mapping(shapely.box(8.9, 50.1, 9.8, 50.6)), 'bbox': [8.9, 50.1, 9.8, 50.6],
        'properties': {
          'datetime': f'{day}T10:20:30Z', 'platform': f'sentinel-{sensor[-1]}a', 'sat:orbit_state': 'descending',
          'sat:relative_orbit': 65, 'eo:cloud_cover': 12.5, 's2:processing_baseline': '05.00',
        },
        'assets': {
          name: {'href': f'{url}/data/{name}.tif', 'type': 'image/tiff', 'raster:bands': scale}
          for name in _BANDS[sensor]
        },
      })  # fmt: skip
  return found


class Peak(threading.Thread):
  """The largest memory of a process and those below it, GB, sampled ten times a second."""

  def __init__(self, pid: int):
    super().__init__(daemon=True)
    self._pid, self.gigabytes = pid, 0.0

  def run(self) -> None:
    try:
      while True:
        parent = psutil.Process(self._pid)
        used = sum(p.memory_info().rss for p in [parent, *parent.children(recursive=True)])
        self.gigabytes = max(self.gigabytes, used / 1e9)
        time.sleep(0.1)
    except psutil.Error:
      pass


def run(command: list[str], kill_after_s: float = 0.0) -> tuple[float, float]:
  """Seconds and peak GB of a command; killed with kill -9, its whole group, after `kill_after_s` unless that is 0."""
  start = time.perf_counter()
  process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
  peak = Peak(process.pid)
  peak.start()
  try:
    code = process.wait(kill_after_s or None)
  except subprocess.TimeoutExpired:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return time.perf_counter() - start, peak.gigabytes
  if code:
    raise SystemExit(f'{" ".join(command)} ended with {code}.')
  if kill_after_s:
    raise SystemExit('The command ended before it was to be killed; pass more --patches.')
  return time.perf_counter() - start, peak.gigabytes


def build(source: pathlib.Path, out: pathlib.Path) -> list[str]:
  cli = [sys.executable, '-m', 'tensorflow_datasets.scripts.cli.main', 'build', 'tfds_builders/deepsentinel_unlabelled']
  return [*cli, '--config=custom', f'--data_dir={out}', f'--manual_dir={source}']


def digests(folder: pathlib.Path, pattern: str) -> dict[str, str]:
  files = sorted(f for f in folder.rglob(pattern) if f.is_file())
  return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def main(_) -> None:
  folder = pathlib.Path(_DIR.value)
  shutil.rmtree(folder, ignore_errors=True)
  write_files(folder / 'store')
  server = stac_server.StacServer(folder / 'store')
  with server.running():
    server.items = items(server.url)
    sample = [
      sys.executable, '-m', 'deepsentinel.corpus', '--config=benchmarks/stac_corpus_config.py',
      f'--config.source.url={server.url}', f'--config.patches={_PATCHES.value}', f'--config.workers={_WORKERS.value}',
      f'--config.patch_px={_PATCH_PX.value}', '--config.points.bbox=' + ','.join(map(str, _BOX)),
    ]  # fmt: skip
    seconds, memory = run([*sample, f'--out={folder}/whole'])
    requests = server.seen['GET'] + server.seen['POST']
    n = _PATCHES.value
    print(f'{n} patches of {_PATCH_PX.value} px: {seconds:.0f} s, {n / seconds:.1f} patches/s')
    print(f'{requests / n:.1f} requests a patch, peak {memory:.2f} GB of all processes')
    packing, memory = run(build(folder / 'whole', folder / 'whole_records'))
    print(f'tfds build: {packing:.0f} s, peak {memory:.2f} GB')
    rng = np.random.default_rng(_SEED.value)
    for moment in rng.uniform(0.15, 0.3, 3) * seconds:
      run([*sample, f'--out={folder}/killed'], float(moment))
      states = corpus.Corpus(folder / 'killed').manifest()['state']
      print(f'killed after {moment:.0f} s: {(states == "done").sum()} of {len(states)} patches are there')
    run([*sample, f'--out={folder}/killed'])
    run(build(folder / 'killed', folder / 'killed_records'))
  whole, killed = folder / 'whole', folder / 'killed'
  same = {
    'manifest': corpus.Corpus(whole).manifest().equals(corpus.Corpus(killed).manifest()),
    'patch files': digests(whole / 'patches', '*') == digests(killed / 'patches', '*'),
    'shards': digests(folder / 'whole_records', '*.tfrecord*') == digests(folder / 'killed_records', '*.tfrecord*'),
  }
  count = len(digests(folder / 'whole_records', '*.tfrecord*'))
  print(f'the same after three kills: {same}, {count} shards')
  if not all(same.values()):
    raise SystemExit('The killed corpus differs from the undisturbed one.')


if __name__ == '__main__':
  app.run(main)

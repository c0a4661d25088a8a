"""A corpus from a STAC API to records, killed three times: the same as undisturbed, how fast, how large.

    python benchmarks/stac_corpus.py [--patches=300] [--patch_px=64] [--workers=2] [--nokills]

A STAC server on loopback lists a year of one place (a Sentinel-2 tile every five days, Sentinel-1 every six), a few
items a page, and serves its files by ranges. `python -m deepsentinel.corpus` and `tfds build` run undisturbed, and once
more with kill -9 at three random moments of the sampling, each followed by the same command. Manifests, patch files and
shards are compared, byte for byte where they are files. Nothing here is of a real place.
"""

import argparse
import collections
import datetime
import functools
import hashlib
import http.server
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import psutil
import rasterio
import shapely
import sidebyside

from deepsentinel import corpus

_SIDE = 4096
_BANDS = {'sentinel2': {'blue': 'B2', 'green': 'B3', 'red': 'B4', 'nir': 'B8'}, 'sentinel1': {'vv': 'VV', 'vh': 'VH'}}
_BOX = (9.02, 50.30, 9.52, 50.50)  # within the files
_CONFORMS = [f'https://api.stacspec.org/v1.0.0/{part}' for part in ('core', 'item-search')]
_PAGE = 20  # items a page


class _Handler(http.server.BaseHTTPRequestHandler):
  """A STAC API at /, and under /data/ the files of `folder`; counts its requests in `seen`."""

  protocol_version = 'HTTP/1.1'
  items: list[dict[str, Any]]

  def __init__(self, folder: pathlib.Path, seen: collections.Counter, *arguments: Any):
    self.folder, self.seen = folder, seen
    super().__init__(*arguments)

  def log_message(self, format: str, *arguments: Any) -> None:
    pass

  def do_GET(self) -> None:
    self.seen[self.command] += 1
    path = self.folder / self.path.removeprefix('/data/')
    if self.path == '/':
      self._send(200, json.dumps(self._landing()).encode())
    elif self.path.startswith('/data/') and path.is_file():
      size = path.stat().st_size
      asked = re.fullmatch(r'bytes=(\d+)-(\d*)', self.headers.get('Range') or '')
      first, last = (int(asked[1]), min(int(asked[2] or size), size - 1)) if asked else (0, size - 1)
      with path.open('rb') as file:
        file.seek(first)
        content = file.read(last + 1 - first)
      self._send(206 if asked else 200, content, {'Content-Range': f'bytes {first}-{last}/{size}'} if asked else {})
    else:
      self._send(404, b'')

  do_HEAD = do_GET

  def do_POST(self) -> None:
    self.seen[self.command] += 1
    query = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
    start, end = (datetime.datetime.fromisoformat(t) for t in query['datetime'].split('/'))
    area = shapely.geometry.shape(query['intersects'])
    found = [
      item for item in self.items
      if item['collection'] in query['collections'] and shapely.geometry.shape(item['geometry']).intersects(area)
      and start <= datetime.datetime.fromisoformat(item['properties']['datetime']) <= end
    ]  # fmt: skip
    at = int(query.get('token', 0))
    further = {
      'rel': 'next',
      'href': f'{self._url}/search',
      'method': 'POST',
      'body': {**query, 'token': str(at + _PAGE)},
    }
    links = [further] if at + _PAGE < len(found) else []
    page = {'type': 'FeatureCollection', 'features': found[at : at + _PAGE], 'links': links}
    self._send(200, json.dumps(page).encode())

  @property
  def _url(self) -> str:
    return f'http://{self.headers["Host"]}'

  def _landing(self) -> dict[str, Any]:
    links = [{'rel': rel, 'href': self._url} for rel in ('self', 'root')]
    links += [{'rel': 'search', 'href': f'{self._url}/search', 'method': m, 'type': 'application/geo+json'}
              for m in ('GET', 'POST')]  # fmt: skip
    return {'type': 'Catalog', 'id': 'loopback', 'description': 'loopback', 'stac_version': '1.0.0',
            'conformsTo': _CONFORMS, 'links': links}  # fmt: skip

  def _send(self, status: int, content: bytes, headers: Mapping[str, str] = MappingProxyType({})) -> None:
    self.send_response(status)
    kind = 'application/json' if self.command == 'POST' or self.path == '/' else 'image/tiff'
    for name, value in {**headers, 'Content-Type': kind, 'Content-Length': str(len(content))}.items():
      self.send_header(name, value)
    self.end_headers()
    if self.command != 'HEAD':
      self.wfile.write(content)


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
    raise SystemExit('The command ended before it was to be killed; pass more --patches, or --nokills.')
  return time.perf_counter() - start, peak.gigabytes


def build(source: pathlib.Path, out: pathlib.Path) -> list[str]:
  cli = [sys.executable, '-m', 'tensorflow_datasets.scripts.cli.main', 'build', 'tfds_builders/deepsentinel_unlabelled']
  return [*cli, '--config=custom', f'--data_dir={out}', f'--manual_dir={source}']


def digests(folder: pathlib.Path, pattern: str) -> dict[str, str]:
  files = sorted(f for f in folder.rglob(pattern) if f.is_file())
  return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def sample_killed(sample: list[str], out: pathlib.Path, seconds: float, seed: int) -> None:
  """The sampling that took `seconds`, killed at three random moments and then left alone."""
  for moment in np.random.default_rng(seed).uniform(0.15, 0.3, 3) * seconds:
    run([*sample, f'--out={out}'], float(moment))
    states = corpus.Corpus(out).manifest()['state'] if (out / 'manifest.parquet').exists() else np.zeros(0)
    print(f'killed after {moment:.0f} s: {(states == "done").sum()} of {len(states)} patches are there')
  run([*sample, f'--out={out}'])


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--patches', type=int, default=300)
  parser.add_argument('--patch_px', type=int, default=64, help='edge of a patch, pixels')
  parser.add_argument('--workers', type=int, default=2, help='processes that fetch')
  parser.add_argument('--seed', type=int, default=0, help='of the moments of the kills')
  parser.add_argument('--nokills', action='store_true', help='only the undisturbed run')
  parser.add_argument('--dir', default='.cache/benchmarks/stac_corpus', help='for corpora and records; emptied')
  options = parser.parse_args()
  folder, n = pathlib.Path(options.dir), options.patches
  whole, killed = folder / 'whole', folder / 'killed'
  shutil.rmtree(folder, ignore_errors=True)
  write_files(folder / 'store')
  seen: collections.Counter = collections.Counter()
  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(_Handler, folder / 'store', seen)) as server:
    url = f'http://127.0.0.1:{server.server_address[1]}'
    _Handler.items = items(url)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sample = [
      sys.executable, '-m', 'deepsentinel.corpus', '--config=benchmarks/stac_corpus_config.py',
      f'--config.source.url={url}', f'--config.patches={n}', f'--config.workers={options.workers}',
      f'--config.patch_px={options.patch_px}', '--config.points.bbox=' + ','.join(map(str, _BOX)),
    ]  # fmt: skip
    seconds, sampling_gb = run([*sample, f'--out={whole}'])
    requests = seen.total()
    packing, packing_gb = run(build(whole, folder / 'whole_records'))
    if not options.nokills:
      sample_killed(sample, killed, seconds, options.seed)
      run(build(killed, folder / 'killed_records'))
    server.shutdown()
  if not options.nokills:
    same = {
      'manifest': corpus.Corpus(whole).manifest().equals(corpus.Corpus(killed).manifest()),
      'patch files': digests(whole / 'patches', '*') == digests(killed / 'patches', '*'),
      'shards': digests(folder / 'whole_records', '*.tfrecord*') == digests(folder / 'killed_records', '*.tfrecord*'),
    }
    print(f'the same after three kills: {same}')
    if not all(same.values()):
      raise SystemExit('The killed corpus differs from the undisturbed one.')
  stage = f'{n} patches of {options.patch_px} px from a STAC API on loopback'
  sidebyside.leave(__file__, [
    sidebyside.Row(stage, '', 'patches/s', [n / seconds], (), 0,
                   f'start and report included; {requests / n:.1f} requests a patch, peak {sampling_gb:.1f} GB'),
    sidebyside.Row('the same packaged by tfds build', '', 'patches/s', [n / packing], (), 0,
                   f'start of TensorFlow included; peak {packing_gb:.1f} GB'),
  ])  # fmt: skip


if __name__ == '__main__':
  main()

"""What does fetching cost a patch beyond the source's own reading, and is it linear in the number of patches?

    python benchmarks/fetch_overhead.py [--patches=250] [--patch_px=128] [--footprints=20000] [--repeats=3]

The source reads at once: 14 bands, the same smooth field with noise for every patch. Its catalogue, of four blocks with
--footprints scenes of each sensor in every one, lies in the corpus folder, as a platform's answers do. Timed is the
fetch of a corpus whose pairs are known, on two processes that have started: scene looked up, pixels brought to storage
form, GeoTIFFs written whole with checksums, a line of the journal. The peer is a careful user's loop on two threads:
the catalogue in one pandas table, the same pixels by `rasterio.open(..., 'w')` with the same profile, SHA-256, a row of
a CSV manifest; and the same with `np.save` in place of GeoTIFFs. The pixels of all three are compared.
"""

import argparse
import concurrent.futures
import csv
import functools
import hashlib
import json
import pathlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import rasterio
import shapely
import sidebyside

from configs.corpora import common
from deepsentinel import sensors
from deepsentinel.corpus import blocks, catalogue, fetch, manifest, patchfiles, settings, worker
from deepsentinel.corpus.pool import Pool
from deepsentinel.sources import base

_WORKERS = 2
_ZONE = 32632


class Instant:
  """An imagery source on a network that reads at once; `fetch_overhead:Instant` in a corpus' settings."""

  synthetic = True
  spec = sensors.SensorSpec()

  def connect(self) -> None:
    pass

  def search(self, *_: Any) -> list[base.Scene]:
    raise AssertionError('the catalogue knows every scene')

  def read(self, scene: base.Scene, grid: base.PatchGrid, bands: Sequence[str]) -> base.Patch:
    values, valid = pixels(scene.sensor, grid.height_px, len(bands))
    return base.Patch(values, valid, tuple(bands), 'reflectance' if scene.sensor == 'sentinel2' else 'db')


@functools.lru_cache(maxsize=4)
def pixels(sensor: str, side: int, bands: int) -> tuple[np.ndarray, np.ndarray]:
  """float32 [side, side, bands] of reflectance or dB, and what of it is valid."""
  rng = np.random.default_rng(bands)
  wave = np.sin(np.linspace(0, 9, side))[:, None, None] * np.cos(np.linspace(0, 7, side))[None, :, None]
  noise = rng.normal(size=(side, side, bands))
  values = 0.2 + 0.1 * wave + 0.01 * noise if sensor == 'sentinel2' else -12 + 4 * wave + noise
  return values.astype(np.float32), np.ones((side, side), bool)


def write_catalogue(folder: pathlib.Path, days: Sequence[blocks.Block], footprints: int) -> None:
  outline = shapely.box(5, 46, 15, 54)
  for sensor in sensors.SENSORS:
    bands = sensors.SENTINEL2_BANDS if sensor == 'sentinel2' else sensors.SENTINEL1_BANDS
    for number, block in enumerate(days):
      step = (block.end - block.start) / footprints
      listing = catalogue.Listing(folder, sensor, block)
      metadata = {'hrefs': {band: f'https://store.example/{band}.tif' for band in bands}, 'cloud_share': 0.5}
      listing.add('+046+006', [
        base.Scene(f'{sensor}_{number}_{k:06d}', sensor, outline, block.start + k * step, 'ascending', 7, metadata)
        for k in range(footprints)
      ])  # fmt: skip
      listing.write()


def planned(count: int, days: Sequence[blocks.Block], footprints: int) -> dict[str, dict[str, Any]]:
  """Rows with points and pairs, id -> row."""
  rng = np.random.default_rng(0)
  rows = {}
  for number in range(count):
    k, block = int(rng.integers(footprints)), int(rng.integers(len(days)))
    when = int((days[block].start + k * (days[block].end - days[block].start) / footprints).timestamp())
    row = manifest.blank_row() | {'id': f'p{number:06d}', 'number': number, 'block': block, 'attempts': 1}
    row |= {'lon_deg': 9.0, 'lat_deg': 50.0, 'epsg': _ZONE, 'x0_m': 5e5 + 10.0 * number, 'y0_m': 5.5e6}
    row |= {'s2_scene': f'sentinel2_{block}_{k:06d}', 's1_scene': f'sentinel1_{block}_{k:06d}'}
    rows[row['id']] = row | {'s2_time': when, 's1_time': when}
  return rows


def ours(shop: worker.Workshop, folder: pathlib.Path, rows: dict[str, dict[str, Any]], pool: Pool) -> None:
  fetch.fetch(shop, folder, dict(rows), list(rows), pool)


def careful_user(
  folder: pathlib.Path, scenes: pd.DataFrame, rows: dict[str, dict[str, Any]], side: int, suffix: str
) -> None:
  """Every patch on two threads: its scenes, their pixels in storage form, two files, a row of manifest.csv.

  The files are GeoTIFFs or, with suffix '.npy', NumPy's.
  """
  source = Instant()

  def one(row: dict[str, Any]) -> dict[str, Any]:
    grid = base.PatchGrid(row['epsg'], row['x0_m'], row['y0_m'], side, side)
    out = {key: row[key] for key in ('id', 'lon_deg', 'lat_deg', 's2_scene', 's1_scene')}
    for field, bands in (('s2', source.spec.s2_bands), ('s1', source.spec.s1_bands)):
      found = scenes.loc[row[f'{field}_scene']]
      out |= {f'{field}_time': found['time'].isoformat(), f'{field}_pass': found['orbit_pass']}
      values, _ = pixels(found['sensor'], side, len(bands))
      if field == 's2':
        stored = np.clip(np.rint(values.astype(np.float64) * 10_000), 1, 65_535).astype(np.uint16)
      else:
        stored = np.clip(np.rint(values.astype(np.float64) * 100), -32_767, 32_767).astype(np.int16)
      path = folder / 'patches' / row['id'] / field
      path.parent.mkdir(parents=True, exist_ok=True)
      if suffix == '.npy':
        np.save(path.with_suffix(suffix), stored)
      else:
        write_tiff(path.with_suffix(suffix), stored, grid, bands)
      out[f'sha256_{field}'] = hashlib.sha256(path.with_suffix(suffix).read_bytes()).hexdigest()
    return out

  with concurrent.futures.ThreadPoolExecutor(_WORKERS) as pool, (folder / 'manifest.csv').open('w') as file:
    writer = None
    for out in pool.map(one, rows.values()):
      if writer is None:
        writer = csv.DictWriter(file, list(out))
        writer.writeheader()
      writer.writerow(out)


def write_tiff(path: pathlib.Path, stored: np.ndarray, grid: base.PatchGrid, bands: Sequence[str]) -> None:
  height, width, count = stored.shape
  tiles = {'tiled': True, 'blockxsize': 128, 'blockysize': 128} if min(height, width) > 128 else {}
  with rasterio.open(
    path, 'w', driver='GTiff', height=height, width=width, count=count, dtype=stored.dtype,
    crs=f'EPSG:{grid.epsg}', transform=grid.transform, nodata=0 if stored.dtype == np.uint16 else -32768,
    compress='deflate', zlevel=3, predictor=2, interleave='band', **tiles,
  ) as file:  # fmt: skip
    file.write(np.moveaxis(stored, -1, 0))
    file.descriptions = bands
    file.update_tags(synthetic='True')


def fetched(folder: pathlib.Path, patch_id: str) -> Iterator[np.ndarray]:
  """Pixels [H, W, C] of both sensors, from whichever files there are."""
  for field in ('s2', 's1'):
    path = folder / 'patches' / patch_id / f'{field}.npy'
    yield (
      np.load(path) if path.exists() else np.moveaxis(patchfiles.decode(path.with_suffix('.tif').read_bytes()), 0, -1)
    )


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--patches', type=int, default=250, help='of a run; another has four times as many')
  parser.add_argument('--patch_px', type=int, default=128)
  parser.add_argument('--footprints', type=int, default=20_000, help='of each sensor in each block of the catalogue')
  parser.add_argument('--repeats', type=int, default=3, help='alternating runs')
  options = parser.parse_args()
  config = common.get_config()
  config.source = {'name': 'fetch_overhead:Instant'}
  config.period.start, config.period.end = '2019-01-01', '2019-02-18'
  config.patch_px = options.patch_px
  shop = worker.workshop(json.dumps(settings.checked(config)))
  with tempfile.TemporaryDirectory() as home, Pool(_WORKERS) as pool:
    folder = pathlib.Path(home)
    write_catalogue(folder, shop.blocks, options.footprints)
    few, many = (planned(count, shop.blocks, options.footprints) for count in (options.patches, 4 * options.patches))
    # Read once, as the pool's workers keep theirs.
    scenes = pd.concat([geopandas.read_parquet(path) for path in sorted(folder.glob('catalogue/*/*.parquet'))])
    scenes = scenes.set_index('id')
    pixel_sums = set()

    def rate(rows: dict[str, dict[str, Any]], way: Callable[[dict[str, dict[str, Any]]], None]) -> float:
      shutil.rmtree(folder / 'patches', ignore_errors=True)
      (folder / manifest.JOURNAL).unlink(missing_ok=True)
      start = time.perf_counter()
      way(rows)
      seconds = time.perf_counter() - start
      for patch_id in list(rows)[:: len(rows) // 10]:
        pixel_sums.add(tuple(hashlib.sha256(values.tobytes()).hexdigest() for values in fetched(folder, patch_id)))
      if len(list((folder / 'patches').iterdir())) != len(rows) or len(pixel_sums) > 1:
        raise SystemExit('The ways differ in what they wrote.')
      return len(rows) / seconds

    side = options.patch_px
    found = sidebyside.alternate(
      {
        'ours': lambda: rate(few, lambda rows: ours(shop, folder, rows, pool)),
        'four times': lambda: rate(many, lambda rows: ours(shop, folder, rows, pool)),
        'rasterio': lambda: rate(few, lambda rows: careful_user(folder, scenes, rows, side, '.tif')),
        'NumPy': lambda: rate(few, lambda rows: careful_user(folder, scenes, rows, side, '.npy')),
      },
      options.repeats,
    )
  stage = f'{options.patches} patches of {side} px fetched from a source that answers at once'
  sidebyside.leave(__file__, [
    sidebyside.Row(stage, 'threads, pandas, rasterio', 'patches/s', found['ours'], found['rasterio'], 10,
                   'the same GeoTIFF pixels'),
    sidebyside.Row(stage, 'threads, pandas, np.save', 'patches/s', found['ours'], found['NumPy'], 0,
                   'nothing compressed, no georeference'),
    sidebyside.Row(f'the same, {4 * options.patches} patches', '', 'patches/s', found['four times'], ()),
  ])  # fmt: skip


if __name__ == '__main__':
  main()

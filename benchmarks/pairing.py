"""Pairs for 100,000 points from a year of catalogue with a million footprints: time and memory.

    python benchmarks/pairing.py

The catalogue is made up, with the sizes, repeat cycles and names of the real one: Sentinel-2 tiles of 110 km on a
lattice of 100 km over all land, each seen every six days, and Sentinel-1 slices of 250 x 180 km, each seen every twelve
days on either pass. It is written once to --dir as a corpus keeps what a platform answered, and then timed: points on
land, matching, redraws, draws and the manifest, as `python -m deepsentinel.corpus` does it between the plan and the
first pixel. Compared with what a careful user would write with geopandas on some of the same blocks, without redraws:
`sjoin` of the patches with both sensors, `merge`, the gap, one pair of each patch by `sample`.
"""

import datetime
import json
import multiprocessing
import pathlib
import resource
import shutil
import time
from collections.abc import Iterator
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import shapely
from absl import app, flags

from configs.corpora import common
from deepsentinel import sensors
from deepsentinel.corpus import blocks, catalogue, grid, manifest, pairing, pairs, points, settings, worker
from deepsentinel.corpus.pool import Pool
from deepsentinel.sources import base

_POINTS = flags.DEFINE_integer('points', 100_000, 'Number of points, uniform by area on land.')
_PEER_BLOCKS = flags.DEFINE_integer('peer_blocks', 3, 'How many of the 31 blocks geopandas matches.')
_DIR = flags.DEFINE_string('dir', '.cache/benchmarks/catalogue', 'Where the catalogue is written; kept.')

_DAY = datetime.timedelta(days=1)
_GAP_DAYS = 3.0


def lattice(step_km: float, half_km: tuple[float, float]) -> list[shapely.Polygon]:
  """Boxes of 2 x half_km about the places of an equal-area lattice that lie on land or near it."""
  region = points.Region()
  lats, step = [], step_km / 111.2
  lat = -56.0
  while lat < 82:
    lats.append(lat)
    lat += step
  boxes = []
  for lat in lats:
    wide = 1 / np.cos(np.radians(lat))
    lons = np.arange(-180, 180, step * wide)
    near = region.country_of(np.clip(lons, -179.9, 179.9), np.full(len(lons), lat)) != ''
    half_x, half_y = half_km[0] / 111.2 * wide, half_km[1] / 111.2
    boxes += [shapely.box(lon - half_x, lat - half_y, lon + half_x, lat + half_y) for lon in lons[near]]
  return [base.split_antimeridian(box) for box in boxes]


def acquisitions() -> Iterator[base.Scene]:
  """A year of both sensors."""
  rng = np.random.default_rng(0)
  year = datetime.datetime(2018, 1, 1, tzinfo=datetime.UTC)
  bands = {band: f'https://store.example/{band}.tif' for band in sensors.SENTINEL2_BANDS}
  for sensor, every, tiles, passes in (
    ('sentinel2', 6, lattice(100, (55, 55)), ('descending',)),
    ('sentinel1', 12, lattice(170, (125, 90)), ('ascending', 'descending')),
  ):
    for k, tile in enumerate(tiles):
      for orbit_pass in passes:
        first = year + rng.uniform(-5, every - 5) * _DAY
        for n in range(int(375 / every)):
          when = first + n * every * _DAY
          if sensor == 'sentinel2':
            name = f'S2A_MSIL2A_{when:%Y%m%dT%H%M%S}_N0206_R{k % 143 + 1:03d}_T{k % 60 + 1:02d}UUP_{k}'
          else:
            stop = when + datetime.timedelta(seconds=25)
            name = f'S1A_IW_GRDH_1SDV_{when:%Y%m%dT%H%M%S}_{stop:%Y%m%dT%H%M%S}_{k:06d}_0000_{k}'
          metadata = {'hrefs': bands, 'cloud_share': 0.5, 'unit': 'reflectance_x1e4'}
          yield base.Scene(name, sensor, tile, when, orbit_pass, k % 143 + 1, metadata)


def write_catalogue(folder: pathlib.Path, days: list[blocks.Block]) -> int:
  """All blocks; returns how many footprints there are."""
  count = 0
  everywhere = [f'{lat:+04d}{lon:+04d}' for lat in range(-90, 90, 2) for lon in range(-180, 180, 2)]
  scenes = sorted(acquisitions(), key=lambda scene: scene.time)
  for sensor in sensors.SENSORS:
    of_sensor = [scene for scene in scenes if scene.sensor == sensor]
    stamps = np.array([scene.time.timestamp() for scene in of_sensor])
    count += len(of_sensor)
    for block in days:
      start, end = (t.timestamp() for t in pairs.windows(sensors.SENSORS, block, _GAP_DAYS)[sensor])
      listing = catalogue.Listing(folder, sensor, block)
      for cell in everywhere:
        listing.add(cell, [])
      listing.add(everywhere[0], of_sensor[slice(*np.searchsorted(stamps, [start, end]))])
      listing.write()
  return count


def ours(folder: pathlib.Path, config: Any) -> tuple[float, float, int, int]:
  """Seconds, peak GB, points with a pair, points drawn; in a process of its own."""
  shop = worker.workshop(json.dumps(settings.checked(config)))
  start = time.perf_counter()
  rows = {}
  for number, block in enumerate(blocks.assign_blocks(shop.blocks, config.patches, config.seed)):
    rows[f'p{number:06d}'] = manifest.blank_row() | {'id': f'p{number:06d}', 'number': number, 'block': int(block)}
  manifest.write(folder, rows.values())
  with Pool(2) as pool:
    pairing.pair(shop, folder, rows, list(rows), pool)
  manifest.write(folder, rows.values())
  seconds = time.perf_counter() - start
  memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
  paired = sum(bool(row['s2_scene']) for row in rows.values())
  return seconds, memory / 1e6, paired, sum(row['attempts'] for row in rows.values())


def geopandas_way(folder: pathlib.Path, days: list[blocks.Block], config: Any, numbers: list[int]) -> tuple[float, int]:
  """Seconds and points of some blocks."""
  start = time.perf_counter()
  drawn = points.Region().draw(config.seed, range(config.patches))
  assigned = blocks.assign_blocks(days, config.patches, config.seed)
  done = 0
  for number in numbers:
    chosen = drawn[assigned == number]
    outlines = [
      base.split_antimeridian(grid.patch_grid(lon, lat).outline_lonlat())
      for lon, lat in zip(chosen['lon_deg'], chosen['lat_deg'], strict=True)
    ]
    patches = geopandas.GeoDataFrame({'point': chosen.index}, geometry=outlines, crs='EPSG:4326')
    found = []
    for sensor in sensors.SENSORS:
      table = geopandas.read_parquet(folder / f'catalogue/{sensor}/{days[number].start:%Y-%m-%d}.parquet')
      joined = geopandas.sjoin(patches, table[['id', 'time', 'geometry']], predicate='covered_by')
      found.append(pd.DataFrame(joined[['point', 'id', 'time']]))
    both = found[0].merge(found[1], on='point', suffixes=('_s2', '_s1'))
    both = both[(both['time_s2'] - both['time_s1']).abs() <= pd.Timedelta(days=_GAP_DAYS)]
    done += len(chosen)
    both.groupby('point').sample(1, random_state=config.seed)
  return time.perf_counter() - start, done


def main(_) -> None:
  config = common.get_config()
  config.source = {  # never asked, as its whole catalogue is written
    'name': 'stac', 'url': 'http://127.0.0.1:9', 's2_unit': 'product', 's1_collection': 'sentinel-1-rtc',
  }  # fmt: skip
  config.period.start, config.period.end = '2018-01-01', '2019-01-05'
  config.patches = _POINTS.value
  days = blocks.period_blocks(config.period.start, config.period.end)
  folder = pathlib.Path(_DIR.value)
  size = folder / 'footprints'
  if not size.exists():
    shutil.rmtree(folder, ignore_errors=True)
    start = time.perf_counter()
    folder.mkdir(parents=True)
    size.write_text(str(write_catalogue(folder, days)))
    print(f'catalogue written in {time.perf_counter() - start:.0f} s')
  written = sum(file.stat().st_size for file in folder.rglob('*.parquet'))
  print(f'{int(size.read_text()):,} footprints of a year, {written / 1e6:.0f} MB of GeoParquet')
  # A fresh process, so that its memory is that of pairing alone.
  with multiprocessing.get_context('spawn').Pool(1) as pool:
    seconds, memory, paired, drawn = pool.apply(ours, (folder, config))
  print(
    f'{config.patches:,} points: {paired:,} have a pair, {drawn:,} were drawn; {seconds:.0f} s, peak {memory:.2f} GB'
  )
  numbers = list(range(5, 5 + _PEER_BLOCKS.value))
  peer, done = geopandas_way(folder, days, config, numbers)
  per_point, per_peer = seconds / drawn, peer / done
  print(f'geopandas, {done:,} points of {len(numbers)} blocks, no redraws: {peer:.0f} s')
  print(f'a point: {per_point * 1e3:.2f} ms here, {per_peer * 1e3:.2f} ms there: {per_peer / per_point:.1f} x')


if __name__ == '__main__':
  app.run(main)

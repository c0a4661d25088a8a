"""Pairs for 100,000 points from a year of catalogue with a million footprints: time and memory.

    python benchmarks/pairing.py [--points=100000] [--blocks=2] [--repeats=3] [--whole]

The catalogue is made up, with the sizes, repeat cycles and names of the real one: Sentinel-2 tiles of 110 km on a
lattice of 100 km over all land, each seen every six days, and Sentinel-1 slices of 250 x 180 km, each seen every twelve
days on either pass. It is written once to --dir, as a corpus keeps what a platform answered (minutes; 90 MB). Timed are
some of its 31 blocks in turn, in this process: points on land, matching, one pair drawn of each patch, the journal, as
`python -m deepsentinel.corpus` does it between the plan and the first pixel, without redraws. The peer is what a user
would write with geopandas: `sjoin` of the patches with both sensors, `merge`, the gap, `sample`. Both must find pairs
for the same points. --whole runs all blocks with redraws once, on two processes, and says the memory.
"""

import argparse
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
import sidebyside

from configs.corpora import common
from deepsentinel import sensors
from deepsentinel.corpus import blocks, catalogue, grid, manifest, pairing, pairs, points, settings, worker
from deepsentinel.corpus.pool import Pool
from deepsentinel.sources import base

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


def planned(config: Any, days: list[blocks.Block]) -> dict[str, dict[str, Any]]:
  """Rows of a corpus whose points are not drawn yet, id -> row."""
  rows = {}
  for number, block in enumerate(blocks.assign_blocks(days, config.patches, config.seed)):
    rows[f'p{number:06d}'] = manifest.blank_row() | {'id': f'p{number:06d}', 'number': number, 'block': int(block)}
  return rows


def whole(folder: pathlib.Path, config: Any) -> None:
  """All blocks and the manifest, with redraws; prints seconds and peak GB. In a process of its own."""
  shop = worker.workshop(json.dumps(settings.checked(config)))
  start = time.perf_counter()
  rows = planned(config, shop.blocks)
  manifest.write(folder, rows.values())
  with Pool(2) as pool:
    pairing.pair(shop, folder, rows, list(rows), pool)
  manifest.write(folder, rows.values())
  seconds = time.perf_counter() - start
  used = [resource.getrusage(who).ru_maxrss / 1e6 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
  paired, drawn = sum(bool(row['s2_scene']) for row in rows.values()), sum(row['attempts'] for row in rows.values())
  print(f'{len(rows):,} points: {paired:,} have a pair, {drawn:,} were drawn; {seconds:.0f} s, peak {sum(used):.2f} GB')


def ours(shop: worker.Workshop, folder: pathlib.Path, rows: dict[str, dict[str, Any]]) -> dict[int, tuple[str, str]]:
  """Number of a point -> its pair of scenes."""
  made = {i: dict(row) for i, row in rows.items()}
  with Pool(1) as pool:
    pairing.pair(shop, folder, made, list(made), pool)
  (folder / manifest.JOURNAL).unlink()
  return {row['number']: (row['s2_scene'], row['s1_scene']) for row in made.values() if row['s2_scene']}


def geopandas_way(
  shop: worker.Workshop, folder: pathlib.Path, rows: dict[str, dict[str, Any]]
) -> dict[int, tuple[str, str]]:
  """The same, of the same points."""
  numbers, block = (np.array([row[name] for row in rows.values()]) for name in ('number', 'block'))
  drawn = shop.region.draw(shop.settings['seed'], numbers)
  pairs_of: dict[int, tuple[str, str]] = {}
  for k in np.unique(block):
    chosen = drawn[block == k].assign(point=numbers[block == k])
    outlines = [
      base.split_antimeridian(grid.patch_grid(lon, lat).outline_lonlat())
      for lon, lat in zip(chosen['lon_deg'], chosen['lat_deg'], strict=True)
    ]
    patches = geopandas.GeoDataFrame({'point': chosen['point']}, geometry=outlines, crs='EPSG:4326')
    found = []
    for sensor in sensors.SENSORS:
      table = geopandas.read_parquet(folder / f'catalogue/{sensor}/{shop.blocks[k].start:%Y-%m-%d}.parquet')
      joined = geopandas.sjoin(patches, table[['id', 'time', 'geometry']], predicate='covered_by')
      found.append(pd.DataFrame(joined[['point', 'id', 'time']]))
    both = found[0].merge(found[1], on='point', suffixes=('_s2', '_s1'))
    both = both[(both['time_s2'] - both['time_s1']).abs() <= pd.Timedelta(days=_GAP_DAYS)]
    one = both.groupby('point').sample(1, random_state=shop.settings['seed'])
    pairs_of.update(zip(one['point'].tolist(), zip(one['id_s2'], one['id_s1'], strict=True), strict=True))
  return pairs_of


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--points', type=int, default=100_000, help='of the whole year, uniform by area on land')
  parser.add_argument('--blocks', type=int, default=2, help='of the 31 that are timed')
  parser.add_argument('--repeats', type=int, default=3, help='alternating runs')
  parser.add_argument('--whole', action='store_true', help='all blocks once, with redraws, beside nothing')
  parser.add_argument('--dir', default='.cache/benchmarks/catalogue', help='where the catalogue is written; kept')
  options = parser.parse_args()
  config = common.get_config()
  config.source = {  # never asked, as its whole catalogue is written
    'name': 'stac', 'url': 'http://127.0.0.1:9', 's2_unit': 'product', 's1_collection': 'sentinel-1-rtc',
  }  # fmt: skip
  config.period.start, config.period.end = '2018-01-01', '2019-01-05'
  config.patches = options.points
  days = blocks.period_blocks(config.period.start, config.period.end)
  folder = pathlib.Path(options.dir)
  size = folder / 'footprints'
  if not size.exists():
    shutil.rmtree(folder, ignore_errors=True)
    start = time.perf_counter()
    folder.mkdir(parents=True)
    size.write_text(str(write_catalogue(folder, days)))
    print(f'catalogue written in {time.perf_counter() - start:.0f} s')
  written = sum(file.stat().st_size for file in folder.rglob('*.parquet'))
  print(f'{int(size.read_text()):,} footprints of a year, {written / 1e6:.0f} MB of GeoParquet')
  if options.whole:  # in a fresh process, so that its memory is that of pairing alone
    with multiprocessing.get_context('spawn').Pool(1) as pool:
      pool.apply(whole, (folder, config))
  config.points.max_redraws = 0
  shop = worker.workshop(json.dumps(settings.checked(config)))
  _ = shop.region
  rows = {i: row for i, row in planned(config, days).items() if 5 <= row['block'] < 5 + options.blocks}
  quarter = dict(list(rows.items())[::4])
  pairs_of: dict[str, dict[int, tuple[str, str]]] = {}

  def rate(name: str, way: Any, chosen: dict[str, dict[str, Any]]) -> float:
    start = time.perf_counter()
    pairs_of[name] = way(shop, folder, chosen)
    return len(chosen) / (time.perf_counter() - start)

  found = sidebyside.alternate(
    {
      'ours': lambda: rate('ours', ours, rows),
      'a quarter': lambda: rate('a quarter', ours, quarter),
      'geopandas': lambda: rate('geopandas', geopandas_way, rows),
    },
    options.repeats,
  )
  if pairs_of['ours'].keys() != pairs_of['geopandas'].keys():
    raise SystemExit('The two find pairs for different points.')
  stage = f'{len(rows):,} points of {options.blocks} blocks paired, {int(size.read_text()):,} footprints a year'
  sidebyside.leave(__file__, [
    sidebyside.Row(stage, 'geopandas sjoin, pandas merge', 'points/s', found['ours'], found['geopandas'], 10,
                   'each point from its own random streams'),
    sidebyside.Row(f'the same, {len(quarter):,} points', '', 'points/s', found['a quarter'], (), 0,
                   'the catalogue is read either way'),
  ])  # fmt: skip


if __name__ == '__main__':
  main()

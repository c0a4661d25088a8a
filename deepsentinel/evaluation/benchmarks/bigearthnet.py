"""BigEarthNet v2 (reBEN, Clasen et al. 2024): pairs of 120 px, lists of 19 classes, its own splits.

As in the paper, patches with seasonal snow, cloud or shadow are left out, and scores are macro and micro mean average
precision.
"""

import pathlib
from collections.abc import Sequence

import numpy as np
import pandas as pd
import tqdm

from deepsentinel import sensors
from deepsentinel.evaluation.benchmarks import base
from deepsentinel.sources import base as sources_base
from deepsentinel.sources import bigearthnet

SOURCE = 'BigEarthNet v2 from https://bigearth.net (https://zenodo.org/records/10891137)'
LAYOUT = (
  'BigEarthNet-S2/, BigEarthNet-S1/ (one of them where --bands names the bands of its sensor alone) and '
  'metadata.parquet; or its LMDB (made by rico-hdl) with metadata.parquet in or beside it'
)


def open_benchmark(directory: pathlib.Path, *, bands: Sequence[str] = (), progress: bool = True) -> base.Benchmark:
  """Opens a GeoTIFF tree or an LMDB.

  Args:
    directory: of the data set.
    bands: fewer than all fourteen; without a radar band no Sentinel-1 patch is needed, and the other way round.
    progress: show a progress bar.
  Raises:
    ValueError: no data set there, or a split without a patch.
  """
  layout = 'v2_lmdb' if _has_lmdb(directory) else 'v2_geotiff'
  spec = base.chosen_bands(bigearthnet.BigEarthNet.spec, bands, 'BigEarthNet')
  needed = ' and '.join(spec.sensors)
  try:
    source = bigearthnet.BigEarthNet(str(directory), layout, take=spec.sensors)
    bar = tqdm.tqdm(source.places(), desc='BigEarthNet', unit=' patches', leave=False, disable=not progress)
    places = list(bar)
  except ValueError as error:
    raise base.absent(directory, f'BigEarthNet v2 of {needed} ({error})', SOURCE, LAYOUT) from error
  found: dict[str, list[sources_base.Place]] = {split: [] for split in base.SPLITS}
  for place in places:
    facts = next(iter(place.scenes.values())).metadata  # those of the table are the same for both sensors
    spoilt = facts.get('contains_seasonal_snow') or facts.get('contains_cloud_or_shadow')
    if not spoilt and facts.get('split') in found:
      found[facts['split']].append(place)
  empty = [split for split, own in found.items() if not own]
  if empty:
    raise base.absent(directory, f'patch of split {", ".join(empty)} with {needed}', SOURCE, LAYOUT)
  classes = tuple(sorted({name for own in found.values() for place in own for name in place.classes}))
  splits, labels = {}, {}
  for split, own in found.items():
    labels[split] = np.array([[name in place.classes for name in classes] for place in own], bool)
    lonlat = np.array([place.grid.centre_lonlat() for place in own])
    table = pd.DataFrame({'id': [p.id for p in own], 'lon_deg': lonlat[:, 0], 'lat_deg': lonlat[:, 1],
                          'file': [' '.join(s.id for s in p.scenes.values()) for p in own], 'bytes': 0})  # fmt: skip
    splits[split] = base.Images(directory, split, spec, 120, table, _reader(source, own, spec))
  notes = ('Splits: those of metadata.parquet; patches with snow, cloud or shadow left out, as in the paper.',)
  return base.Benchmark('bigearthnet_v2', 'BigEarthNet v2', SOURCE, splits, classes, labels, notes)


def _has_lmdb(directory: pathlib.Path) -> bool:
  return any(True for pattern in ('data.mdb', '*/data.mdb', '*/*/data.mdb') for _ in directory.glob(pattern))


def _reader(
  source: bigearthnet.BigEarthNet, places: Sequence[sources_base.Place], spec: sensors.SensorSpec
) -> base.Reader:
  kinds = {
    's2': ('sentinel2', spec.s2_bands, sensors.store_reflectance),
    's1': ('sentinel1', spec.s1_bands, sensors.store_backscatter),
  }

  def read(number: int, field: str) -> np.ndarray:
    sensor, bands, store = kinds[field]
    place = places[number]
    patch = source.read(place.scenes[sensor], place.grid, bands)
    return store(patch.values, patch.unit, patch.valid)

  return read

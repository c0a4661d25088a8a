"""EuroSAT, Sen1Floods11 and BigEarthNet v2 in their published layouts, of a few scenes, written with rasterio."""

import pathlib

import lmdb
import numpy as np
import pandas as pd
import rasterio
import safetensors.numpy

from deepsentinel.evaluation.benchmarks import eurosat

SIDE_PX = 96  # of a chip, 512 in the published ones
CLASSES = ('AnnualCrop', 'Forest', 'SeaLake')
_LEVEL = {'AnnualCrop': 2000, 'Forest': 900, 'SeaLake': 300}


def write_tif(path: pathlib.Path, values: np.ndarray, x: float, y: float, epsg: int, pixel: float) -> None:
  """values [C, H, W]."""
  path.parent.mkdir(parents=True, exist_ok=True)
  count, height, width = values.shape
  profile = {'driver': 'GTiff', 'count': count, 'height': height, 'width': width, 'dtype': values.dtype,
             'crs': f'EPSG:{epsg}', 'transform': rasterio.Affine(pixel, 0, x, 0, -pixel, y)}  # fmt: skip
  with rasterio.open(path, 'w', **profile) as file:
    file.write(values)


def write_eurosat(folder: pathlib.Path, per_class: int = 12, scale: float = 1.0) -> dict[str, np.ndarray]:
  """EuroSAT_MS/ and its lists: half of each class is train, then come validation and test; name -> array."""
  rng, written = np.random.default_rng(0), {}
  lists: dict[str, list[str]] = {'train': [], 'val': [], 'test': []}
  for number, name in enumerate(CLASSES):
    for i in range(per_class):
      values = _LEVEL[name] + 100 * np.arange(13)[:, None, None] + rng.normal(0, 100, (13, 64, 64))
      values = (values * scale).astype(np.uint16 if scale == 1 else np.float32)
      written[f'{name}_{i + 1}'] = values
      path = folder / 'EuroSAT_MS' / name / f'{name}_{i + 1}.tif'
      write_tif(path, values, 300_000 + 60_000.0 * i, 5_000_000.0 + 700 * number, 32633, 10.0)
      lists['train' if i < per_class // 2 else 'val' if i < 2 * per_class // 3 else 'test'].append(
        f'{name}_{i + 1}.jpg'
      )
  for split, names in lists.items():
    (folder / eurosat.LISTS['published'].format(split)).write_text('\n'.join(names) + '\n')
  return written


def write_sen1floods11(folder: pathlib.Path, chips: int = 3) -> None:
  """v1.1/ with as many chips a split, the left third water, a corner unknown."""
  root, rng = folder / 'v1.1' / 'data' / 'flood_events' / 'HandLabeled', np.random.default_rng(1)
  lists = folder / 'v1.1' / 'splits' / 'flood_handlabeled'
  lists.mkdir(parents=True)
  px, number = SIDE_PX, 0
  for split in ('train', 'valid', 'test'):
    rows = []
    for _ in range(chips):
      name, water = f'Ghana_{100_000 + number}', np.zeros((px, px), bool)
      water[:, : px // 3] = True
      s2 = np.where(water, 400, 2500) + 10 * np.arange(13)[:, None, None] + rng.normal(0, 60, (13, px, px))
      s1 = np.where(water, -20, -9) + np.array([0, -6])[:, None, None] + rng.normal(0, 1, (2, px, px))
      label = water.astype(np.int16)
      label[:16, :16] = -1
      where = (-1.0 + 0.8 * number, 8.0, 4326, 1e-4)
      write_tif(root / 'S2Hand' / f'{name}_S2Hand.tif', s2.astype(np.uint16), *where)
      write_tif(root / 'S1Hand' / f'{name}_S1Hand.tif', s1.astype(np.float32), *where)
      write_tif(root / 'LabelHand' / f'{name}_LabelHand.tif', label[None], *where)
      rows.append(f'{name}_S1Hand.tif,{name}_LabelHand.tif')
      number += 1
    (lists / f'flood_{split}_data.csv').write_text('\n'.join(rows) + '\n')


def write_bigearthnet(folder: pathlib.Path, sensor: str, *, as_lmdb: bool = False) -> dict[str, dict[str, np.ndarray]]:
  """One sensor of four patches: one a split, the fourth with snow; split ('snow') -> band -> pixels [120, 120]."""
  bands, dtype = (('B03', 'B04'), np.uint16) if sensor == 'sentinel2' else (('VV', 'VH'), np.float32)
  rows, written, records = [], {}, {}
  for number, split in enumerate(('train', 'validation', 'test', 'snow')):
    place = f'33UUP_{number}_0'
    s2, s1 = f'S2A_MSIL2A_20170613T101031_N9999_R022_T{place}', f'S1B_IW_GRDH_1SDV_20170612T165809_{place}'
    snow = split == 'snow'
    rows.append({'patch_id': s2, 's1_name': s1, 'labels': ['Pastures'], 'split': 'train' if snow else split,
                 'contains_seasonal_snow': snow, 'contains_cloud_or_shadow': False})  # fmt: skip
    name, root, parts = (s2, 'BigEarthNet-S2', 2) if sensor == 'sentinel2' else (s1, 'BigEarthNet-S1', 3)
    level = 1000 + 100 * number if sensor == 'sentinel2' else -10 - number
    written[split] = records[name] = {band: np.full((120, 120), level + k, dtype) for k, band in enumerate(bands)}
    for band, values in {} if as_lmdb else written[split].items():
      path = folder / root / name.rsplit('_', parts)[0] / name / f'{name}_{band}.tif'
      write_tif(path, values[None], 300_000 + 1200.0 * number, 5_400_000.0, 32633, 10.0)
  folder.mkdir(exist_ok=True)
  pd.DataFrame(rows).to_parquet(folder / 'metadata.parquet')
  if as_lmdb:
    with lmdb.open(str(folder / 'ben'), map_size=1 << 24) as environment, environment.begin(write=True) as transaction:
      for name, arrays in records.items():
        transaction.put(name.encode(), safetensors.numpy.save(arrays))
  return written

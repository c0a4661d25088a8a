"""EuroSAT, multispectral (Helber et al. 2019): 27,000 patches of 64 px, 13 bands, ten classes.

Its pixels are Sentinel-2 L1C, top-of-atmosphere reflectance x 10,000 without offset. Bands lie in the order of its
files, B8A last (as torchgeo, who traced it, reads them); B10 is dropped by name, for no encoder here knows it.
"""

import pathlib
from collections.abc import Sequence

import numpy as np
import pandas as pd
import tqdm

from deepsentinel import sensors
from deepsentinel.evaluation.benchmarks import base

CLASSES = ('AnnualCrop', 'Forest', 'HerbaceousVegetation', 'Highway', 'Industrial', 'Pasture', 'PermanentCrop',
           'Residential', 'River', 'SeaLake')  # fmt: skip
FILE_BANDS = ('B1', 'B2', 'B3', 'B4', 'B5', 'B6', 'B7', 'B8', 'B9', 'B10', 'B11', 'B12', 'B8A')
LISTS = {'published': 'eurosat-{}.txt', 'spatial': 'eurosat-spatial-{}.txt'}
SOURCE = (
  'EuroSAT_MS.zip from https://zenodo.org/records/7711810, and the split lists eurosat-{train,val,test}.txt (or '
  'eurosat-spatial-...) from https://huggingface.co/datasets/torchgeo/eurosat'
)
LAYOUT = 'EuroSAT_MS/CLASS/CLASS_1.tif and eurosat-train.txt, eurosat-val.txt, eurosat-test.txt'
_FOLDERS = ('EuroSAT_MS', '.', 'ds/images/remote_sensing/otherDatasets/sentinel_2/tif')
_NAMES = {'train': 'train', 'validation': 'val', 'test': 'test'}


def open_benchmark(
  directory: pathlib.Path, *, bands: Sequence[str] = (), lists: str = 'published', progress: bool = True
) -> base.Benchmark:
  """Opens the folder and reads the lists of its splits.

  Args:
    directory: holds EuroSAT_MS/ (or its class folders) and the lists.
    bands: fewer than all; empty takes the twelve but B10.
    lists: 'published' (Neumann et al. 2019), or 'spatial' (split by longitude: harder, and nearer to use).
    progress: show progress bars.
  Raises:
    ValueError: a folder, a list or a patch that is not there; names where to get it.
  """
  if lists not in LISTS:
    raise ValueError(f'Unknown --lists={lists}. Known: {", ".join(LISTS)}.')
  images = next((directory / f for f in _FOLDERS if (directory / f / CLASSES[0]).is_dir()), None)
  if images is None:
    raise base.absent(directory, f'class folder {CLASSES[0]}/', SOURCE, LAYOUT)
  spec = base.chosen_bands(sensors.SensorSpec(sensors.SENTINEL2_BANDS, 'L1C'), bands, 'EuroSAT')
  channels = [FILE_BANDS.index(band) for band in spec.bands]
  splits, labels = {}, {}
  for split, short in _NAMES.items():
    path = directory / LISTS[lists].format(short)
    if not path.is_file():
      raise base.absent(directory, f'split list {path.name}', SOURCE, LAYOUT)
    names = [pathlib.Path(line.strip()).stem for line in path.read_text().splitlines() if line.strip()]
    files = [images / name.rpartition('_')[0] / f'{name}.tif' for name in names]
    lost = [file for file in files if not file.is_file()]
    if lost or not files:
      raise base.absent(
        directory, f'patch {lost[0].name}, which {path.name} names' if lost else path.name, SOURCE, LAYOUT
      )
    labels[split] = np.array([CLASSES.index(name.rpartition('_')[0]) for name in names], np.int64)
    bar = tqdm.tqdm(files, desc=f'Places of {split}', unit=' patches', leave=False, disable=not progress)
    # Only the places of test are asked for: blocks that intervals draw.
    places = np.array([base.centre(f) if split == 'test' else (np.nan, np.nan) for f in bar])
    table = pd.DataFrame({'id': names, 'lon_deg': places[:, 0], 'lat_deg': places[:, 1],
                          'file': [str(f.relative_to(directory)) for f in files],
                          'bytes': [f.stat().st_size for f in files]})  # fmt: skip
    splits[split] = base.Images(directory, split, spec, 64, table, _reader(files, channels))
  note = f'Splits: {LISTS[lists].format("{train,val,test}")}.'
  return base.Benchmark('eurosat', 'EuroSAT, multispectral', SOURCE, splits, CLASSES, labels, (note,))


def _reader(files: Sequence[pathlib.Path], channels: Sequence[int]) -> base.Reader:
  import rasterio

  def read(number: int, _: str) -> np.ndarray:
    with rasterio.open(files[number]) as file:
      if file.count != len(FILE_BANDS):
        raise ValueError(
          f"{files[number]} has {file.count} bands; EuroSAT's multispectral patches have {len(FILE_BANDS)}. Get "
          'EuroSAT_MS, not EuroSAT_RGB.'
        )
      values = np.moveaxis(file.read([c + 1 for c in channels]), 0, -1)
    if not np.issubdtype(values.dtype, np.integer) or np.median(values) <= 20:
      raise ValueError(
        f'{files[number]} holds {values.dtype} with a median of {np.median(values):.3g}; EuroSAT is reflectance '
        'x 10,000 in whole numbers. Get the published files.'
      )
    return sensors.store_reflectance(values, 'reflectance_x1e4')

  return read

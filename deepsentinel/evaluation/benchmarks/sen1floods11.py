"""Sen1Floods11 v1.1 (Bonafilia et al. 2020), hand-labelled: 446 chips of 512 px, water or not.

Sentinel-1 GRD of Earth Engine in dB (sigma0 on the ellipsoid), Sentinel-2 L1C x 10,000 in the order B1 to B8, B8A, B9,
B10, B11, B12, of which B10 is dropped by name. Labels: 1 water, 0 not, -1 unknown.
"""

import csv
import pathlib
from collections.abc import Sequence

import numpy as np
import pandas as pd
import tqdm

from deepsentinel import legend, sensors
from deepsentinel.evaluation.benchmarks import base

CLASSES = ('not water', 'water')
FILE_BANDS = ('B1', 'B2', 'B3', 'B4', 'B5', 'B6', 'B7', 'B8', 'B8A', 'B9', 'B10', 'B11', 'B12')
SOURCE = 'Sen1Floods11 v1.1 from gs://sen1floods11 (https://github.com/cloudtostreet/Sen1Floods11)'
LAYOUT = (
  'v1.1/data/flood_events/HandLabeled/{S1Hand,S2Hand,LabelHand}/*.tif and '
  'v1.1/splits/flood_handlabeled/flood_{train,valid,test}_data.csv'
)
# Stored label - 1: 0 unknown, 1 not water, 2 water.
TARGET = legend.Target(
  'water', 'water', 'label', CLASSES, np.array([[200, 190, 160], [40, 120, 220]], np.uint8),
  np.array([-1, 0, 1], np.int32),
)  # fmt: skip
_LISTS = {'train': 'flood_train_data.csv', 'validation': 'flood_valid_data.csv', 'test': 'flood_test_data.csv'}


def open_benchmark(directory: pathlib.Path, *, bands: Sequence[str] = (), progress: bool = True) -> base.Benchmark:
  """Opens the folder and reads the lists of its splits.

  Args:
    directory: above or at the folders of chips.
    bands: fewer than all fourteen, e.g. VV and VH; the other sensor's files are not needed then.
    progress: show progress bars.
  Raises:
    ValueError: a folder, a list or a chip that is not there; names where to get it.
  """
  labels_folder = next((f for f in sorted(directory.rglob('LabelHand')) if f.is_dir()), None)
  if labels_folder is None:
    raise base.absent(directory, 'folder LabelHand/', SOURCE, LAYOUT)
  chips = labels_folder.parent
  spec = base.chosen_bands(sensors.SensorSpec(sensors.ALL_BANDS, 'L1C', 'sigma0_ellipsoid'), bands, 'Sen1Floods11')
  kinds = [kind for kind, held in (('S2Hand', spec.s2_bands), ('S1Hand', spec.s1_bands)) if held] + ['LabelHand']
  splits = {}
  for split, name in _LISTS.items():
    path = next(iter(sorted(directory.rglob(name))), None)
    if path is None:
      raise base.absent(directory, f'split list {name}', SOURCE, LAYOUT)
    with path.open(newline='') as file:
      ids = [row[0].rpartition('_')[0] for row in csv.reader(file) if row]
    lost = [f'{kind}/{i}_{kind}.tif' for i in ids for kind in kinds if not (chips / kind / f'{i}_{kind}.tif').is_file()]
    if lost or not ids:
      raise base.absent(directory, f'chip {lost[0]}, which {name} names' if lost else f'chip in {name}', SOURCE, LAYOUT)
    files = [chips / 'LabelHand' / f'{i}_LabelHand.tif' for i in ids]
    bar = tqdm.tqdm(files, desc=f'Places of {split}', unit=' chips', leave=False, disable=not progress)
    places = np.array([base.centre(f) for f in bar])
    sizes = [sum((chips / k / f'{i}_{k}.tif').stat().st_size for k in kinds) for i in ids]
    table = pd.DataFrame({'id': ids, 'lon_deg': places[:, 0], 'lat_deg': places[:, 1],
                          'file': [str(f) for f in files], 'bytes': sizes})  # fmt: skip
    splits[split] = base.Images(directory, split, spec, _edge_px(files[0]), table, _reader(chips, ids, spec), maps=True)
  notes = (
    'Splits: flood_{train,valid,test}_data.csv. Probes are fitted on cells of 16 x 16 px; at the level of pixels their '
    'scores are interpolated to 10 m between the centres of cells, and no pixel was trained on.',
  )
  return base.Benchmark('sen1floods11', 'Sen1Floods11 v1.1', SOURCE, splits, CLASSES, {}, notes, 'water')


def _edge_px(path: pathlib.Path) -> int:
  import rasterio

  with rasterio.open(path) as file:
    return file.width


def _reader(chips: pathlib.Path, ids: Sequence[str], spec: sensors.SensorSpec) -> base.Reader:
  import rasterio

  channels = [FILE_BANDS.index(band) for band in spec.s2_bands]
  radar = [('VV', 'VH').index(band) for band in spec.s1_bands]

  def load(kind: str, name: str, count: int) -> np.ndarray:
    path = chips / kind / f'{name}_{kind}.tif'
    with rasterio.open(path) as file:
      if file.count != count:
        raise ValueError(f'{path} has {file.count} bands; Sen1Floods11 has {count} there. Fetch the file again.')
      return np.moveaxis(file.read(), 0, -1)

  def read(number: int, field: str) -> np.ndarray:
    name = ids[number]
    if field == 's2':
      return sensors.store_reflectance(load('S2Hand', name, len(FILE_BANDS))[..., channels], 'reflectance_x1e4')
    if field == 's1':
      return sensors.store_backscatter(load('S1Hand', name, 2)[..., radar], 'db')
    label = load('LabelHand', name, 1)[..., 0]
    if not np.isin(label, (-1, 0, 1)).all():
      raise ValueError(f'{name}_LabelHand.tif holds {np.unique(label)[:5].tolist()}; labels are -1, 0 and 1.')
    return (label + 1).astype(np.uint8)

  return read

"""Is SyntheticEarth as hard as the real one? A per-pixel random forest with spatially blocked folds.

    python benchmarks/syntheticearth_calibration.py

Patches all over the EU and Great Britain, each on a date of its own with the clouds as they come, are labelled through
the CORINE GeoPackage and its reader. A forest with the settings of `evaluation.baselines` is fitted on all folds but
one and scored on that one, from Sentinel-1, Sentinel-2 and both, against CORINE and against the truth. The same kind
of forest on a real scene (Chile, six classes) reaches a class-weighted IoU of 0.26, 0.48 and 0.50, the majority class
0.17; SyntheticEarth should give 0.20 to 0.40 from Sentinel-1, 0.40 to 0.60 from Sentinel-2, and a little more from
both. The clear patches by themselves are the closer likeness of one real scene.
Two legends are scored: EEA level 1, the project's own task, and six classes, as many as the real scene has.
Five minutes on two cores.
"""

import datetime
import pathlib
import tempfile
import time

import numpy as np
import tqdm
from absl import app, flags, logging
from sklearn.ensemble import RandomForestClassifier

from deepsentinel import legend
from deepsentinel.corpus import blocks, grid, pairs, points, splits
from deepsentinel.evaluation import metrics
from deepsentinel.sources import corine, synthetic

_PATCHES = flags.DEFINE_integer('patches', 240, 'Patches.')
_PATCH_PX = flags.DEFINE_integer('patch_px', 128, 'Side of a patch, pixels of 10 m.')
_TRAIN_PX = flags.DEFINE_integer('train_px', 250, 'Pixels of a patch that train.')
_TEST_PX = flags.DEFINE_integer('test_px', 1000, 'Pixels of a patch that are scored.')
_FOLDS = flags.DEFINE_integer('folds', 5, 'Spatial folds, of whole blocks of 50 km.')
_SEED = flags.DEFINE_integer('seed', 0, 'Of the world, the points, the dates, the folds and the forest.')
_JOBS = flags.DEFINE_integer('jobs', -1, 'Processor cores of the forest; -1 takes all.')

# Class-weighted IoU on the real scene, and where SyntheticEarth should lie.
REAL = {'S1': 0.26, 'S2': 0.48, 'S1 + S2': 0.50, 'majority': 0.17}
WANTED = {'S1': '0.20 to 0.40', 'S2': '0.40 to 0.60', 'S1 + S2': 'a little above S2'}
_CLEAR = 0.1
SIX_NAMES = ('built-up', 'crops', 'pasture and mosaic', 'forest', 'open land', 'wet and water')
_SIX_OF_LEVEL2 = {
  **dict.fromkeys((11, 12, 13, 14), 0),
  **dict.fromkeys((21, 22), 1),
  **dict.fromkeys((23, 24), 2),
  31: 3,
  **dict.fromkeys((32, 33), 4),
  **dict.fromkeys((41, 42, 51, 52), 5),
}


def six_lookup() -> np.ndarray:
  """int32 [256]: level-3 index to one of six classes; -1 without label."""
  table = np.full(256, -1, np.int32)
  for c in legend.CORINE:
    table[legend.CORINE_INDEX[c.code]] = _SIX_OF_LEVEL2[c.code // 10]
  return table


def sampled_patch(
  source: synthetic.SyntheticEarth, lon: float, lat: float, number: int
) -> dict[str, np.ndarray] | None:
  """Pixels of one patch: features float32 [P, 14], CORINE and true cover uint8 [P], place, share of cloud.

  None where no pair of scenes is found within the 12 days drawn.
  """
  rng = np.random.default_rng([_SEED.value, number])
  patch_grid = grid.patch_grid(lon, lat, _PATCH_PX.value)
  start = datetime.datetime(2018, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(days=int(rng.integers(0, 353)))
  block = blocks.Block(start, start + datetime.timedelta(days=blocks.BLOCK_DAYS))
  outline = patch_grid.outline_lonlat()
  windows = pairs.windows(source.spec.sensors, block, max_gap_days=3)
  listed = {sensor: source.search(sensor, outline, *window) for sensor, window in windows.items()}
  (found,) = pairs.Candidates(listed, max_gap_days=3).pairs([patch_grid])
  if not found:
    return None
  pair = pairs.draw(found, seed=_SEED.value, number=number)
  (bounds,) = patch_grid.bounds_in(4326, pad_px=200)
  with tempfile.TemporaryDirectory() as folder:
    path = source.write_corine(pathlib.Path(folder) / 'corine.gpkg', bounds)
    labels = corine.CorineVectors(str(path)).read(patch_grid)
  assert pair.s2 is not None  # SyntheticEarth has both sensors
  assert pair.s1 is not None
  optical = source.read(pair.s2, patch_grid, source.spec.s2_bands).values / np.float32(1e4)
  radar = source.read(pair.s1, patch_grid, source.spec.s1_bands).values
  truth = source.landcover(*patch_grid.pixel_centres_lonlat())
  chosen = rng.permutation(labels.size)[: _TRAIN_PX.value + _TEST_PX.value]
  features = np.concatenate([optical, radar], -1).astype(np.float32)
  return {
    'features': features.reshape(labels.size, -1)[chosen],
    'corine': labels.reshape(-1)[chosen],
    'truth': truth.reshape(-1)[chosen],
    'place': np.array([lon, lat]),
    'cloud_share': np.array(source.cloud_share(pair.s2, patch_grid)),
  }


def forest_scores(data: dict[str, np.ndarray], columns: slice, lookup: np.ndarray) -> dict[str, float]:
  """Class-weighted IoU against 'corine' and 'truth', pooled over the folds.

  Args:
    data: arrays over patches, [N, P, ...] of `sampled_patch`, and 'fold' int [N].
    columns: of the features.
    lookup: level-3 index to class.
  """
  classes = int(lookup.max()) + 1
  train_px = _TRAIN_PX.value
  confusion = {name: np.zeros((classes, classes), np.int64) for name in ('corine', 'truth')}
  for fold in range(_FOLDS.value):
    train, test = data['fold'] != fold, data['fold'] == fold
    x, y = data['features'][train, :train_px, columns], lookup[data['corine'][train, :train_px]]
    forest = RandomForestClassifier(
      50, max_depth=16, min_samples_leaf=3, n_jobs=_JOBS.value, random_state=_SEED.value
    )  # as evaluation.baselines
    forest.fit(x[y >= 0], y[y >= 0])
    x = data['features'][test, train_px:, columns]
    prediction = forest.predict(x.reshape(-1, x.shape[-1]))
    for name, matrix in confusion.items():
      label = lookup[data[name][test, train_px:]].reshape(-1)
      matrix += metrics.confusion_matrix(label, prediction, classes)
  return {name: metrics.scores(matrix)['weighted_iou'] for name, matrix in confusion.items()}


def print_table(title: str, data: dict[str, np.ndarray], names: tuple[str, ...], lookup: np.ndarray) -> None:
  """Scores from both sensors and each beside the real scene's; fits the forests."""
  label = lookup[data['corine']]
  count = np.bincount(label[label >= 0], minlength=len(names))
  print(f'\n{title}: ' + ', '.join(f'{n} {c / count.sum():.1%}' for n, c in zip(names, count, strict=True)))
  print(f'{"class-weighted IoU":20s}{"CORINE":>8s}{"truth":>8s}{"real":>8s}   wanted')
  majority = float((count.max() / count.sum()) ** 2)  # share of the class, times its IoU, which is its share
  print(f'{"majority":20s}{majority:8.2f}{"":8s}{REAL["majority"]:8.2f}')
  for name, columns in (('S1', slice(12, 14)), ('S2', slice(0, 12)), ('S1 + S2', slice(0, 14))):
    score = forest_scores(data, columns, lookup)
    print(f'{name:20s}{score["corine"]:8.2f}{score["truth"]:8.2f}{REAL[name]:8.2f}   {WANTED[name]}', flush=True)


def main(_) -> None:
  logging.set_verbosity(logging.WARNING)  # the vector writer announces every file
  source = synthetic.SyntheticEarth(_SEED.value)
  began = time.perf_counter()
  drawn = []
  place = points.land_points(_PATCHES.value, _SEED.value, 'EU27_GB')
  for number in tqdm.tqdm(range(_PATCHES.value), desc='rendering', unit='patch'):
    patch = sampled_patch(source, place.lon_deg[number], place.lat_deg[number], number)
    if patch is not None:
      drawn.append(patch)
  data = {name: np.stack([patch[name] for patch in drawn]) for name in drawn[0]}
  block = splits.block_numbers(data['place'][:, 0], data['place'][:, 1], block_km=50)
  shares = {str(k): 1 / _FOLDS.value for k in range(_FOLDS.value)}
  data['fold'] = splits.assign(block, shares, _SEED.value).astype(int)
  cloud = data['cloud_share']
  print(
    f'{len(drawn)} patches of {_PATCH_PX.value} px, {len(np.unique(block))} blocks of 50 km, '
    f'{_FOLDS.value} folds, {time.perf_counter() - began:.0f} s\n'
    f'cloud: mean share {cloud.mean():.2f}; below 0.05 in {np.mean(cloud < 0.05):.0%} of the patches, '
    f'above 0.95 in {np.mean(cloud > 0.95):.0%}'
  )
  legends = {
    'EEA level 1': (legend.LEVEL1_NAMES, legend.level_lookup(1)),
    'six classes': (SIX_NAMES, six_lookup()),
  }
  for title, (names, lookup) in legends.items():
    print_table(title, data, names, lookup)
  clear = {name: values[cloud < _CLEAR] for name, values in data.items()}
  for title, (names, lookup) in legends.items():
    print_table(f'{title}, the {len(clear["fold"])} patches with less than {_CLEAR:.0%} cloud', clear, names, lookup)


if __name__ == '__main__':
  app.run(main)

"""What a network has to beat: the majority class, and a random forest that looks at one pixel at a time."""

import time
from collections.abc import Callable

import numpy as np
import tqdm

from deepsentinel import legend, sensors
from deepsentinel.evaluation import metrics

_CHUNK_PX = 1 << 18
_LEVEL1 = legend.target('corine_level1')


def class_counts(
  records, target: legend.Target, *, index: np.ndarray | None = None, progress: bool = True
) -> np.ndarray:
  """Labelled pixels per class of a target, int64 [K], over the records `index` (default: all) of a RecordSet."""
  return patch_class_counts(records, target, index=index, progress=progress).sum(0)


def patch_class_counts(
  records, target: legend.Target, *, index: np.ndarray | None = None, progress: bool = True
) -> np.ndarray:
  """Labelled pixels per patch and class of a target, int64 [N, K], in the order of `index` (default: all records)."""
  counts = []
  for batch in _batches(records, index, progress, 'counting labels'):
    for stored in records.read(target.field, batch):
      label = target.lookup[stored].reshape(-1)
      counts.append(np.bincount(label[label >= 0], minlength=len(target.classes)))
  return np.array(counts, np.int64).reshape(-1, len(target.classes))


def has_labels(records, target: legend.Target) -> bool:
  """Whether any pixel has a class of a target; reads no further than the first that has."""
  return any((target.lookup[records.read(target.field, b)] >= 0).any() for b in _batches(records, None, False, ''))


def majority(train_counts: np.ndarray, test_counts: np.ndarray) -> np.ndarray:
  """Confusion matrix of always predicting the class most frequent in training.

  Args:
    train_counts: integer [K], labelled pixels per class of the train split.
    test_counts: integer [K], labelled pixels per class of the test split.
  Returns:
    int64 [K, K], rows = reference.
  """
  train_counts, test_counts = np.asarray(train_counts), np.asarray(test_counts)
  if train_counts.shape != test_counts.shape or train_counts.ndim != 1:
    raise ValueError(f'Class counts must be two equally long vectors; found {train_counts.shape}, {test_counts.shape}.')
  if train_counts.sum() == 0:
    raise ValueError('The train split has no labelled pixel, so there is no majority class.')
  confusion = np.zeros((len(test_counts),) * 2, np.int64)
  confusion[:, int(train_counts.argmax())] = test_counts
  return confusion


def random_forest(
  train_records,
  test_records,
  *,
  target: legend.Target = _LEVEL1,
  bands: tuple[str, ...] | None = None,
  train_index: np.ndarray | None = None,
  test_index: np.ndarray | None = None,
  train_pixels: int = 60_000,
  trees: int = 50,
  max_depth: int = 16,
  seed: int = 0,
  jobs: int = -1,
  progress: bool = True,
) -> np.ndarray:
  """Confusion matrix over all test pixels of a per-pixel random forest, as the paper's field would try first.

  Trained on the same number of labelled pixels from every train patch, drawn at random by (seed, record number), so
  that no patch dominates and the same call gives the same forest. Every labelled test pixel is predicted once.

  Args:
    train_records, test_records: labelled RecordSets of one sensor contract.
    target: whose labels.
    bands: features, by name; None takes all that the records hold. ('VV', 'VH') is the radar-only forest.
    train_index, test_index: record numbers to use; None takes all.
    train_pixels: pixels drawn in all.
    trees, max_depth: of the forest.
    seed: of the draw and of the forest.
    jobs: processor cores; -1 takes all.
    progress: show progress bars.
  Returns:
    int64 [K, K], rows = reference.
  Raises:
    ValueError: no labelled train pixel, or a band the records lack.
  """
  if train_records.spec != test_records.spec:
    raise ValueError(
      f'Train records are {train_records.spec.to_dict()} and test records {test_records.spec.to_dict()}; '
      'take both splits from one record set.'
    )
  predict = fit_forest(
    train_records, target=target, bands=bands, index=train_index, train_pixels=train_pixels, trees=trees,
    max_depth=max_depth, seed=seed, jobs=jobs, progress=progress,
  )  # fmt: skip
  bands, classes = tuple(bands or train_records.spec.bands), len(target.classes)
  confusion = np.zeros((classes, classes), np.int64)
  for batch in _batches(test_records, test_index, progress, 'forest: predicting test pixels'):
    x, y = _pixels(test_records, batch, bands, target)
    x, y = x[y >= 0], y[y >= 0]
    if len(y):
      confusion += metrics.confusion_matrix(y, predict(x), classes)
  return confusion


def fit_forest(
  records,
  *,
  target: legend.Target = _LEVEL1,
  bands: tuple[str, ...] | None = None,
  index: np.ndarray | None = None,
  train_pixels: int = 60_000,
  trees: int = 50,
  max_depth: int = 16,
  seed: int = 0,
  jobs: int = -1,
  progress: bool = True,
) -> Callable[[np.ndarray], np.ndarray]:
  """The forest of `random_forest`, whose arguments these are, fitted on labelled `records`.

  Returns:
    function of pixels float32 [M, F], reflectance and dB with NaN for nodata -> class int [M].
  Raises:
    ValueError: no labelled pixel, or a band the records lack.
  """
  from sklearn.ensemble import RandomForestClassifier

  bands = tuple(bands or records.spec.bands)
  records.spec.select(bands)
  numbers = _numbers(records, index)
  per_patch = max(1, -(-train_pixels // max(1, len(numbers))))
  features, targets = [], []
  for batch in _batches(records, numbers, progress, 'forest: reading train pixels'):
    x, y = _pixels(records, batch, bands, target)
    for i, number in enumerate(batch):
      labelled = np.flatnonzero(y[i] >= 0)
      rng = np.random.default_rng([seed, int(number)])
      chosen = np.sort(rng.choice(labelled, min(per_patch, len(labelled)), replace=False))
      features.append(x[i, chosen])
      targets.append(y[i, chosen])
  if not sum(map(len, targets)):
    raise ValueError(f'None of the {len(numbers)} train patches has a labelled pixel of {target.title}.')
  x, y = np.concatenate(features), np.concatenate(targets)
  fill = _median(x)
  forest = RandomForestClassifier(trees, max_depth=max_depth, min_samples_leaf=3, n_jobs=jobs, random_state=seed)
  forest.fit(np.where(np.isnan(x), fill, x), y)

  def predict(pixels: np.ndarray) -> np.ndarray:
    parts = [pixels[start : start + _CHUNK_PX] for start in range(0, len(pixels), _CHUNK_PX)]
    return np.concatenate([forest.predict(np.where(np.isnan(part), fill, part)) for part in parts])

  return predict


def evaluate(
  train_records, test_records, *, target: legend.Target = _LEVEL1, forest: bool = True, progress: bool = True, **options
):
  """Both baselines as entries of test.json's `methods`: {'majority': ..., 'random_forest': ...}.

  `options` go to `random_forest`, which is left out if `forest` is False. Each entry says how long it took.
  """
  began = time.monotonic()
  indices = {k: options.get(f'{k}_index') for k in ('train', 'test')}
  counts = [
    class_counts(records, target, index=indices[name], progress=progress)
    for name, records in (('train', train_records), ('test', test_records))
  ]
  methods = {'majority': metrics.method(majority(*counts), seconds=round(time.monotonic() - began, 2))}
  if forest:
    began = time.monotonic()
    confusion = random_forest(train_records, test_records, target=target, progress=progress, **options)
    methods['random_forest'] = metrics.method(confusion, seconds=round(time.monotonic() - began, 2))
  return methods


def _numbers(records, index: np.ndarray | None) -> np.ndarray:
  return np.arange(len(records)) if index is None else np.asarray(index)


def _batches(records, index: np.ndarray | None, progress: bool, text: str):
  """Record numbers in groups of a few patches, under a progress bar that counts patches."""
  numbers = _numbers(records, index)
  size = max(1, _CHUNK_PX // records.patch_px**2)
  with tqdm.tqdm(total=len(numbers), desc=text, unit='patch', disable=not progress) as bar:
    for start in range(0, len(numbers), size):
      batch = numbers[start : start + size]
      yield batch
      bar.update(len(batch))


def _pixels(records, batch: np.ndarray, bands: tuple[str, ...], target: legend.Target) -> tuple[np.ndarray, np.ndarray]:
  """(features float32 [B, P, F] in reflectance and dB with NaN for nodata, class int32 [B, P])."""
  s2, s1 = records.spec.indices(bands)
  parts = []
  if s2:
    stored = records.read('s2', batch)[..., s2]
    parts.append(np.where(stored == sensors.S2_NODATA, np.nan, stored / np.float32(sensors.S2_SCALE)))
  if s1:
    stored = records.read('s1', batch)[..., s1]
    parts.append(np.where(stored == sensors.S1_NODATA, np.nan, stored / np.float32(sensors.S1_SCALE)))
  features = np.concatenate(parts, -1).astype(np.float32)
  label = target.lookup[records.read(target.field, batch)]
  return features.reshape(len(batch), -1, features.shape[-1]), label.reshape(len(batch), -1)


def _median(x: np.ndarray) -> np.ndarray:
  """float32 [F]: median of the valid values of each feature; 0 for a feature without one."""
  fill = np.zeros(x.shape[1], np.float32)
  for i, column in enumerate(x.T):
    valid = column[~np.isnan(column)]
    fill[i] = np.median(valid) if valid.size else 0
  return fill

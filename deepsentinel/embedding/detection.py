"""Detection from a few examples: logistic regression on the cells of a map, and how sure it can be."""

import dataclasses
import itertools
import json
import pathlib
from typing import Any

import numpy as np
import tqdm
from scipy import ndimage

from deepsentinel import provenance
from deepsentinel.embedding import cells, placemaps, places
from deepsentinel.embedding.examples import Examples

REFITS = 100
# Of logistic regression on features of unit mean square length; of 1 to 1000, that with the best Brier score from three
# to thirty examples of seven land covers of SyntheticEarth.
_C = 10.0
_MOST_CELLS = 200  # of one example; more are drawn from
_MOST_PAIRS = 200
_FEW = 10  # groups of a kind; below it, one more or less moves the score by more than a tenth
_MEANING = 'of being positive, for a cell that is as likely positive as negative beforehand; it is no share of the area'
SCORE = (
  'leave pair out: every pair of a positive and a negative example is left out in turn, and the model of the others '
  'ranks the two (Airola et al., 2011)'
)


@dataclasses.dataclass(frozen=True)
class Detector:
  """Logistic regressions on unit vectors: the first of all examples, the others of resampled ones.

  Attributes:
    mean, spread: of `moments`; a feature is a vector's difference from the mean, over the spread.
    weights: float64 [E, 1 + refits]. bias: float64 [1 + refits].
  """

  mean: np.ndarray
  spread: float
  weights: np.ndarray
  bias: np.ndarray

  def __call__(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors float [..., E] -> probability and its standard deviation over refits, float32 [...]; NaN unknown."""
    logit = ((vectors - self.mean) / self.spread) @ self.weights + self.bias
    probability = 1 / (1 + np.exp(-np.clip(logit, -50, 50)))
    spread = probability[..., 1:].std(-1) if len(self.bias) > 1 else np.full(vectors.shape[:-1], np.nan)
    return probability[..., 0].astype(np.float32), spread.astype(np.float32)


def moments(there: cells.CellMap) -> tuple[np.ndarray, float]:
  """Mean of the map's unit vectors, float64 [E], and their root mean square distance from it."""
  count, total = 0, np.zeros(there.features)
  for _, _, block in there.blocks():
    vectors = block[np.isfinite(block[..., 0])].astype(np.float64)
    count += len(vectors)
    total += vectors.sum(0)
  if not count:
    raise ValueError(f'{there.path} has no embedding in any cell: all of it is nodata. Embed an area with pixels.')
  mean = total / count
  # The mean square of unit vectors is 1.
  return mean, max(1 - float(mean @ mean), 1e-12) ** 0.5


def fit(examples: Examples, mean: np.ndarray, spread: float, *, refits: int = REFITS, seed: int = 0) -> Detector:
  """Fits all examples, and `refits` resamples of them.

  An example counts once, whatever its cells, and both kinds count alike. Examples are resampled with replacement, each
  kind by itself; where a kind has one example, its resamples are all the same, and there are no refits.

  Args:
    examples: of both kinds.
    mean, spread: of `moments`.
    refits: of resampled examples.
    seed: of the resampling.
  """
  rng = np.random.default_rng(seed)
  examples = _thinned(examples, rng)
  features = (examples.vectors - mean) / spread
  kinds = [examples.groups(True), examples.groups(False)]
  draws = [np.concatenate(kinds)]
  if min(map(len, kinds)) > 1:
    draws += [np.concatenate([rng.choice(groups, len(groups)) for groups in kinds]) for _ in range(refits)]
  fitted = [_regression(features, examples, draw) for draw in draws]
  return Detector(mean, spread, np.stack([w for w, _ in fitted], 1), np.array([b for _, b in fitted]))


def _thinned(examples: Examples, rng: np.random.Generator) -> Examples:
  """At most _MOST_CELLS cells of an example: a large polygon's cells are alike, and cost time."""
  kept = []
  for group in np.unique(examples.group):
    held = np.flatnonzero(examples.group == group)
    kept.append(held if len(held) <= _MOST_CELLS else np.sort(rng.choice(held, _MOST_CELLS, replace=False)))
  at = np.concatenate(kept)
  return dataclasses.replace(examples, vectors=examples.vectors[at], label=examples.label[at], group=examples.group[at])


def _regression(features: np.ndarray, examples: Examples, draw: np.ndarray) -> tuple[np.ndarray, float]:
  """Weights [E] and bias of the groups drawn, one as often as it was drawn."""
  from sklearn.linear_model import LogisticRegression

  times = np.bincount(draw, minlength=int(examples.group.max()) + 1)
  size = np.bincount(examples.group)
  weight = (times / np.maximum(size, 1))[examples.group]
  for kind in (True, False):
    mine = examples.label == kind
    weight[mine] *= len(draw) / 2 / weight[mine].sum()
  used = weight > 0
  model = LogisticRegression(C=_C, max_iter=1000).fit(features[used], examples.label[used], weight[used])
  return model.coef_[0], float(model.intercept_[0])


def score(
  examples: Examples, mean: np.ndarray, spread: float, *, seed: int = 0, progress: bool = True
) -> dict[str, Any]:
  """How well examples that were not fitted are told apart.

  Args:
    examples: of both kinds.
    mean, spread: of `moments`.
    seed: of the choice of pairs, where there are more than 200.
    progress: shows a bar.
  Returns:
    {'auc': share of pairs whose positive example has the higher mean probability; 'balanced_accuracy' at 0.5, of both
    examples of all pairs; 'pairs', 'method'}; auc and balanced_accuracy are None where a kind has one example.
  """
  rng = np.random.default_rng(seed)
  examples = _thinned(examples, rng)
  positive, negative = examples.groups(True), examples.groups(False)
  if min(len(positive), len(negative)) < 2:
    return {'auc': None, 'balanced_accuracy': None, 'pairs': 0, 'method': SCORE}
  features = (examples.vectors - mean) / spread
  pairs = list(itertools.product(positive.tolist(), negative.tolist()))
  if len(pairs) > _MOST_PAIRS:
    pairs = [pairs[i] for i in rng.choice(len(pairs), _MOST_PAIRS, replace=False)]
  everyone = np.concatenate([positive, negative])
  won, right = [], []
  for pair in tqdm.tqdm(pairs, desc='Leaving pairs out', unit=' pairs', disable=not progress):
    weights, bias = _regression(features, examples, np.setdiff1d(everyone, pair))
    high, low = (float(_sigmoid(features[examples.group == g] @ weights + bias).mean()) for g in pair)
    won.append(1.0 if high > low else 0.5 if high == low else 0.0)
    right.append(((high > 0.5) + (low <= 0.5)) / 2)
  return {
    'auc': float(np.mean(won)), 'balanced_accuracy': float(np.mean(right)), 'pairs': len(pairs), 'method': SCORE,
  }  # fmt: skip


def _sigmoid(logit: np.ndarray) -> np.ndarray:
  return 1 / (1 + np.exp(-np.clip(logit, -50, 50)))


def predict(there: cells.CellMap, detector: Detector, *, progress: bool = True) -> tuple[np.ndarray, np.ndarray]:
  """Probability and uncertainty of every cell, float32 [rows, cols]; NaN where there is no embedding."""
  layers = [np.full((there.rows, there.cols), np.nan, np.float32) for _ in range(2)]
  with tqdm.tqdm(total=there.block_count, desc='Detecting', unit=' blocks', disable=not progress) as bar:
    for row, col, vectors in there.blocks():
      for layer, values in zip(layers, detector(vectors), strict=True):
        layer[row : row + values.shape[0], col : col + values.shape[1]] = values
      bar.update()
  return layers[0], layers[1]


def areas(there: cells.CellMap, probability: np.ndarray, uncertainty: np.ndarray, threshold: float, min_cells: int):
  """Connected cells (by their sides) of at least a probability, as polygons.

  Returns:
    geopandas.GeoDataFrame in the map's CRS: cells, area_km2, mean_probability, mean_uncertainty, geometry; the
    largest first.
  """
  import geopandas
  import rasterio.features
  import shapely.geometry

  numbers, count = ndimage.label(np.nan_to_num(probability, nan=-1.0) >= threshold)
  size = np.bincount(numbers.ravel(), minlength=count + 1)
  outlines = {
    int(number): shapely.geometry.shape(outline)
    for outline, number in rasterio.features.shapes(
      numbers.astype(np.int32), mask=numbers > 0, connectivity=4, transform=there.transform
    )
  }
  kept = sorted((n for n in outlines if size[n] >= min_cells), key=lambda n: (-size[n], n))
  means = [ndimage.mean(layer, numbers, kept) if kept else [] for layer in (probability, uncertainty)]
  table = {
    'cells': size[kept] if kept else [],
    'area_km2': size[kept] * (there.cell_m / 1000) ** 2 if kept else [],
    'mean_probability': means[0],
    'mean_uncertainty': means[1],
  }
  return geopandas.GeoDataFrame(table, geometry=[outlines[n] for n in kept], crs=there.crs)


def caveats(there: cells.CellMap, examples: Examples, scores: dict[str, Any]) -> list[str]:
  """What the numbers cannot say."""
  counts = {name: len(examples.groups(kind)) for name, kind in (('positive', True), ('negative', False))}
  text = ' and '.join(f'{number} {name}' for name, number in counts.items())
  out = []
  if scores['auc'] is None:
    out.append(
      f'With {text} example(s) neither a score nor an uncertainty can be known: both need two examples of each kind.'
    )
  elif min(counts.values()) < _FEW:
    out.append(
      f'{text} examples are few: score and uncertainty say how far these examples agree, and not what else the area '
      'holds. One more example may change both.'
    )
  used, groups = int(examples.used.sum()), sum(counts.values())
  if groups < used:
    side = there.mean_cells
    near = f'whose means of {side} x {side} cells overlap' if side > 1 else 'that share a cell'
    out.append(f'{used} examples count as {groups}: those of a kind {near} are one.')
  lost = int((~examples.used).sum())
  if lost:
    out.append(f'{lost} example(s) lie outside the map, or where it has no data, and were left out.')
  if there.synthetic:
    out.append('SyntheticEarth is a simulated world: no number here says anything about the Earth.')
  return out


def detect(
  there: cells.CellMap,
  examples: Examples,
  out: pathlib.Path,
  *,
  asked: dict[str, Any],
  threshold: float = 0.5,
  min_cells: int = 1,
  refits: int = REFITS,
  progress: bool = True,
) -> tuple[dict[str, Any], bool]:
  """Writes detection.tif, detection.png, detections.gpkg and, last, detection.json.

  Args:
    there: the map.
    examples: on its cells.
    out: folder; one with another detection is left as it is.
    asked: what tells this detection from another: the examples' file.
    threshold: probability from which a cell is detected.
    min_cells: smallest area that is kept.
    refits: of resampled examples, for the uncertainty.
    progress: shows bars.
  Returns:
    (detection.json, whether it was there already).
  Raises:
    ValueError: `out` holds another detection, or the map has no embedding.
  """
  job = {  # results without joined_cells are scored otherwise
    **asked, 'map': str(there.path.resolve()), 'changed': there.path.stat().st_mtime, 'threshold': threshold,
    'min_cells': min_cells, 'refits': refits, 'mean_cells': there.mean_cells, 'joined_cells': there.mean_cells - 1,
  }  # fmt: skip
  if finished := _finished(out, job):
    return finished, True
  mean, spread = moments(there)
  scores = score(examples, mean, spread, progress=progress)
  probability, uncertainty = predict(there, fit(examples, mean, spread, refits=refits), progress=progress)
  found = areas(there, probability, uncertainty, threshold, min_cells)
  notes = caveats(there, examples, scores)
  out.mkdir(parents=True, exist_ok=True)
  tags = {
    'checkpoint_sha256': there.checkpoint_sha256, 'probability': _MEANING, 'synthetic': str(there.synthetic).lower(),
    'mean_cells': str(there.mean_cells), 'refits': str(refits), 'times': there.tags.get('times', ''),
  }  # fmt: skip
  cells.write_map(out / 'detection.tif', there, {'probability': probability, 'uncertainty': uncertainty}, tags)
  places.write(out / 'detections.gpkg', {'detected': found, 'examples': _frame(examples, there.crs)})
  about = {
    'examples': {
      name: {'groups': len(examples.groups(kind)), 'cells': int((examples.label == kind).sum())}
      for name, kind in (('positive', True), ('negative', False))
    },
    'score': scores,
    'probability': _MEANING,
    'threshold': threshold,
    'detected': {'areas': len(found), 'km2': float(found['area_km2'].sum()), 'of_km2': _known_km2(there, probability)},
    'cells': f'means of {there.mean_cells} x {there.mean_cells} cells of {there.cell_m:g} m',
    'checkpoint_sha256': there.checkpoint_sha256,
    'synthetic': there.synthetic,
    'caveats': notes,
    'job': job,
  }
  drawn = [(g, bool(p)) for g, p, u in zip(examples.geometry, examples.positive, examples.used, strict=True) if u]
  placemaps.draw_detection(out / 'detection.png', there, probability, uncertainty, drawn, _caption(there, about))
  provenance.write_json(out / 'detection.json', about)
  return about, False


def _finished(out: pathlib.Path, job: dict[str, Any]) -> dict[str, Any] | None:
  """detection.json of this very detection, None where `out` holds none; ValueError where it holds another."""
  path = out / 'detection.json'
  try:
    about = json.loads(path.read_text())
  except FileNotFoundError:
    return None
  except ValueError as error:
    raise ValueError(f'{path} cannot be read ({error}). Remove it, or pass another --out.') from error
  differing = [key for key in job if about.get('job', {}).get(key) != job[key]]
  if differing:
    raise ValueError(f'{out} holds a detection with other {", ".join(differing)}. Pass another --out, or remove it.')
  return about


def _known_km2(there: cells.CellMap, probability: np.ndarray) -> float:
  return int(np.isfinite(probability).sum()) * (there.cell_m / 1000) ** 2


def _frame(examples: Examples, crs: str):
  import geopandas

  table = {'label': examples.positive.astype(int), 'used': examples.used}
  return geopandas.GeoDataFrame(table, geometry=list(examples.geometry), crs=4326).to_crs(crs)


def _caption(there: cells.CellMap, about: dict[str, Any]) -> str:
  made = [placemaps.SYNTHETIC] if there.synthetic else []
  counts = ', '.join(f'{about["examples"][name]["groups"]} {name}' for name in ('positive', 'negative'))
  auc = about['score']['auc']
  scored = 'score unknown: one example of a kind' if auc is None else f'leave-pair-out AUC {auc:.2f}'
  side = there.mean_cells
  smoothed = f'; means of {side} x {side} cells' if side > 1 else ''
  times = there.tags.get('times', '').replace(',', ', ')
  lines = [*made, f'{counts} examples, {scored}{smoothed}', f'{there.name}, checkpoint {there.checkpoint_sha256[:12]}']
  return '\n'.join([*lines, times] if times else lines)

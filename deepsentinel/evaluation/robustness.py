"""Quality against cloud cover, from confusion matrices: skill, its intervals, and what must hold.

Skill is (q - q_majority) / (q_best - q_majority): 0 for a map of the majority class alone, 1 for what both sensors give
without a cloud. All three are of the very same pixels, so that of those under cloud the same can be said as of all.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from deepsentinel.evaluation import baselines, intervals, metrics

SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
# What the model is shown; 'told': optical pixels under cloud are given as missing.
VIEWS = ('s1', 's2', 'fused', 's2_told', 'fused_told')
SKIES = ('clear', 'cloud')
WHOLE = 'all'
PARTS = (WHOLE, *SKIES)
METRIC = 'weighted_iou'
TITLES = {
  's1': 'Sentinel-1 alone',
  's2': 'Sentinel-2 alone',
  'fused': 'both',
  's2_told': 'Sentinel-2 alone, cloud masked',
  'fused_told': 'both, cloud masked',
}


class Measured(NamedTuple):
  """Confusion matrices, rows = reference, of P patches, M models, S cloud shares, V views.

  Attributes:
    id: P patch ids.
    confusion: int64 [P, M, S, V, 2, K, K]: of the pixels under clear sky, and of those under cloud.
    reference: int64 [P, M, S, 2, K, K]: what 'fused' says without a cloud, of the same pixels.
    kept: float64 [P, M, S, V], cosine of the patch's embedding with that of 'fused' without a cloud.
    apart: float64 [M], mean cosine of the embeddings of two different patches, 'fused' without a cloud.
  """

  id: list[str]
  confusion: np.ndarray
  reference: np.ndarray
  kept: np.ndarray
  apart: np.ndarray


def curves(
  measured: Measured, block: np.ndarray, train_counts: np.ndarray, shares: Sequence[float]
) -> dict[str, dict[str, list[dict[str, Any]]]]:
  """Quality and skill of every view at every cloud share, for all pixels and for those of either sky.

  Args:
    measured: of P patches and M models.
    block: int [P], the spatial block of each patch; blocks are what the bootstrap draws.
    train_counts: int [K], labelled pixels per class of the train split, whose largest is the majority class.
    shares: S cloud shares.
  Returns:
    part ('all', 'clear', 'cloud') -> view -> S entries {'cloud_share', 'pixels', 'quality', 'majority', 'skill',
    'quality_of_models': [M], 'skill_of_models': [M], 'places': [low, high] or None, 'seeds': [low, high] or None};
    quality and skill are None, and their lists empty, where the part has no pixel; skill is None, too, where a model
    with both sensors and no cloud scores just what the majority class does. 'places' is the bootstrap over blocks,
    'seeds' Student's interval over the models.
  """
  out: dict[str, dict[str, list[dict[str, Any]]]] = {part: {view: [] for view in VIEWS} for part in PARTS}
  for part, views in out.items():
    skies = slice(None) if part == WHOLE else [SKIES.index(part)]
    for s, share in enumerate(shares):
      own = measured.confusion[:, :, s][:, :, :, skies].sum(3)  # [P, M, V, K, K]
      scale = _Scale(measured.id, block, train_counts, measured.reference[:, :, s][:, :, skies].sum(2))
      for v, view in enumerate(VIEWS):
        views[view].append({'cloud_share': float(share), **scale.entry(own[:, :, v])})
  return out


class _Scale:
  """What skill is measured between, of one set of pixels: the majority class, and best [P, M, K, K]."""

  def __init__(self, id: Sequence[str], block: np.ndarray, train_counts: np.ndarray, best: np.ndarray):
    self._id, self._block = id, block
    self._pixels = int(best[:, 0].sum())
    if self._pixels:
      guess = _majority(train_counts, best[:, 0])
      self._lowest, self._lowest_draws = _quality(guess.sum(0)), _draws(id, block, guess)
      models = range(best.shape[1])
      self._best = [(_quality(best[:, m].sum(0)), _draws(id, block, best[:, m])) for m in models]

  def entry(self, own: np.ndarray) -> dict[str, Any]:
    """An entry of `curves` but its cloud share, of confusion matrices [P, M, K, K]."""
    if not self._pixels:
      nothing = dict.fromkeys(('quality', 'majority', 'skill', 'places', 'seeds'))
      return {'pixels': 0, **nothing, 'quality_of_models': [], 'skill_of_models': []}
    qualities = [_quality(own[:, m].sum(0)) for m in range(own.shape[1])]
    skills = [float(_skill(q, self._lowest, top)) for q, (top, _) in zip(qualities, self._best, strict=True)]
    return {
      'pixels': self._pixels,
      'quality': float(np.mean(qualities)),
      'majority': float(self._lowest),
      'skill': _known(float(np.mean(skills))),
      'quality_of_models': [float(value) for value in qualities],
      'skill_of_models': [_known(value) for value in skills],
      'places': self._places(own),
      'seeds': _seeds(skills),
    }

  def _places(self, own: np.ndarray) -> list[float] | None:
    """Bootstrap interval of the mean skill over models."""
    skills = []
    for m, (_, top) in enumerate(self._best):
      quality = _draws(self._id, self._block, own[:, m])
      if quality is None or top is None or self._lowest_draws is None:
        return None
      skills.append(_skill(quality, self._lowest_draws, top))
    mean = np.mean(skills, 0)
    known = mean[np.isfinite(mean)]
    if not len(known):
      return None
    found = intervals.of_draws(known, len(np.unique(self._block)))
    return [found.low, found.high]


def _majority(train_counts: np.ndarray, confusion: np.ndarray) -> np.ndarray:
  """Confusion matrices [P, K, K] of always saying the majority class, of the pixels that [P, K, K] counts."""
  return np.stack([baselines.majority(train_counts, one.sum(1)) for one in confusion])


def _quality(confusion: np.ndarray) -> float:
  return float(metrics.rates(confusion)[METRIC])


def _skill(quality, majority, best) -> np.ndarray:
  """NaN where the best is just what the majority class is, so that nothing can be measured between the two."""
  room = np.subtract(best, majority)
  return np.divide(np.subtract(quality, majority), room, out=np.full(room.shape, np.nan), where=room != 0)


def _known(value: float) -> float | None:
  return value if np.isfinite(value) else None


def _draws(id: Sequence[str], block: np.ndarray, confusion: np.ndarray) -> np.ndarray | None:
  found = intervals.resample(id, block, confusion)
  return found.scores[METRIC] if found.scores else None


def _seeds(values: Sequence[float]) -> list[float] | None:
  """Student's 95 % interval of the mean over models that differ in their seed."""
  half = intervals.student_half_width(values) if np.isfinite(values).all() else None
  return None if half is None else [float(np.mean(values) - half), float(np.mean(values) + half)]


def embeddings(measured: Measured, shares: Sequence[float]) -> dict[str, list[float]]:
  """How much of an embedding is left: its cosine with the clear one, 0 = as another place's, 1 = the same.

  Returns:
    view -> S values, mean over patches and models.
  """
  kept = (measured.kept.mean(0) - measured.apart[:, None, None]) / np.maximum(1 - measured.apart, 1e-12)[:, None, None]
  return {view: kept[:, :, v].mean(0).tolist() for v, view in enumerate(VIEWS)}


def checks(measured: Measured, block: np.ndarray, train_counts: np.ndarray, shares: Sequence[float]) -> list[dict]:
  """What a checkpoint that works under cloud must show, each with what was found.

  Returns:
    {'claim', 'holds': True, False, or None where the interval over places leaves it open, 'found': a sentence} each.
  """
  whole = measured.confusion.sum(4)  # [P, M, S, V, K, K]
  s1, s2 = (whole[:, :, :, VIEWS.index(view)] for view in ('s1', 's2'))
  swing = float(np.ptp([_mean_quality(s1[:, :, s]) for s in range(len(shares))]))
  found = [
    {
      'claim': 'Sentinel-1 alone does not change with cloud',
      'holds': swing < 1e-9,
      'found': f'its quality moves by {100 * swing:.2f} points',
    }
  ]
  if shares[-1] == 1:
    guess = np.repeat(_majority(train_counts, s2[:, 0, -1])[:, None], s2.shape[1], 1)
    gain = _Gain(measured.id, block, s2[:, :, -1], guess)
    found.append(
      {
        'claim': 'Sentinel-2 alone under full cloud knows no more than the majority class',
        'holds': None if gain.interval is None else gain.interval.low <= 0,
        'found': f'Sentinel-2 alone minus the majority class: {gain}',
      }
    )
  for optical, fused, told in (('s2', 'fused', ''), ('s2_told', 'fused_told', ', cloud masked,')):
    both = whole[:, :, :, VIEWS.index(fused)]
    single = {'Sentinel-1': s1, 'Sentinel-2': whole[:, :, :, VIEWS.index(optical)]}
    for s, share in enumerate(shares):
      _, name = max((_mean_quality(one[:, :, s]), name) for name, one in single.items())
      gain = _Gain(measured.id, block, both[:, :, s], single[name][:, :, s])
      undecided = gain.interval is None or gain.interval.high >= 0
      found.append(
        {
          'claim': f'at cloud share {share:g}{told} both are at least as good as either alone',
          'holds': True if gain.mean >= 0 else None if undecided else False,
          'found': f'both minus {name} alone, the better of the two: {gain}',
        }
      )
  return found


class _Gain:
  """First minus second, confusion matrices [P, M, K, K] of the same patches, and its bootstrap interval."""

  def __init__(self, id: Sequence[str], block: np.ndarray, first: np.ndarray, second: np.ndarray):
    self.mean = _mean_quality(first) - _mean_quality(second)
    draws = [_draws(id, block, both[:, m]) for m in range(first.shape[1]) for both in (first, second)]
    known = [draw for draw in draws if draw is not None]
    self.interval = None
    if len(known) == len(draws):
      gains = [a - b for a, b in zip(known[::2], known[1::2], strict=True)]
      self.interval = intervals.of_draws(np.mean(gains, 0), len(np.unique(block)))

  def __str__(self) -> str:
    if self.interval is None:
      return f'{100 * self.mean:+.1f} points (too few blocks for an interval)'
    low, high = 100 * self.interval.low, 100 * self.interval.high
    return f'{100 * self.mean:+.1f} points (95 % over places {low:+.1f} to {high:+.1f})'


def _mean_quality(confusion: np.ndarray) -> float:
  """Mean over the models of confusion matrices [P, M, K, K]."""
  return float(np.mean([_quality(confusion[:, m].sum(0)) for m in range(confusion.shape[1])]))

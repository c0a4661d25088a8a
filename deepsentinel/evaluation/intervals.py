"""How far a score would move had other places been tested: a bootstrap over spatial blocks of test patches.

Patches of one block are alike (one landscape, often one scene) and the pixels of a patch all the more, so blocks are
drawn, never pixels: a block comes with all its patches. Every run on a test split gets the same draws, so a difference
of two runs is resampled in pairs. The interval covers which places were tested; it knows nothing of the training's
seed, whose interval is the t-interval over seeds.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import scipy.special

from deepsentinel.evaluation import metrics

RESAMPLES = 2000
BLOCK_KM = 50.0  # of the splits, of folds and of what is resampled
MIN_BLOCKS = 8  # below it, the percentiles that would be needed lie beyond the draws


@dataclasses.dataclass(frozen=True)
class Interval:
  """A 95 % interval of a share, not in per cent."""

  low: float
  high: float

  @property
  def decided(self) -> bool:
    """Whether 0 lies outside."""
    return self.low > 0 or self.high < 0


@dataclasses.dataclass(frozen=True)
class Resampled:
  """One run's scores on redrawn test splits.

  Attributes:
    places: (patch id, block) of every patch, sorted; what two runs must share to be compared.
    blocks: how many were drawn from.
    scores: metrics.SCORES -> float64 [R]; {} where there are none.
    reason: why there are none, as the end of a sentence; '' if there are.
  """

  places: tuple[tuple[str, int], ...] = ()
  blocks: int = 0
  scores: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
  reason: str = ''


def resample(
  id: Sequence[str], block: np.ndarray, confusion: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0
) -> Resampled:
  """Scores of as many blocks as there are, drawn with replacement, again and again.

  Args:
    id: N patch ids.
    block: int [N], the spatial block of each patch.
    confusion: int [N, K, K], confusion matrix of each patch, rows = reference.
    resamples: R.
    seed: of the draws.
  Returns:
    Resampled; without scores if fewer than MIN_BLOCKS blocks have a labelled pixel.
  Raises:
    ValueError: lengths or shapes that do not fit.
  """
  block, confusion = np.asarray(block), np.asarray(confusion, np.float64)
  if confusion.ndim != 3 or confusion.shape[1] != confusion.shape[2] or not len(id) == len(block) == len(confusion):
    raise ValueError(
      f'{len(id)} patch ids, {len(block)} blocks and confusion matrices {confusion.shape}: one of each is needed for '
      'every patch, [N], [N] and [N, K, K].'
    )
  places = tuple(sorted(zip(map(str, id), map(int, block), strict=True)))
  numbers, position = np.unique(block, return_inverse=True)
  pooled = np.zeros((len(numbers), *confusion.shape[1:]))  # [blocks, K, K]
  np.add.at(pooled, position, confusion)
  pooled = pooled[pooled.any((1, 2))]
  count = len(pooled)
  if count < MIN_BLOCKS:
    plural = '' if count == 1 else 's'
    return Resampled(places, count, reason=f'its test patches lie in {count} block{plural}; it takes {MIN_BLOCKS}')
  draws = _blocks_drawn(count, resamples, seed)
  drawn = (draws @ pooled.reshape(count, -1)).reshape(resamples, *pooled.shape[1:])  # [R, K, K]
  values = metrics.rates(drawn)
  return Resampled(places, count, {name: values[name] for name in metrics.SCORES})


def of_score(runs: Sequence[Resampled], metric: str) -> tuple[Interval | None, str]:
  """Interval of the mean score over runs that differ in their seed; (None, why) where there is none."""
  reason = _obstacle(runs)
  return (None, reason) if reason else (of_draws(np.mean([run.scores[metric] for run in runs], 0), runs[0].blocks), '')


def of_gain(pairs: Sequence[tuple[Resampled, Resampled]], metric: str) -> tuple[Interval | None, str]:
  """Interval of the mean of first minus second over pairs of runs; (None, why) where there is none."""
  reason = _obstacle([run for pair in pairs for run in pair])
  if reason:
    return None, reason
  return of_draws(np.mean([a.scores[metric] - b.scores[metric] for a, b in pairs], 0), pairs[0][0].blocks), ''


def _obstacle(runs: Sequence[Resampled]) -> str:
  """Why the runs cannot be averaged draw by draw; '' if they can."""
  if not runs:
    return 'there is no run'
  if reason := next((run.reason for run in runs if run.reason), ''):
    return reason
  return '' if len({run.places for run in runs}) == 1 else 'the runs were tested on different patches'


def of_draws(values: np.ndarray, blocks: int) -> Interval:
  """Expanded percentiles (Hesterberg, What Teachers Should Know About the Bootstrap, 2015, section 5.3) of draws.

  Plain ones are too narrow for few blocks: the tails are those of a normal law at sqrt(n / (n - 1)) t(n - 1), 0.6 %
  instead of 2.5 % at 8 blocks.

  Args:
    values: float [R], a score on each redrawn split; those that are not a number (a class that was not drawn) are left
      out.
    blocks: how many were drawn from, at least 2.
  """
  tail = 100 * scipy.special.ndtr(np.sqrt(blocks / (blocks - 1)) * scipy.special.stdtrit(blocks - 1, 0.025))
  low, high = np.nanpercentile(values, [tail, 100 - tail])
  return Interval(float(low), float(high))


def student_half_width(values: Sequence[float]) -> float | None:
  """Half of Student's 95 % interval of the mean of values that differ in their seed; None of fewer than two."""
  n = len(values)
  return None if n < 2 else float(scipy.special.stdtrit(n - 1, 0.975) * np.std(values, ddof=1) / np.sqrt(n))


def _blocks_drawn(count: int, resamples: int, seed: int) -> np.ndarray:
  """int64 [R, blocks]: how often each of `count` blocks stands in each redrawn split."""
  return np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), resamples)


def times_drawn(block: np.ndarray, resamples: int, seed: int = 0) -> np.ndarray:
  """int64 [R, N]: how often each patch stands in each redrawn split, whole blocks at a time.

  Args:
    block: int [N], the spatial block of each patch.
    resamples: R.
    seed: of the draws.
  """
  numbers, position = np.unique(block, return_inverse=True)
  return _blocks_drawn(len(numbers), resamples, seed)[:, position.reshape(-1)]

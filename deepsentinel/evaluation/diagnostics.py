"""Whether an embedding has collapsed: how many directions it uses, and how it lies on the sphere."""

import numpy as np

_MOST_ROWS = 2000


def effective_rank(x: np.ndarray) -> float:
  """Effective rank of centred rows: exp of the entropy of the normalised singular values.

  Roy and Vetterli, The effective rank: a measure of effective dimensionality (EUSIPCO 2007), definition 1. Rows are
  centred first, so that an offset common to all is no direction.

  Args:
    x: float [N, F], finite.
  Returns:
    1 to min(N, F); 0 where all rows are the same.
  """
  values = np.linalg.svd(np.asarray(x, np.float64) - np.mean(x, 0), compute_uv=False)
  if not values.sum() > 1e-12 * max(1.0, float(np.abs(x).max(initial=0))):
    return 0.0
  share = values / values.sum()
  share = share[share > 0]
  return float(np.exp(-(share * np.log(share)).sum()))


def alignment(a: np.ndarray, b: np.ndarray) -> float:
  """Mean squared distance of positive pairs on the unit sphere; 0: the two of a pair coincide.

  Wang and Isola, Understanding contrastive representation learning through alignment and uniformity on the hypersphere
  (ICML 2020), with alpha = 2.

  Args:
    a, b: float [N, F], row i of both a pair.
  """
  return float(((_unit(a) - _unit(b)) ** 2).sum(1).mean())


def uniformity(x: np.ndarray) -> float:
  """Log of the mean Gaussian potential of all pairs on the unit sphere (Wang and Isola 2020, t = 2).

  Args:
    x: float [N, F], at least two rows.
  Returns:
    0 where all rows coincide; the lower, the more evenly they are spread, down to about -4.
  """
  from scipy.spatial import distance

  squared = distance.pdist(_unit(x), 'sqeuclidean')
  return float(np.log(np.exp(-2 * squared).mean()))


def dead_share(x: np.ndarray) -> float:
  """Share of the dimensions that hardly vary: a standard deviation below a thousandth of the largest."""
  std = np.std(np.asarray(x, np.float64), 0)
  return float((std <= 1e-3 * std.max()).mean())


def describe(patch: np.ndarray, cell: np.ndarray, *, seed: int = 0) -> dict[str, float | int]:
  """Every diagnostic of one encoder.

  Args:
    patch: float [N, F], embeddings of patches.
    cell: float [N, P, F], features of cells; two cells of one patch are a positive pair.
    seed: of the draw of at most 2,000 patches and pairs.
  """
  rng = np.random.default_rng(seed)
  rows = np.sort(rng.permutation(len(patch))[:_MOST_ROWS])
  found: dict[str, float | int] = {
    'dimensions': patch.shape[1],
    'effective_rank_patches': effective_rank(patch[rows]),
    'effective_rank_cells': effective_rank(cell[rows, 0]),
    'dead_share': dead_share(cell[rows, 0]),
  }
  if len(rows) > 1:
    found['uniformity'] = uniformity(cell[rows, 0])
  if cell.shape[1] > 1:
    found['alignment'] = alignment(cell[rows, 0], cell[rows, 1])
  return found


def _unit(x: np.ndarray) -> np.ndarray:
  x = np.asarray(x, np.float64)
  return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)

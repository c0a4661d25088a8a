"""Frozen-encoder probes: what the neighbours of an embedding say about its place. Arrays in, plain numbers out."""

from collections.abc import Sequence

import numpy as np


def tag_matrix(tags: Sequence[Sequence[str]]) -> tuple[np.ndarray, list[str]]:
  """Lists of class names per patch as (bool [N, K], the K names in alphabetical order)."""
  names = sorted({name for row in tags for name in row})
  column = {name: k for k, name in enumerate(names)}
  matrix = np.zeros((len(tags), len(names)), bool)
  for i, row in enumerate(tags):
    matrix[i, [column[name] for name in row]] = True
  return matrix, names


def knn_multilabel(
  embedding: np.ndarray,
  labels: np.ndarray,
  *,
  k: int = 5,
  metric: str = 'cosine',
  train: np.ndarray | None = None,
) -> dict:
  """k nearest neighbours for patches that carry several classes at once.

  A patch gets a class if at least half of its k neighbours have it. Scores stand beside those of the prior, which
  gives every patch the classes that at least half of the other patches have, whatever the patch looks like.

  Args:
    embedding: float [N, E].
    labels: bool [N, K].
    k: neighbours.
    metric: 'cosine' or 'euclidean'.
    train: bool [N], the rows whose labels are known; scores are over the other rows. None: leave one out, for sets
      too small to split.
  Returns:
    {'micro_f1', 'macro_f1', 'mean_average_precision', 'average_precision' (per class; None without a positive row),
    'prior': {the first three}, 'rows', 'k', 'metric', 'leave_one_out'}. Macro figures are over classes with a
    positive row among those scored.
  Raises:
    ValueError: fewer than k other rows, or an embedding that is not finite.
  """
  embedding, labels = np.asarray(embedding), np.asarray(labels)
  if labels.ndim != 2 or len(labels) != len(embedding):
    raise ValueError(f'Embeddings are {embedding.shape} and labels {labels.shape}; labels must be bool [N, K].')
  labels = labels.astype(bool)
  neighbours, scored = _neighbours(embedding, k, metric, train)
  truth = labels[scored]
  votes = labels[neighbours].mean(1)
  known = np.ones(len(labels), bool) if train is None else np.asarray(train, bool)
  frequent = (labels[known].sum(0)[None] - (truth if train is None else 0)) / (known.sum() - (train is None))
  prior_votes = np.broadcast_to(frequent, truth.shape) >= 0.5
  precision = _average_precision(truth, votes)
  prevalence = truth.mean(0)  # the average precision of a ranking that knows nothing
  return {
    **_f1(truth, votes >= 0.5),
    'mean_average_precision': _mean(precision),
    'average_precision': precision,
    'prior': {
      **_f1(truth, prior_votes),
      'mean_average_precision': _mean([float(p) if p > 0 else None for p in prevalence]),
    },
    'rows': len(scored),
    'k': k,
    'metric': metric,
    'leave_one_out': train is None,
  }


def knn_classes(
  embedding: np.ndarray,
  labels: np.ndarray,
  *,
  k: int = 5,
  metric: str = 'cosine',
  train: np.ndarray | None = None,
) -> dict:
  """k nearest neighbours for patches of one class each, by majority vote; the nearest neighbour breaks a tie.

  Args:
    embedding: float [N, E].
    labels: integer [N], at least 0.
    k, metric, train: as in `knn_multilabel`.
  Returns:
    {'accuracy', 'macro_f1', 'confusion' [K, K], 'prior': {'accuracy', 'macro_f1'}, 'rows', 'k', 'metric',
    'leave_one_out'}; the prior always answers the most frequent class of the other patches.
  """
  from sklearn.metrics import confusion_matrix

  embedding, labels = np.asarray(embedding), np.asarray(labels)
  if labels.shape != (len(embedding),) or (labels.size and labels.min() < 0):
    raise ValueError(
      f'Labels must be integers of at least 0, one per embedding {embedding.shape}; found {labels.shape}.'
    )
  neighbours, scored = _neighbours(embedding, k, metric, train)
  truth, classes = labels[scored], int(labels.max()) + 1
  votes = np.zeros((len(scored), classes))
  for rank in range(k):
    # The rank's small bonus decides ties for the class of the nearest neighbour, and never a majority.
    votes[np.arange(len(scored)), labels[neighbours[:, rank]]] += 1 + 0.5 ** (rank + 2)
  prediction = votes.argmax(1)
  known = np.ones(len(labels), bool) if train is None else np.asarray(train, bool)
  counts = np.broadcast_to(np.bincount(labels[known], minlength=classes), (len(scored), classes)).copy()
  if train is None:
    counts[np.arange(len(scored)), truth] -= 1
  prior = counts.argmax(1)
  return {
    'accuracy': float((prediction == truth).mean()),
    'macro_f1': _macro_f1(truth, prediction),
    'confusion': confusion_matrix(truth, prediction, labels=np.arange(classes)).tolist(),
    'prior': {'accuracy': float((prior == truth).mean()), 'macro_f1': _macro_f1(truth, prior)},
    'rows': len(scored),
    'k': k,
    'metric': metric,
    'leave_one_out': train is None,
  }


def _neighbours(embedding: np.ndarray, k: int, metric: str, train: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
  """(int [M, k] rows nearest to each scored row, nearest first; int [M] the scored rows)."""
  from sklearn.neighbors import NearestNeighbors

  if embedding.ndim != 2:
    raise ValueError(f'Embeddings must be [N, E]; found shape {embedding.shape}.')
  bad = ~np.isfinite(embedding).all(1)
  if bad.any():
    raise ValueError(f'{bad.sum()} of {len(bad)} embeddings are not finite; the first is row {int(bad.argmax())}.')
  everything = np.arange(len(embedding))
  if train is None:
    if len(embedding) <= k:
      raise ValueError(f'Leaving one of {len(embedding)} rows out leaves too few for k={k}; lower k.')
    # Without an argument, kneighbors never counts a row as its own neighbour, even among duplicates.
    return NearestNeighbors(n_neighbors=k, metric=metric).fit(embedding).kneighbors()[1], everything
  train = np.asarray(train, bool)
  if train.shape != (len(embedding),) or train.sum() < k or train.all():
    raise ValueError(
      f'train must mark between {k} (k) and {len(embedding) - 1} of {len(embedding)} rows; it marks {train.sum()}.'
    )
  found = NearestNeighbors(n_neighbors=k, metric=metric).fit(embedding[train]).kneighbors(embedding[~train])[1]
  return everything[train][found], everything[~train]


def _f1(truth: np.ndarray, prediction: np.ndarray) -> dict[str, float]:
  """Micro and macro F1 of bool [N, K]; scikit-learn would take one column for a two-class problem."""
  hits, total = (truth & prediction).sum(0), truth.sum(0) + prediction.sum(0)
  occurs = truth.any(0)
  f1 = 2 * hits / np.maximum(total, 1)
  return {
    'micro_f1': float(2 * hits.sum() / max(total.sum(), 1)),
    'macro_f1': float(f1[occurs].mean()) if occurs.any() else 0.0,
  }


def _macro_f1(truth: np.ndarray, prediction: np.ndarray) -> float:
  from sklearn.metrics import f1_score

  return float(f1_score(truth, prediction, labels=np.unique(truth), average='macro', zero_division=0))


def _average_precision(truth: np.ndarray, votes: np.ndarray) -> list[float | None]:
  from sklearn.metrics import average_precision_score

  return [
    float(average_precision_score(truth[:, c], votes[:, c])) if truth[:, c].any() else None
    for c in range(truth.shape[1])
  ]


def _mean(values: Sequence[float | None]) -> float:
  return float(np.mean([v for v in values if v is not None] or [0.0]))

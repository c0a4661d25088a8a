"""Probes on frozen features: fitted on train, their one hyper-parameter chosen on validation, asked once about test.

Single classes are probed by logistic regression (the linear probe) and by the vote of the nearest neighbours; lists of
classes by the same, class by class. Everything is scikit-learn's.
"""

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from deepsentinel.evaluation import metrics

INVERSE_STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)  # of the L2 penalty: scikit-learn's C
NEIGHBOURS = (1, 5, 10, 20, 50)
PROBES = ('linear', 'knn')
_ITERATIONS = 300


@dataclasses.dataclass(frozen=True)
class Sample:
  """Rows of one split: features float [M, F], and labels int [M], or bool [M, K] where a row has several."""

  x: np.ndarray
  y: np.ndarray


@dataclasses.dataclass(frozen=True)
class Answer:
  """What a probe says of test.

  Attributes:
    output: class int64 [M]; of lists of classes a score float [M, K], above 0.5 where the class is said to be there.
    chosen: the hyper-parameter.
    validation: its score there.
  """

  output: np.ndarray
  chosen: float
  validation: float


def probe(kind: str, train: Sample, validation: Sample, test_x: np.ndarray, classes: int) -> Answer:
  """Fits a probe and answers for the test rows.

  Features are centred and scaled by the train rows; a missing one (NaN) counts as their mean. Single classes are judged
  by weighted IoU on validation, lists by the mean average precision. Where validation has no row the middle
  hyper-parameter is taken, its score NaN.

  Args:
    kind: 'linear' or 'knn'.
    train, validation: labelled rows.
    test_x: float [M, F].
    classes: K.
  """
  if kind not in PROBES:
    raise ValueError(f'Unknown probe {kind!r}. Known: {", ".join(PROBES)}.')
  several = train.y.ndim == 2
  scale = _scaler(train.x)
  fitted = (_linear if kind == 'linear' else _knn)(scale(train.x), train.y, classes)
  judge = _tag_score if several else _class_score
  options: Sequence[Any] = INVERSE_STRENGTHS if kind == 'linear' else [k for k in NEIGHBOURS if k <= len(train.x)]
  best, best_score = options[len(options) // 2], float('nan')
  if len(validation.x):
    x = scale(validation.x)
    scores = [judge(validation.y, fitted(option, x), classes) for option in options]
    place = int(np.argmax(scores))  # of equal ones the first: the stronger penalty, the fewer neighbours
    best, best_score = options[place], scores[place]
  return Answer(fitted(best, scale(test_x)), float(best), best_score)


def probabilities(train: Sample, strength: float, x: np.ndarray, classes: int) -> np.ndarray:
  """Of every class, float64 [M, K], by the linear probe of single classes with a strength that `probe` chose."""
  scale = _scaler(train.x)
  model = _regression(scale(train.x), train.y, strength)
  found = np.zeros((len(x), classes))
  found[:, model.classes_] = model.predict_proba(scale(x))
  return found


def _scaler(x: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
  x = np.asarray(x, np.float64)
  known = ~np.isnan(x)
  count = np.maximum(known.sum(0), 1)
  mean = np.where(known, x, 0).sum(0) / count
  std = np.sqrt((np.where(known, x - mean, 0) ** 2).sum(0) / count)
  std = np.where(std > 1e-9 * max(std.max(initial=0), 1e-30), std, 1)  # a dead feature stays 0
  return lambda x: np.nan_to_num((np.asarray(x, np.float64) - mean) / std).astype(np.float32)


def _class_score(y: np.ndarray, output: np.ndarray, classes: int) -> float:
  return float(metrics.rates(metrics.confusion_matrix(y, output, classes))['weighted_iou'])


def _tag_score(y: np.ndarray, output: np.ndarray, classes: int) -> float:
  precision = average_precision(y, output, np.ones((1, len(y))))[0]
  return float(np.nanmean(precision)) if not np.isnan(precision).all() else 0.0


def _linear(x: np.ndarray, y: np.ndarray, classes: int) -> Callable[[float, np.ndarray], np.ndarray]:
  """Function of C and rows -> answers; a fit for each C, made once."""
  made: dict[float, Any] = {}

  def fitted(strength: float) -> Any:
    if strength not in made:
      columns = y.T if y.ndim == 2 else [y]
      made[strength] = [_regression(x, column, strength) for column in columns]
    return made[strength]

  def answer(strength: float, rows: np.ndarray) -> np.ndarray:
    models = fitted(strength)
    if y.ndim == 1:
      return models[0].predict(rows).astype(np.int64)
    return np.stack([_of_true(model, rows) for model in models], 1)

  return answer


def _regression(x: np.ndarray, y: np.ndarray, strength: float) -> Any:
  from sklearn import exceptions
  from sklearn.dummy import DummyClassifier
  from sklearn.linear_model import LogisticRegression

  if len(np.unique(y)) < 2:
    return DummyClassifier(strategy='most_frequent').fit(x, y)
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', exceptions.ConvergenceWarning)  # so weak a penalty then loses on validation
    return LogisticRegression(C=strength, max_iter=_ITERATIONS).fit(x, y)


def _of_true(model: Any, rows: np.ndarray) -> np.ndarray:
  """float [M]: probability of True; of a class that is always or never there that constant."""
  known = list(model.classes_)
  return model.predict_proba(rows)[:, known.index(True)] if True in known else np.zeros(len(rows))


def _knn(x: np.ndarray, y: np.ndarray, classes: int) -> Callable[[int, np.ndarray], np.ndarray]:
  """Function of k and rows -> answers; neighbours by cosine distance, found once a set of rows."""
  from sklearn.neighbors import NearestNeighbors

  most = min(max(NEIGHBOURS), len(x))
  index = NearestNeighbors(n_neighbors=most, metric='cosine', algorithm='brute').fit(x)
  asked: list[np.ndarray] = []  # the rows last asked about, and their neighbours

  def answer(k: int, rows: np.ndarray) -> np.ndarray:
    if not asked or asked[0] is not rows:
      asked[:] = [rows, index.kneighbors(rows, return_distance=False)]
    near = y[asked[1][:, : int(k)]]
    if y.ndim == 2:
      return near.mean(1)
    votes = np.stack([(near == c).sum(1) for c in range(classes)], 1).astype(float)
    votes[np.arange(len(votes)), near[:, 0]] += 0.5  # the nearest breaks a tie
    return votes.argmax(1)

  return answer


def average_precision(truth: np.ndarray, score: np.ndarray, weight: np.ndarray) -> np.ndarray:
  """Average precision of every class, on many weightings of the rows at once (scikit-learn's definition).

  Args:
    truth: bool [M, K].
    score: float [M, K].
    weight: float [R, M]; of a bootstrap how often each row was drawn.
  Returns:
    float64 [R, K]; NaN where no row with weight has the class.
  """
  found = np.full((len(weight), truth.shape[1]), np.nan)
  for k in range(truth.shape[1]):
    found[:, k] = _one_precision(truth[:, k], score[:, k], weight)
  return found


def micro_average_precision(truth: np.ndarray, score: np.ndarray, weight: np.ndarray) -> np.ndarray:
  """As `average_precision`, over all pairs of a row and a class as if they were one class: float64 [R]."""
  return _one_precision(truth.ravel(), score.ravel(), weight, truth.shape[1])


def _one_precision(truth: np.ndarray, score: np.ndarray, weight: np.ndarray, values_a_row: int = 1) -> np.ndarray:
  order = np.argsort(-score, kind='stable')
  ends = np.flatnonzero(np.diff(score[order], append=np.nan) != 0)  # the last row of each score
  rows = order // values_a_row
  values = np.empty(len(weight))
  for r, own in enumerate(weight):
    drawn = own[rows]  # of one weighting at a time: those of all rows and classes would not fit memory
    hits, called = np.cumsum(drawn * truth[order])[ends], np.cumsum(drawn)[ends]
    if not hits[-1]:
      values[r] = np.nan
      continue
    precision = np.divide(hits, called, out=np.zeros(len(ends)), where=called > 0)
    values[r] = (np.diff(hits, prepend=0) * precision).sum() / hits[-1]
  return values

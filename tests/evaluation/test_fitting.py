"""Probes against scikit-learn, and hyper-parameters that validation must choose."""

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from deepsentinel.evaluation import fitting


def _rows(seed, count, classes=3, features=6):
  rng = np.random.default_rng(seed)
  centres = np.random.default_rng(99).normal(0, 1.5, (classes, features))
  y = rng.integers(0, classes, count)
  return fitting.Sample((centres[y] + rng.normal(0, 1, (count, features))).astype(np.float32) * 40 + 7, y)


def test_linear_probe_is_logistic_regression_at_the_strength_that_validation_likes_best():
  train, validation, test = _rows(0, 90), _rows(1, 60), _rows(2, 60)
  answer = fitting.probe('linear', train, validation, test.x, 3)
  scaler = StandardScaler().fit(train.x)
  models = {c: LogisticRegression(C=c, max_iter=1000).fit(scaler.transform(train.x), train.y)
            for c in fitting.INVERSE_STRENGTHS}  # fmt: skip
  scores = [sklearn_metrics.jaccard_score(validation.y, m.predict(scaler.transform(validation.x)), average='weighted')
            for m in models.values()]  # fmt: skip
  assert answer.validation == pytest.approx(max(scores))
  assert answer.chosen == fitting.INVERSE_STRENGTHS[int(np.argmax(scores))]
  np.testing.assert_array_equal(answer.output, models[answer.chosen].predict(scaler.transform(test.x)))


def test_nearest_neighbours_agree_with_scikit_learn():
  train, validation, test = _rows(3, 80), _rows(4, 50), _rows(5, 50)
  answer = fitting.probe('knn', train, validation, test.x, 3)
  scaler = StandardScaler().fit(train.x)
  peer = KNeighborsClassifier(int(answer.chosen), metric='cosine').fit(scaler.transform(train.x), train.y)
  assert (answer.output == peer.predict(scaler.transform(test.x))).mean() > 0.95  # ties are broken in another way


def test_a_missing_feature_is_the_mean_and_a_constant_one_does_no_harm():
  train, test = _rows(6, 60), _rows(7, 30)
  x = np.concatenate([train.x, np.full((60, 1), 3.0)], 1)
  holes = np.concatenate([test.x, np.full((30, 1), np.nan)], 1)
  nothing = fitting.Sample(x[:0], train.y[:0])
  with_holes = fitting.probe('linear', fitting.Sample(x, train.y), nothing, holes, 3)
  without = fitting.probe('linear', train, fitting.Sample(train.x[:0], train.y[:0]), test.x, 3)
  np.testing.assert_array_equal(with_holes.output, without.output)
  assert np.isnan(with_holes.validation)


def test_probabilities_are_those_of_the_probe():
  train, test = _rows(0, 90), _rows(2, 60)
  found = fitting.probabilities(fitting.Sample(train.x, train.y + 1), 0.1, test.x, 5)
  np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)
  assert (found[:, [0, 4]] == 0).all()
  nothing = fitting.Sample(train.x[:0], train.y[:0])  # takes the strength in the middle, 0.1
  np.testing.assert_array_equal(found.argmax(1) - 1, fitting.probe('linear', train, nothing, test.x, 3).output)


@pytest.mark.parametrize('kind', fitting.PROBES)
def test_one_class_alone_is_answered_everywhere(kind):
  train = fitting.Sample(np.random.default_rng(0).normal(size=(9, 4)), np.full(9, 2))
  answer = fitting.probe(kind, train, train, train.x, 5)
  assert (answer.output == 2).all()


@pytest.mark.parametrize('kind', fitting.PROBES)
def test_lists_of_classes_are_probed_class_by_class(kind):
  rng = np.random.default_rng(8)
  x = rng.normal(size=(200, 4)).astype(np.float32)
  y = np.stack([x[:, 0] > 0, x[:, 1] > 0.3, np.zeros(200, bool), np.ones(200, bool)], 1)
  answer = fitting.probe(kind, fitting.Sample(x[:120], y[:120]), fitting.Sample(x[120:160], y[120:160]), x[160:], 4)
  assert answer.output.shape == (40, 4)
  assert (answer.output[:, 2] == 0).all()
  assert (answer.output[:, 3] == 1).all()
  assert ((answer.output[:, :2] > 0.5) == y[160:, :2]).mean() > 0.85


def test_average_precision_is_scikit_learns_under_any_weights():
  rng = np.random.default_rng(1)
  truth, weight = rng.random((50, 3)) < 0.4, rng.integers(0, 4, (5, 50)).astype(float)
  score = rng.integers(0, 6, (50, 3)) / 5  # with ties
  found, micro = fitting.average_precision(truth, score, weight), fitting.micro_average_precision(truth, score, weight)
  for r in range(5):
    for k in range(3):
      assert found[r, k] == pytest.approx(
        sklearn_metrics.average_precision_score(truth[:, k], score[:, k], sample_weight=weight[r])
      )
    pooled = sklearn_metrics.average_precision_score(truth, score, average='micro', sample_weight=weight[r])
    assert micro[r] == pytest.approx(pooled)
  assert np.isnan(fitting.average_precision(truth & False, score, weight)).all()


def test_an_unknown_probe_is_refused():
  with pytest.raises(ValueError, match=r"Unknown probe 'tree'. Known: linear, knn"):
    fitting.probe('tree', _rows(0, 9), _rows(0, 9), _rows(0, 9).x, 3)

"""Nearest-neighbour probes on embeddings whose neighbours are known."""

import numpy as np
import pytest
from sklearn.metrics import f1_score
from sklearn.neighbors import NearestNeighbors

from deepsentinel.evaluation import probes

# Two tight clusters of four, far from each other.
CLUSTERS = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [50, 0], [50, 1], [51, 0], [51, 1]], float)


def test_tag_matrix():
  matrix, names = probes.tag_matrix([['water', 'forest'], [], ['forest']])
  assert names == ['forest', 'water']
  np.testing.assert_array_equal(matrix, [[True, True], [False, False], [True, False]])


def test_multilabel_on_clusters_is_perfect_and_the_prior_is_not():
  labels = np.zeros((8, 3), bool)
  labels[:4, 0] = True
  labels[4:, 1] = True
  result = probes.knn_multilabel(CLUSTERS, labels, k=3, metric='euclidean')
  assert result['micro_f1'] == result['macro_f1'] == result['mean_average_precision'] == 1
  assert result['average_precision'] == [1, 1, None]
  # Of the seven others, 3 have the row's own class (3/7 < half) and 4 the other one: the prior is always wrong.
  assert result['prior']['micro_f1'] == 0
  assert result['prior']['mean_average_precision'] == 0.5
  assert result['leave_one_out']
  assert result['rows'] == 8


def test_multilabel_by_hand():
  # On a line; with k = 2 the neighbours are rows (1, 2), (0, 2), (1, 0 or 3), (2, 1).
  embedding = np.array([[0.0], [1.0], [2.1], [3.3]])
  labels = np.array([[1], [1], [0], [0]], bool)
  result = probes.knn_multilabel(embedding, labels, k=2, metric='euclidean')
  # Votes: 1/2, 1/2, (rows 1, 3) 1/2, (rows 2, 1) 1/2: all predicted positive.
  assert result['micro_f1'] == pytest.approx(2 / 3)
  assert result['mean_average_precision'] == pytest.approx(0.5)


def test_multilabel_f1_against_sklearn():
  rng = np.random.default_rng(0)
  embedding, labels = rng.normal(size=(40, 3)), rng.random((40, 6)) < 0.4
  result = probes.knn_multilabel(embedding, labels, k=5, metric='euclidean')
  neighbours = NearestNeighbors(n_neighbors=5).fit(embedding).kneighbors()[1]
  prediction = labels[neighbours].mean(1) >= 0.5
  assert result['micro_f1'] == pytest.approx(f1_score(labels, prediction, average='micro'))
  assert result['macro_f1'] == pytest.approx(f1_score(labels, prediction, average='macro'))


def test_a_duplicate_is_a_neighbour_but_a_row_is_not_its_own():
  embedding = np.repeat(np.eye(4), 2, axis=0)
  labels = np.eye(8, dtype=bool)
  result = probes.knn_multilabel(embedding, labels, k=1)
  assert result['micro_f1'] == 0


def test_train_rows_are_not_scored():
  train = np.array([True, True, False, False] * 2)
  labels = np.repeat([0, 1], 4)
  result = probes.knn_classes(CLUSTERS, labels, k=1, metric='euclidean', train=train)
  assert result['rows'] == 4
  assert result['accuracy'] == 1
  assert result['confusion'] == [[2, 0], [0, 2]]
  assert not result['leave_one_out']
  both = probes.knn_multilabel(CLUSTERS, np.eye(2, dtype=bool)[labels], k=2, metric='euclidean', train=train)
  assert both['micro_f1'] == 1
  assert both['rows'] == 4


def test_classes_leave_one_out_prior_and_ties():
  labels = np.array([0, 0, 0, 0, 1, 1, 1, 2])
  result = probes.knn_classes(CLUSTERS, labels, k=3, metric='euclidean')
  # Row 7 is the only one of its class; its neighbours are all of class 1.
  assert result['accuracy'] == pytest.approx(7 / 8)
  # Of the others, class 0 leads for rows of 1 and 2; for a row of 0 it is 3 against 3, and the lower class wins.
  assert result['prior']['accuracy'] == pytest.approx(4 / 8)
  tie = probes.knn_classes(np.array([[0.0], [1.0], [-2.0], [9.0]]), np.array([1, 1, 0, 0]), k=2, metric='euclidean')
  assert tie['confusion'][1] == [0, 2]


def test_bad_input_says_what_is_wrong():
  with pytest.raises(ValueError, match='too few for k=5'):
    probes.knn_multilabel(np.zeros((5, 2)), np.zeros((5, 1)))
  with pytest.raises(ValueError, match='not finite; the first is row 1'):
    probes.knn_multilabel(np.array([[0.0], [np.nan], [1.0]]), np.zeros((3, 1)), k=1)
  with pytest.raises(ValueError, match='bool'):
    probes.knn_multilabel(np.zeros((5, 2)), np.zeros(5))
  with pytest.raises(ValueError, match='train must mark'):
    probes.knn_classes(CLUSTERS, np.zeros(8, int), k=3, train=np.ones(8, bool))

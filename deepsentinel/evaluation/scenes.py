"""Scores of a scene classifier: one label and one probability a patch."""

import os
import pathlib
from collections.abc import Callable

import jax
import numpy as np
import tqdm

from deepsentinel import provenance
from deepsentinel.data import batches
from deepsentinel.evaluation import embeddings, metrics, samples
from deepsentinel.train.trained import Trained

THRESHOLD = 0.5  # the paper's


def at_half(confusion: np.ndarray) -> dict[str, float]:
  """Precision, recall and accuracy of a confusion matrix [2, 2], rows = reference; what is undefined is left out.

  Precision is undefined where nothing is called positive, recall where nothing is.
  """
  confusion = np.asarray(confusion)
  hits, called, there = confusion[1, 1], confusion[:, 1].sum(), confusion[1].sum()
  parts = (('precision', hits, called), ('recall', hits, there), ('accuracy', confusion.trace(), confusion.sum()))
  return {name: float(part / whole) for name, part, whole in parts if whole}


def scores(label: np.ndarray, probability: np.ndarray) -> dict:
  """Every score of the report.

  Args:
    label: integer [N], 1 positive, 0 background, -1 unknown, which counts nowhere.
    probability: float [N], of being positive.
  Returns:
    dict of plain JSON values: precision, recall, accuracy at a probability above 0.5, roc_auc, average_precision (None
    where undefined), positives and background (counts of patches), prevalence, confusion [2, 2] with rows = reference.
  """
  from sklearn import metrics as sklearn_metrics

  known = np.asarray(label) >= 0
  label, probability = np.asarray(label)[known], np.asarray(probability, np.float64)[known]
  confusion = metrics.confusion_matrix(label, (probability > THRESHOLD).astype(int), 2)
  positives, both = int(label.sum()), 0 < label.sum() < len(label)
  return {
    **dict.fromkeys(('precision', 'recall', 'accuracy')),
    **at_half(confusion),
    'roc_auc': float(sklearn_metrics.roc_auc_score(label, probability)) if both else None,
    'average_precision': float(sklearn_metrics.average_precision_score(label, probability)) if positives else None,
    'positives': positives,
    'background': len(label) - positives,
    'prevalence': positives / len(label) if len(label) else None,
    'confusion': confusion.tolist(),
  }


def probabilities(
  trained: Trained, records, prepare: Callable, crop_px: int, batch_size: int, *, progress: bool = True
) -> np.ndarray:
  """Probability of being positive, float32 [N], of every record, from the crop in its middle.

  Args:
    trained: a fine-tuned scene classifier.
    records: a RecordSet of N patches.
    prepare: stored integers -> the objective's batch.
    crop_px, batch_size: of the crops.
    progress: show a progress bar.
  """

  @jax.jit
  def probability(variables, prepare, stored):
    inputs = prepare(stored, 0, train=False)
    return jax.nn.sigmoid(trained.module.apply(variables, inputs, method='logit'))

  variables = jax.device_put(trained.variables)
  fields = [field for field in ('s2', 's1') if field in records.fields]
  found = []
  bar = tqdm.tqdm(total=len(records), desc='test', unit='patch', leave=False, disable=not progress)
  with bar:
    for batch in batches.evaluation_batches(
      records, batch_size=min(batch_size, len(records)), crop_px=crop_px, fields=fields, centred=True
    ):
      found.append(
        np.asarray(probability(variables, prepare, {field: batch[field] for field in fields}))[batch['mask']]
      )
      bar.update(len(found[-1]))
  return np.concatenate(found)


def band_statistics(
  train, index: np.ndarray, label: np.ndarray, test, bands: tuple[str, ...], crop_px: int, *, seed: int = 0
) -> np.ndarray:
  """What a network has to beat: logistic regression on mean and standard deviation of every band, of the same crops.

  Args:
    train: RecordSet to fit on. index: its records that count. label: integer [len(index)], -1 = unknown.
    test: RecordSet to predict.
    bands: whose statistics.
    crop_px: of the crop in a patch's middle that they are taken of.
    seed: of the solver.
  Returns:
    float [N], the probability of every test patch.
  """
  from sklearn.linear_model import LogisticRegression

  features = embeddings.band_features(train, test, bands=bands, crop_px=crop_px)
  known = label >= 0
  model = LogisticRegression(max_iter=1000, random_state=seed).fit(features[index][known], label[known])
  return model.predict_proba(features[len(train) :])[:, 1]


def choose(label: np.ndarray, probability: np.ndarray, count: int) -> np.ndarray:
  """Numbers of about `count` patches: half the most certain right answers, half the most certain wrong ones.

  Mines and background take turns, so that both are seen; the most certain first.
  """
  certain = np.abs(np.asarray(probability) - THRESHOLD)
  right = (probability > THRESHOLD) == (label == 1)
  chosen: list[int] = []
  for answer, most in ((right, count - count // 2), (~right, count // 2)):
    kinds = [np.flatnonzero(answer & (label == kind)) for kind in (1, 0)]
    ranks = [(rank, -certain[i], i) for kind in kinds for rank, i in enumerate(kind[np.argsort(-certain[kind])])]
    chosen += [i for _, _, i in sorted(ranks)[:most]]
  return np.array(chosen, np.int64)


def save_samples(
  path: str | os.PathLike, records, numbers: np.ndarray, label: np.ndarray, probability: np.ndarray
) -> None:
  """Writes scenes.npz, whole or not at all: 's2', 's1' (see `samples.picture_bands`), 'id', 'label', 'probability'."""
  pixels = {field: records.read(field, numbers) if field in records.fields else None for field in ('s2', 's1')}
  s2, s1 = samples.picture_bands(records.spec, pixels['s2'], pixels['s1'])
  pictures = {name: array for name, array in (('s2', s2), ('s1', s1)) if array is not None}
  ids = records.table['id'].to_numpy(str)[numbers]
  provenance.write_npz(
    pathlib.Path(path), {'id': ids, 'label': label[numbers], 'probability': probability[numbers], **pictures}
  )

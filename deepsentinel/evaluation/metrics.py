"""Scores of a segmentation, from one confusion matrix pooled over the split (FACTS of the paper, section 4).

The matrix is the only thing ever accumulated, on the host here and on the devices in the training loop, so a score
cannot depend on how pixels were batched.
"""

import numpy as np

IGNORED = -1  # class number of a pixel without label: in neither loss nor score


def confusion_matrix(label: np.ndarray, prediction: np.ndarray, classes: int) -> np.ndarray:
  """Counts of pixels by reference class and predicted class.

  Args:
    label: integer [...], 0-based class; negative = ignored.
    prediction: integer [...], the same shape, 0-based class.
    classes: K.
  Returns:
    int64 [K, K], rows = reference, columns = prediction.
  Raises:
    ValueError: shapes differ, or a class number is out of range where it counts.
  """
  label, prediction = np.asarray(label), np.asarray(prediction)
  if label.shape != prediction.shape:
    raise ValueError(f'Labels are {label.shape} and predictions {prediction.shape}; they must have one shape.')
  counted = label >= 0
  rows, columns = label[counted].astype(np.int64), prediction[counted].astype(np.int64)
  for name, values in (('label', rows), ('prediction', columns)):
    if values.size and (values.min() < 0 or values.max() >= classes):
      raise ValueError(
        f'A {name} lies outside 0 to {classes - 1}: found {int(values.min())} to {int(values.max())}. '
        'Labels below 0 are ignored; every counted pixel needs a predicted class.'
      )
  return np.bincount(rows * classes + columns, minlength=classes * classes).reshape(classes, classes)


def scores(confusion: np.ndarray) -> dict:
  """Every score of the report, from a confusion matrix.

  Args:
    confusion: integer [K, K], rows = reference, columns = prediction.
  Returns:
    dict of plain JSON values:
      iou: per class, intersection over union; None for a class absent from reference and prediction.
      weighted_iou: sum over k of (n_k / N) IoU_k, n_k the reference pixels of class k.
      macro_iou: plain mean over the classes that have an IoU.
      overall_accuracy: share of pixels whose class is right.
      reference_share: n_k / N per class.
      pixels: N.
    Without a single labelled pixel (N = 0), every score is None.
  """
  confusion = np.asarray(confusion)
  if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1]:
    raise ValueError(f'A confusion matrix is square; found shape {confusion.shape}.')
  if (confusion < 0).any():
    raise ValueError(f'A confusion matrix counts pixels; found {confusion.min()}.')
  confusion = confusion.astype(np.float64)
  reference, predicted, right = confusion.sum(1), confusion.sum(0), np.diagonal(confusion)
  total = reference.sum()
  union = reference + predicted - right
  iou = np.divide(right, union, out=np.full(len(right), np.nan), where=union > 0)
  if total == 0:
    nothing = [None] * len(right)
    return {
      'iou': nothing,
      'weighted_iou': None,
      'macro_iou': None,
      'overall_accuracy': None,
      'reference_share': nothing,
      'pixels': 0,
    }
  share = reference / total
  return {
    'iou': [None if np.isnan(v) else float(v) for v in iou],
    'weighted_iou': float(np.sum(share[reference > 0] * iou[reference > 0])),
    'macro_iou': float(np.nanmean(iou)),
    'overall_accuracy': float(right.sum() / total),
    'reference_share': share.tolist(),
    'pixels': int(total),
  }


def method(confusion: np.ndarray, **facts) -> dict:
  """One entry of test.json's `methods`: the matrix, its scores and further facts, as plain JSON values."""
  return {'confusion': np.asarray(confusion).astype(int).tolist(), **scores(confusion), **facts}

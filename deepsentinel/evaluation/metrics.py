"""Scores of a segmentation, from one confusion matrix pooled over the split (FACTS of the paper, section 4).

The matrix is the only thing ever accumulated, on the host here and on the devices in the training loop, so a score
cannot depend on how pixels were batched.
"""

import numpy as np

SCORES = ('weighted_iou', 'macro_iou', 'overall_accuracy')
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
  if confusion.sum() == 0:
    nothing = [None] * len(confusion)
    return {'iou': nothing, **dict.fromkeys(SCORES), 'reference_share': nothing, 'pixels': 0}
  values = rates(confusion)
  return {
    'iou': [None if np.isnan(v) else float(v) for v in values['iou']],
    **{name: float(values[name]) for name in SCORES},
    'reference_share': values['reference_share'].tolist(),
    'pixels': int(confusion.sum()),
  }


def rates(confusion: np.ndarray) -> dict[str, np.ndarray]:
  """The scores of many confusion matrices at once.

  Args:
    confusion: [..., K, K], rows = reference; of one split each.
  Returns:
    weighted_iou, macro_iou, overall_accuracy: float64 [...], NaN for a matrix without a pixel.
    iou, reference_share: float64 [..., K]; an IoU is NaN for a class absent from reference and prediction.
  """
  confusion = np.asarray(confusion, np.float64)
  reference, predicted = confusion.sum(-1), confusion.sum(-2)
  right = np.diagonal(confusion, axis1=-2, axis2=-1)
  union, total = reference + predicted - right, reference.sum(-1)
  iou, share = _ratio(right, union), _ratio(reference, total[..., None])
  known = np.where(union > 0, iou, 0)
  return {
    'weighted_iou': np.sum(share * known, -1),
    'macro_iou': _ratio(known.sum(-1), (union > 0).sum(-1)),
    'overall_accuracy': _ratio(right.sum(-1), total),
    'iou': iou,
    'reference_share': share,
  }


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """a / b, NaN where b is 0."""
  a, b = np.broadcast_arrays(a, b)
  return np.divide(a, b, out=np.full(a.shape, np.nan), where=b > 0)


def method(confusion: np.ndarray, **facts) -> dict:
  """One entry of test.json's `methods`: the matrix, its scores and further facts, as plain JSON values."""
  return {'confusion': np.asarray(confusion).astype(int).tolist(), **scores(confusion), **facts}

"""Lists of classes under a probe: patches that carry several classes at once, as BigEarthNet's do."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tqdm

from deepsentinel.data import subsets
from deepsentinel.evaluation import fitting, intervals

SCORES = ('macro_map', 'micro_map', 'macro_f1', 'micro_f1')
_ROW_CLASS_DRAWS = 2e8  # of the bootstrap: about what takes seconds
_THRESHOLD = 0.5


def rarest(labels: np.ndarray) -> np.ndarray:
  """int64 [N]: of each row of bool [N, K] the class that fewest rows have, -1 without any: what subsets balance."""
  order = np.argsort(labels.sum(0), kind='stable')
  first = labels[:, order].argmax(1)
  return np.where(labels.any(1), order[first], -1)


def scores(truth: np.ndarray, score: np.ndarray) -> dict[str, Any]:
  """Every score of bool [N, K] and float [N, K].

  Returns:
    macro_map (mean of the average precision over classes with a positive row), micro_map, macro_f1 and micro_f1 at a
    score of 0.5, average_precision per class (None without a positive row).
  """
  values, precision = _scores(truth, score, np.ones((1, len(truth))))
  return {
    **{name: float(v[0]) for name, v in values.items()},
    'average_precision': [None if np.isnan(p) else float(p) for p in precision[0]],
  }


def _scores(truth: np.ndarray, score: np.ndarray, weight: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
  """({score: float [R]}, average precision [R, K]) under weights float [R, N]."""
  precision = fitting.average_precision(truth, score, weight)
  called = score >= _THRESHOLD
  hits = weight @ (truth & called)  # [R, K]
  total = weight @ truth + weight @ called
  f1 = np.divide(2 * hits, total, out=np.zeros(hits.shape), where=total > 0)
  there = weight @ truth > 0
  some = np.maximum(there.sum(1), 1)
  return {
    'macro_map': np.where(there, np.nan_to_num(precision), 0).sum(1) / some,
    'micro_map': fitting.micro_average_precision(truth, score, weight),
    'macro_f1': np.where(there, f1, 0).sum(1) / some,
    'micro_f1': 2 * hits.sum(1) / np.maximum(total.sum(1), 1),
  }, precision


def compare(
  labels: Mapping[str, np.ndarray],
  methods: Mapping[str, tuple[str, Mapping[str, np.ndarray]]],
  block: np.ndarray,
  *,
  fractions: Sequence[float] = (1.0,),
  probes: Sequence[str] = fitting.PROBES,
  seed: int = 0,
  progress: bool = True,
) -> list[dict[str, Any]]:
  """Probes every method with every share of the labels, beside the prevalence of each class.

  Args:
    labels: split -> bool [N, K].
    methods: name -> (kind, split -> features float [N, F]).
    block: int [N] of the test patches, their spatial blocks.
    fractions: of the train and validation patches; nested, and stratified by each patch's rarest class.
    probes, seed, progress: as of `comparison.compare`.
  Returns:
    rows of plain JSON values.
  """
  rows = []
  shares = {
    (split, f): subsets.first_share(subsets.nested_order(rarest(labels[split]), seed), f)
    for split in ('train', 'validation') for f in fractions
  }  # fmt: skip
  jobs = [(f, name, probe) for f in fractions for name in methods for probe in probes]
  with tqdm.tqdm(jobs, desc='Probing', unit=' fits', leave=False, disable=not progress) as bar:
    for fraction, name, probe in bar:
      kind, features = methods[name]
      train, validation = (
        fitting.Sample(features[split][shares[split, fraction]], labels[split][shares[split, fraction]])
        for split in ('train', 'validation')
      )
      answer = fitting.probe(probe, train, validation, features['test'], labels['test'].shape[1])
      own = {'method': name, 'kind': kind, 'probe': probe, 'fraction': fraction, 'train_patches': len(train.x)}
      own |= {'chosen': answer.chosen, 'validation': answer.validation}
      rows.append(own | _with_intervals(labels['test'], answer.output, block))
  for fraction in fractions:
    known = labels['train'][shares['train', fraction]].mean(0)
    constant = np.broadcast_to(known, labels['test'].shape)
    row = {'method': 'prevalence', 'kind': 'majority', 'probe': '', 'fraction': fraction}
    row |= {'train_patches': len(shares['train', fraction]), 'chosen': None, 'validation': None}
    rows.append(row | _with_intervals(labels['test'], constant, block))
  return [{'level': 'patch', **row} for row in rows]


def _with_intervals(truth: np.ndarray, score: np.ndarray, block: np.ndarray) -> dict[str, Any]:
  blocks = len(np.unique(block))
  found: dict[str, Any] = {name: None for name in SCORES}
  reason = ''
  if blocks < intervals.MIN_BLOCKS:
    reason = f'its test patches lie in {blocks} blocks; it takes {intervals.MIN_BLOCKS}'
  else:
    resamples = int(np.clip(_ROW_CLASS_DRAWS / truth.size, 200, 1000))
    values, _ = _scores(truth, score, intervals.times_drawn(block, resamples).astype(float))
    for name in SCORES:
      own = intervals.of_draws(values[name], blocks)
      found[name] = [own.low, own.high]
  return {**scores(truth, score), 'intervals': found, 'no_interval': reason}

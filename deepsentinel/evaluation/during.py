"""A cheap probe of an encoder while it is trained: one half of the labelled validation patches against the other."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from deepsentinel import legend
from deepsentinel.evaluation import cells, diagnostics, fitting, metrics, samples
from deepsentinel.train.inputs import Prepare

_PATCHES = 128
_CELLS = 16  # of each patch
_BATCH = 32


def of_labels(
  module: nn.Module, prepare: Prepare, records, target: legend.Target, crop_px: int
) -> Callable[[dict[str, Any]], dict[str, float]]:
  """Function of an objective's variables -> scores of its encoder; the same variables give the same scores.

  Looks at the middle of at most 128 patches, evenly spread over the split, read once. Cells of the western half are
  probed with those of the eastern half and the other way round, so no cell is answered by one of its own patch.

  Args:
    module: the objective, built with a plain `norm`.
    prepare: of these records.
    records: the labelled validation split.
    target: of the labels.
    crop_px: of the encoder's crops, a multiple of 16.
  Returns:
    such a function; its scores are linear_weighted_iou, knn_weighted_iou, effective_rank, alignment, uniformity and
    dead_share, of cells.
  Raises:
    ValueError: too few labelled patches.
  """
  numbers = samples.choose(_PATCHES, len(records))
  start = np.full(len(numbers), (records.patch_px - crop_px) // 2)
  stored = {f: records.read_crops(f, numbers, start, start, crop_px) for f in ('s2', 's1') if f in records.fields}
  grid = cells.CellGrid(crop_px, _CELLS)
  label = target.lookup[records.read_crops(target.field, numbers, start, start, crop_px)]
  y = grid.take(cells.majority(cells.counted(grid.split(label), len(target.classes))), numbers)  # [N, P]
  west = np.zeros(len(numbers), bool)
  west[np.argsort(records.table['lon_deg'].to_numpy()[numbers], kind='stable')[: len(numbers) // 2]] = True
  if not (y[west] >= 0).any() or not (y[~west] >= 0).any():
    raise ValueError(
      f'config.pretrain.probe_every_steps probes labelled validation patches; of the {len(numbers)} in '
      f'{records.directory} too few have a label of {target.title}. Pass --config.pretrain.probe_every_steps=0.'
    )

  @jax.jit
  def features(variables, prepare, batch):
    ready = prepare(batch, 0, train=False)
    encoder = {kind: tree['encoder'] for kind, tree in variables.items() if 'encoder' in tree}
    output = module.encoder.apply(encoder, ready['images'][:, 0], present=ready['present'][:, 0], train=False)
    return output.feature_map

  def probe(variables: dict[str, Any]) -> dict[str, float]:
    maps = []
    for begin in range(0, len(numbers), _BATCH):
      wanted = np.arange(begin, begin + _BATCH) % len(numbers)  # of one shape; what is beyond the last is left out
      found = np.asarray(features(variables, prepare, {f: v[wanted][:, None] for f, v in stored.items()}))
      maps.append(found[: len(numbers) - begin])
    whole = np.concatenate(maps)
    x = grid.take(whole, numbers)  # [N, P, F]
    if not np.isfinite(x).all():
      return {}
    confusion = {kind: np.zeros((len(target.classes),) * 2, np.int64) for kind in fitting.PROBES}
    for half in (west, ~west):
      train = fitting.Sample(x[half][y[half] >= 0], y[half][y[half] >= 0])
      test = fitting.Sample(x[~half][y[~half] >= 0], y[~half][y[~half] >= 0])
      for kind in fitting.PROBES:
        nothing = fitting.Sample(train.x[:0], train.y[:0])
        answer = fitting.probe(kind, train, nothing, test.x, len(target.classes))
        confusion[kind] += metrics.confusion_matrix(test.y, answer.output, len(target.classes))
    scores = {f'{kind}_weighted_iou': metrics.scores(matrix)['weighted_iou'] for kind, matrix in confusion.items()}
    collapse = diagnostics.describe(whole.mean((1, 2)), x)
    wanted_of = {'effective_rank_cells': 'effective_rank', 'alignment': 'alignment', 'uniformity': 'uniformity',
                 'dead_share': 'dead_share'}  # fmt: skip
    return scores | {name: float(collapse[key]) for key, name in wanted_of.items() if key in collapse}

  return probe

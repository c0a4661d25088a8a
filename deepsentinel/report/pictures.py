"""Pictures as the page holds them, and Figure 3 of the paper: test patches with their labels and predictions."""

import base64
import dataclasses
from collections.abc import Sequence

import numpy as np

from deepsentinel import composites, legend
from deepsentinel.report import figures
from deepsentinel.report.runs import Run


@dataclasses.dataclass(frozen=True)
class Picture:
  """A picture in the page: a data URI, its description for those who do not see it, and what to read under it."""

  uri: str
  alt: str
  caption: str = ''


@dataclasses.dataclass(frozen=True)
class Sample:
  """One test patch of the panel: rows of (name, pictures), and the numbers of the classes to be seen in it."""

  id: str
  rows: tuple[tuple[str, tuple[Picture, ...]], ...]
  classes: frozenset[int]

  @property
  def columns(self) -> int:
    return max(len(pictures) for _, pictures in self.rows)


def chart(png: bytes, alt: str, caption: str = '') -> Picture:
  return Picture('data:image/png;base64,' + base64.b64encode(png).decode('ascii'), alt, caption)


def patch(pixels: np.ndarray, caption: str, alt: str) -> Picture:
  """uint8 [H, W, 3]."""
  return chart(figures.picture(pixels), alt, caption)


def inputs(name: str, s2: np.ndarray, s1: np.ndarray, label: np.ndarray, target: legend.Target) -> tuple[Picture, ...]:
  """Both sensors and the label of a patch: stored B4, B3, B2; stored VV, VH; class numbers."""
  return (
    patch(composites.true_colour(s2), 'Sentinel-2', f'Sentinel-2 true colour of patch {name}'),
    patch(composites.radar(s1), 'Sentinel-1', f'Sentinel-1 composite of patch {name}'),
    patch(composites.classes(label, target), target.title, f'{target.title} of patch {name}'),
  )


def samples(rows: Sequence[tuple[str, Sequence[tuple[str, Run]]]], target: legend.Target, most: int) -> list[Sample]:
  """Figure 3 of the paper: both sensors, the label and each run's prediction, patch by patch.

  Args:
    rows: (name, (label, run) of each picture in it). One row without a name goes beside the sensors, others below.
    target: what is shown; runs that predict something else are left out.
    most: patches.
  """
  found = [
    (name, [(label, data) for label, run in row if _predicts(run, target) and (data := run.samples())])
    for name, row in rows
  ]
  found = [(name, row) for name, row in found if row]
  if not found:
    return []
  first = found[0][1][0][1]
  panel = []
  for i in range(min(len(first['id']), most)):
    name, label = str(first['id'][i]), first['label'][i]
    seen = set(np.unique(label).tolist())
    lines = [('', inputs(name, first['s2'][i], first['s1'][i], label, target))]
    for row_name, row in found:
      guesses = []
      for run_label, data in row:
        at = np.flatnonzero(data['id'] == first['id'][i])
        if not len(at) or data['prediction'][at[0]].shape != label.shape:
          continue
        prediction = data['prediction'][at[0]]
        seen |= set(np.unique(prediction).tolist())
        who = ', '.join(part for part in (run_label, row_name) if part)
        guesses.append(_guess(prediction, label, run_label, f'Prediction of {who} for patch {name}', target))
      if row_name:
        lines.append((row_name, tuple(guesses)))
      else:
        lines[0] = ('', (*lines[0][1], *guesses))
    panel.append(Sample(name, tuple(lines), frozenset(seen)))
  return panel


def _predicts(run: Run, target: legend.Target) -> bool:
  """Whether a run's predictions are classes of a target."""
  return bool(run.test) and (run.test['target'], tuple(run.test['classes'])) == (target.name, tuple(target.classes))


def _guess(prediction: np.ndarray, label: np.ndarray, who: str, alt: str, target: legend.Target) -> Picture:
  counted = label >= 0
  right = f', {100 * (prediction == label)[counted].mean():.0f}\u00a0%\u00a0right' if counted.any() else ', no label'
  return patch(composites.classes(prediction, target), who + right, alt)

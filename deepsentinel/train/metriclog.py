"""metrics.csv and TensorBoard scalars and pictures of one stage; a resumed run leaves no row twice."""

import csv
import math
import os
import pathlib
import sys
import time
from typing import Any, TextIO

import numpy as np

COLUMNS = ('step', 'epoch', 'split', 'name', 'value', 'seconds')


def _import_tensorboardx() -> Any:
  """tensorboardX, without PyTorch: where that is installed it is imported too, for two seconds and nothing of ours."""
  hidden = 'torch' not in sys.modules
  if hidden:
    sys.modules['torch'] = None  # type: ignore[assignment]  # so that importing it fails
  try:
    import tensorboardX
  finally:
    if hidden:
      del sys.modules['torch']
  return tensorboardX


class MetricLog:
  """Appends to DIRECTORY/metrics.csv (long form) and to DIRECTORY/tensorboard.

  Columns: step (finished steps), epoch (fraction), split ('train', 'validation'), name, value, seconds (of training so
  far, over all resumes).
  """

  def __init__(self, directory: pathlib.Path, *, step: int = 0, seconds: float = 0.0, enabled: bool = True):
    """Opens the log at a step; rows beyond it belong to work that was lost and will be done again, and are dropped.

    Args:
      directory: of the stage.
      step: finished steps of the restored state.
      seconds: of training until then.
      enabled: False writes nothing (all processes of a run but one).
    """
    self._began = time.monotonic() - seconds
    self._file: TextIO | None = None
    self._board: Any = None
    if not enabled:
      return
    tensorboardX = _import_tensorboardx()
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / 'metrics.csv'
    rows = [row for row in _whole_rows(path) if int(row[0]) <= step]
    partial = path.with_name(path.name + '.partial')
    with partial.open('w', newline='') as file:
      csv.writer(file, lineterminator='\n').writerows([COLUMNS, *rows])
    partial.replace(path)
    self._file = path.open('a', newline='')
    self._rows = csv.writer(self._file, lineterminator='\n')
    self._board = tensorboardX.SummaryWriter(str(directory / 'tensorboard'), purge_step=step + 1, flush_secs=30)

  @property
  def seconds(self) -> float:
    return time.monotonic() - self._began

  def write(self, step: int, epoch: float, split: str, values: dict[str, float]) -> None:
    """One row per value; values that are not finite (nothing was counted) are left out."""
    if self._file is None:
      return
    for name, value in values.items():
      if value is not None and math.isfinite(value):
        self._rows.writerow([step, f'{epoch:.4f}', split, name, repr(float(value)), f'{self.seconds:.2f}'])
        self._board.add_scalar(f'{split}/{name}', value, step)
    self._file.flush()

  def write_picture(self, step: int, name: str, picture: np.ndarray) -> None:
    """A picture uint8 [H, W, 3], to TensorBoard alone."""
    if self._file is not None:
      self._board.add_image(name, picture, step, dataformats='HWC')

  def sync(self) -> None:
    """Rows are on the disk: to be called before a checkpoint that promises them."""
    if self._file is not None:
      self._file.flush()
      os.fsync(self._file.fileno())

  def close(self) -> None:
    if self._file is not None:
      self.sync()
      self._file.close()
      self._board.close()


def _whole_rows(path: pathlib.Path) -> list[list[str]]:
  """Rows of an earlier run; a last line that was cut off is no row."""
  if not path.exists():
    return []
  text = path.read_text()
  text = text[: text.rfind('\n') + 1]
  return [row for row in csv.reader(text.splitlines()) if len(row) == len(COLUMNS) and row[0].isdigit()]

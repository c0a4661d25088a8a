"""A trace of a few steps of training, for TensorBoard or Perfetto."""

import pathlib

import jax
import tqdm


class Profile:
  """Traces some steps of training, after those that compile."""

  first, last = 3, 8  # counted from the first of this process

  def __init__(self, directory: pathlib.Path, enabled: bool):
    self._directory, self._enabled = directory, enabled
    self._steps, self._running = 0, False

  def __enter__(self):
    return self

  def after_step(self) -> None:
    """To be called when a step was started."""
    self._steps += 1
    if self._enabled and self._steps == self.first:
      jax.profiler.start_trace(str(self._directory))
      self._running = True
    if self._steps == self.last:
      self.__exit__()

  def __exit__(self, *error):
    if self._running:
      jax.profiler.stop_trace()
      self._running = False
      tqdm.tqdm.write(f'Trace in {self._directory}: `tensorboard --logdir={self._directory}`, or Perfetto.')

"""The one training loop and the one evaluation loop, for every stage and every objective."""

import dataclasses
import itertools
import pathlib
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import optax
import tqdm
from absl import logging

from deepsentinel.train import checkpoint, metriclog, parallel, profiling, resident, throughput
from deepsentinel.train import state as state_lib
from deepsentinel.train.stopping import StopRequest

# Of a host batch, what the device needs; the record and crop numbers stay behind.
_DEVICE_FIELDS = ('s2', 's1', 'corine', 'osm', 'landcover', 'scene', 'mask', 'count')

Batches = Iterable[dict[str, np.ndarray]]


class NotFiniteError(ValueError):
  """The loss or its gradient became NaN or infinite."""


@dataclasses.dataclass(frozen=True)
class Stage:
  """Everything the loop needs to know of one stage of training.

  Attributes:
    name: 'pretrain', 'finetune', or 'fold_K' of a cross-validation.
    directory: holds metrics.csv, tensorboard/ and checkpoints/.
    module: the objective, built with `parallel.norm` and `parallel.gather`.
    optimiser: of optax.
    learning_rate: what the optimiser's updates are multiplied by.
    prepare: stored integers -> the objective's batch, on the device.
    initial_variables: makes the variables before the first step.
    training: start step -> endless batches of this process's part, the same for the same step.
    held: the same records for the devices to hold, in place of `training`; None reads every batch.
    about: the description stored with each checkpoint.
    total_steps, batch_size: duration; global batch.
    examples: records in the split, which is one epoch.
    log_every, save_every, keep: steps between rows, between checkpoints; how many checkpoints to keep.
    validation: makes one pass over the validation split ('mask' marks padding); None does without.
    validate_every: steps between passes; 0: once an epoch.
    patience_epochs: stop when validation loss has not improved for this long; 0 never.
    classes: K where the objective predicts classes, else 0.
    scores: confusion matrix -> named scores; those that are numbers are logged beside the validation loss.
    frozen: top-level groups whose batch statistics do not change.
    accumulate: parts that a device takes its examples of a step in.
    pictures: makes a function of (variables, step) -> named pictures uint8 [H, W, 3], for TensorBoard at each
      validation, or at each checkpoint where there is none.
    probe, probe_every: makes a function of variables -> named scores of the encoder as it is, logged as split 'probe'
      every so many steps and after the last; it changes nothing of the training. 0: never.
  """

  name: str
  directory: pathlib.Path
  module: nn.Module
  optimiser: optax.GradientTransformation
  prepare: state_lib.Prepare
  initial_variables: Callable[[], dict[str, Any]]
  training: Callable[[int], Iterator[dict[str, np.ndarray]]]
  about: dict[str, Any]
  total_steps: int
  batch_size: int
  examples: int
  learning_rate: float = 1.0
  held: resident.Source | None = None
  log_every: int = 20
  save_every: int = 500
  keep: int = 2
  validation: Callable[[], Batches] | None = None
  validate_every: int = 0
  patience_epochs: float = 0
  classes: int = 0
  scores: Callable[[np.ndarray], dict[str, Any]] | None = None
  frozen: tuple[str, ...] = ()
  accumulate: int = 1
  pictures: Callable[[], Callable[[dict[str, Any], int], dict[str, np.ndarray]]] | None = None
  probe: Callable[[], Callable[[dict[str, Any]], dict[str, float]]] | None = None
  probe_every: int = 0

  @property
  def section(self) -> str:
    """Of the configuration."""
    return 'finetune' if self.name.startswith('fold_') else self.name

  def epoch(self, step: int) -> float:
    return step * self.batch_size / self.examples

  def probe_due(self, step: int) -> bool:
    return bool(self.probe and self.probe_every) and (step % self.probe_every == 0 or step == self.total_steps)

  def validation_due(self, step: int) -> bool:
    if self.validation is None or step == 0:
      return False
    if step == self.total_steps:
      return True
    if self.validate_every:
      return step % self.validate_every == 0
    return int(self.epoch(step)) > int(self.epoch(step - 1))


@dataclasses.dataclass(frozen=True)
class Outcome:
  """How a stage ended: finished steps, best validation {'step', 'epoch', 'loss', scores} or None, seconds; bytes of
  records that each device held, 0 where batches were read.
  """

  steps: int
  best: dict[str, Any] | None
  seconds: float
  stopped_early: bool
  resident_bytes: int = 0


def train(stage: Stage, *, progress_bar: bool = True, profile: bool = False) -> Outcome:
  """Trains a stage from its newest checkpoint, or from the start, to its end.

  Args:
    stage: what to train.
    progress_bar: show progress.
    profile: write a trace of a few steps to the stage's profile/, for TensorBoard or Perfetto.

  Raises:
    NotFiniteError: the loss or the gradient is NaN or infinite; the last good checkpoint remains.
    SystemExit: after a SIGTERM or a Ctrl-C; a checkpoint is saved, and the same call goes on from it.
  """
  parallel.check_batch_size(stage.batch_size, key=f'{stage.section}.batch_size', parts=stage.accumulate)
  try:
    return _train(stage, progress_bar, profile)
  except parallel.DeviceMemoryError as error:
    if stage.held is None or stage.held.required or parallel.process_count() > 1:
      raise
    logging.warning('%s Going on without the records on the device.', error)
  return _train(dataclasses.replace(stage, held=None), progress_bar, profile)


def _train(stage: Stage, progress_bar: bool, profile: bool) -> Outcome:
  checkpoints = checkpoint.Checkpoints(stage.directory / 'checkpoints', stage.about, stage.keep)
  try:
    with parallel.memory_errors(_memory_mend(stage)):
      return _Training(stage, checkpoints).run(progress_bar, profile)
  finally:
    checkpoints.close()


def _memory_mend(stage: Stage) -> str:
  section = f'--config.{stage.section}'
  return (
    f'Raise {section}.accumulate (now {stage.accumulate}), which takes the batch of {stage.batch_size} in parts '
    '(negatives and batch norm then are those of a part), or '
    f'lower {section}.batch_size or --config.evaluation.batch_size; each needs a new --workdir.'
    + (' Or pass --config.data.resident=never, which needs none.' if stage.held else '')
  )


class _Training:
  """A run of `train`: the state between steps."""

  def __init__(self, stage: Stage, checkpoints: checkpoint.Checkpoints):
    self.stage, self.checkpoints = stage, checkpoints
    self.state = state_lib.create(stage.initial_variables(), stage.optimiser)
    progress: dict[str, Any] = {}
    if (restored := checkpoints.restore(self.state)) is not None:
      self.state, progress = restored
    self.step = int(self.state.step)
    self.best = progress.get('best')
    # Sums since the last row of the log, so that a resumed run writes the rows an uninterrupted one does.
    self.pending: dict[str, list[float]] = progress.get('pending', {})
    self.evaluate = evaluator(stage.module, stage.prepare, classes=stage.classes)
    self.draw = stage.pictures() if stage.pictures and parallel.is_chief() else None
    self.probe = stage.probe() if stage.probe and stage.probe_every and parallel.is_chief() else None
    self.log = metriclog.MetricLog(
      stage.directory, step=self.step, seconds=progress.get('seconds', 0.0), enabled=parallel.is_chief()
    )

  @property
  def stopped_early(self) -> bool:
    if not self.stage.patience_epochs or self.best is None:
      return False
    return self.stage.epoch(self.step) - self.best['epoch'] >= self.stage.patience_epochs

  def run(self, progress_bar: bool, profile: bool = False) -> Outcome:
    stage = self.stage
    try:
      if self.step < stage.total_steps and not self.stopped_early:
        with profiling.Profile(stage.directory / 'profile', profile and parallel.is_chief()) as trace:
          self._steps(progress_bar, trace)
      held = stage.held.nbytes if stage.held else 0
      return Outcome(self.step, self.best, self.log.seconds, self.step < stage.total_steps, held)
    finally:
      self.log.close()

  def _steps(self, progress_bar: bool, trace: profiling.Profile) -> None:
    stage = self.stage
    take_step = parallel.parallelise(
      state_lib.train_step(stage.module, stage.optimiser, frozen=stage.frozen, accumulate=stage.accumulate),
      donate_first=True,
    )
    self.state = parallel.replicate(self.state)
    given = parallel.replicate((stage.prepare, np.float32(stage.learning_rate)))
    if stage.held is None:
      batches, place = iter(stage.training(self.step)), send
    else:
      batches, place = stage.held.start(self.step, progress_bar and parallel.is_chief())
    ready, patches = place(next(batches))
    utilisation = throughput.Utilisation(
      take_step, self.state, ready, *given, dtype=str(jnp.dtype(stage.module.encoder.dtype)), parts=stage.accumulate
    )
    unread = None  # the step whose metrics are still on the device
    logged_at, logged_step = time.monotonic(), self.step
    bar = tqdm.tqdm(
      total=stage.total_steps, initial=self.step, desc=stage.name, unit='step', dynamic_ncols=True,
      disable=not (progress_bar and parallel.is_chief()),
    )  # fmt: skip
    with bar, StopRequest(parallel.process_count()) as stop:
      while self.step < stage.total_steps and not self.stopped_early:
        self.state, metrics = take_step(self.state, ready, *given)
        failure: ValueError | OSError | None = None
        if self.step + 1 < stage.total_steps:
          try:
            ready, _ = place(next(batches))  # read and sent while the step runs
          except (ValueError, OSError) as error:  # a store that is away, a damaged shard: what is done is saved first
            failure = error
        if unread is not None:
          self._account(*unread)
        self.step += 1
        trace.after_step()
        unread = (self.step, metrics)
        bar.update(1)
        log_due = self.step % stage.log_every == 0 or self.step == stage.total_steps
        validation_due = stage.validation_due(self.step)
        probe_due = stage.probe_due(self.step)
        save_due = self.step % stage.save_every == 0 or self.step == stage.total_steps
        stopping = parallel.stop_agreed(bool(stop.number or failure))
        if failure and not stopping:  # of several processes none can save alone
          raise failure
        if not (log_due or validation_due or probe_due or save_due or stopping or self.stopped_early):
          continue
        self._account(*unread)
        unread = None
        if log_due:
          now = time.monotonic()
          steps_per_s = (self.step - logged_step) / max(now - logged_at, 1e-9)
          rate = steps_per_s * patches * parallel.process_count()
          left, used = (stage.save_every - self.step % stage.save_every) / steps_per_s, utilisation.at(steps_per_s)
          bar.set_postfix_str(
            f'loss {_mean(self.pending["loss"]):.4g}, {rate:.0f} patches/s, '
            + (f'{100 * used:.0f} % of peak FLOP/s, ' if used else '')
            + f'checkpoint in {left:.0f} s',
            refresh=False,
          )
          self._log_training({'patches_per_s': rate, **({'flop_utilisation': used} if used else {})})
        if validation_due:
          save_due |= self._validate(progress_bar)
        if probe_due and self.probe is not None:
          scores = self.probe(parallel.unreplicate(self.state.variables))
          self.log.write(self.step, stage.epoch(self.step), 'probe', scores)
        if save_due or stopping or self.stopped_early:
          self._save()
        if validation_due or (save_due and stage.validation is None):
          self._draw()
        if stopping:
          self._leave(stop.number or signal.SIGTERM, failure)
        if log_due or validation_due or probe_due:
          logged_at, logged_step = time.monotonic(), self.step

  def _account(self, step: int, metrics: state_lib.Metrics) -> None:
    """Waits for a step's metrics and adds them to the sums; raises if they are not finite."""
    values = {name: [float(part) for part in pair] for name, pair in parallel.unreplicate(metrics).items()}
    for name in ('loss', 'gradient_norm'):
      if not np.isfinite(values[name][0]):
        self._raise_not_finite(step, name.replace('_', ' '), values[name][0])
    for name, pair in values.items():
      sums = self.pending.setdefault(name, [0.0, 0.0])
      self.pending[name] = [sums[0] + pair[0], sums[1] + pair[1]]

  def _raise_not_finite(self, step: int, what: str, value: float) -> None:
    last = self.checkpoints.latest_step()
    kept = f'The last good checkpoint is step {last}' if last is not None else 'No checkpoint was saved yet'
    raise NotFiniteError(
      f'The {what} is {value} at step {step} of {self.stage.name}. {kept} in {self.stage.directory / "checkpoints"}. '
      f'Lower --config.{self.stage.section}.learning_rate in a new --workdir, or check the records: '
      'a band with a tiny standard deviation or wrong units makes huge inputs.'
    )

  def _log_training(self, speed: dict[str, float]) -> None:
    values = {name: _mean(pair) for name, pair in self.pending.items()}
    self.log.write(self.step, self.stage.epoch(self.step), 'train', {**values, **speed})
    self.pending = {}
    if self.step == self.stage.total_steps and parallel.is_chief() and (advice := self.stage.module.advice(values)):
      logging.warning('%s', advice)

  def _validate(self, progress_bar: bool) -> bool:
    """One pass over the validation split; whether it is the best so far."""
    stage = self.stage
    assert stage.validation is not None  # or none would be due
    text = 'validation' if progress_bar and parallel.is_chief() else None
    metrics, confusions = self.evaluate(self.state.variables, stage.validation(), text)
    confusion = confusions.sum(0)
    scores = stage.scores(confusion) if stage.scores and confusion.sum() else {}
    numbers = {name: value for name, value in scores.items() if isinstance(value, float)}
    self.log.write(self.step, stage.epoch(self.step), 'validation', {**metrics, **numbers})
    loss = metrics.get('loss', float('nan'))
    if not np.isfinite(loss):
      raise ValueError(
        f'The validation split of {stage.name} has a loss of {loss}: nothing of it is labelled, or the model '
        'overflows. Use a labelled corpus whose validation split has labels.'
      )
    improved = self.best is None or loss < self.best['loss']
    if improved:
      self.best = {'step': self.step, 'epoch': stage.epoch(self.step), 'loss': loss, **numbers}
    return improved

  def _draw(self) -> None:
    if self.draw is not None:
      for name, picture in self.draw(parallel.unreplicate(self.state.variables), self.step).items():
        self.log.write_picture(self.step, name, picture)

  def _save(self) -> None:
    self.log.sync()
    progress = {'best': self.best, 'pending': self.pending, 'seconds': self.log.seconds}
    self.checkpoints.save(parallel.unreplicate(self.state), progress)

  def _leave(self, number: int, failure: ValueError | OSError | None) -> None:
    self.checkpoints.wait()
    if not failure:
      tqdm.tqdm.write(f'Stopped by signal {number} at step {self.step} of {self.stage.name}; the same command goes on.')
    raise failure or SystemExit(128 + number)


def evaluator(
  module: nn.Module, prepare: state_lib.Prepare, *, classes: int = 0
) -> Callable[..., tuple[dict[str, float], np.ndarray]]:
  """The evaluation loop of an objective, compiled once.

  Args:
    module: the objective; the running batch statistics are used.
    prepare: stored integers -> the objective's batch.
    classes: K, or 0.
  Returns:
    function of (replicated variables, this process's batches, each with 'mask' bool[B]; text of the progress bar,
    None for none) -> (weighted means of loss and diagnostics by name, confusions int64 [N, K, K] of all examples of
    all processes in order, padding included, rows = reference). Padding counts for nothing: its matrix is 0.
  """
  take_step = parallel.parallelise(state_lib.eval_step(module, classes=classes))
  given = parallel.replicate(prepare)

  def evaluate(variables: dict[str, Any], batches: Batches, text: str | None = 'evaluation'):
    sums: dict[str, np.ndarray] = {}
    confusions = [np.zeros((0, classes, classes), np.int64)]
    running = None
    # None at the end: each result is read while the next batch runs, the last one after all.
    with tqdm.tqdm(desc=text, unit='batch', leave=False, disable=text is None) as bar:
      for batch in itertools.chain(batches, [None]):
        started = None if batch is None else take_step(variables, send(batch)[0], given)
        if running is not None:
          metrics, counts = parallel.unreplicate(running)
          for name, pair in metrics.items():
            sums[name] = sums.get(name, 0) + np.asarray(pair, np.float64)
          confusions.append(counts.astype(np.int64))
          bar.update(1)
        running = started
    return {name: _mean(pair) for name, pair in sums.items()}, np.concatenate(confusions)

  return evaluate


def send(batch: dict[str, np.ndarray]) -> tuple[dict[str, Any], int]:
  """(the batch on this process's devices, patches in it)."""
  pixels = {name: value for name, value in batch.items() if name in _DEVICE_FIELDS}
  images = next(pixels[name] for name in ('s2', 's1') if name in pixels)
  return parallel.shard(pixels), int(np.prod(images.shape[:2]))


def _mean(pair) -> float:
  return float(pair[0] / pair[1]) if pair[1] else float('nan')

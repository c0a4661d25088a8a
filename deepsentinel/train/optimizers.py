"""Optimisers by configuration."""

from collections.abc import Mapping
from typing import Any

import optax

SCHEDULES = ('constant', 'cosine')


def from_config(
  section: Mapping[str, Any], total_steps: int, *, frozen: tuple[str, ...] = ()
) -> optax.GradientTransformation:
  """The optimiser of a stage for a learning rate of 1: multiply its updates by section['learning_rate'].

  So the rate is no constant of a compiled step, and runs of different rates share its compilation.

  Args:
    section: has 'schedule', 'warmup_steps' and 'clip_norm'.
    total_steps: at whose end a 'cosine' schedule is 0.
    frozen: top-level parameter groups to leave as they are.
  """
  schedule = learning_rate(1.0, section['schedule'], section['warmup_steps'], total_steps)
  return adam(schedule, clip_norm=section['clip_norm'], frozen=frozen)


def learning_rate(peak: float, schedule: str, warmup_steps: int, total_steps: int) -> optax.Schedule | float:
  """Learning rate by step: rises from 0 to `peak` over the warm-up, then stays or falls by half a cosine to 0.

  Raises:
    ValueError: unknown schedule, or a warm-up that leaves no step.
  """
  if schedule not in SCHEDULES:
    raise ValueError(f'Unknown schedule {schedule!r}. Known: {", ".join(SCHEDULES)}.')
  if warmup_steps >= total_steps:
    raise ValueError(f'A warm-up of {warmup_steps} steps leaves none of {total_steps}. Shorten warmup_steps.')
  if schedule == 'cosine':
    return optax.warmup_cosine_decay_schedule(0.0 if warmup_steps else peak, peak, warmup_steps, total_steps)
  if warmup_steps:
    return optax.warmup_constant_schedule(0.0, peak, warmup_steps)
  return peak


def adam(
  learning_rate: optax.Schedule | float, *, clip_norm: float = 0.0, frozen: tuple[str, ...] = ()
) -> optax.GradientTransformation:
  """Adam (the paper's optimiser), with the top-level parameter groups in `frozen` left as they are.

  Args:
    learning_rate: step size, above 0, or a schedule of it.
    clip_norm: largest norm of the gradient of what is trained; 0: any.
    frozen: keys of the parameter tree, e.g. ('encoder',).
  """
  optimiser = optax.adam(learning_rate)
  if clip_norm:
    optimiser = optax.chain(optax.clip_by_global_norm(clip_norm), optimiser)
  if not frozen:
    return optimiser

  def labels(params):
    return {key: 'frozen' if key in frozen else 'trained' for key in params}  # a prefix of the parameter tree

  return optax.multi_transform({'trained': optimiser, 'frozen': optax.set_to_zero()}, labels)

"""Optimisers by configuration."""

import optax


def adam(learning_rate: float, *, frozen: tuple[str, ...] = ()) -> optax.GradientTransformation:
  """Adam (the paper's optimiser), with the top-level parameter groups in `frozen` left as they are.

  Args:
    learning_rate: constant step size, above 0.
    frozen: keys of the parameter tree, e.g. ('encoder',).
  """
  optimiser = optax.adam(learning_rate)
  if not frozen:
    return optimiser

  def labels(params):
    return {key: 'frozen' if key in frozen else 'trained' for key in params}  # a prefix of the parameter tree

  return optax.multi_transform({'trained': optimiser, 'frozen': optax.set_to_zero()}, labels)

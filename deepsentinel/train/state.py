"""The training state, and the pure per-device functions of one step; `parallel` runs them on all devices."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from deepsentinel.train import parallel

Metrics = dict[str, tuple[jax.Array, jax.Array]]  # name -> (weighted sum, weight), over the global batch
# (stored batch, step, train=...) -> the objective's batch; a pytree, see `inputs.Prepare`
Prepare = Callable[..., dict[str, jax.Array]]


class TrainState(flax.struct.PyTreeNode):
  """Everything a step changes. `step` counts finished steps and is also the position in the data.

  Attributes:
    step: int32 scalar.
    params, batch_stats: the objective's variables, the encoder's under 'encoder'.
    opt_state: of the optimiser.
  """

  step: jax.Array
  params: Any
  batch_stats: Any
  opt_state: Any

  @property
  def variables(self) -> dict[str, Any]:
    return {'params': self.params, 'batch_stats': self.batch_stats}


def init_variables(module: nn.Module, batch: dict[str, jax.Array], key: jax.Array) -> dict[str, Any]:
  """Fresh variables of an objective built with a plain `norm`, from an example batch of its inputs (one example)."""
  # train=False: batch norm on one example with a running average needs no axis and leaves its statistics at 0 and 1.
  # Compiled without optimisation: it runs once, and optimising the random numbers of sixty arrays takes half a minute.
  init = jax.jit(
    lambda key, batch: module.init(key, batch, train=False), compiler_options={'xla_backend_optimization_level': 0}
  )
  variables = init(key, batch)
  return {'params': variables['params'], 'batch_stats': variables.get('batch_stats', {})}


def variable_shapes(module: nn.Module, batch: dict[str, jax.Array]) -> dict[str, Any]:
  """The variables `init_variables` would make, as shapes; nothing is computed."""
  shapes = jax.eval_shape(lambda key, batch: module.init(key, batch, train=False), jax.random.key(0), batch)
  return {'params': shapes['params'], 'batch_stats': shapes.get('batch_stats', {})}


def create(variables: dict[str, Any], optimiser: optax.GradientTransformation) -> TrainState:
  """The state before the first step."""
  params = variables['params']
  # Compiled as a whole, for else every shape's zeros are a program of their own.
  return TrainState(np.zeros((), np.int32), params, variables['batch_stats'], jax.jit(optimiser.init)(params))


def key_shapes(tree: Any) -> dict[str, tuple[int, ...]]:
  """'a/b/kernel' -> shape, for every leaf of nested dicts."""
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {'/'.join(str(getattr(k, 'key', k)) for k in path): tuple(np.shape(leaf)) for path, leaf in leaves}


def require_same(found: Any, wanted: Any, *, what: str, hint: str) -> None:
  """ValueError unless two trees have the same keys and shapes; it lists the keys of both that do not match.

  Args:
    found: the variables offered, e.g. of a checkpoint.
    wanted: the variables (or their shapes) asked for.
    what: what is being matched, for the message.
    hint: how to mend it.
  """
  found, wanted = key_shapes(found), key_shapes(wanted)
  if found == wanted:
    return

  def listing(own, other):
    differing = [f'{key} {shape}' for key, shape in own.items() if other.get(key) != shape]
    return '\n    '.join(differing) or '(none that the other lacks)'

  raise ValueError(
    f'{what} does not fit: the keys or shapes differ.\n'
    f'  found ({len(found)} arrays):\n    {listing(found, wanted)}\n'
    f'  expected ({len(wanted)} arrays):\n    {listing(wanted, found)}\n{hint}'
  )


def transfer_encoder(source: dict[str, Any], target: dict[str, Any]) -> dict[str, Any]:
  """`target` variables with the encoder of `source`: same keys and same shapes under 'encoder', or a ValueError."""
  encoders = [
    {kind: tree.get(kind, {}).get('encoder', {}) for kind in ('params', 'batch_stats')} for tree in (source, target)
  ]
  require_same(
    *encoders,
    what='The pretrained encoder',
    hint='Give the run that fine-tunes the encoder name, width and bands of the run that pretrained.',
  )
  return {kind: {**target[kind], **({'encoder': encoders[0][kind]} if encoders[0][kind] else {})} for kind in target}


def train_step(
  module: nn.Module, optimiser: optax.GradientTransformation, *, frozen: Sequence[str] = (), accumulate: int = 1
) -> Callable[[TrainState, dict[str, jax.Array], Prepare, jax.Array], tuple[TrainState, Metrics]]:
  """One step on one device's part of the batch, for `parallel.parallelise`.

  The loss is the mean over the global batch of the objective's per-example loss, weighted by its diagnostic 'weight'
  where it has one; gradients, metrics and batch statistics are those of the global batch, whatever the number of
  devices.

  Args:
    module: the objective, built with `parallel.norm` and `parallel.gather`.
    optimiser: of optax, for a learning rate of 1.
    frozen: top-level groups ('encoder') whose batch statistics stay as they are.
    accumulate: parts that a device takes its examples in. Gradients are those of the whole, but batch norm and
      negatives see one part (of every device) at a time.
  Returns:
    function of (state, stored batch, what makes the objective's batch of it, learning rate).
  """

  def step(state, batch, prepare, learning_rate):
    def part(batch_stats, batch, first):
      """Summed gradient, diagnostics and batch statistics of a part of this device's examples."""
      inputs = prepare(batch, state.step, train=True, first=first)

      def summed_loss(params):
        variables = {'params': params, 'batch_stats': batch_stats}
        (loss, diagnostics), updates = module.apply(variables, inputs, train=True, mutable=['batch_stats'])
        values, weight = split_weight(loss, diagnostics)
        return (loss * weight).sum(), (values, weight, updates.get('batch_stats', {}))

      return jax.grad(summed_loss, has_aux=True)(state.params)

    first = parallel.first_example(jax.tree.leaves(batch)[0].shape[0])
    gradients, (values, weight, batch_stats) = in_parts(part, state.batch_stats, batch, first, accumulate)
    # A batch without one labelled pixel has weight 0, and then gradient 0.
    scale = 1 / jnp.maximum(parallel.total(weight.sum()), 1e-6)
    gradients = jax.tree.map(lambda g: g * scale, parallel.total(gradients))
    updates, opt_state = optimiser.update(gradients, state.opt_state, state.params)
    batch_stats = parallel.mean(batch_stats)
    batch_stats = {key: state.batch_stats[key] if key in frozen else value for key, value in batch_stats.items()}
    metrics = weighted_sums(values, weight)
    metrics['gradient_norm'] = (optax.global_norm(gradients), jnp.ones(()))
    params = optax.apply_updates(state.params, jax.tree.map(lambda update: learning_rate * update, updates))
    return TrainState(state.step + 1, params, batch_stats, opt_state), metrics

  return step


def in_parts(part: Callable, batch_stats: Any, batch: dict[str, jax.Array], first: jax.Array, parts: int):
  """Calls `part` on one part of a batch after the other, so that only one part's activations are held.

  Args:
    part: (batch statistics, batch, number of its first example) -> (gradients, (values, weight, batch statistics)).
    batch_stats: of the module, handed from part to part.
    batch: [B, ...].
    first: number of its first example.
    parts: how many; divides B.
  Returns:
    as `part`: gradients summed, values and weights [B] of all examples, the last batch statistics.
  """
  if parts == 1:
    return part(batch_stats, batch, first)
  size = jax.tree.leaves(batch)[0].shape[0] // parts
  split = jax.tree.map(lambda x: x.reshape(parts, size, *x.shape[1:]), batch)

  def body(carry, given):
    batch_stats, summed = carry
    gradients, (values, weight, batch_stats) = part(batch_stats, *given)
    return (batch_stats, jax.tree.map(jnp.add, summed, gradients)), (values, weight)

  shapes = jax.eval_shape(part, batch_stats, jax.tree.map(lambda x: x[0], split), first)[0]
  zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
  (batch_stats, gradients), (values, weight) = jax.lax.scan(
    body, (batch_stats, zeros), (split, first + size * jnp.arange(parts))
  )
  values, weight = jax.tree.map(lambda x: x.reshape(-1), (values, weight))
  return gradients, (values, weight, batch_stats)


def eval_step(
  module: nn.Module, *, classes: int = 0
) -> Callable[[dict[str, Any], dict[str, jax.Array], Prepare], tuple[Metrics, jax.Array]]:
  """Loss, diagnostics and confusion matrices of one batch.

  Examples whose 'mask' is False and pixels whose 'count' (optional) is False count for nothing.

  Args:
    module: the objective; with `classes` its loss comes of its method `predict(batch) -> logits [B, H, W, K]`, or
      [B, K] of a whole patch.
    classes: K, or 0 for an objective without classes.
  Returns:
    function of (variables, stored batch with 'mask' bool[B], as for `train_step`) -> (metrics, int32 [D * B, K, K] of
    every example of the global batch, rows = reference).
  """

  def step(variables, batch, prepare):
    batch = dict(batch)
    mask, counted = batch.pop('mask'), batch.pop('count', None)
    inputs = prepare(batch, jnp.zeros((), jnp.int32), train=False)
    if counted is not None and 'labels' in inputs and inputs['labels'].shape == counted.shape:
      inputs['labels'] = jnp.where(counted, inputs['labels'], -1)
    # What the objective predicts on the way to its loss is kept, so that the encoder runs once.
    (loss, diagnostics), kept = module.apply(
      variables, inputs, train=False, mutable=['intermediates'], capture_intermediates=_is_prediction
    )
    values, weight = split_weight(loss, diagnostics)
    metrics = weighted_sums(values, weight * mask)
    confusion = jnp.zeros((len(mask), classes, classes), jnp.int32)
    if classes:
      # [B, H, W] of pixels, [B] of scenes -> [B, P]
      labels = inputs['labels'].reshape(len(mask), -1)
      prediction = kept['intermediates']['predict'][0].argmax(-1).reshape(labels.shape)
      scored = (labels >= 0) & mask[:, None]
      # [B, P] -> [B * K * K + 1]; the last bin takes what does not count
      own = jnp.arange(len(mask))[:, None] * classes**2
      bins = jnp.where(scored, own + labels * classes + prediction, len(mask) * classes**2)
      confusion = jnp.bincount(bins.reshape(-1), length=len(mask) * classes**2 + 1)[:-1].reshape(confusion.shape)
    return metrics, parallel.gather(confusion)

  return step


def _is_prediction(_: nn.Module, method: str) -> bool:
  return method == 'predict'


def split_weight(loss: jax.Array, diagnostics: dict[str, jax.Array]) -> tuple[dict[str, jax.Array], jax.Array]:
  """({'loss' and the other diagnostics: f32[B]}, weight f32[B]); without a diagnostic 'weight' all count alike."""
  values = {'loss': loss, **diagnostics}
  weight = values.pop('weight', jnp.ones_like(loss))
  return values, weight


def weighted_sums(values: dict[str, jax.Array], weight: jax.Array) -> Metrics:
  """Per-example values [B] -> (sum of weight * value, sum of weight) over the global batch."""
  pairs = {name: (jnp.where(weight > 0, value * weight, 0).sum(), weight.sum()) for name, value in values.items()}
  return parallel.total(pairs)

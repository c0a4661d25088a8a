"""Data parallelism: the only file that names `pmap` and its axis.

Everything that must see the whole global batch goes through here: batch-norm statistics (`norm`), negatives
(`gather`), gradients and metrics (`total`, `mean`). Functions that use the axis only make sense inside a function
given to `parallelise`.
"""

import contextlib
import functools
import itertools
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from deepsentinel.data import batches
from deepsentinel.encoders.batchnorm import BatchNorm

_AXIS = 'batch'
# At the end the chief scores baselines and writes the report while others wait. A dead one is found by its heartbeat.
_PATIENCE_S = 24 * 3600
_asked = itertools.count()  # how often `stop_agreed` was


def initialise(coordinator: str = '', processes: int = 0, process: int = -1) -> None:
  """Joins the processes of a multi-host run; does nothing for a single process. Call before any other use of JAX.

  Arguments left empty are taken from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.

  Args:
    coordinator: 'host:port' of process 0, or 'auto' where a launcher that JAX detects (Slurm, Open MPI, Cloud TPU)
      knows it.
    processes: number of processes of the run.
    process: number of this process, from 0.
  Raises:
    ValueError: only some of the three are known.
  """
  coordinator = coordinator or os.environ.get('JAX_COORDINATOR_ADDRESS', '')
  if not coordinator:
    if processes > 1:
      raise ValueError(
        f'{processes} processes asked for, but no coordinator; pass --coordinator=HOST:PORT of process 0.'
      )
    return
  # The CPU backend has no collectives across processes of its own; other backends ignore this.
  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  if coordinator == 'auto':
    jax.distributed.initialize(shutdown_timeout_seconds=_PATIENCE_S)
    return _end_at_an_error()
  processes = processes or int(os.environ.get('JAX_NUM_PROCESSES', 0))
  process = process if process >= 0 else int(os.environ.get('JAX_PROCESS_ID', -1))
  if processes < 1 or not 0 <= process < processes:
    raise ValueError(
      f'Coordinator {coordinator} needs the number of processes and the number of this one (0 to processes - 1); '
      f'found processes={processes}, process={process}. Pass --processes and --process.'
    )
  jax.distributed.initialize(coordinator, processes, process, shutdown_timeout_seconds=_PATIENCE_S)
  _end_at_an_error()


def _end_at_an_error() -> None:
  """Has an error end this process at once: at its exit JAX would wait for the others, which wait for it."""
  show = sys.excepthook

  def end(kind, error, trace):
    show(kind, error, trace)
    if threading.current_thread() is not threading.main_thread():
      return
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(130 if issubclass(kind, KeyboardInterrupt) else 1)

  sys.excepthook = end


def require_devices() -> None:
  """ValueError where JAX finds none of the devices that JAX_PLATFORMS asks for."""
  try:
    jax.devices()
  except (RuntimeError, AssertionError) as error:
    asked = os.environ.get('JAX_PLATFORMS', '')
    raise ValueError(
      f'JAX finds no device of JAX_PLATFORMS={asked!r} ({" ".join(str(error).split()) or "no reason given"}). For an '
      'NVIDIA GPU: pip install -r requirements-cuda.txt, and see that nvidia-smi lists the GPU. For the CPU: unset it.'
    ) from error


class DeviceMemoryError(ValueError):
  """A device has too little memory."""


@contextlib.contextmanager
def memory_errors(mend: str) -> Iterator[None]:
  """Within it, a device that has too little memory is a DeviceMemoryError with the mend; others stay as they are."""
  try:
    yield
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    first = str(error).partition('\n')[0].removeprefix('RESOURCE_EXHAUSTED: ')
    kind = jax.local_devices()[0].device_kind
    text = f'The device ({kind}) has too little memory: {first.rstrip(".")}. {mend}'
    raise DeviceMemoryError(text) from error


def on_cpu() -> bool:
  return jax.local_devices()[0].platform == 'cpu'


def free_bytes() -> int | None:
  """Free memory of this process's fullest device; None where the devices do not say, as CPUs."""
  found = [device.memory_stats() or {} for device in jax.local_devices()]
  if any('bytes_limit' not in stats for stats in found):
    return None
  return min(stats['bytes_limit'] - stats.get('bytes_in_use', 0) for stats in found)


def is_chief() -> bool:
  """Whether this process writes the files of a run."""
  return jax.process_index() == 0


def local_devices() -> int:
  """Devices of this process."""
  return jax.local_device_count()


def wait_for_all(what: str) -> None:
  """Returns once every process is here."""
  if jax.process_count() > 1:
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices(what)


def process_count() -> int:
  return jax.process_count()


def process_index() -> int:
  return jax.process_index()


def check_batch_size(batch_size: int, devices: int | None = None, *, key: str = '', parts: int = 1) -> None:
  """ValueError if a global batch does not divide over the devices, or a device's share not into the parts of gradient
  accumulation; names the nearest sizes that do.
  """
  devices = devices or jax.device_count()
  if batch_size < 1 or batch_size % devices:
    hint = f' Pass --config.{key}=...' if key else ''
    raise ValueError(
      f'Batch size {batch_size} does not divide over {devices} devices; nearest that do: '
      f'{batches.nearest_sizes(batch_size, devices)}.{hint}'
    )
  if batch_size // devices % parts:
    whole = [n for n in range(1, batch_size // devices + 1) if batch_size // devices % n == 0]
    raise ValueError(
      f'A device holds {batch_size // devices} examples of a batch of {batch_size}, which accumulate={parts} does not '
      f'divide; parts that do: {", ".join(map(str, whole))}. Pass --config.{key.rpartition(".")[0]}.accumulate=...'
    )


def norm(**kwargs) -> nn.Module:
  """Batch norm whose statistics are those of the global batch; a drop-in for the partial an encoder defaults to."""
  return BatchNorm(**{'momentum': 0.9, 'epsilon': 1e-5, 'axis_name': _AXIS, 'across': mean, **kwargs})


def gather(x: jax.Array) -> jax.Array:
  """[B, ...] of this device -> [D*B, ...] of all devices, in the order of the global batch."""
  return jax.lax.all_gather(x, _AXIS, tiled=True)


def total(tree: Any) -> Any:
  """Sum over devices of every leaf."""
  return jax.lax.psum(tree, _AXIS)


def mean(tree: Any) -> Any:
  """Mean over devices of every leaf."""
  return jax.lax.pmean(tree, _AXIS)


def first_example(examples: int) -> jax.Array:
  """int32 scalar: the number, in the global batch, of this device's first of `examples` examples."""
  return jax.lax.axis_index(_AXIS) * examples


def parallelise(function: Callable, *, donate_first: bool = False) -> Callable:
  """`function` on every device at once: arguments and results carry a leading device dimension [D, ...].

  Args:
    function: of any trees of arrays; may call `total`, `mean`, `gather`, `first_example` and use `norm`.
    donate_first: reuse the memory of the first argument (the training state), which is then gone.
  """
  return jax.pmap(function, axis_name=_AXIS, donate_argnums=(0,) if donate_first else ())


@functools.cache
def _sharding() -> NamedSharding:
  return NamedSharding(Mesh(np.array(jax.local_devices()), (_AXIS,)), PartitionSpec(_AXIS))


def shard(batch: Any) -> Any:
  """This process's part of a batch, [B, ...] of NumPy arrays, to its devices: [D, B/D, ...].

  The transfer is only started. The caller must not write into the arrays afterwards: on a CPU the device may keep
  using their memory.
  """
  devices = jax.local_device_count()

  def split(array):
    # [B, ...] -> [D, B/D, ...]
    return jax.device_put(array.reshape(devices, array.shape[0] // devices, *array.shape[1:]), _sharding())

  return jax.tree.map(split, batch)


def replicate(tree: Any) -> Any:
  """A tree of arrays -> the same on every device, [D, ...]."""
  devices = jax.local_device_count()
  return jax.tree.map(
    lambda leaf: jax.device_put(
      np.broadcast_to(np.asarray(leaf)[None], (devices, *np.shape(leaf))).copy(), _sharding()
    ),
    tree,
  )


def own_zeros(shape: Sequence[int], dtype: Any) -> jax.Array:
  """Zeros [D, *shape], a part for each of this process's devices; made there, so that the host needs no memory."""
  whole = (jax.local_device_count(), *shape)
  return jax.block_until_ready(jax.jit(lambda: jnp.zeros(whole, dtype), out_shardings=_sharding())())


def set_own_rows(array: jax.Array, rows: Sequence[np.ndarray], first: int) -> jax.Array:
  """An array of `own_zeros` with rows[device] [n, ...] from row `first` of each part on, in the same memory.

  The array given is then gone. `rows` may be the same array for several devices.
  """
  shape = (len(rows), len(rows[0]), *array.shape[2:])
  sent = jax.make_array_from_callback(shape, _sharding(), lambda index: rows[index[0].start or 0][None])
  # Waits, so that what is sent does not pile up on the device.
  return jax.block_until_ready(_set_own_rows()(array, sent, jnp.int32(first)))


@functools.cache
def _set_own_rows() -> Callable:
  def on_one(array, rows, first):
    return jax.lax.dynamic_update_slice_in_dim(array, rows, first, axis=1)

  own = PartitionSpec(_AXIS)
  specs = {'in_specs': (own, own, PartitionSpec()), 'out_specs': own}
  return jax.jit(jax.shard_map(on_one, mesh=_sharding().mesh, **specs), donate_argnums=0)


def with_own(function: Callable) -> Callable:
  """`function` of each device's own parts, on all of this process's devices at once, without a word to other processes.

  Args:
    function: of any trees of arrays without their leading device dimension -> a tree of arrays.
  Returns:
    function of trees of arrays [D, ...], as of `own_zeros` or `shard` -> arrays [D, ...], sharded likewise.
  """

  def on_one(*trees):
    # Not x[0]: a part may be nearly all of the memory, and squeezing copies nothing.
    return jax.tree.map(lambda x: x[None], function(*jax.tree.map(lambda x: jnp.squeeze(x, 0), trees)))

  own = PartitionSpec(_AXIS)
  return jax.jit(jax.shard_map(on_one, mesh=_sharding().mesh, in_specs=own, out_specs=own))


def unreplicate(tree: Any) -> Any:
  """One device's copy of a replicated tree, as NumPy arrays (which is also what several processes can save).

  Copies: on a CPU an array may be a view of memory that the next step, given the state to reuse, overwrites.
  """
  # [1, ...] is copied first and indexed by NumPy: indexing on the device compiles a program for every shape.
  return jax.tree.map(lambda leaf: np.array(leaf.addressable_shards[0].data, copy=True)[0], tree)


def unshard(tree: Any) -> Any:
  """[D, B/D, ...] on this process's devices -> NumPy [B, ...]."""
  return jax.tree.map(lambda leaf: np.asarray(leaf).reshape(-1, *leaf.shape[2:]), tree)


def stop_agreed(stop: bool) -> bool:
  """Whether all processes, which ask equally often, leave now; with one process, whether it was asked to (`stop`)."""
  if jax.process_count() == 1:
    return stop
  from jax.experimental import multihost_utils

  # Not the step, which begins anew with each stage: the processes agree on a number that is still to come.
  return multihost_utils.reached_preemption_sync_point(next(_asked))


def describe_devices() -> dict[str, int | str]:
  """What the run computes on."""
  return {
    'kind': jax.local_devices()[0].device_kind,
    'devices': jax.device_count(),
    'processes': jax.process_count(),
  }

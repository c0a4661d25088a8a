"""A corpus that the devices hold: read once, so that a step needs a plan of integers from the host and no pixels.

The crops of a plan are taken on the device by a compiled program of their own, ahead of the step. So the step is the
very program that it is for batches which the host reads, on the same bits, and no number depends on where a corpus is.

Where the plan is regional (`batches.RegionalPlan`), a device holds the regions alone that its share of a batch is of:
all devices together hold a corpus that is too large for one.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import psutil
import tqdm

from deepsentinel.train import parallel

MODES = ('never', 'auto', 'always')
# Of a device's free memory. The rest is for weights, batches and activations.
AUTO_SHARE = 0.5
_CHUNK_BYTES = 64 * 2**20

Arrays = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Source:
  """Records that a stage trains on, as the devices would hold them.

  Attributes:
    records: a `records.RecordSet`.
    parts: of each of this process's devices int [N], the record numbers that its share of plans names, ascending.
    fields: of the records, those whose pixels a batch holds.
    crop_px: edge of a crop.
    plans: start step -> endless batches without pixels; see `batches.training_batches`.
    required: whether a device that has too little memory is an error, not a reason to do without.
  """

  records: Any
  parts: tuple[np.ndarray, ...]
  fields: tuple[str, ...]
  crop_px: int
  plans: Callable[[int], Iterator[dict[str, np.ndarray]]] | None = None
  required: bool = False

  @classmethod
  def of(
    cls,
    records: Any,
    index: np.ndarray,
    fields: Sequence[str],
    crop_px: int,
    regions: Sequence[np.ndarray] = (),
    **options: Any,
  ) -> 'Source':
    """Of the records `index`, in any order, for every device, or of `regions`; scalars are left to the plans."""
    held = tuple(field for field in fields if field in records.fields)
    return cls(records, parts_of(regions or [np.asarray(index)]), held, crop_px, **options)

  @property
  def shared(self) -> bool:
    """Whether every device holds the same."""
    return all(part is self.parts[0] for part in self.parts)

  @property
  def length(self) -> int:
    """Records that there is place for on each device."""
    return max(map(len, self.parts))

  @property
  def nbytes(self) -> int:
    """Bytes that each device holds."""
    sizes = [(math.prod(f.shape) * np.dtype(f.dtype).itemsize) for f in map(self.records.fields.get, self.fields)]
    return self.length * sum(sizes)

  def start(self, step: int, progress: bool) -> tuple[Iterator[dict[str, np.ndarray]], Callable]:
    """(endless plans from `step` on, what places the batch of each on the devices), once the records are there."""
    assert self.plans is not None
    return self.plans(step), self.load(progress).place

  def load(self, progress: bool = True) -> 'Corpus':
    """Reads the records onto every device of this process; ValueError where they cannot be read."""
    arrays: Arrays = {}
    read = 1 if self.shared else len(self.parts)  # parts that are read, for the devices to hold
    bar = tqdm.tqdm(
      total=self.nbytes * read, desc=f'{self.records.split} to the device', unit='B', unit_scale=True, leave=False,
      disable=not progress,
    )  # fmt: skip
    with bar:
      for name in self.fields:
        tensor = self.records.fields[name]
        # [N, H, W * C]: channels beside each other, since some devices pad a short last dimension.
        shape = (self.length, tensor.shape[0], math.prod(tensor.shape[1:]))
        patch_bytes = math.prod(shape[1:]) * np.dtype(tensor.dtype).itemsize
        size = min(self.length, max(1, _CHUNK_BYTES // (read * patch_bytes)))
        array = parallel.own_zeros(shape, tensor.dtype)
        for start in range(0, self.length, size):
          first = min(start, self.length - size)  # the last chunk is as long as the others, and overlaps one
          array = parallel.set_own_rows(array, self._rows(name, first, (size, *shape[1:])), first)
          bar.update((min(start + size, self.length) - start) * patch_bytes * read)
        arrays[name] = array
    return Corpus(self, arrays)

  def _rows(self, name: str, first: int, shape: tuple[int, ...]) -> list[np.ndarray]:
    """Of each device, stored values [n, H, W * C] from its record `first` on; past its last one, that one again."""
    wanted = range(first, first + shape[0])
    parts = self.parts[:1] if self.shared else self.parts
    rows = [self.records.read(name, part[np.minimum(wanted, len(part) - 1)]).reshape(shape) for part in parts]
    return rows * len(self.parts) if self.shared else rows


def parts_of(regions: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
  """The record numbers that each of this process's devices draws from, ascending, where regions share batches equally.

  The global batch is [region 0's share, region 1's, ...] and again [device 0's, device 1's, ...]: a device draws from
  every region that its share meets, be there more regions than devices or fewer.
  """
  local = parallel.local_devices()
  devices, first = local * parallel.process_count(), local * parallel.process_index()
  if len(regions) == 1:
    return (np.unique(regions[0]),) * local
  own = [range(d * len(regions) // devices, -(-(d + 1) * len(regions) // devices)) for d in range(first, first + local)]
  return tuple(np.unique(np.concatenate([regions[r] for r in met])) for met in own)


class Corpus:
  """The records of a `Source` on the devices."""

  def __init__(self, source: Source, arrays: Arrays):
    self.source, self._arrays = source, arrays
    channels = {name: source.records.fields[name].shape[2:] for name in arrays}
    self._gather = parallel.with_own(functools.partial(gather, crop_px=source.crop_px, channels=channels))

  def place(self, plan: dict[str, np.ndarray]) -> tuple[Arrays, int]:
    """(the batch of a plan on this process's devices, as streaming would have sent it; patches in it)."""
    where = ('index', 'row', 'col')
    shares = np.array_split(plan['index'], len(self.source.parts))  # a device's each
    found = [np.searchsorted(*pair) for pair in zip(self.source.parts, shares, strict=True)]
    position = np.concatenate(found).astype(np.int32)
    own = parallel.shard({'index': position, 'row': plan['row'], 'col': plan['col']})
    scalars = parallel.shard({name: values for name, values in plan.items() if name not in where})
    return {**self._gather(self._arrays, own), **scalars}, position.size


def gather(arrays: Arrays, plan: Arrays, *, crop_px: int, channels: dict[str, tuple[int, ...]]) -> Arrays:
  """The stored batch of a plan, on one device.

  Args:
    arrays: field -> stored values [N, H, W * C].
    plan: 'index', 'row', 'col' int32 [B, V]: place in the arrays, upper-left pixel.
    crop_px: edge of a crop.
    channels: field -> (C,), or () of a label map, which is taken of the first view alone.
  Returns:
    field -> [B, V, crop, crop, C], of label maps [B, crop, crop]: as `batches.read_plan`.
  """
  batch = {}
  for name, array in arrays.items():
    width = math.prod(channels[name])
    index, row, col = (plan[key] if channels[name] else plan[key][:, 0] for key in ('index', 'row', 'col'))

    def crop(i, r, c, array=array, width=width):
      return jax.lax.dynamic_slice(array, (i, r, c * width), (1, crop_px, crop_px * width))

    # [B * V, 1, crop, crop * C]
    crops = jax.vmap(crop)(index.reshape(-1), row.reshape(-1), col.reshape(-1))
    batch[name] = crops.reshape(*index.shape, crop_px, crop_px, *channels[name])
  return batch


def choose(mode: str, sources: Iterable[tuple[str, Source]]) -> tuple[str, ...]:
  """Names of the stages whose records the devices are to hold.

  Args:
    mode: 'never'; 'auto': where an accelerator says how much memory it has, and all of a stage's records take no more
      than `AUTO_SHARE` of what is free; 'always'.
    sources: (stage, its records); several of one stage are held one after the other.
  Raises:
    ValueError: mode='always' and records that do not fit.
  """
  if mode == 'never':
    return ()
  needed: dict[str, int] = {}
  for name, source in sources:
    needed[name] = max(needed.get(name, 0), source.nbytes)
  kind, free = free_memory()
  if mode == 'auto':
    if parallel.on_cpu() or free is None:
      return ()
    return tuple(name for name, nbytes in needed.items() if nbytes <= AUTO_SHARE * free)
  for name, nbytes in needed.items():
    if free is not None and nbytes > free:
      raise ValueError(
        f"config.data.resident is 'always', but the patches of config.{name} take {nbytes / 1e9:,.3f} GB on each "
        f'device, and {kind} has {free / 1e9:,.3f} GB free for it. Pass --config.data.resident=auto, which streams '
        f'what does not fit, or never; no result depends on it.{_hint(name)}'
      )
  return tuple(needed)


def _hint(stage: str) -> str:
  devices = parallel.local_devices() * parallel.process_count()
  if stage != 'pretrain' or devices == 1:
    return ''
  return f' Or let each device hold a region, which is another law of drawing: --config.pretrain.regions={devices}.'


def free_memory() -> tuple[str, int | None]:
  """(what holds the corpus, bytes free for each device); None where a device does not say."""
  if parallel.on_cpu():
    return 'this machine', psutil.virtual_memory().available // jax.local_device_count()
  return jax.local_devices()[0].device_kind, parallel.free_bytes()

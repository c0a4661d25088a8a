"""Batches: first a plan of integers for the whole global batch, then the pixels of this process's part of it.

The plan of a step (which records, which crops, which neighbours) is a function of the seed and the step alone. So the
step is the whole state of the pipeline: a run that was killed goes on in the middle of an epoch with the very next
example, on any number of processes and threads. Grain calls the two functions and reads ahead.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from deepsentinel.data import neighbours as neighbours_lib

VIEWS = {'single': 1, 'labelled': 1, 'scene': 1, 'pair': 2, 'triplet': 3}
_ENDLESS = 2**60  # steps
_READ_AHEAD = 2  # batches; a triplet batch of 1,024 crops of 128 px is 1.4 GB

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Plan:
  """Which crops a batch is made of: record number and upper-left pixel, int32 [B, V] each."""

  index: np.ndarray
  row: np.ndarray
  col: np.ndarray

  def part(self, process_index: int, process_count: int) -> 'Plan':
    size = len(self.index) // process_count
    own = slice(process_index * size, (process_index + 1) * size)
    return Plan(self.index[own], self.row[own], self.col[own])


@dataclasses.dataclass(frozen=True)
class TrainingPlan:
  """The plan of every step of a training run; see `training_batches` for the meaning of the fields."""

  index: np.ndarray
  views: str
  batch_size: int
  offsets: tuple[int, int]
  seed: int
  neighbours: neighbours_lib.NeighbourSampler | None
  shift_px: Callable[[int], float] | None = None
  region: str = ''  # ends the names of its random streams

  def __call__(self, step: int) -> Plan:
    """The global batch of `step`, int32 [batch_size, V] each."""

    def rng(stream: str) -> np.random.Generator:
      return neighbours_lib.generator(self.seed, stream + self.region, step)

    anchor = self._anchors(step)  # [B]
    columns = [anchor]
    if self.views in ('pair', 'triplet'):
      near = anchor if self.neighbours is None else self.neighbours.draw_neighbour(anchor, rng('neighbour'))
      columns.append(near)
    if self.views == 'triplet' and self.neighbours is not None:
      columns.append(self.neighbours.draw_distant(anchor, rng('distant')))
    index = self.index[np.stack(columns, axis=1)]  # [B, V]
    least, furthest = self.offsets
    row, col = rng('crop').integers(least, furthest, (2, *index.shape), dtype=np.int32, endpoint=True)
    if self.shift_px is not None:
      most = min(round(float(self.shift_px(step))), furthest)
      shift = rng('shift').integers(-most, most, (2, len(index)), dtype=np.int32, endpoint=True)
      row[:, 1] = np.clip(row[:, 0] + shift[0], least, furthest)
      col[:, 1] = np.clip(col[:, 0] + shift[1], least, furthest)
    return Plan(index, row, col)

  def _anchors(self, step: int) -> np.ndarray:
    """int64 [B] positions in `index`: every epoch is a permutation of all, and batches run on across its end."""
    epoch, within = np.divmod(step * self.batch_size + np.arange(self.batch_size), len(self.index))
    return np.concatenate([self._order(int(e))[within[epoch == e]] for e in np.unique(epoch)])

  def _order(self, epoch: int) -> np.ndarray:
    # Drawn again for every step: of 100,000 records it takes 1 to 2 ms, beside the reading of a batch.
    return neighbours_lib.generator(self.seed, f'order{self.region}', epoch).permutation(len(self.index))


@dataclasses.dataclass(frozen=True)
class RegionalPlan:
  """The plan of every step where each region gives an equal, contiguous share of the batch, from itself alone."""

  regions: tuple[TrainingPlan, ...]

  def __call__(self, step: int) -> Plan:
    """The global batch of `step`: the regions' shares, one after another."""
    shares = [region(step) for region in self.regions]
    return Plan(*(np.concatenate([getattr(share, f.name) for share in shares]) for f in dataclasses.fields(Plan)))


def steps_per_epoch(records: int, batch_size: int) -> float:
  """Steps in which every record is an anchor once. Not a whole number where the batch does not divide the records."""
  return records / batch_size


def training_batches(
  records,
  *,
  views: str,
  batch_size: int,
  crop_px: int,
  seed: int,
  start_step: int = 0,
  index: Sequence[int] | np.ndarray | None = None,
  neighbours: neighbours_lib.NeighbourSampler | Sequence[neighbours_lib.NeighbourSampler] | None = None,
  shift_px: Callable[[int], float] | None = None,
  label_field: str = 'corine',
  process_index: int = 0,
  process_count: int = 1,
  threads: int = 4,
  fields: Sequence[str] | None = None,
  pixels: bool = True,
  regions: Sequence[np.ndarray] = (),
) -> Iterator[Batch]:
  """Endless batches of random crops: every record is the anchor once an epoch, in a new order each epoch.

  Args:
    records: a `records.RecordSet`.
    views: 'single': one crop; 'labelled': one crop and its labels; 'scene': one crop around the patch's centre (see
      `centred_offsets`) and the patch's own label; 'pair': anchor and neighbour, or two crops of one patch where
      `neighbours` is None; 'triplet': anchor, neighbour and distant patch.
    batch_size: examples over all processes; each process gets batch_size / process_count of them (B).
    crop_px: edge of a crop. Its row and column are drawn independently for every view.
    seed: of the order, the crops and the neighbours.
    start_step: the step of the first batch. Batch k of a run equals the first batch of a run from start_step=k.
    index: record numbers to train on; None for all.
    neighbours: sampler over the same records (over `index`, where given); with `regions` one for each of them.
    shift_px: step -> furthest that the second crop of a 'pair' of one patch lies from the first on either axis, in
      pixels; None: anywhere in the patch.
    label_field: of the records, whose crops 'labelled' batches hold; the scalar that 'scene' batches hold.
    process_index, process_count: which part of each global batch to read. The batch does not depend on the count.
    threads: batches read at one time, at most two; each is itself read on the record set's own threads.
    fields: sensors to read, of 's2' and 's1'; None for all that the records hold.
    pixels: False yields the plan alone: 'index', 'row', 'col' and the scalar of 'scene'.
    regions: record numbers of each, in place of `index`. Each gives an equal, contiguous share of every batch, and an
      example's other views are of its own region. An epoch is then one of each region.
  Yields:
    's2' uint16 [B, V, crop, crop, C2] and 's1' int16 [B, V, crop, crop, C1] in storage units; 'index', 'row', 'col'
    int32 [B, V]; with views='labelled' also `label_field` [B, crop, crop], with 'scene' [B].
  Raises:
    ValueError: unknown views; a crop larger than the patch; a batch that the processes or the regions do not divide;
      no records; no labels for 'labelled'; no sampler, or one of other records, for 'triplet'.
  """
  if views not in VIEWS:
    raise ValueError(f'Unknown views {views!r}. Known: {", ".join(VIEWS)}.')
  if regions and batch_size % len(regions):
    raise ValueError(f'Batch size {batch_size} does not divide over {len(regions)} regions.')
  parts = [_checked_index(records, numbers) for numbers in regions] or [_checked_index(records, index)]
  fields = training_fields(records, views, label_field, fields)
  if not pixels:
    fields = tuple(field for field in fields if field not in records.fields)
  _check_sizes(records, batch_size, crop_px, process_index, process_count)
  if start_step < 0:
    raise ValueError(f'start_step is {start_step}; the first step is 0.')
  if views == 'triplet' and neighbours is None:
    raise ValueError(
      "views='triplet' needs a sampler: pass neighbours=NeighbourSampler.from_records(records.table, ...)."
    )
  samplers = list(neighbours) if isinstance(neighbours, Sequence) else [neighbours] * len(parts)
  for numbers, sampler in zip(parts, samplers, strict=True):
    if sampler is not None and len(sampler) != len(numbers):
      raise ValueError(
        f'The neighbour sampler covers {len(sampler)} records, the batches {len(numbers)}. Build it from the same '
        'record numbers: NeighbourSampler.from_records(records.table, index, ...).'
      )
  most = records.patch_px - crop_px
  offsets = centred_offsets(most, crop_px) if views == 'scene' else (0, most)
  plan = RegionalPlan(
    tuple(
      TrainingPlan(
        numbers, views, batch_size // len(parts), offsets, seed, sampler, shift_px, f' {i}' if regions else ''
      )
      for i, (numbers, sampler) in enumerate(zip(parts, samplers, strict=True))
    )
  )

  def read(step: int) -> Batch:
    return read_plan(records, plan(step).part(process_index, process_count), crop_px, fields)

  return _prefetched(_ENDLESS, read, threads, start_step)


def evaluation_batches(
  records,
  *,
  batch_size: int,
  crop_px: int,
  index: Sequence[int] | np.ndarray | None = None,
  fields: Sequence[str] | None = None,
  process_index: int = 0,
  process_count: int = 1,
  threads: int = 4,
  centred: bool = False,
) -> Iterator[Batch]:
  """One pass over fixed crops that cover every patch, record after record: of 256 px, the four quadrants of 128.

  Where the crop does not divide the patch, the last crop of a row or column is moved inwards and overlaps the one
  before it; 'count' then holds only the pixels that no earlier crop has, so that every pixel counts exactly once.

  Args:
    records: a `records.RecordSet`.
    batch_size: crops over all processes; each process gets batch_size / process_count of them (B).
    crop_px: edge of a crop.
    index: record numbers, in the order wanted; None for all.
    fields: of 's2', 's1', 'corine', 'osm' and the scalars; None for the sensors and CORINE, as far as the records
      hold them.
    process_index, process_count: which part of each global batch to read.
    threads: batches read at one time, at most two.
    centred: one crop a patch, from its middle, in place of the covering ones.
  Yields:
    's2', 's1', 'index', 'row', 'col' as `training_batches` with V = 1; 'corine', 'osm' [B, crop, crop]; scalars [B];
    'mask' bool [B], False where the last batch is padded (with its first crop); 'count' bool [B, crop, crop], the
    pixels to score, False throughout in padding.
  Raises:
    ValueError: as `training_batches`.
  """
  index = _checked_index(records, index)
  fields = _checked_fields(records, fields, 'corine' if fields is None and records.labelled else '')
  _check_sizes(records, batch_size, crop_px, process_index, process_count)
  starts, first_own = tiling(records.patch_px, crop_px)
  if centred:
    starts, first_own = np.array([(records.patch_px - crop_px) // 2], np.int32), np.zeros(1, np.int32)
  tile_row, tile_col = (t.ravel() for t in np.meshgrid(np.arange(len(starts)), np.arange(len(starts)), indexing='ij'))
  total = len(index) * len(tile_row)

  def read(step: int) -> Batch:
    wanted = step * batch_size + np.arange(batch_size)
    mask = wanted < total
    number, tile = np.divmod(np.where(mask, wanted, wanted[0]), len(tile_row))
    own = slice(process_index * (batch_size // process_count), (process_index + 1) * (batch_size // process_count))
    number, tile, mask = number[own], tile[own], mask[own]
    row, col = tile_row[tile], tile_col[tile]
    plan = Plan(index[number][:, None], starts[row][:, None], starts[col][:, None])  # [B, 1]
    pixel = np.arange(crop_px)
    count_row, count_col = (pixel >= first_own[t][:, None] for t in (row, col))  # [B, crop]
    batch = read_plan(records, plan, crop_px, fields)
    batch['mask'] = mask
    batch['count'] = mask[:, None, None] & count_row[:, :, None] & count_col[:, None, :]
    return batch

  return _prefetched(-(-total // batch_size), read, threads)


def training_fields(records, views: str, label_field: str, fields: Sequence[str] | None = None) -> tuple[str, ...]:
  """The fields that a batch of `training_batches` holds beside its plan; ValueError for one that is not there."""
  return _checked_fields(records, fields, label_field if views in ('labelled', 'scene') else '')


def crops_per_patch(patch_px: int, crop_px: int) -> int:
  """Crops that `evaluation_batches` takes of each patch."""
  return (-(-patch_px // crop_px)) ** 2


def centred_offsets(most: int, crop_px: int) -> tuple[int, int]:
  """(least, furthest) offset of a crop whose inner half holds the patch's centre; `most` is the furthest there is."""
  return max(0, most // 2 - crop_px // 4), min(most, most // 2 + crop_px // 4)


def tiling(patch_px: int, crop_px: int) -> tuple[np.ndarray, np.ndarray]:
  """Crops that cover a patch along one axis.

  Returns:
    starts int32 [T], first pixel of each crop; first_own int32 [T], the first pixel within the crop that no earlier
    crop has.
  """
  wanted = np.arange(0, patch_px, crop_px, dtype=np.int32)
  starts = np.minimum(wanted, patch_px - crop_px).astype(np.int32)
  return starts, wanted - starts


def read_plan(records, plan: Plan, crop_px: int, fields: Sequence[str]) -> Batch:
  """The pixels of a plan: sensors as [B, V, crop, crop, C]; of the first view labels [B, crop, crop], scalars [B]."""
  views = plan.index.shape[1]
  batch = {'index': plan.index, 'row': plan.row, 'col': plan.col}
  for field in fields:
    if field not in records.fields:
      batch[field] = records.table[field].to_numpy()[plan.index[:, 0]]
    elif records.fields[field].shape[2:]:
      flat = [part.reshape(-1) for part in (plan.index, plan.row, plan.col)]
      pixels = records.read_crops(field, *flat, crop_px)  # [B * V, crop, crop, C]
      batch[field] = pixels.reshape(-1, views, *pixels.shape[1:])
    else:
      batch[field] = records.read_crops(field, plan.index[:, 0], plan.row[:, 0], plan.col[:, 0], crop_px)
  return batch


def _prefetched(steps: int, read, threads: int, start_step: int = 0) -> Iterator[Batch]:
  import grain  # here, because grain imports JAX wherever JAX is installed

  parallel = max(1, min(threads, _READ_AHEAD))
  options = grain.ReadOptions(num_threads=parallel, prefetch_buffer_size=_READ_AHEAD)
  iterator = iter(grain.MapDataset.range(steps).map(read).to_iter_dataset(options))
  iterator.set_state({'next_index': start_step})
  return iterator


def _checked_index(records, index: Sequence[int] | np.ndarray | None) -> np.ndarray:
  found = np.arange(len(records), dtype=np.int32) if index is None else np.asarray(index)
  if found.size == 0:
    raise ValueError(
      f'No records to read: split {records.split!r} of {records.directory} holds {len(records)}, '
      'and the subset asked for is empty.'
    )
  if found.ndim != 1 or found.dtype.kind not in 'iu':
    raise ValueError(f'index is a list of record numbers; found {found.dtype} {found.shape}.')
  if found.min() < 0 or found.max() >= len(records):
    raise ValueError(f'index holds record numbers {found.min()} to {found.max()}; allowed are 0 to {len(records) - 1}.')
  return found.astype(np.int32)


def _checked_fields(records, fields: Sequence[str] | None, label_field: str) -> tuple[str, ...]:
  found = tuple(f for f in ('s2', 's1') if f in records.fields) if fields is None else tuple(fields)
  if label_field and label_field not in found:
    found += (label_field,)
  missing = [f for f in found if f not in records.fields and f not in records.table]
  if missing:
    hint = ' Labels are in the record sets of deepsentinel_labelled.' if label_field in missing else ''
    raise ValueError(f'{records.directory} has no {", ".join(missing)}; it has {", ".join(records.fields)}.{hint}')
  return found


def nearest_sizes(batch_size: int, parts: int) -> str:
  """The sizes just below and above that divide over the parts, for a message."""
  below = max(batch_size // parts, 0) * parts
  return ', '.join(str(size) for size in (below, below + parts) if size > 0)


def _check_sizes(records, batch_size: int, crop_px: int, process_index: int, process_count: int) -> None:
  if not 0 < crop_px <= records.patch_px:
    raise ValueError(
      f'crop_px={crop_px} does not fit the patches of {records.patch_px} px. '
      f'Set --config.data.crop_px to {records.patch_px} or less.'
    )
  if not 0 <= process_index < process_count:
    raise ValueError(f'process_index={process_index} is not one of {process_count} processes.')
  if batch_size < 1 or batch_size % process_count:
    raise ValueError(
      f'Batch size {batch_size} does not divide over {process_count} processes; nearest that do: '
      f'{nearest_sizes(batch_size, process_count)}.'
    )

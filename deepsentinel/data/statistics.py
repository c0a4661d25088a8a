"""Band-wise mean and standard deviation of a corpus, over its valid pixels, computed once and kept beside the records.

Stored pixels are integers, so that their sums and sums of squares are integers too. They are kept exactly (a float64
holds the sum of a chunk's squares without rounding, Python's integers the rest): the result does not depend on the
order, the chunks or the threads in which the patches were read.
"""

import dataclasses
import hashlib
import json
import math
import os
import pathlib
import time
from collections.abc import Mapping, Sequence

import numpy as np
from absl import logging

from deepsentinel import sensors
from deepsentinel.data import stores

_CHUNK_PIXELS = 1 << 20  # 2**20 squares of 16-bit numbers sum to less than 2**52: exact in float64
_BLOCK_PIXELS = 1 << 12  # stays in the processor's cache: five times faster than a chunk at once
_SAVE_SECONDS = 20.0
_FORMAT = 1


@dataclasses.dataclass(frozen=True)
class BandStatistics:
  """Statistics of valid pixels, band by band.

  Attributes:
    bands: names in the order of the records' channels.
    mean, std: Sentinel-2 in reflectance (0 to about 1), Sentinel-1 in dB.
    count: valid pixels.
  """

  bands: tuple[str, ...]
  mean: tuple[float, ...]
  std: tuple[float, ...]
  count: tuple[int, ...]

  def to_dict(self) -> dict:
    return {field.name: list(getattr(self, field.name)) for field in dataclasses.fields(self)}

  @classmethod
  def from_dict(cls, d: Mapping) -> 'BandStatistics':
    return cls(*(tuple(d[field.name]) for field in dataclasses.fields(cls)))

  def select(self, bands: Sequence[str]) -> 'BandStatistics':
    """The statistics of `bands`, in that order; ValueError names a band that is not there."""
    missing = [b for b in bands if b not in self.bands]
    if missing:
      raise ValueError(f'No statistics of band(s) {missing}; there are those of {list(self.bands)}.')
    at = [self.bands.index(b) for b in bands]
    return BandStatistics(*(tuple(getattr(self, f.name)[i] for i in at) for f in dataclasses.fields(self)))

  def warn_if_far(self, corpus: 'BandStatistics') -> str:
    """Warns if a band of `corpus` has its mean more than one of these standard deviations away.

    Args:
      corpus: statistics of the records at hand; these here are the ones that the model was trained with.
    Returns:
      The warning that was logged, with the likeliest cause: offset, units or band order; '' if all is near.
    """
    shared = [b for b in self.bands if b in corpus.bands]
    ours, theirs = self.select(shared), corpus.select(shared)
    far = [i for i, (m, s, c) in enumerate(zip(ours.mean, ours.std, theirs.mean, strict=True)) if abs(c - m) > s]
    if not far:
      return ''
    named = ', '.join(
      f'{shared[i]} (trained with mean {ours.mean[i]:.4g} and standard deviation {ours.std[i]:.3g}, '
      f'here mean {theirs.mean[i]:.4g})'
      for i in far
    )
    message = (
      f'Band mean(s) more than one standard deviation from what the model was trained with: {named}. '
      f'{_suspicion(ours, theirs, [shared[i] for i in far])}'
    )
    logging.warning(message)
    return message


def _suspicion(ours: BandStatistics, theirs: BandStatistics, far: list[str]) -> str:
  """The likeliest cause of means that lie apart."""
  optical_far = any(sensors.BANDS[b].sensor == 'sentinel2' for b in far)
  difference = likely_offset(ours, theirs)
  if optical_far and difference:
    return (
      f'All Sentinel-2 bands differ by about {difference:+.2f}: check the offset of processing baseline '
      '04.00 (+1000 digital numbers), which one of the two corpora has and the other had removed.'
    )
  order = better_order(ours, theirs)
  if order:
    return f'The means fit far better in another band order: check whether the bands were written as {order}.'
  if not optical_far:
    return 'Check the units of Sentinel-1 (dB, power, amplitude or scaled integers) and which product it is.'
  return (
    'Check the offset (+1000 digital numbers of baseline 04.00), the units and the band order of this corpus; '
    'a very different region or season does the same.'
  )


def likely_offset(ours: BandStatistics, theirs: BandStatistics) -> float:
  """By how much all Sentinel-2 bands of `theirs` lie above those of `ours`, if it is about +-0.1; else 0."""
  s2 = [i for i, b in enumerate(ours.bands) if sensors.BANDS[b].sensor == 'sentinel2']
  difference = (np.array(theirs.mean) - np.array(ours.mean))[s2]
  offset = sensors.S2_OFFSET_DN / sensors.S2_SCALE
  if not s2 or abs(abs(np.median(difference)) - offset) >= 0.04 or np.ptp(difference) >= 0.06:
    return 0.0
  return float(np.median(difference))


def better_order(ours: BandStatistics, theirs: BandStatistics) -> list[str]:
  """The bands of the trained model that the channels at hand resemble, one each; [] if they do as they stand."""
  from scipy.optimize import linear_sum_assignment

  result = list(ours.bands)
  for sensor in sensors.SENSORS:
    at = [i for i, b in enumerate(ours.bands) if sensors.BANDS[b].sensor == sensor]
    mean, std, found = (np.array([t[i] for i in at]) for t in (ours.mean, ours.std, theirs.mean))
    cost = np.abs(found[:, None] - mean) / np.maximum(std, 1e-9)  # [channel of the corpus, band of the model]
    channel, band = linear_sum_assignment(cost)
    if len(at) > 1 and cost.trace() > 3 * cost[channel, band].sum() + 1 and cost[channel, band].max() < 1:
      for c, b in zip(channel, band, strict=True):
        result[at[c]] = ours.bands[at[b]]
  return [] if result == list(ours.bands) else result


class _Sums:
  """Exact count, sum and sum of squares of the stored integers of each band."""

  def __init__(self, bands: int):
    self.count = [0] * bands
    self.total = [0] * bands
    self.squares = [0] * bands

  def add(self, first_band: int, pixels: np.ndarray, nodata: int) -> None:
    """Adds stored integers [n, C] to bands first_band to first_band + C."""
    for start in range(0, len(pixels), _CHUNK_PIXELS):
      chunk = pixels[start : start + _CHUNK_PIXELS]
      exact = np.zeros((3, chunk.shape[1]))  # count, sum, sum of squares of each band: integers below 2**53
      for at in range(0, len(chunk), _BLOCK_PIXELS):
        exact += _block_sums(chunk[at : at + _BLOCK_PIXELS], nodata)
      for kept, added in zip((self.count, self.total, self.squares), exact.tolist(), strict=True):
        for c, number in enumerate(added, start=first_band):
          kept[c] += int(number)

  def mean_and_std(self, band: int, scale: int) -> tuple[float, float]:
    n, total, squares = self.count[band], self.total[band], self.squares[band]
    if n == 0:
      return 0.0, 0.0
    # Integers to the end: the difference of two large squares is where floats would lose their digits.
    return total / n / scale, math.sqrt((n * squares - total * total) / (n * n)) / scale


def _block_sums(block: np.ndarray, nodata: int) -> np.ndarray:
  """float64 [3, C]: count, sum and sum of squares of the valid numbers of a block [n, C]."""
  valid = block != nodata
  values = block.astype(np.float64)
  if valid.all():
    count = np.full(block.shape[1], len(block))
  else:
    count = valid.sum(axis=0)
    values *= valid
  return np.stack([count, np.ones(len(values)) @ values, np.einsum('nc,nc->c', values, values)])


def band_statistics(
  records, index: np.ndarray | None = None, progress: bool = True, bands: Sequence[str] | None = None
) -> BandStatistics:
  """Mean and standard deviation of every band over valid pixels, in one pass over the patches.

  The result is kept in a JSON file beside the records (of a URL, in `records.kept`), named by the split and a hash of
  the patches' ids. A pass that was interrupted goes on where it last saved. Where the folder cannot be written, nothing
  is kept. Of a URL, the file that was published with the records is taken where there is one.

  Args:
    records: a `records.RecordSet`.
    index: record numbers to use; None for all.
    progress: show a progress bar.
    bands: which are needed; None for all that the records hold.
  Returns:
    BandStatistics of `bands`, in that order.
  Raises:
    ValueError: no records, or a band without a single valid pixel (names it).
  """
  index = np.arange(len(records)) if index is None else np.asarray(index)
  if index.size == 0:
    raise ValueError(f'No records to compute band statistics of (split {records.split!r} holds {len(records)}).')
  index = np.sort(index)
  path = _cache_path(records, index)
  kept = _read_json(path)
  if not kept.get('complete') and isinstance(records.directory, str):
    kept = _published(records.directory, path.name) or kept
  if kept.get('complete'):
    statistics = BandStatistics.from_dict(kept['statistics'])
  else:
    statistics = _of_sums(records.spec, _accumulate(records, index, path, kept, progress))
    _write_json(path, {'complete': True, 'statistics': statistics.to_dict(), 'patches': int(index.size)})
  chosen = statistics.select(records.spec.bands if bands is None else bands)
  empty = [b for b, n in zip(chosen.bands, chosen.count, strict=True) if n == 0]
  if empty:
    raise ValueError(
      f'Band(s) {", ".join(empty)} have no valid pixel in the {index.size} patches of {records.directory} '
      f'(split {records.split!r}). Leave them out with --config.data.bands, or sample the corpus again.'
    )
  return chosen


def _of_sums(spec: sensors.SensorSpec, sums: _Sums) -> BandStatistics:
  scale = [sensors.S2_SCALE] * len(spec.s2_bands) + [sensors.S1_SCALE] * len(spec.s1_bands)
  mean, std = zip(*(sums.mean_and_std(i, scale[i]) for i in range(len(spec.bands))), strict=True)
  return BandStatistics(spec.bands, mean, std, tuple(sums.count))


def _accumulate(records, index: np.ndarray, path: pathlib.Path, kept: dict, progress: bool) -> _Sums:
  from tqdm import tqdm

  spec = records.spec
  sums = _Sums(len(spec.bands))
  done = kept.get('patches', 0)
  if done:
    sums.count, sums.total, sums.squares = kept['count'], kept['total'], kept['squares']
  step = max(1, _CHUNK_PIXELS // records.patch_px**2)
  saved = time.monotonic()
  with tqdm(total=index.size, initial=done, desc='band statistics', unit='patch', disable=not progress) as bar:
    for start in range(done, index.size, step):
      part = index[start : start + step]
      for field, first_band, nodata in (('s2', 0, sensors.S2_NODATA), ('s1', len(spec.s2_bands), sensors.S1_NODATA)):
        if field in records.fields:
          pixels = records.read(field, part)  # [n, H, W, C]
          sums.add(first_band, pixels.reshape(-1, pixels.shape[-1]), nodata)
      bar.update(part.size)
      if time.monotonic() - saved > _SAVE_SECONDS:
        state = {'count': sums.count, 'total': sums.total, 'squares': sums.squares}
        _write_json(path, {'complete': False, 'patches': int(start + part.size), **state})
        saved = time.monotonic()
  return sums


def _cache_path(records, index: np.ndarray) -> pathlib.Path:
  """The file for these patches of these records; any change of ids, bands or corpus makes another one."""
  key = {
    'format': _FORMAT,
    'split': records.split,
    'patch_px': records.patch_px,
    'spec': records.spec.to_dict(),
    'corpus': records.card,
    'ids': [str(i) for i in records.table['id'].to_numpy()[index]],
  }
  digest = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()[:16]
  return pathlib.Path(records.kept) / f'band_statistics-{records.split}-{digest}.json'


def _published(url: str, name: str) -> dict:
  """Whole statistics that were published beside records; {} without."""
  try:
    found = json.loads(stores.read_file(url, name) or b'{}')
  except json.JSONDecodeError as error:
    logging.warning('Band statistics are computed anew: %s of %s is damaged (%s).', name, stores.plain(url), error)
    return {}
  return found if found.get('complete') else {}


def _read_json(path: pathlib.Path) -> dict:
  try:
    return json.loads(path.read_text())
  except FileNotFoundError:
    return {}
  except (OSError, ValueError) as error:
    logging.warning('Band statistics are computed again: %s cannot be read (%s).', path, error)
    return {}


def _write_json(path: pathlib.Path, content: dict) -> None:
  part = path.with_name(f'{path.name}.{os.getpid()}.part')
  try:
    part.write_text(json.dumps(content, indent=1))
    os.replace(part, path)
  except OSError as error:
    logging.warning('Band statistics are not kept: %s cannot be written (%s).', path, error)

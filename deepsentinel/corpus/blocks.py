"""Twelve-day blocks: the corpus is spread evenly over the year in steps of the satellites' common repeat cycle."""

import dataclasses
import datetime

import numpy as np

BLOCK_DAYS = 12  # one Sentinel-1 satellite's repeat cycle; with two Sentinel-2 satellites every place is seen twice
_STREAM = 0xB10C


@dataclasses.dataclass(frozen=True)
class Block:
  """Half-open: start <= time < end, UTC."""

  start: datetime.datetime
  end: datetime.datetime

  @property
  def days(self) -> float:
    return (self.end - self.start) / datetime.timedelta(days=1)


def parse_date(text: str, name: str) -> datetime.datetime:
  """Midnight UTC of an ISO date; ValueError names the setting."""
  try:
    return datetime.datetime.combine(datetime.date.fromisoformat(text), datetime.time(), datetime.UTC)
  except (TypeError, ValueError):
    raise ValueError(f'{name} must be a date like 2018-01-31; found {text!r}.') from None


def period_blocks(start: str, end: str) -> list[Block]:
  """The period from `start` up to, not including, `end`, in blocks of 12 days; the last one holds what is left.

  2018-01-01 to 2019-01-05, the paper's labelled set, is 30 blocks of 12 days and one of 9.

  Raises:
    ValueError: not ISO dates, or nothing between them.
  """
  first, last = parse_date(start, 'period.start'), parse_date(end, 'period.end')
  if first >= last:
    raise ValueError(f'The period is empty: period.start {start} is not before period.end {end}.')
  step = datetime.timedelta(days=BLOCK_DAYS)
  blocks = []
  while first < last:
    blocks.append(Block(first, min(first + step, last)))
    first += step
  return blocks


def draw_block(blocks: list[Block], rng: np.random.Generator) -> int:
  """One block, each with a probability proportional to its days."""
  days = np.array([b.days for b in blocks])
  return int(rng.choice(len(blocks), p=days / days.sum()))


def assign_blocks(blocks: list[Block], n: int, seed: int) -> np.ndarray:
  """int64 [n]: the block of each point, points proportional to days (largest remainders), in an order drawn by seed.

  In a drawn order, so that the first part of a corpus is spread over the year as well.
  """
  days = np.array([b.days for b in blocks])
  share = n * days / days.sum()
  count = np.floor(share).astype(np.int64)
  rest = n - count.sum()
  count[np.argsort(-(share - count), kind='stable')[:rest]] += 1
  return np.random.default_rng([seed, _STREAM]).permutation(np.repeat(np.arange(len(blocks)), count))

"""Which Sentinel-1 and Sentinel-2 scenes go together, and the draw of one such pair for a patch."""

import dataclasses
import datetime
import re
from collections.abc import Sequence

import numpy as np
import shapely

from deepsentinel.corpus import blocks
from deepsentinel.sources import base

_STREAM = 0x9A12
_DAY = datetime.timedelta(days=1)
# Products cut from one slice of a Sentinel-1 data take start and stop within three seconds of each other; the next
# slice of the same pass follows 25 seconds later.
_SAME_SLICE = datetime.timedelta(seconds=6)
_S1_NAME = re.compile(
  r'(?P<mission>S1[A-D])_(?P<mode>IW|EW|S[1-6]|WV)_(?P<type>[A-Z]{3})[HMF_]_[0-9A-Z]{4}'
  r'_(?P<start>\d{8}T\d{6})_(?P<stop>\d{8}T\d{6})_(?P<orbit>\d{6})',
  re.IGNORECASE,
)
_S2_NAME = re.compile(
  r'(?P<mission>S2[A-D])_MSI(?P<level>L1C|L2A)_(?P<time>\d{8}T\d{6})(_N(?P<baseline>\d{4}))?_R(?P<orbit>\d{3})'
  r'(_T(?P<tile>\d{2}[A-Z]{3}))?',
  re.IGNORECASE,
)
_S1_TYPE_ORDER = ('GRD', 'SLC', 'ETA', 'RAW')


def _stamp(text: str) -> datetime.datetime:
  return datetime.datetime.strptime(text.upper(), '%Y%m%dT%H%M%S').replace(tzinfo=datetime.UTC)


def deduplicate(scenes: Sequence[base.Scene]) -> list[base.Scene]:
  """One entry per acquisition, in order of (time, id).

  A Sentinel-1 slice listed as SLC, GRD and GRD-COG (or ETA, RAW) is one scene: products of the same satellite and
  absolute orbit whose middles lie within six seconds; the GRD stays, rather than its COG copy. A Sentinel-2 tile
  listed at several levels or baselines is one scene: the L2A of the newest baseline stays. Names that follow neither
  convention are told apart by their id.
  """
  chosen: dict[tuple, tuple[tuple, base.Scene]] = {}
  slices: dict[tuple, list[datetime.datetime]] = {}
  # The best product of a slice comes first and gives the slice its middle.
  for rank, scene in sorted(((_rank(s), s) for s in scenes), key=lambda pair: (pair[0], pair[1].id)):
    key: tuple
    if scene.sensor == 'sentinel1' and (name := _S1_NAME.search(scene.id)):
      start, stop = _stamp(name['start']), _stamp(name['stop'])
      middle = start + (stop - start) / 2
      group = (name['mission'].upper(), name['mode'].upper(), name['orbit'])
      middles = slices.setdefault(group, [])
      same = next((m for m in middles if abs(m - middle) <= _SAME_SLICE), None)
      if same is None:
        middles.append(middle)
        same = middle
      key = (*group, same)
    elif scene.sensor == 'sentinel2' and (name := _S2_NAME.search(scene.id)) and name['tile']:
      key = (name['mission'].upper(), name['time'].upper(), name['orbit'], name['tile'].upper())
    else:
      key = (scene.sensor, scene.id)
    chosen.setdefault(key, (rank, scene))
  return sorted((scene for _, scene in chosen.values()), key=lambda s: (s.time, s.id))


def _rank(scene: base.Scene) -> tuple:
  """Smaller is better among products of one acquisition."""
  if scene.sensor == 'sentinel1' and (name := _S1_NAME.search(scene.id)):
    product = name['type'].upper()
    order = _S1_TYPE_ORDER.index(product) if product in _S1_TYPE_ORDER else len(_S1_TYPE_ORDER)
    return (order, 'COG' in scene.id.upper())
  if scene.sensor == 'sentinel2' and (name := _S2_NAME.search(scene.id)):
    return (0 if name['level'].upper() == 'L2A' else 1, -int(name['baseline'] or 0))
  return (0, 0)


def covers(scene: base.Scene, grid: base.PatchGrid) -> bool:
  """Whether the scene's footprint holds the whole densified outline of the grid, also across the antimeridian."""
  return bool(shapely.covers(scene.footprint, base.split_antimeridian(grid.outline_lonlat())))


def gap(a: base.Scene, b: base.Scene) -> datetime.timedelta:
  """Time between two acquisitions; whole calendar days where a source knows only the date ('date_only')."""
  if a.metadata.get('date_only') or b.metadata.get('date_only'):
    return abs(a.time.date() - b.time.date())
  return abs(a.time - b.time)


@dataclasses.dataclass(frozen=True)
class Pair:
  """The scenes of a patch; a sensor the source does not have is None."""

  s2: base.Scene | None
  s1: base.Scene | None

  @property
  def scenes(self) -> dict[str, base.Scene]:
    named = {'sentinel2': self.s2, 'sentinel1': self.s1}
    return {sensor: scene for sensor, scene in named.items() if scene is not None}

  @property
  def gap_hours(self) -> float:
    if self.s2 is None or self.s1 is None:
      return float('nan')
    return gap(self.s2, self.s1) / datetime.timedelta(hours=1)


def find_pairs(
  source: base.ImagerySource, grid: base.PatchGrid, block: blocks.Block, max_gap_days: float
) -> list[Pair]:
  """Every pair of scenes that covers the patch: Sentinel-2 within the block, Sentinel-1 within the gap, inclusive.

  A source of one sensor gives 'pairs' of one scene within the block.
  """
  outline = base.split_antimeridian(grid.outline_lonlat())
  most = max_gap_days * _DAY

  def covering(sensor: str, start: datetime.datetime, end: datetime.datetime) -> list[base.Scene]:
    return deduplicate([s for s in source.search(sensor, outline, start, end) if covers(s, grid)])

  if len(source.spec.sensors) == 1:
    scenes = covering(source.spec.sensors[0], block.start, block.end)
    return [Pair(s, None) if s.sensor == 'sentinel2' else Pair(None, s) for s in scenes]
  optical = covering('sentinel2', block.start, block.end)
  if not optical:
    return []
  # A day more on either side for sources that know only dates; `gap` decides.
  radar = covering('sentinel1', optical[0].time - most - _DAY, optical[-1].time + most + _DAY)
  return [Pair(s2, s1) for s2 in optical for s1 in radar if gap(s2, s1) <= most]


def draw_pair(
  source: base.ImagerySource,
  grid: base.PatchGrid,
  block: blocks.Block,
  *,
  max_gap_days: float,
  seed: int,
  number: int,
  attempt: int = 0,
) -> Pair | None:
  """One of the patch's pairs, each with the same probability; None where there is none.

  The draw depends on (seed, number of the point, attempt) alone.

  Args:
    source: where scenes are searched.
    grid: the patch.
    block: the days the Sentinel-2 scene comes from; Sentinel-1 may lie outside.
    max_gap_days: most days between the two timestamps, inclusive.
  """
  pairs = find_pairs(source, grid, block, max_gap_days)
  if not pairs:
    return None
  return pairs[int(np.random.default_rng([seed, _STREAM, number, attempt]).integers(len(pairs)))]

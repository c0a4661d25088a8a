"""Which Sentinel-1 and Sentinel-2 scenes go together, and the draw of one such pair for a patch."""

import dataclasses
import datetime
import functools
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import shapely

from deepsentinel.corpus import blocks
from deepsentinel.sources import base

_STREAM = 0x9A12
_DAY = datetime.timedelta(days=1)
# Products cut from one slice of a Sentinel-1 data take start and stop within three seconds of each other; the next
# slice of the same pass follows 25 seconds later.
_SAME_SLICE = datetime.timedelta(seconds=6)
_OTHER_GROUND = 0.05  # of a footprint; two baselines of one product draw it a little differently
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


class _Product(NamedTuple):
  """What the name of a product says of it.

  Attributes:
    rank: smaller is better among products of one acquisition.
    acquisition: what tells it apart; of Sentinel-1 all but the time.
    middle: of a Sentinel-1 slice; None of any other.
  """

  rank: tuple
  acquisition: tuple
  middle: datetime.datetime | None


@functools.lru_cache(maxsize=1 << 18)
def _product(sensor: str, scene_id: str) -> _Product:
  """Read once a scene, as one covers thousands of patches."""
  name = (_S1_NAME if sensor == 'sentinel1' else _S2_NAME).search(scene_id)
  own = (sensor, scene_id)
  if name is None:
    return _Product((0, 0), own, None)
  if sensor == 'sentinel1':
    product = name['type'].upper()
    order = _S1_TYPE_ORDER.index(product) if product in _S1_TYPE_ORDER else len(_S1_TYPE_ORDER)
    start, stop = _stamp(name['start']), _stamp(name['stop'])
    acquisition = (name['mission'].upper(), name['mode'].upper(), name['orbit'])
    return _Product((order, 'COG' in scene_id.upper()), acquisition, start + (stop - start) / 2)
  baseline = int(name['baseline'] or 0)
  # 9999 is of none of ESA's: whatever has one is better known.
  rank = (0 if name['level'].upper() == 'L2A' else 1, 0 if baseline >= 9900 else -baseline)
  if not name['tile']:
    return _Product(rank, own, None)
  return _Product(rank, (name['mission'].upper(), name['time'].upper(), name['orbit'], name['tile'].upper()), None)


def _stamp(text: str) -> datetime.datetime:
  return datetime.datetime.fromisoformat(f'{text.upper()}+00:00')


def deduplicate(scenes: Sequence[base.Scene], *, parts: bool = False) -> list[base.Scene]:
  """One entry per acquisition, in order of (time, id).

  A Sentinel-1 slice listed as SLC, GRD and GRD-COG (or ETA, RAW) is one scene: products of the same satellite and
  absolute orbit whose middles lie within six seconds; the GRD stays, rather than its COG copy. A Sentinel-2 tile
  listed at several levels or baselines is one scene: the L2A of the newest baseline stays. Names that follow neither
  convention are told apart by their id.

  Args:
    scenes: of one sensor or both.
    parts: of a Sentinel-2 tile also what shows other ground stays, since one may come in two products.
  """
  chosen: dict[tuple, list[base.Scene]] = {}
  slices: dict[tuple, list[datetime.datetime]] = {}
  products = [(_product(scene.sensor, scene.id), scene) for scene in scenes]
  # The best product of a slice comes first and gives the slice its middle.
  for product, scene in sorted(products, key=lambda pair: (pair[0].rank, pair[1].id)):
    key = product.acquisition
    if product.middle is not None:
      middles = slices.setdefault(key, [])
      same = next((m for m in middles if abs(m - product.middle) <= _SAME_SLICE), None)
      if same is None:
        middles.append(product.middle)
      key = (*key, same or product.middle)
    known = chosen.setdefault(key, [])
    if not known or (parts and product.middle is None and _shows_more(scene, known)):
      known.append(scene)
  return sorted(itertools.chain.from_iterable(chosen.values()), key=lambda s: (s.time, s.id))


def _shows_more(scene: base.Scene, known: Sequence[base.Scene]) -> bool:
  """Whether a scene has ground that those of the same acquisition leave out."""
  rest = shapely.difference(scene.footprint, shapely.union_all([other.footprint for other in known]))
  return rest.area > _OTHER_GROUND * scene.footprint.area


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


def windows(
  of: Sequence[str], block: blocks.Block, max_gap_days: float
) -> dict[str, tuple[datetime.datetime, datetime.datetime]]:
  """When each of the sensors `of` a source is searched for a block: start <= time < end.

  The block itself for Sentinel-2, or for the only sensor; for Sentinel-1 the gap more on either side, and a day for
  sources that know only dates.
  """
  more = max_gap_days * _DAY + _DAY
  beside = len(of) > 1
  return {
    sensor: (block.start - more, block.end + more) if beside and sensor == 'sentinel1' else (block.start, block.end)
    for sensor in of
  }


class Candidates:
  """The scenes that the pairs of one block are made of.

  Args:
    scenes: sensor -> scenes of its window, in any order.
    max_gap_days: most days between the two timestamps, inclusive.
  """

  def __init__(self, scenes: Mapping[str, Sequence[base.Scene]], max_gap_days: float):
    self._scenes = {sensor: list(found) for sensor, found in scenes.items()}
    self._trees = {sensor: shapely.STRtree([s.footprint for s in found]) for sensor, found in self._scenes.items()}
    self._most = max_gap_days * _DAY

  def pairs(self, grids: Sequence[base.PatchGrid]) -> list[list[Pair]]:
    """Of each patch every pair of scenes that both cover its whole densified outline, in order of (time, id).

    A source of one sensor gives 'pairs' of one scene.
    """
    outlines = base.outlines_lonlat(grids)
    covering = {sensor: self._covering(sensor, outlines) for sensor in self._scenes}
    if len(covering) == 1:
      ((sensor, found),) = covering.items()
      return [[Pair(s, None) if sensor == 'sentinel2' else Pair(None, s) for s in scenes] for scenes in found]
    return [
      [Pair(s2, s1) for s2 in optical for s1 in radar if gap(s2, s1) <= self._most]
      for optical, radar in zip(covering['sentinel2'], covering['sentinel1'], strict=True)
    ]

  def _covering(self, sensor: str, outlines: np.ndarray) -> list[list[base.Scene]]:
    which, scene = self._trees[sensor].query(outlines, predicate='covered_by')
    found: list[list[base.Scene]] = [[] for _ in outlines]
    for i, k in zip(which.tolist(), scene.tolist(), strict=True):
      found[i].append(self._scenes[sensor][k])
    return [deduplicate(scenes) for scenes in found]


def draw(pairs: Sequence[Pair], *, seed: int, number: int, attempt: int = 0) -> Pair:
  """One of a patch's pairs, each with the same probability; (seed, number of the point, attempt) alone decide which."""
  return pairs[int(np.random.default_rng([seed, _STREAM, number, attempt]).integers(len(pairs)))]

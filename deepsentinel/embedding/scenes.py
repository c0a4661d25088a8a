"""Which scenes show an area: of a catalogue the fewest passes of the satellite that cover it, as a mosaic."""

import dataclasses
import datetime
from collections.abc import Sequence

import shapely

from deepsentinel.corpus import pairs
from deepsentinel.sources import base

_LEAST = 1e-3  # share of the area for which no further scene is taken
_ALIKE = 20  # passes whose shares are the same twentieth show as much
_ONE_PASS = datetime.timedelta(minutes=10)  # from one tile or slice of a pass to the next


@dataclasses.dataclass(frozen=True)
class Choice:
  """A scene of a mosaic, and the share of the area that it adds to the scenes before it."""

  scene: base.Scene
  share: float


def choose(
  source: base.ImagerySource,
  sensor: str,
  outline: shapely.Geometry,
  start: datetime.datetime,
  end: datetime.datetime,
  *,
  near: datetime.datetime | None = None,
  max_cloud: float = 1.0,
) -> list[Choice]:
  """Scenes that together show an area, the best first: each later one only fills what those before it left open.

  Neighbouring tiles and slices of one pass belong together. With `near` the pass comes first that shows most of the
  area and, of those that show as much, is nearest in time; without it the one that shows most of it without cloud, as
  the catalogue states clouds. What it leaves open the next pass fills, in the same way.

  Args:
    source: where to search.
    sensor: 'sentinel2' or 'sentinel1'.
    outline: of the area, WGS84.
    start, end: of the search, timezone-aware.
    near: the time that is wanted.
    max_cloud: scenes whose catalogue states a larger cloud share are passed over.
  Raises:
    ValueError: there is none.
  """
  outline = base.split_antimeridian(outline)
  found = pairs.deduplicate(source.search(sensor, outline, start, end), parts=True)
  passes = _passes([s for s in found if _cloud(s) <= max_cloud])
  left, chosen = outline, list[Choice]()
  while passes and left.area > _LEAST * outline.area:
    adding = [_fill(scenes, left, outline) for scenes in passes]

    def rank(number: int, adding: list[list[Choice]] = adding) -> tuple:
      added = adding[number]
      if not added:
        return (0,)
      time, share = added[0].scene.time, sum(c.share for c in added)
      clear = sum(c.share * (1 - _cloud(c.scene)) for c in added)
      far = abs(time - near) if near else time - start
      return (1, round(_ALIKE * (share if near else clear)), -far, added[0].scene.id)

    best = max(range(len(passes)), key=rank)
    if not adding[best]:
      break
    chosen += adding[best]
    left = shapely.difference(left, shapely.union_all([c.scene.footprint for c in adding[best]]))
    del passes[best]
  if chosen:
    return chosen
  above = sum(_cloud(s) > max_cloud for s in found)
  cloudy = f' ({above} have more cloud than --max_cloud={max_cloud:g})' if above else ''
  raise ValueError(
    f'No {sensor} scene of the area from {start:%Y-%m-%d} to {end:%Y-%m-%d}{cloudy}. Pass another --date or a larger '
    '--search_days, or wider --dates.'
  )


def _cloud(scene: base.Scene) -> float:
  return float(scene.metadata.get('cloud_share', 0))


def _passes(scenes: Sequence[base.Scene]) -> list[list[base.Scene]]:
  """Scenes in order of time, those of one overflight together."""
  passes: list[list[base.Scene]] = []
  for scene in sorted(scenes, key=lambda s: (s.relative_orbit, s.time, s.id)):
    last = passes[-1][-1] if passes else None
    if last and last.relative_orbit == scene.relative_orbit and scene.time - last.time <= _ONE_PASS:
      passes[-1].append(scene)
    else:
      passes.append([scene])
  return passes


def _fill(scenes: Sequence[base.Scene], left: shapely.Geometry, outline: shapely.Geometry) -> list[Choice]:
  """The scenes of one pass that add something to what is left of an area, those that add most first."""
  waiting, chosen = list(scenes), list[Choice]()
  while waiting:
    shares = [shapely.intersection(s.footprint, left).area / outline.area for s in waiting]
    best = max(range(len(waiting)), key=lambda i: (round(shares[i], 6), waiting[i].id))
    if shares[best] <= _LEAST:
      break
    scene = waiting.pop(best)
    chosen.append(Choice(scene, shares[best]))
    left = shapely.difference(left, scene.footprint)
  return chosen


def named(scenes: Sequence[base.Scene], wanted: Sequence[str], flag: str) -> list[base.Scene]:
  """The scenes of these names, in their order, or the only one there is; ValueError lists those there are."""
  names = ', '.join(s.id for s in scenes[:12]) + (f' and {len(scenes) - 12} others' if len(scenes) > 12 else '')
  by_id = {s.id: s for s in scenes}
  for name in wanted:
    if name not in by_id:
      raise ValueError(f'{flag}={name!r} is not among the scenes: {names}.')
  if not wanted and len(scenes) != 1:
    raise ValueError(
      f'{len(scenes)} scenes to choose from; name one with {flag}=..., several for a mosaic (first on top), or pass '
      f'--date or --dates to have them chosen. There are: {names}.'
    )
  return [by_id[name] for name in dict.fromkeys(wanted)] if wanted else list(scenes)

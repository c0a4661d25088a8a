"""One place under a rising share of cloud: the optical pixels of a patch, rendered again and again by its source."""

import datetime
import functools
import json
from typing import Any, NamedTuple

import numpy as np

from deepsentinel import registry
from deepsentinel.sources import base


class Place(NamedTuple):
  """What tells one patch: its grid, and the optical scene it was cut from."""

  id: str
  grid: base.PatchGrid
  lon_deg: float
  lat_deg: float
  scene: str
  time: int  # seconds since 1970 UTC


class Series(NamedTuple):
  """A patch at S cloud shares.

  Attributes:
    id: of the patch.
    s2: uint16 [S, H, W, C], storage units.
    cloud: bool [S, H, W], the true cloud.
    weather: uint16 [H, W, C] under the scene's own weather, or None.
  """

  id: str
  s2: np.ndarray
  cloud: np.ndarray
  weather: np.ndarray | None


def places(records) -> list[Place]:
  """The patches of a RecordSet, in order."""
  return [
    Place(
      str(row.id),
      base.PatchGrid(int(row.epsg), float(row.x0_m), float(row.y0_m), records.patch_px, records.patch_px),
      float(row.lon_deg),
      float(row.lat_deg),
      str(row.s2_scene),
      int(row.s2_time),
    )
    for row in records.table.itertuples()
  ]


def require(card: dict[str, Any], where: str) -> None:
  """ValueError where the records' source cannot render a place under any share of cloud."""
  name = card['source']['name']
  kind = registry.load('imagery source', name)
  if not (hasattr(kind, 'render') and hasattr(kind, 'cloud_mask')):
    raise ValueError(
      f'{where} was sampled from {name!r}, which shows each place under the clouds of the day alone. Only a source '
      "that renders a place under any share of cloud ('synthetic') can be measured so: pass "
      '--data=deepsentinel_labelled/demo.'
    )


def render(
  source: dict[str, Any], place: Place, bands: tuple[str, ...], shares: tuple[float, ...], weather: bool
) -> Series:
  """One patch at every share of cloud.

  Args:
    source: of the records' card.
    place: the patch.
    bands: C Sentinel-2 bands.
    shares: S shares of the patch under cloud, 0..1.
    weather: whether to render it under the scene's own weather too.
  Raises:
    ValueError: the source no longer has that scene.
  """
  earth, scene = scene_of(source, place)
  pixels = [earth.render(scene, place.grid, bands, share).to_storage() for share in shares]
  cloud = [earth.cloud_mask(scene, place.grid, share) for share in shares]
  own = earth.read(scene, place.grid, bands).to_storage() if weather else None
  return Series(place.id, np.stack(pixels), np.stack(cloud), own)


def scene_of(source: dict[str, Any], place: Place) -> tuple[Any, base.Scene]:
  """(the source, the optical scene of a patch); ValueError if the source no longer has it."""
  earth = _earth(json.dumps(source, sort_keys=True))
  time = datetime.datetime.fromtimestamp(place.time, datetime.UTC)
  reach = datetime.timedelta(minutes=1)
  found = earth.search('sentinel2', place.grid.outline_lonlat(), time - reach, time + reach)
  scene = next((scene for scene in found if scene.id == place.scene), None)
  if scene is None:
    raise ValueError(
      f'Patch {place.id} is of scene {place.scene}, which {source["name"]} does not have: the records were made by '
      'another version of it. Sample the corpus and build the records again.'
    )
  return earth, scene


@functools.lru_cache(maxsize=1)
def _earth(source: str):
  return registry.build('imagery source', json.loads(source))

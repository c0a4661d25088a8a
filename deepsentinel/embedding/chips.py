"""Chips: small pictures of the ground of some rows, from the records or from the scene that was embedded."""

import datetime
import functools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyproj
import shapely
import tqdm

from deepsentinel import composites, registry, sensors
from deepsentinel.data import records as records_lib
from deepsentinel.embedding.index import Index
from deepsentinel.evaluation import samples
from deepsentinel.sources import base

CHIP_PX = 96
_SEARCH = datetime.timedelta(days=1)


class Unavailable(ValueError):
  """Pixels cannot be had; the message says why, and what to do."""


class NothingHere(Unavailable):
  """One place has no pixels; others may have."""


class ScenePixels:
  """Pictures of the scenes that an embedding.json names.

  Args:
    journal: embedding.json.
    folder: of it, for messages.
    paths: sensor -> where a local scene lies, which embedding.json does not say.
  """

  def __init__(self, journal: Mapping[str, Any], folder: pathlib.Path, paths: Mapping[str, str]):
    inputs = journal.get('job', {}).get('inputs', [])
    if not inputs:
      raise Unavailable(f'{folder / "embedding.json"} names no scene')
    by_sensor = {sensor: [i for i in inputs if i['sensor'] == sensor] for sensor in ('sentinel2', 'sentinel1')}
    bands = {'sentinel2': samples.TRUE_COLOUR, 'sentinel1': samples.RADAR}
    fitting = [s for s, found in by_sensor.items() if found and set(bands[s]) <= set(found[0]['bands'])]
    if not fitting:
      raise Unavailable('the scenes have neither B4, B3, B2 nor VV, VH')
    self.sensor = fitting[0]
    self.bands, self._inputs, self._paths = bands[self.sensor], by_sensor[self.sensor], paths
    self._scenes: dict[str, base.Scene] = {}

  @property
  def what(self) -> str:
    return {'sentinel2': 'Sentinel-2, true colour', 'sentinel1': 'Sentinel-1, VV, VH, VV - VH'}[self.sensor]

  @functools.cached_property
  def _sources(self) -> list[base.ImagerySource]:
    built: dict[str, base.ImagerySource] = {}
    for item in self._inputs:
      section = {'name': item['source'], **item.get('stated', {})}
      if item['source'] == 'local':
        flag = f'--s{self.sensor[-1]}'
        if not self._paths.get(self.sensor):
          raise Unavailable(f'of a local scene embedding.json keeps no path; pass {flag}=SCENE as to embed')
        section['path'] = self._paths[self.sensor]
      key = json.dumps(section, sort_keys=True)
      if key not in built:
        built[key] = registry.build('imagery source', section)
      item['key'] = key
    return [built[item['key']] for item in self._inputs]

  def _scene(self, item: Mapping[str, Any], source: base.ImagerySource, outline: shapely.Geometry) -> base.Scene | None:
    if item['scene'] not in self._scenes:
      time = datetime.datetime.fromisoformat(item['time'].replace('Z', '+00:00'))
      for scene in source.search(self.sensor, outline, time - _SEARCH, time + _SEARCH):
        self._scenes.setdefault(scene.id, scene)
    return self._scenes.get(item['scene'])

  def read(self, grid: base.PatchGrid) -> np.ndarray:
    """uint8 [H, W, 3]: of the first scene that shows anything of the grid."""
    outline = base.split_antimeridian(grid.outline_lonlat())
    picture = None
    for item, source in zip(self._inputs, self._sources, strict=True):
      scene = self._scene(item, source, outline)
      if scene is None:
        continue
      stored = source.read(scene, grid, self.bands).to_storage()
      nodata = sensors.S2_NODATA if self.sensor == 'sentinel2' else sensors.S1_NODATA
      picture = composites.true_colour(stored) if self.sensor == 'sentinel2' else composites.radar(stored)
      if (stored != nodata).any():
        return picture
    if picture is None:
      scene = self._inputs[0]['scene']
      raise NothingHere(f'a place lies outside of scene {scene}, or the source does not list scene {scene} any more')
    return picture


class RecordPixels:
  """Pictures of the patches of a record set."""

  def __init__(self, directory: str, split: str):
    self._records = records_lib.RecordSet(directory, split, threads=1)
    spec = self._records.spec
    held = [f for f, bands in (('s2', samples.TRUE_COLOUR), ('s1', samples.RADAR)) if set(bands) <= set(spec.bands)]
    if not held:
      raise Unavailable('the records have neither B4, B3, B2 nor VV, VH')
    self._field = held[0]

  @property
  def what(self) -> str:
    return {'s2': 'Sentinel-2, true colour', 's1': 'Sentinel-1, VV, VH, VV - VH'}[self._field]

  def read(self, number: int) -> np.ndarray:
    """uint8 [H, W, 3] of one record."""
    pixels = {'s2': None, 's1': None, self._field: self._records.read(self._field, [number])}
    s2, s1 = samples.picture_bands(self._records.spec, pixels['s2'], pixels['s1'])
    return composites.true_colour(s2[0]) if self._field == 's2' else composites.radar(s1[0])


def around(lon_deg: float, lat_deg: float, epsg: int, corner_m: tuple[float, float], side_px: int) -> base.PatchGrid:
  """A square of 10 m pixels about a place, on the pixel lattice of an upper-left corner."""
  x, y = base.transformer(4326, epsg).transform(lon_deg, lat_deg)
  left, top = x - side_px * 5, y + side_px * 5
  snapped = [round((v - c) / 10) * 10 + c for v, c in zip((left, top), corner_m, strict=True)]
  return base.PatchGrid(epsg, snapped[0], snapped[1], side_px, side_px)


def of_rows(
  index: Index, number: Sequence[int], paths: Mapping[str, str], *, progress: bool = True
) -> tuple[list[np.ndarray | None], str, str]:
  """Pictures of rows of an index.

  Args:
    index: whose rows.
    number: of the rows.
    paths: sensor -> where a local scene lies.
    progress: shows a bar.
  Returns:
    (uint8 [H, W, 3] of each row, None where it cannot be had; what they show; why some are missing, or '').
  """
  readers: dict[int, ScenePixels | RecordPixels | str] = {}
  pictures: list[np.ndarray | None] = []
  whys: list[str] = []
  shown = ''
  for i in tqdm.tqdm(number, desc='Chips', unit=' chips', disable=not progress):
    row = index.rows.iloc[int(i)]
    place = int(row['source'])
    if place not in readers:
      readers[place] = _reader(index.about['sources'][place], paths)
    reader = readers[place]
    picture = None
    try:
      if isinstance(reader, RecordPixels):
        picture = reader.read(int(row['row']))
      elif isinstance(reader, ScenePixels):
        picture = reader.read(_chip_grid(index.about['sources'][place], row))
      else:
        whys.append(reader)
    except (ValueError, OSError) as error:
      whys.append(' '.join(str(error).split()))
      if not isinstance(error, NothingHere):  # asked again, the source would say the same
        readers[place] = whys[-1]
    if picture is not None and not isinstance(reader, str):
      shown = reader.what
    pictures.append(picture)
  return pictures, shown, '; '.join(dict.fromkeys(whys))


def _reader(source: Mapping[str, Any], paths: Mapping[str, str]) -> ScenePixels | RecordPixels | str:
  """The pixels of a source, or why there are none."""
  try:
    if source['kind'] == 'records':
      return RecordPixels(source['path'], source['split'])
    folder = pathlib.Path(source['path']).parent
    try:
      journal = json.loads((folder / 'embedding.json').read_text())
    except (OSError, ValueError) as error:
      raise Unavailable(f'{folder / "embedding.json"} cannot be read') from error
    return ScenePixels(journal, folder, paths)
  except (ValueError, OSError) as error:
    return ' '.join(str(error).split())


def _chip_grid(source: Mapping[str, Any], row: Any) -> base.PatchGrid:
  """Of a cell with its surroundings, or of a whole patch."""
  if source['kind'] == 'map':
    epsg = pyproj.CRS.from_wkt(source['crs']).to_epsg()
    if epsg is None:
      raise Unavailable(f'the CRS of {source["name"]} has no EPSG code')
    corner = source['transform'][2], source['transform'][5]
    return around(row['lon_deg'], row['lat_deg'], epsg, corner, CHIP_PX)
  west, _, _, _ = row['geometry'].bounds
  zone = int((west + 180) // 6) % 60 + 1
  epsg = (32600 if row['lat_deg'] >= 0 else 32700) + zone
  to_utm = base.transformer(4326, epsg)
  outline = shapely.transform(row['geometry'], lambda xy: np.column_stack(to_utm.transform(xy[:, 0], xy[:, 1])))
  return around(row['lon_deg'], row['lat_deg'], epsg, (0.0, 0.0), max(16, round(outline.area**0.5 / 10)))

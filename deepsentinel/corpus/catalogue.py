"""What a platform's catalogue answered, kept as GeoParquet: each cell of land and 12-day block is asked for once.

CORPUS/catalogue/SENSOR/DATE.parquet holds the scenes of the block that begins on DATE, a row a scene, and in its
attributes the cells whose scenes they are. Remove the folder to have the platform asked anew.
"""

import datetime
import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import shapely

from deepsentinel import provenance
from deepsentinel.corpus import blocks
from deepsentinel.sources import base

FOLDER = 'catalogue'
CELL_DEG = 2.0  # a request for 12 days lists some 100 scenes of each sensor: a page or two of most platforms
# So that a cell does not touch its neighbour; a scene that covers a patch around a place in it still meets it.
_INSET_DEG = 1e-6
_COLUMNS = ('id', 'sensor', 'time', 'orbit_pass', 'relative_orbit', 'metadata')


def cell_of(lon_deg: float, lat_deg: float) -> str:
  """The cell a place lies in, by its south-western corner: '+052+012' for 52 to 54 north, 12 to 14 east."""
  lon = (lon_deg + 180) % 360 - 180
  return f'{int(math.floor(lat_deg / CELL_DEG) * CELL_DEG):+04d}{int(math.floor(lon / CELL_DEG) * CELL_DEG):+04d}'


def outline(cell: str) -> shapely.Polygon:
  """A cell in WGS84, a little smaller than it is."""
  south, west = int(cell[:4]), int(cell[4:])
  return shapely.box(west + _INSET_DEG, south + _INSET_DEG, west + CELL_DEG - _INSET_DEG, south + CELL_DEG - _INSET_DEG)


class Listing:
  """The scenes of one sensor and block that are known, and of which cells.

  Args:
    folder: of the corpus; None keeps nothing on disk.
    sensor: whose.
    block: when.
  Raises:
    ValueError: the file of an earlier run is damaged.
  """

  def __init__(self, folder: pathlib.Path | None, sensor: str, block: blocks.Block):
    self._path = None if folder is None else _path(folder, sensor, block)
    self.cells: set[str] = set()
    self.scenes: dict[str, base.Scene] = {}
    if self._path is not None and self._path.exists():
      table = _read(self._path)
      self.cells = set(table.attrs.pop('cells'))
      self.scenes = {scene.id: scene for scene in _scenes(table)}

  def add(self, cell: str, scenes: Sequence[base.Scene]) -> None:
    """What the platform answered for a cell."""
    self.cells.add(cell)
    self.scenes.update((scene.id, scene) for scene in scenes)

  def write(self) -> None:
    """To disk, whole or not at all."""
    if self._path is None:
      return
    scenes = sorted(self.scenes.values(), key=lambda s: (s.time, s.id))
    columns: dict[str, Any] = {name: [getattr(scene, name) for scene in scenes] for name in _COLUMNS}
    columns['metadata'] = [json.dumps(dict(scene.metadata)) for scene in scenes]
    columns['time'] = pd.DatetimeIndex(columns['time'], dtype='datetime64[us, UTC]')
    table = geopandas.GeoDataFrame(columns, geometry=[scene.footprint for scene in scenes], crs='EPSG:4326')
    table.attrs = {'cells': sorted(self.cells)}
    self._path.parent.mkdir(parents=True, exist_ok=True)
    with provenance.replacing(self._path) as temporary:
      table.to_parquet(temporary, compression='zstd')


def find(folder: pathlib.Path, sensor: str, block: blocks.Block, scene_id: str) -> base.Scene | None:
  """A scene that a Listing wrote; None where there is no such file or no such scene in it."""
  path = _path(folder, sensor, block)
  if not path.exists():
    return None
  return next(iter(_scenes(_read(path, scene_id))), None)


def _path(folder: pathlib.Path, sensor: str, block: blocks.Block) -> pathlib.Path:
  return folder / FOLDER / sensor / f'{block.start:%Y-%m-%d}.parquet'


def _read(path: pathlib.Path, scene_id: str = '') -> geopandas.GeoDataFrame:
  try:
    return geopandas.read_parquet(path, filters=[('id', '==', scene_id)] if scene_id else None)
  except (ValueError, OSError) as e:
    raise ValueError(
      f'{path} is damaged ({str(e).splitlines()[0]}). Remove it and run the command again: the platform is asked anew.'
    ) from e


def _scenes(table: geopandas.GeoDataFrame) -> list[base.Scene]:
  times = table['time'].dt.to_pydatetime() if len(table) else ()
  columns = (table[name].tolist() for name in ('id', 'sensor', 'orbit_pass', 'relative_orbit'))
  metadata = json.loads(f'[{",".join(table["metadata"])}]')  # in one call: there are tens of thousands
  return [
    base.Scene(i, sensor, footprint, time.astimezone(datetime.UTC), orbit_pass, orbit, of_scene)
    for i, sensor, orbit_pass, orbit, footprint, time, of_scene in zip(
      *columns, np.asarray(table.geometry), times, metadata, strict=True
    )
  ]

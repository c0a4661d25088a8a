"""What a platform's catalogue answered, kept as GeoParquet: each cell of land and 12-day block is asked for once.

CORPUS/catalogue/SENSOR/DATE.parquet holds the scenes of the block that begins on DATE, a row a scene, and in its
attributes the cells whose scenes they are. Remove the folder to have the platform asked anew.
"""

import datetime
import functools
import json
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pyarrow
import pyarrow.compute
import pyarrow.parquet
import shapely

from deepsentinel import provenance
from deepsentinel.corpus import blocks
from deepsentinel.sources import base

FOLDER = 'catalogue'
CELL_DEG = 2.0  # a request for 12 days lists some 100 scenes of each sensor: a page or two of most platforms
# So that a cell does not touch its neighbour; a scene that covers a patch around a place in it still meets it.
_INSET_DEG = 1e-6
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_COLUMNS = ('id', 'sensor', 'time', 'orbit_pass', 'relative_orbit', 'metadata')
_ATTRIBUTES = b'PANDAS_ATTRS'  # where a table's own are in the file
_GROUP = 512  # rows of a file that are read together when one scene is looked up


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
      self.cells = set(json.loads(table.schema.metadata[_ATTRIBUTES])['cells'])
      self.scenes = {scene.id: scene for scene in _scenes(table)}

  def add(self, cell: str, scenes: Sequence[base.Scene]) -> None:
    """What the platform answered for a cell."""
    self.cells.add(cell)
    self.scenes.update((scene.id, scene) for scene in scenes)

  def write(self) -> None:
    """To disk, whole or not at all."""
    if self._path is None:
      return
    scenes = sorted(self.scenes.values(), key=lambda s: s.id)  # so that few groups can hold an id
    columns: dict[str, Any] = {name: [getattr(scene, name) for scene in scenes] for name in _COLUMNS}
    columns['metadata'] = [_text(scene.metadata) for scene in scenes]
    columns['time'] = pd.DatetimeIndex(columns['time'], dtype='datetime64[us, UTC]')
    table = geopandas.GeoDataFrame(columns, geometry=[scene.footprint for scene in scenes], crs='EPSG:4326')
    table.attrs = {'cells': sorted(self.cells)}
    self._path.parent.mkdir(parents=True, exist_ok=True)
    with provenance.replacing(self._path) as temporary:
      table.to_parquet(temporary, compression='zstd', row_group_size=_GROUP)


def find(folder: pathlib.Path, sensor: str, block: blocks.Block, scene_id: str) -> base.Scene | None:
  """A scene that a Listing wrote; None where there is no such file or no such scene in it."""
  path = _path(folder, sensor, block)
  if not path.exists():
    return None
  try:
    file, least, most = _opened(path, path.stat().st_mtime_ns)
    groups = np.flatnonzero((least <= scene_id) & (scene_id <= most))
    table = file.read_row_groups(groups.tolist(), use_threads=False)
    return next(iter(_scenes(table.filter(pyarrow.compute.equal(table['id'], scene_id)))), None)
  except (ValueError, OSError) as e:
    raise _damaged(path, e) from e


@functools.lru_cache(maxsize=128)  # two sensors, two years
def _opened(path: pathlib.Path, modified_ns: int) -> tuple[pyarrow.parquet.ParquetFile, np.ndarray, np.ndarray]:
  """A file as of a time, and the first and the last id of each of its groups, object [G]."""
  file = pyarrow.parquet.ParquetFile(path)
  column = file.schema_arrow.get_field_index('id')
  groups = [file.metadata.row_group(k).column(column).statistics for k in range(file.num_row_groups)]
  return file, np.array([g.min for g in groups], object), np.array([g.max for g in groups], object)


def _path(folder: pathlib.Path, sensor: str, block: blocks.Block) -> pathlib.Path:
  return folder / FOLDER / sensor / f'{block.start:%Y-%m-%d}.parquet'


class _Metadata(Mapping):
  """What a catalogue says of a scene, decoded when it is asked for: of tens of thousands few are."""

  def __init__(self, text: str):
    self.text = text

  @functools.cached_property
  def _content(self) -> dict[str, Any]:
    return json.loads(self.text)

  def get(self, key: str, default: Any = None) -> Any:
    # What the text does not name is not in it, and nothing has to be decoded to say so. (Other names are escaped.)
    if key.isascii() and key.isidentifier() and f'"{key}"' not in self.text:
      return default
    return self._content.get(key, default)

  def __getitem__(self, key: str) -> Any:
    return self._content[key]

  def __iter__(self) -> Iterator[str]:
    return iter(self._content)

  def __len__(self) -> int:
    return len(self._content)


def _text(metadata: Mapping[str, Any]) -> str:
  return metadata.text if isinstance(metadata, _Metadata) else json.dumps(dict(metadata))


def _read(path: pathlib.Path) -> pyarrow.Table:
  try:
    return pyarrow.parquet.read_table(path)
  except (ValueError, OSError) as e:
    raise _damaged(path, e) from e


def _damaged(path: pathlib.Path, error: Exception) -> ValueError:
  return ValueError(
    f'{path} is damaged ({str(error).splitlines()[0]}). Remove it and run the command again: the platform is asked '
    'anew.'
  )


def _scenes(table: pyarrow.Table) -> list[base.Scene]:
  microseconds = table['time'].cast(pyarrow.timestamp('us', 'UTC')).cast(pyarrow.int64()).to_pylist()
  footprints = shapely.from_wkb(table['geometry'].to_numpy())
  columns = (table[name].to_pylist() for name in ('id', 'sensor', 'orbit_pass', 'relative_orbit', 'metadata'))
  return [
    base.Scene(
      i, sensor, footprint, _EPOCH + datetime.timedelta(microseconds=us), orbit_pass, orbit, _Metadata(metadata)
    )
    for i, sensor, orbit_pass, orbit, metadata, footprint, us in zip(*columns, footprints, microseconds, strict=True)
  ]

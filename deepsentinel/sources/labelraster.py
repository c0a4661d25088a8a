"""Any map of classes as a label: WorldCover, the Cropland Data Layer, one's own GeoTIFF, with a legend."""

import csv
import glob
import importlib.resources
import itertools
import pathlib
import re
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import rasterio
import rasterio.errors
import rasterio.shutil
import shapely
import tqdm

from deepsentinel import legend as legends
from deepsentinel.sources import base, raster

READY = ('cdl', 'worldcover')  # legends in this package, by name
_COLUMNS = ('value', 'name', 'colour')
_MOST_CLASSES = 255  # stored as uint8, 0 = no label
_SUFFIXES = ('.tif', '.tiff')
# Of GDAL's raster attribute tables: what a column is for.
_VALUE, _NAME, _RED, _GREEN, _BLUE = '5', '2', '6', '7', '8'


_Rgb = tuple[int, int, int]


class _Row(NamedTuple):
  """One number of a map; with an empty name it stands for no class."""

  where: str
  value: int
  name: str
  rgb: _Rgb = (0, 0, 0)
  level1: str = ''


class LabelRaster:
  """A map of classes: of each pixel the class of the map's pixel under its centre.

  Args:
    path: a GeoTIFF or any other raster of one band, in any CRS; a folder of tiles (all .tif below it), or a pattern
      ('tiles/*_Map.tif'). Where tiles overlap, the first by name that has a class counts.
    legend: 'worldcover' (ESA WorldCover), 'cdl' (USDA Cropland Data Layer), or a CSV file with the columns value, name,
      colour ('#rrggbb') and, where wanted, corine_level1 (urban, agriculture, natural, wetland or water). Rows of one
      name are one class; a row without a name says that its value is no class. '' takes the names and colours that are
      in the raster itself.

  Attributes:
    classes: the legend; a label is the place of its class in it, from 1.
  Raises:
    ValueError: no such file, one without a CRS or of several bands, or a legend that is wrong; names the line.
  """

  def __init__(self, path: str, legend: str = ''):
    self.path = str(path)
    paths = _tiles(self.path)
    self.legend = str(legend) or f'the names in {paths[0]}'
    self._files = _trees(paths)
    rows = _legend_rows(str(legend)) if legend else _own_rows(paths[0])
    self.classes = _classes(rows, self.legend)
    self._place = {value: i for i, c in enumerate(self.classes, start=1) for value in c.values}
    self._place |= {row.value: 0 for row in rows if not row.name}

  def read(self, grid: base.PatchGrid) -> np.ndarray:
    """uint8 [H, W]: place in `classes`, from 1, of the map's class under each pixel's centre; 0 = no label.

    Raises:
      ValueError: the map holds a number that the legend lacks, or cannot be read; names the file.
    """
    out = np.zeros((grid.height_px, grid.width_px), np.uint8)
    for path in self._meeting(grid):
      with raster.opened(path) as file:
        values, inside = raster.nearest(file, grid)
        if file.nodata is not None and not np.isnan(file.nodata):
          inside &= values != file.nodata
        if np.issubdtype(values.dtype, np.floating):
          inside &= ~np.isnan(values)
      wanted = inside & (out == 0)
      out[wanted] = self._classes_of(values[wanted], path)
    return out

  def _meeting(self, grid: base.PatchGrid) -> list[str]:
    """Files whose bounds the grid meets, in order."""
    found = set()
    for crs, (tree, paths) in self._files.items():
      boxes = [box for box in grid.bounds_in(crs) if np.isfinite(box).all()]
      # Longitudes of a file may run beyond 180, or from 0 to 360.
      turns = (-360, 0, 360) if rasterio.crs.CRS.from_user_input(crs).is_geographic else (0,)
      for (left, bottom, right, top), turn in itertools.product(boxes, turns):
        found |= {paths[i] for i in tree.query(shapely.box(left + turn, bottom, right + turn, top))}
    return sorted(found)

  def _classes_of(self, values: np.ndarray, path: str) -> np.ndarray:
    """uint8 [N] of numbers [N] of a file."""
    unique, inverse = np.unique(values, return_inverse=True)
    index = [self._place.get(value) for value in unique.tolist()]
    unknown = [f'{value:g}' for value, known in zip(unique, index, strict=True) if known is None]
    if unknown:
      raise ValueError(
        f'{path} holds {", ".join(unknown[:5])}, which the legend lacks ({self.legend}). Add a line for it; one '
        'with an empty name says that it is no class.'
      )
    return np.array(index, np.uint8)[inverse.reshape(-1)]


def _tiles(path: str) -> list[str]:
  """The files that `path` names, sorted; ValueError if there is none."""
  if path.startswith('/vsi') or '://' in path or pathlib.Path(path).is_file():
    return [path]
  if pathlib.Path(path).is_dir():
    found = [str(p) for p in pathlib.Path(path).rglob('*') if p.suffix.lower() in _SUFFIXES]
  else:
    found = [p for p in glob.glob(path, recursive=True) if pathlib.Path(p).is_file()]
  if not found:
    raise ValueError(f'Label raster not found: {path}. State a GeoTIFF, a folder of them or a pattern with path=...')
  return sorted(found)


def _trees(paths: Sequence[str]) -> dict[int | str, tuple[shapely.STRtree, list[str]]]:
  """CRS -> (tree of the bounds of its files, these files)."""
  found: dict[int | str, tuple[list[shapely.Geometry], list[str]]] = {}
  for path in tqdm.tqdm(paths, desc='Reading the bounds of label tiles', unit=' files', delay=3, leave=False):
    with raster.opened(path) as file:
      if file.count != 1:
        raise ValueError(
          f'{path} has {file.count} bands; a map of classes has one. Take the map itself rather than a picture of it, '
          'or extract its band (gdal_translate -b 1 ...).'
        )
      boxes, own = found.setdefault(raster.user_crs(file.crs), ([], []))
      boxes.append(shapely.box(*file.bounds))
      own.append(path)
  return {crs: (shapely.STRtree(boxes), own) for crs, (boxes, own) in found.items()}


def _legend_rows(legend: str) -> list[_Row]:
  """The rows of a legend file, or of a ready legend by its name."""
  file = pathlib.Path(legend)
  if legend in READY:
    text = importlib.resources.files('deepsentinel.sources').joinpath(f'legends/{legend}.csv').read_text('utf-8')
  elif file.is_file():
    try:
      text = file.read_text('utf-8-sig')
    except UnicodeDecodeError as e:
      raise ValueError(f'Legend {file} is no text: it must be a CSV file with the columns value,name,colour.') from e
  else:
    raise ValueError(
      f'Legend {legend!r} is neither a file nor a ready legend. Ready: {", ".join(READY)}; or a CSV file with the '
      'columns value,name,colour and, where wanted, corine_level1.'
    )
  reader = csv.DictReader(text.splitlines(), skipinitialspace=True)
  missing = [column for column in _COLUMNS if column not in (reader.fieldnames or ())]
  if missing:
    raise ValueError(
      f'Legend {legend} has no column {", ".join(missing)}; its first line must name value,name,colour and, where '
      f'wanted, corine_level1. Found: {",".join(reader.fieldnames or ()) or "nothing"}.'
    )
  return [_row(entry, f'Legend {legend}, line {reader.line_num}') for entry in reader]


def _row(entry: dict[str, str | None], where: str) -> _Row:
  cells = {key: (value or '').strip() for key, value in entry.items() if isinstance(value, str | None)}
  if not re.fullmatch(r'-?\d+', cells['value']):
    raise ValueError(f'{where}: value {cells["value"]!r} is no whole number.')
  value, level1 = int(cells['value']), cells.get('corine_level1', '')
  if not cells['name']:
    return _Row(where, value, '')
  if not re.fullmatch(r'#[0-9a-fA-F]{6}', cells['colour']):
    raise ValueError(f"{where}: colour {cells['colour']!r} of {cells['name']!r} must be written as '#rrggbb'.")
  if level1 and level1 not in legends.LEVEL1_NAMES:
    raise ValueError(
      f'{where}: unknown corine_level1 {level1!r} of {cells["name"]!r}. Known: {", ".join(legends.LEVEL1_NAMES)}; '
      'empty where none fits.'
    )
  red, green, blue = bytes.fromhex(cells['colour'][1:])
  return _Row(where, value, cells['name'], (red, green, blue), level1)


def _own_rows(path: str) -> list[_Row]:
  """The names and colours that a raster has in itself: its attribute table, or its category names and palette."""
  # GDAL's description of a raster holds all three, whatever the format; rasterio reads only the palette.
  with tempfile.TemporaryDirectory() as folder:
    rasterio.shutil.copy(path, f'{folder}/map.vrt', driver='VRT')
    band = ET.parse(f'{folder}/map.vrt').find('VRTRasterBand')
  assert band is not None
  palette = {
    i: _rgb([entry.get(f'c{c}', '0') for c in '123']) for i, entry in enumerate(band.iterfind('ColorTable/Entry'))
  }
  named = _attribute_table(band.find('GDALRasterAttributeTable')) or [
    (value, (category.text or '').strip(), None)
    for value, category in enumerate(band.iterfind('CategoryNames/Category'))
  ]
  rows: list[_Row] = []
  colours: dict[str, _Rgb] = {}
  for value, name, rgb in named:
    rgb = rgb or palette.get(value)
    if name and rgb:
      rows.append(_Row(path, value, name, colours.setdefault(name, rgb)))
  if not rows:
    has = 'names but no colours' if any(name for _, name, _ in named) else 'no names of classes'
    raise ValueError(
      f'{path} has {has} in itself. State the legend: a CSV file with the columns value,name,colour, or one of '
      f'{", ".join(READY)} (legend=...).'
    )
  return rows


def _rgb(cells: Sequence[str]) -> _Rgb:
  red, green, blue = (int(float(cell)) for cell in cells)
  return red, green, blue


def _attribute_table(table: ET.Element | None) -> list[tuple[int, str, _Rgb | None]]:
  """(value, name, colour or None) of the rows of a raster attribute table; nothing where it names no classes."""
  if table is None:
    return []
  uses = {field.findtext('Usage'): int(field.get('index', 0)) for field in table.iterfind('FieldDefn')}
  if _NAME not in uses:
    return []
  rows: list[tuple[int, str, _Rgb | None]] = []
  for row in table.iterfind('Row'):
    cells = [(cell.text or '').strip() for cell in row.iterfind('F')]
    value = int(float(cells[uses[_VALUE]])) if _VALUE in uses else int(row.get('index', 0))
    rgb = [cells[uses[use]] for use in (_RED, _GREEN, _BLUE) if use in uses]
    rows.append((value, cells[uses[_NAME]], _rgb(rgb) if len(rgb) == 3 else None))
  return rows


def _classes(rows: Iterable[_Row], legend: str) -> tuple[legends.MapClass, ...]:
  """Classes in the order in which their names first occur; ValueError where two rows contradict each other."""
  of_value: dict[int, _Row] = {}
  of_name: dict[str, list[_Row]] = {}
  for row in rows:
    if row.value in of_value:
      first = of_value[row.value]
      raise ValueError(
        f'{row.where}: value {row.value} is there twice, as {first.name or "no class"!r} and as '
        f'{row.name or "no class"!r}. Keep one of the two.'
      )
    of_value[row.value] = row
    if row.name:
      alike = of_name.setdefault(row.name, [])
      if alike and (row.rgb, row.level1) != (alike[0].rgb, alike[0].level1):
        raise ValueError(
          f'{row.where}: {row.name!r} has another colour or corine_level1 than at value {alike[0].value}. Rows of one '
          'name are one class: write the same, or another name.'
        )
      alike.append(row)
  if not 1 <= len(of_name) <= _MOST_CLASSES:
    raise ValueError(
      f'The legend ({legend}) has {len(of_name)} classes; 1 to {_MOST_CLASSES} can be stored. Give classes that belong '
      'together one name.'
    )
  return tuple(
    legends.MapClass(name, alike[0].rgb, tuple(row.value for row in alike), alike[0].level1)
    for name, alike in of_name.items()
  )

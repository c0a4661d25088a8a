"""From a planned manifest row to a fetched one: a pure function of the corpus' settings and the row.

It reads pixels and labels of a row's scenes, writes the patch files and returns the row. Rows know nothing of each
other, so a process pool maps it here and a Beam pipeline can map it elsewhere.
"""

import datetime
import functools
import json
import logging
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from deepsentinel import legend, registry, schema
from deepsentinel.corpus import blocks, catalogue, patchfiles, points
from deepsentinel.sources import base

# A section of config.labels, a field of the record and a file of the patch each; what a section builds by default.
_LABELS = {'corine': 'corine', 'osm': 'openstreetmap', 'landcover': 'raster'}
_FIELD = {'sentinel2': 's2', 'sentinel1': 's1'}
# SyntheticEarth's vectors are written for each patch with this much land around it, so that polygons that reach into
# the patch are as large as CORINE's smallest (25 ha) on either side of its edge.
_VECTOR_MARGIN_M = 1500.0


class Unfit(ValueError):
  """Why a patch cannot be had; becomes the row's `reason`."""


class Workshop:
  """What a process needs to fetch rows of one corpus, built once."""

  def __init__(self, settings: Mapping[str, Any]):
    self.settings = settings
    self.config_json = json.dumps(settings)
    self.source: Any = registry.build('imagery source', settings['source'])
    self.spec = self.source.spec
    self.blocks = blocks.period_blocks(settings['period']['start'], settings['period']['end'])
    self.labels = self._label_sources() if settings['labelled'] else {}

  def _label_sources(self) -> dict[str, base.LabelSource]:
    found = {}
    for kind, default in _LABELS.items():
      # An empty value leaves the class its own default; a section without a file asks for no labels.
      section = {k: v for k, v in self.settings['labels'][kind].items() if v != ''}
      if section.keys() - {'name'}:
        found[kind] = registry.build('label source', {'name': default, **section})
        if hasattr(found[kind], 'classes') != (kind == 'landcover'):
          other = 'a source with a legend of its own' if kind == 'landcover' else 'no source with a legend of its own'
          raise ValueError(f'labels.{kind} takes {other}; found name={section.get("name")!r}. Known here: {default!r}.')
    if not found and not self.makes_vectors and not self.is_placed:
      raise ValueError(
        'A labelled corpus needs its labels: state labels.corine.path (the CORINE GeoPackage or FileGDB) and '
        'labels.osm.path (an OpenStreetMap .osm.pbf extract), or labels.landcover.path (any other map of classes, with '
        'labels.landcover.legend), or set labelled=False.'
      )
    return found

  @property
  def landcover(self) -> tuple[legend.MapClass, ...]:
    """The legend of the land-cover map; empty where there is none."""
    return getattr(self.labels.get('landcover'), 'classes', ())

  @property
  def is_placed(self) -> bool:
    return hasattr(self.source, 'places')

  @property
  def is_remote(self) -> bool:
    """Whether the source answers from a network."""
    return hasattr(self.source, 'connect')

  @property
  def makes_vectors(self) -> bool:
    return hasattr(self.source, 'write_corine')

  @functools.cached_property
  def region(self) -> points.Region:
    return points.Region(self.settings['points']['countries'], self.settings['points']['bbox'])

  @functools.cached_property
  def places(self) -> dict[str, base.Place]:
    return {place.id: place for place in self.source.places()}


@functools.lru_cache(maxsize=2)
def workshop(config_json: str) -> Workshop:
  """The workshop of a corpus' settings (JSON), once a process."""
  return Workshop(json.loads(config_json))


def search_cell(
  config_json: str, sensor: str, cell: str, start: datetime.datetime, end: datetime.datetime
) -> tuple[str, str, list[base.Scene] | str]:
  """sensor, cell, and its scenes from `start` up to `end`, or the reason why they cannot be had."""
  try:
    return sensor, cell, workshop(config_json).source.search(sensor, catalogue.outline(cell), start, end)
  except Exception as e:  # whatever a platform does, the other cells are asked for
    return sensor, cell, f'{type(e).__name__}: {e}'


def fetch_row(config_json: str, folder: str, row: Mapping[str, Any]) -> dict[str, Any]:
  """Fetches one patch.

  Args:
    config_json: checked settings, as JSON.
    folder: the corpus folder.
    row: a manifest row that names its scenes, or a ready-made place of the source.
  Returns:
    The row, state 'done' with checksums, or 'failed' with its reason. Bad data and failing sources do not raise.
  Raises:
    OSError: the files cannot be written.
  """
  shop = workshop(config_json)
  out = dict(row) | {'reason': '', 'state': 'done'}
  try:
    place = shop.places[row['id']] if shop.is_placed else None
    if place is not None:
      patch_grid, scenes = place.grid, dict(place.scenes)
      record_pair(out, patch_grid, scenes)
    else:
      patch_grid, scenes = _recorded(shop, pathlib.Path(folder), row)
    _describe(out, patch_grid, scenes, shop.source)
    arrays = {_FIELD[sensor]: _pixels(shop, scenes, sensor, patch_grid) for sensor in shop.spec.sensors}
    if shop.settings['labelled']:
      arrays |= _labels(shop, place, patch_grid)
      counts = np.bincount(_level1(arrays, shop.landcover).ravel() + 1, minlength=6)
      out |= {f'{name}_px': int(n) for name, n in zip(legend.LEVEL1_NAMES, counts[1:], strict=True)}
  except Unfit as e:
    out |= {'state': 'failed', 'reason': str(e)}
  except Exception as e:
    # A platform can fail in any way at any patch, and a run of days must outlive it. The reason is kept and counted.
    logging.debug('patch %s', row['id'], exc_info=True)
    out |= {'state': 'failed', 'reason': f'{type(e).__name__}: {e}'}
  if out['state'] == 'failed':
    patchfiles.remove(pathlib.Path(folder), row['id'])
    return out | {column: '' for column in out if column.startswith('sha256_')}
  tags = {
    **{f'{_FIELD[sensor]}_scene': scene.id for sensor, scene in scenes.items()},
    **{f'{_FIELD[sensor]}_time': scene.time.isoformat() for sensor, scene in scenes.items()},
    'synthetic': str(shop.source.synthetic),
  }
  # Raises: a disk that is full ends the run; it must not fail every patch that is left.
  digests = patchfiles.write(pathlib.Path(folder), row['id'], arrays, patch_grid, shop.spec, tags, shop.landcover)
  return out | {f'sha256_{field}': digest for field, digest in digests.items()}


def record_pair(out: dict[str, Any], patch_grid: base.PatchGrid, scenes: Mapping[str, base.Scene]) -> None:
  """Writes the grid into the row, and which scenes it is cut from."""
  out |= {'epsg': patch_grid.epsg, 'x0_m': float(patch_grid.x0_m), 'y0_m': float(patch_grid.y0_m)}
  for sensor, scene in scenes.items():
    out |= {f'{_FIELD[sensor]}_scene': scene.id, f'{_FIELD[sensor]}_time': int(np.floor(scene.time.timestamp()))}


def _describe(
  out: dict[str, Any], patch_grid: base.PatchGrid, scenes: Mapping[str, base.Scene], source: base.ImagerySource
) -> None:
  """Writes into the row what the source knows of its scenes."""
  if s2 := scenes.get('sentinel2'):
    out['s2_baseline'] = str(s2.metadata.get('processing_baseline', ''))
    share = source.cloud_share(s2, patch_grid) if hasattr(source, 'cloud_share') else s2.metadata.get('cloud_share')
    out['s2_cloud_share'] = float('nan') if share is None else float(share)
  if s1 := scenes.get('sentinel1'):
    incidence = s1.metadata.get('incidence_deg')
    if hasattr(source, 'incidence_deg'):
      incidence = source.incidence_deg(s1, out['lon_deg'], out['lat_deg'])
    out |= {
      's1_pass': s1.orbit_pass,
      's1_relative_orbit': int(s1.relative_orbit),
      's1_incidence_deg': float('nan') if incidence is None else float(incidence),
    }


def _recorded(
  shop: Workshop, folder: pathlib.Path, row: Mapping[str, Any]
) -> tuple[base.PatchGrid, dict[str, base.Scene]]:
  """The grid and the scenes a row names, from what the catalogue answered before, or found in it again."""
  px = shop.settings['patch_px']
  patch_grid = base.PatchGrid(row['epsg'], row['x0_m'], row['y0_m'], px, px, shop.settings['pixel_m'])
  scenes = {}
  for sensor in shop.spec.sensors:
    wanted = row[f'{_FIELD[sensor]}_scene']
    scene = catalogue.find(folder, sensor, shop.blocks[row['block']], wanted)
    if scene is None:
      start = datetime.datetime.fromtimestamp(row[f'{_FIELD[sensor]}_time'], datetime.UTC)
      outline = base.split_antimeridian(patch_grid.outline_lonlat())
      found = shop.source.search(sensor, outline, start, start + datetime.timedelta(seconds=1))
      scene = next((s for s in found if s.id == wanted), None)
    if scene is None:
      raise Unfit(f'{sensor}: the source no longer lists scene {wanted}')
    scenes[sensor] = scene
  return patch_grid, scenes


def _pixels(shop: Workshop, scenes: Mapping[str, base.Scene], sensor: str, patch_grid: base.PatchGrid) -> np.ndarray:
  """One sensor's pixels in storage form; Unfit where there is not one."""
  if sensor not in scenes:
    raise Unfit(f'{sensor}: the source has no scene of it here')
  bands = shop.spec.s2_bands if sensor == 'sentinel2' else shop.spec.s1_bands
  try:
    patch = shop.source.read(scenes[sensor], patch_grid, bands)
    stored = patch.to_storage()
  except Exception as e:
    raise Unfit(f'{sensor}: {type(e).__name__}: {e}') from e
  if not (stored != (0 if sensor == 'sentinel2' else -32768)).any():
    if np.issubdtype(patch.values.dtype, np.floating) and np.isnan(patch.values[patch.valid]).any():
      raise Unfit(f'{sensor}: every valid pixel is NaN')
    raise Unfit(f'{sensor}: all pixels are nodata')
  return stored


def _labels(shop: Workshop, place: base.Place | None, patch_grid: base.PatchGrid) -> dict[str, np.ndarray]:
  """The source's own maps first, then the label sources', else 0.

  Returns:
    'corine' uint8 [H, W], 'osm' uint16 [H, W] and, in a corpus with a land-cover map, 'landcover' uint8 [H, W].
  """
  found: dict[str, np.ndarray] = {}
  if place is not None and hasattr(shop.source, 'labels'):
    found |= shop.source.labels(place)
  elif shop.makes_vectors and not shop.labels.keys() & {'corine', 'osm'}:
    found |= _made_labels(shop.source, patch_grid)
  for kind, source in shop.labels.items():
    if kind not in found:
      found[kind] = source.read(patch_grid)
  main = ('corine', 'landcover') if shop.landcover else ('corine',)
  if place is None and not any(found[kind].any() for kind in main if kind in found):
    raise Unfit(f'{" and ".join(main)}: not one pixel has a class here')
  fields = schema.tensor_fields(shop.spec, patch_grid.height_px, labelled=True, landcover=bool(shop.landcover))
  return {kind: found.get(kind, np.zeros(fields[kind].shape, fields[kind].dtype)) for kind in _LABELS if kind in fields}


def _level1(labels: Mapping[str, np.ndarray], classes: tuple[legend.MapClass, ...]) -> np.ndarray:
  """int32 [H, W]: CORINE level-1 class, of the land-cover map where CORINE has none; -1 where neither has one."""
  found = legend.level_lookup(1)[labels['corine']]
  return np.where(found < 0, legend.map_level1_lookup(classes)[labels['landcover']], found) if classes else found


def _made_labels(source: Any, patch_grid: base.PatchGrid) -> dict[str, np.ndarray]:
  """SyntheticEarth's CORINE polygons and OSM features around the patch, through vector files and their readers."""
  (bounds,) = patch_grid.bounds_in(4326, pad_px=_VECTOR_MARGIN_M / patch_grid.pixel_m)
  with tempfile.TemporaryDirectory() as folder:
    corine, osm = f'{folder}/corine.gpkg', f'{folder}/osm.osm.pbf'
    source.write_corine(corine, bounds)
    source.write_osm(osm, bounds)
    sources = {
      'corine': registry.build('label source', {'name': 'corine', 'path': corine}),
      'osm': registry.build('label source', {'name': 'openstreetmap', 'path': osm}),
    }
    return {kind: source.read(patch_grid) for kind, source in sources.items()}

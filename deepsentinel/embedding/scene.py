"""An area embedded window by window, in bounded memory; a killed run goes on where it was."""

import dataclasses
import json
import math
import pathlib
from typing import Any, NamedTuple

import numpy as np
import rasterio.features
import shapely
import tqdm

from deepsentinel import decoders, legend, provenance, sensors
from deepsentinel.embedding import geotiff, levels, patchtable, picture, windows
from deepsentinel.embedding.area import Polygons
from deepsentinel.embedding.inputs import SceneReader, read_ahead, valid_pixels
from deepsentinel.embedding.strips import LAST, Strips
from deepsentinel.sources import base
from deepsentinel.train.trained import Trained

_PREVIEW_PX = 1600  # longest side of the preview that the picture shows

Pixels = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Result:
  """Files of a finished embedding.

  Attributes:
    picture: always there.
    embedding: the map; None of level 'patch', which has `patches`.
    patches, header, landcover, quality: None unless the level has them.
    resumed: strips that an earlier run had finished.
  """

  picture: pathlib.Path
  embedding: pathlib.Path | None = None
  patches: pathlib.Path | None = None
  header: pathlib.Path | None = None
  landcover: pathlib.Path | None = None
  quality: pathlib.Path | None = None
  resumed: int = 0

  @property
  def files(self) -> list[pathlib.Path]:
    named = (self.embedding, self.patches, self.header, self.landcover, self.quality, self.picture)
    return [path for path in named if path is not None]


_FILES = {
  'map': {'embedding': 'embedding.tif'},
  'patch': {'patches': 'patches.parquet'},
  'header': {'embedding': 'embedding.tif', 'header': 'header.tif'},
  'landcover': {'embedding': 'embedding.tif', 'landcover': 'landcover.tif', 'quality': 'landcover_quality.tif'},
}


def embed(
  model: Trained,
  reader: SceneReader,
  grid: base.PatchGrid,
  out: pathlib.Path,
  *,
  level: str = 'map',
  area: Polygons | None = None,
  window_px: int = 0,
  check_bands: bool = True,
  progress: bool = True,
) -> Result:
  """Writes the files of a level and a picture, embedding.png, into `out`.

  'map': embedding.tif, one vector a cell of the encoder. 'patch': patches.parquet, one vector a training crop. 'header'
  and 'landcover': embedding.tif and, a value a pixel, header.tif, or landcover.tif and landcover_quality.tif.

  Args:
    model: a checkpoint.
    reader: of the pixels.
    grid: the area's box, at the model's pixel size.
    out: folder; one that holds an unfinished embedding of the same inputs is gone on with.
    level: one of levels.LEVELS.
    area: what lies outside of it is nodata; None takes all of the grid.
    window_px: side of the encoder's window; 0 chooses.
    check_bands: looks first whether the pixels are in the order and the unit of the model's bands.
    progress: shows a bar.
  Raises:
    ValueError: the model was not trained for these pixels, lacks the level, or `out` holds something else.
  """
  levels.require(model, level, mask_clouds=reader.mask_clouds)
  model.spec.require(reader.spec, subsets=model.subsets)
  model, layout = _planned(model, (grid.height_px, grid.width_px), level, window_px)
  job = _Job(model, reader, grid, out, level, area, layout)
  if job.finished():
    return dataclasses.replace(job.result, resumed=layout.strips)
  levels.warn_of_masks(model, reader)
  if check_bands and not job.begun:
    levels.look_at_pixels(model, reader, grid)
  resumed = job.start()
  with tqdm.tqdm(
    total=layout.strips * layout.tiles_a_strip,
    initial=resumed * layout.tiles_a_strip,
    desc='Embedding',
    unit=' tiles',
    disable=not progress,
  ) as bar:
    job.fill_strips(bar)
  job.finish()
  return dataclasses.replace(job.result, resumed=resumed)


def _planned(model: Trained, size: tuple[int, int], level: str, window_px: int) -> tuple[Trained, windows.Layout]:
  """The model as it looks at an area of (height, width) pixels, and its windows.

  Of an encoder with attention only attention itself is confined to windows of the training crop, which overlap by half
  and are blended; its convolutions see what lies around them. Were whole crops encoded, the zeros that convolutions are
  padded with would mark the borders of each.
  """
  encoder = model.module.encoder
  stride, crop_px = encoder.stride, model.crop_px
  if level == 'patch':
    return model, windows.plan_patches(*size, stride=stride, crop_px=crop_px, window_px=window_px)
  if encoder.reach_px is None:
    local = encoder.local(windows.whole_cells(window_px, crop_px, stride) * stride)
    if local is not None:
      model = dataclasses.replace(model, module=model.module.clone(encoder=local))
      encoder, window_px = local, 0
  reach = encoder.reach_px
  if reach is not None and level in levels.PIXELS:
    reach += decoders.HEADER_REACH_PX
  return model, windows.plan(
    *size, stride=stride, reach_px=reach, crop_px=crop_px, window_px=window_px, lattice_px=encoder.lattice_px
  )


class _Kind(NamedTuple):
  """An array of a strip: values a side of a cell, what a value is made of, its type, and the value of nothing."""

  scale: int
  value: tuple[int, ...]
  dtype: Any
  nothing: float


@dataclasses.dataclass
class _Job:
  model: Trained
  reader: SceneReader
  grid: base.PatchGrid
  out: pathlib.Path
  level: str
  area: Polygons | None
  layout: windows.Layout

  def __post_init__(self):
    self.strips = Strips(self.out / 'strips')
    longest = max(self.grid.height_px, self.grid.width_px)
    # A power of two that divides a cell, so that the preview's pixels do not straddle strips.
    self.shrink = math.gcd(self.layout.stride, 2 ** max(0, math.ceil(math.log2(longest / _PREVIEW_PX))))
    files = {field: self.out / name for field, name in _FILES[self.level].items()}
    self.result = Result(self.out / 'embedding.png', **files)
    self.outline = None if self.area is None else self.area.within(self.grid.epsg)
    self.network = levels.Network(self.model, self.reader.spec, self.level, self.layout.batch)

  @property
  def attention_px(self) -> int:
    """How far attention looks; 0 without attention."""
    encoder = self.model.module.encoder
    if encoder.reach_px is None:
      return self.layout.window_px
    return getattr(encoder, 'local_cells', 0) * encoder.stride

  @property
  def identity(self) -> dict[str, Any]:
    """What a result depends on, as JSON gives it back."""
    identity = {
      'checkpoint_sha256': self.model.sha256,
      'level': self.level,
      'grid': dataclasses.asdict(self.grid),
      'area': self.area.sha256 if self.area else None,
      'windows': dataclasses.asdict(self.layout),
      'attention_px': self.attention_px,
      'inputs': self.reader.describe(),
      'clouds_masked_by': self.reader.masked_by or None,
      'spec': self.reader.spec.to_dict(),
      'synthetic': self.reader.synthetic,
    }
    return json.loads(json.dumps(identity))

  def _journal(self) -> dict[str, Any] | None:
    path = self.out / 'embedding.json'
    try:
      return json.loads(path.read_text())
    except FileNotFoundError:
      return None
    except ValueError as error:
      raise ValueError(f'{path} cannot be read ({error}). Remove it, or pass another --out.') from error

  def finished(self) -> bool:
    """Whether an earlier run has finished this; ValueError if `out` holds another embedding."""
    journal = self._journal()
    if journal is None:
      for path in self.result.files:
        if path.exists():
          raise ValueError(f'{self.out} holds an {path.name} of unknown origin. Pass another --out, or remove it.')
      return False
    was, now = journal['job'], self.identity
    differing = sorted(key for key in now if was.get(key) != now[key])
    begun = journal['complete'] or self.begun
    if differing == ['windows'] and journal['complete'] and not self.layout.blend:
      differing = []  # of such an encoder they change speed and memory alone
    if differing and not begun:
      return False  # an earlier command failed before its first strip: nothing is lost
    if differing:
      was_now = '; '.join(f'{key}: {_short(was.get(key))} there, {_short(now[key])} now' for key in differing)
      raise ValueError(f'{self.out} holds another embedding ({was_now}). Pass another --out, or remove that folder.')
    done = journal['complete'] and all(f.exists() for f in self.result.files)
    if done and self.strips.folder.exists():  # killed while it tidied up
      self.strips.remove()
    return done

  @property
  def begun(self) -> bool:
    """Whether a strip is finished."""
    return any(self.strips.folder.glob(f'{LAST}_*.npy'))

  def start(self) -> int:
    """Makes the folder and its journal; the number of strips that are there already."""
    self.out.mkdir(parents=True, exist_ok=True)
    provenance.write_json(self.out / 'embedding.json', {'job': self.identity, 'complete': False})
    return sum(self.strips.finished(i) for i in range(self.layout.strips))

  @property
  def kinds(self) -> dict[str, _Kind]:
    """The arrays of a strip by name."""
    stride, spec, features = self.layout.stride, self.reader.spec, self.model.module.encoder.features
    shown = picture.preview_bands(spec)
    nodata = sensors.S2_NODATA if sensors.sensor_of(shown) == 'sentinel2' else sensors.S1_NODATA
    kinds = {
      'embedding': _Kind(1, (features,), np.float32, np.nan),
      'preview': _Kind(stride // self.shrink, (len(shown),), np.int32, nodata),
    }
    if self.level == 'patch':
      kinds['clear'] = _Kind(1, (), np.float32, 0)
    if self.reader.mask_clouds:
      kinds['masked'] = _Kind(1, (2,), np.int32, 0)  # pixels of a cell under masked cloud, and in the area
    if self.level == 'header':
      channels = decoders.block_channels(features, self.model.module.header_width)[-1]
      kinds['header'] = _Kind(stride, (channels,), np.float16, np.nan)
    if self.level == 'landcover':
      kinds['landcover'] = _Kind(stride, (), np.uint8, geotiff.LANDCOVER_NODATA)
      kinds['quality'] = _Kind(stride, (len(geotiff.QUALITY_BANDS),), np.uint8, geotiff.QUALITY_NODATA)
    return kinds

  def fill_strips(self, bar: tqdm.tqdm) -> None:
    wanted = [i for i in range(self.layout.strips) if not self.strips.finished(i)]
    tiles = [(strip, tile) for strip in wanted for tile in range(self.layout.tiles_a_strip)]
    pixels, kinds = read_ahead(self._read, tiles), self.kinds
    for strip in wanted:
      first, after = self.layout.strip_rows(strip)
      rows, cols = after - first, self.layout.cols
      shapes = {name: ((rows * k.scale, cols * k.scale, *k.value), k.dtype) for name, k in kinds.items()}
      with self.strips.write(strip, shapes) as arrays:
        for tile in range(self.layout.tiles_a_strip):
          begin, end = self.layout.tile_cols(tile)
          values = self._tile(*next(pixels))
          for name, kind in kinds.items():
            part = arrays[name][:, begin * kind.scale : end * kind.scale]
            part[:] = values[name][: part.shape[0], : part.shape[1]] if name in values else kind.nothing
          bar.update()

  def _read(self, tile: tuple[int, int]) -> tuple[Pixels, Pixels, np.ndarray]:
    """A tile's own pixels, all that its windows see, and which of its own belong to the area.

    Windows see the scenes mirrored beyond their edges. A tile that lies outside the area is not read.
    """
    row, col = self.layout.read_origin_px(*tile)
    window = self.grid.window(row, col, self.layout.read_px, self.layout.read_px)
    own = self.layout.tile_px
    inside = self._inside(window.window(own.start, own.start, own.stop - own.start, own.stop - own.start))
    if not inside.any():
      return {}, {}, inside
    pixels = self.reader.read(window, clouds=self.level == 'landcover' or self.reader.mask_clouds)
    seen = self.reader.mirrored(window, {field: values for field, values in pixels.items() if field != 'cloud'})
    return {field: values[own, own] for field, values in pixels.items()}, seen, inside

  def _inside(self, grid: base.PatchGrid) -> np.ndarray:
    """bool [H, W]: the pixels whose centres lie in the area."""
    shape = (grid.height_px, grid.width_px)
    if self.outline is None:
      return np.ones(shape, bool)
    near = shapely.intersection(self.outline, shapely.box(*grid.bounds))
    if near.is_empty:
      return np.zeros(shape, bool)
    return rasterio.features.geometry_mask([near], shape, grid.transform, invert=True)

  def _tile(self, pixels: Pixels, seen: Pixels, inside: np.ndarray) -> dict[str, np.ndarray]:
    """Arrays of a tile by name; those of which there is nothing are left out."""
    if not pixels:
      return {}
    layout = self.layout
    # Edge cells reach beyond the area's box where the scene has pixels.
    valid = valid_pixels(pixels) & inside
    shown = {field: pixels[field] for field in seen}
    if self.outline is not None:
      nothing = {'s2': sensors.S2_NODATA, 's1': sensors.S1_NODATA}
      shown = {field: np.where(inside[..., None], values, nothing[field]) for field, values in shown.items()}
    out = {'preview': picture.preview(shown, self.reader.spec, self.shrink)}
    if self.reader.mask_clouds:
      out['masked'] = np.stack([self._by_cell(inside & (pixels['cloud'] == 1)), self._by_cell(inside)], -1)
    made = self._network(seen, valid) if valid.any() else {}
    if self.level == 'landcover':
      probabilities = layout.join(made['probabilities'], layout.stride) if made else None
      out['quality'] = levels.quality(probabilities, pixels, valid, inside)
      if probabilities is not None:
        out['landcover'] = levels.landcover(probabilities, valid)
    if not made:
      return out
    known = self._by_cell(valid)
    out['embedding'] = np.where((known > 0)[..., None], layout.join(made['embedding']), np.nan)
    if self.level == 'patch':
      clear = valid & (pixels['cloud'] != 1) if self.reader.mask_clouds else valid
      out['clear'] = self._by_cell(clear) / layout.stride**2
    if self.level == 'header':
      out['header'] = np.where(valid[..., None], layout.join(made['channels'], layout.stride), np.nan)
    return out

  def _by_cell(self, pixels: np.ndarray) -> np.ndarray:
    """How many pixels bool [t * stride, t * stride] of a tile's cells are True: int [t, t]."""
    layout = self.layout
    return pixels.reshape(layout.tile, layout.stride, layout.tile, layout.stride).sum((1, 3))

  def _network(self, seen: Pixels, valid: np.ndarray) -> dict[str, np.ndarray]:
    """The network's outputs for a tile's windows; 0 for those that reach no valid pixel of the tile."""
    layout = self.layout
    around = np.zeros((layout.read_px, layout.read_px), bool)
    around[layout.tile_px, layout.tile_px] = valid
    used: np.ndarray = np.any(layout.cut(around), axis=(1, 2))
    made = self.network({field: layout.cut(values)[used] for field, values in seen.items()})
    out = {}
    for name, values in made.items():
      out[name] = np.zeros((len(used), *values.shape[1:]), values.dtype)
      out[name][used] = values
    return out

  def finish(self) -> None:
    """Strips to the files of the level and the picture; the strips go when everything else is there."""
    result, layout, tags, target = self.result, self.layout, self._tags(), None
    starts = [layout.strip_rows(i)[0] for i in range(layout.strips)]
    rows = [row * layout.stride for row in starts]
    rule = f'NaN where none of the {layout.stride} x {layout.stride} pixels of a cell is in the area and has data'
    if result.embedding:
      nodata = {'nodata_rule': rule}
      geotiff.write_embedding(result.embedding, self.strips, starts, self.grid, layout.stride, {**tags, **nodata})
    if result.patches:
      patchtable.write(result.patches, self.strips, layout, self.grid, tags)
    if result.header:
      geotiff.write_header(result.header, self.strips, rows, self.grid, tags)
    if result.landcover and result.quality:
      target = legend.target_of(self.model.config['finetune'])
      geotiff.write_landcover(result.landcover, self.strips, rows, self.grid, self.model.classes, target.colours, tags)
      geotiff.write_quality(result.quality, self.strips, rows, self.grid, tags)
    notes = ['Model trained on SyntheticEarth, a simulated world'] if self.model.synthetic else []
    if 'masked_share' in tags:
      notes.append(f'Clouds masked by {tags["clouds_masked_by"]}: {float(tags["masked_share"]):.0%} of the pixels')
    picture.draw(result.picture, self.strips, self.reader, self.grid, layout, self.shrink, self.level, target, notes)
    provenance.write_json(self.out / 'embedding.json', {'job': self.identity, 'complete': True, 'tags': tags})
    self.strips.remove()

  def _tags(self) -> dict[str, str]:
    """Of every file: what it was made from."""
    inputs, masked = self.reader.describe(), {}
    if self.reader.mask_clouds:
      parts = (self.strips.load('masked', i).sum((0, 1)) for i in range(self.layout.strips))
      under, pixels = np.sum(list(parts), 0)
      masked = {
        'clouds_masked_by': self.reader.masked_by,
        'masked_share': f'{under / max(pixels, 1):.4f}',
        'masked_cloud_in_training': f'{levels.masked_in_training(self.model):g}',
      }
    return {
      'checkpoint_sha256': self.model.sha256,
      'checkpoint_stage': self.model.stage,
      'checkpoint_step': str(self.model.step),
      'checkpoint_synthetic': str(self.model.synthetic).lower(),
      'bands': ','.join(self.reader.spec.bands),
      'model_bands': ','.join(self.model.bands),
      'source': ','.join(sorted({i['source'] for i in inputs})),
      'scenes': ','.join(i['scene'] for i in inputs),
      'times': ','.join(i['time'] for i in inputs),
      'level': self.level,
      'attention_px': str(self.attention_px or ''),
      'synthetic': str(self.reader.synthetic).lower(),
      **masked,
    }


def _short(value: Any) -> str:
  text = json.dumps(value)
  return text if len(text) <= 100 else text[:100] + '...'

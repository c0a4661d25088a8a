"""A scene, or a pair of scenes, embedded window by window, in bounded memory; a killed run goes on where it was."""

import concurrent.futures
import dataclasses
import functools
import json
import math
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import tqdm

from deepsentinel import legend, provenance
from deepsentinel.decoders import HEADER_REACH_PX
from deepsentinel.embedding import geotiff, picture, windows
from deepsentinel.embedding.inputs import SceneReader, valid_pixels
from deepsentinel.embedding.strips import LAST, Strips
from deepsentinel.sources import base
from deepsentinel.train.inputs import Prepare
from deepsentinel.train.trained import Trained

LEVELS = ('embedding', 'landcover')
_PREVIEW_PX = 1600  # longest side of the preview that the picture shows
_NODATA_RULE = 'NaN where none of the 16 x 16 pixels of a cell has data in any band'


@dataclasses.dataclass(frozen=True)
class Result:
  """Files of a finished embedding.

  Attributes:
    embedding, picture: always there.
    landcover: None unless asked for.
    resumed: strips that an earlier run had finished.
  """

  embedding: pathlib.Path
  picture: pathlib.Path
  landcover: pathlib.Path | None
  resumed: int


def embed(
  model: Trained,
  reader: SceneReader,
  grid: base.PatchGrid,
  out: pathlib.Path,
  *,
  level: str = 'embedding',
  window_px: int = 0,
  progress: bool = True,
) -> Result:
  """Writes `out`/embedding.tif, embedding.png and, with level 'landcover', landcover.tif.

  Args:
    model: a checkpoint.
    reader: of the pixels.
    grid: the area, at the model's pixel size.
    out: folder; one that holds an unfinished embedding of the same inputs is gone on with.
    level: 'embedding' or 'landcover' (both).
    window_px: side of the encoder's window; 0 chooses.
    progress: shows a bar.
  Raises:
    ValueError: the model was not trained for these pixels, has no classes, or `out` holds something else.
  """
  if level not in LEVELS:
    raise ValueError(f'Unknown level {level!r}. Known: {", ".join(LEVELS)}.')
  if level == 'landcover' and not model.classes:
    raise ValueError(
      f'--level=landcover needs a fine-tuned model; this is the {model.stage} stage. Fine-tune it '
      '(python -m deepsentinel.main), or leave out --level.'
    )
  if level == 'landcover' and legend.target_of(model.config['finetune']).is_scene:
    raise ValueError(
      '--level=landcover needs a model that predicts every pixel; this one gives one answer a patch '
      f'(config.finetune.target={model.config["finetune"]["target"]!r}). Leave out --level.'
    )
  model.spec.require(reader.spec, subsets=model.subsets)
  encoder = model.module.encoder
  reach = encoder.reach_px
  if reach is not None and level == 'landcover':
    reach += HEADER_REACH_PX
  layout = windows.plan(
    grid.height_px, grid.width_px, stride=encoder.stride, reach_px=reach, crop_px=model.crop_px, window_px=window_px
  )
  job = _Job(model, reader, grid, out, level, layout)
  if job.finished():
    return dataclasses.replace(job.result, resumed=layout.strips)
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


@dataclasses.dataclass
class _Job:
  model: Trained
  reader: SceneReader
  grid: base.PatchGrid
  out: pathlib.Path
  level: str
  layout: windows.Layout

  def __post_init__(self):
    self.strips = Strips(self.out / 'strips')
    longest = max(self.grid.height_px, self.grid.width_px)
    # A power of two that divides a cell, so that the preview's pixels do not straddle strips.
    self.shrink = min(self.layout.stride, 2 ** max(0, math.ceil(math.log2(longest / _PREVIEW_PX))))
    self.result = Result(
      self.out / 'embedding.tif',
      self.out / 'embedding.png',
      self.out / 'landcover.tif' if self.level == 'landcover' else None,
      0,
    )
    statistics = self.model.statistics
    prepare = Prepare(
      records=self.reader.spec,
      bands=tuple(self.model.bands),
      mean=tuple(statistics['mean']),
      std=tuple(statistics['std']),
      seed=0,
    )
    self.prepare = jax.jit(functools.partial(prepare, step=0, train=False))

  @property
  def identity(self) -> dict[str, Any]:
    """What a result depends on, as JSON gives it back."""
    identity = {
      'checkpoint_sha256': self.model.sha256,
      'level': self.level,
      'grid': dataclasses.asdict(self.grid),
      'windows': dataclasses.asdict(self.layout),
      'inputs': self.reader.describe(),
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
      if self.result.embedding.exists():
        raise ValueError(f'{self.out} holds an embedding.tif of unknown origin. Pass another --out, or remove it.')
      return False
    was, now = journal['job'], self.identity
    differing = sorted(key for key in now if was.get(key) != now[key])
    begun = journal['complete'] or any(self.strips.folder.glob(f'{LAST}_*.npy'))
    if differing and not begun:
      return False  # an earlier command failed before its first strip: nothing is lost
    if differing:
      was_now = '; '.join(f'{key}: {_short(was.get(key))} there, {_short(now[key])} now' for key in differing)
      raise ValueError(f'{self.out} holds another embedding ({was_now}). Pass another --out, or remove that folder.')
    files = [f for f in (self.result.embedding, self.result.picture, self.result.landcover) if f is not None]
    done = journal['complete'] and all(f.exists() for f in files)
    if done and self.strips.folder.exists():  # killed while it tidied up
      self.strips.remove()
    return done

  def start(self) -> int:
    """Makes the folder and its journal; the number of strips that are there already."""
    self.out.mkdir(parents=True, exist_ok=True)
    provenance.write_json(self.out / 'embedding.json', {'job': self.identity, 'complete': False})
    return sum(self.strips.finished(i) for i in range(self.layout.strips))

  def fill_strips(self, bar: tqdm.tqdm) -> None:
    wanted = [i for i in range(self.layout.strips) if not self.strips.finished(i)]
    tiles = [(strip, tile) for strip in wanted for tile in range(self.layout.tiles_a_strip)]
    pixels = _read_ahead(self._read, tiles)
    for strip in wanted:
      first, after = self.layout.strip_rows(strip)
      rows, stride = after - first, self.layout.stride
      shapes: dict[str, tuple[tuple[int, ...], Any]] = {
        'embedding': ((rows, self.layout.cols, self.model.module.encoder.features), np.float32),
        'preview': (
          (rows * stride // self.shrink, self.layout.cols * stride // self.shrink, self._preview_channels),
          np.int32,
        ),
      }
      if self.level == 'landcover':
        shapes['landcover'] = ((rows * stride, self.layout.cols * stride), np.uint8)
      with self.strips.write(strip, shapes) as arrays:
        for tile in range(self.layout.tiles_a_strip):
          begin, end = self.layout.tile_cols(tile)
          for name, values in self._tile(*next(pixels)).items():
            scale = {'embedding': 1, 'preview': stride // self.shrink, 'landcover': stride}[name]
            arrays[name][:, begin * scale : end * scale] = values[: rows * scale, : (end - begin) * scale]
          bar.update()

  @property
  def _preview_channels(self) -> int:
    return len(picture.preview_bands(self.reader.spec))

  def _read(self, tile: tuple[int, int]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A tile's pixels, and the same with the scenes mirrored beyond their edges, which is what the encoder sees."""
    row, col = self.layout.read_origin_px(*tile)
    side = self.layout.read_px
    window = self.grid.window(row, col, side, side)
    pixels = self.reader.read(window)
    return pixels, self.reader.mirrored(window, pixels)

  def _tile(self, pixels: dict[str, np.ndarray], seen: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The kept part of a tile: 'embedding' f32[t, t, E], 'preview', and if wanted 'landcover' uint8[t * 16, t * 16]."""
    layout = self.layout
    inside = slice(layout.margin * layout.stride, layout.read_px - layout.margin * layout.stride)
    # Edge cells reach beyond the area where the scene has pixels; beyond the scene they see it mirrored.
    valid = valid_pixels(pixels)[inside, inside]
    # [t * 16, t * 16] -> [t, t]
    cells = np.any(valid.reshape(layout.tile, layout.stride, layout.tile, layout.stride), axis=(1, 3))
    kept = {field: values[inside, inside] for field, values in pixels.items()}
    out = {'preview': picture.preview(kept, self.reader.spec, self.shrink)}
    features = self.model.module.encoder.features
    if not cells.any():
      out['embedding'] = np.full((layout.tile, layout.tile, features), np.nan, np.float32)
      if self.level == 'landcover':
        out['landcover'] = np.full(valid.shape, geotiff.LANDCOVER_NODATA, np.uint8)
      return out
    cut = {field: layout.cut(values) for field, values in seen.items()}
    maps, classes = self._run(cut)
    out['embedding'] = np.where(cells[..., None], layout.join(maps), np.nan).astype(np.float32)
    if classes is not None:
      named = layout.join(classes, layout.stride) + 1
      out['landcover'] = np.where(valid, named, geotiff.LANDCOVER_NODATA).astype(np.uint8)
    return out

  def _run(self, cut: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray | None]:
    """Feature maps f32[N, w, w, F] and, if wanted, classes int[N, w * 16, w * 16] of a tile's N windows."""
    number = len(next(iter(cut.values())))
    maps, classes = [], []
    for at in range(0, number, self.layout.batch):
      batch = {field: _padded(values[at : at + self.layout.batch], self.layout.batch) for field, values in cut.items()}
      # One view: [N, 1, w, w, C]
      prepared = self.prepare({field: values[:, None] for field, values in batch.items()})
      images, present = prepared['images'][:, 0], prepared['present'][:, 0]
      maps.append(np.asarray(self.model.encode(images, present).feature_map))
      if self.level == 'landcover':
        classes.append(np.asarray(self.model.predict(images, present)))
    joined = np.concatenate(maps)[:number]
    return joined, np.concatenate(classes)[:number] if classes else None

  def finish(self) -> None:
    """Strips to GeoTIFFs and the picture; the strips go when everything else is there."""
    layout, number = self.layout, range(self.layout.strips)
    tags = self._tags()
    starts = [layout.strip_rows(i)[0] for i in number]
    geotiff.write_embedding(
      self.result.embedding, self.strips, starts, self.grid, layout.stride, {**tags, 'nodata_rule': _NODATA_RULE}
    )
    target = None
    if self.result.landcover is not None:
      target = legend.target_of(self.model.config['finetune'])
      starts = [row * layout.stride for row in starts]
      geotiff.write_landcover(
        self.result.landcover, self.strips, starts, self.grid, self.model.classes, target.colours, tags
      )
    picture.draw(self.result.picture, self.strips, self.reader, self.grid, layout, self.shrink, target)
    provenance.write_json(self.out / 'embedding.json', {'job': self.identity, 'complete': True, 'tags': tags})
    self.strips.remove()

  def _tags(self) -> dict[str, str]:
    """Of every file: what it was made from."""
    inputs = self.reader.describe()
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
      'synthetic': str(self.reader.synthetic).lower(),
    }


def _padded(values: np.ndarray, number: int) -> np.ndarray:
  """Rows up to `number`, so that the encoder is compiled for one shape."""
  return np.concatenate([values, np.repeat(values[:1], number - len(values), 0)]) if len(values) < number else values


def _read_ahead(read, tiles: list[tuple[int, int]]) -> Iterator[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
  """`read` of every tile in order, the next one on a thread while the caller works on this one."""
  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    ahead = [pool.submit(read, tile) for tile in tiles[:1]]
    for i in range(len(tiles)):
      pixels = ahead.pop().result()
      if i + 1 < len(tiles):
        ahead.append(pool.submit(read, tiles[i + 1]))
      yield pixels


def _short(value: Any) -> str:
  text = json.dumps(value)
  return text if len(text) <= 100 else text[:100] + '...'

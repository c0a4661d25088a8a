"""The picture of an embedding: true colour (or radar) beside the three main directions of the vectors as colours."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from deepsentinel import composites, legend, provenance, sensors
from deepsentinel.embedding import geotiff
from deepsentinel.embedding.inputs import SceneReader
from deepsentinel.embedding.strips import Strips
from deepsentinel.embedding.windows import Layout
from deepsentinel.sources import base

_SAMPLE_CELLS = 20_000
_BLOCK_CELLS = 512
_MAP_PX = 1600  # longest side of what is drawn
_STRETCH = (2, 98)  # percentiles
_SCALE = 'viridis'
_MOST_LINES = 6  # of scenes; the tags of the files name all


def preview_bands(spec: sensors.SensorSpec) -> tuple[str, ...]:
  """Bands the picture of the imagery is made of: true colour, else radar, else the first band."""
  for bands in (('B4', 'B3', 'B2'), ('VV', 'VH')):
    if set(bands) <= set(spec.bands):
      return bands
  return spec.bands[:1]


def preview(pixels: dict[str, np.ndarray], spec: sensors.SensorSpec, shrink: int) -> np.ndarray:
  """int32 [H / shrink, W / shrink, C] means of the preview's bands in storage units; radar averaged in power.

  Args:
    pixels: 's2' uint16 [H, W, C2], 's1' int16 [H, W, C1], in the bands of `spec`.
    spec: of the pixels.
    shrink: pixels a side of a pixel of the preview.
  """
  bands = preview_bands(spec)
  s2, s1 = spec.indices(bands)
  field, index, nodata = ('s2', s2, sensors.S2_NODATA) if s2 else ('s1', s1, sensors.S1_NODATA)
  values = pixels[field][..., index]
  valid = values != nodata
  linear = values.astype(np.float64) if field == 's2' else sensors.to_power(values, 'db_x100')
  count = _block_sums(valid.astype(np.float64), shrink)
  mean = _block_sums(np.where(valid, linear, 0), shrink) / np.maximum(count, 1)
  if field == 's1':
    mean = sensors.from_power(np.where(count > 0, mean, 1), 'db_x100')
  return np.where(count > 0, np.rint(mean), nodata).astype(np.int32)


def _block_sums(values: np.ndarray, side: int) -> np.ndarray:
  """Sums [H / side, W / side, C] of float [H, W, C]; rows first, which lie one behind another in memory."""
  h, w, c = values.shape
  rows = values.reshape(h // side, side, w, c).sum(1)
  return rows.reshape(h // side, w // side, side, c).sum(2)


@dataclasses.dataclass(frozen=True)
class Colours:
  """From an embedding to a colour.

  Attributes:
    mean: [E] of the sample.
    directions: [3, E], the sample's main directions, each with its largest entry positive.
    low, high: [3], the ends of the stretch.
    explained: [3], shares of the variance.
  """

  mean: np.ndarray
  directions: np.ndarray
  low: np.ndarray
  high: np.ndarray
  explained: np.ndarray

  def __call__(self, vectors: np.ndarray) -> np.ndarray:
    """float [..., E] -> uint8 [..., 3]; NaN vectors in the nodata colour."""
    projected = (vectors - self.mean) @ self.directions.T
    scaled = np.clip((projected - self.low) / np.maximum(self.high - self.low, 1e-12), 0, 1)
    missing = np.isnan(projected).any(-1)
    rgb = np.rint(np.where(missing[..., None], 0, scaled) * 255).astype(np.uint8)
    rgb[missing] = composites.NODATA_RGB
    return rgb


def fit_colours(sample: np.ndarray) -> Colours:
  """Principal components of a sample float [N, E] without NaN, and their stretch. The result depends on it alone."""
  sample = np.asarray(sample, np.float64)
  if len(sample) == 0:
    sample = np.zeros((1, sample.shape[1]))
  mean = sample.mean(0)
  variances, vectors = np.linalg.eigh(np.atleast_2d((sample - mean).T @ (sample - mean)) / len(sample))
  directions = vectors[:, ::-1][:, :3].T
  # An eigenvector's sign is arbitrary: its largest entry is made positive.
  largest = np.take_along_axis(directions, np.abs(directions).argmax(1)[:, None], 1)
  directions = directions * np.sign(largest)
  low, high = np.percentile((sample - mean) @ directions.T, _STRETCH, axis=0)
  explained = variances[::-1][:3] / max(variances.sum(), 1e-30)
  return Colours(mean, directions, low, high, explained)


def cell_means(strips: Strips, layout: Layout, around: int = 1) -> Iterator[tuple[int, int, np.ndarray]]:
  """(row, col, float32 [h, w, E]) in blocks that cover the area: means over 3 x 3 cells, NaN where the centre is NaN.

  A single cell's vector is noisier than what training compares, the mean over a whole crop; so pictures show means.
  With `around` 0 the vectors themselves.
  """
  for strip in range(layout.strips):
    first, after = layout.strip_rows(strip)
    rows = [strips.load('embedding', strip)]
    if strip:
      rows.insert(0, strips.load('embedding', strip - 1)[-1:])
    if strip + 1 < layout.strips:
      rows.append(strips.load('embedding', strip + 1)[:1])
    above = 1 if strip else 0
    for col in range(0, layout.cols, _BLOCK_CELLS):
      end, left = min(col + _BLOCK_CELLS, layout.cols), 1 if col else 0
      block = np.concatenate([part[:, col - left : end + 1] for part in rows])
      if not around:
        yield first, col, block[above : above + after - first, left : left + end - col]
        continue
      known = np.isfinite(block).all(-1, keepdims=True)
      values = _box_sum(np.where(known, block, 0))
      means = np.where(known, values / np.maximum(_box_sum(known.astype(np.float32)), 1), np.nan)
      yield first, col, means[above : above + after - first, left : left + end - col].astype(np.float32)


def _box_sum(values: np.ndarray) -> np.ndarray:
  """Sums over 3 x 3 of [H, W, ...]; beyond the edge lie zeros."""
  for axis in (0, 1):
    padding = [(1, 1) if a == axis else (0, 0) for a in range(values.ndim)]
    padded = np.pad(values, padding)
    length = values.shape[axis]
    parts = [np.take(padded, range(k, k + length), axis) for k in range(3)]
    values = parts[0] + parts[1] + parts[2]
  return values


def sample_cells(strips: Strips, layout: Layout, seed: int = 0, around: int = 1) -> np.ndarray:
  """float32 [N, E]: `cell_means` where there are any, of the same cells for the same area whatever its strips."""
  total = layout.rows * layout.cols
  rng = np.random.default_rng(seed)
  chosen = np.zeros((layout.rows, layout.cols), bool)
  chosen.flat[rng.choice(total, min(total, _SAMPLE_CELLS), replace=False)] = True
  numbers, parts = [], []
  for row, col, means in cell_means(strips, layout, around):
    at = np.argwhere(chosen[row : row + means.shape[0], col : col + means.shape[1]])
    parts.append(means[at[:, 0], at[:, 1]])
    numbers.append((row + at[:, 0]) * layout.cols + col + at[:, 1])
  cells = np.concatenate(parts)[np.argsort(np.concatenate(numbers))]
  return cells[np.isfinite(cells).all(1)]


def _embedding_rgb(strips: Strips, layout: Layout, colours: Colours, around: int) -> np.ndarray:
  step = _step(max(layout.rows, layout.cols))
  rgb = np.empty((-(-layout.rows // step), -(-layout.cols // step), 3), np.uint8)
  for row, col, means in cell_means(strips, layout, around):
    part = colours(means[-row % step :: step, -col % step :: step])
    top, left = -(-row // step), -(-col // step)
    rgb[top : top + part.shape[0], left : left + part.shape[1]] = part
  return rgb


def _joined(
  strips: Strips, layout: Layout, name: str, step: int, convert: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
  """Strips as one picture, every `step`-th value."""
  parts, row = [], 0
  for strip in range(layout.strips):
    values = strips.load(name, strip)
    parts.append(convert(np.asarray(values[-row % step :: step, ::step])))
    row += len(values)
  return np.concatenate(parts)


def _step(longest: int) -> int:
  return max(1, -(-longest // _MAP_PX))


class Panel(NamedTuple):
  """One map of the picture: its title, uint8 [H, W, 3], and the name of the scale from 0 to 1 it is drawn in."""

  title: str
  image: np.ndarray
  scale: str = ''


def draw(
  path: pathlib.Path,
  strips: Strips,
  reader: SceneReader,
  grid: base.PatchGrid,
  layout: Layout,
  shrink: int,
  level: str,
  target: legend.Target | None,
  notes: Sequence[str] = (),
) -> None:
  """Writes the picture.

  Args:
    path: PNG.
    strips: all finished.
    reader: tells what the imagery is.
    grid, layout: of the area.
    shrink: of the strips' previews.
    level: 'map', 'patch', 'header' or 'landcover'.
    target: of the land-cover strips; None where there are none.
    notes: what is to be said of the model and of what it was shown.
  """
  # The last cells may reach beyond the area: pictures are cut at the area's edge.
  extent_km = (grid.width_px * grid.pixel_m / 1000, grid.height_px * grid.pixel_m / 1000)
  sides_km = (layout.cols * layout.stride * grid.pixel_m / 1000, layout.rows * layout.stride * grid.pixel_m / 1000)
  panels = [_imagery(strips, reader, grid, layout, shrink)]
  around = 0 if level == 'patch' else 1
  colours = fit_colours(sample_cells(strips, layout, around=around))
  cell_m = layout.stride * grid.pixel_m
  kind = f'{cell_m:.0f} m cells, means of 3 x 3' if around else f'patches of {cell_m:.0f} m'
  panels.append(Panel(_directions(f'Embedding, {kind}', colours), _embedding_rgb(strips, layout, colours, around)))
  step = _step(max(grid.height_px, grid.width_px))
  if level == 'header':
    sample = _joined(strips, layout, 'header', max(step, step * _MAP_PX // 200), np.asarray)
    sample = sample.reshape(-1, sample.shape[-1]).astype(np.float32)
    colours = fit_colours(sample[np.isfinite(sample).all(1)])
    image = _joined(strips, layout, 'header', step, lambda values: colours(values.astype(np.float32)))
    panels.append(Panel(_directions(f'Header, {grid.pixel_m:.0f} m, {sample.shape[1]} channels', colours), image))
  if target is not None:
    lookup = np.concatenate([[composites.NODATA_RGB], target.colours]).astype(np.uint8)
    panels.append(Panel(f'Land cover, {target.title}', _joined(strips, layout, 'landcover', step, lookup.__getitem__)))
    sure = _entropy_colours()
    image = _joined(strips, layout, 'quality', step, lambda values: sure[values[..., 0]])
    panels.append(Panel('Entropy of the class probabilities', image, 'share of the entropy of a pure guess'))
  _write(path, panels, sides_km, extent_km, _caption(reader, grid, notes), target)


def _imagery(strips: Strips, reader: SceneReader, grid: base.PatchGrid, layout: Layout, shrink: int) -> Panel:
  spec = reader.spec
  bands = preview_bands(spec)

  def convert(stored: np.ndarray) -> np.ndarray:
    if bands == ('B4', 'B3', 'B2'):
      return composites.true_colour(stored.astype(np.uint16))
    if bands == ('VV', 'VH'):
      return composites.radar(stored.astype(np.int16))
    nodata = sensors.S2_NODATA if spec.s2_bands else sensors.S1_NODATA
    shown = np.where(stored == nodata, np.nan, stored)
    return Colours(np.zeros(1), np.ones((3, 1)), *_ends(shown), np.ones(3))(shown)

  titles = {('B4', 'B3', 'B2'): 'Sentinel-2, true colour', ('VV', 'VH'): 'Sentinel-1, VV, VH, VV - VH'}
  named = titles.get(bands, bands[0])
  if reader.mask_clouds and spec.s2_bands:
    named += ', clouds masked'
  step = _step(-(-max(grid.height_px, grid.width_px) // shrink))
  return Panel(named, _joined(strips, layout, 'preview', step, convert))


def _directions(what: str, colours: Colours) -> str:
  shares = ', '.join(f'{share:.0%}' for share in colours.explained)
  return f'{what}: main directions as RGB\n({shares} of the variance)'


def _entropy_colours() -> np.ndarray:
  """uint8 [256, 3]: of the stored entropy, and of no entropy."""
  import matplotlib

  steps = np.arange(geotiff.ENTROPY_STEPS + 1) / geotiff.ENTROPY_STEPS
  table = np.full((256, 3), composites.NODATA_RGB, np.uint8)
  table[: len(steps)] = np.rint(matplotlib.colormaps[_SCALE](steps)[:, :3] * 255)
  return table


def _ends(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  finite = values[np.isfinite(values)]
  low, high = np.percentile(finite, _STRETCH) if finite.size else (0, 1)
  return np.full(3, low), np.full(3, high)


def _caption(reader: SceneReader, grid: base.PatchGrid, notes: Sequence[str]) -> str:
  described = reader.describe()
  lines = [
    f'{i["sensor"].replace("sentinel", "Sentinel-")}: {i["scene"]}, {i["time"]}' for i in described[:_MOST_LINES]
  ]
  if len(described) > _MOST_LINES:
    lines.append(f'and {len(described) - _MOST_LINES} further scenes')
  lon, lat = grid.outline_lonlat().centroid.coords[0]
  lon = (lon + 180) % 360 - 180  # outlines go on beyond the antimeridian
  place = f'EPSG:{grid.epsg}, centre {abs(lat):.3f} {"NS"[lat < 0]} {abs(lon):.3f} {"EW"[lon < 0]}'
  made = ['SyntheticEarth: computed, not observed'] if reader.synthetic else []
  return '\n'.join([*made, *notes, *lines, place])


def _write(
  path: pathlib.Path,
  panels: Sequence[Panel],
  sides_km: tuple[float, float],
  extent_km: tuple[float, float],
  caption: str,
  target: legend.Target | None,
) -> None:
  import matplotlib.cm
  import matplotlib.patches
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  height = 4.8 * min(max(extent_km[1] / extent_km[0], 0.35), 2.5)
  height += 1.25 + 0.15 * caption.count('\n') + (0.35 if target is not None else 0)
  figure = Figure(figsize=(5.2 * len(panels), height), layout='constrained', dpi=150)
  FigureCanvasAgg(figure)
  axes = figure.subplots(1, len(panels), squeeze=False)[0]
  for axis, panel in zip(axes, panels, strict=True):
    axis.imshow(panel.image, extent=(0, sides_km[0], sides_km[1], 0), interpolation='nearest')
    axis.set(xlim=(0, extent_km[0]), ylim=(extent_km[1], 0))
    axis.set_title(panel.title, fontsize=9, loc='left')
    axis.set_xlabel('km', fontsize=8)
    axis.tick_params(labelsize=8)
    if panel.scale:
      bar = figure.colorbar(matplotlib.cm.ScalarMappable(cmap=_SCALE), ax=axis, shrink=0.8, pad=0.02)
      bar.set_label(panel.scale, fontsize=8)
      bar.ax.tick_params(labelsize=8)
  if target is not None:
    names = target.classes
    if len(names) <= 16:
      handles = [
        matplotlib.patches.Patch(color=rgb / 255, label=name) for name, rgb in zip(names, target.colours, strict=True)
      ]
      figure.legend(handles=handles, loc='outside lower right', ncols=min(5, len(names)), fontsize=8, frameon=False)
  figure.suptitle(caption, fontsize=8, x=0.01, ha='left')
  with provenance.whole(path) as file:
    figure.savefig(file, format='png')

"""Pictures of a search and of a detection: maps with places marked on them, and sheets of chips."""

import pathlib
from collections.abc import Sequence

import numpy as np
import shapely

from deepsentinel import provenance
from deepsentinel.embedding import cells
from deepsentinel.sources import base

_MAP_PX = 1600  # longest side that is drawn
_INK, _MUTED = '#1B2430', '#5B6675'
_QUERY, _POSITIVE, _NEGATIVE = '#D55E00', '#009E73', '#D55E00'
_BESIDE = 6  # chips in a row
SYNTHETIC = 'SyntheticEarth: computed, not observed'


class Layer:
  """One map of a picture.

  Args:
    title: above it.
    values: [rows, cols], NaN = nothing known.
    limits: ends of the colours.
    label: of the colour bar.
    colours: a colour map of Matplotlib.
  """

  def __init__(self, title: str, values: np.ndarray, limits: tuple[float, float], label: str, colours: str):
    self.title, self.values, self.limits, self.label, self.colours = title, values, limits, label, colours


def _figure(width: float, height: float):
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  figure = Figure(figsize=(width, height), layout='constrained', dpi=150, facecolor='white')
  FigureCanvasAgg(figure)
  return figure


def _draw_layers(grid: cells.CellMap, layers: Sequence[Layer], caption: str):
  """A figure with the layers side by side, in km from the upper-left corner, and their axes."""
  import matplotlib

  across_km, down_km = grid.cols * grid.cell_m / 1000, grid.rows * grid.cell_m / 1000
  lines = caption.count('\n') + 1
  height = 4.75 * min(max(down_km / across_km, 0.35), 2.0) + 0.85 + 0.15 * lines
  figure = _figure(5.9 * len(layers), height)
  axes = figure.subplots(1, len(layers), squeeze=False)[0]
  step = max(1, -(-max(grid.rows, grid.cols) // _MAP_PX))
  for axis, layer in zip(axes, layers, strict=True):
    colours = matplotlib.colormaps[layer.colours].with_extremes(bad='#C9CDD3')
    image = axis.imshow(
      np.ma.masked_invalid(layer.values[::step, ::step]), extent=(0, across_km, down_km, 0), cmap=colours,
      vmin=layer.limits[0], vmax=layer.limits[1], interpolation='nearest',
    )  # fmt: skip
    bar = figure.colorbar(image, ax=axis, shrink=0.85, aspect=30, pad=0.02)
    bar.set_label(layer.label, fontsize=8, color=_INK)
    bar.ax.tick_params(labelsize=7, colors=_MUTED)
    bar.outline.set_visible(False)
    axis.set_title(layer.title, fontsize=9.5, loc='left', color=_INK)
    axis.set_xlabel('km', fontsize=8, color=_MUTED)
    axis.tick_params(labelsize=7, colors=_MUTED)
  figure.suptitle(caption, fontsize=8, x=0.01, ha='left', color=_INK)
  return figure, axes


def _save(figure, path: pathlib.Path) -> pathlib.Path:
  with provenance.whole(path) as file:
    figure.savefig(file, format='png')
  return path


def _to_km(grid: cells.CellMap, geometry: shapely.Geometry) -> shapely.Geometry:
  """A WGS84 geometry in km right of and below the map's corner."""
  to_map = base.transformer(4326, grid.crs)

  def convert(xy: np.ndarray) -> np.ndarray:
    x, y = to_map.transform(xy[:, 0], xy[:, 1])
    return np.column_stack([(np.asarray(x) - grid.transform.c) / 1000, (grid.transform.f - np.asarray(y)) / 1000])

  return shapely.transform(geometry, convert)


def _outline(axis, geometry: shapely.Geometry, colour: str) -> None:
  for part in shapely.get_parts(geometry):
    xy = shapely.get_coordinates(shapely.get_exterior_ring(part))
    axis.plot(xy[:, 0], xy[:, 1], color='white', linewidth=2.6)
    axis.plot(xy[:, 0], xy[:, 1], color=colour, linewidth=1.4)


def _within(grid: cells.CellMap, x: float, y: float) -> bool:
  return 0 <= x <= grid.cols * grid.cell_m / 1000 and 0 <= y <= grid.rows * grid.cell_m / 1000


def draw_similarity(
  path: pathlib.Path,
  grid: cells.CellMap,
  similarity: np.ndarray,
  query: shapely.Geometry,
  results: Sequence[shapely.Geometry],
  caption: str,
) -> pathlib.Path:
  """The map of similarity with the query and the numbered results.

  Args:
    path: PNG.
    grid: of the map.
    similarity: [rows, cols].
    query: WGS84.
    results: WGS84 outlines, best first; those that lie elsewhere are not drawn.
    caption: above the map.
  """
  known = similarity[np.isfinite(similarity)]
  low, high = np.percentile(known, (2, 99.8)) if known.size else (0.0, 1.0)
  layer = Layer(f'Similarity to the query, {grid.cell_m:.0f} m cells', similarity, (low, max(high, low + 1e-6)),
                'cosine (colours end at the 2nd and 99.8th percentile)', 'viridis')  # fmt: skip
  figure, (axis,) = _draw_layers(grid, [layer], caption)
  axis.set_autoscale_on(False)
  for i, outline in enumerate(results, start=1):
    place = shapely.centroid(_to_km(grid, outline))
    if _within(grid, place.x, place.y):
      axis.plot(place.x, place.y, 'o', markersize=9.5, markerfacecolor='white', markeredgecolor=_INK, linewidth=0.8)
      axis.text(place.x, place.y, str(i), fontsize=5.5, ha='center', va='center_baseline', color=_INK, clip_on=True)
  asked = _to_km(grid, query)
  if asked.geom_type in ('Polygon', 'MultiPolygon'):
    _outline(axis, asked, _QUERY)
  middle = shapely.centroid(asked)
  axis.plot(
    middle.x, middle.y, '*', markersize=15, markerfacecolor=_QUERY, markeredgecolor='white', label='query',
    linestyle='none',
  )  # fmt: skip
  axis.legend(loc='upper right', fontsize=8, framealpha=0.9)
  return _save(figure, path)


def draw_detection(
  path: pathlib.Path,
  grid: cells.CellMap,
  probability: np.ndarray,
  uncertainty: np.ndarray,
  examples: Sequence[tuple[shapely.Geometry, bool]],
  caption: str,
) -> pathlib.Path:
  """Maps of probability, with the examples, and of its uncertainty.

  Args:
    path: PNG.
    grid: of the maps.
    probability, uncertainty: [rows, cols]; uncertainty all NaN where it cannot be known, and then not drawn.
    examples: (WGS84 geometry, whether positive).
    caption: above the maps.
  """
  layers = [Layer(f'Probability, {grid.cell_m:.0f} m cells', probability, (0, 1), 'probability', 'viridis')]
  known = uncertainty[np.isfinite(uncertainty)]
  if known.size:
    layers.append(
      Layer('Uncertainty', uncertainty, (0, max(float(known.max()), 1e-6)),
            'standard deviation over refits to resampled examples', 'magma')
    )  # fmt: skip
  figure, axes = _draw_layers(grid, layers, caption)
  for axis in axes:
    axis.set_autoscale_on(False)
  for geometry, positive in examples:
    colour = _POSITIVE if positive else _NEGATIVE
    there = _to_km(grid, geometry)
    if there.geom_type in ('Polygon', 'MultiPolygon'):
      _outline(axes[0], there, colour)
    else:
      xy = shapely.get_coordinates(there)
      shape = 'o' if positive else 'X'
      axes[0].plot(
        *xy.T, shape, markersize=8, markerfacecolor=colour, markeredgecolor='white', markeredgewidth=1.1,
      )  # fmt: skip
  for positive, label in ((True, 'positive example'), (False, 'negative example')):
    colour, shape = (_POSITIVE, 'o') if positive else (_NEGATIVE, 'X')
    axes[0].plot([], [], shape, markerfacecolor=colour, markeredgecolor='white', markersize=8, label=label)
  axes[0].legend(loc='upper right', fontsize=8, framealpha=0.9)
  return _save(figure, path)


def draw_chips(
  path: pathlib.Path, pictures: Sequence[np.ndarray | None], titles: Sequence[str], box_share: float, caption: str
) -> pathlib.Path:
  """A sheet of chips, the query first.

  Args:
    path: PNG.
    pictures: uint8 [H, W, 3], or None where there is none.
    titles: one each.
    box_share: of a chip's side that the cell takes, which is outlined; 0: no outline.
    caption: above the sheet.
  """
  import matplotlib.patches

  down = -(-len(pictures) // _BESIDE)
  lines = caption.count('\n') + 1
  figure = _figure(1.75 * _BESIDE, 2.05 * down + 0.25 + 0.17 * lines)
  axes = figure.subplots(down, _BESIDE, squeeze=False).ravel()
  for axis in axes:
    axis.set_axis_off()
  for i, (axis, picture, title) in enumerate(zip(axes, pictures, titles, strict=False)):
    axis.set_axis_on()
    axis.set(xticks=[], yticks=[])
    colour = _QUERY if i == 0 else '#C4CBD5'
    for spine in axis.spines.values():
      spine.set(color=colour, linewidth=2.2 if i == 0 else 0.8)
    axis.set_title(title, fontsize=7.5, loc='left', color=_QUERY if i == 0 else _INK)
    if picture is None:
      axis.text(0.5, 0.5, 'no pixels', fontsize=8, ha='center', va='center', color=_MUTED, transform=axis.transAxes)
      axis.set_box_aspect(1)
      continue
    axis.imshow(picture, interpolation='nearest')
    if box_share:
      side = picture.shape[0]
      low, size = side * (1 - box_share) / 2 - 0.5, side * box_share
      axis.add_patch(matplotlib.patches.Rectangle((low, low), size, size, fill=False, edgecolor='white', linewidth=0.9))
  figure.suptitle(caption, fontsize=8, x=0.01, ha='left', color=_INK)
  return _save(figure, path)

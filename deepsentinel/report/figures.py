"""Pictures of a report as PNG bytes: charts by Matplotlib's Agg (no display needed), patches pixel by pixel."""

import functools
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

# Okabe and Ito's palette: told apart with any colour vision. Baselines are greys, so that runs stand out.
RUN_COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9')
BASELINE_COLOURS = ('#6B7280', '#B8BEC8', '#8E97A4')
# Of methods that differ in their pretraining, the same in every picture.
OBJECTIVE_COLOURS = {'none': '#3B4554', 'vae': '#E69F00', 'tile2vec': '#0072B2', 'contrastive': '#CC79A7'}
SPLIT_COLOURS = {
  'train': '#0072B2',
  'validation': '#E69F00',
  'test': '#D55E00',
  'unlabelled': '#9AA3AF',
}
INK, MUTED, GRID = '#1B2430', '#5B6675', '#E3E7ED'
_STYLE = {
  'font.size': 10,
  'axes.titlesize': 10.5,
  'axes.titleweight': 'bold',
  'axes.titlelocation': 'left',
  'axes.edgecolor': '#C4CBD5',
  'axes.labelcolor': MUTED,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.grid': True,
  'axes.axisbelow': True,
  'grid.color': GRID,
  'text.color': INK,
  'xtick.color': MUTED,
  'ytick.color': MUTED,
  'legend.frameon': False,
  'figure.facecolor': 'white',
}


def canvas(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any):
  """(figure, axes), inches; without pyplot, which keeps every figure it ever made."""
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  figure = Figure(figsize=(width, height), layout='constrained')
  FigureCanvasAgg(figure)
  return figure, figure.subplots(rows, columns, **options)


def png(figure) -> bytes:
  """A figure as PNG."""
  buffer = io.BytesIO()
  figure.savefig(buffer, format='png', dpi=150)
  return buffer.getvalue()


def styled(draw):
  """Draws under the report's style without touching Matplotlib's global settings."""

  @functools.wraps(draw)
  def wrapped(*args, **kwargs):
    import matplotlib

    with matplotlib.rc_context(_STYLE):
      return draw(*args, **kwargs)

  return wrapped


def picture(pixels: np.ndarray, at_least_px: int = 128) -> bytes:
  """uint8 [H, W, 3] as PNG, each pixel repeated until the picture has `at_least_px` on its short edge."""
  from PIL import Image

  repeat = max(1, -(-at_least_px // min(pixels.shape[:2])))
  image = Image.fromarray(np.ascontiguousarray(pixels.repeat(repeat, 0).repeat(repeat, 1)))
  buffer = io.BytesIO()
  image.save(buffer, 'PNG', optimize=True)
  return buffer.getvalue()


Bars = tuple[str, str, Sequence[float | None], Sequence[float | None]]


@styled
def class_iou(classes: Sequence[str], methods: Sequence[Bars], title: str = '', top: float = 1.0) -> bytes:
  """Horizontal bars of IoU per class.

  Args:
    classes: K names.
    methods: (label, colour, IoU per class with None for no such class, half of its interval or None), first on top.
    title: of one of several panels, whose legend is elsewhere and which share their scale; '' for a chart of its own.
    top: end of the scale where there is a title.
  """
  many = len(classes) > 12
  bar, gap = (0.07, 0.06) if many else (0.2, 0.18)
  width = 8.4 if not title else 5.6 if many else 4.2
  figure, axis = canvas(width, 1.1 + len(classes) * (len(methods) * bar + gap))
  height = 0.82 / max(1, len(methods))
  for row, (label, colour, iou, half_widths) in enumerate(methods):
    y = np.arange(len(classes)) + (row - (len(methods) - 1) / 2) * height
    values = [100 * v if v is not None else 0 for v in iou]
    spread = [100 * (v or 0) for v in half_widths]
    axis.barh(y, values, height * 0.9, color=colour, label=label)
    if any(spread):
      axis.errorbar(
        values, y, xerr=_within(values, spread), fmt='none', ecolor=INK, elinewidth=0.7 if many else 1.1, alpha=0.75
      )
    if not many:
      for position, value, half, known in zip(y, values, spread, iou, strict=True):
        text = f'{value:.1f}' if known is not None else '–'
        axis.text(min(value + half, 100) + 0.8, position, text, va='center', fontsize=8, color=MUTED)
  axis.set_yticks(np.arange(len(classes)), [short(c, 34) for c in classes], color=INK, fontsize=8 if many else 10)
  axis.set_ylim(len(classes) - 0.5, -0.5)
  axis.set_xlim(0, 100 * top if title else None if many else 100)
  axis.set_xlabel('IoU, %')
  axis.grid(axis='y', visible=False)
  axis.tick_params(axis='y', length=0)
  if title:
    axis.set_title(title)
  else:
    longest = max(len(label) for label, *_ in methods)
    figure.legend(loc='outside upper left', ncols=max(1, min(len(methods), 100 // (longest + 6))), fontsize=9)
  return png(figure)


Line = tuple[str, str, Sequence[float], Sequence[float], Sequence[float | None]]


@styled
def by_fraction(
  title: str, ylabel: str, lines: Sequence[Line], references: Sequence[Line], ylim: tuple[float, float]
) -> bytes:
  """Score, or gain, over the share of the labels, on a logarithmic scale.

  Args:
    title, ylabel: of the panel.
    lines: (label, colour, fractions, scores, half of their intervals or None), a line with bars each.
    references: the same without intervals, drawn thin and dashed.
    ylim: in per cent.
  """
  figure, axis = canvas(4.2, 3.7)
  fractions = sorted({x for _, _, xs, _, _ in lines for x in xs})
  for position, (label, colour, xs, ys, half_widths) in enumerate(lines):
    # Side by side, so that bars do not hide each other.
    x = np.array(xs) * 1.05 ** (position - (len(lines) - 1) / 2)
    y = 100 * np.array(ys)
    spread = _within(y, [100 * (v or 0) for v in half_widths], -100 if ylim[0] < 0 else 0)
    axis.errorbar(x, y, spread, color=colour, label=label, marker='o', markersize=5, linewidth=1.9, elinewidth=1.2,
                  capsize=2.5)  # fmt: skip
  for _, colour, xs, ys, _ in references:
    axis.plot(xs, 100 * np.array(ys), color=colour, linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)
  axis.set_xscale('log')
  axis.set_xticks(fractions, [f'{100 * x:g}' for x in fractions])
  axis.minorticks_off()
  axis.set_xlim(fractions[0] / 1.3, fractions[-1] * 1.3)
  axis.set_ylim(*ylim)
  axis.set_xlabel('share of the labels, %')
  axis.set_ylabel(ylabel)
  axis.set_title(title)
  return png(figure)


def _within(values: Sequence[float] | np.ndarray, spread: Sequence[float], lowest: float = 0) -> np.ndarray:
  """Lengths [2, N] of bars below and above values in per cent that end at `lowest` and 100."""
  low, high = np.minimum(spread, np.asarray(values) - lowest), np.minimum(spread, 100 - np.asarray(values))
  return np.array([low, high])


@styled
def confusion(classes: Sequence[str], matrix: np.ndarray, title: str, reference: str) -> bytes:
  """Heat map of a confusion matrix, each row (reference class) in per cent of its pixels.

  Args:
    classes: K names.
    matrix: int [K, K], rows = reference.
    title: of the picture.
    reference: what the rows are of.
  """
  small = len(classes) > 12
  figure, axis = canvas(*((7.2, 6.8) if small else (4.4, 4.0)))
  names = [short(c, 16) for c in classes]
  matrix = np.asarray(matrix, float)
  total = matrix.sum(1, keepdims=True)
  share = np.divide(100 * matrix, total, out=np.full_like(matrix, np.nan), where=total > 0)
  axis.imshow(np.ma.masked_invalid(share), cmap='Blues', vmin=0, vmax=100)
  axis.set_facecolor('#F1F3F6')
  axis.grid(visible=False)
  axis.set_title(short(title, 44))
  step = max(1, len(classes) // 22)
  turned = {'rotation': 90, 'ha': 'center'} if small else {'rotation': 30, 'ha': 'right'}
  axis.set_xticks(range(0, len(classes), step), names[::step], **turned)
  axis.set_yticks(range(0, len(classes), step), names[::step])
  axis.tick_params(length=0, labelsize=6 if small else 9)
  axis.set_xlabel('predicted')
  axis.set_ylabel(short(reference, 44))
  for spine in axis.spines.values():
    spine.set_visible(False)
  if not small:
    for (i, j), value in np.ndenumerate(share):
      text = '' if np.isnan(value) else f'{value:.0f}'
      axis.text(j, i, text, ha='center', va='center', fontsize=9.5, color='white' if value > 55 else INK)
  return png(figure)


@styled
def curves(
  title: str, ylabel: str, lines: Sequence[tuple[str, str, str, np.ndarray, np.ndarray]], **options: Any
) -> bytes:
  """Curves over training steps.

  Args:
    title, ylabel: words.
    lines: (label, colour, 'solid' | 'dashed' | 'dotted' | 'marked' | 'faint' | 'band', steps, values); of a band the
      values are [2, N], low and high. Faint lines and bands have no entry in the legend.
    options: legend=False draws none; ylim=(low, high).
  """
  figure, axis = canvas(4.3, 3.1)
  looks: dict[str, dict[str, Any]] = {
    'solid': {'linewidth': 1.8},
    'dashed': {'linewidth': 1.8, 'linestyle': (0, (5, 2))},
    'dotted': {'linewidth': 1.8, 'linestyle': (0, (1, 1.4))},
    'marked': {'linewidth': 1.6, 'linestyle': (0, (4, 2)), 'marker': 'o', 'markersize': 3.2},
    'faint': {'linewidth': 0.8, 'alpha': 0.3},
  }
  for label, colour, style, steps, values in lines:
    if style == 'band':
      axis.fill_between(steps, *values, color=colour, alpha=0.16, linewidth=0)
      continue
    look = looks[style] | ({'marker': 'o'} if len(steps) == 1 else {})
    axis.plot(steps, values, color=colour, label=None if style == 'faint' else label, **look)
  axis.set_title(title)
  axis.set_xlabel('step')
  axis.set_ylabel(ylabel)
  axis.margins(x=0.02)
  axis.set_ylim(*options.get('ylim', (None, None)))
  if options.get('legend', True):
    # Below the axes: over them it would hide the end of the curves, which is what one looks for.
    columns = 2 if max(len(label) for label, *_ in lines) < 22 else 1
    figure.legend(loc='outside lower left', fontsize=8.5, ncols=columns, handlelength=2.6)
  return png(figure)


def smoothed(values: np.ndarray, window: int) -> np.ndarray:
  """Centred running mean of float [N], over fewer values near the ends."""
  values = np.asarray(values, float)
  kernel = np.ones(max(1, window))
  weight = np.convolve(np.ones(len(values)), kernel, 'same')
  return np.convolve(values, kernel, 'same') / weight if len(values) >= len(kernel) else values


@styled
def points(groups: Sequence[tuple[str, np.ndarray, np.ndarray]], land=None) -> bytes:
  """The corpus on a map.

  Args:
    groups: (name, lon_deg [N], lat_deg [N]), drawn in this order, coloured by SPLIT_COLOURS.
    land: shapely geometries of the land in WGS84, for the outline; None draws none.
  """
  lon, lat = (np.concatenate([g[i] for g in groups]) for i in (1, 2))
  west, east, south, north = lon.min(), lon.max(), lat.min(), lat.max()
  pad = 0.08 * max(east - west, north - south, 0.2)
  stretch = 1 / max(0.2, np.cos(np.radians((south + north) / 2)))  # a degree of longitude is shorter by this
  span_x, span_y = (east - west + 2 * pad) / stretch, north - south + 2 * pad
  width = float(np.clip(6.0 * span_x / span_y, 5.5, 10))
  figure, axis = canvas(width, float(np.clip(width * span_y / span_x, 3, 7)) + 0.5)
  if land is not None:
    _draw_land(axis, land, (west - pad, south - pad, east + pad, north + pad))
  size = float(np.clip(8000 / len(lon), 2, 34))
  for name, x, y in groups:
    colour = SPLIT_COLOURS.get(name, MUTED)
    edge = 0.4 if size > 8 else 0
    axis.scatter(x, y, s=size, c=colour, label=f'{name} ({len(x):,})', linewidths=edge, edgecolors='white', zorder=3)
  axis.set_aspect(stretch)
  axis.set_xlim(max(-180, west - pad), min(180, east + pad))
  axis.set_ylim(max(-90, south - pad), min(90, north + pad))
  axis.set_xlabel('longitude, °')
  axis.set_ylabel('latitude, °')
  figure.legend(loc='outside upper left', ncols=2 if width < 7.5 else 4, fontsize=9, markerscale=max(1, 6 / size**0.5))
  return png(figure)


def _draw_land(axis, land, bounds: tuple[float, float, float, float]) -> None:
  import shapely
  from matplotlib.collections import PolyCollection

  axis.set_facecolor('#EAF1F7')
  polygons = shapely.get_parts(shapely.clip_by_rect(np.asarray(land, object), *bounds))
  polygons = [p for p in shapely.get_parts(polygons) if p.geom_type == 'Polygon' and not p.is_empty]
  rings = [np.asarray(p.exterior.coords)[:, :2] for p in polygons]
  axis.add_collection(PolyCollection(rings, facecolors='#FAFAF7', edgecolors='#AEB7C2', linewidths=0.7, zorder=1))


def short(text: str, most: int) -> str:
  """Text of at most `most` letters, its end cut off."""
  return text if len(text) <= most else text[: most - 1].rstrip() + '…'

"""corpus.html: one self-contained page that says what a corpus holds, for a look before weeks of training on it."""

import base64
import collections
import html
import importlib.resources
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import geopandas
import numpy as np

from deepsentinel import legend, provenance, sensors
from deepsentinel.corpus import card, figures, splits

FILE = 'corpus.html'
_PATCHES = 96  # whose pixels are looked at
_LABEL_PATCHES = 12  # whose labels are looked at
_PIXELS = 64  # rows and columns of each, evenly spread
_INK, _BLUE, _ORANGE, _GREY = '#1B2430', '#0072B2', '#D55E00', '#9AA3AF'
# Means and standard deviations that SSL4EO-S12 1.0 gives for its 50,000 patches over the world, at most 20 % of a scene
# cloudy: reflectance x 10,000 (L2A) and dB (sigma0, ellipsoid).
REFERENCE = {
  'B1': (752.4, 1108.0), 'B2': (884.3, 1155.2), 'B3': (1144.2, 1183.6), 'B4': (1297.5, 1368.1), 'B5': (1624.9, 1370.3),
  'B6': (2194.6, 1355.6), 'B7': (2422.2, 1416.5), 'B8': (2517.8, 1474.8), 'B8A': (2581.6, 1439.3),
  'B9': (2645.5, 1582.3), 'B11': (2368.5, 1455.5), 'B12': (1805.1, 1343.5), 'VV': (-12.55, 5.26), 'VH': (-20.19, 5.91),
}  # fmt: skip


class Band(NamedTuple):
  """What a sample of pixels says of a band: reflectance x 10,000 or dB."""

  name: str
  percentiles: tuple[float, ...]  # 5, 25, 50, 75, 95
  mean: float
  std: float
  nodata_share: float


def write(corpus: card.Corpus, table: geopandas.GeoDataFrame) -> None:
  """Writes corpus.html into the folder, whole or not at all; points.png and samples.png have to be there."""
  done = table[table['state'] == 'done']
  bands = band_samples(corpus, done)
  parts = {
    'title': html.escape(corpus.card['name']),
    'banner_kind': 'synthetic' if corpus.synthetic else 'real',
    'banner': 'SyntheticEarth, a simulated world: what this page shows says nothing about real imagery.'
    if corpus.synthetic
    else f'Real imagery of {html.escape(str(corpus.card["source"]["name"]))}.',
    'facts': _table(facts(corpus, done)),
    'points': _embedded((corpus.path / figures.POINTS).read_bytes(), 'Map of the points'),
    'samples': _embedded((corpus.path / figures.SAMPLES).read_bytes(), 'Sample patches') if len(done) else '',
    'acquisitions': _embedded(_acquisitions(corpus, done), 'Gaps, months, orbits, clouds and classes')
    if len(done) else '',
    'bands': _embedded(_bands(bands), 'Bands against the reference') + _table(_band_rows(bands)) if bands else '',
    'failures': _failures(table),
  }  # fmt: skip
  template = importlib.resources.files('deepsentinel.corpus').joinpath('page.html').read_text(encoding='utf-8')
  page = re.sub(r'\{\{ (\w+) \}\}', lambda match: parts[match[1]], template)
  with provenance.whole(corpus.path / FILE) as file:
    file.write(page.encode())


def facts(corpus: card.Corpus, done: geopandas.GeoDataFrame) -> list[tuple[str, str]]:
  """The corpus as a row of the paper's Table 1, and what a reader asks next."""
  spec, px = corpus.spec, corpus.patch_px
  parts = []
  if spec.s1_bands:
    parts.append(f'S1 ({"+".join(spec.s1_bands)}, {spec.s1_quantity.replace("_", ", ")})')
  if spec.s2_bands:
    whole = len(spec.s2_bands) == len(sensors.SENTINEL2_BANDS)
    parts.append(f'S2 ({spec.s2_level}, {"all bands" if whole else " ".join(spec.s2_bands)})')
  if corpus.landcover:
    # Outside Europe it may be the only label; the maps of the others are there, and empty.
    arrays = [corpus.read(row.id) for row in figures.spread(done, _LABEL_PATCHES)]
    names = {'corine': 'CCLC', 'osm': 'OSM', 'landcover': 'land cover'}
    parts += [name for field, name in names.items() if any(a[field].any() for a in arrays)]
  elif corpus.labelled:
    parts += ['CCLC', 'OSM']
  countries = done['country'].replace('', 'no country').value_counts()
  shown = ', '.join(f'{name} {count:,}' for name, count in countries.head(8).items())
  rest = f' and {len(countries) - 8} more' if len(countries) > 8 else ''
  settings, counts = corpus.card['config'], corpus.card['counts']
  held = {name: counts.get(name, 0) for name in (*splits.SPLITS, splits.BUFFER) if counts.get(name, 0)}
  rows = [
    ('Components', ' + '.join(parts)),
    ('Patches', f'{len(done):,} of {px} x {px} px'),
    ('Pixels', f'{len(done) * px**2 / 1e6:,.0f} Mpx'),
    ('Resolution', f'{corpus.card["pixel_m"]:g} m'),
    ('Geography', f'{shown}{rest}' if len(done) else '-'),
    ('Period', f'{settings["period"]["start"]} to {settings["period"]["end"]}'),
    ('Source', ', '.join(f'{k}={v}' for k, v in corpus.card['source'].items() if v != '' and k != 'key_file')),
    ('Seed', str(corpus.card['seed'])),
  ]
  if corpus.landcover:
    section = settings['labels']['landcover']
    legend_name = section.get('legend') or 'names in the map itself'
    rows.append(('Land-cover map', f'{section.get("path", "")}; {len(corpus.landcover)} classes, {legend_name}'))
  if len(held) > 1:
    rows.append(('Splits', ', '.join(f'{name} {count:,}' for name, count in held.items())))
  if corpus.card['acceptance'] is not None:
    rows.append(('Points that had a pair', f'{100 * corpus.card["acceptance"]:.1f} % of those drawn'))
  failed = counts['failed'] + counts['planned']
  if failed:
    rows.append(('Not there', f'{counts["failed"]:,} failed, {counts["planned"]:,} not yet tried'))
  return rows


def band_samples(corpus: card.Corpus, done: geopandas.GeoDataFrame) -> list[Band]:
  """Statistics of every band over the same pixels of patches spread over the corpus."""
  chosen = figures.spread(done, _PATCHES)
  if not chosen:
    return []
  step = max(corpus.patch_px // _PIXELS, 1)
  arrays = [corpus.read(row.id) for row in chosen]
  found = []
  for field, names, nodata, scale in (
    ('s2', corpus.spec.s2_bands, sensors.S2_NODATA, 1),
    ('s1', corpus.spec.s1_bands, sensors.S1_NODATA, sensors.S1_SCALE),
  ):
    for i, name in enumerate(names):
      stored = np.concatenate([a[field][::step, ::step, i].ravel() for a in arrays])
      values = stored[stored != nodata] / scale
      if len(values):
        spread = tuple(np.percentile(values, (5, 25, 50, 75, 95)).tolist())
        found.append(Band(name, spread, values.mean(), values.std(), 1 - len(values) / len(stored)))
  return found


def _band_rows(bands: Iterable[Band]) -> list[tuple[str, ...]]:
  rows: list[tuple[str, ...]] = [('Band', 'median', 'mean', 'std', 'reference mean', 'reference std', 'nodata')]
  for band in bands:
    digits = 1 if band.name in sensors.SENTINEL1_BANDS else 0
    numbers = (band.percentiles[2], band.mean, band.std, *REFERENCE[band.name])
    rows.append((band.name, *(f'{n:,.{digits}f}' for n in numbers), f'{100 * band.nodata_share:.1f} %'))
  return rows


def _failures(table: geopandas.GeoDataFrame) -> str:
  """Reasons of the failed patches, those that differ in numbers only together, most frequent first."""
  reasons = collections.Counter(re.sub(r'\d+', 'N', r) for r in table.loc[table['state'] == 'failed', 'reason'])
  if not reasons:
    return '<p>None.</p>'
  rows = [('Reason', 'patches'), *((reason, f'{count:,}') for reason, count in reasons.most_common(20))]
  return _table(rows)


def _acquisitions(corpus: card.Corpus, done: geopandas.GeoDataFrame) -> bytes:
  """Charts of gaps, months, orbits, clouds, incidence angles and classes, as far as they are known."""
  axes_of = _Panels(3)
  gaps = done['gap_hours'].dropna()
  if len(gaps):
    axes = axes_of('Gap between the two sensors')
    axes.hist(gaps, np.linspace(0, max(72.0, gaps.max()), 25), color=_BLUE)
    axes.set(xlabel='hours', ylabel='patches')
  times = np.where(done['s2_time'] >= 0, done['s2_time'], done['s1_time'])
  if (times >= 0).any():
    axes = axes_of('Acquisitions by month')
    months = times[times >= 0].astype('datetime64[s]').astype('datetime64[M]').astype(int) % 12
    axes.bar(range(12), np.bincount(months, minlength=12), color=_BLUE)
    axes.set_xticks(range(12), list('JFMAMJJASOND'))
    axes.set(ylabel='patches')
  flown = done[done['s1_pass'] != '']
  if len(flown):
    axes = axes_of('Sentinel-1 by relative orbit')
    for name, colour in (('ascending', _ORANGE), ('descending', _BLUE)):
      rows = flown[flown['s1_pass'] == name]
      if len(rows):
        axes.hist(
          rows['s1_relative_orbit'], np.arange(1, 178, 7), color=colour, label=f'{name} ({len(rows):,})', alpha=0.75
        )
    axes.legend()
    axes.set(xlabel='relative orbit', ylabel='patches')
  cloud = done['s2_cloud_share'].dropna()
  if len(cloud):
    axes = axes_of(f'Cloud cover (mean {100 * cloud.mean():.0f} %)')
    axes.hist(100 * cloud, np.linspace(0, 100, 21), color=_BLUE)
    axes.set(xlabel='% of the patch, or of its scene', ylabel='patches')
  incidence = done['s1_incidence_deg'].dropna()
  if len(incidence):
    axes = axes_of('Incidence angle of Sentinel-1')
    axes.hist(incidence, 20, color=_BLUE)
    axes.set(xlabel='degrees', ylabel='patches')
  counts = splits.class_counts(done.to_dict('records')) if corpus.labelled else np.zeros((0, 0))
  if counts.any() and counts.shape[1] == len(legend.LEVEL1_NAMES):
    axes = axes_of('CORINE level 1 by split')
    there = [name for name in splits.SPLITS if (done['split'] == name).any()] or ['all']
    for i, name in enumerate(there):
      part = counts[(done['split'] == name).to_numpy()].sum(0) if name != 'all' else counts.sum(0)
      at = np.arange(counts.shape[1]) + (i - (len(there) - 1) / 2) * 0.8 / len(there)
      colour = figures.SPLIT_COLOURS.get(name, _BLUE)
      axes.bar(at, 100 * part / max(part.sum(), 1), 0.8 / len(there), color=colour, label=name)
    axes.set_xticks(range(counts.shape[1]), legend.LEVEL1_NAMES, fontsize=7)
    axes.legend()
    axes.set(ylabel='% of the pixels')
  return axes_of.png()


def _bands(bands: list[Band]) -> bytes:
  """Boxes (5, 25, 50, 75, 95 %) of each band beside the reference's mean and one standard deviation either side."""
  axes_of = _Panels(2, width=(len(bands) > 2) * 9.0 + 3.0, ratios=(3, 1))
  for title, unit, names in (
    ('Sentinel-2', 'reflectance x 10,000', sensors.SENTINEL2_BANDS),
    ('Sentinel-1', 'dB', sensors.SENTINEL1_BANDS),
  ):
    chosen = [band for band in bands if band.name in names]
    if not chosen:
      continue
    axes = axes_of(title)
    boxes = [
      {'whislo': b.percentiles[0], 'q1': b.percentiles[1], 'med': b.percentiles[2], 'q3': b.percentiles[3],
       'whishi': b.percentiles[4], 'label': b.name} for b in chosen
    ]  # fmt: skip
    axes.bxp(boxes, showfliers=False, widths=0.5, medianprops={'color': _BLUE})
    at = np.arange(len(chosen)) + 1.36
    mean, std = np.array([REFERENCE[b.name] for b in chosen]).T
    axes.errorbar(at, mean, std, fmt='o', color=_GREY, markersize=4, capsize=2, label='SSL4EO-S12, mean and std')
    axes.scatter(np.arange(len(chosen)) + 1.0, [b.mean for b in chosen], color=_ORANGE, s=16, zorder=3, label='mean')
    # Below the names of the bands: a box may lie anywhere in the axes.
    axes.legend(
      fontsize=8, loc='upper center', bbox_to_anchor=(0.5, -0.1), ncols=2, frameon=False, columnspacing=0.8,
      handlelength=1, handletextpad=0.3,
    )  # fmt: skip
    axes.set(ylabel=unit)
  return axes_of.png()


class _Panels:
  """Axes given out one by one, in rows of `columns`; those not taken are not drawn."""

  def __init__(self, columns: int, width: float = 12.0, ratios: tuple[int, ...] | None = None):
    self._columns, self._width, self._ratios = columns, width, ratios
    self._drawn: list[Any] = []
    from matplotlib.figure import Figure

    self._figure = Figure(dpi=110)
    self._grid = self._figure.add_gridspec(3, columns, width_ratios=ratios)

  def __call__(self, title: str) -> Any:
    row, column = divmod(len(self._drawn), self._columns)
    axes = self._figure.add_subplot(self._grid[row, column])
    axes.set_title(title, loc='left', fontsize=10, fontweight='bold', color=_INK)
    axes.spines[['top', 'right']].set_visible(False)
    self._drawn.append(axes)
    return axes

  def png(self) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.gridspec import GridSpec

    columns = max(min(self._columns, len(self._drawn)), 1)
    rows = max(-(-len(self._drawn) // columns), 1)
    width, height = self._width, 2.9 * rows
    # Room for labels, in inches. Matplotlib's layout engine would draw every label twice to find as much.
    left, right, bottom, top, beside, below = 0.8, 0.15, 0.6, 0.4, 0.85, 1.0
    panel_w = (width - left - right - beside * (columns - 1)) / columns
    panel_h = (height - bottom - top - below * (rows - 1)) / rows
    grid = GridSpec(
      rows, columns, self._figure, width_ratios=self._ratios and self._ratios[:columns], left=left / width,
      right=1 - right / width, bottom=bottom / height, top=1 - top / height, wspace=beside / panel_w,
      hspace=below / panel_h,
    )  # fmt: skip
    for number, axes in enumerate(self._drawn):
      axes.set_subplotspec(grid[divmod(number, columns)])
    self._figure.set_size_inches(width, height)
    FigureCanvasAgg(self._figure)
    buffer = io.BytesIO()
    self._figure.savefig(buffer, format='png')
    return buffer.getvalue()


def _embedded(png: bytes, alt: str) -> str:
  return f'<img alt="{alt}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def _table(rows: Sequence[tuple[str, ...]]) -> str:
  """Rows as HTML; the first of more than two columns, or one that begins with 'Reason', is a head."""
  has_head = len(rows[0]) > 2 or rows[0][0] == 'Reason'
  lines = []
  for number, row in enumerate(rows):
    cell = 'th' if has_head and number == 0 else 'td'
    first, *others = (html.escape(str(value)) for value in row)
    lines.append(f'<tr><th>{first}</th>{"".join(f"<{cell}>{value}</{cell}>" for value in others)}</tr>')
  return f'<div class="scroll"><table>{"".join(lines)}</table></div>'

"""Two pictures of a corpus: where its points lie, and what a few of its patches look like."""

import pathlib
from collections.abc import Sequence
from typing import Any

import geopandas
import numpy as np
import shapely

from deepsentinel import composites, legend
from deepsentinel.corpus import card, points

POINTS = 'points.png'
SAMPLES = 'samples.png'
SPLIT_COLOURS = {
  'train': '#3b6ea5',
  'validation': '#e0912f',
  'test': '#c03a5b',
  'buffer': '#a8a8a8',
  'shared': '#3b6ea5',
}
_SAMPLES = 8
_LABEL_ROWS = {'CORINE, level 3': 'corine', 'OpenStreetMap': 'osm', 'Land-cover map': 'landcover'}
_KEYS = 18  # land-cover classes that the key of the sample sheet names
_LOCATOR_DEG = 25.0  # a narrower map gets a smaller one beside it that shows where it lies
_SEA, _LAND, _BORDER = '#eaf1f5', '#f7f5ef', '#c4beb2'


def draw(corpus: card.Corpus, table: geopandas.GeoDataFrame) -> None:
  """Writes points.png and samples.png into the corpus folder."""
  draw_points(corpus, table, corpus.path / POINTS)
  if (table['state'] == 'done').any():
    draw_samples(corpus, table, corpus.path / SAMPLES)


def rejected_points(corpus: card.Corpus, table: geopandas.GeoDataFrame) -> np.ndarray:
  """float64 [N, 2]: longitude and latitude of the points that were drawn and had no pair of scenes.

  They are not stored: a point is a function of seed, number and attempt.
  """
  config = corpus.card['config']
  if corpus.mines:
    return np.zeros((0, 2))  # of a planned point other days were tried, not other points
  numbers, attempts = table['number'].to_numpy(), table['attempts'].to_numpy()
  # A row that never found a pair keeps its last point: that one was turned away too, and is in the table.
  most = int(attempts.max(initial=0))
  if most < 2:
    return np.zeros((0, 2))
  region = points.Region(config['points']['countries'], config['points']['bbox'])
  drawn = [region.draw(config['seed'], numbers[attempts > k + 1], k) for k in range(most - 1)]
  return np.concatenate([d[['lon_deg', 'lat_deg']].to_numpy() for d in drawn])


def draw_points(corpus: card.Corpus, table: geopandas.GeoDataFrame, path: pathlib.Path) -> None:
  """A map of the points over the land, zoomed to their extent, coloured by split."""
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  located = table[np.isfinite(table['lon_deg'])]
  rejected = rejected_points(corpus, located)
  no_pair = located[(located['s2_scene'] == '') & (located['s1_scene'] == '')]
  rejected = np.concatenate([rejected, no_pair[['lon_deg', 'lat_deg']].to_numpy()])
  done = located[located['state'] == 'done']
  extent = _extent(located['lon_deg'].to_numpy(), located['lat_deg'].to_numpy())
  west, south, east, north = extent
  height = float(np.clip(7.2 * _stretch(extent) * (north - south) / (east - west), 3, 9))
  with_locator = east - west < _LOCATOR_DEG
  figure = Figure((10 if with_locator else 7.8, height + 0.9), dpi=120, layout='constrained')
  FigureCanvasAgg(figure)
  if with_locator:
    axes, locator = figure.subplots(1, 2, width_ratios=(7.2, 2.4))
    _draw_locator(locator, extent)
  else:
    axes = figure.subplots()
  _draw_land(axes, extent)
  size = float(np.clip(9000 / max(len(done), 1), 0.6, 22))
  if len(rejected):
    label = f'no pair of scenes ({len(rejected)})'
    axes.scatter(*rejected.T, s=size, c='#555555', marker='x', linewidths=0.6, zorder=2, label=label)
  splits = [s for s in SPLIT_COLOURS if (done['split'] == s).any()]
  for split in splits:
    rows = done[done['split'] == split]
    label = f'{split} ({len(rows)})' if len(splits) > 1 else f'{len(rows)} patches'
    axes.scatter(rows['lon_deg'], rows['lat_deg'], s=size, c=SPLIT_COLOURS[split], linewidths=0, zorder=3, label=label)
  axes.set_xlabel('longitude, degrees')
  axes.set_ylabel('latitude, degrees')
  what = 'SyntheticEarth' if corpus.synthetic else corpus.card['source']['name']
  axes.set_title(f'{corpus.card["name"]}: {len(done)} patches of {what}', loc='left', fontsize=11)
  figure.legend(loc='outside lower left', ncols=5, fontsize=9, frameon=False, markerscale=1.2)
  figure.savefig(path)


def _stretch(extent: tuple[float, float, float, float]) -> float:
  """How much taller than wide a degree is drawn, so that the middle of the map is true to shape."""
  return float(1 / np.cos(np.radians(np.clip((extent[1] + extent[3]) / 2, -75, 75))))


def _draw_land(axes, extent: tuple[float, float, float, float]) -> None:
  """Countries and sea of a box of degrees, as the background of `axes`."""
  from matplotlib.collections import PolyCollection

  west, south, east, north = extent
  view = shapely.box(west, south, east, north)
  land = points.countries()['geometry'].to_numpy()
  parts = shapely.get_parts(shapely.intersection(land[shapely.intersects(land, view)], view))
  parts = parts[shapely.get_type_id(parts) == shapely.GeometryType.POLYGON]
  rings = [shapely.get_coordinates(shapely.get_exterior_ring(p)) for p in parts]
  axes.set_facecolor(_SEA)
  axes.add_collection(PolyCollection(rings, facecolors=_LAND, edgecolors=_BORDER, linewidths=0.7, zorder=1))
  axes.set(xlim=(west, east), ylim=(south, north), aspect=_stretch(extent))


def _draw_locator(axes, extent: tuple[float, float, float, float]) -> None:
  """Where in its part of the world the map lies: without it a box inside one country could be anywhere."""
  from matplotlib.patches import Rectangle

  west, south, east, north = extent
  half = max(7.0, 1.5 * (east - west))
  lon, lat = (west + east) / 2, (south + north) / 2
  stretch = _stretch(extent)
  _draw_land(
    axes, (max(lon - half, -180), max(lat - half / stretch, -90), min(lon + half, 180), min(lat + half / stretch, 90))
  )
  axes.add_patch(Rectangle((west, south), east - west, north - south, fill=False, edgecolor='#c03a5b', zorder=2))
  axes.set(xticks=[], yticks=[], anchor='N')


def _extent(lon: np.ndarray, lat: np.ndarray) -> tuple[float, float, float, float]:
  """West, south, east, north around the points, with a margin and a least size of half a degree."""
  if not len(lon):
    return -180, -60, 180, 84
  west, east, south, north = lon.min(), lon.max(), lat.min(), lat.max()
  margin = 0.05 * max(east - west, north - south) + 0.1
  west, east = max(west - margin, -180), min(east + margin, 180)
  south, north = max(south - margin, -90), min(north + margin, 90)
  return west, south, east, north


def osm_picture(mask: np.ndarray) -> np.ndarray:
  """uint8 [H, W, 3] of stored theme bits: areas first, then water, buildings, roads, so that the finer show."""
  picture = np.full((*mask.shape, 3), 250, np.uint8)
  order = {'polygon': 0, 'line': 1, 'point': 2}
  for theme in sorted(legend.OSM_THEMES, key=lambda t: (order[t.geometries[0]], t.name == 'building')):
    picture[(mask >> theme.bit) & 1 == 1] = theme.rgb
  return picture


def draw_samples(corpus: card.Corpus, table: geopandas.GeoDataFrame, path: pathlib.Path) -> None:
  """A sheet of patches spread over the corpus: true colour, radar, and labels where there are any."""
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  done = table[table['state'] == 'done']
  # By cloud where it is known, so that the sheet runs from clear to overcast as the corpus does.
  done = done.sort_values('s2_cloud_share', kind='stable')
  kinds = [done[done['scene'] == k] for k in (2, 1)] if corpus.mines else [done]
  chosen = [row for rows in kinds for row in spread(rows, _SAMPLES // len(kinds))]
  arrays = [corpus.read(row.id) for row in chosen]
  sheets = [(row, _pictures(corpus, own)) for row, own in zip(chosen, arrays, strict=True)]
  # A row that no patch has anything in (a source without OpenStreetMap, a map of elsewhere alone) is left out.
  empty = [name for name, field in _LABEL_ROWS.items() if not any(own[field].any() for own in arrays if field in own)]
  names = [name for name in sheets[0][1] if name not in empty and any(np.ptp(own[name]) for _, own in sheets)]
  figure = Figure((1.55 * len(sheets) + 0.35, 1.62 * len(names) + 0.55), dpi=140, layout='constrained')
  FigureCanvasAgg(figure)
  _draw_sheet(figure.subplots(), [[own[name] for _, own in sheets] for name in names], names, [
    _caption(corpus, row) for row, _ in sheets
  ])  # fmt: skip
  if corpus.landcover:
    _draw_key(figure, corpus, np.concatenate([own['landcover'].ravel() for own in arrays]))
  figure.savefig(path)


def _caption(corpus: card.Corpus, row: Any) -> str:
  """What stands above a patch of the sheet: scene, date, cloud."""
  when = '' if row.s2_time < 0 else str(np.datetime64(row.s2_time, 's').astype('datetime64[D]'))
  cloud = '' if np.isnan(row.s2_cloud_share) else f'\ncloud {100 * row.s2_cloud_share:.0f} %'
  scene = f'{legend.SCENES[row.scene - 1]}\n' if corpus.mines else ''
  return f'{scene}{when}{cloud}'


def _draw_sheet(axes, lines: Sequence[Sequence[np.ndarray]], names: Sequence[str], captions: Sequence[str]) -> None:
  """Pictures uint8 [H, W, 3] in rows and columns, as one: axes of their own would take most of a small corpus' time."""
  from matplotlib.collections import PolyCollection

  px = lines[0][0].shape[0]
  gap = max(px // 16, 1)
  pitch = px + gap
  sheet = np.full((pitch * len(lines) - gap, pitch * len(captions) - gap, 3), 255, np.uint8)
  boxes = []
  for top, line in zip(range(0, len(sheet), pitch), lines, strict=True):
    for left, picture in zip(range(0, sheet.shape[1], pitch), line, strict=True):
      sheet[top : top + px, left : left + px] = picture
      corner = np.array((left, top)) - 0.5  # a pixel lies around its number
      boxes.append(corner + px * np.array([(0, 0), (0, 1), (1, 1), (1, 0)]))
  axes.imshow(sheet, interpolation='nearest')
  # A clouded patch is as white as the sheet.
  axes.add_collection(PolyCollection(boxes, facecolors='none', edgecolors='#b8b8b8', linewidths=0.5, clip_on=False))
  axes.spines[:].set_visible(False)
  axes.xaxis.tick_top()
  axes.tick_params(length=0)
  axes.set_xticks(pitch * np.arange(len(captions)) + px / 2, captions, fontsize=7)
  axes.set_yticks(pitch * np.arange(len(names)) + px / 2, names, fontsize=8, rotation=90, va='center')


def _draw_key(figure, corpus: card.Corpus, stored: np.ndarray) -> None:
  """Names and colours of the land-cover classes that cover most of the sheet, below it."""
  from matplotlib.patches import Patch

  counts = np.bincount(stored, minlength=len(corpus.landcover) + 1)[1:]
  order = [i for i in np.argsort(-counts, kind='stable')[:_KEYS] if counts[i]]
  handles = [Patch(color=np.array(corpus.landcover[i].rgb) / 255, label=corpus.landcover[i].name) for i in order]
  figure.legend(handles=handles, loc='outside lower center', ncols=6, fontsize=7, frameon=False)


def spread(rows: geopandas.GeoDataFrame, count: int) -> list[Any]:
  """At most `count` rows, evenly spread, the first and the last among them."""
  at = np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)
  return list(rows.iloc[np.unique(at)].itertuples())


def _pictures(corpus: card.Corpus, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Name -> uint8 [H, W, 3], as far as the corpus has the bands."""
  pictures = {}
  if {'B4', 'B3', 'B2'} <= set(corpus.spec.s2_bands):
    rgb = [corpus.spec.s2_bands.index(b) for b in ('B4', 'B3', 'B2')]
    pictures['Sentinel-2, true colour'] = composites.true_colour(arrays['s2'][..., rgb])
  if {'VV', 'VH'} <= set(corpus.spec.s1_bands):
    pictures['Sentinel-1, VV VH VV-VH'] = composites.radar(
      arrays['s1'][..., [corpus.spec.s1_bands.index(b) for b in ('VV', 'VH')]]
    )
  if 'corine' in arrays:
    corine = legend.target('corine_level3')
    pictures['CORINE, level 3'] = composites.classes(corine.lookup[arrays['corine']], corine)
    pictures['OpenStreetMap'] = osm_picture(arrays['osm'])
  if 'landcover' in arrays:
    landcover = legend.target('landcover', corpus.landcover)
    pictures['Land-cover map'] = composites.classes(landcover.lookup[arrays['landcover']], landcover)
  return pictures

"""CORINE polygons and OpenStreetMap features on patch grids: right by an independent raster, and how fast.

    python benchmarks/label_rasters.py [--patches=40] [--repeats=3] [--out=.cache/benchmarks/label_rasters.png]

SyntheticEarth writes the vector files of some 27 x 22 km, in the formats of the real ones. The peer is what a careful
user would write with geopandas: the file read once into memory, a spatial index (`.cx`), `clip`, `to_crs`, and
rasterio's `rasterize`; the pixels are compared. Ours reads the file at every patch, so that it works on all of Europe.
Where the real samples are (DEEPSENTINEL_DATA, by default ../shared/data), the same is done for them: CORINE 2018 of
Lanjaron, Granada, beside a raster that the terra package made of it at 25 m, and Liechtenstein from OpenStreetMap; and
a picture shows both.
"""

import argparse
import functools
import logging
import os
import pathlib
import tempfile
import time
from collections.abc import Callable

import geopandas
import numpy as np
import rasterio.features
import shapely
import sidebyside

from deepsentinel import composites, legend
from deepsentinel.corpus import figures
from deepsentinel.corpus import grid as patch_grids
from deepsentinel.sources import base, corine, openstreetmap, synthetic

_Reader = Callable[[base.PatchGrid], np.ndarray]
_BOX = (13.6, 53.0, 14.0, 53.2)  # of the synthetic files, degrees
_THEMES_DRAWN = ('residential', 'major_road', 'minor_road', 'railway', 'water', 'river', 'farmland', 'forest')


def grids_in(epsg: int, bounds: tuple[float, float, float, float], count: int) -> list[base.PatchGrid]:
  """Random patches of 256 px within a box of metres."""
  rng = np.random.default_rng(0)
  left, bottom, right, top = bounds
  x, y = rng.uniform(left, right - 2560, count), rng.uniform(bottom + 2560, top, count)
  return [base.PatchGrid(epsg, round(a, -1), round(b, -1), 256, 256) for a, b in zip(x, y, strict=True)]


def geopandas_corine(path: pathlib.Path) -> _Reader:
  table = geopandas.read_file(path)
  table = table.rename(columns={name: name.upper() for name in table.columns if name.lower() == 'code_18'})
  table['index'] = table['CODE_18'].astype(int).map(legend.CORINE_INDEX)
  table.sindex  # noqa: B018 (built once)

  def read(grid: base.PatchGrid) -> np.ndarray:
    ((left, bottom, right, top),) = grid.bounds_in(table.crs)
    near = table.cx[left:right, bottom:top].clip((left, bottom, right, top)).to_crs(grid.epsg)
    shapes = list(zip(near.geometry, near['index'], strict=True))
    if not shapes:
      return np.zeros((grid.height_px, grid.width_px), np.uint8)
    size = (grid.height_px, grid.width_px)
    return rasterio.features.rasterize(shapes, size, transform=grid.transform, dtype='uint8')

  return read


def geopandas_osm(source: openstreetmap.OpenStreetMap, around: base.PatchGrid) -> _Reader:
  """Features in one table in the patches' CRS, as a user would load an extract's shapefiles; a theme at a time."""
  table = source.features(around)
  table.sindex  # noqa: B018
  for theme in legend.OSM_THEMES:
    table[theme.name] = [theme.name in names.split(';') for names in table['themes']]

  def read(grid: base.PatchGrid) -> np.ndarray:
    left, bottom, right, top = grid.bounds
    near = table.cx[left - 50 : right + 50, bottom - 50 : top + 50]  # roads beside the patch reach into it
    out = np.zeros((grid.height_px, grid.width_px), np.uint16)
    for theme in legend.OSM_THEMES:
      named = near[near[theme.name]]
      if named.empty:
        continue
      for kind, of_kind in named.groupby('geometry_type'):
        wide = kind == 'line' and theme.width_m > 0
        shapes = of_kind.buffer(theme.width_m / 2) if wide else of_kind.geometry
        burnt = rasterio.features.rasterize(
          list(shapes), out.shape, transform=grid.transform, dtype='uint8', all_touched=kind == 'line' and not wide
        )
        out |= burnt.astype(np.uint16) << theme.bit
    return out

  return read


def compare(stage: str, ways: dict[str, _Reader], grids: list[base.PatchGrid], repeats: int) -> sidebyside.Row:
  """Milliseconds a patch of each of two ways; ends the program if fewer than 99.9 % of the pixels agree."""

  def milliseconds(read: _Reader) -> float:
    start = time.perf_counter()
    for grid in grids:
      read(grid)
    return (time.perf_counter() - start) / len(grids) * 1e3

  ours, theirs = (np.stack([read(grid) for grid in grids]) for read in ways.values())
  agree = 100 * (ours == theirs).mean()
  if agree < 99.9 or not ours.any():
    raise SystemExit(f'{stage}: only {agree:.3f} % of the pixels agree.')
  times = sidebyside.alternate({way: functools.partial(milliseconds, read) for way, read in ways.items()}, repeats)
  return sidebyside.Row(stage, 'geopandas, rasterio', 'ms', *times.values(), 10, f'{agree:.3f} % of the pixels agree')


def synthetic_rows(folder: pathlib.Path, patches: int, repeats: int) -> list[sidebyside.Row]:
  earth = synthetic.SyntheticEarth(seed=0)
  earth.write_corine(folder / 'corine.gpkg', _BOX)
  earth.write_osm(folder / 'osm.osm.pbf', _BOX)
  around = patch_grids.patch_grid((_BOX[0] + _BOX[2]) / 2, (_BOX[1] + _BOX[3]) / 2, 2600)
  left, bottom, right, top = around.bounds
  grids = grids_in(around.epsg, (left + 4000, bottom + 4000, right - 4000, top - 4000), patches)
  osm = openstreetmap.OpenStreetMap(str(folder / 'osm.osm.pbf'))
  corine_file = folder / 'corine.gpkg'
  polygons = {'ours': corine.CorineVectors(str(corine_file)).read, 'geopandas': geopandas_corine(corine_file)}
  features = {'ours': osm.read, 'geopandas': geopandas_osm(osm, around)}
  return [
    compare('CORINE polygons of SyntheticEarth on a patch of 256 px', polygons, grids, repeats),
    compare('OpenStreetMap features of SyntheticEarth on a patch of 256 px', features, grids, repeats),
  ]


def draw(pictures: dict[str, np.ndarray], path: pathlib.Path) -> None:
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  figure = Figure((13, 8), dpi=110, layout='constrained')
  FigureCanvasAgg(figure)
  for axes, (title, picture) in zip(figure.subplots(2, 3).flat, pictures.items(), strict=True):
    axes.imshow(picture, interpolation='nearest')
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=9)
  path.parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(path)


def over(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
  """A patch under its themes, half transparent; roads and rivers opaque."""
  out = picture.astype(np.float32)
  for theme in legend.OSM_THEMES:
    if theme.name in _THEMES_DRAWN:
      drawn = (mask >> theme.bit) & 1 == 1
      strength = 1.0 if 'line' in theme.geometries else 0.4
      out[drawn] = (1 - strength) * out[drawn] + strength * np.array(theme.rgb)
  return out.astype(np.uint8)


def synthetic_patch() -> dict[str, np.ndarray]:
  """True colour of a clear SyntheticEarth patch, and its themes."""
  source = synthetic.SyntheticEarth(seed=0)
  grid = patch_grids.patch_grid(13.79, 53.1)
  when = np.array(['2018-06-01', '2018-08-01'], 'datetime64[s]').tolist()
  start, end = (t.replace(tzinfo=base.UNKNOWN_TIME.tzinfo) for t in when)
  scenes = [s for s in source.search('sentinel2', grid.outline_lonlat(), start, end)
            if shapely.covers(s.footprint, grid.outline_lonlat())]  # fmt: skip
  scene = min(scenes, key=lambda s: source.cloud_share(s, grid))
  picture = composites.true_colour(source.read(scene, grid, ('B4', 'B3', 'B2')).to_storage())
  (bounds,) = grid.bounds_in(4326, pad_px=150)
  with tempfile.TemporaryDirectory() as folder:
    source.write_osm(f'{folder}/osm.osm.pbf', bounds)
    mask = openstreetmap.OpenStreetMap(f'{folder}/osm.osm.pbf').read(grid)
  return {'picture': picture, 'mask': mask}


def real_rows(data: pathlib.Path, folder: pathlib.Path, options: argparse.Namespace) -> list[sidebyside.Row]:
  """Rows of the real samples; draws the picture."""
  vectors = corine.CorineVectors(str(data / 'corine/clc.gpkg'))
  theirs = corine.CorineRaster(str(data / 'corine/clc.tif'), 'code')
  whole = base.PatchGrid(25830, 453239.0, 4099639.0, 745, 474, 25.0)
  a, b = vectors.read(whole), theirs.read(whole)
  agree = (a == b)[b > 0].mean()
  print(f"CORINE beside the publisher's raster, {int((b > 0).sum()):,} pixels: {100 * agree:.3f} % agree\n")
  within = grids_in(32630, (454_000, 4_090_500, 470_500, 4_099_000), options.patches)
  polygons = {'ours': vectors.read, 'geopandas': geopandas_corine(data / 'corine/clc.gpkg')}
  rows = [compare('CORINE polygons of Granada on a patch of 256 px', polygons, within, options.repeats)]
  osm = openstreetmap.OpenStreetMap(str(data / 'osm/liechtenstein.osm.pbf'), index_dir=str(folder))
  around = base.PatchGrid(32632, 530_000.0, 5_240_000.0, 2800, 2200)
  features = {'ours': osm.read, 'geopandas': geopandas_osm(osm, around)}
  places = grids_in(32632, (533_000, 5_213_000, 549_000, 5_235_000), options.patches)
  stage = 'OpenStreetMap features of Liechtenstein on a patch of 256 px'
  rows.append(compare(stage, features, places, options.repeats))
  vaduz = osm.read(patch_grids.patch_grid(9.52, 47.14))
  level3 = legend.target('corine_level3')
  made = synthetic_patch()
  draw(
    {
      'CORINE polygons of Lanjaron, rasterised here': composites.classes(level3.lookup[a], level3),
      "the publisher's raster": composites.classes(level3.lookup[b], level3),
      f'where they differ ({100 * (1 - agree):.3f} %)': np.where(((a != b) & (b > 0))[..., None], 0, 255)
      .repeat(3, -1).astype(np.uint8),
      'OpenStreetMap themes of Vaduz': figures.osm_picture(vaduz),
      'SyntheticEarth, true colour': made['picture'],
      'SyntheticEarth, its OpenStreetMap themes over it': over(made['picture'], made['mask']),
    },
    options.out,
  )  # fmt: skip
  print(f'picture: {options.out}')
  return rows


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--patches', type=int, default=40, help='patches of 256 px of each kind that are timed')
  parser.add_argument('--repeats', type=int, default=3, help='alternating runs')
  parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path('.cache/benchmarks/label_rasters.png'))
  options = parser.parse_args()
  logging.getLogger('pyogrio').setLevel(logging.WARNING)  # the vector writer announces every file
  data = pathlib.Path(os.environ.get('DEEPSENTINEL_DATA', '../shared/data'))
  with tempfile.TemporaryDirectory() as home:
    rows = synthetic_rows(pathlib.Path(home), options.patches, options.repeats)
    if (data / 'corine').is_dir():
      rows += real_rows(data, pathlib.Path(home), options)
  sidebyside.leave(__file__, rows)


if __name__ == '__main__':
  main()

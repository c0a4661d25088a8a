"""CORINE polygons and OpenStreetMap features on patch grids: right by an independent raster, and how fast.

    python benchmarks/label_rasters.py

Needs the real samples (DEEPSENTINEL_DATA, by default ../shared/data): CORINE 2018 of Lanjaron, Granada, as polygons and
as a raster that the terra package made of them at 25 m, and Liechtenstein from OpenStreetMap. Compared with what
a careful user would write with geopandas: the file read once, a spatial index (`.cx`), `clip`, `to_crs`, and rasterio's
`rasterize`; agreement of the pixels is printed beside the times. The picture (--out) shows both, with the themes over a
true-colour patch; that patch and its themes are SyntheticEarth's, for there is no real image of these places.
"""

import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import geopandas
import numpy as np
import rasterio.features
import shapely
from absl import app, flags

from deepsentinel import composites, legend
from deepsentinel.corpus import figures
from deepsentinel.corpus import grid as patch_grids
from deepsentinel.sources import base, corine, openstreetmap, synthetic

_OUT = flags.DEFINE_string('out', '.cache/benchmarks/label_rasters.png', 'The picture.')
_PATCHES = flags.DEFINE_integer('patches', 40, 'Patches of 256 px of each kind that are timed.')
_REPEATS = flags.DEFINE_integer('repeats', 5, 'Alternating runs; the median is printed.')

_Reader = Callable[[base.PatchGrid], np.ndarray]
_THEMES_DRAWN = ('residential', 'major_road', 'minor_road', 'railway', 'water', 'river', 'farmland', 'forest')


def grids_in(epsg: int, bounds: tuple[float, float, float, float], count: int) -> list[base.PatchGrid]:
  """Random patches of 256 px within a box of metres."""
  rng = np.random.default_rng(0)
  left, bottom, right, top = bounds
  x, y = rng.uniform(left, right - 2560, count), rng.uniform(bottom + 2560, top, count)
  return [base.PatchGrid(epsg, round(a, -1), round(b, -1), 256, 256) for a, b in zip(x, y, strict=True)]


def geopandas_corine(path: pathlib.Path) -> _Reader:
  table = geopandas.read_file(path)
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
  """Features in one table, as a user would load an extract's shapefiles; a theme at a time."""
  table = source.features(around)
  table.sindex  # noqa: B018

  def read(grid: base.PatchGrid) -> np.ndarray:
    left, bottom, right, top = grid.bounds
    near = table.cx[left:right, bottom:top]
    out = np.zeros((grid.height_px, grid.width_px), np.uint16)
    for theme in legend.OSM_THEMES:
      named = near['themes'].str.split(';').map(lambda names, theme=theme: theme.name in names)
      shapes = near.geometry[named]
      if theme.width_m:
        shapes = shapes.buffer(theme.width_m / 2)
      if len(shapes):
        burnt = rasterio.features.rasterize(list(shapes), out.shape, transform=grid.transform, dtype='uint8')
        out |= burnt.astype(np.uint16) << theme.bit
    return out

  return read


def compare(name: str, ways: dict[str, _Reader], grids: list[base.PatchGrid]) -> None:
  """Prints milliseconds a patch of each way, in alternating runs, and the share of pixels that agree."""
  seconds: dict[str, list[float]] = {way: [] for way in ways}
  for _ in range(_REPEATS.value):
    for way, read in ways.items():
      start = time.perf_counter()
      for grid in grids:
        read(grid)
      seconds[way].append((time.perf_counter() - start) / len(grids) * 1e3)
  ours, theirs = (np.stack([read(grid) for grid in grids]) for read in ways.values())
  for way, of_way in seconds.items():
    print(f'{name}, {way}: {statistics.median(of_way):.2f} ms a patch ({min(of_way):.2f} to {max(of_way):.2f})')
  first, second = (statistics.median(of_way) for of_way in seconds.values())
  print(f'{name}: {second / first:.1f} x; pixels that agree: {100 * (ours == theirs).mean():.3f} %\n')


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


def main(_) -> None:
  data = pathlib.Path(os.environ.get('DEEPSENTINEL_DATA', '../shared/data'))
  if not (data / 'corine').is_dir():
    print(f'No real samples at {data}; set DEEPSENTINEL_DATA. Nothing was measured.')
    return
  vectors = corine.CorineVectors(str(data / 'corine/clc.gpkg'))
  theirs = corine.CorineRaster(str(data / 'corine/clc.tif'), 'code')
  whole = base.PatchGrid(25830, 453239.0, 4099639.0, 745, 474, 25.0)
  a, b = vectors.read(whole), theirs.read(whole)
  agree = (a == b)[b > 0].mean()
  print(f"CORINE beside the publisher's raster, {int((b > 0).sum()):,} pixels: {100 * agree:.3f} % agree\n")
  within = grids_in(32630, (454_000, 4_090_500, 470_500, 4_099_000), _PATCHES.value)
  compare('CORINE', {'here': vectors.read, 'geopandas': geopandas_corine(data / 'corine/clc.gpkg')}, within)
  with tempfile.TemporaryDirectory() as folder:
    osm = openstreetmap.OpenStreetMap(str(data / 'osm/liechtenstein.osm.pbf'), index_dir=folder)
    around = base.PatchGrid(32632, 530_000.0, 5_240_000.0, 2800, 2200)
    ways: dict[str, Any] = {'here': osm.read, 'geopandas': geopandas_osm(osm, around)}
    compare('OpenStreetMap', ways, grids_in(32632, (533_000, 5_213_000, 549_000, 5_235_000), _PATCHES.value))
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
    pathlib.Path(_OUT.value),
  )  # fmt: skip
  print(f'picture: {_OUT.value}')


if __name__ == '__main__':
  app.run(main)

"""SyntheticEarth's mines as files: where the ground is dug, and which of them the register names."""

import geopandas
import numpy as np
import shapely

from deepsentinel import legend
from deepsentinel.sources import base
from deepsentinel.sources.synthetic import SyntheticEarth

BOUNDS = (11.0, 51.0, 12.0, 51.6)


def test_files_agree_with_the_ground(tmp_path):
  source = SyntheticEarth()
  source.write_mines(tmp_path / 'mines.gpkg', tmp_path / 'coal.gpkg', BOUNDS)
  polygons, register = geopandas.read_file(tmp_path / 'mines.gpkg'), geopandas.read_file(tmp_path / 'coal.gpkg')
  assert 5 < len(polygons) < 30
  assert 0 < len(register) < len(polygons)
  assert (polygons.to_crs(3035).area > 0.95e4).all()
  assert shapely.intersects(polygons.geometry, shapely.box(*BOUNDS)).all()
  # Inside of each outline the ground is a mineral extraction site, and a kilometre beyond it hardly any is.
  inside, outside = [], []
  for polygon in polygons.to_crs(3035).geometry:
    rng = np.random.default_rng(0)
    xmin, ymin, xmax, ymax = polygon.bounds
    x, y = rng.uniform((xmin - 1000, ymin - 1000), (xmax + 1000, ymax + 1000), (4000, 2)).T
    dug = source.landcover(*base.transformer(3035, 4326).transform(x, y)) == legend.CORINE_INDEX[131]
    within = shapely.contains_xy(polygon, x, y)
    inside.append(dug[within].mean())
    outside.append(dug[~within].mean())
  assert np.median(inside) > 0.9  # outlines are simplified by a cell
  assert np.median(outside) < 0.05
  # Every point of the register is near a mine, and on none of them exactly.
  distance = register.to_crs(3035).distance(polygons.to_crs(3035).union_all())
  assert distance.max() < 900


def test_the_same_box_gives_the_same_files_and_another_seed_others(tmp_path):
  for name, seed in (('a', 0), ('b', 0), ('c', 1)):
    SyntheticEarth(seed).write_mines(
      tmp_path / f'{name}.gpkg', tmp_path / f'{name}_coal.gpkg', (11.0, 51.0, 11.5, 51.4)
    )
  a, b, c = ((tmp_path / f'{name}.gpkg').read_bytes() for name in 'abc')
  assert a == b
  assert a != c

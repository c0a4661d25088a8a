"""An area from a STAC API on loopback, by the real pystac-client and range reads: mosaic, polygon, kill -9."""

import json

import geopandas
import numpy as np
import pytest
import rasterio
import shapely

from deepsentinel.sources import base
from tests import commands
from tests.sources import scene_files, stac_server
from tests.sources.test_stac import item

X, Y = 500_000.0, 5_600_000.0


def placed(day: str, sensor: str, name: str, files: dict[str, str], west: float, east: float, **properties) -> dict:
  """An item of scenes between two eastings, 3 km high."""
  outline = base.PatchGrid(32632, west, Y, 300, round((east - west) / 10)).outline_lonlat()
  made = item(day, sensor, files, **properties)
  return {**made, 'id': name, 'geometry': shapely.geometry.mapping(outline), 'bbox': list(outline.bounds)}


@pytest.fixture(scope='module')
def server(tmp_path_factory):
  """Two optical tiles of a pass, side by side, a cloudy scene of all of it, and radar."""
  folder = tmp_path_factory.mktemp('store')
  rng = np.random.default_rng(0)
  for name, x, cols in (('west', X - 2000, 210), ('east', X, 200), ('whole', X - 2000, 400)):
    for band in ('blue', 'red'):
      values = rng.integers(1200, 6000, (1, 300, cols), np.uint16)
      scene_files.write(folder / f'{name}_{band}.tif', values, x=x, y=Y, nodata=0, tiled=True)
  for band in ('vv', 'vh'):
    scene_files.write(
      folder / f'{band}.tif', rng.gamma(4.4, 0.02, (1, 300, 400)).astype(np.float32), x=X - 2000, y=Y, tiled=True
    )
  with stac_server.StacServer(folder).running() as server:

    def urls(name: str) -> dict[str, str]:
      return {band: f'{server.url}/data/{name}_{band}.tif' for band in ('blue', 'red')}

    radar = {band: f'{server.url}/data/{band}.tif' for band in ('vv', 'vh')}
    server.items = [
      placed('2020-04-02', 'sentinel2', 'cloudy', urls('whole'), X - 2000, X + 2000, **{'eo:cloud_cover': 95}),
      placed('2020-04-07', 'sentinel2', 'west', urls('west'), X - 2000, X + 100, **{'eo:cloud_cover': 2}),
      placed('2020-04-07', 'sentinel2', 'east', urls('east'), X, X + 2000, **{'eo:cloud_cover': 2}),
      placed('2020-04-12', 'sentinel1', 'radar', radar, X - 2000, X + 2000),
    ]
    yield server


@pytest.fixture(scope='module')
def area(tmp_path_factory):
  path = tmp_path_factory.mktemp('area') / 'area.geojson'
  triangle = shapely.Polygon([(X - 1805, Y - 95), (X + 1810, Y - 105), (X - 90, Y - 2900)])
  geopandas.GeoDataFrame(geometry=[triangle], crs=32632).to_crs(4326).to_file(path)
  return path


def command(server, area, out) -> list[str]:
  return [
    'tests.embedding.made_up', '--checkpoint=none', '--source=stac', f'--option=url={server.url}',
    '--option=s2_collection=sentinel-2-c1-l2a', '--option=s1_collection=sentinel-1-rtc',
    '--option=s2_bands=["B2","B4"]', f'--area={area}', '--dates=2020-04-01,2020-04-30', '--window_px=160',
    '--noprogress', f'--out={out}',
  ]  # fmt: skip


def test_a_polygon_and_a_period_of_a_catalogue_through_kill_9(server, area, tmp_path):
  whole = commands.run(*command(server, area, tmp_path / 'whole'))
  assert whole.code == 0, whole.err
  # The clear pass, its two tiles as one mosaic; the cloudy scene fills nothing.
  assert 'sentinel2: west, 2020-04-07 10:20 UTC, shows 5' in whole.out
  assert 'sentinel2: east, 2020-04-07 10:20 UTC, adds 4' in whole.out
  assert 'cloudy' not in whole.out
  with rasterio.open(tmp_path / 'whole' / 'embedding.tif') as dataset:
    cells, tags = dataset.read(), dataset.tags()
    assert dataset.crs.to_epsg() == 32632
    x, y = dataset.transform.c, dataset.transform.f
  assert tags['scenes'] == 'west,east,radar'
  triangle = geopandas.read_file(area).to_crs(32632).union_all()
  # Cells well inside have a vector, those well outside have none.
  boxes = [[shapely.box(x + 160 * c, y - 160 * r - 160, x + 160 * c + 160, y - 160 * r) for c in range(cells.shape[2])]
           for r in range(cells.shape[1])]  # fmt: skip
  known = np.isfinite(cells).all(0)
  assert known[shapely.contains(triangle, boxes)].all()
  assert not known[shapely.disjoint(triangle, boxes)].any()

  server.latency_s = 0.01
  killed = commands.Running(*command(server, area, tmp_path / 'killed'))
  strips = tmp_path / 'killed' / 'strips'
  killed.wait_until(lambda: len(list(strips.glob('embedding_*.npy'))) >= 2)
  killed.kill()
  done = {f.name: f.stat().st_mtime_ns for f in strips.glob('embedding_*.npy')}
  assert 2 <= len(done) < 9
  server.latency_s = 0
  again = commands.run(*command(server, area, tmp_path / 'killed'))
  assert again.code == 0, again.err
  assert f'{len(done)} strips were there already' in again.out
  with rasterio.open(tmp_path / 'killed' / 'embedding.tif') as dataset:
    np.testing.assert_array_equal(dataset.read(), cells)
    assert dataset.tags() == tags
  assert json.loads((tmp_path / 'killed' / 'embedding.json').read_text())['complete']


def test_an_area_where_the_catalogue_has_nothing(server, tmp_path):
  elsewhere = tmp_path / 'elsewhere.gpkg'
  geopandas.GeoDataFrame(geometry=[shapely.box(20, 50, 20.1, 50.1)], crs=4326).to_file(elsewhere)
  error = commands.run(*command(server, elsewhere, tmp_path / 'out')).error
  assert 'No sentinel2 scene of the area from 2020-04-01 to 2020-05-01' in error
  assert not (tmp_path / 'out').exists()

import numpy as np
import osmium
import pytest
import scipy.ndimage
import shapely

from deepsentinel import legend
from deepsentinel.sources import base, openstreetmap
from deepsentinel.sources.syntheticearth import landscape, networks, streetmap
from deepsentinel.sources.syntheticearth.lattice import Points

BOUNDS = (18.42, 52.12, 18.64, 52.25)
BIT = {theme.name: theme.bit for theme in legend.OSM_THEMES}
CODES = np.array([0, *(c.code for c in legend.CORINE)])


@pytest.fixture(scope='module')
def land():
  return landscape.Landscape(0)


@pytest.fixture(scope='module')
def path(land, tmp_path_factory):
  path = tmp_path_factory.mktemp('osm') / 'osm.osm.pbf'
  streetmap.write(land, path, BOUNDS)
  return path


@pytest.fixture(scope='module')
def maps(land, path):
  """(themes {name: bool [H, W]}, true codes [H, W], surface) on 9 km of 10 m pixels inside the box."""
  x, y = base.transformer(4326, 32634).transform(18.53, 52.185)
  grid = base.PatchGrid(32634, round(x / 10) * 10 - 4500.0, round(y / 10) * 10 + 4500.0, 900, 900)
  mask = openstreetmap.OpenStreetMap(str(path)).read(grid)
  lon, lat = grid.pixel_centres_lonlat()
  surface = land.surface(Points.of(lon, lat))
  return (
    {name: (mask >> bit & 1).astype(bool) for name, bit in BIT.items()},
    CODES[surface.cover].reshape(lon.shape),
    surface,
  )


def overlap(drawn, true):
  return (drawn & true).sum() / (drawn | true).sum()


@pytest.mark.parametrize(
  ('theme', 'codes', 'least'),
  [
    ('forest', (311, 312, 313), 0.6),
    ('farmland', (211, 212, 213, 221, 222, 223, 242, 243, 244), 0.6),
    ('water', (511, 512, 521), 0.6),
    ('residential', (111, 112, 133), 0.4),
  ],
)
def test_areas_agree_with_the_truth(maps, theme, codes, least):
  themes, code, _ = maps
  true = np.isin(code, codes)
  assert true.sum() > 500
  # Drawn from cells of 100 m, so that only what is wider than that can agree.
  assert overlap(themes[theme], true) > least
  core = scipy.ndimage.binary_erosion(true, iterations=12)
  if core.sum() > 200:
    assert themes[theme][core].mean() > 0.95
  outside = ~scipy.ndimage.binary_dilation(true, iterations=12)
  assert themes[theme][outside].mean() < 0.02


def test_roads_follow_the_asphalt(maps):
  themes, _, surface = maps
  road = surface.road.reshape(900, 900)
  drawn = themes['major_road'] | themes['minor_road']
  assert drawn.sum() > 500
  near = scipy.ndimage.maximum_filter(road, 5)
  assert np.mean(near[drawn] > 0.3) > 0.85
  assert np.mean(road > 0.3) < 0.2


def test_rivers_follow_the_water(maps):
  themes, code, _ = maps
  drawn = themes['river']
  assert drawn.sum() > 300
  wet = scipy.ndimage.binary_dilation(np.isin(code, (511, 512, 523)), iterations=2)
  assert wet[drawn].mean() > 0.85


def test_buildings_stand_in_towns(maps):
  themes, code, _ = maps
  assert themes['building'].sum() > 30
  assert np.isin(code, (111, 112, 121, 122, 141, 142, 133))[themes['building']].mean() > 0.9


def test_places_are_the_settlements_of_the_box(path):
  found = [o for o in osmium.FileProcessor(str(path)) if o.is_node() and 'place' in o.tags]
  box = networks.Box(18.53, 52.185, 0.11, 0.065)
  places = networks.settlements(box, 0)
  inside = (np.abs(places.lon - box.lon) < box.half_lon) & (np.abs(places.lat - box.lat) < box.half_lat)
  assert len(found) == inside.sum() > 3


def test_holes_of_multipolygons_stay_open(path, maps):
  """An inner ring of a forest holds no forest."""
  themes, _, _ = maps
  holes = []
  areas = osmium.FileProcessor(str(path)).with_areas(osmium.filter.KeyFilter('landuse'))
  for item in areas:
    if item.is_area() and item.tags.get('landuse') == 'forest':
      shape = shapely.from_wkb(bytes.fromhex(osmium.geom.WKBFactory().create_multipolygon(item)))
      holes += [shapely.Polygon(ring) for part in shape.geoms for ring in part.interiors]
  assert len(holes) > 3
  to_utm = base.transformer(4326, 32634)
  x0, y0 = (round(v / 10) * 10 for v in to_utm.transform(18.53, 52.185))
  checked = 0
  for hole in holes:
    point = hole.representative_point()
    x, y = to_utm.transform(point.x, point.y)
    row, col = int((y0 + 4500 - y) // 10), int((x - x0 + 4500) // 10)
    moved = shapely.transform(hole, lambda c: np.column_stack(to_utm.transform(*c.T)))
    if 0 <= row < 900 and 0 <= col < 900 and moved.contains(shapely.Point(x, y).buffer(8)):
      assert not themes['forest'][row, col]
      checked += 1
  assert checked >= 2


def test_objects_come_in_the_order_of_the_format_and_point_at_what_exists(path):
  kinds, nodes, ways, roles = [], set(), set(), set()
  for item in osmium.FileProcessor(str(path)):
    kinds.append('nwr'.index(item.type_str()))
    if item.is_node():
      nodes.add(item.id)
    elif item.is_way():
      assert {n.ref for n in item.nodes} <= nodes
      ways.add(item.id)
    else:
      assert {m.ref for m in item.members} <= ways
      roles |= {m.role for m in item.members}
  assert kinds == sorted(kinds)
  assert set(kinds) == {0, 1, 2}
  assert roles == {'outer', 'inner'}


def test_writing_again_gives_the_same_bytes(path, tmp_path):
  streetmap.write(landscape.Landscape(0), tmp_path / 'again.osm.pbf', BOUNDS)
  assert (tmp_path / 'again.osm.pbf').read_bytes() == path.read_bytes()

import numpy as np
import pytest

from deepsentinel import legend
from deepsentinel.sources.syntheticearth import landscape, lattice, materials, networks, parcels, terrain
from deepsentinel.sources.syntheticearth.lattice import Points

CODES = np.array([0, *(c.code for c in legend.CORINE)])


@pytest.fixture(scope='module')
def land():
  return landscape.Landscape(0)


@pytest.fixture(scope='module')
def region(land):
  """(points, surface) of 60 x 60 km at 400 m in Poland: relief, lakes, towns and fields."""
  side = (np.arange(150) - 75) * 400 / lattice.METRES_PER_DEGREE
  east, north = np.meshgrid(side / np.cos(np.radians(52.2)), side)
  points = Points.of(18.35 + east, 52.2 + north)
  return points, land.surface(points)


def test_cover_and_material_go_together(region):
  _, surface = region
  code = CODES[surface.cover]
  assert (code > 0).all()  # no place without a class
  names = np.array(materials.NAMES)[surface.material]
  assert set(names[code == 311]) <= {'broadleaf'}
  assert set(names[code == 312]) <= {'conifer'}
  assert set(names[code == 512]) == {'lake'}
  assert set(names[code == 111]) <= {'grey roofs', 'tile roofs', 'asphalt'}
  assert len(np.unique(code)) >= 12


def test_a_region_has_towns_fields_forest_and_water(region):
  code = CODES[region[1].cover]
  share = {k: np.mean(code // 100 == k) for k in range(1, 6)}
  assert 0.01 < share[1] < 0.15
  assert 0.2 < share[2] < 0.8
  assert 0.1 < share[3] < 0.7
  assert 0.005 < share[5] < 0.35


def test_the_sea_lies_below_zero_and_the_land_above(region):
  _, surface = region
  assert (surface.elevation[np.isin(CODES[surface.cover], (523, 423))] <= 0).all()
  assert (surface.elevation[CODES[surface.cover] < 423] > 0).all()


def test_towns_stand_where_settlements_are(region):
  points, surface = region
  places = networks.settlements(networks.Box(18.35, 52.2, 0.4, 0.25), 0)
  places = places.take((places.kind < networks.VILLAGE) & (np.abs(places.lon - 18.35) < 0.4))
  assert len(places) > 5
  # A bend moves a centre by some hundred metres at most, less than a town's radius.
  kx = np.cos(np.radians(52.2))
  near = [np.hypot((points.lon - lon) * kx, points.lat - lat).argmin()
          for lon, lat in zip(places.lon, places.lat, strict=True) if abs(lat - 52.2) < 0.25]  # fmt: skip
  urban = CODES[surface.cover] // 100 == 1
  assert urban[near].mean() > 0.8
  assert urban.mean() < 0.2


def test_rivers_run_downhill_join_and_grow():
  rivers = networks.rivers(networks.Box(11.0, 50.5, 0.6, 0.4), 0)
  assert len(rivers) > 20
  kx = lattice.METRES_PER_DEGREE * np.cos(np.radians(rivers.lat))
  start = Points.of(rivers.lon, rivers.lat)
  end = Points.of(rivers.lon + rivers.dx_m / kx, rivers.lat + rivers.dy_m / lattice.METRES_PER_DEGREE)
  height = [terrain.potential(p, terrain.macro_fields(p, 0), 0) for p in (start, end)]
  assert (height[1] < height[0]).all()
  assert (rivers.end_width_m >= rivers.width_m).all()
  # Where a link ends within the box, the next begins, at least as wide; but in a hollow, which has no lower neighbour.
  distance = np.hypot(end.lon[:, None] - start.lon, end.lat[:, None] - start.lat)
  joined = distance.min(axis=1) < 1e-6
  inside = (np.abs(end.lon - 11.0) < 0.5) & (np.abs(end.lat - 50.5) < 0.3)
  assert joined[inside].mean() > 0.6
  for k in np.flatnonzero(inside & ~joined):
    near = np.hypot((start.lon - end.lon[k]) * np.cos(np.radians(50.5)), start.lat - end.lat[k]) < 4.6e3 / 111e3
    assert (height[0][near] > height[1][k]).all()
  follow = np.flatnonzero(joined)
  assert (rivers.width_m[distance[follow].argmin(axis=1)] >= rivers.width_m[follow] - 1e-9).all()


def test_networks_do_not_depend_on_the_box():
  big, small = networks.Box(11.0, 50.5, 0.6, 0.4), networks.Box(11.1, 50.6, 0.15, 0.1)
  for make in (networks.rivers, networks.roads):
    whole, part = make(big, 0), make(small, 0)
    rows = lambda links: {tuple(np.round(r, 9)) for r in np.column_stack([links.lon % 360, links.lat, links.dx_m])}  # noqa: E731
    assert len(part)
    assert rows(part) <= rows(whole)
  whole, part = networks.settlements(big, 0), networks.settlements(small, 0)
  near = (np.abs(part.lon - small.lon) < small.half_lon) & (np.abs(part.lat - small.lat) < small.half_lat)
  assert set(part.id[near]) <= set(whole.id)


def test_distance_to_a_straight_river_by_hand():
  ones = np.ones(1)
  link = networks.Links(10 * ones, 0 * ones, 1000 * ones, 0 * ones, 20 * ones, 40 * ones, np.zeros(1, int), ones)
  metre = 1 / lattice.METRES_PER_DEGREE
  points = Points.of(10 + np.array([0, 500, 1030, -40, 500]) * metre, np.array([100, 100, 40, -30, 5]) * metre)
  flat = (np.zeros(5, np.float32), np.zeros(5, np.float32))
  # Half widths 10, 15 and 20 m; beyond its ends the distance is that to the end: hypot(30, 40) and hypot(40, 30).
  np.testing.assert_allclose(networks.distance(points, flat, link, 400.0), [90, 85, 30, 40, -10], atol=0.01)
  np.testing.assert_allclose(networks.distance(points, flat, link, 35.0), [35, 35, 30, 35, -10], atol=0.01)


def test_fields_are_strips_of_a_few_hectares():
  side = np.arange(240) * 10 / lattice.METRES_PER_DEGREE
  east, north = np.meshgrid(side / np.cos(np.radians(52.0)), side)
  points = Points.of(18.3 + east, 52.0 + north)
  zero = np.zeros(len(points), np.float32)
  small, large = (parcels.parcels(points, zero + style, (zero, zero), 5) for style in (-1.5, 1.5))
  hectares = lambda field: len(points) / 100 / len(np.unique(field.id))  # noqa: E731
  assert 0.3 < hectares(small) < 3
  assert 4 < hectares(large) < 25
  # Borders are where the identity changes: a pixel well inside has neighbours of the same parcel.
  ident = large.id.reshape(240, 240)
  inside = large.edge_m.reshape(240, 240)[:, :-1] > 15
  assert (ident[:, :-1] == ident[:, 1:])[inside].all()
  assert inside.mean() > 0.5


def test_climate_zones():
  moist = np.zeros(1)
  assert terrain.mean_temperature(np.array([50.0]), 0.0) == pytest.approx(10, abs=1)  # Frankfurt: 10.6
  assert terrain.mean_temperature(np.array([60.0]), 0.0) == pytest.approx(5.5, abs=1.5)  # Helsinki: 5.9
  assert terrain.mean_temperature(np.array([-50.0]), 1000.0) == pytest.approx(4, abs=1)
  assert terrain.dryness(np.array([24.0]), moist) > 0.9  # Sahara
  assert terrain.dryness(np.array([50.0]), moist) < 0.1
  assert terrain.dryness(np.array([0.0]), moist) < 0.3
  assert 0.3 < terrain.dryness(np.array([37.0]), moist) < 0.8


@pytest.mark.parametrize(
  ('lon', 'lat', 'codes'), [(13.0, 24.0, {331, 332, 333}), (-42.0, 72.0, {335, 332, 333, 322, 321, 412})]
)
def test_deserts_and_cold_land_are_bare(land, lon, lat, codes):
  east, north = np.meshgrid(np.linspace(-0.02, 0.02, 40), np.linspace(-0.02, 0.02, 40))
  surface = land.surface(Points.of(lon + east, lat + north))
  dry = CODES[surface.cover[CODES[surface.cover] < 500]]
  assert np.isin(dry, list(codes)).mean() > 0.7


def test_relief_is_gentle_by_the_river():
  points = Points.of(np.full(2, 11.0), np.full(2, 47.0))
  fields = terrain.macro_fields(points, 0)
  fields.mountain[:], fields.land[:], fields.hill[:] = 1, 300, 1
  by_river, away = terrain.elevation(points, fields, np.array([0.0, 5000.0], np.float32), 0)
  mean = 300 * 0.9 + 500
  assert abs(by_river - mean) < abs(away - mean)

import collections
import datetime
import itertools
import json
import re

import numpy as np
import pyproj
import pytest
import shapely

from deepsentinel.sources import base, mgrs
from deepsentinel.sources.syntheticearth import catalogue

UTC = datetime.UTC
DAY = datetime.timedelta(days=1)
START = datetime.datetime(2019, 6, 1, tzinfo=UTC)


def half_covered(satellite, relative_orbit, cycle, outlines):
  return [0.5] * len(outlines)


def sentinel2(lon, lat, days, start=START):
  return catalogue.search_sentinel2(shapely.Point(lon, lat), start, start + days * DAY, half_covered)


def sentinel1(lon, lat, days, start=START):
  return catalogue.search_sentinel1(shapely.Point(lon, lat), start, start + days * DAY)


def gaps_days(scenes, key):
  """Days between acquisitions of one key (orbit, or satellite and orbit) in order of time, rounded to minutes."""
  times = collections.defaultdict(set)
  for scene in scenes:
    times[key(scene)].add(round(scene.time.timestamp() / 60) / 1440)
  return {k: np.diff(sorted(t)) for k, t in times.items()}


def in_satellites_order(scenes):
  return [s.metadata['satellite'] for s in sorted(scenes, key=lambda s: s.time)]


def test_sentinel2_comes_every_five_days_with_satellites_in_turn():
  scenes = sentinel2(10.4, 50.2, 60)
  gaps = gaps_days(scenes, lambda s: s.relative_orbit)
  assert 1 <= len(gaps) <= 3  # swaths of 290 km overlap at this latitude
  for orbit, days in gaps.items():
    np.testing.assert_allclose(days, 5, atol=2 / 1440)
    one_tile = {s.time: s for s in scenes if s.relative_orbit == orbit}.values()
    order = in_satellites_order(one_tile)
    assert all(a != b for a, b in itertools.pairwise(order))


def test_sentinel1_comes_every_six_days_and_each_satellite_every_twelve():
  scenes = sentinel1(10.4, 50.2, 72)
  gaps = gaps_days(scenes, lambda s: (s.relative_orbit, s.orbit_pass))
  assert {orbit_pass for _, orbit_pass in gaps} == {'ascending', 'descending'}
  for days in gaps.values():
    np.testing.assert_allclose(days, 6, atol=2 / 1440)  # slices start at other places in every cycle: see the next test
  for days in gaps_days(scenes, lambda s: (s.metadata['satellite'], s.relative_orbit, s.orbit_pass)).values():
    np.testing.assert_allclose(days, 12, atol=2 / 1440)


@pytest.mark.parametrize('lon', [-100.0, 3.0, 120.0])
def test_local_solar_times_at_the_equator(lon):
  def local_hours(scene):
    return (scene.time.hour + scene.time.minute / 60 + lon / 15) % 24

  # Half a swath is 2.2 minutes to either side; the tile or slice adds little.
  assert all(abs(local_hours(s) - 10.5) < 0.1 for s in sentinel2(lon, 0.1, 10))
  for scene in sentinel1(lon, 0.1, 12):
    assert abs(local_hours(scene) - (18 if scene.orbit_pass == 'ascending' else 6)) < 0.4  # it looks sideways


def test_no_night_scenes_of_sentinel2():
  assert sentinel2(25.0, 70.0, 20, datetime.datetime(2019, 12, 10, tzinfo=UTC)) == []
  assert sentinel2(25.0, 70.0, 20)
  assert all(s.metadata['sun_elevation_deg'] > 8 for s in sentinel2(25.0, 64.0, 40, START + 100 * DAY))


@pytest.mark.parametrize(
  ('place', 'tile'),
  [
    ((13.4, 52.5), '33UUU'),  # Berlin
    ((2.35, 48.85), '31UDQ'),  # Paris
    ((9.55, 47.15), '32TNT'),  # Liechtenstein
    ((-70.65, -33.45), '19HCD'),  # Santiago de Chile
    ((27.5, -7.7), '35MNM'),
    ((-0.5, 0.5), '30NYF'),
  ],
)
def test_tiles_have_the_names_of_the_real_grid(place, tile):
  assert tile in {s.metadata['tile'] for s in sentinel2(*place, 10)}


@pytest.mark.parametrize('place', [(13.4, 52.5), (-70.65, -33.45), (179.7, -17.0), (24.0, 68.5), (30.0, -0.1)])
def test_footprints_lie_in_the_tile_that_the_name_says(place):
  for scene in sentinel2(*place, 10):
    epsg, x, y = mgrs.tile_corner(scene.metadata['tile'])
    assert epsg == scene.metadata['epsg']
    lonlat = shapely.get_coordinates(scene.footprint)
    east, north = pyproj.Transformer.from_crs(4326, epsg, always_xy=True).transform(*lonlat.T)
    # Outlines have straight edges in degrees between points 14 km apart, off by 10 m or so.
    assert min(east) > x - 100
    assert max(east) < x + 109_800 + 100
    assert min(north) > y - 109_800 - 100
    assert max(north) < y + 100


def test_ids_say_what_the_scene_is():
  s2 = re.compile(r'(S2[AB])_MSIL2A_(\d{8}T\d{6})_N(\d{4})_R(\d{3})_T(\d{2}[C-X][A-Z]{2})_C\d{4}')
  for scene in sentinel2(10.4, 50.2, 10):
    satellite, stamp, baseline, orbit, tile = s2.fullmatch(scene.id).groups()
    assert satellite == scene.metadata['satellite']
    assert stamp == scene.time.strftime('%Y%m%dT%H%M%S')
    assert f'{baseline[:2]}.{baseline[2:]}' == scene.metadata['processing_baseline']
    assert (int(orbit), tile) == (scene.relative_orbit, scene.metadata['tile'])
  s1 = re.compile(r'(S1[AB])_IW_GRDH_1SDV_(\d{8}T\d{6})_(\d{8}T\d{6})_(\d{6})_C\d{4}')
  for scene in sentinel1(10.4, 50.2, 12):
    satellite, begin, end, absolute = s1.fullmatch(scene.id).groups()
    assert satellite == scene.metadata['satellite']
    assert begin == scene.time.strftime('%Y%m%dT%H%M%S')
    seconds = datetime.datetime.strptime(end, '%Y%m%dT%H%M%S') - datetime.datetime.strptime(begin, '%Y%m%dT%H%M%S')
    assert 24 <= seconds.total_seconds() <= 30
    assert int(absolute) == scene.metadata['absolute_orbit']


@pytest.mark.parametrize('search', [sentinel1, sentinel2])
@pytest.mark.parametrize('place', [(10.4, 50.2), (-63.0, -41.0), (179.99, 65.0), (-179.99, -17.5), (25.0, 70.0)])
def test_scenes_hold_the_place_once_and_in_order(search, place):
  scenes = search(*place, 12)
  assert scenes
  assert len({s.id for s in scenes}) == len(scenes)
  assert [(s.time, s.id) for s in scenes] == sorted((s.time, s.id) for s in scenes)
  for scene in scenes:
    assert scene.footprint.is_valid
    assert scene.footprint.intersects(shapely.Point(place))
    west, _, east, _ = scene.footprint.bounds
    assert west >= -180
    assert east <= 180
    assert START <= scene.time < START + 12 * DAY


def test_the_window_is_half_open():
  for search in (
    catalogue.search_sentinel1,
    lambda *a: catalogue.search_sentinel2(*a, half_covered),
  ):
    scene = search(shapely.Point(10.4, 50.2), START, START + 12 * DAY)[0]
    tick = datetime.timedelta(microseconds=1)
    ids = lambda start, end, search=search: {s.id for s in search(shapely.Point(10.4, 50.2), start, end)}  # noqa: E731
    assert scene.id in ids(scene.time, scene.time + tick)
    assert scene.id not in ids(scene.time - DAY, scene.time)


def test_a_scene_is_the_same_from_either_side_of_the_antimeridian():
  west, east = ({s.id: s for s in sentinel1(lon, -17.0, 12)} for lon in (179.999, -179.999))
  shared = set(west) & set(east)
  assert shared
  for name in shared:
    assert west[name].footprint.equals(east[name].footprint)
    assert len(shapely.get_parts(west[name].footprint)) == 2


def test_swaths_have_the_width_and_angles_of_the_missions():
  geod = pyproj.Geod(a=catalogue.EARTH_RADIUS_M, f=0)
  # IW: incidence 30.9 to 46.0 degrees over 250 km (ESA, Sentinel-1 user guide); Sentinel-2: 290 km.
  for orbit, width_km in ((catalogue.SENTINEL1, 250), (catalogue.SENTINEL2, 290)):
    u = np.zeros(1)
    (lon_a, lat_a), (lon_b, lat_b) = (orbit.ground(5, u, np.full(1, side)) for side in orbit.swath_rad)
    assert geod.inv(lon_a[0], lat_a[0], lon_b[0], lat_b[0])[2] / 1000 == pytest.approx(width_km, abs=1)
  near, far = catalogue.SENTINEL1.incidence_deg(np.array(catalogue.SENTINEL1.swath_rad))
  assert near == pytest.approx(30.9, abs=0.1)
  assert far == pytest.approx(46.0, abs=0.7)


def test_sentinel1_looks_to_the_right():
  # Ascending it flies north and looks east, descending south and looks west.
  for scene in sentinel1(10.4, 20.0, 12):
    orbit = catalogue.SENTINEL1
    u, across = orbit.nearest(np.array([scene.relative_orbit]), 10.4, 20.0, scene.orbit_pass == 'descending')
    track_lon, _ = orbit.ground(scene.relative_orbit, u, np.zeros(1))
    assert across[0] > 0
    assert (track_lon[0] < 10.4) == (scene.orbit_pass == 'ascending')


@pytest.mark.parametrize(
  ('time', 'lon', 'lat', 'elevation', 'azimuth'),
  [
    ('2019-06-21T12:00', 0.0, 50.0, 90 - 50 + 23.44, 180.0),  # noon of the summer solstice, within the equation of time
    ('2019-12-22T12:00', 0.0, 50.0, 90 - 50 - 23.44, 180.0),
    ('2019-03-20T12:07', 0.0, 0.0, 90.0, None),  # equinox: overhead
    ('2019-06-21T12:00', 0.0, -30.0, 90 - 30 - 23.44, 0.0),  # from the south it stands in the north
  ],
)
def test_the_sun(time, lon, lat, elevation, azimuth):
  found = catalogue.sun_position(datetime.datetime.fromisoformat(time).replace(tzinfo=UTC), lon, lat)
  assert found[0] == pytest.approx(elevation, abs=0.3)
  if azimuth is not None:
    assert abs((found[1] - azimuth + 180) % 360 - 180) < 2


def test_revisit_is_that_of_real_sentinel2_items(real_data):
  features = json.loads((real_data / 'stac' / 'site2-2020_jun_jul-35MNM.geojson').read_text())['features']
  real = sorted(datetime.datetime.fromisoformat(f['properties']['datetime']) for f in features)
  ours = [
    s for s in sentinel2(27.5, -7.7, 60, datetime.datetime(2020, 6, 1, tzinfo=UTC)) if s.metadata['tile'] == '35MNM'
  ]
  for times in (real, sorted({s.time for s in ours if s.relative_orbit == ours[0].relative_orbit})):
    np.testing.assert_allclose([(b - a) / DAY for a, b in itertools.pairwise(times)], 5, atol=1e-3)
  # A real datatake is stamped with its start, some minutes before it reaches the tile.
  minutes = [t.hour * 60 + t.minute for t in (real[0], ours[0].time)]
  assert abs(minutes[0] - minutes[1]) < 30


@pytest.mark.parametrize(
  ('file', 'orbit_pass'),
  [('3c893698_query_cdse_results.json', 'descending'), ('f99c6557_query_cdse_results.json', 'ascending')],
)
def test_passes_and_slices_are_like_real_sentinel1_products(real_data, file, orbit_pass):
  features = json.loads((real_data / 'catalogue' / file).read_text())['features']
  real = [f for f in features if 'GRDH' in f['properties']['title'] and 'COG' not in f['properties']['title']]
  ours = [s for s in sentinel1(2.0, 49.3, 24, datetime.datetime(2023, 6, 20, tzinfo=UTC)) if s.orbit_pass == orbit_pass]
  # In 2023 Sentinel-1A flew alone: compare it with one of our two.
  ours = [s for s in ours if s.metadata['satellite'] == 'S1A']
  orbits = collections.defaultdict(set)
  for f in real:
    orbits[f['properties']['relativeOrbitNumber']].add(f['properties']['startDate'][:10])
  for dates in orbits.values():
    days = np.diff(sorted(datetime.date.fromisoformat(d).toordinal() for d in dates))
    assert set(days) <= {12, 24}  # what is missing was not acquired
  for days in gaps_days(ours, lambda s: s.relative_orbit).values():
    np.testing.assert_allclose(days, 12, atol=2 / 1440)
  starts = [datetime.datetime.fromisoformat(f['properties']['startDate']) for f in real]
  clock = [np.mean([t.hour * 60 + t.minute for t in times]) for times in (starts, [s.time for s in ours])]
  assert abs(clock[0] - clock[1]) < 25
  to_metres = pyproj.Transformer.from_crs(4326, 3035, always_xy=True)

  def area_km2(footprint):
    return shapely.transform(footprint, lambda c: np.column_stack(to_metres.transform(*c.T))).area / 1e6

  sizes = [np.median([area_km2(shapely.geometry.shape(f['geometry'])) for f in real]),
           np.median([area_km2(s.footprint) for s in ours])]  # fmt: skip
  assert sizes[1] == pytest.approx(sizes[0], rel=0.15)


def test_baselines_follow_the_date():
  for day, baseline in (('2018-01-01', '02.06'), ('2022-01-24', '03.00'), ('2022-01-25', '04.00')):
    assert catalogue.processing_baseline(datetime.datetime.fromisoformat(day).replace(tzinfo=UTC)) == baseline


def test_polygons_take_the_short_way_around_the_antimeridian():
  parts = shapely.get_parts(catalogue.wrap_polygon(np.array([179.0, -179.0, -179.0, 179.0]), np.array([0, 0, 1, 1])))
  assert sorted(p.bounds for p in parts) == [(-180, 0, -179, 1), (179, 0, 180, 1)]
  joined = catalogue.unwrapped(shapely.MultiPolygon(list(parts)), 179.5)
  assert joined.bounds == (179, 0, 181, 1)
  assert base.split_antimeridian(joined).area == pytest.approx(2)


@pytest.mark.parametrize(
  'corner', [(10.0, 52.0), (12.0, 52.0), (-180.0, -18.0), (178.0, 64.0), (32.0, -2.0), (32.0, 0.0)]
)
def test_a_scene_that_covers_a_place_is_found_from_there_and_from_afar(corner):
  """At the borders of zones, of hemispheres and of the world: what one search lists, so does another."""
  start, end = datetime.datetime(2020, 6, 1, tzinfo=UTC), datetime.datetime(2020, 6, 13, tzinfo=UTC)
  rng = np.random.default_rng(0)
  cell = shapely.box(*corner, corner[0] + 2, corner[1] + 2)

  def search(footprint):
    optical = catalogue.search_sentinel2(footprint, start, end, half_covered)
    return [*optical, *catalogue.search_sentinel1(footprint, start, end)]

  afar = search(cell)
  checked = 0
  for lon, lat in np.concatenate([rng.uniform(0, 2, (8, 2)), [[0.001, 1.0], [1.999, 1.0], [1.0, 0.001]]]) + corner:
    around = shapely.box(lon - 1e-3, lat - 1e-3, lon + 1e-3, lat + 1e-3)
    inside = shapely.intersection(around, cell)
    near = {s.id for s in search(base.split_antimeridian(around)) if shapely.covers(s.footprint, inside)}
    assert near == {s.id for s in afar if shapely.covers(s.footprint, inside)}
    checked += len(near)
  assert checked > 30

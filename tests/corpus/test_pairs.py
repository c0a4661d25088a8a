import datetime
import json

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from deepsentinel import sensors
from deepsentinel.corpus import blocks, grid, pairs
from deepsentinel.sources import base

HOUR = datetime.timedelta(hours=1)
NOON = datetime.datetime(2018, 6, 1, 12, tzinfo=datetime.UTC)
GRID = grid.patch_grid(13.4, 52.5)
BLOCK = blocks.Block(NOON - 12 * HOUR, NOON + 276 * HOUR)
EVERYWHERE = shapely.box(10, 50, 20, 55)


def scene(sensor, time, footprint=EVERYWHERE, name='', **metadata):
  return base.Scene(name or f'{sensor}-{time.isoformat()}', sensor, footprint, time, metadata=metadata)


def found(*scenes, days=3.0):
  return of_patch(GRID, scenes, days)


def of_patch(patch, scenes, days=3.0, of=sensors.SENSORS):
  windows = pairs.windows(of, BLOCK, days)
  listed = {s: base.scenes_that_meet(scenes, s, shapely.box(-180, -90, 180, 90), *windows[s]) for s in of}
  return pairs.Candidates(listed, days).pairs([patch])[0]


@pytest.mark.parametrize(('hours', 'count'), [(72, 1), (-72, 1), (72.0003, 0), (-72.0003, 0), (0, 1)])
def test_a_gap_of_exactly_three_days_is_allowed(hours, count):
  assert len(found(scene('sentinel2', NOON), scene('sentinel1', NOON + hours * HOUR))) == count


def test_calendar_days_count_only_where_there_is_no_time():
  s2 = scene('sentinel2', NOON)
  s1 = scene('sentinel1', NOON + 83 * HOUR)  # 4 June 23:00: 3 calendar days
  assert not found(s2, s1)
  assert found(s2, scene('sentinel1', s1.time, date_only=True))


def test_the_block_is_that_of_sentinel2():
  inside, outside = scene('sentinel2', BLOCK.start), scene('sentinel2', BLOCK.end)
  before = scene('sentinel1', BLOCK.start - 70 * HOUR)
  assert [p.s2 for p in found(inside, before)] == [inside]
  assert not found(outside, scene('sentinel1', BLOCK.end - HOUR))


def test_both_footprints_must_cover_the_whole_outline():
  west, south, east, north = GRID.outline_lonlat().bounds
  # It holds the centre and three corners.
  cut = shapely.box(10, 50, east - 0.01 * (east - west), 55)
  full = scene('sentinel2', NOON)
  assert not found(full, scene('sentinel1', NOON, cut))
  assert not found(scene('sentinel2', NOON, cut), scene('sentinel1', NOON))
  assert found(full, scene('sentinel1', NOON, shapely.box(west, south, east, north)))


def test_coverage_across_the_antimeridian():
  patch = grid.patch_grid(179.999, -17.0)
  split = shapely.MultiPolygon([shapely.box(178, -18, 180, -16), shapely.box(-180, -18, -178, -16)])
  half = shapely.box(178, -18, 180, -16)
  assert len(of_patch(patch, [scene('sentinel2', NOON, split), scene('sentinel1', NOON, split)])) == 1
  assert not of_patch(patch, [scene('sentinel2', NOON, half), scene('sentinel1', NOON, split)])


def test_every_pair_is_drawn_alike_and_by_number_alone():
  scenes = [scene('sentinel2', NOON + d * 24 * HOUR) for d in (0, 2)] + [scene('sentinel1', NOON + 24 * HOUR)]
  draw = [pairs.draw(found(*scenes), seed=5, number=i) for i in range(400)]
  share = np.mean([p.s2 == scenes[0] for p in draw])
  assert 0.4 < share < 0.6  # four standard deviations
  assert pairs.draw(found(*scenes), seed=5, number=17) == draw[17]
  assert draw[0].gap_hours == 24


def test_no_pair():
  assert found() == []


def test_a_source_of_one_sensor():
  (pair,) = of_patch(GRID, [scene('sentinel2', NOON)], of=['sentinel2'])
  assert set(pair.scenes) == {'sentinel2'}
  assert np.isnan(pair.gap_hours)


def named(name):
  sensor = 'sentinel1' if name.startswith('S1') else 'sentinel2'
  return scene(sensor, NOON, name=name)


def test_products_of_one_slice_are_one_scene():
  slc = 'S1A_IW_SLC__1SDV_20230621T060744_20230621T060811_049080_05E6E4_3ACA.SAFE'
  cog = 'S1A_IW_GRDH_1SDV_20230621T060745_20230621T060810_049080_05E6E4_B218_COG.SAFE'
  grd = 'S1A_IW_GRDH_1SDV_20230621T060745_20230621T060810_049080_05E6E4_DE35.SAFE'
  following = 'S1A_IW_GRDH_1SDV_20230621T060810_20230621T060835_049080_05E6E4_AAAA.SAFE'
  assert [s.id for s in pairs.deduplicate([named(n) for n in (slc, cog, grd)])] == [grd]
  assert {s.id for s in pairs.deduplicate([named(n) for n in (following, slc, cog)])} == {cog, following}


def test_levels_and_baselines_of_one_tile_are_one_scene():
  tile = 'R022_T33UUP'
  names = [
    f'S2A_MSIL1C_20170613T101031_N0205_{tile}_20170613T101609',
    f'S2A_MSIL2A_20170613T101031_N0205_{tile}_20170613T101609',
    f'S2A_MSIL2A_20170613T101031_N0500_{tile}_20231007T110000',
    'S2A_MSIL2A_20170613T101031_N0500_R022_T33UVP_20231007T110000',
  ]
  assert {s.id for s in pairs.deduplicate([named(n) for n in names])} == set(names[2:])
  # Of no baseline of ESA's, so that nobody knows its offset.
  names.append(f'S2A_MSIL2A_20170613T101031_N9999_{tile}_20240101T110000')
  assert {s.id for s in pairs.deduplicate([named(n) for n in names])} == set(names[2:4])


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(4)))
def test_the_order_of_a_catalogue_does_not_matter(order):
  names = [
    'S1A_IW_SLC__1SDV_20230621T060744_20230621T060811_049080_05E6E4_3ACA',
    'S1A_IW_GRDH_1SDV_20230621T060745_20230621T060810_049080_05E6E4_B218_COG',
    'S1A_IW_ETA__AXDV_20230621T060744_20230621T060811_049080_05E6E4_1E7C',
    'S1B_IW_GRDH_1SDV_20230621T060745_20230621T060810_049080_05E6E4_DE35',
  ]
  assert {s.id for s in pairs.deduplicate([named(names[i]) for i in order])} == {names[1], names[3]}


@pytest.mark.parametrize(
  ('file', 'slices'), [('3c893698_query_cdse_results.json', 16), ('f99c6557_query_cdse_results.json', 37)]
)
def test_a_real_catalogue_lists_each_slice_once(real_data, file, slices):
  # 60 and 120 products; each slice was listed as SLC, and that count is the expected one.
  features = json.loads((real_data / 'catalogue' / file).read_text())['features']
  assert sum('_SLC_' in f['properties']['title'] for f in features) == slices
  scenes = [
    base.Scene(
      f['properties']['title'],
      'sentinel1',
      shapely.from_geojson(json.dumps(f['geometry'])),
      datetime.datetime.fromisoformat(f['properties']['startDate']),
    )
    for f in features
  ]
  kept = pairs.deduplicate(scenes)
  assert len(kept) == slices
  with_grd = {s.id for s in kept if 'GRD' in s.id}
  assert len(with_grd) == sum(f['properties']['productType'] == 'IW_GRDH_1S' for f in features)
  assert not any('COG' in i for i in with_grd)


def test_blocks_of_the_papers_year():
  found = blocks.period_blocks('2018-01-01', '2019-01-05')
  assert len(found) == 31
  assert [b.days for b in found] == [12] * 30 + [9]
  number = blocks.assign_blocks(found, 3690, 0)
  assert list(np.bincount(number)) == [120] * 30 + [90]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 500), st.integers(1, 400), st.integers(0, 9))
def test_points_are_proportional_to_days(n, days, seed):
  found = blocks.period_blocks('2020-01-01', str(datetime.date(2020, 1, 1) + datetime.timedelta(days=days)))
  count = np.bincount(blocks.assign_blocks(found, n, seed), minlength=len(found))
  assert count.sum() == n
  assert sum(b.days for b in found) == days
  assert (np.abs(count - n * np.array([b.days for b in found]) / days) < 1).all()


def test_an_empty_period_is_refused():
  with pytest.raises(ValueError, match='period is empty'):
    blocks.period_blocks('2019-01-01', '2019-01-01')
  with pytest.raises(ValueError, match=r'period.start must be a date.*31.12.2018'):
    blocks.period_blocks('31.12.2018', '2019-01-01')

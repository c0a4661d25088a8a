import itertools

import numpy as np
import pytest

from deepsentinel import sensors
from deepsentinel.data import batches, neighbours
from tests.data.memory_records import MemoryRecords


def sampler(records, index=None, **kwargs):
  return neighbours.NeighbourSampler.from_records(records.table, index, **kwargs)


def take(records, count, **kwargs):
  defaults = {'views': 'triplet', 'batch_size': 4, 'crop_px': 8, 'seed': 3, 'threads': 1}
  if kwargs.get('views', 'triplet') == 'triplet':
    defaults['neighbours'] = sampler(records, kwargs.get('index'), max_distance_km=300)
  return list(itertools.islice(batches.training_batches(records, **{**defaults, **kwargs}), count))


def assert_same(a, b):
  assert len(a) == len(b)
  for x, y in zip(a, b, strict=True):
    assert x.keys() == y.keys()
    for key in x:
      np.testing.assert_array_equal(x[key], y[key])


@pytest.fixture
def records():
  return MemoryRecords(count=10, patch_px=16)


def test_pixels_are_those_that_the_plan_names(records):
  (batch,) = take(records, 1)
  assert batch['s2'].shape == (4, 3, 8, 8, 2)
  assert batch['s1'].shape == (4, 3, 8, 8, 1)
  assert (batch['s2'].dtype, batch['s1'].dtype, batch['index'].dtype) == (np.uint16, np.int16, np.int32)
  for b, v in np.ndindex(4, 3):
    i, r, c = (batch[key][b, v] for key in ('index', 'row', 'col'))
    np.testing.assert_array_equal(batch['s2'][b, v], records.arrays['s2'][i, r : r + 8, c : c + 8])
    np.testing.assert_array_equal(batch['s1'][b, v], records.arrays['s1'][i, r : r + 8, c : c + 8])


def test_triplets_are_anchor_neighbour_and_distant(records):
  # Ten records 1.11 degrees (87 km) apart: within 300 km lie three on each side.
  index = np.concatenate([b['index'] for b in take(records, 50)])
  apart = np.abs(index[:, 1:] - index[:, :1])
  assert set(apart[:, 0]) <= {1, 2, 3}
  assert apart[:, 1].min() > 3


def test_rows_and_columns_are_independent_of_each_other_and_of_the_view(records):
  found = take(records, 500, views='pair', batch_size=8)
  row, col = (np.concatenate([b[key] for b in found]) for key in ('row', 'col'))
  assert row.min() == col.min() == 0
  assert row.max() == col.max() == 8  # offsets 0 to 16 - 8, both ends included
  for a, b in ((row[:, 0], col[:, 0]), (row[:, 0], row[:, 1]), (col[:, 0], col[:, 1])):
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.06
  np.testing.assert_allclose(np.bincount(row[:, 0]) / len(row), 1 / 9, atol=0.02)


def test_every_record_is_an_anchor_once_an_epoch(records):
  # 10 records in batches of 4: batches run on across the end of an epoch.
  anchors = np.concatenate([b['index'][:, 0] for b in take(records, 15)]).reshape(6, 10)
  assert all(sorted(epoch) == list(range(10)) for epoch in anchors.tolist())
  assert len({tuple(epoch) for epoch in anchors.tolist()}) == 6
  assert batches.steps_per_epoch(10, 4) == 2.5


def test_a_batch_larger_than_the_records_takes_some_again(records):
  (batch,) = take(records, 1, views='single', batch_size=24)
  assert batch['index'].shape == (24, 1)
  assert set(np.bincount(batch['index'][:, 0])) == {2, 3}


@pytest.mark.parametrize('views', ['single', 'pair', 'triplet'])
def test_resumes_exactly_in_the_middle_of_an_epoch(records, views):
  whole = take(records, 9, views=views)
  for start in (0, 1, 4, 8):
    assert_same(take(records, 9 - start, views=views, start_step=start), whole[start:])


def test_processes_read_their_parts_of_the_same_batches(records):
  whole = take(records, 5)
  for count in (2, 4):
    parts = [take(records, 5, process_index=p, process_count=count) for p in range(count)]
    joined = [{k: np.concatenate([p[s][k] for p in parts]) for k in whole[0]} for s in range(5)]
    assert_same(joined, whole)


def test_threads_change_nothing(records):
  assert_same(take(records, 20, threads=1), take(records, 20, threads=8))


def test_the_seed_changes_order_and_crops(records):
  a, b = take(records, 5, views='single'), take(records, 5, views='single', seed=4)
  assert any((x['index'] != y['index']).any() for x, y in zip(a, b, strict=True))
  assert any((x['row'] != y['row']).any() for x, y in zip(a, b, strict=True))


def test_index_restricts_all_views(records):
  chosen = np.array([9, 0, 1, 8, 5])
  found = take(records, 40, index=chosen)
  assert set(np.concatenate([b['index'].ravel() for b in found])) == set(chosen.tolist())
  # Neighbours within 300 km among the chosen: 0 with 1, 9 with 8, and 5 with 8.
  pairs = {tuple(p) for b in found for p in b['index'][:, :2].tolist()}
  assert pairs <= {(0, 1), (1, 0), (9, 8), (8, 9), (5, 8), (8, 5)}


def test_each_region_gives_a_share_of_every_batch_from_itself(records):
  regions = [np.array([0, 3, 4, 6, 9]), np.array([1, 2, 5, 7, 8])]
  samplers = [sampler(records, region, max_distance_km=300) for region in regions]
  found = take(records, 5, neighbours=samplers, regions=regions)  # two epochs of each region
  for half, region in enumerate(regions):
    shares = [batch['index'][2 * half : 2 * half + 2] for batch in found]
    assert sorted(np.concatenate(shares)[:, 0]) == sorted([*region, *region])  # anchors
    assert set(np.concatenate(shares).ravel()) <= set(region)
    assert len({tuple(share[:, 0]) for share in shares}) > 1
  parts = [take(records, 5, neighbours=samplers, regions=regions, process_index=i, process_count=2) for i in (0, 1)]
  for whole, *own in zip(found, *parts, strict=True):
    np.testing.assert_array_equal(whole['s2'], np.concatenate([part['s2'] for part in own]))
  assert_same(take(records, 3, neighbours=samplers, regions=regions, start_step=2), found[2:])
  # The streams of two regions differ, else equal regions would draw the same.
  twice = take(records, 1, views='single', batch_size=8, regions=[regions[0], regions[0]])[0]
  assert (twice['row'][:4] != twice['row'][4:]).any()


def test_a_batch_that_regions_do_not_divide(records):
  with pytest.raises(ValueError, match='Batch size 4 does not divide over 3 regions'):
    take(records, 1, views='single', regions=[np.arange(3)] * 3)


def test_pair_without_sampler_is_two_crops_of_one_patch(records):
  (batch,) = take(records, 1, views='pair')
  assert (batch['index'][:, 0] == batch['index'][:, 1]).all()


def test_the_second_crop_lies_within_the_shift_of_its_step(records):
  for step, batch in enumerate(take(records, 60, views='pair', batch_size=8, shift_px=lambda step: step // 20)):
    apart = np.abs(np.stack([np.diff(batch[axis], axis=1) for axis in ('row', 'col')]))
    assert apart.max() <= step // 20
    assert (batch['row'] >= 0).all()
    assert (batch['row'] <= 8).all()
    if step >= 20:
      assert apart.max() > 0
  whole = take(records, 1, views='pair', batch_size=8)[0]
  shifted = take(records, 1, views='pair', batch_size=8, shift_px=lambda step: 4.0)[0]
  np.testing.assert_array_equal(whole['row'][:, 0], shifted['row'][:, 0])  # the first crop is the same draw


def test_labelled_brings_the_labels_of_the_crop():
  records = MemoryRecords(count=4, labelled=True)
  (batch,) = take(records, 1, views='labelled')
  assert batch['corine'].shape == (4, 8, 8)
  for b in range(4):
    i, r, c = (batch[key][b, 0] for key in ('index', 'row', 'col'))
    np.testing.assert_array_equal(batch['corine'][b], records.arrays['corine'][i, r : r + 8, c : c + 8])


def test_a_record_set_of_one_sensor_gives_that_sensor():
  records = MemoryRecords(spec=sensors.SensorSpec(('VV', 'VH')))
  (batch,) = take(records, 1, views='single')
  assert 's2' not in batch
  assert batch['s1'].shape == (4, 1, 8, 8, 2)
  (batch,) = take(MemoryRecords(), 1, views='single', fields=['s2'])
  assert 's1' not in batch


def test_an_error_of_the_reader_arrives(records):
  def broken(*_):
    raise ValueError('shard 3 is cut short')

  records.read_crops = broken
  with pytest.raises(ValueError, match=r'shard 3 is cut short'):
    take(records, 1)


@pytest.mark.parametrize(
  ('kwargs', 'message'),
  [
    ({'views': 'quad'}, "Unknown views 'quad'. Known: single, labelled, scene, pair, triplet"),
    ({'crop_px': 17}, 'crop_px=17 does not fit the patches of 16 px'),
    ({'crop_px': 0}, 'crop_px=0'),
    ({'batch_size': 5, 'process_count': 2}, 'Batch size 5 does not divide over 2 processes; nearest that do: 4, 6'),
    ({'batch_size': 1, 'process_count': 2}, 'nearest that do: 2'),
    ({'batch_size': 0}, 'Batch size 0'),
    ({'process_index': 2, 'process_count': 2}, 'process_index=2 is not one of 2'),
    ({'views': 'single', 'index': []}, "No records to read: split 'train'"),
    ({'views': 'single', 'index': [3, 10]}, 'record numbers 3 to 10; allowed are 0 to 9'),
    ({'neighbours': None}, "'triplet' needs a sampler"),
    ({'views': 'labelled'}, 'has no corine; it has s2, s1.*deepsentinel_labelled'),
    ({'views': 'single', 'start_step': -1}, 'start_step is -1'),
  ],
)
def test_bad_input_is_refused_at_once(records, kwargs, message):
  defaults = {'views': 'triplet', 'batch_size': 4, 'crop_px': 8, 'seed': 0}
  defaults['neighbours'] = sampler(records, max_distance_km=300)
  with pytest.raises(ValueError, match=message):
    batches.training_batches(records, **{**defaults, **kwargs})


def test_a_sampler_of_other_records_is_refused(records):
  with pytest.raises(ValueError, match=r'sampler covers 10 records, the batches 3'):
    batches.training_batches(
      records, views='triplet', batch_size=2, crop_px=8, seed=0, index=[0, 4, 9], neighbours=sampler(records)
    )


def test_quadrants_in_order():
  records = MemoryRecords(count=3, patch_px=16, labelled=True)
  found = list(batches.evaluation_batches(records, batch_size=5, crop_px=8, index=[2, 0]))
  assert len(found) == 2
  assert batches.crops_per_patch(16, 8) == 4
  index, row, col, mask = (np.concatenate([b[k].ravel() for b in found]) for k in ('index', 'row', 'col', 'mask'))
  assert mask.tolist() == [True] * 8 + [False] * 2
  assert index[:8].tolist() == [2] * 4 + [0] * 4
  assert list(zip(row[:4].tolist(), col[:4].tolist(), strict=True)) == [(0, 0), (0, 8), (8, 0), (8, 8)]
  assert not found[1]['count'][3:].any()
  np.testing.assert_array_equal(found[0]['s2'][1, 0], records.arrays['s2'][2, 0:8, 8:16])
  np.testing.assert_array_equal(found[0]['corine'][2], records.arrays['corine'][2, 8:16, 0:8])


@pytest.mark.parametrize(('patch_px', 'crop_px'), [(16, 8), (16, 16), (15, 14), (16, 7), (16, 5), (120, 112), (9, 1)])
@pytest.mark.parametrize('process_count', [1, 2])
def test_every_pixel_counts_exactly_once(patch_px, crop_px, process_count):
  records = MemoryRecords(count=3, patch_px=patch_px, spec=sensors.SensorSpec(('B2',)))
  seen = np.zeros((3, patch_px, patch_px), int)
  for p in range(process_count):
    for batch in batches.evaluation_batches(
      records, batch_size=4, crop_px=crop_px, process_index=p, process_count=process_count, threads=2
    ):
      assert len(batch['mask']) == 4 // process_count
      for b in range(len(batch['mask'])):
        i, r, c = (batch[key][b, 0] for key in ('index', 'row', 'col'))
        seen[i, r : r + crop_px, c : c + crop_px] += batch['count'][b]
  assert (seen == 1).all()


def test_evaluation_reads_the_fields_asked_for():
  records = MemoryRecords(count=2, labelled=True)
  assert {'s2', 's1', 'corine'} <= next(batches.evaluation_batches(records, batch_size=2, crop_px=8)).keys()
  keys = next(batches.evaluation_batches(records, batch_size=2, crop_px=8, fields=['s1', 'osm'])).keys()
  assert keys == {'s1', 'osm', 'index', 'row', 'col', 'mask', 'count'}
  assert 'corine' not in next(batches.evaluation_batches(MemoryRecords(), batch_size=2, crop_px=8))


def test_on_prepared_records_too():
  from deepsentinel.data.records import RecordSet
  from tests import tiny_records

  records = RecordSet(tiny_records.tiny_records())
  (batch,) = take(records, 1, views='labelled', crop_px=16)
  whole = records.read('corine', batch['index'][:, 0])
  for b in range(4):
    r, c = batch['row'][b, 0], batch['col'][b, 0]
    np.testing.assert_array_equal(batch['corine'][b], whole[b, r : r + 16, c : c + 16])


def test_scenes_are_cropped_around_the_centre_and_bring_their_own_label():
  records = MemoryRecords(count=6, patch_px=16)
  records.table['scene'] = [0, 1, 2, 0, 1, 2]
  seen = set()
  for batch in take(records, 12, views='scene', label_field='scene', batch_size=6, crop_px=8):
    np.testing.assert_array_equal(batch['scene'], records.table['scene'].to_numpy()[batch['index'][:, 0]])
    # Offsets 2 to 6: the centre, at 8, lies in the inner half of a crop of 8.
    seen |= set(batch['row'].ravel()) | set(batch['col'].ravel())
  assert seen == {2, 3, 4, 5, 6}
  (one,) = batches.evaluation_batches(records, batch_size=8, crop_px=8, fields=('s2', 'scene'), centred=True)
  assert one['mask'].tolist() == [True] * 6 + [False] * 2
  assert set(one['row'].ravel()) == set(one['col'].ravel()) == {4}
  assert one['count'][:6].all()
  np.testing.assert_array_equal(one['scene'][:6], records.table['scene'])

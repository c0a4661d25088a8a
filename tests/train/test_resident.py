"""A corpus that the devices hold gives the batches, and the weights, of one that is streamed: to the last bit."""

import dataclasses
import itertools
import json

import ml_collections
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import common
from deepsentinel import curriculum, experiment, sensors
from deepsentinel.corpus import publish
from deepsentinel.data import batches, records, subsets
from deepsentinel.train import checkpoint, loop, parallel, resident, state
from tests import commands, tiny_records
from tests.data.memory_records import MemoryRecords
from tests.sources import loopback
from tests.train import tiny_model

FIELDS = ('s2', 's1', 'corine', 'osm')
STEPS = 3


def random_records(count: int = 7, patch_px: int = 12) -> MemoryRecords:
  """Every stored value there is, nodata among them."""
  rng = np.random.default_rng(0)
  empty = MemoryRecords(count=count, patch_px=patch_px, labelled=True)
  arrays = {}
  for name, field in empty.fields.items():
    limits = np.iinfo(field.dtype)
    arrays[name] = rng.integers(limits.min, limits.max, (count, *field.shape), field.dtype, endpoint=True)
    arrays[name][rng.random((count, patch_px, patch_px)) < 0.2] = field.nodata
  return MemoryRecords(count=count, patch_px=patch_px, labelled=True, arrays=arrays)


RECORDS = random_records()


@pytest.fixture(scope='module')
def corpus():
  """Records 6, 1, 4, 2 on four devices, in parts of two."""
  return resident.Source.of(RECORDS, np.array([6, 1, 4, 2]), FIELDS, 5).load(progress=False)


@settings(max_examples=40, deadline=None)
@given(st.data(), st.sampled_from([1, 3]))
def test_crops_are_those_that_the_host_reads(corpus, data, views):
  """At the borders, of one record several times, nodata as it is stored."""
  drawn = [
    data.draw(st.lists(values, min_size=8 * views, max_size=8 * views))
    for values in (st.sampled_from([1, 2, 4, 6]), st.sampled_from([0, 1, 6, 7]), st.sampled_from([0, 3, 7]))
  ]
  plan = batches.Plan(*(np.array(values, np.int32).reshape(8, views) for values in drawn))
  expected = batches.read_plan(RECORDS, plan, 5, FIELDS)
  placed, patches = corpus.place({'index': plan.index, 'row': plan.row, 'col': plan.col})
  assert patches == 8 * views
  assert placed.keys() == set(FIELDS)
  for name, values in placed.items():
    assert values.shape == (4, 2, *expected[name].shape[1:])  # [D, B, ...], as `parallel.shard`
    assert values.sharding == parallel.shard(expected[name]).sharding
    found = parallel.unshard(values)
    assert found.dtype == expected[name].dtype
    np.testing.assert_array_equal(found, expected[name])


@pytest.mark.parametrize('patches', [1, 2, 3, 7])
def test_records_are_loaded_in_parts_of_any_number(monkeypatch, patches):
  monkeypatch.setattr(resident, '_CHUNK_BYTES', 2 * 12 * 12 * 2 * 2)  # two patches of two bands
  source = resident.Source.of(RECORDS, np.arange(patches), ('s2',), 12)
  assert source.nbytes == patches * 12 * 12 * 2 * 2
  everything = {'index': np.tile(np.arange(patches, dtype=np.int32)[:, None], (4, 1))}
  placed, _ = source.load(progress=False).place(everything | {k: 0 * everything['index'] for k in ('row', 'col')})
  expected = np.tile(RECORDS.arrays['s2'][:patches], (4, 1, 1, 1, 1))  # [D, B, H, W, C]
  np.testing.assert_array_equal(np.asarray(placed['s2'])[:, :, 0], expected)


def test_a_plan_is_a_batch_without_pixels():
  records_ = random_records()
  records_.table['scene'] = np.arange(7, dtype=np.int32) % 3
  for views, label in (('single', 'corine'), ('labelled', 'corine'), ('pair', 'corine'), ('scene', 'scene')):
    options = {'views': views, 'batch_size': 4, 'crop_px': 5, 'seed': 1, 'label_field': label, 'start_step': 2}
    whole, plans = (batches.training_batches(records_, pixels=pixels, **options) for pixels in (True, False))
    for batch, plan in itertools.islice(zip(whole, plans, strict=True), 3):
      assert plan.keys() == {'index', 'row', 'col'} | ({'scene'} if views == 'scene' else set())
      for name, values in plan.items():
        np.testing.assert_array_equal(values, batch[name])


def test_joined_splits_are_held_as_one():
  joined = subsets.Joined([RECORDS, RECORDS])
  source = resident.Source.of(joined, np.array([13, 3]), ('corine',), 12)
  plan = {
    'index': np.array([[13], [3], [3], [13]], np.int32),
    **{k: np.zeros((4, 1), np.int32) for k in ('row', 'col')},
  }
  placed, _ = source.load(progress=False).place(plan)
  np.testing.assert_array_equal(parallel.unshard(placed['corine']), RECORDS.arrays['corine'][[6, 3, 3, 6]])


@pytest.mark.parametrize(('local', 'processes'), [(1, 1), (4, 1), (2, 3)])
@pytest.mark.parametrize('regions', [1, 2, 3, 4, 8])
def test_a_device_holds_what_its_share_of_a_batch_is_of(monkeypatch, local, processes, regions):
  batch = 24
  numbers = np.array_split(np.arange(20, 60), regions)
  region_of = np.repeat(np.arange(regions), batch // regions)  # of each example
  monkeypatch.setattr(parallel, 'local_devices', lambda: local)
  monkeypatch.setattr(parallel, 'process_count', lambda: processes)
  for process in range(processes):
    monkeypatch.setattr(parallel, 'process_index', lambda process=process: process)
    parts = resident.parts_of(numbers)
    assert len(parts) == local
    for device, part in enumerate(parts):
      own = np.arange(batch).reshape(processes, local, -1)[process, device]
      np.testing.assert_array_equal(part, np.concatenate([numbers[r] for r in np.unique(region_of[own])]))


def test_regions_of_unequal_length_are_held_by_a_device_each(monkeypatch):
  monkeypatch.setattr(resident, '_CHUNK_BYTES', 4 * 2 * 12 * 12 * 2 * 2)  # two patches of two bands for each device
  regions = [np.array(numbers) for numbers in ([5, 0], [6], [1, 2, 3], [4])]
  source = resident.Source.of(RECORDS, np.arange(7), ('s2', 's1'), 12, regions)
  assert source.nbytes == 3 * 12 * 12 * (2 + 1) * 2  # the longest of them
  everything = {'index': np.array([[0], [5], [6], [6], [3], [1], [4], [4]], np.int32)}
  placed, _ = source.load(progress=False).place(everything | {k: 0 * everything['index'] for k in ('row', 'col')})
  for name in ('s2', 's1'):
    np.testing.assert_array_equal(parallel.unshard(placed[name]), RECORDS.arrays[name][everything['index']])


def test_records_at_a_url_are_read_once(tmp_path, monkeypatch):
  monkeypatch.setenv('DEEPSENTINEL_CACHE', str(tmp_path / 'cache'))
  name, prepared = 'deepsentinel_labelled/custom/1.0.0', tiny_records.tiny_records(labelled=True)
  publish.publish(prepared, str(tmp_path / 'www' / name), progress=False)
  options = {'views': 'labelled', 'batch_size': 8, 'crop_px': 16, 'seed': 0}
  with loopback.Server(tmp_path / 'www').running() as server:
    away = records.RecordSet(f'{server.url}/data/{name}')
    corpus = resident.Source.of(away, np.arange(len(away)), ('s2', 's1', 'corine'), 16).load(progress=False)
    asked = server.seen.total()
    plans = batches.training_batches(away, pixels=False, **options)
    placed = [corpus.place(next(plans))[0] for _ in range(3)]
    assert server.seen.total() == asked > 0
  for found, batch in zip(placed, batches.training_batches(records.RecordSet(prepared), **options), strict=False):
    for field in ('s2', 's1', 'corine'):
      np.testing.assert_array_equal(parallel.unshard(found[field]), batch[field])


# Whole runs


def config_of(objective: str, mode: str, **changes) -> ml_collections.ConfigDict:
  config = common.get_config()
  values = {
    'data.labelled': str(tiny_records.tiny_records(labelled=True)),
    'data.unlabelled': str(tiny_records.tiny_records(labelled=False)), 'data.crop_px': 16, 'data.resident': mode,
    'encoder.name': 'tests.train.tiny_model:TinyEncoder', 'encoder.width': 8, 'pretrain.objective': objective,
    'pretrain.batch_size': 4, 'pretrain.sensor_dropout': 0.3, 'pretrain.tile2vec.max_distance_km': 10,
    'pretrain.contrastive.augment.warmup_epochs': 0.0, 'finetune.batch_size': 4, 'finetune.label_fraction': 0.7,
    'evaluation.batch_size': 4, 'evaluation.test': False, 'checkpoint.every_steps': 1,
  }  # fmt: skip
  config.update_from_flattened_dict({**values, **changes})
  for stage in ('pretrain', 'finetune'):
    config[stage].duration = common.duration(steps=STEPS)
  return config


def stage_of(objective: str, mode: str, workdir, **changes) -> loop.Stage:
  """Pretraining with an objective, or fine-tuning where it is 'none'; nothing is validated or drawn."""
  config = config_of(objective, mode, **changes).to_dict()
  data = curriculum.open_data(config, progress=False)
  made = curriculum.finetuning if objective == 'none' else lambda *given: curriculum.pretraining(*given)[0]
  return dataclasses.replace(made(config, data, workdir), pictures=None, validation=None, patience_epochs=0)


@pytest.mark.parametrize(
  ('objective', 'changes'),
  [
    ('none', {}),  # label maps, of part of the patches
    ('none', {'finetune.folds': 2, 'pretrain.exclude_km': 0.0, 'finetune.target': 'osm'}),
    ('vae', {}),
    ('tile2vec', {'pretrain.batch_size': 8, 'pretrain.accumulate': 2, 'pretrain.regions': 2}),
    ('contrastive', {'pretrain.masked_cloud': 0.5}),
  ],
)
def test_four_devices_end_with_the_same_weights(tmp_path, objective, changes):
  found = {}
  for mode in ('never', 'always'):
    stage = stage_of(objective, mode, tmp_path / mode, **changes)
    outcome = loop.train(stage, progress_bar=False)
    assert (outcome.resident_bytes > 0) == (mode == 'always')
    if mode == 'always' and changes.get('pretrain.regions'):
      whole = dataclasses.replace(stage.held, parts=(np.unique(np.concatenate(stage.held.parts)),) * 4)
      assert len(whole.parts[0]) == stage.examples
      assert outcome.resident_bytes == -(-stage.examples // 2) * whole.nbytes // stage.examples
    found[mode] = checkpoint.load_trained(stage.directory)
  assert found['never'].step == STEPS
  assert found['never'].sha256 == found['always'].sha256


def test_one_device_and_a_kill_end_with_the_same_weights(tmp_path):
  """kill -9; what was begun resident goes on streaming, with the weights of a run that was resident to its end."""
  plain = config_of('tile2vec', 'never').to_json()
  (tmp_path / 'config.py').write_text(
    'import json\nimport ml_collections\n\n\ndef get_config():\n'
    f'  return ml_collections.ConfigDict(json.loads({plain!r}))\n'
  )

  def start(mode, name):
    flags = (f'--config={tmp_path / "config.py"}', f'--config.data.resident={mode}', f'--workdir={tmp_path / name}')
    return commands.Running('deepsentinel.main', '--noprogress', *flags)

  killed = start('always', 'killed')
  killed.wait_until((tmp_path / 'killed' / 'pretrain' / 'checkpoints' / '1').exists)
  killed.kill()
  for mode, name in (('never', 'killed'), ('always', 'whole')):
    finished = start(mode, name).finish()
    assert finished.code == 0, finished.err
  notes = [json.loads((tmp_path / name / 'experiment.json').read_text()) for name in ('killed', 'whole')]
  for name in ('pretrain', 'finetune'):
    streamed, resident_ = (n['stages'][name] for n in notes)
    assert streamed['sha256'] == resident_['sha256']
    assert (streamed['resident'], streamed['resident_bytes']) == (False, 0)
    about = notes[1]['data']['pretrain' if name == 'pretrain' else 'train']
    assert resident_['resident'] is True
    pixel_bytes = 12 * 2 + 2 * 2 + (name == 'finetune')
    assert resident_['resident_bytes'] == about.get('used', about['patches']) * 32 * 32 * pixel_bytes


def test_resumed_from_the_step_of_the_checkpoint(tmp_path):
  """In the middle of an epoch, on four devices; the records are loaded again."""
  whole, halves = (stage_of('tile2vec', 'always', tmp_path / name) for name in ('whole', 'halves'))
  source = halves.held

  def plans_until_killed(step):
    yield from itertools.islice(source.plans(step), 2)
    raise RuntimeError('killed')

  broken = dataclasses.replace(halves, held=dataclasses.replace(source, plans=plans_until_killed))
  with pytest.raises(RuntimeError, match='killed'):
    loop.train(broken, progress_bar=False)
  for stage in (whole, halves):
    assert loop.train(stage, progress_bar=False).resident_bytes == source.nbytes
  a, b = (checkpoint.load_trained(stage.directory) for stage in (whole, halves))
  assert (a.step, a.sha256) == (b.step, b.sha256)


# Too little memory


def test_always_with_records_that_do_not_fit(monkeypatch, tmp_path):
  """Before anything is loaded or written: both sizes and the mend."""
  monkeypatch.setattr(resident, 'free_memory', lambda: ('NVIDIA H100', 100_000))
  with pytest.raises(ValueError, match=(
    r"config.data.resident is 'always', but the patches of config.finetune take 0.000 GB on each device, and NVIDIA "
    r'H100 has 0.000 GB free for it. Pass --config.data.resident=auto, which streams what does not fit, or never; no '
    r'result depends on it.$'
  )):  # fmt: skip
    experiment.run(config_of('vae', 'always'), tmp_path / 'run', progress_bar=False)
  source = resident.Source.of(RECORDS, np.arange(4), ('s2',), 5)
  monkeypatch.setattr(resident, 'free_memory', lambda: ('NVIDIA H100', 1000))
  with pytest.raises(ValueError, match=(
    r'config.pretrain take .* Or let each device hold a region, .*: --config.pretrain.regions=4.$'
  )):  # fmt: skip
    resident.choose('always', [('pretrain', source)])
  assert not (tmp_path / 'run').exists()


def test_what_auto_chooses(monkeypatch):
  source = resident.Source.of(RECORDS, np.arange(4), ('s2',), 5)  # 4 * 12 * 12 * 2 bands of 2 bytes
  named = [('pretrain', dataclasses.replace(source, parts=(np.arange(2),) * 4)), ('finetune', source)]
  assert source.nbytes == 2304
  assert resident.choose('auto', named) == ()  # a CPU
  assert set(resident.choose('always', named)) == {'pretrain', 'finetune'}
  assert resident.choose('never', named) == ()
  monkeypatch.setattr(parallel, 'on_cpu', lambda: False)
  for free, expected in ((4608, ('pretrain', 'finetune')), (4607, ('pretrain',)), (2303, ()), (None, ())):
    monkeypatch.setattr(parallel, 'free_bytes', lambda free=free: free)
    assert resident.choose('auto', named) == expected


def _digest(directory) -> str:
  """SHA-256 of everything in the newest checkpoint of a tiny stage."""
  stage = tiny_model.stage(directory)
  checkpoints = checkpoint.Checkpoints(directory / 'checkpoints', stage.about)
  try:
    return checkpoints.restore(state.create(stage.initial_variables(), stage.optimiser))[1]['sha256_all']
  finally:
    checkpoints.close()


def test_auto_streams_where_the_memory_does_not_suffice_after_all(tmp_path, caplog):
  """A device that refuses the records: a warning, and the same weights; an error where they were asked for."""
  huge = MemoryRecords(count=2, patch_px=8, spec=sensors.SensorSpec(('VV',)))
  huge.fields['s1'] = dataclasses.replace(huge.fields['s1'], shape=(1 << 20, 1 << 20, 1 << 3))
  source = resident.Source.of(huge, np.arange(2), ('s1',), 8, plans=lambda step: iter(()))
  with pytest.raises(ValueError, match=r'too little memory: .* Or pass --config.data.resident=never, which needs none'):
    loop.train(
      tiny_model.stage(tmp_path / 'asked', held=dataclasses.replace(source, required=True)), progress_bar=False
    )
  outcome = loop.train(tiny_model.stage(tmp_path / 'auto', held=source), progress_bar=False)
  assert (outcome.steps, outcome.resident_bytes) == (4, 0)
  assert 'Going on without the records on the device' in caplog.text
  streamed = loop.train(tiny_model.stage(tmp_path / 'streamed'), progress_bar=False)
  assert streamed.steps == outcome.steps
  digests = [_digest(tmp_path / name) for name in ('auto', 'streamed')]
  assert digests[0] == digests[1]

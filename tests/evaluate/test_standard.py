"""Published benchmarks through the command's own functions: tiny folders in their formats, and real BigEarthNet v2."""

import contextlib
import json
import sys
import types

import numpy as np
import pytest

from deepsentinel import sensors
from deepsentinel.evaluate import others, output, standard
from deepsentinel.evaluation.benchmarks import bigearthnet, eurosat, sen1floods11
from tests import untrained
from tests.evaluation import benchmark_files


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp('benchmarks')


@pytest.fixture(scope='module')
def eurosat_files(folder):
  return benchmark_files.write_eurosat(folder / 'eurosat')


@pytest.fixture(scope='module')
def both(folder):
  return str(untrained.save(folder / 'both', stage='pretrain', spec=sensors.SensorSpec(), subsets=[]))


@pytest.fixture(scope='module')
def optical(folder):
  return str(untrained.save(folder / 'optical', stage='pretrain', spec=sensors.SensorSpec(sensors.SENTINEL2_BANDS)))


def _request(folder, name, checkpoint, **changes):
  options = {'cache': folder / 'cache', 'progress': False, **changes}
  return standard.Request(name, folder / name, [checkpoint], **options)


def test_eurosats_bands_are_taken_by_name(folder, eurosat_files):
  benchmark = eurosat.open_benchmark(folder / 'eurosat', progress=False)
  assert {split: len(own) for split, own in benchmark.splits.items()} == {'train': 18, 'validation': 6, 'test': 12}
  test = benchmark.splits['test']
  assert test.spec == sensors.SensorSpec(sensors.SENTINEL2_BANDS, 'L1C')
  stored, written = test.read('s2', [3])[0], eurosat_files[test.table['id'][3]]
  for band, channel in (('B1', 0), ('B8', 7), ('B8A', 12), ('B9', 8), ('B11', 10), ('B12', 11)):
    np.testing.assert_array_equal(stored[..., test.spec.bands.index(band)], written[channel])
  assert benchmark.classes[benchmark.labels['test'][3]] == test.table['id'][3].split('_')[0]


def test_eurosat_of_another_level_is_refused_unless_that_is_said(folder, eurosat_files, optical):
  with pytest.raises(ValueError, match=r'trained on Sentinel-2 L2A; these pixels are L1C.*Or pass --accept_level=L1C'):
    standard.evaluate(_request(folder, 'eurosat', optical))
  result = standard.evaluate(_request(folder, 'eurosat', optical, accept_level='L1C'))
  assert any('L1C, taken as they are (--accept_level=L1C)' in c for c in result['caveats'])
  assert {r['level'] for r in result['rows']} == {'patch'}
  found = {(r['method'], r['probe']): r['overall_accuracy'] for r in result['rows']}
  assert found['band statistics', 'linear'] == 1  # three levels of brightness
  assert found['majority', ''] == pytest.approx(1 / 3)
  said = output.write(result, folder / 'out')
  assert 'evaluation.csv' in said
  assert json.loads((folder / 'out' / 'evaluation.json').read_text())['s2_level'] == 'L1C'


def test_bands_that_an_encoder_was_not_trained_without_are_named(folder, eurosat_files, both):
  with pytest.raises(ValueError, match='these pixels have no VV, VH'):
    standard.evaluate(_request(folder, 'eurosat', both, accept_level='L1C'))


def test_fractions_instead_of_numbers_are_named(tmp_path):
  benchmark_files.write_eurosat(tmp_path, per_class=6, scale=1e-4)
  test = eurosat.open_benchmark(tmp_path, progress=False).splits['test']
  with pytest.raises(ValueError, match=r'holds float32 with a median of .* whole numbers'):
    test.read('s2', [0])


@pytest.mark.parametrize(
  ('name', 'says'),
  [
    ('eurosat', r'holds no class folder AnnualCrop/. Get EuroSAT_MS.zip from https://.* Expected there: EuroSAT_MS/'),
    ('bigearthnet_v2', r'holds no BigEarthNet-S2\*, which .* Get BigEarthNet v2 from https://bigearth.net'),
    ('sen1floods11', r'holds no folder LabelHand/. Get Sen1Floods11 v1.1 from gs://sen1floods11'),
    ('imagenet', "Unknown benchmark 'imagenet'. Known: eurosat, bigearthnet_v2, sen1floods11"),
  ],
)
def test_a_benchmark_that_is_not_there_says_where_to_get_it(folder, both, tmp_path, name, says):
  with pytest.raises(ValueError, match=says):
    standard.evaluate(standard.Request(name, tmp_path, [both], progress=False))


def test_a_list_that_names_a_lost_patch(tmp_path):
  benchmark_files.write_eurosat(tmp_path, per_class=6)
  (tmp_path / 'EuroSAT_MS' / 'Forest' / 'Forest_1.tif').unlink()
  with pytest.raises(ValueError, match=r'holds no patch Forest_1.tif, which eurosat-train.txt names'):
    eurosat.open_benchmark(tmp_path, progress=False)
  with pytest.raises(ValueError, match=r'no split list eurosat-spatial-train.txt'):
    eurosat.open_benchmark(tmp_path, lists='spatial', progress=False)


def test_nothing_to_score_is_said_first(tmp_path):
  with pytest.raises(ValueError, match='Name what to score: --checkpoint=RUN'):
    standard.evaluate(standard.Request('eurosat', tmp_path))


def test_another_projects_encoder_without_that_project(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'torchgeo', None)  # as where it is not installed
  with pytest.raises(ValueError, match='pip install torchgeo'):
    standard.evaluate(standard.Request('eurosat', tmp_path, encoders=['torchgeo:resnet18']))
  with pytest.raises(ValueError, match='is none that is known'):
    standard.evaluate(standard.Request('eurosat', tmp_path, encoders=['timm:resnet18']))


def _stand_in(monkeypatch, **weights):
  """torch and torchgeo with a ResNet-18 whose features are the channels it is shown; its Frozen by a weight's name."""

  class Shown:
    def eval(self):
      return self

    def state_dict(self):
      return {}

    def forward_features(self, images):
      return types.SimpleNamespace(numpy=lambda: images[:, :, ::32, ::32])

  torch = types.SimpleNamespace(manual_seed=int, from_numpy=np.asarray, inference_mode=contextlib.nullcontext)
  models = types.SimpleNamespace(
    resnet18=lambda **_: Shown(), ResNet18_Weights=types.SimpleNamespace(__members__=weights)
  )
  monkeypatch.setitem(sys.modules, 'torch', torch)
  monkeypatch.setitem(sys.modules, 'torchgeo', types.SimpleNamespace(models=models))
  monkeypatch.setitem(sys.modules, 'torchgeo.models', models)
  return lambda name: others.load(f'torchgeo:ResNet18_Weights.{name}')


class Normalize:
  """Of torchvision, as far as weights are told by it."""

  def __init__(self, mean, std):
    self.mean, self.std = mean, std


THIRTEEN = (*others.BANDS[:8], 'B8a', *others.BANDS[9:])  # as torchgeo spells them


def _weights(bands, *normalisers):
  return types.SimpleNamespace(
    meta={'bands': bands}, transforms=types.SimpleNamespace(modules=lambda: iter([object(), *normalisers]))
  )


def test_another_projects_weights_normalise_as_they_say(monkeypatch):
  own = Normalize(list(range(13)), [2.0] * 12 + [4.0])
  load = _stand_in(
    monkeypatch, SENTINEL2_ALL_MOCO=_weights(THIRTEEN, Normalize([0], [10000])), SENTINEL2_ALL_DINO=_weights(THIRTEEN),
    SENTINEL2_ALL_SOFTCON=_weights(THIRTEEN, own), SENTINEL2_ALL_SECO_ECO=_weights(THIRTEEN[:12]),
    SENTINEL2_ALL_TWICE=_weights(THIRTEEN, own, own), SENTINEL2_RGB_MOCO=_weights(('B4', 'B3', 'B2')),
  )  # fmt: skip
  spec, pixels = sensors.SensorSpec(('B12', 'B1'), 'L1C'), np.full((1, 1, 32, 32, 2), 100, np.uint16)
  found = {name: load(f'SENTINEL2_ALL_{name}') for name in ('MOCO', 'DINO', 'SOFTCON')}
  shown = {name: one.open(spec)({'s2': pixels})[0, 0, 0] for name, one in found.items()}
  for name in ('MOCO', 'DINO'):
    np.testing.assert_allclose(shown[name], [0.01, *[0] * 11, 0.01])
  np.testing.assert_allclose(shown['SOFTCON'], [50, *[0] * 11, (100 - 12) / 4])
  assert found['MOCO'].key == found['DINO'].key != found['SOFTCON'].key
  for name in ('SECO_ECO', 'TWICE'):
    with pytest.raises(ValueError, match=r'MOCO, .*SOFTCON; SENTINEL2_ALL_SECO_ECO, SENTINEL2_ALL_TWICE take other'):
      load(f'SENTINEL2_ALL_{name}')


@pytest.fixture(scope='module')
def floods(folder):
  benchmark_files.write_sen1floods11(folder / 'sen1floods11')
  checkpoint = untrained.save(folder / 'radar', stage='pretrain', spec=sensors.SensorSpec(('VV', 'VH')), crop_px=96)
  return standard.evaluate(_request(folder, 'sen1floods11', str(checkpoint), bands=['VV', 'VH'], forest=False))


def test_water_by_cells_and_by_pixels(floods):
  assert floods['bands'] == ['VV', 'VH']  # so that L1C is no obstacle
  rows = {(r['method'], r['level'], r['probe']): r for r in floods['rows']}
  assert rows['band statistics', 'cell', 'linear']['positive_iou'] > 0.9
  pixel = rows['band statistics', 'pixel', 'linear']
  assert pixel['pixels'] == 3 * (96**2 - 16**2)
  # Right in every cell; half way between two cells an unsure probe has its border a few pixels off.
  assert pixel['positive_iou'] == pixel['iou'][1] > 0.7
  assert rows['radar', 'pixel', 'linear']['positive_iou'] > 0.9
  assert rows['majority', 'pixel', '']['iou'] == [pytest.approx(96 * 64 / (96**2 - 16**2)), 0]
  assert 'IoU of the class' in output.table(floods)


def test_water_labels_and_pixels_are_those_of_the_files(folder, floods):
  test = sen1floods11.open_benchmark(folder / 'sen1floods11', progress=False).splits['test']
  label = sen1floods11.TARGET.lookup[test.read('label', [0])[0]]
  assert [label[0, 0], label[60, 0], label[60, 90]] == [-1, 1, 0]
  assert test.spec.s2_level == 'L1C'
  assert abs(test.read('s1', [0])[0][60, 80, 1] / 100 + 15) < 5
  s2 = test.read('s2', [0])[0][60, 80].astype(int)
  order = [test.spec.bands.index(b) for b in ('B8A', 'B12')]  # 8th and 12th of the file
  assert np.abs(s2[order] - (2500 + np.array([80, 120]))).max() < 300


def test_scores_of_cells_at_pixels():
  fine = standard.to_pixels(np.array([[0.0, 1.0], [0.0, 1.0]]), 34, 1)
  assert fine.shape == (34, 34)
  np.testing.assert_allclose(fine[5], np.clip((np.arange(34) - 1 + 0.5) / 16 - 0.5, 0, 1))


@pytest.mark.parametrize('as_lmdb', [False, True])
@pytest.mark.parametrize(
  ('sensor', 'field', 'bands'), [('sentinel2', 's2', ('B4', 'B3')), ('sentinel1', 's1', ('VH', 'VV'))]
)
def test_bigearthnet_of_one_sensor_needs_the_other_neither_as_folder_nor_as_patch(
  tmp_path, sensor, field, bands, as_lmdb
):
  written = benchmark_files.write_bigearthnet(tmp_path, sensor, as_lmdb=as_lmdb)
  benchmark = bigearthnet.open_benchmark(tmp_path, bands=bands, progress=False)
  for split, images in benchmark.splits.items():  # without the fourth, of train, which has snow
    (pixels,) = images.read(field, range(len(images)))
    first, second = written[split].values()
    expected = np.stack([second, first], -1) * (1 if field == 's2' else 100)
    np.testing.assert_array_equal(pixels, expected)
  with pytest.raises(ValueError, match=r'BigEarthNet v2 of sentinel2 and sentinel1 \(.* Expected there: '):
    bigearthnet.open_benchmark(tmp_path, progress=False)


def test_a_field_is_read_without_the_other_sensors_file(tmp_path):
  benchmark_files.write_sen1floods11(tmp_path, chips=1)
  test = sen1floods11.open_benchmark(tmp_path, progress=False).splits['test']
  for file in tmp_path.rglob('*S2Hand.tif'):
    file.unlink()
  assert test.read('s1', [0]).shape == (1, 96, 96, 2)
  assert test.read('label', [0]).max() == 2


@pytest.fixture(scope='module')
def bigearthnet_result(folder, both, real_data):
  return standard.evaluate(
    standard.Request('bigearthnet_v2', real_data / 'bigearthnet_v2', [both], cache=folder / 'cache', progress=False)
  )


def test_bigearthnets_own_splits_without_snow_and_cloud(bigearthnet_result):
  assert bigearthnet_result['patches'] == {'train': 6, 'validation': 6, 'test': 6}
  assert bigearthnet_result['caveats'][0] == 'So few patches rank no method above another.'
  assert bigearthnet_result['synthetic'] is False
  rows = bigearthnet_result['rows']
  assert {(r['method'], r['probe']) for r in rows} == {
    *((m, p) for m in ('both', 'random encoder', 'band statistics') for p in ('linear', 'knn')), ('prevalence', ''),
  }  # fmt: skip
  for row in rows:
    known = [p for p in row['average_precision'] if p is not None]
    assert row['macro_map'] == pytest.approx(np.mean(known))
    assert 0 < row['micro_map'] <= 1
  assert 'macro mAP' in output.table(bigearthnet_result)

import numpy as np
import pytest

from deepsentinel import sensors
from deepsentinel.evaluation import samples


def _arrays(n=2, px=4):
  return {
    's2': np.full((n, px, px, 3), 500, np.uint16),
    's1': np.full((n, px, px, 2), -900, np.int16),
    'label': np.full((n, px, px), -1),
    'prediction': np.ones((n, px, px), np.int64),
    'id': [f'patch_{i}' for i in range(n)],
  }


def test_round_trip(tmp_path):
  samples.save_samples(tmp_path / 'run' / 'samples.npz', **_arrays())
  loaded = samples.load_samples(tmp_path / 'run' / 'samples.npz')
  assert loaded['label'].dtype == loaded['prediction'].dtype == np.int16  # a legend may have 255 classes
  assert (loaded['label'] == -1).all()
  assert loaded['id'].tolist() == ['patch_0', 'patch_1']
  assert [p.name for p in (tmp_path / 'run').iterdir()] == ['samples.npz']


def test_missing_sensor_is_kept_as_nodata(tmp_path):
  samples.save_samples(tmp_path / 's.npz', **{**_arrays(), 's1': None})
  assert (samples.load_samples(tmp_path / 's.npz')['s1'] == sensors.S1_NODATA).all()


def test_wrong_arrays_are_refused(tmp_path):
  with pytest.raises(ValueError, match="'s2' is float64"):
    samples.save_samples(tmp_path / 's.npz', **{**_arrays(), 's2': np.zeros((2, 4, 4, 3))})
  with pytest.raises(ValueError, match="'s1' has shape"):
    samples.save_samples(tmp_path / 's.npz', **{**_arrays(), 's1': np.zeros((2, 4, 4, 1), np.int16)})
  with pytest.raises(ValueError, match='1 ids for 2'):
    samples.save_samples(tmp_path / 's.npz', **{**_arrays(), 'id': ['a']})
  np.savez(tmp_path / 'old.npz', s2=np.zeros(1))
  with pytest.raises(ValueError, match='holds no s1, label, prediction, id'):
    samples.load_samples(tmp_path / 'old.npz')


def test_picture_bands():
  spec = sensors.SensorSpec()
  s2 = np.arange(12, dtype=np.uint16).reshape(1, 1, 1, 12)
  s1 = np.array([[[[-900, -1500]]]], np.int16)
  rgb, radar = samples.picture_bands(spec, s2, s1)
  assert rgb.tolist() == [[[[3, 2, 1]]]]  # B4, B3, B2 of B1, B2, B3, B4, ...
  assert radar.tolist() == [[[[-900, -1500]]]]
  assert samples.picture_bands(spec.select(('B2', 'B3', 'B8')), s2[..., :3], None) == (None, None)


def test_choice_is_even_and_stable():
  assert samples.choose(3, 11).tolist() == [0, 5, 10]
  assert samples.choose(6, 2).tolist() == [0, 1]
  assert samples.choose(6, 0).tolist() == []

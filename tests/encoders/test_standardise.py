import jax
import numpy as np
import pytest

from deepsentinel import sensors
from deepsentinel.encoders.standardise import checked, physical, standardise

SPEC = sensors.SensorSpec(('B2', 'B3', 'VV', 'VH'))


def batch():
  s2 = np.zeros((1, 1, 1, 2, 2), np.uint16)
  s2[0, 0, 0] = [[1000, 2000], [0, 5000]]  # B2 of the second pixel is nodata
  s1 = np.zeros((1, 1, 1, 2, 2), np.int16)
  s1[0, 0, 0] = [[-1000, -1500], [0, sensors.S1_NODATA]]
  return {'s2': s2, 's1': s1}


def prepared(stored, bands, mean, std):
  values, valid = physical(stored, SPEC, bands)
  return standardise(values, valid, *checked(bands, mean, std)), valid


def test_values_by_hand():
  run = jax.jit(lambda b: prepared(b, SPEC.bands, (0.2, 0.1, -12.0, -20.0), (0.1, 0.2, 2.0, 5.0)))
  images, valid = run(batch())
  # (0.1 - 0.2) / 0.1, (0.2 - 0.1) / 0.2, (-10 + 12) / 2, (-15 + 20) / 5; then nodata, (0.5 - 0.1) / 0.2, (0 + 12) / 2
  np.testing.assert_allclose(images[0, 0, 0], [[-1, 0.5, 1, 1], [0, 2, 6, 0]], rtol=1e-5)
  np.testing.assert_array_equal(valid[0, 0, 0], [[True] * 4, [False, True, True, False]])


def test_a_choice_of_bands_and_of_one_sensor():
  images, valid = prepared({'s1': batch()['s1']}, ('VH',), (-20.0,), (5.0,))
  np.testing.assert_allclose(images[0, 0, 0], [[1], [0]])
  np.testing.assert_array_equal(valid[0, 0, 0], [[True], [False]])
  images, _ = prepared(batch(), ('B3', 'VV'), (0.1, -12.0), (0.2, 2.0))
  np.testing.assert_allclose(images[0, 0, 0], [[0.5, 1], [2, 6]], rtol=1e-5)


def test_bad_statistics_are_refused():
  with pytest.raises(ValueError, match=r"\['VV'\] have no finite mean"):
    prepared(batch(), ('B3', 'VV'), (0.1, -12.0), (0.2, 0.0))
  with pytest.raises(ValueError, match='2 bands need as many'):
    prepared(batch(), ('B3', 'VV'), (0.1,), (0.2,))
  with pytest.raises(ValueError, match='B4'):
    prepared(batch(), ('B4',), (0.1,), (0.2,))

"""Streams made together are the streams that NumPy makes one by one."""

import numpy as np
import pytest

from deepsentinel.corpus import streams


@pytest.mark.parametrize(
  'key',
  [(0, 0x1A4D, None, 0), (7, 0x1A4D, None, 3), (None,), (2**32 - 1, None), (2**32, 1, None), (2**70 + 5, None, 2, 9)],
)
def test_numbers_are_numpys_to_the_last_bit(key):
  number = np.array([0, 1, 2, 99_999, 123_456_789, 2**32 - 1])
  made = streams.Streams([number if part is None else part for part in key])
  own = [np.random.default_rng([int(n) if part is None else part for part in key]) for n in number]
  np.testing.assert_array_equal(made.uniforms(50), [stream.random(50) for stream in own])
  made.keep(np.array([4, 0]))  # which go on where they were
  np.testing.assert_array_equal(made.uniforms(7), [own[i].random(7) for i in (4, 0)])


def test_no_stream():
  assert streams.Streams([0, np.zeros(0, np.int64)]).uniforms(3).shape == (0, 3)

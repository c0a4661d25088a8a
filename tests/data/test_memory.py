"""Memory that is used again: never while anybody looks at it."""

import concurrent.futures

import jax
import numpy as np

from deepsentinel.data import memory

SHAPE = (64, 33, 7)


def filled(source: memory.Memory, value: int, shape=SHAPE) -> np.ndarray:
  array = source.empty(shape, np.uint16)
  array[...] = value
  return array


def test_memory_comes_back_when_the_last_view_is_gone():
  source = memory.Memory()
  first = filled(source, 1)
  address = first.ctypes.data
  assert address % 64 == 0
  assert (first.shape, first.dtype, first.flags.c_contiguous, first.flags.writeable) == (SHAPE, 'uint16', True, True)
  view = first.reshape(-1)[5:].view(np.int16)
  del first
  second = filled(source, 2)
  assert second.ctypes.data != address
  assert (view == 1).all()
  del view
  other = filled(source, 3, (2, 3))  # of another size
  third = filled(source, 4)
  assert third.ctypes.data == address
  assert (second == 2).all()
  assert (other == 3).all()


def test_what_a_device_holds_is_not_written_to():
  source = memory.Memory()
  held = [jax.device_put(filled(source, value)) for value in range(12)]
  jax.block_until_ready(held)
  again = [filled(source, 99) for _ in range(12)]
  assert [int(array.min()) for array in held] == [int(array.max()) for array in held] == list(range(12))
  assert len({array.ctypes.data for array in again}) == 12


def test_threads_never_share_a_block():
  source = memory.Memory()

  def own(value: int) -> bool:
    array = filled(source, value, (500,))
    return all((array == value).all() for _ in range(20))

  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    assert all(pool.map(own, range(400)))


def test_nothing_is_an_array_too():
  assert memory.Memory().empty((0, 4, 4), np.int16).shape == (0, 4, 4)

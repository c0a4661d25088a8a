"""Memory of batches that is used again: fresh pages are a fifth of the time that the reading of a large batch takes.

An array from here is like any other. Its memory goes back when the last array or device that looks at it lets go, so
that whoever keeps a batch, or a view of it, keeps its pixels.
"""

import collections
import math

import numpy as np
import numpy.typing

_KEPT = 8  # blocks that nobody uses; beyond them the one that waits the longest is freed
_ALIGNED = 64  # bytes; from such an address XLA takes an array on a CPU without a copy


class _Lent:
  """What the arrays on a block stand on."""

  def __init__(self, block: np.ndarray, free: collections.deque[np.ndarray]):
    self.__array_interface__ = block.__array_interface__
    self._block, self._free = block, free

  def __del__(self):
    self._free.append(self._block)


class Memory:
  """Blocks of memory, lent out as arrays; for any number of threads."""

  def __init__(self) -> None:
    self._free: collections.deque[np.ndarray] = collections.deque(maxlen=_KEPT)

  def empty(self, shape: tuple[int, ...], dtype: numpy.typing.DTypeLike) -> np.ndarray:
    """An array of any content, as `np.empty`, in memory that was used before where some of its size is free."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    block = self._take(size)
    if block is None:
      raw = np.empty(size + _ALIGNED, np.uint8)
      first = -raw.ctypes.data % _ALIGNED
      block = raw[first : first + size]
    return np.asarray(_Lent(block, self._free)).view(dtype).reshape(shape)

  def _take(self, size: int) -> np.ndarray | None:
    for _ in range(len(self._free)):
      try:
        block = self._free.popleft()
      except IndexError:  # another thread took it
        return None
      if block.nbytes == size:
        return block
      self._free.append(block)
    return None

"""Many short random streams at once: the numbers that NumPy's own generators give, one seed each.

Every point of a corpus has a stream of its own, `np.random.default_rng([seed, ..., number, ...])`. Making that object
takes 30 us and drawing from it another 2; a hundred thousand of them are made here as arrays, in a tenth of the time.
NumPy promises that neither algorithm changes (NEP 19: bit generators and SeedSequence are stable).
"""

from collections.abc import Sequence

import numpy as np

# SeedSequence (M. E. O'Neill's seed_seq_fe; numpy/random/bit_generator.pyx).
_POOL = 4
_INIT_A, _MULT_A, _INIT_B, _MULT_B = 0x43B0D7E5, 0x931E8875, 0x8B51F9DD, 0x58F38DED
_MIX_L, _MIX_R = np.uint32(0xCA01F9DD), np.uint32(0x4973F715)
_HALF = np.uint32(16)
# PCG64 (O'Neill 2014): a linear congruential generator of 128 bits, its output XSL-RR.
_FACTOR = 0x2360ED051FC65DA44385DF649FCCF645
_FACTOR_HIGH, _FACTOR_LOW = np.uint64(_FACTOR >> 64), np.uint64(_FACTOR & (1 << 64) - 1)
_LOW32, _32 = np.uint64(0xFFFFFFFF), np.uint64(32)
_FACTOR_LIMBS = _FACTOR_LOW & _LOW32, _FACTOR_LOW >> _32
_TO_UNIT = 2.0**-53


class Streams:
  """N streams; `uniforms` goes on where it stopped.

  Args:
    key: what `np.random.default_rng` would be given, of integers from 0; one of them at least is int [N], below 2^32,
      the others are the same for all streams.
  """

  def __init__(self, key: Sequence[int | np.ndarray]):
    words: list[np.ndarray] = []
    for part in key:
      if isinstance(part, np.ndarray):
        words.append(part.astype(np.uint32))
      else:
        bits = max(int(part).bit_length(), 1)
        words += [np.array(int(part) >> shift & 0xFFFFFFFF, np.uint32) for shift in range(0, bits, 32)]
    state = _state(np.broadcast_arrays(*words))  # uint32 [8, N]
    high, low, sequence_high, sequence_low = (
      state[2 * i].astype(np.uint64) | state[2 * i + 1].astype(np.uint64) << _32 for i in range(4)
    )
    one = np.uint64(1)
    self._add = (sequence_high << one | sequence_low >> np.uint64(63), sequence_low << one | one)
    # From 0 a step leads to the addend; then the seed is added and another step made.
    self._at = _sum(self._add, (high, low))
    self._step()

  def keep(self, rows: np.ndarray) -> None:
    """Goes on with some of the streams, int or bool [M]."""
    self._add = (self._add[0][rows], self._add[1][rows])
    self._at = (self._at[0][rows], self._at[1][rows])

  def uniforms(self, count: int) -> np.ndarray:
    """float64 [N, count]: the next numbers of each stream, uniform from 0 up to 1; as `Generator.random`."""
    out = np.empty((len(self._at[0]), count))
    for i in range(count):
      self._step()
      high, low = self._at
      mixed, turn = high ^ low, high >> np.uint64(58)
      value = mixed >> turn | mixed << (np.uint64(64) - turn & np.uint64(63))
      out[:, i] = (value >> np.uint64(11)) * _TO_UNIT
    return out

  def _step(self) -> None:
    high, low = self._at
    # low * _FACTOR_LOW in 128 bits, by halves of 32
    a, b = low & _LOW32, low >> _32
    c, d = _FACTOR_LIMBS
    ad, bc = a * d, b * c
    middle = (a * c >> _32) + (ad & _LOW32) + (bc & _LOW32)
    carried = b * d + (ad >> _32) + (bc >> _32) + (middle >> _32)
    product = carried + high * _FACTOR_LOW + low * _FACTOR_HIGH, low * _FACTOR_LOW
    self._at = _sum(product, self._add)


def _sum(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
  """Of 128 bits, (high, low) each."""
  low = a[1] + b[1]
  return a[0] + b[0] + (low < b[1]), low


def _state(words: Sequence[np.ndarray]) -> np.ndarray:
  """uint32 [8, N]: SeedSequence(words).generate_state(8), each word uint32 [N]."""
  constant = _INIT_A

  def hashed(value: np.ndarray) -> np.ndarray:
    nonlocal constant
    value = value ^ np.uint32(constant)
    constant = constant * _MULT_A & 0xFFFFFFFF
    value = value * np.uint32(constant)
    return value ^ value >> _HALF

  def mixed(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    result: np.ndarray = x * _MIX_L - y * _MIX_R
    return result ^ result >> _HALF

  nothing: np.ndarray = np.zeros_like(words[0])
  pool = [hashed(words[i] if i < len(words) else nothing) for i in range(_POOL)]
  for source in range(_POOL):
    for target in range(_POOL):
      if source != target:
        pool[target] = mixed(pool[target], hashed(pool[source]))
  for word in words[_POOL:]:
    for target in range(_POOL):
      pool[target] = mixed(pool[target], hashed(word))
  out = np.empty((8, len(nothing)), np.uint32)
  constant = _INIT_B
  for i in range(8):
    value: np.ndarray = pool[i % _POOL] ^ np.uint32(constant)
    constant = constant * _MULT_B & 0xFFFFFFFF
    value = value * np.uint32(constant)
    out[i] = value ^ value >> _HALF
  return out

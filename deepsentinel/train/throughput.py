"""How much of a device's arithmetic training uses: model FLOP utilisation (Chowdhery et al. 2022, appendix B)."""

import re
from collections.abc import Callable
from typing import Any

import jax

# Dense peak of one device in TFLOP/s, from the makers' data sheets: (in the device's name, bfloat16, float32).
# float32 is what JAX multiplies with by default: TF32 on NVIDIA since Ampere, bfloat16 passes on a TPU.
_PEAKS = (
  ('H200', 989.0, 494.0),
  ('H100 PCIe', 756.0, 378.0),
  ('H100 NVL', 835.0, 417.0),
  ('H100', 989.0, 494.0),
  ('A100', 312.0, 156.0),
  ('L40S', 362.0, 183.0),
  ('L4', 121.0, 60.0),
  ('A10', 125.0, 62.5),
  ('V100', 15.7, 15.7),  # no bfloat16 and no TF32 units
  ('T4', 8.1, 8.1),
  ('TPU v4', 275.0, 275.0),
  ('TPU v5 lite', 197.0, 197.0),
  ('TPU v5', 459.0, 459.0),
  ('TPU v6 lite', 918.0, 918.0),
)


def peak_flops(kind: str, dtype: str) -> float | None:
  """FLOP/s that a device can do at most; None where it is not known (a CPU, a device newer than this list).

  Args:
    kind: `jax.Device.device_kind`.
    dtype: of the arithmetic, 'bfloat16' or 'float32'.
  """
  for name, bfloat16, float32 in _PEAKS:
    if re.search(rf'\b{name}\b', kind):
      return 1e12 * (bfloat16 if dtype == 'bfloat16' else float32)
  return None


class Utilisation:
  """The share of the peak that steps take, counted by XLA before it optimises.

  Attributes:
    step_flops: floating-point operations of one step on one device; None where the device's peak is not known.
  """

  def __init__(self, step: Callable, *arguments: Any, dtype: str, parts: int = 1):
    """Lowers the step where the peak is known; computes nothing.

    Args:
      step: of `parallel.parallelise`.
      arguments: of one call.
      dtype: of the arithmetic.
      parts: of gradient accumulation: XLA counts the body of a loop once.
    """
    self._peak = peak_flops(jax.local_devices()[0].device_kind, dtype)
    self.step_flops: float | None = None
    if self._peak is not None:
      self.step_flops = parts * float((step.lower(*arguments).cost_analysis() or {}).get('flops', 0))  # type: ignore

  def at(self, steps_per_s: float) -> float | None:
    """Model FLOP utilisation, 0 to 1; None where it is not known."""
    return steps_per_s * self.step_flops / self._peak if self.step_flops and self._peak else None

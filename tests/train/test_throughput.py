import jax
import jax.numpy as jnp
import pytest

from deepsentinel.train import parallel, throughput


@pytest.mark.parametrize(
  ('kind', 'dtype', 'tera'),
  [
    ('NVIDIA H100 80GB HBM3', 'bfloat16', 989),
    ('NVIDIA H100 PCIe', 'float32', 378),
    ('NVIDIA A100-SXM4-80GB', 'bfloat16', 312),
    ('Tesla V100-SXM2-16GB', 'bfloat16', 15.7),
    ('TPU v5 lite', 'bfloat16', 197),
    ('NVIDIA L40', 'bfloat16', None),  # not the L4
    ('cpu', 'float32', None),
  ],
)
def test_peak(kind, dtype, tera):
  assert throughput.peak_flops(kind, dtype) == (None if tera is None else tera * 1e12)


def test_utilisation_of_a_matrix_product(monkeypatch):
  step = parallel.parallelise(lambda a, b: a @ b)
  devices = jax.local_device_count()
  arguments = jnp.ones((devices, 64, 128)), jnp.ones((devices, 128, 32))
  assert throughput.Utilisation(step, *arguments, dtype='float32').at(1.0) is None  # nobody knows a CPU's peak
  monkeypatch.setattr(throughput, 'peak_flops', lambda kind, dtype: 1e9)
  once = throughput.Utilisation(step, *arguments, dtype='float32')
  assert once.step_flops == pytest.approx(2 * 64 * 128 * 32, rel=1e-4)
  assert once.at(100.0) == pytest.approx(2 * 64 * 128 * 32 * 100 / 1e9, rel=1e-4)
  assert throughput.Utilisation(step, *arguments, dtype='float32', parts=4).step_flops == 4 * once.step_flops

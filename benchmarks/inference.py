"""How many patches a second does an encoder embed on a CPU?

    python benchmarks/inference.py [--encoder=resnet18attn] [--width=64] [--batch=16] [--crop_px=128] [--repeats=7]
        [--no-small]

Ours is the call behind `python -m deepsentinel.embed`, `deepsentinel.evaluate` and the notebooks (`Trained.encode`), in
the way that commands set XLA up; the peer is PyTorch, channels last, in inference mode, with the network that an export
writes. Both have all cores, float32, the same weights and the same standardised images, and take turns in one process.
Feature maps must agree to 1e-4 of the largest value, or the benchmark ends with an error.

The second row is the small twin of a laptop: width 8, 64 patches of 64 px.
"""

import argparse
import time

import jax
import numpy as np
import sidebyside
from embed_scene import torch_encoder, torch_images, trained

from deepsentinel.train import xla

_TOLERANCE = 1e-4  # of the largest value


def compare(encoder: str, width: int, batch: int, crop_px: int, steps: int, repeats: int) -> sidebyside.Row:
  """Patches a second of both ways, each measured over so many batches a turn."""
  import torch

  model = trained(encoder, width)
  images = np.random.default_rng(0).normal(size=(batch, crop_px, crop_px, len(model.bands))).astype(np.float32)
  network, planes = torch_encoder(model).eval(), torch_images(images)

  def ours() -> np.ndarray:
    return np.asarray(model.encode(images).feature_map)

  def theirs() -> np.ndarray:
    with torch.inference_mode():
      return network(planes).numpy().transpose(0, 2, 3, 1)

  found, wanted = ours(), theirs()
  difference = np.abs(found - wanted).max() / np.abs(wanted).max()
  if not difference < _TOLERANCE:
    raise SystemExit(f'Feature maps differ by {difference:.1e} of the largest value, not by less than {_TOLERANCE:g}.')

  def rate(run) -> float:
    begun = time.perf_counter()
    for _ in range(steps):
      run()
    return steps * batch / (time.perf_counter() - begun)

  values = sidebyside.alternate({'ours': lambda: rate(ours), 'theirs': lambda: rate(theirs)}, repeats)
  return sidebyside.Row(
    f'inference, {encoder} of width {width}, patches of {crop_px} px, {batch} at once',
    'PyTorch, channels last, inference mode', 'patches/s', values['ours'], values['theirs'], aim=1.0,
  )  # fmt: skip


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--encoder', default='resnet18attn')
  parser.add_argument('--width', type=int, default=64, help='channels of its stem')
  parser.add_argument('--batch', type=int, default=16, help='patches at once')
  parser.add_argument('--crop_px', type=int, default=128)
  parser.add_argument('--repeats', type=int, default=7, help='turns of each way')
  parser.add_argument('--small', action=argparse.BooleanOptionalAction, default=True, help='the small twin too')
  options = parser.parse_args()
  xla.prepare_backend()
  import torch

  torch.set_num_threads(sidebyside.cores())
  if jax.default_backend() != 'cpu':
    raise SystemExit('CPUs are compared; run with JAX_PLATFORMS=cpu.')
  rows = [compare(options.encoder, options.width, options.batch, options.crop_px, 2, options.repeats)]
  if options.small:
    rows.append(compare(options.encoder, 8, 64, 64, 10, options.repeats))
  sidebyside.leave(__file__, rows)


if __name__ == '__main__':
  main()

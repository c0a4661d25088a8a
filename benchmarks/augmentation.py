"""Augmentation of contrastive sensor fusion, ten rounds of jitter and band dropout: a view of 128 px and 14 bands.

    python benchmarks/augmentation.py [--batch=32] [--px=128] [--repeats=5]

Ours folds the rounds into one affine map over the bands, which the compiled step applies on the device. The peers do
the same kinds of transform as a careful user would write them on the host, at the same strength: every round takes
three optical bands and one of radar of each view, changes brightness, contrast, saturation and hue of the three
(`ColorJitter`) and level and contrast of the radar band, and at the end bands are dropped. kornia takes a batch at
once, with parameters for each view; torchvision a view at a time. The random numbers differ, so that no pixels can be
compared: checked are that nothing is lost or infinite and that the same share of bands is dropped. On a CPU all run on
the same cores; where a GPU trains, ours costs the host nothing.
"""

import argparse
import importlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import sidebyside

from deepsentinel import sensors
from deepsentinel.objectives import augment

_STRENGTH = augment.Curriculum()
_ROUNDS, _JITTER, _DROPPED = _STRENGTH.rounds[1], _STRENGTH.jitter[1], _STRENGTH.band_dropout[1]
_FULL_EPOCH = _STRENGTH.warmup_epochs + _STRENGTH.ramp_epochs
_BANDS = sensors.SensorSpec().bands
_RADAR = np.array([not band.startswith('B') for band in _BANDS])

# Views float32 [B, H, W, C] -> what of the bands was kept, bool [B, C]; the views come out augmented.
_Way = Callable[[np.ndarray], np.ndarray]


def made_up(batch: int, px: int) -> np.ndarray:
  """float32 [B, H, W, C]: reflectance and dB."""
  rng = np.random.default_rng(0)
  views = rng.uniform(0.02, 0.5, (batch, px, px, len(_BANDS)))
  views[..., _RADAR] = rng.normal(-12, 3, (batch, px, px, int(_RADAR.sum())))
  return views.astype(np.float32)


def check(values: np.ndarray, views: np.ndarray) -> None:
  if values.shape != views.shape or not np.isfinite(values).all() or np.array_equal(values, views):
    raise SystemExit('An augmentation lost pixels or left them as they were.')


def ours(views: np.ndarray) -> _Way:
  import jax

  valid = jax.numpy.ones((len(views), 1, *views.shape[1:]), bool)

  @jax.jit
  def augmented(key, values):
    keys = jax.random.split(key, len(values))
    return augment.augment(keys, values[:, None], valid, _RADAR, _STRENGTH, _FULL_EPOCH)

  at = jax.device_put(views)  # a training step has it there
  count = 0

  def run(_: np.ndarray) -> np.ndarray:
    nonlocal count
    count += 1
    values, kept = jax.block_until_ready(augmented(jax.random.key(count), at))
    if count == 1:
      check(np.asarray(values[:, 0]), views)
    return np.asarray(kept[:, 0])

  return run


def on_the_host(jitter: Callable[[Any], Any], batched: bool) -> _Way:
  """A peer; `jitter` takes three bands of a view, or of a batch of views, [..., 3, H, W] from 0 to 1."""
  import torch

  optical, radar = (torch.from_numpy(np.flatnonzero(chosen)) for chosen in (~_RADAR, _RADAR))
  draws = torch.Generator().manual_seed(0)

  def uniform(*shape: int) -> Any:
    return (2 * torch.rand(shape, generator=draws) - 1) * _JITTER

  def one_round(x: Any) -> None:
    """Of [B, C, H, W], in place."""
    rows = torch.arange(len(x))
    three = torch.stack([optical[torch.randperm(len(optical), generator=draws)[:3]] for _ in rows])
    picked = x[rows[:, None], three]
    x[rows[:, None], three] = jitter(picked) if batched else torch.stack([jitter(view) for view in picked])
    one = radar[torch.randint(len(radar), (len(x),), generator=draws)]
    band = x[rows, one]
    mean = band.mean((1, 2), keepdim=True)
    level, stretch = uniform(len(x), 1, 1) * augment.DB_PER_UNIT, 1 + uniform(len(x), 1, 1)
    x[rows, one] = mean + (band - mean) * stretch + level

  checked = False

  def run(views: np.ndarray) -> np.ndarray:
    nonlocal checked
    x = torch.from_numpy(views).permute(0, 3, 1, 2).contiguous()
    with torch.no_grad():
      for _ in range(_ROUNDS):
        one_round(x)
      if not checked:
        check(x.permute(0, 2, 3, 1).numpy(), views)
        checked = True
      kept = torch.rand(x.shape[:2], generator=draws) >= _DROPPED
      kept[torch.arange(len(x)), torch.randint(x.shape[1], (len(x),), generator=draws)] = True  # never all
      x *= kept[:, :, None, None]
    return kept.numpy()

  return run


def kornia() -> _Way:
  transforms = importlib.import_module('kornia.augmentation')
  return on_the_host(transforms.ColorJitter(*[_JITTER] * 4, p=1.0, same_on_batch=False), batched=True)


def torchvision() -> _Way:
  transforms = importlib.import_module('torchvision.transforms.v2')
  return on_the_host(transforms.ColorJitter(*[_JITTER] * 4), batched=False)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--batch', type=int, default=32, help='views of a run')
  parser.add_argument('--px', type=int, default=128, help='edge of a view')
  parser.add_argument('--repeats', type=int, default=5, help='alternating runs')
  options = parser.parse_args()
  views = made_up(options.batch, options.px)
  ways = {'ours': ours(views)}
  dropped: dict[str, list[float]] = {}
  for name, made in {'kornia, batched': kornia, 'torchvision v2, a view at a time': torchvision}.items():
    try:
      ways[name] = made()
    except (ImportError, RuntimeError) as error:
      print(f'{name}: left out ({error}). requirements-bench.txt installs it.')

  def milliseconds(name: str) -> float:
    start = time.perf_counter()
    kept = ways[name](views)
    seconds = time.perf_counter() - start
    dropped.setdefault(name, []).append(1 - kept.mean())
    return 1e3 * seconds / len(views)

  times = sidebyside.alternate({name: (lambda name=name: milliseconds(name)) for name in ways}, options.repeats)
  for name, shares in dropped.items():
    if abs(np.mean(shares) - _DROPPED) > 4 / (len(shares) * len(views) * len(_BANDS)) ** 0.5:
      raise SystemExit(f'{name} drops {np.mean(shares):.0%} of the bands.')
  stage = f'{_ROUNDS} rounds of jitter and band dropout, a view of {options.px} px and {len(_BANDS)} bands'
  peers = [name for name in ways if name != 'ours']
  sidebyside.leave(__file__, [
    sidebyside.Row(stage, name, 'ms', times['ours'], times.get(name, ()), 10, 'on a GPU ours costs the host nothing')
    for name in peers or ['']
  ])  # fmt: skip


if __name__ == '__main__':
  main()

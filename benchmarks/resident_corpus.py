"""What a training step waits for its batch: pixels that the host reads, and crops of a corpus that the devices hold.

  python benchmarks/resident_corpus.py [--records=300] [--batch=64] [--steps=20] [--repeats=5] [--encoder=resnet18]

Both ways train contrastive pairs of 128-px crops of 256-px records (uncompressed, in the page cache) from the same
state, with the same plan, and must end with the same loss to the last bit. They alternate. A step's 'host' time is what
passes between asking for the next batch and having it on its way to the step; what is read ahead meanwhile takes the
processor's time from the step, which on a CPU shows in 'step'. On a GPU the host's time is hidden behind a longer step.
The bytes are what the host sends a step.
"""

import argparse
import pathlib
import statistics
import time
from collections.abc import Callable

import jax
import numpy as np
import record_reader

from configs import common
from deepsentinel.data import batches, records
from deepsentinel.train import inputs, loop, models, optimizers, parallel, resident, rngs, state

_Way = Callable[[], tuple[float, float, float]]


def host_bytes(batch: dict[str, np.ndarray]) -> int:
  return sum(values.nbytes for values in batch.values())


def ways(reader: records.RecordSet, options: argparse.Namespace) -> tuple[dict[str, _Way], dict[str, int]]:
  """Name -> a run of --steps that gives (host seconds a step, seconds a step, last loss); name -> bytes of a step."""
  config = common.get_config()
  config.pretrain.objective, config.encoder.name = 'contrastive', options.encoder
  config.encoder.width = options.width
  bands, plain = reader.spec.bands, config.to_dict()
  module = models.build(plain, 'pretrain', norm=parallel.norm, gather=parallel.gather)
  optimiser = optimizers.adam(1e-4)
  # Random pixels: standardised to about -1 to 1, so that no loss overflows.
  mean, std = (tuple(value if b[0] == 'B' else other for b in bands) for value, other in ((3.3, 0.0), (3.3, 330.0)))
  prepare = inputs.Prepare(reader.spec, bands, mean, std, seed=0)
  fresh = models.build(plain, 'pretrain')
  key = rngs.stream_key(0, 'init_pretrain', 0)
  first = state.create(state.init_variables(fresh, models.example_inputs(fresh, len(bands)), key), optimiser)
  step = parallel.parallelise(state.train_step(module, prepare, optimiser), donate_first=True)

  def training(pixels: bool):
    return batches.training_batches(
      reader, views='pair', batch_size=options.batch, crop_px=record_reader.CROP_PX, seed=0, pixels=pixels
    )

  begun = time.perf_counter()
  source = resident.Source.of(reader, np.arange(len(reader)), ('s2', 's1'), record_reader.CROP_PX)
  corpus = source.load()
  seconds = time.perf_counter() - begun
  print(f'loaded {source.nbytes / 1e6:,.0f} MB onto each of {jax.local_device_count()} devices in {seconds:.2f} s')

  def run(pixels: bool, place: Callable) -> tuple[float, float, float]:
    current, feed, waited = parallel.replicate(first), training(pixels), 0.0
    ready, _ = place(next(feed))
    begun = time.perf_counter()
    for _ in range(options.steps):
      current, metrics = step(current, ready)
      asked = time.perf_counter()
      ready, _ = place(next(feed))
      waited += time.perf_counter() - asked
      loss = float(parallel.unreplicate(metrics)['loss'][0])  # waits for the step
    return waited / options.steps, (time.perf_counter() - begun) / options.steps, loss

  made = {'streamed': lambda: run(True, loop.send), 'resident': lambda: run(False, corpus.place)}
  return made, {'streamed': host_bytes(next(training(True))), 'resident': host_bytes(next(training(False)))}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--records', type=int, default=300, help='records in the shards (1.8 MB each)')
  parser.add_argument('--batch', type=int, default=64, help='pairs of a step')
  parser.add_argument('--steps', type=int, default=20, help='of one run')
  parser.add_argument('--repeats', type=int, default=5, help='runs of each way, alternating')
  parser.add_argument('--encoder', default='resnet18')
  parser.add_argument('--width', type=int, default=8, help='channels of its stem')
  parser.add_argument('--dir', default='.cache/benchmarks', help='where the shards are kept')
  options = parser.parse_args()
  directory = pathlib.Path(options.dir, f'records_{options.records}')
  if not (directory / 'metadata.json').is_file():
    record_reader.write_records(directory, options.records)
  for path in sorted(directory.glob('*.tfrecord-*')):
    path.read_bytes()  # a warm page cache

  made, sent = ways(records.RecordSet(directory, 'train'), options)
  times: dict[str, list[tuple[float, float]]] = {name: [] for name in made}
  losses = {run()[2] for run in made.values()}  # compiles
  for _ in range(options.repeats):
    for name, run in made.items():
      host_s, step_s, loss = run()
      times[name].append((1e3 * host_s, 1e3 * step_s))
      losses.add(loss)
  if len(losses) > 1:
    raise SystemExit(f'The ways differ: losses {sorted(losses)}')

  print(f'{options.steps} steps of {options.batch} pairs, {options.encoder} of width {options.width}, ms a step')
  print(f'{"":<10}{"host":>8}{"min":>8}{"max":>8}{"step":>10}{"min":>10}{"max":>10}{"sent, MB":>12}')
  for name, values in times.items():
    host_ms, step_ms = zip(*values, strict=True)
    print(
      f'{name:<10}{statistics.median(host_ms):>8.2f}{min(host_ms):>8.2f}{max(host_ms):>8.2f}'
      f'{statistics.median(step_ms):>10.1f}{min(step_ms):>10.1f}{max(step_ms):>10.1f}{sent[name] / 1e6:>12.4f}'
    )
  print('the same last loss to the last bit')


if __name__ == '__main__':
  main()

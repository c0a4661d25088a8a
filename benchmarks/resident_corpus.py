"""How long a Tile2Vec training step waits for its batch: of a resident corpus, of RecordSet, and of users' loaders.

  python benchmarks/resident_corpus.py [--records=150] [--steps=4] [--repeats=2] [--encoder=resnet18]

All train triplets of 128-px crops of 256-px records (in the page cache) from the same state. Batches that RecordSet
reads ahead and those of a corpus that the devices hold have the same plan, and must end with the same loss to the last
bit; the peers are tf.data on the same shards and compressed .npz through PyTorch's DataLoader, with a worker on each
core. All alternate. A step waits from asking for the next batch until it is on its way to the devices; what is read
ahead meanwhile takes the processor's time from the step, which on a CPU shows in the whole step. On a GPU the host's
time is hidden behind a longer step.
"""

import argparse
import functools
import importlib.util
import os
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import patchformats
import patchreaders
import sidebyside

from configs import common
from deepsentinel.data import batches, neighbours, records
from deepsentinel.encoders import standardise
from deepsentinel.train import inputs, loop, models, optimizers, parallel, resident, rngs, state, xla

_RESIDENT, _STREAMED, _TF_DATA, _NPZ = (
  'a corpus that the devices hold', 'RecordSet', 'tf.data', 'compressed .npz, PyTorch DataLoader',
)  # fmt: skip
_Feed = Callable[[], tuple[Iterator[dict[str, np.ndarray]], Callable[..., tuple[Any, int]]]]


def host_bytes(batch: dict[str, np.ndarray]) -> int:
  return sum(values.nbytes for values in batch.values())


def training_step(reader: records.RecordSet, options: argparse.Namespace):
  """(the compiled step, its first state on every device)."""
  config = common.get_config()
  config.pretrain.objective, config.encoder.name = 'tile2vec', options.encoder
  config.encoder.width = options.width
  bands, plain = reader.spec.bands, config.to_dict()
  module = models.build(plain, 'pretrain', norm=parallel.norm, gather=parallel.gather)
  optimiser = optimizers.adam(1e-4)
  # Standardised to about -1 to 1.
  mean, std = standardise.checked(
    bands, *([value if b[0] == 'B' else other for b in bands] for value, other in ((0.2, -15.0), (0.2, 10.0)))
  )
  given = parallel.replicate((inputs.Prepare(reader.spec, bands, mean, std, seed=0), np.float32(1)))
  fresh = models.build(plain, 'pretrain')
  key = rngs.stream_key(0, 'init_pretrain', 0)
  first = state.create(state.init_variables(fresh, models.example_inputs(fresh, len(bands)), key), optimiser)
  step = parallel.parallelise(state.train_step(module, optimiser), donate_first=True)
  return lambda training_state, batch: step(training_state, batch, *given), first


def feeds(reader: records.RecordSet, options: argparse.Namespace) -> tuple[dict[str, _Feed], dict[str, int]]:
  """Name -> what begins a run's batches, and what places one on the devices; name -> bytes that the host sends."""
  cores = sidebyside.cores()
  sampler = neighbours.NeighbourSampler.from_records(reader.table)
  training = functools.partial(
    batches.training_batches, reader, views='triplet', batch_size=options.batch, crop_px=patchreaders.CROP_PX, seed=0,
    neighbours=sampler,
  )  # fmt: skip
  begun = time.perf_counter()
  source = resident.Source.of(reader, np.arange(len(reader)), patchformats.FIELDS, patchreaders.CROP_PX)
  corpus = source.load()
  seconds = time.perf_counter() - begun
  print(f'loaded {source.nbytes / 1e6:,.0f} MB onto each of {jax.local_device_count()} devices in {seconds:.2f} s')
  made: dict[str, _Feed] = {
    _STREAMED: lambda: (training(), loop.send),
    _RESIDENT: lambda: (training(pixels=False), corpus.place),
  }
  sent = {_STREAMED: host_bytes(next(training())), _RESIDENT: host_bytes(next(training(pixels=False)))}
  peers = {_TF_DATA: patchreaders.tf_data(reader, 3, cores)}
  if importlib.util.find_spec('torch'):
    files = patchreaders.Files(patchformats.npz(options.dir, options.records), patchreaders.npz_crop)
    peers[_NPZ] = patchreaders.torch_loader(files, len(reader), 3, cores)
  else:
    print(f'left out: {_NPZ}; PyTorch is not installed (`make peers` installs it)')
  for name, peer in peers.items():
    made[name] = functools.partial(lambda peer: (peer(options.steps + 1, 0), loop.send), peer)
  return made, sent


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--records', type=int, default=150, help='patches (1.8 MB each in the shards)')
  parser.add_argument('--steps', type=int, default=4, help='of one run')
  parser.add_argument('--repeats', type=int, default=2, help='runs of each way, alternating')
  parser.add_argument('--encoder', default='resnet18')
  parser.add_argument('--width', type=int, default=8, help='channels of its stem')
  parser.add_argument('--dir', type=pathlib.Path, default=pathlib.Path('.cache/benchmarks'), help='keeps the patches')
  options = parser.parse_args()
  options.batch = patchreaders.BATCH
  xla.prepare_backend()
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  reader = records.RecordSet(patchformats.records(options.dir, options.records), 'train')
  for path in sorted(pathlib.Path(reader.directory).glob('*.tfrecord-*')):
    path.read_bytes()  # a warm page cache
  step, first = training_step(reader, options)
  made, sent = feeds(reader, options)
  whole: dict[str, list[float]] = {name: [] for name in made}
  losses = set()

  def run(name: str) -> float:
    """ms that a step waits; keeps the whole step's."""
    feed, place = made[name]()
    current, waited = parallel.replicate(first), 0.0
    ready, _ = place(next(feed))
    begun = time.perf_counter()
    for _ in range(options.steps):
      current, metrics = step(current, ready)
      asked = time.perf_counter()
      ready, _ = place(next(feed))
      waited += time.perf_counter() - asked
      loss = float(parallel.unreplicate(metrics)['loss'][0])  # waits for the step
    whole[name].append(1e3 * (time.perf_counter() - begun) / options.steps)
    if name in (_STREAMED, _RESIDENT):
      losses.add(loss)
    return 1e3 * waited / options.steps

  waits = sidebyside.alternate({name: functools.partial(run, name) for name in made}, options.repeats)
  steps = {name: values[1:] for name, values in whole.items()}  # the first of each was not counted, as of `waits`
  rows = []
  what = f'of {options.batch} Tile2Vec triplets, {options.encoder} of width {options.width}'
  for name in made:
    if name == _STREAMED:
      continue
    ours, theirs = (_RESIDENT, _STREAMED) if name == _RESIDENT else (_STREAMED, name)
    note = ''
    if name == _RESIDENT:
      note = f'{ours}; the host sends {sent[ours] / 1e6:.4f} MB a step, not {sent[theirs] / 1e6:.1f} MB'
    rows.append(sidebyside.Row(f'a step {what} waits for its batch', theirs, 'ms', waits[ours], waits[theirs], 0, note))
    rows.append(sidebyside.Row(f'a whole step {what}', theirs, 'ms', steps[ours], steps[theirs], 0, note))
  sidebyside.leave(__file__, rows)
  if len(losses) > 1:
    raise SystemExit(f'RecordSet and the resident corpus differ: losses {sorted(losses)}')


if __name__ == '__main__':
  main()

"""One process of the test that gradients do not depend on devices and processes; see test_parallel.py.

python gradient_worker.py DEVICES PROCESSES PROCESS PORT OUT
"""

import os
import sys

devices, processes, process, port = map(int, sys.argv[1:5])
os.environ['XLA_FLAGS'] = f'--xla_force_host_platform_device_count={devices}'
os.environ['JAX_PLATFORMS'] = 'cpu'

import jax  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402

from deepsentinel.objectives import tile2vec  # noqa: E402
from deepsentinel.train import parallel, state  # noqa: E402
from tests.train import tiny_model  # noqa: E402

EXAMPLES = 8


def main() -> None:
  if processes > 1:
    parallel.initialise(f'127.0.0.1:{port}', processes, process)
  assert jax.device_count() == devices * processes
  own = slice(process * EXAMPLES // processes, (process + 1) * EXAMPLES // processes)
  # An optimiser that keeps the gradient as its state.
  keep = optax.GradientTransformation(lambda p: jax.tree.map(np.zeros_like, p), lambda g, s, p: (g, g))
  out = {}
  for name, objective, views in (
    ('tile2vec', tile2vec.Tile2Vec, 3),
    ('labels', tiny_model.TinyLabels, 1),
  ):
    plain = objective(tiny_model.TinyEncoder(4))
    module = objective(tiny_model.TinyEncoder(4, norm=parallel.norm))
    prepare = tiny_model.prepare(labels=views == 1, sensor_dropout=0.5)
    step = parallel.parallelise(state.train_step(module, prepare, keep))
    start = parallel.replicate(state.create(jax.device_get(tiny_model.variables(plain)), keep))
    batch = next(tiny_model.training(EXAMPLES, views, labels=views == 1, part=own)(5))
    end, metrics = parallel.unreplicate(step(start, parallel.shard(batch)))
    trees = {'gradient': end.opt_state, 'batch_stats': end.batch_stats, 'metrics': metrics}
    for path, leaf in jax.tree_util.tree_flatten_with_path(trees)[0]:
      out[name + jax.tree_util.keystr(path)] = leaf
  np.savez(sys.argv[5], **out)


main()

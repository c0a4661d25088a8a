"""One process of the test that gradients do not depend on devices and processes; see test_parallel.py.

python gradient_worker.py DEVICES PROCESSES PROCESS PORT OUT
"""

import functools
import os
import sys

from tests import commands

devices, processes, process, port = map(int, sys.argv[1:5])
os.environ['XLA_FLAGS'] = f'{commands.QUICK_XLA} --xla_force_host_platform_device_count={devices}'
os.environ['JAX_PLATFORMS'] = 'cpu'

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402

from deepsentinel.objectives import augment, contrastive, tile2vec, vae  # noqa: E402
from deepsentinel.train import parallel, state  # noqa: E402
from tests.train import tiny_model  # noqa: E402

EXAMPLES = 8
STRENGTHS = augment.Curriculum(warmup_epochs=0, ramp_epochs=1)


def main() -> None:
  if processes > 1:
    parallel.initialise(f'127.0.0.1:{port}', processes, process)
  assert jax.device_count() == devices * processes
  own = slice(process * EXAMPLES // processes, (process + 1) * EXAMPLES // processes)
  # An optimiser that keeps the gradient as its state.
  keep = optax.GradientTransformation(lambda p: jax.tree.map(jnp.zeros_like, p), lambda g, s, p: (g, g))
  out = {}
  vae_options = {'latent': 2, 'header_width': 8}
  for name, objective, views, parallel_options in (
    ('tile2vec', functools.partial(tile2vec.Tile2Vec, loss='triplet'), 3, {}),
    ('near infonce', tile2vec.Tile2Vec, 3, {'gather': parallel.gather}),
    ('triplet', functools.partial(contrastive.Contrastive, margin=1.0), 2, {'gather': parallel.gather}),
    ('infonce', functools.partial(contrastive.Contrastive, loss='infonce'), 2, {'gather': parallel.gather}),
    ('vae', functools.partial(vae.VAE, **vae_options), 1, {'norm': parallel.norm}),
    ('labels', tiny_model.TinyLabels, 1, {}),
  ):
    labels = name == 'labels'
    plain = objective(tiny_model.TinyEncoder(4))
    module = objective(tiny_model.TinyEncoder(4, norm=parallel.norm), **parallel_options)
    prepare = tiny_model.prepare(labels=labels, sensor_dropout=0.5, curriculum=STRENGTHS if views == 2 else None)
    step = parallel.parallelise(state.train_step(module, keep))
    given = parallel.replicate((prepare, np.float32(1)))
    start = parallel.replicate(state.create(jax.device_get(tiny_model.variables(plain)), keep))
    batch = next(tiny_model.training(EXAMPLES, views, labels=labels, part=own)(5))
    end, metrics = parallel.unreplicate(step(start, parallel.shard(batch), *given))
    trees = {'gradient': end.opt_state, 'batch_stats': end.batch_stats, 'metrics': metrics}
    for path, leaf in jax.tree_util.tree_flatten_with_path(trees)[0]:
      out[name + jax.tree_util.keystr(path)] = leaf
  np.savez(sys.argv[5], **out)


main()

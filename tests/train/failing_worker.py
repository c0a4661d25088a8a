"""One of two processes, of which the second fails and the first waits for it: python -m tests.train.failing_worker."""

import sys

import jax.numpy as jnp

from deepsentinel import commandline
from deepsentinel.train import parallel


def main(process: int, port: int) -> None:
  commandline.show_errors_in_one_sentence()
  parallel.initialise(f'127.0.0.1:{port}', 2, process)
  total = parallel.parallelise(parallel.total)
  total(parallel.shard(jnp.ones(1)))
  if process == 1:
    raise ValueError('The records are not there. Bring them.')
  total(parallel.shard(jnp.ones(1)))


if __name__ == '__main__':
  main(*map(int, sys.argv[1:]))

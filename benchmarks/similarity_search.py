"""How long one query of an index takes, exact and approximate, beside scikit-learn's NearestNeighbors.

    python benchmarks/similarity_search.py [--rows=200000] [--features=128] [--queries=20] [--repeats=3]

Made-up unit vectors around random centres, built with `deepsentinel.embedding.index` as a map's cells would be. Queries
are rows with noise, asked one at a time, the engines in turn; the share of scikit-learn's neighbours that each finds is
told.
"""

import argparse
import functools
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import shapely
import sidebyside

from deepsentinel.embedding import cells, index

_K = 20
_SKLEARN, _NUMPY = 'scikit-learn, brute force, euclidean', 'NumPy, argpartition'
_CHUNK = 16_384


class MadeUp:
  """Rows around random centres, the same every time."""

  name, checkpoint_sha256, synthetic = 'made up', 'made up', False

  def __init__(self, most: int, features: int):
    self.most, self.features = most, features

  def describe(self) -> dict[str, Any]:
    return {'kind': 'patches', 'name': self.name, 'rows': self.most}

  def vectors(self) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(500, self.features))
    for first in range(0, self.most, _CHUNK):
      count = min(_CHUNK, self.most - first)
      yield cells.unit(centres[rng.integers(0, 500, count)] + 0.7 * rng.normal(size=(count, self.features)))

  def chunks(self, kept: pathlib.Path) -> Iterator[tuple[pd.DataFrame, np.ndarray, int]]:
    for vectors in self.vectors():
      count = len(vectors)
      place = {'id': 'x', 'row': np.arange(count), 'col': -1, 'time': '', 'lon_deg': 0.0, 'lat_deg': 0.0}
      yield pd.DataFrame({**place, 'geometry': shapely.points(np.zeros((count, 2)))}), vectors, count


def _numbers(made: index.Index, vector: np.ndarray) -> np.ndarray:
  return made.nearest(vector, _K)[1]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--rows', type=int, default=200_000, help='of the index')
  parser.add_argument('--features', type=int, default=128, help='dimensions of a vector')
  parser.add_argument('--queries', type=int, default=20, help='of each engine in a repeat')
  parser.add_argument('--repeats', type=int, default=3, help='alternating runs')
  options = parser.parse_args()
  from sklearn.neighbors import NearestNeighbors

  source = MadeUp(options.rows, options.features)
  everything = np.concatenate(list(source.vectors()))
  rng = np.random.default_rng(1)
  asked = everything[rng.choice(len(everything), options.queries, replace=False)]
  asked = cells.unit(asked + 0.3 * rng.normal(size=asked.shape) / asked.shape[1] ** 0.5)
  # Of unit vectors the order is that of the cosine, which scikit-learn would make them unit vectors anew for.
  peer = NearestNeighbors(n_neighbors=_K, metric='euclidean', algorithm='brute').fit(everything)

  def scikit_learn(vector: np.ndarray) -> np.ndarray:
    return peer.kneighbors(vector[None], return_distance=False)[0]

  def with_numpy(vector: np.ndarray) -> np.ndarray:
    likeness = everything @ vector
    top = np.argpartition(-likeness, _K)[:_K]
    return top[np.argsort(-likeness[top])]

  engines: dict[str, Callable[[np.ndarray], np.ndarray]] = {_SKLEARN: scikit_learn, _NUMPY: with_numpy}
  share: dict[str, float] = {}

  def milliseconds(name: str) -> float:
    start = time.perf_counter()
    found = [engines[name](vector) for vector in asked]
    seconds = time.perf_counter() - start
    share[name] = float(np.mean([len(np.intersect1d(a, b)) / _K for a, b in zip(found, truth, strict=True)]))
    return 1000 * seconds / len(asked)

  with tempfile.TemporaryDirectory() as home:
    for kind in ('exact', 'approximate'):
      start = time.perf_counter()
      made, _ = index.build([source], pathlib.Path(home, kind), mean_cells=1, kind=kind, progress=False)
      told = f', recall told {made.about["search"]["recall"]:.3f}' if kind == 'approximate' else ''
      print(f'{kind}: {len(made):,} rows of {source.features} built in {time.perf_counter() - start:.1f} s{told}')
      engines[kind] = functools.partial(_numbers, made)
    truth = [scikit_learn(vector) for vector in asked]
    times = sidebyside.alternate({name: functools.partial(milliseconds, name) for name in engines}, options.repeats)
  if share['exact'] < 0.999:  # but for ties in the last bit
    raise SystemExit(f'The exact search finds {share["exact"]:.1%} of the neighbours.')
  stage = f'one query of {options.rows:,} vectors of {options.features}'
  sidebyside.leave(__file__, [
    sidebyside.Row(f'{stage}, {kind}', peer, 'ms', times[kind], times[peer], 10,
                   f'{share[kind]:.1%} of the neighbours')
    for kind in ('exact', 'approximate') for peer in (_SKLEARN, _NUMPY)
  ])  # fmt: skip


if __name__ == '__main__':
  main()

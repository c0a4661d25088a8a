"""How long one query of an index takes, exact and approximate, beside scikit-learn's NearestNeighbors.

    python benchmarks/similarity_search.py

Made-up unit vectors around random centres, built with `deepsentinel.embedding.index` as a map's cells would be. Queries
are rows with noise, asked one at a time, all engines in turn within each repeat; the median is printed, with the share
of scikit-learn's neighbours that each finds.
"""

import functools
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import shapely
from absl import app, flags

from deepsentinel.embedding import cells, index

_ROWS = flags.DEFINE_integer('rows', 200_000, 'Rows of the index.')
_FEATURES = flags.DEFINE_integer('features', 128, 'Dimensions of a vector.')
_QUERIES = flags.DEFINE_integer('queries', 50, 'Queries of each engine in a repeat.')
_REPEATS = flags.DEFINE_integer('repeats', 3, 'Alternating runs.')
_K = 20
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


def main(_) -> None:
  from sklearn.neighbors import NearestNeighbors

  source = MadeUp(_ROWS.value, _FEATURES.value)
  everything = np.concatenate(list(source.vectors()))
  rng = np.random.default_rng(1)
  asked = everything[rng.choice(len(everything), _QUERIES.value, replace=False)]
  asked = cells.unit(asked + 0.3 * rng.normal(size=asked.shape) / asked.shape[1] ** 0.5)
  peer = NearestNeighbors(n_neighbors=_K, metric='cosine', algorithm='brute').fit(everything)

  def scikit_learn(vector: np.ndarray) -> np.ndarray:
    return peer.kneighbors(vector[None], return_distance=False)[0]

  engines: dict[str, Callable[[np.ndarray], np.ndarray]] = {'scikit-learn': scikit_learn}
  with tempfile.TemporaryDirectory() as home:
    for kind in ('exact', 'approximate'):
      start = time.perf_counter()
      made, _ = index.build([source], pathlib.Path(home, kind), mean_cells=1, kind=kind, progress=False)
      told = f', recall told {made.about["search"]["recall"]:.3f}' if kind == 'approximate' else ''
      print(f'{kind}: {len(made):,} rows of {source.features} built in {time.perf_counter() - start:.1f} s{told}')
      engines[kind] = functools.partial(_numbers, made)
    truth = [engines['scikit-learn'](vector) for vector in asked]
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(_REPEATS.value):
      for name, engine in engines.items():
        start = time.perf_counter()
        found = [engine(vector) for vector in asked]
        seconds[name].append((time.perf_counter() - start) / len(asked))
        share = np.mean([len(np.intersect1d(a, b)) / _K for a, b in zip(found, truth, strict=True)])
        if len(seconds[name]) == _REPEATS.value:
          print(f'{name}: {1000 * statistics.median(seconds[name]):.2f} ms a query, {share:.1%} of the neighbours')


if __name__ == '__main__':
  app.run(main)

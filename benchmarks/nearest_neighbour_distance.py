"""The check figure of the sampling: how far 100,000 land points lie from their nearest neighbour.

    python benchmarks/nearest_neighbour_distance.py

The paper states 18.2 km. Its code drew latitude uniformly in degrees, which is denser towards the poles; points
uniform by area should give 18.8 km, and the Poisson process of theory 0.5 / sqrt(density), a little less than a land
with coasts does. Both draws are measured here.
"""

import time

import numpy as np
import pandas as pd
from absl import app, flags

from deepsentinel.corpus import points
from deepsentinel.data import distances

_POINTS = flags.DEFINE_integer('points', 100_000, 'Number of points.')
_SEEDS = flags.DEFINE_integer('seeds', 3, 'How many draws by area.')
_BY_DEGREE = flags.DEFINE_bool('by_degree', True, 'Also a draw uniform in degrees, as the author had it (a minute).')


def uniform_in_degrees(region: points.Region, n: int) -> pd.DataFrame:
  """n points with a density uniform in degrees: drawn by area and kept in proportion to 1 / cos(latitude)."""
  north = np.cos(np.radians(83.7))  # beyond the last land
  kept: list[pd.DataFrame] = []
  rng = np.random.default_rng(0)
  while sum(map(len, kept)) < n:
    drawn = region.draw(1000, len(kept) * 50_000 + np.arange(50_000))
    kept.append(drawn[rng.random(len(drawn)) < north / np.cos(np.radians(drawn['lat_deg']))])
  return pd.concat(kept).iloc[:n]


def main(_) -> None:
  n = _POINTS.value
  region = points.Region()
  area = region.area_km2()
  print(f'land without Antarctica {area / 1e6:.2f} M km2; theory for {n:,} points {0.5 * np.sqrt(area / n):.2f} km')
  for seed in range(_SEEDS.value):
    start = time.perf_counter()
    drawn = region.draw(seed, np.arange(n))
    seconds = time.perf_counter() - start
    mean = distances.mean_nearest_neighbour_km(drawn['lon_deg'].to_numpy(), drawn['lat_deg'].to_numpy())
    print(
      f'uniform by area, seed {seed}: mean nearest neighbour {mean:.2f} km (expected 18.8; drawn in {seconds:.1f} s)'
    )
  if _BY_DEGREE.value:
    drawn = uniform_in_degrees(region, n)
    mean = distances.mean_nearest_neighbour_km(drawn['lon_deg'].to_numpy(), drawn['lat_deg'].to_numpy())
    print(f'uniform in degrees: mean nearest neighbour {mean:.2f} km (paper 18.2)')


if __name__ == '__main__':
  app.run(main)

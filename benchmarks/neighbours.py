"""Neighbours of 100,000 land points: time of the table, and how far each law of Tile2Vec reaches.

    python benchmarks/neighbours.py

The paper's points lie 18.2 km from their nearest neighbour on average (they were denser towards the poles); points
uniform by area, Antarctica left out, should lie 18.8 km apart.
"""

import time

import numpy as np
from absl import app, flags

from deepsentinel.corpus import points
from deepsentinel.data import distances, neighbours

_POINTS = flags.DEFINE_integer('points', 100_000, 'Number of points, uniform by area on land.')
_SEED = flags.DEFINE_integer('seed', 0, 'Seed of the points and the draws.')
_BATCH = flags.DEFINE_integer('batch', 1024, 'Batch size for the time of a draw.')

LAWS = (
  ('literal: softmax of distance in km', {'law': 'literal'}),
  ('uniform', {'law': 'uniform'}),
  ('near, scale auto (mean nearest distance)', {'law': 'near'}),
  ('near, scale 1 km', {'law': 'near', 'scale_km': 1.0}),
)


def main(_) -> None:
  start = time.perf_counter()
  drawn = points.land_points(_POINTS.value, _SEED.value)
  lon, lat = drawn['lon_deg'].to_numpy(), drawn['lat_deg'].to_numpy()
  print(f'{len(lon):,} points on land, drawn in {time.perf_counter() - start:.1f} s')
  print(f'mean distance to the nearest point: {distances.mean_nearest_neighbour_km(lon, lat):.2f} km (paper: 18.2)')

  start = time.perf_counter()
  table = distances.nearest_neighbours(lon, lat)
  seconds = time.perf_counter() - start
  print(f'neighbours within 1 degree: table of {len(table.index):,} entries in {seconds:.1f} s')
  print(f'  {table.counts.mean():.1f} neighbours a point; {(table.counts == 0).sum()} points have none')
  print(f'  mean distance to the nearest neighbour of those that have one: {table.mean_nearest_km:.2f} km\n')

  print(f'{"law":42s} {"mean km":>8s} {"drawn km":>9s} {"table s":>8s} {f"{_BATCH.value} draws, us":>15s}')
  for name, settings in LAWS:
    start = time.perf_counter()
    sampler = neighbours.NeighbourSampler.from_points(lon, lat, **settings)
    seconds = time.perf_counter() - start
    anchor = np.arange(len(lon))
    near = sampler.draw_neighbour(anchor, neighbours.generator(_SEED.value, 'neighbour'))
    other = near != anchor
    realised = distances.geodesic_km(lon[other], lat[other], lon[near[other]], lat[near[other]]).mean()
    times = []
    for step in range(20):
      rng = neighbours.generator(_SEED.value, 'benchmark', step)
      batch = rng.integers(0, len(lon), _BATCH.value)
      start = time.perf_counter()
      sampler.draw_neighbour(batch, rng)
      sampler.draw_distant(batch, rng)
      times.append(time.perf_counter() - start)
    print(
      f'{name:42s} {sampler.realised()["mean_km"]:8.1f} {realised:9.1f} {seconds:8.1f} {np.median(times) * 1e6:15.0f}'
    )


if __name__ == '__main__':
  app.run(main)

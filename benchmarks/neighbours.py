"""Neighbours of 100,000 land points: time of the table, and how far each law of Tile2Vec reaches.

    python benchmarks/neighbours.py [--points=100000] [--repeats=2] [--nolaws]

The peer is scikit-learn's BallTree with haversine distances: `query_radius` by itself, whose distances are of a sphere
and up to 0.6 % off, and with PROJ's geodesics of all it finds within a little more, which gives the table that ours
gives (compared to the last entry). The paper's points lie 18.2 km from their nearest neighbour on average (they were
denser towards the poles); points uniform by area, Antarctica left out, should lie 18.8 km apart.
"""

import argparse
import time

import numpy as np
import pyproj
import sidebyside

from deepsentinel.corpus import points
from deepsentinel.data import distances, neighbours

LAWS = (
  ('literal: softmax of distance in km', {'law': 'literal'}),
  ('uniform', {'law': 'uniform'}),
  ('near, scale auto (mean nearest distance)', {'law': 'near'}),
  ('near, scale 1 km', {'law': 'near', 'scale_km': 1.0}),
)
_SPHERE_KM = 6371.0088
_OFF = 1.006  # how much longer an arc of the sphere can be than the geodesic of WGS84


def ball_tree(lon: np.ndarray, lat: np.ndarray, radius_km: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Offsets int [N + 1], neighbours int [M] and distances on the sphere float [M], km; the points themselves left out.

  Neighbours are in no order.
  """
  from sklearn.neighbors import BallTree

  places = np.radians(np.column_stack([lat, lon]))
  index, distance = BallTree(places, metric='haversine').query_radius(
    places, radius_km / _SPHERE_KM, return_distance=True
  )
  count = np.array([len(i) for i in index])
  row = np.repeat(np.arange(len(lon)), count)
  found, km = np.concatenate(index), np.concatenate(distance) * _SPHERE_KM
  other = found != row
  return np.concatenate([[0], np.cumsum(np.bincount(row[other], minlength=len(lon)))]), found[other], km[other]


def exact(lon: np.ndarray, lat: np.ndarray, radius_km: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """As `ball_tree`, with geodesics of WGS84 and each row in order."""
  offsets, found, _ = ball_tree(lon, lat, radius_km * _OFF)
  row = np.repeat(np.arange(len(lon)), np.diff(offsets))
  km = pyproj.Geod(ellps='WGS84').inv(lon[row], lat[row], lon[found], lat[found])[2] / 1000
  near = km <= radius_km
  row, found, km = row[near], found[near], km[near]
  order = np.lexsort((found, row))
  return np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(lon)))]), found[order], km[order]


def print_laws(lon: np.ndarray, lat: np.ndarray, seed: int, batch_size: int) -> None:
  print(f'{"law":42s} {"mean km":>8s} {"drawn km":>9s} {"table s":>8s} {f"{batch_size} draws, us":>15s}')
  for name, settings in LAWS:
    start = time.perf_counter()
    sampler = neighbours.NeighbourSampler.from_points(lon, lat, **settings)
    seconds = time.perf_counter() - start
    anchor = np.arange(len(lon))
    near = sampler.draw_neighbour(anchor, neighbours.generator(seed, 'neighbour'))
    other = near != anchor
    realised = distances.geodesic_km(lon[other], lat[other], lon[near[other]], lat[near[other]]).mean()
    times = []
    for step in range(20):
      rng = neighbours.generator(seed, 'benchmark', step)
      batch = rng.integers(0, len(lon), batch_size)
      start = time.perf_counter()
      sampler.draw_neighbour(batch, rng)
      sampler.draw_distant(batch, rng)
      times.append(time.perf_counter() - start)
    print(
      f'{name:42s} {sampler.realised()["mean_km"]:8.1f} {realised:9.1f} {seconds:8.1f} {np.median(times) * 1e6:15.0f}'
    )


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--points', type=int, default=100_000, help='uniform by area on land')
  parser.add_argument('--seed', type=int, default=0, help='of the points and the draws')
  parser.add_argument('--repeats', type=int, default=2, help='alternating runs')
  parser.add_argument('--batch', type=int, default=1024, help='batch size for the time of a draw')
  parser.add_argument('--nolaws', action='store_true', help='only the times of the table')
  options = parser.parse_args()
  drawn = points.land_points(options.points, options.seed)
  lon, lat = drawn['lon_deg'].to_numpy(), drawn['lat_deg'].to_numpy()
  radius_km, quarter = distances.KM_PER_DEGREE, options.points // 4

  def seconds(way, count: int = options.points) -> float:
    start = time.perf_counter()
    way(lon[:count], lat[:count], radius_km)
    return time.perf_counter() - start

  def ours(lon: np.ndarray, lat: np.ndarray, radius_km: float) -> distances.NeighbourTable:
    return distances.nearest_neighbours(lon, lat, max_distance_km=radius_km)

  table, (offsets, index, km) = ours(lon, lat, radius_km), exact(lon, lat, radius_km)
  same = np.array_equal(table.offsets, offsets) and np.array_equal(table.index, index)
  if not (same and np.allclose(table.distance_km, km, rtol=1e-6, atol=1e-6)):
    raise SystemExit('The tables differ.')
  print(f'{len(lon):,} points: {table.counts.mean():.1f} neighbours each; {(table.counts == 0).sum()} have none')
  print(f'mean distance to the nearest: {distances.mean_nearest_neighbour_km(lon, lat):.2f} km (paper: 18.2)\n')
  found = sidebyside.alternate(
    {
      'ours': lambda: seconds(ours),
      'a quarter': lambda: seconds(ours, quarter),
      'exact': lambda: seconds(exact),
      'sphere': lambda: seconds(ball_tree),
    },
    options.repeats,
  )
  stage = f'neighbour table within one degree, {options.points:,} points'
  sidebyside.leave(__file__, [
    sidebyside.Row(stage, 'BallTree (haversine) and PROJ geodesics', 's', found['ours'], found['exact'], 10,
                   'the same table'),
    sidebyside.Row(stage, 'BallTree (haversine) alone', 's', found['ours'], found['sphere'], 0,
                   'its distances are of a sphere'),
    sidebyside.Row(f'the same, {quarter:,} points', '', 's', found['a quarter'], (), 0,
                   f'{len(table.index) / len(ours(lon[:quarter], lat[:quarter], radius_km).index):.1f} times fewer '
                   'pairs: their number goes with the square of the density'),
  ])  # fmt: skip
  if not options.nolaws:
    print_laws(lon, lat, options.seed, options.batch)


if __name__ == '__main__':
  main()

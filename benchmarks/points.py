"""How long do points on land take, each from a random stream of its own, and is the time linear in their number?

    python benchmarks/points.py [--points=100000] [--repeats=3]

The peer draws as a careful user of geopandas would: batches of candidates uniform by area over the land's bounding box,
`sjoin` with the same polygons (which names the country as well), until there are enough, from one generator. Its points
depend on how many are drawn at once; ours do not. Both are checked: every point lies in the country it names, and the
mean latitudes agree within four standard errors.
"""

import argparse
import time

import geopandas
import numpy as np
import pandas as pd
import sidebyside

from deepsentinel.corpus import points


def geopandas_way(land: geopandas.GeoDataFrame, count: int, seed: int) -> pd.DataFrame:
  """Places uniform by area on the polygons of `land`, with their countries."""
  rng = np.random.default_rng(seed)
  west, south, east, north = land.total_bounds
  low, high = np.sin(np.radians([south, north]))
  found: list[pd.DataFrame] = []
  while (missing := count - sum(map(len, found))) > 0:
    size = int(3.6 * missing) + 100  # three candidates of ten lie on land
    lon, lat = rng.uniform(west, east, size), np.degrees(np.arcsin(rng.uniform(low, high, size)))
    candidates = geopandas.GeoDataFrame(geometry=geopandas.points_from_xy(lon, lat), crs=land.crs)
    joined = geopandas.sjoin(candidates, land, predicate='within')
    places = {'lon_deg': joined.geometry.x, 'lat_deg': joined.geometry.y, 'country': joined['country']}
    found.append(pd.DataFrame(places).sample(frac=1, random_state=rng))
  return pd.concat(found).iloc[:count]


def check(region: points.Region, drawn: dict[str, pd.DataFrame]) -> None:
  for name, table in drawn.items():
    some = table.sample(min(len(table), 20_000), random_state=0)
    country = region.country_of(some['lon_deg'].to_numpy(), some['lat_deg'].to_numpy())
    if not (country == some['country'].to_numpy()).mean() > 0.999:  # but where borders cross each other
      raise SystemExit(f'{name}: points do not lie in the country they name.')
  mean, variance = zip(*((t['lat_deg'].mean(), t['lat_deg'].var() / len(t)) for t in drawn.values()), strict=True)
  if abs(mean[0] - mean[1]) > 4 * sum(variance) ** 0.5:
    raise SystemExit(f'The two draws differ: mean latitudes {mean}.')


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--points', type=int, default=100_000)
  parser.add_argument('--repeats', type=int, default=3, help='alternating runs')
  options = parser.parse_args()
  region = points.Region()
  land = geopandas.GeoDataFrame({'country': region.country}, geometry=region.parts, crs=4326)
  drawn: dict[str, pd.DataFrame] = {}

  def ours(count: int) -> float:
    start = time.perf_counter()
    drawn['ours'] = region.draw(0, np.arange(count))
    return count / (time.perf_counter() - start)

  def theirs() -> float:
    start = time.perf_counter()
    drawn['geopandas'] = geopandas_way(land, options.points, 0)
    return options.points / (time.perf_counter() - start)

  quarter, n = options.points // 4, options.points
  ways = {'a quarter': lambda: ours(quarter), 'ours': lambda: ours(n), 'geopandas': theirs}
  found = sidebyside.alternate(ways, options.repeats)
  drawn['ours'] = region.draw(0, np.arange(n))
  check(region, drawn)
  note = 'each point from its own random stream'
  sidebyside.leave(__file__, [
    sidebyside.Row(f'{n:,} points on land', 'geopandas sjoin', 'points/s', found['ours'], found['geopandas'], 10, note),
    sidebyside.Row(f'the same, {quarter:,} points', '', 'points/s', found['a quarter'], ()),
  ])  # fmt: skip


if __name__ == '__main__':
  main()

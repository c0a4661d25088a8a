"""Where the corpus lies: its points by split on a map, and what its record sets hold."""

import dataclasses

import numpy as np
import pandas as pd

from deepsentinel import legend
from deepsentinel.data import distances, records, stores
from deepsentinel.evaluation import baselines, samples
from deepsentinel.report import facts, figures, pictures
from deepsentinel.report.pictures import Picture
from deepsentinel.report.runs import Run

SPLITS = ('train', 'validation', 'test')


_MOST_SAMPLES = 6
_SAMPLE_PX = 128  # at least, after thinning


@dataclasses.dataclass(frozen=True)
class Places:
  """The corpus section of the page.

  Attributes:
    map: of the points; None where no record set was found.
    facts: (name, value).
    missing: a sentence per record set that could not be opened.
    samples: Figure 2 of the paper, patches of the labelled training split.
  """

  map: Picture | None
  facts: tuple[tuple[str, str], ...]
  missing: tuple[str, ...]
  samples: tuple[pictures.Sample, ...]


def describe(runs: list[Run]) -> Places:
  """Map, samples and facts of the record sets that the runs read, as far as they can be read."""
  rows: list[tuple[str, str]] = []
  groups: dict[str, list[pd.DataFrame]] = {}
  missing: list[str] = []
  shown: list[pictures.Sample] = []
  for kind, directory in _directories(runs, missing):
    try:
      there = records.splits(directory) if stores.holds(directory, 'dataset_info.json') else []
      splits = {split: records.RecordSet(directory, split, threads=1) for split in SPLITS if split in there}
      if kind == 'labelled' and not shown and splits:
        shown = _samples(next(iter(splits.values())))
    except (ValueError, OSError) as error:
      missing.append(_not_on_the_map(error))
      continue
    if not splits:
      missing.append(f'Not on the map: {directory} is not there any more.')
      continue
    for split, record_set in splits.items():
      groups.setdefault('unlabelled' if kind == 'unlabelled' else split, []).append(record_set.table)
    rows += _facts(kind, splits)
  rows += _neighbour_facts(runs)
  drawn = [(name, *_coordinates(pd.concat(groups[name]))) for name in ('unlabelled', *SPLITS) if name in groups]
  drawn = [group for group in drawn if len(group[1])]
  picture = None
  if drawn:
    counts = ', '.join(f'{len(lon):,} {name}' for name, lon, _ in drawn)
    picture = pictures.chart(figures.points(drawn, land_outline()), f"Map of the corpus' points by split: {counts}")
  return Places(picture, tuple(dict.fromkeys(rows)), tuple(dict.fromkeys(missing)), tuple(shown))


def _samples(split: records.RecordSet) -> list[pictures.Sample]:
  """Patches evenly spread over a labelled split: both sensors and CORINE, or where it has none the land-cover map."""
  index = samples.choose(_MOST_SAMPLES, len(split))
  target = legend.target('corine_level1')
  classes = legend.map_classes(split.card.get('landcover', ()))
  if classes and not baselines.has_labels(split, target):
    target = legend.target('landcover', classes)
  if not len(index) or not {'s2', 's1', target.field} <= set(split.fields):
    return []
  s2, s1 = samples.picture_bands(split.spec, split.read('s2', index), split.read('s1', index))
  if s2 is None or s1 is None:
    return []
  thin = max(1, split.patch_px // _SAMPLE_PX)
  s2, s1, label = (a[:, ::thin, ::thin] for a in (s2, s1, target.lookup[split.read(target.field, index)]))
  found = []
  for i, id in enumerate(split.table['id'].iloc[index]):
    row = pictures.inputs(f'{id} of the corpus', s2[i], s1[i], label[i], target)
    found.append(pictures.Sample(str(id), (('', row),), frozenset(np.unique(label[i]).tolist())))
  return found


def _directories(runs: list[Run], missing: list[str]) -> list[tuple[str, stores.Folder]]:
  """(kind, prepared directory) once each: as a run recorded it or, for a run that got less far, by its config's name.

  The unlabelled ones only of runs that pretrained on them.
  """
  found: dict[tuple[str, stores.Folder], None] = {}
  for run in runs:
    for kind, use in (('unlabelled', 'pretrain'), ('labelled', 'train')):
      name = run.config.get(f'data.{kind}')
      if directory := run.record_set(use).get('directory'):
        found[kind, stores.folder_of(directory)] = None
      elif name and not run.experiment.get('data') and (kind == 'labelled' or run.objective not in ('', 'none')):
        try:
          found[kind, records.resolve(name, run.config.get('data.data_dir') or '')] = None
        except ValueError as error:
          missing.append(_not_on_the_map(error))
  return list(found)


def _not_on_the_map(error: Exception) -> str:
  return f'Not on the map: {str(error).split(". ")[0].rstrip(".")}.'


def _coordinates(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
  known = table[np.isfinite(table['lon_deg']) & np.isfinite(table['lat_deg'])]
  return known['lon_deg'].to_numpy(), known['lat_deg'].to_numpy()


def _facts(kind: str, splits: dict[str, records.RecordSet]) -> list[tuple[str, str]]:
  first = next(iter(splits.values()))
  table = pd.concat([record_set.table for record_set in splits.values()])
  counts = ', '.join(f'{split} {len(record_set):,}' for split, record_set in splits.items())
  source = first.card.get('source', {}).get('name', 'unknown')
  text = f'{len(table):,} patches of {first.patch_px} px ({counts}); source {source}'
  cloud = table['s2_cloud_share'].to_numpy(float)
  if np.isfinite(cloud).any():
    text += f'; mean cloud share {100 * np.nanmean(cloud):.0f} %'
  rows = [(f'{kind} corpus, {first.card["name"]}', text)]
  lon, lat = _coordinates(table)
  if len(np.unique(np.column_stack([lon, lat]), axis=0)) > 1:
    mean_km = distances.mean_nearest_neighbour_km(lon, lat)
    rows.append((f'{kind}: mean distance to the nearest patch', f'{mean_km:.2f} km'))
  return rows


def _neighbour_facts(runs: list[Run]) -> list[tuple[str, str]]:
  """(who, how far its neighbours lie), runs with the same answer together."""
  found: dict[tuple[str, str], list[str]] = {}
  for run in runs:
    realised = facts.realised_neighbours(run)
    if not realised or run.objective == 'none':
      continue
    text = f'{realised["mean_km"]:.2f} km from the anchor on average'
    share = realised.get('same_acquisition')
    if share is not None and np.isfinite(share):
      text += f'; {100 * share:.0f} % from the same acquisition'
    alone = realised.get('without_neighbour')
    if alone:
      text += f'; {100 * alone:.0f} % of anchors have none and take a second crop of themselves'
    if (regions := run.config.get('pretrain.regions', 1)) > 1:
      text += f'; all views of an example are of one of {regions} regions'
    found.setdefault((run.config.get('pretrain.tile2vec.neighbour', ''), text), []).append(run.name)
  rows = []
  for (law, text), names in found.items():
    who = names[0] if len(names) == 1 else f'{names[0]} and {len(names) - 1} more'
    rows.append((f'neighbours drawn by {who}' + (f" (law '{law}')" if law else ''), text))
  return rows


def land_outline() -> np.ndarray | None:
  """Countries as shapely polygons in WGS84, for the map's background; None where the package lacks its land file."""
  from deepsentinel.corpus import points

  try:
    return points.countries()['geometry'].to_numpy()
  except OSError:
    return None

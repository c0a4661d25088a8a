"""The results of `evaluate clouds`: measured, judged, and written as JSON, CSV, text and a figure."""

import csv
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from deepsentinel import legend, provenance
from deepsentinel.corpus import splits
from deepsentinel.evaluate import cloudchart, cloudmeasure
from deepsentinel.evaluation import baselines, intervals, robustness


def write(out: pathlib.Path, result: dict[str, Any]) -> None:
  """robustness.json, and robustness.csv with a row a part, view and cloud share."""
  provenance.write_json(out / 'robustness.json', result)
  fields = ('part', 'view', 'cloud_share', 'pixels', 'quality', 'majority', 'skill', 'places_low', 'places_high',
            'seeds_low', 'seeds_high', 'embedding_kept', 'synthetic')  # fmt: skip
  with provenance.replacing(out / 'robustness.csv') as temporary, temporary.open('w', newline='') as file:
    writer = csv.DictWriter(file, fields, extrasaction='ignore')
    writer.writeheader()
    for part, views in result['curves'].items():
      for view, entries in views.items():
        for s, entry in enumerate(entries):
          places, seeds = entry['places'] or (None, None), entry['seeds'] or (None, None)
          kept = result['embedding_kept'][view][s] if part == robustness.WHOLE else None
          writer.writerow(entry | {
            'part': part, 'view': view, 'places_low': places[0], 'places_high': places[1], 'seeds_low': seeds[0],
            'seeds_high': seeds[1], 'embedding_kept': kept, 'synthetic': result['synthetic'],
          })  # fmt: skip


def table(result: dict[str, Any]) -> str:
  """Skill by view and cloud share, and the checks, as text."""
  whole = result['curves'][robustness.WHOLE]
  lines = ['skill, 0 = majority class, 1 = both sensors without a cloud', '']
  lines.append(f'{"cloud share":34}' + ''.join(f'{share:>7.1f}' for share in result['shares']))
  for view, entries in whole.items():
    lines.append(f'{robustness.TITLES[view]:34}' + ''.join(_skill(entry['skill']) for entry in entries))
  lines += ['', *(f'{_VERDICTS[check["holds"]]:10} {check["claim"]}: {check["found"]}' for check in result['checks'])]
  lines.append('')
  world = 'SyntheticEarth, a simulated world' if result['synthetic'] else 'real imagery'
  checkpoints = f'{result["models"]} checkpoint' + ('s' if result['models'] != 1 else '')
  patches = f'{result["patches"]} {result["split"]} patches'
  lines.append(f'{patches} of {world}, in {result["blocks"]} blocks; {checkpoints}')
  return '\n'.join(lines)


def _skill(value: float | None) -> str:
  return f'{"-":>7}' if value is None else f'{value:>7.2f}'


_VERDICTS = {True: 'holds', False: 'FAILS', None: 'undecided'}


def run(
  models: Sequence, records, train, out: pathlib.Path, *, shares: tuple[float, ...] = robustness.SHARES,
  patches: int = 0, workers: int = 2, progress: bool = True,
) -> dict[str, Any]:  # fmt: skip
  """Measures and writes robustness.json, .csv and .png to `out`.

  Args:
    models: M fine-tuned checkpoints, e.g. of three seeds.
    records: the patches that are scored. train: RecordSet whose labels say which class the majority is.
    out: folder; what is there of an earlier run is gone on with.
    shares, patches, workers, progress: as `cloudmeasure.measure`.
  Returns:
    what robustness.json holds.
  """
  measured = cloudmeasure.measure(
    models, records, out, shares=shares, patches=patches, workers=workers, progress=progress
  )  # fmt: skip
  target = legend.target_of(models[0].config['finetune'])
  rows = records.table.set_index('id').loc[measured.id]
  block = splits.block_numbers(rows['lon_deg'].to_numpy(), rows['lat_deg'].to_numpy(), intervals.BLOCK_KM)
  counts = baselines.class_counts(train, target, progress=progress)
  result = {
    'target': target.name,
    'classes': list(target.classes),
    'majority_class': target.classes[int(counts.argmax())],
    'metric': robustness.METRIC,
    'shares': list(shares),
    'patches': len(measured.id),
    'blocks': len(np.unique(block)),
    'models': len(models),
    'checkpoints': [{'directory': str(m.directory), 'sha256': m.sha256, 'seed': m.config.get('seed')} for m in models],
    'data': records.card['name'],
    'split': records.split,
    'synthetic': records.synthetic,
    'curves': robustness.curves(measured, block, counts, shares),
    'embedding_kept': robustness.embeddings(measured, shares),
    'checks': robustness.checks(measured, block, counts, shares),
  }
  write(out, result)
  cloudchart.draw(out / 'robustness.png', result)
  return result

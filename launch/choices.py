"""A value of the configuration chosen for each config of a grid, by validation: `launch/grid.py --choose`."""

import json
import pathlib
from collections.abc import Mapping, Sequence

from deepsentinel import provenance
from launch import grid


def candidates(
  configs: Sequence[str], size: str, seed: str, fraction: str, out: str, settings: Sequence[str], choose: str
) -> dict[str, dict[str, grid.Run]]:
  """The runs that try the values of --choose=KEY=VALUE,VALUE, by config file and value; the rest as in `grid.plan`.

  Where the values concern fine-tuning, the first run pretrains for the others of its config.
  """
  key, listed = grid.parse_setting(choose)
  values = [value.strip() for value in listed.split(',') if value.strip()]
  if len(set(values)) < max(2, len(values)):
    raise ValueError(
      f'--choose={choose} names {len(values)} values. Give two or more that differ, with commas between.'
    )
  unscored = [text for text in settings if text.partition('=')[0] == 'data.labelled' and not text.partition('=')[2]]
  if unscored:
    raise ValueError(f'--choose ranks by validation, which --set={unscored[0]} leaves no labels for. Leave one out.')
  found: dict[str, dict[str, grid.Run]] = {file: {} for file in configs}
  for file, runs in found.items():
    for value in values:
      first = next(iter(runs.values()), None)
      encoder = first.workdir if first and grid.pretrains(file, size, settings) and key.startswith('finetune.') else ''
      tried = f'{out}/{value}'
      chosen = {file: grid.Choice((f'{key}={value}', 'evaluation.test=False'), encoder)}
      (run,) = grid.plan([file], size, [seed], [fraction], tried, settings, chosen)
      runs[value] = run._replace(name=f'{run.name}_{value}', depends_on=first.name if first and encoder else '')
  return found


def choose_best(
  file: str, size: str, settings: Sequence[str], key: str, runs: Mapping[str, grid.Run]
) -> grid.Choice | None:
  """The candidate (of value -> Run) with the best validation score; None if none finished."""
  scores = {value: validation_score(run) for value, run in runs.items() if run.finished}
  if not scores:
    return None
  best = max(scores, key=lambda value: scores[value])
  pretrained = runs[best] if not key.startswith('finetune.') else next(iter(runs.values()))
  setting = f'{key}={best}'
  return grid.Choice((setting,), pretrained.workdir if grid.pretrains(file, size, [*settings, setting]) else '')


def validation_score(run: grid.Run) -> float:
  """Class-weighted IoU on validation of the step that fine-tuning kept; of scenes, which have none, minus the loss.

  Of a cross-validation, the mean over its folds.
  """
  about = json.loads(pathlib.Path(run.workdir, 'experiment.json').read_text())
  best = about['cross_validation']['mean'] if 'cross_validation' in about else about['stages']['finetune']['best']
  return best.get('weighted_iou', -best['loss'])


def write(
  tried: Mapping[str, Mapping[str, grid.Run]], size: str, settings: Sequence[str], choose: str, path: pathlib.Path
) -> dict[str, grid.Choice]:
  """Notes what each config takes, and keeps what an earlier call noted: its runs were begun with that."""
  key, _ = grid.parse_setting(choose)
  notes = json.loads(path.read_text()) if path.exists() else {}
  for file, runs in tried.items():
    choice = choose_best(file, size, settings, key, runs)
    if choice and file in notes and choice.settings != tuple(notes[file]['settings']):
      print(
        f'{file}: keeps {notes[file]["settings"][0]}, with which its runs were begun; {choice.settings[0]}, tried '
        'later, is better on validation. Another --out takes it.'
      )
    if choice and file not in notes:
      scores = {value: validation_score(run) for value, run in runs.items() if run.finished}
      notes[file] = {**choice._asdict(), 'validation': scores}
      print(f'{file}: {choice.settings[0]}, of {", ".join(f"{v} ({iou:.3f})" for v, iou in scores.items())}')
  provenance.write_json(path, notes)
  return {file: grid.Choice(tuple(notes[file]['settings']), notes[file]['encoder']) for file in tried if file in notes}

"""What a run was: where its data come from, its code, its size, its speed, and how to do it again."""

import dataclasses
import importlib
import inspect
import json
import pathlib
import shlex
from collections.abc import Sequence
from typing import Any

import numpy as np

from deepsentinel.data import stores
from deepsentinel.report.runs import STAGES, Run, flatten

_SYNTHETIC = 'Results on SyntheticEarth, a simulated world: they say nothing about real imagery.'


def banner(runs: list[Run]) -> tuple[str, str]:
  """(kind, sentence) on where the pixels come from; kind is 'synthetic', 'real' or 'unknown'."""
  names = ', '.join(dict.fromkeys(run.data for run in runs if run.data)) or 'an unnamed record set'
  said = {run.synthetic for run in runs if run.synthetic is not None}
  if said == {True}:
    return 'synthetic', _SYNTHETIC
  if said == {False}:
    return 'real', f'Results on {names}: real Sentinel-1 and Sentinel-2 data.'
  if said:
    simulated = ', '.join(run.name for run in runs if run.synthetic)
    return (
      'synthetic',
      f'Some of these runs ({simulated}) are on SyntheticEarth, a simulated world; the others are not.',
    )
  return 'unknown', f'Results on {names}; the runs do not say whether it is real or simulated.'


def nodata_share(runs: list[Run]) -> float | None:
  """Share of test pixels without a label, which no score counts; None where no run says."""
  return next((run.test['nodata_share'] for run in runs if run.test and run.test.get('nodata_share') is not None), None)


@dataclasses.dataclass(frozen=True)
class Facts:
  """What is known of the runs.

  Attributes:
    shared: (name, value) of what all of them have alike; () where each is shown by itself.
    heads: of the columns of `rows`, without the first.
    rows: (name, values): a fact per row and a run per column or, for many runs, the other way round.
  """

  shared: tuple[tuple[str, str], ...]
  heads: tuple[str, ...]
  rows: tuple[tuple[str, tuple[str, ...]], ...]


def table(runs: list[Run], by_run: bool) -> Facts:
  """Everything known about the runs, the most asked first; what no run has is left out.

  Args:
    runs: all, unfinished ones included.
    by_run: a row per run, for many, after what they have in common.
  """
  asked = [_known(run) for run in runs]
  found = [{**known, **_rest(run)} for known, run in zip(asked, runs, strict=True)]
  names = list(dict.fromkeys(name for facts in (*asked, *found) for name in facts))
  columns = {name: tuple(fact.get(name, '–') for fact in found) for name in names}
  run_names = tuple(run.name for run in runs)
  if not by_run:
    return Facts((), run_names, tuple(columns.items()))
  values = {name: {v for v in column if v != '–'} for name, column in columns.items()}
  shared = tuple((name, next(iter(values[name]))) for name in names if len(values[name]) == 1)
  own = [name for name in names if len(values[name]) > 1 and name != 'directory']
  return Facts(shared, tuple(own), tuple(zip(run_names, zip(*(columns[n] for n in own), strict=True), strict=True)))


def _known(run: Run) -> dict[str, str]:
  facts = {
    'directory': str(run.path),
    'status': run.problem or 'finished',
    'git commit': str(run.experiment.get('git_commit') or ''),
    'seed': str(run.config.get('seed', '')),
    'encoder': run.encoder,
    'parameters': _listed(run.experiment.get('parameters')),
    'pretraining': run.label if run.objective else '',
    'share of the labels': f'{100 * run.label_fraction:g} %',
    'labelled records': run.data,
    'unlabelled records': _unlabelled(run),
    'bands': _bands(run),
    'devices': _listed(run.experiment.get('devices')),
  }
  for stage in STAGES:
    frame = run.metrics.get(stage)
    if frame is None or not len(frame):
      continue
    steps, batch = int(frame['step'].max()), run.config.get(f'{stage}.batch_size')
    facts[f'{stage} steps'] = f'{steps:,}' + (f' of {batch} patches' if batch else '')
    speed = frame[frame['name'].str.contains('per_s')].groupby('name')['value'].median()
    for name, value in speed.items():
      facts[f'{stage} {str(name).replace("_per_s", " per second")}'] = f'{value:,.1f}'
  versions = run.experiment.get('versions')
  if isinstance(versions, dict):
    facts['versions'] = ', '.join(f'{name} {version}' for name, version in versions.items())
  return {name: value for name, value in facts.items() if value}


def _unlabelled(run: Run) -> str:
  """What pretraining read, and what was kept from it."""
  about = run.record_set('pretrain')
  if not about:
    return str(run.config.get('data.unlabelled', '')) if run.objective not in ('', 'none') else ''
  text = f'{about.get("name", "")}, {about.get("patches", 0):,} patches'
  if 'excluded_near_heldout' in about and run.config.get('pretrain.exclude_heldout', True):
    near = (
      f'within {about["exclude_km"]} km of validation and test' if 'exclude_km' in about else 'near held-out patches'
    )
    return f'{text}; {about["excluded_near_heldout"]:,} left out {near}'
  return f'{text}; none left out, so places of validation and test may be among them'


def _listed(value: Any) -> str:
  """'encoder 11,211,008, header 2,266,631' of such a dict; a plain value as it is."""
  if isinstance(value, dict):
    return ', '.join(
      f'{name} {count:,}' if isinstance(count, int) else f'{name} {count}' for name, count in value.items()
    )
  return f'{value:,}' if isinstance(value, int) else str(value or '')


def _bands(run: Run) -> str:
  spec = run.experiment.get('spec')
  if not isinstance(spec, dict) or 'bands' not in spec:
    return ''
  shown = run.experiment.get('shown_bands')
  only = f'; fine-tuned and tested on {" ".join(shown)} alone' if shown else ''
  return (
    f'{" ".join(spec["bands"])} (Sentinel-2 {spec.get("s2_level", "?")}, radar {spec.get("s1_quantity", "?")}){only}'
  )


def _rest(run: Run) -> dict[str, str]:
  """The stages' own facts, whatever the training loop wrote, but for what `_known` says already."""
  stages = run.experiment.get('stages')
  found = {}
  for name, value in flatten(stages if isinstance(stages, dict) else {}).items():
    leaf = name.rpartition('.')[2]
    if leaf in ('status', 'steps', 'batch_size') or '.parameters.' in name:
      continue
    if leaf == 'sha256':
      found[_words(name)] = str(value)[:16]
    elif leaf == 'seconds' and isinstance(value, (int, float)):
      found[_words(name.replace('seconds', 'time'))] = f'{value:,.0f} s'
    elif isinstance(value, bool):
      found[_words(name)] = 'yes' if value else 'no'
    elif isinstance(value, float) and np.isfinite(value):
      found[_words(name)] = f'{value:,.4g}' if abs(value) < 1e4 else f'{value:,.0f}'
    elif isinstance(value, (str, int)) and value != '' and len(str(value)) <= 120:
      found[_words(name)] = f'{value:,}' if isinstance(value, int) else value
  return found


def _words(name: str) -> str:
  return name.replace('.', ' ').replace('_', ' ')


def realised_neighbours(run: Run) -> dict[str, float]:
  """What Tile2Vec's law of drawing amounted to, as the run recorded it (NeighbourSampler.realised); {} if nowhere."""
  for name, value in flatten(run.experiment).items():
    head, _, leaf = name.rpartition('.')
    if leaf == 'mean_km' and isinstance(value, (int, float)):
      prefix = f'{head}.' if head else ''
      flat = flatten(run.experiment)
      keys = ('mean_km', 'same_acquisition', 'without_neighbour', 'mean_neighbours')
      return {k: flat[prefix + k] for k in keys if isinstance(flat.get(prefix + k), (int, float))}
  return {}


def commands(runs: list[Run], given: Sequence[str], embedding: pathlib.Path | None) -> list[str]:
  """Shell commands that make this report again: code, records, runs (a grid by its one command), report.

  Args:
    runs: all that were read.
    given: the paths that the report was asked for: runs or folders of them.
    embedding: folder of the embedding map.
  """
  lines = []
  commits = {str(run.experiment['git_commit']) for run in runs if run.experiment.get('git_commit')}
  if len(commits) == 1:
    commit, changes, _ = commits.pop().partition('+')
    lines.append(f'git checkout {commit}' + ('  # and the uncommitted changes it had' if changes else ''))
  lines += dict.fromkeys(command for run in runs for command in _record_commands(run))
  grids = {folder: command for folder in given if (command := _grid_command(pathlib.Path(folder)))}
  lines += grids.values()
  inside = [pathlib.Path(folder) / 'runs' for folder in grids]
  lines += [command for run in runs if run.path.parent not in inside and (command := _run_command(run))]
  report = ['python', '-m', 'deepsentinel.report', *given, '--out=report.html']
  lines.append(shlex.join([*report, *([f'--embedding={embedding}'] if embedding else [])]))
  return lines


def _grid_command(folder: pathlib.Path) -> str:
  """The command of launch/grid.py whose plan lies in the folder; '' where there is none to be read."""
  try:
    given = [[part.partition('=')[::2] for part in run['command'] if part.startswith('--config')]
             for run in json.loads((folder / 'grid.json').read_text())]  # fmt: skip
  except (OSError, ValueError, TypeError, KeyError, AttributeError):
    return ''
  values: dict[str, dict[str, None]] = {}
  for key, value in (pair for run in given for pair in run):
    values.setdefault(key.removeprefix('--config').removeprefix('.'), {})[value] = None
  files = [value.partition(':') for value in values.pop('', {})]
  values.pop('pretrain.from_checkpoint', None)
  command = ['python', 'launch/grid.py', f'--configs={",".join(dict.fromkeys(file for file, _, _ in files))}']
  command += [f'--size={size}' for size in dict.fromkeys(size for _, _, size in files) if size]
  for key, flag in (('seed', 'seeds'), ('finetune.label_fraction', 'fractions')):
    command += [f'--{flag}={",".join(values.pop(key))}'] if key in values else []
  if chosen := _chosen(folder):
    values.pop(chosen[0], None)
    command.append(f'--choose={chosen[0]}={",".join(chosen[1])}')
  command += [f'--set={key}={value}' for key, several in values.items() for value in several]
  return shlex.join([*command, f'--out={folder}'])


def _chosen(folder: pathlib.Path) -> tuple[str, list[str]] | None:
  """The key whose value `--choose` found for each config of a grid, and the values that it tried; None without."""
  try:
    notes = list(json.loads((folder / 'choice.json').read_text()).values())
    tried = dict.fromkeys(value for note in notes for value in note['validation'])
    return notes[0]['settings'][0].partition('=')[0], list(tried)
  except (OSError, ValueError, TypeError, KeyError, AttributeError, IndexError):
    return None


def _record_commands(run: Run) -> list[str]:
  """Commands that sample and package the records a run read; read from where they lay: .../BUILDER/CONFIG/VERSION.

  Records at a URL need none: the command of the run names it.
  """
  lines: list[str] = []
  for about in record_sets(run):
    parts = pathlib.PurePath(str(about.get('directory', ''))).parts
    if stores.is_url(about.get('directory', '')) or len(parts) < 3 or not parts[-3].startswith('deepsentinel_'):
      continue
    builder, config, name = parts[-3], parts[-2], str(about.get('name', ''))
    build = ['tfds', 'build', f'tfds_builders/{builder}', f'--config={config}']
    if config != 'demo' and name:  # the demo samples its own corpus
      out = f'corpora/{name}'
      lines.append(_corpus_command(name, out, _corpus_settings(str(about['directory'])), run.synthetic))
      build += [f'--manual_dir={out}'] if config == 'custom' else []
    if data_dir := run.config.get('data.data_dir'):
      build.append(f'--data_dir={data_dir}')
    lines.append(shlex.join(build))
  return lines


def _corpus_settings(directory: str) -> dict[str, Any]:
  """The flat settings that a record set's corpus was sampled with, by its card; {} where that is not at hand."""
  from deepsentinel.data import records

  try:
    return flatten(records.card(directory)['config'])
  except (OSError, ValueError, TypeError, KeyError, AttributeError):
    return {}


def _corpus_command(name: str, out: str, own: dict[str, Any], synthetic: bool | None) -> str:
  """The command that samples a corpus; a comment where no flags make the file of its name what it was sampled with.

  Args:
    name: of the corpus.
    out: folder to sample into.
    own: flat settings that it was sampled with; {} where they are not known.
    synthetic: whether its pixels are computed; None where the run does not say.
  """
  path, known = f'configs/corpora/{name}.py', _corpus_files(name)
  if own:
    found = {suffix: changed for suffix, file in known.items() if (changed := _corpus_changes(own, file)) is not None}
  else:
    right = known and not (synthetic is False and known[''].get('source.name') == 'synthetic')
    found = {'': {}} if right else {}
  suffix = min(found, key=lambda suffix: len(found[suffix]), default='')
  values = {key: str(value) for key, value in found.get(suffix, {}).items()}
  flags = [f'--config.{key}={stores.plain(value) if stores.is_url(value) else value}' for key, value in values.items()]
  command = shlex.join(['python', '-m', 'deepsentinel.corpus', f'--config={path}{suffix}', *flags, f'--out={out}'])
  if found:
    return command
  source = own.get('source.name') or ('a platform of real imagery' if synthetic is False else 'a source not known here')
  return f'# {command}  # with other settings than this file has, from {source}'


def _corpus_files(name: str) -> dict[str, dict[str, Any]]:
  """Flat settings of a corpus's config file by what follows its name: '' or ':PLATFORM'; {} where there is no file."""
  if not name.isidentifier():
    return {}
  try:
    module = importlib.import_module(f'configs.corpora.{name}')
  except ImportError:
    return {}
  made = {'': module.get_config()}
  if 'platform' in inspect.signature(module.get_config).parameters:
    from configs.corpora import common

    made |= {f':{platform}': module.get_config(platform) for platform in common.PLATFORMS}
  return {suffix: flatten(json.loads(config.to_json_best_effort())) for suffix, config in made.items()}


def _corpus_changes(own: dict[str, Any], file: dict[str, Any]) -> dict[str, Any] | None:
  """What flags have to change in a file's settings; None where they cannot: keys it lacks, a list, another source."""
  lacking = set(own) - set(file) or {key for key in set(file) - set(own) if key.startswith('source.')}
  if lacking or own.get('source.name') != file.get('source.name'):
    return None
  changed = {key: value for key, value in own.items() if key != 'workers' and value != file[key]}
  return changed if all(isinstance(value, str | int | float) for value in changed.values()) else None


def record_sets(run: Run) -> list[dict[str, Any]]:
  """The record sets a run read, as it recorded them: {'directory', 'name', ...}, pretraining's first."""
  return [about for use in ('pretrain', 'train', 'validation', 'test') if (about := run.record_set(use))]


def _run_command(run: Run) -> str:
  """The command of a run: its config file by name, and every setting in which the run differs from that file."""
  name = run.config.get('name')
  if not name:
    return ''
  path, standard = _config_file(str(name), str(run.config.get('size', '')))
  command = ['python', '-m', 'deepsentinel.main', f'--config={path}', f'--workdir={run.path}']
  if standard is not None:
    changed = {key: value for key, value in run.config.items() if key in standard and standard[key] != value}
    command += [f'--config.{key}={value}' for key, value in changed.items()]
  return shlex.join(command)


def _config_file(name: str, size: str) -> tuple[str, dict[str, Any] | None]:
  """(the config file of that name, with ':SIZE' where it takes one; its flat settings, None where there is none)."""
  for folder in ('configs', 'configs.variants') if name.isidentifier() else ():
    try:
      module = importlib.import_module(f'{folder}.{name}')
    except ImportError:
      continue
    path = f'{folder.replace(".", "/")}/{name}.py'
    sized = 'size' in inspect.signature(module.get_config).parameters and size not in ('', 'paper')
    config = module.get_config(size) if sized else module.get_config()
    # As the run's own: what JSON makes of it.
    return f'{path}:{size}' if sized else path, flatten(json.loads(config.to_json_best_effort()))
  return f'configs/{name}.py', None

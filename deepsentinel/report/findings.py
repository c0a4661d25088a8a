"""What a grid of runs shows, in sentences: which pretraining helps where, which hurts, and what is not decided."""

import collections
from collections.abc import Sequence

import numpy as np

from deepsentinel.report import methods, tables
from deepsentinel.report.methods import Estimate, Grid, Key
from deepsentinel.report.runs import Run

METRIC = 'weighted_iou'
Gains = dict[Key, Estimate]


def verdict(grid: Grid, runs: Sequence[Run]) -> tables.Verdict:
  """Headline and sentences on the gains over no pretraining, paired over seeds; then the best, and the baselines."""
  gains = {key: gain for key in grid.runs if not grid.is_control(key) and (gain := grid.gain(key, METRIC))}
  test = next(iter(next(iter(grid.runs.values())).values())).test
  patches = tables.counted(int(test.get('test_patches', 0)), 'test patch', 'test patches')
  best = _best(grid, patches)
  if gains:
    by = [*_by_objective(gains), *_by_encoder(grid, gains), *_places(gains)]
    headline, sentences = _headline(gains), [*_controls(grid, gains), *by, *_more_than_pretraining(grid, gains), best]
  else:
    headline, sentences = best, ['What pretraining adds cannot be said: no run has its like without pretraining.']
  if len({tuple(seeds) for seeds in grid.runs.values()}) > 1:
    sentences.append('Not every method has every seed, so their means are not over the same seeds; the gains are.')
  sentences += [*_no_places(grid), *_baselines(grid)]
  seen = max((run.test.get('also_trained_on', 0) for run in runs if run.test), default=0)
  if seen:
    sentences.append(f'{seen} of {patches} stood in the training split too: the score shows only that the chain runs.')
  return tables.Verdict(headline, (*sentences, *_missing(runs)))


def _headline(gains: Gains) -> str:
  if all(gain.half_width is None for gain in gains.values()):
    low, high = (f(gain.mean for gain in gains.values()) for f in (min, max))
    between = f'by {_points(low)}' if len(gains) == 1 else f'by {_points(low)} to {_points(high)}'
    return (
      f'One seed decides nothing: pretraining moves class-weighted IoU {between} points, and without a second seed '
      'nobody knows how much of that is chance.'
    )
  count = collections.Counter(gain.verdict for gain in gains.values())
  seeds = sorted({gain.seeds for gain in gains.values()})
  over = f'{seeds[0]} seeds' if len(seeds) == 1 else f'{seeds[0]} to {seeds[-1]} seeds'
  if count['undecided'] == len(gains):
    which = f'none of {len(gains)} comparisons differs' if len(gains) > 1 else 'it does not differ'
    return f'Whether pretraining helps is undecided: {which} from no pretraining by more than the interval over {over}.'
  rest = f'{_is_are(count["undecided"])} undecided' if count['undecided'] else 'none is undecided'
  return (
    f'Pretraining helps in {count["helps"]} of {len(gains)} comparisons by more than the interval over {over}, '
    f'hurts in {count["hurts"] or "none"}, and {rest}.'
  )


def _by_objective(gains: Gains) -> list[str]:
  """'Tile2Vec helps in 7 of 9 and hurts in none; ...', and what chance would do."""
  if not any(gain.decided for gain in gains.values()):
    return []  # the headline says it all
  by: dict[str, list[Estimate]] = {}
  for key, gain in gains.items():
    by.setdefault(key.objective, []).append(gain)
  parts = []
  for objective in sorted(by, key=lambda o: -sum(g.verdict == 'helps' for g in by[o])):
    count = collections.Counter(gain.verdict for gain in by[objective])
    hurts = f', hurts in {count["hurts"]}' if count['hurts'] else ''
    parts.append(
      f'{methods.objective_name(objective)} helps in {count["helps"] or "none"} of {len(by[objective])}{hurts}'
    )
  sentence = tables.capital('; '.join(parts)) + '.'
  if len(gains) >= 10:
    sentence += f' Of {len(gains)} comparisons at 95 %, about {0.05 * len(gains):.1f} look decided by chance alone.'
  return [sentence]


def _by_encoder(grid: Grid, gains: Gains) -> list[str]:
  """A sentence per label fraction and encoder."""
  several = len({key.target for key in grid.runs}) > 1
  sentences = []
  for where in grid.slices:
    for encoder in grid.encoders(*where):
      found: dict[str, list[str]] = {}
      for objective in grid.objectives(*where):
        gain = gains.get(Key(*where, objective, encoder))
        if gain:
          word = gain.verdict if gain.half_width is not None else 'one seed'
          found.setdefault(word, []).append(f'{methods.objective_name(objective)} ({gain.text(signed=True)})')
      if found:
        place = where.title if several else methods.fraction_words(where.fraction)
        sentences.append(f'{methods.encoder_name(encoder)}, {place}: {_sides(found)}.')
  return sentences


def _controls(grid: Grid, gains: Gains) -> list[str]:
  """What a variant of no pretraining reaches beside the best pretraining of the same encoder and labels."""
  sentences = []
  for key in filter(grid.is_control, grid.runs):
    pretrained = [other for other in gains if other[:2] == key[:2] and other.encoder == key.encoder]
    if not pretrained:
      continue
    best = max(pretrained, key=lambda other: grid.score(other, METRIC).mean)
    margin = grid.difference(key, best, METRIC)
    over = f', {margin.text(signed=True)} over {methods.objective_name(best.objective)}' if margin else ''
    sentences.append(
      f'{tables.capital(method_name(key, " with "))}, {methods.fraction_words(key.fraction)}: '
      f'{grid.score(key, METRIC).text()} %{over}, the best pretraining there at '
      f'{grid.score(best, METRIC).text()} %.'
    )
    if margin and margin.decided and margin.mean > 0:
      sentences.append('So what pretraining gains there, the same arithmetic spent on the labels gains as well.')
  return sentences


def _more_than_pretraining(grid: Grid, gains: Gains) -> list[str]:
  """In what else the two runs of a pair differ, such as a learning rate that was chosen for each method."""
  found: dict[tuple[str, ...], dict[str, None]] = {}
  for key in gains:
    pairs = grid.pairs(key, key._replace(objective='none'))
    differing = sorted({name for a, b in pairs for name in tables.budget_difference(a.config, b.config)})
    if differing:
      found.setdefault(tuple(differing), {})[method_name(key, ' with ')] = None
  return [
    f'{tables.capital(" and ".join(names))} also {"differs" if len(names) == 1 else "differ"} from no pretraining in '
    f'{", ".join(differing)}: the gain is of both together.'
    for differing, names in found.items()
  ]


def _sides(found: dict[str, list[str]]) -> str:
  parts = []
  for word, plural in (('helps', 'help'), ('hurts', 'hurt'), ('undecided', ''), ('one seed', '')):
    if names := found.get(word):
      if plural:
        parts.append(f'{tables.listed(names)} {plural if len(names) > 1 else word}')
      else:
        parts.append(f'{word}: {tables.listed(names)}')
  return '; '.join(parts)


def _places(gains: Gains) -> list[str]:
  """Whether what the seeds decide also holds over places."""
  known = [gain.places for gain in gains.values() if gain.decided and gain.places]
  firm = sum(places.decided for places in known)
  which = f'all {firm}' if firm == len(known) > 1 else firm or 'none'
  text = f'Of {len(known)} decided over seeds, {which} also hold over other test places (block bootstrap).'
  return [text] if known else []


def _no_places(grid: Grid) -> list[str]:
  """How many methods have no interval over places, and why."""
  reasons = collections.Counter(s.no_places for key in grid.runs if (s := grid.score(key, METRIC)).no_places)
  if not reasons:
    return []
  more = f', and {tables.counted(len(reasons) - 1, "other reason")}' if len(reasons) > 1 else ''
  return [
    f'No interval over test places for {reasons.total()} of {len(grid.runs)} scores: {next(iter(reasons))}{more}.'
  ]


def _best(grid: Grid, patches: str) -> str:
  where = grid.slices[0]
  keys = [key for key in grid.runs if key[:2] == where]
  key = max(keys, key=lambda k: grid.score(k, METRIC).mean)
  score = grid.score(key, METRIC)
  seeds = f'mean of {score.seeds} seeds' if score.seeds > 1 else 'one seed'
  who, labels = method_name(key, ' with '), f'with {methods.fraction_words(where.fraction)}'
  reached = f'{score.text()} % class-weighted IoU'
  if len(keys) == 1:
    return f'{tables.capital(who)} reaches {reached} {labels} ({seeds}) on {patches}.'
  return f'Best of {len(keys)} methods {labels}: {who}, {reached} ({seeds}) on {patches}.'


def method_name(key: Key, between: str = ', ') -> str:
  """'Tile2Vec, ResNet18'."""
  return f'{methods.objective_name(key.objective)}{between}{methods.encoder_name(key.encoder)}'


def _baselines(grid: Grid) -> list[str]:
  """How many methods beat each baseline, at the largest label fraction."""
  where = grid.slices[0]
  means = [grid.score(key, METRIC).mean for key in grid.runs if key[:2] == where]
  sentences = []
  for name, label in tables.BASELINES.items():
    values = [value for value in grid.baseline(where, name) if value is not None]
    if values:
      score = float(np.mean(values))
      better = sum(mean - score >= tables.TIE for mean in means)
      how_many = 'all' if better == len(means) > 1 else better or 'none'
      beat = f'{how_many} of {tables.counted(len(means), "method")} {"beats" if better == 1 else "beat"} it'
      sentences.append(f'The {label} reaches {tables.percent(score)} %: {beat}.')
  return sentences


def _missing(runs: Sequence[Run]) -> list[str]:
  unfinished = [run for run in runs if run.problem]
  if not unfinished:
    return []
  names = '; named below' if len(unfinished) > 3 else ': ' + '; '.join(f'{r.name}: {r.problem}' for r in unfinished)
  return [f'{len(unfinished)} of {len(runs)} runs {"has" if len(unfinished) == 1 else "have"} no test result{names}.']


def _points(gain: float) -> str:
  return f'{100 * gain:+.1f}'.replace('-', '−')


def _is_are(count: int) -> str:
  return f'{count} {"is" if count == 1 else "are"}'

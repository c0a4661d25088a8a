"""Sections of the model card that say how the encoder did under probes, and how the model does under cloud."""

import collections
import math
from collections.abc import Mapping, Sequence
from typing import Any

from deepsentinel.evaluation import comparison, robustness
from deepsentinel.export.evaluations import PICTURE, Evaluation

_WORLD = '**SyntheticEarth, a simulated world**, which says nothing about the Earth'
_HEADINGS = {
  'weighted_iou': 'weighted IoU', 'positive_iou': 'IoU of the class', 'macro_iou': 'macro IoU',
  'overall_accuracy': 'accuracy', 'macro_map': 'macro mAP', 'micro_map': 'micro mAP', 'macro_f1': 'macro F1',
  'micro_f1': 'micro F1',
}  # fmt: skip
_METHODS = {
  'embedding': '**this encoder**', 'random': 'the same network with random weights', 'bands': 'band statistics',
  'forest': 'random forest of pixels', 'majority': 'majority class',
}  # fmt: skip
_PROBES = {'linear': 'linear', 'knn': 'kNN'}
_VERDICTS = {True: 'holds', False: '**fails**', None: 'open'}


def sections(found: Sequence[Evaluation], sha256: str, target: str | None) -> list[str]:
  """The lines of both sections, each only where there is a result of it.

  Args:
    found: of `evaluations.read`; each has the checkpoint of these parameters.
    sha256: of the parameters.
    target: what the model predicts.
  """
  probes = [one for one in found if one.kind != 'clouds']
  lines = ['## What the frozen encoder knows', ''] if probes else []
  for one in probes:
    lines += _lists(one.about, one.own(sha256)) if one.kind == 'lists' else _probes(one.about, one.own(sha256))
  for one in found:
    lines += _clouds(one.about, one.own(sha256), target) if one.kind == 'clouds' else []
  return lines


def model_index(found: Sequence[Evaluation], sha256: str, target: str | None) -> list[dict[str, Any]]:
  """Results as the front matter has them: of the probes with all labels, and under every share of cloud.

  Args:
    found, sha256, target: as for `sections`.
  """
  results = []
  for one in found:
    if one.kind == 'clouds':
      results += _clouds_index(one.about, one.own(sha256), target)
    if one.kind in ('clouds', 'lists'):
      continue
    key, heading = _scores(one.about['rows'])[0]
    own = [row for row in _whole(one.about) if row['method'] == one.own(sha256)['name'] and row[key] is not None]
    metrics = [
      {'type': key, 'name': f'{heading}, {_PROBES[row["probe"]]} probe of {comparison.PLURAL[row["level"]]}',
       'value': round(float(row[key]), 4)} for row in own
    ]  # fmt: skip
    task = {'type': 'image-feature-extraction', 'name': 'probes of the frozen encoder'}
    results += [{'task': task, 'dataset': dataset(one.about), 'metrics': metrics}] if metrics else []
  return results


def dataset(about: Mapping[str, Any]) -> dict[str, str]:
  """The records that a result is of, as the front matter names them."""
  name = str(about['data']) + (' (SyntheticEarth, simulated)' if about['synthetic'] else '')
  return {'name': name, 'type': 'custom', 'split': 'test'}


def _clouds_index(about: Mapping[str, Any], own: Mapping[str, Any], target: str | None) -> list[dict[str, Any]]:
  """A result for each share of cloud: this model's weighted IoU of all pixels, a metric for each view."""
  number = [one['sha256'] for one in about['checkpoints']].index(own['sha256'])
  results = []
  for s, share in enumerate(about['shares']):
    metrics = [
      {'type': robustness.METRIC, 'name': f'{_HEADINGS[robustness.METRIC]} by {robustness.TITLES[view]}',
       'value': round(entries[s]['quality_of_models'][number], 4)}
      for view, entries in about['curves'][robustness.WHOLE].items()
    ]  # fmt: skip
    task = {'type': 'image-segmentation', 'name': f'{target or "land cover"} under cloud'}
    data = dataset(about) | {'config': f'{100 * share:g} % cloud', 'split': about['split']}
    results.append({'task': task, 'dataset': data, 'metrics': metrics})
  return results


def _scores(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
  """(key, heading) of the scores that rows hold; the first is what methods are compared by."""
  first = ['positive_iou'] if 'positive_iou' in rows[0] else []
  keys = [*first, *(key for key in _HEADINGS if key in rows[0] and key not in first)]
  return [(key, _HEADINGS[key]) for key in keys]


def _whole(about: Mapping[str, Any]) -> list[dict[str, Any]]:
  """The rows with the largest share of the labels."""
  return [row for row in about['rows'] if row['fraction'] == about['fractions'][-1]]


def _place(about: Mapping[str, Any]) -> str:
  return f'{about["data"]}, of {_WORLD}' if about['synthetic'] else str(about['data'])


def _number(value: float | None, digits: int = 3) -> str:
  return '–' if value is None or not math.isfinite(value) else f'{value:.{digits}f}'


def _probes(about: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
  rows = [row for row in about['rows'] if row['method'] in _shown(about, own)]
  counts, scores = about['patches'], _scores(rows)
  classes, most = len(about['classes']), f'{100 * about["fractions"][-1]:g} %'
  lines = [
    f'On {_place(about)}. {about["title"]}, {classes} classes: probes are fitted on {counts["train"]:,} patches, their '
    f'hyper-parameter is chosen on {counts["validation"]:,}, and {counts["test"]:,} test them (blocks: '
    f'{about["blocks"]:,}). The encoder stays as it is; a probe is a linear layer or the nearest neighbours (kNN). '
    f'Scores with {most} of the labels; in brackets a 95 % interval over the blocks, where there are enough.',
    '',
  ]
  for level in dict.fromkeys(row['level'] for row in rows):
    lines += [*_table([row for row in rows if row['level'] == level], about['fractions'], scores), '']
  lines += [f'With {most} of the labels, against the same probe of the others:', '']
  lines += [*_verdicts([row for row in _whole(about) if row in rows], own['name'], scores[0]), '']
  said = [_caveat(text, [m['name'] for m in about['methods']], own['name']) for text in about['caveats']]
  return [*lines, ' '.join(filter(None, said)), ''] if any(said) else lines


def _shown(about: Mapping[str, Any], own: Mapping[str, Any]) -> set[str]:
  """Names of the methods for the card: this encoder, its random twin where it can be told, and all baselines."""
  random = {m['name']: m.get('encoder') for m in about['methods'] if m['kind'] == 'random'}
  twins = {name for name, encoder in random.items() if encoder == own.get('encoder')} or set(random)
  others = {row['method'] for row in about['rows'] if row['kind'] not in ('embedding', 'random')}
  return {own['name'], *twins, *others}


def _table(rows: list[dict[str, Any]], fractions: Sequence[float], scores: Sequence[tuple[str, str]]) -> list[str]:
  """One level: a line for each method and probe, the best first."""
  (first, heading), *others = scores
  few = [f'{heading}, {100 * f:g} % of labels' for f in fractions[:-1]]
  names = [heading, *(name for _, name in others), *few]
  level = comparison.PLURAL[rows[0]['level']].capitalize()
  lines = [f'| {level} | probe | ' + ' | '.join(names) + ' |', '|---|---|' + '---|' * len(names)]
  by: dict[tuple[str, str], dict[float, Any]] = collections.defaultdict(dict)
  for row in rows:
    by[row['method'], row['probe']][row['fraction']] = row
  for same in sorted(by.values(), key=lambda same: -(same[fractions[-1]][first] or 0)):
    row = same[fractions[-1]]
    interval = (row.get('intervals') or {}).get(first)
    between = f' [{interval[0]:.3f}, {interval[1]:.3f}]' if interval else ''
    values = [_number(row[first]) + between, *(_number(row[key]) for key, _ in others)]
    values += [_number(same[f][first]) for f in fractions[:-1]]
    lines.append(f'| {_name(row)} | {_PROBES.get(row["probe"], "–")} | ' + ' | '.join(values) + ' |')
  return lines


def _verdicts(rows: Sequence[Mapping[str, Any]], own: str, score: tuple[str, str]) -> list[str]:
  """One item for each level and probe: which baselines the encoder does not beat, and how far it is from the best."""
  lines = []
  for row in (row for row in rows if row['method'] == own):
    rivals = [
      r for r in rows
      if r['kind'] != 'embedding' and r['level'] == row['level'] and r['probe'] in ('', row['probe'])
      and r[score[0]] is not None
    ]  # fmt: skip
    lines.append(f'- {_verdict(row, sorted(rivals, key=lambda r: -r[score[0]]), score)}')
  return lines


def _verdict(row: Mapping[str, Any], rivals: Sequence[Mapping[str, Any]], score: tuple[str, str]) -> str:
  """Compared by points, and with the best by the interval of the difference, where the evaluation measured one."""
  key, heading = score
  what = f'{comparison.PLURAL[row["level"]].capitalize()}, {_PROBES[row["probe"]]} probe'
  if row[key] is None or not rivals:
    return f'{what}: nothing to compare it with.'
  above = [r for r in rivals if r[key] >= row[key]]
  gain = row.get('gain') or {}
  difference = 100 * (row[key] - rivals[0][key])
  # The interval is of the comparison's own headline, and of the best baseline by it.
  paired = key == comparison.HEADLINE and gain.get('over') == rivals[0]['method']
  interval = gain['interval'] if paired else None
  between = f' [{100 * interval[0]:+.1f}, {100 * interval[1]:+.1f}]' if interval else ' (no interval)'
  best = f'{difference:+.1f} points of {heading}{between} against {_name(rivals[0])}, the best of them'
  if above:
    told = ', which does not tell them apart' if interval and interval[0] <= 0 <= interval[1] else ''
    return f'{what}: **does not beat {_joined([_name(r) for r in above])}** ({best}{told}).'
  if not interval or interval[0] <= 0:
    return f'{what}: above every baseline, but **not told apart from all of them** ({best}).'
  return f'{what}: **beats every baseline** ({best}).'


def _name(row: Mapping[str, Any]) -> str:
  return 'prevalence' if row['method'] == 'prevalence' else _METHODS[row['kind']]


def _joined(names: Sequence[str]) -> str:
  names = list(dict.fromkeys(names))
  return names[0] if len(names) == 1 else f'{", ".join(names[:-1])} or {names[-1]}'


def _caveat(text: str, methods: Sequence[str], own: str) -> str:
  """A caveat; one that is of some of several encoders names this one, or is left out."""
  head, _, tail = text.rstrip('.').rpartition(': ')
  names = tail.split(', ')
  if not set(names) <= set(methods):
    return text
  return f'{head}: this encoder.' if own in names else ''


def _lists(about: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
  """Of class lists: every patch by its nearest neighbours, leaving itself out."""
  mine = about['embeddings'][own['name']]
  keys = ('micro_f1', 'macro_f1', 'mean_average_precision')
  methods = {'**this encoder**': mine, 'band statistics': about['band_statistics'], 'prior': mine['prior']}
  above = [name for name, row in list(methods.items())[1:] if row['micro_f1'] >= mine['micro_f1']]
  lines = [
    f'On {_place(about)}: {about["patches"]:,} patches with lists of {len(about["classes"])} classes, each by its '
    'nearest neighbours, leaving itself out.',
    '',
    '| | micro F1 | macro F1 | mAP |',
    '|---|---|---|---|',
  ]
  lines += [f'| {name} | ' + ' | '.join(_number(row[key]) for key in keys) + ' |' for name, row in methods.items()]
  said = f'By micro F1 it **does not beat {_joined(above)}**.' if above else 'By micro F1 it is above both others.'
  return [*lines, '', f'{said} {about.get("caveat", "")}'.strip(), '']


def _clouds(about: Mapping[str, Any], own: Mapping[str, Any], target: str | None) -> list[str]:
  several = about['models'] > 1
  number = [one['sha256'] for one in about['checkpoints']].index(own['sha256'])
  seeds = [one.get('seed') for one in about['checkpoints']]
  differing = ' that differ in their seed' if len(set(seeds)) == len(seeds) and None not in seeds else ''
  mean = (
    f'Means of {about["models"]} checkpoints{differing}, of which this is one'
    + (f' (seed {seeds[number]} of {", ".join(map(str, seeds))})' if differing else '')
    + '; in brackets its own.'
    if several
    else 'Of this checkpoint alone, so nothing is known of how another seed would do.'
  )
  clear = about['curves'][robustness.WHOLE]['fused'][0]
  useless = ''
  if clear['quality'] <= clear['majority']:
    useless = ' **Even without a cloud it is no better than the majority class, so its skill says nothing.**'
  head = [f'{100 * share:g} % cloud' for share in about['shares']]
  lines = [
    '## Quality under cloud',
    '',
    f'{target or "Land cover"} of {about["patches"]:,} {about["split"]} patches in {about["blocks"]:,} blocks of '
    f'50 km, of {_place(about)}, rendered again under more and more cloud. Skill: 0 is a map of the majority class '
    f'({about["majority_class"]}) alone, which has a weighted IoU of {_number(clear["majority"])}; 1 is what both '
    f'sensors give without a cloud, {_number(clear["quality"])}. Masked: the model is told which pixels are cloud. '
    f'{mean}{useless}',
    '',
    '| Skill, all pixels | ' + ' | '.join(head) + ' |',
    '|---|' + '---|' * len(head),
  ]
  for view, entries in about['curves'][robustness.WHOLE].items():
    values = []
    for entry in entries:
      alone = entry['skill_of_models'][number] if several and entry['skill_of_models'] else None
      values.append(_number(entry['skill'], 2) + (f' ({_number(alone, 2)})' if several else ''))
    lines.append(f'| {robustness.TITLES[view]} | ' + ' | '.join(values) + ' |')
  world = ' of SyntheticEarth, a simulated world' if about['synthetic'] else ''
  lines += ['', _at_most(about['curves'][robustness.WHOLE], about['shares'])]
  lines += ['', f'![Skill against the cloud share of a patch{world}, by either sensor and by both]({PICTURE})', '']
  return [*lines, *_claims(about['checks'], about['models'])]


def _at_most(views: Mapping[str, Sequence[Mapping[str, Any]]], shares: Sequence[float]) -> str:
  """The skill of every view under the most cloud, with its interval."""
  said = []
  for view, entries in views.items():
    interval = entries[-1]['places']
    between = f' [{interval[0]:.2f}, {interval[1]:.2f}]' if interval else ''
    said.append(f'{robustness.TITLES[view]} {_number(entries[-1]["skill"], 2)}{between}')
  known = all(entries[-1]['places'] for entries in views.values())
  which = ', with its 95 % interval over places' if known else '; too few blocks for intervals over places'
  return f'Skill at {100 * shares[-1]:g} % cloud{which}: {"; ".join(said)}.'


def _claims(checks: Sequence[Mapping[str, Any]], models: int) -> list[str]:
  count = collections.Counter(check['holds'] for check in checks)
  parts = [f'{count[True]} hold', f'{count[False]} fail', f'{count[None]} are left open']
  of = f', means of the {models} checkpoints' if models > 1 else ''
  lines = [
    f'What a model that works under cloud must show: {len(checks)} claims, of which {", ".join(parts[:2])} and '
    f'{parts[2]}. Points are of weighted IoU{of}.',
    '',
    '| | claim | found |',
    '|---|---|---|',
  ]
  lines += [f'| {_VERDICTS[check["holds"]]} | {check["claim"]} | {check["found"]} |' for check in checks]
  return [*lines, '']

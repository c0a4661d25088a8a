"""What an evaluation leaves: a table on the terminal, evaluation.json, evaluation.csv and pictures."""

import csv
import io
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from deepsentinel import provenance
from deepsentinel.evaluate import run

# Scores of a row, by what its task scores: (key, heading).
_CLASS_SCORES = (('weighted_iou', 'weighted IoU'), ('macro_iou', 'macro IoU'), ('overall_accuracy', 'accuracy'))
_TAG_SCORES = (('macro_map', 'macro mAP'), ('micro_map', 'micro mAP'), ('macro_f1', 'macro F1'),
               ('micro_f1', 'micro F1'))  # fmt: skip
_DIAGNOSTICS = (
  ('effective_rank_patches', 'rank of patches'), ('effective_rank_cells', 'rank of cells'), ('dimensions', 'of'),
  ('alignment', 'alignment'), ('uniformity', 'uniformity'), ('dead_share', 'dead'),
)  # fmt: skip


def require_writable(out: pathlib.Path | None) -> None:
  """ValueError, before anything slow, where results cannot be written."""
  if out is None:
    return
  folder = out.parent if out.suffix == '.json' else out
  existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
  if (out.is_dir() and out.suffix == '.json') or not existing.is_dir() or not os.access(existing, os.W_OK):
    raise ValueError(f'--out={out} cannot be written: name a folder that you may write to, or a file ending in .json.')


def split_names(given: Sequence[str]) -> list[str]:
  """The names of a flag that may be repeated and hold several, with commas between them."""
  return [name for value in given for name in value.split(',') if name]


def deliver(evaluate: Callable[[], Mapping[str, Any]], out: str) -> None:
  """Evaluates, prints the table, and writes the results to `out` unless that is ''; it is looked at first."""
  path = pathlib.Path(out) if out else None
  require_writable(path)
  result = evaluate()
  print(table(result))
  if path is not None:
    print(write(result, path))


def scores_of(rows: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, str], ...]:
  """(key, heading) of the scores that rows hold."""
  if 'weighted_iou' not in rows[0]:
    return _TAG_SCORES
  return (*([('positive_iou', 'IoU of the class')] if 'positive_iou' in rows[0] else []), *_CLASS_SCORES)


def table(result: Mapping[str, Any]) -> str:
  """The result as text."""
  if result['kind'] == 'lists':
    return _lists(result)
  lines = [banner for banner in [run.synthetic_banner(result['synthetic'])] if banner]
  patches = ', '.join(f'{count} {split}' for split, count in result['patches'].items())
  lines.append(f'{result["data"]}: {result["title"]}, {len(result["classes"])} classes; patches: {patches}')
  for level in dict.fromkeys(row['level'] for row in result['rows']):
    lines += ['', *_level_table(result, level)]
  lines += ['', *_diagnostics(result['methods']), *(['', *result['verdicts']] if result['verdicts'] else [])]
  return '\n'.join([*lines, '', *result['caveats']])


def _level_table(result: Mapping[str, Any], level: str) -> list[str]:
  """A line for each method and probe: every score with all labels, the first one with each share of them."""
  own = [row for row in result['rows'] if row['level'] == level]
  (first, heading), *others = scores_of(own)
  shares = result['fractions']
  width = max(len(row['method']) for row in own) + 1
  few = [f'{100 * f:g} %' for f in shares[:-1]]
  head = [f'{level.upper():{width}} {"probe":7} {f"{heading}, {100 * shares[-1]:g} % of labels":>31}']
  lines = [''.join(head + [f' {name:>13}' for _, name in others] + [f' {text:>6}' for text in few])]
  whole = [row for row in own if row['fraction'] == shares[-1]]
  for row in sorted(whole, key=lambda r: (r['probe'] == 'knn', -(r[first] or 0))):
    same = {r['fraction']: r for r in own if (r['method'], r['probe']) == (row['method'], row['probe'])}
    text = f'{row["method"]:{width}} {row["probe"] or "-":7} {_score(row, first):>31}'
    text += ''.join(f' {_percent(row[key]):>13}' for key, _ in others)
    lines.append(text + ''.join(f' {_percent(same[f][first]):>6}' for f in shares[:-1]))
  return lines


def _percent(value: float | None) -> str:
  return '-' if value is None else f'{100 * value:.1f}'


def _score(row: Mapping[str, Any], key: str) -> str:
  if row[key] is None:
    return '-'
  interval = row['intervals'].get(key)
  between = f' [{100 * interval[0]:5.1f}, {100 * interval[1]:5.1f}]' if interval else ''
  return f'{100 * row[key]:5.1f}{between}'


def _diagnostics(methods: Sequence[Mapping[str, Any]]) -> list[str]:
  own = [m for m in methods if 'diagnostics' in m]
  if not own:
    return []
  width = max(len(m['name']) for m in own) + 1
  lines = ['Collapse of features on test: effective rank (Roy and Vetterli 2007), alignment of two cells of a patch, '
           'uniformity of cells (both Wang and Isola 2020), share of dead dimensions']  # fmt: skip
  lines.append(f'{"":{width}}' + ''.join(f' {heading:>15}' for _, heading in _DIAGNOSTICS))
  for method in own:
    values = [method['diagnostics'].get(key) for key, _ in _DIAGNOSTICS]
    lines.append(f'{method["name"]:{width}}' + ''.join(f' {"-" if v is None else f"{v:.3g}":>15}' for v in values))
  return lines


def _lists(scores: Mapping[str, Any]) -> str:
  """The scores of class lists, one row a method."""
  rows = [(name if len(scores['embeddings']) > 1 else 'embedding', row) for name, row in scores['embeddings'].items()]
  rows += [('band statistics', scores['band_statistics']), ('prior', scores['embedding']['prior'])]
  width = max(16, *(len(name) for name, _ in rows))
  lines = [f'{"":{width}} {"micro F1":>9} {"macro F1":>9} {"mAP":>9}']
  for name, row in rows:
    lines.append(f'{name:{width}} {row["micro_f1"]:9.3f} {row["macro_f1"]:9.3f} {row["mean_average_precision"]:9.3f}')
  where = 'SyntheticEarth, a simulated world' if scores['synthetic'] else 'real imagery'
  lines.append(f'{scores["patches"]} patches of {where}, {len(scores["classes"])} classes, leave one out')
  return '\n'.join([*lines, *([scores['caveat']] if scores['caveat'] else [])])


def as_csv(result: Mapping[str, Any]) -> str:
  """One line a row and score: level, method, kind, probe, fraction, train_patches, score, value, low, high, synthetic.

  Per-class values stand under 'iou: CLASS' or 'average_precision: CLASS'.
  """
  buffer = io.StringIO()
  writer = csv.writer(buffer, lineterminator='\n')
  head = ('level', 'method', 'kind', 'probe', 'fraction', 'train_patches')
  writer.writerow([*head, 'score', 'value', 'low', 'high', 'synthetic'])
  for row in result['rows']:
    first, last = [row[name] for name in head], [str(bool(result['synthetic'])).lower()]
    for key, _ in scores_of(result['rows']):
      low, high = row['intervals'].get(key) or ('', '')
      writer.writerow([*first, key, '' if row[key] is None else row[key], low, high, *last])
    per_class = 'iou' if 'iou' in row else 'average_precision'
    between = row.get('iou_intervals') or [None] * len(result['classes'])
    for name, value, interval in zip(result['classes'], row[per_class], between, strict=True):
      low, high = interval or ('', '')
      writer.writerow([*first, f'{per_class}: {name}', '' if value is None else value, low, high, *last])
  return buffer.getvalue()


def write(result: Mapping[str, Any], out: pathlib.Path) -> str:
  """Writes the results, each file whole or not at all; returns the sentence that names them."""
  if out.suffix == '.json':
    out.parent.mkdir(parents=True, exist_ok=True)
    provenance.write_json(out, result)
    return f'Written: {out}'
  out.mkdir(parents=True, exist_ok=True)
  provenance.write_json(out / 'evaluation.json', result)
  names = ['evaluation.json']
  if result['kind'] != 'lists':
    from deepsentinel.evaluate import charts

    files = {'evaluation.csv': as_csv(result).encode(), 'classes.png': charts.classes(result)}
    if len(result['fractions']) > 1:
      files['efficiency.png'] = charts.efficiency(result)
    for name, content in files.items():
      with provenance.whole(out / name) as file:
        file.write(content)
    names += files
  return f'Written to {out}: {", ".join(names)}'

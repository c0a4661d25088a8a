"""Pictures of an evaluation as PNG bytes: label efficiency, and the classes one by one."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from deepsentinel.evaluate import output, run
from deepsentinel.evaluation import comparison
from deepsentinel.report import figures

_BASELINES = {'random': ('#6B7280', ':'), 'bands': ('#1B2430', '--'), 'forest': ('#7A5230', '--'),
              'majority': ('#B8BEC8', '-')}  # fmt: skip
_PROBES = {'linear': 'linear probe', 'knn': 'nearest neighbours'}


def looks(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, str]]:
  """Method -> (colour, line style): embeddings in colours and solid, what they have to beat in greys and broken."""
  found: dict[str, tuple[str, str]] = {}
  for row in rows:
    if row['method'] in found:
      continue
    embeddings = sum(style == 'solid' for _, style in found.values())
    colour = figures.RUN_COLOURS[embeddings % len(figures.RUN_COLOURS)]
    found[row['method']] = (colour, 'solid') if row['kind'] == 'embedding' else _BASELINES[row['kind']]
  return found


def _header(figure, result: Mapping[str, Any], title: str) -> None:
  """Title, the data, and the banner of a simulated world or of few patches, above the panels."""
  import textwrap

  warnings = [run.synthetic_banner(result['synthetic']), *(c for c in result['caveats'] if 'patches rank' in c)]
  width = int(figure.get_size_inches()[0] * 13)
  text = textwrap.fill(' '.join(w for w in warnings if w), width)
  figure.suptitle(title + (f'\n{text}' if text else ''), x=0.01, ha='left', fontsize=10.5, color=figures.INK)


@figures.styled
def efficiency(result: Mapping[str, Any]) -> bytes:
  """Score over the share of the labels: a panel for each level and probe, intervals as bars."""
  rows, (score, heading) = result['rows'], output.scores_of(result['rows'])[0]
  levels = list(dict.fromkeys(row['level'] for row in rows))
  probes = list(dict.fromkeys(row['probe'] for row in rows if row['probe']))
  figure, axes = figures.canvas(4.4 * len(levels), 0.9 + 3.3 * len(probes), len(probes), len(levels), squeeze=False,
                                sharey='col', sharex=True)  # fmt: skip
  drawn = looks(rows)
  for (p, probe), (at, level) in ((a, b) for a in enumerate(probes) for b in enumerate(levels)):
    axis = axes[p][at]
    for number, (method, (colour, style)) in enumerate(drawn.items()):
      own = [r for r in rows if r['method'] == method and r['level'] == level and r['probe'] in ('', probe)]
      own = sorted((r for r in own if r[score] is not None), key=lambda r: r['fraction'])
      if not own:
        continue
      # Side by side, so that bars do not hide each other.
      x = np.array([r['fraction'] for r in own]) * 1.035 ** (number - (len(drawn) - 1) / 2)
      y = np.array([100 * r[score] for r in own])
      bars = np.array([r['intervals'].get(score) or [r[score], r[score]] for r in own]).T * 100
      spread = np.maximum([y - bars[0], bars[1] - y], 0)
      solid = style == 'solid'
      axis.errorbar(x, y, spread, color=colour, linestyle=style, linewidth=1.8 if solid else 1.3, marker='o',
                    markersize=4.5 if solid else 3, elinewidth=0.9, capsize=2, zorder=3 if solid else 2,
                    label=method if p == at == 0 else None)  # fmt: skip
    shares = result['fractions']
    axis.set_xscale('log')
    axis.set_xticks(shares, [f'{100 * f:g}' for f in shares])
    axis.minorticks_off()
    axis.set_xlim(shares[0] / 1.35, shares[-1] * 1.35)
    axis.set_title(f'{comparison.PLURAL[level]}, {_PROBES[probe]}')
    axis.set_xlabel('share of the labels, %' if p == len(probes) - 1 else '')
    axis.set_ylabel(f'{heading} on test, %' if at == 0 else '')
  figure.legend(loc='outside lower left', ncols=2 if len(levels) > 1 else 1, fontsize=8.5)
  _header(figure, result, f'{result["data"]}, {result["title"]}: what each share of the labels is worth')
  return figures.png(figure)


@figures.styled
def classes(result: Mapping[str, Any]) -> bytes:
  """The classes one by one, with all labels and the linear probe: a panel a level, a mark for each method."""
  rows = [r for r in result['rows'] if r['fraction'] == max(result['fractions']) and r['probe'] in ('', 'linear')]
  key = 'iou' if 'iou' in rows[0] else 'average_precision'
  levels = list(dict.fromkeys(row['level'] for row in rows))
  drawn = looks(rows)
  shown = [
    k for k in range(len(result['classes']))
    if any(r[key][k] is not None and r.get('reference_share', [1] * (k + 1))[k] for r in rows)
  ]  # fmt: skip
  height = 1.3 + 0.36 * len(shown) + 0.19 * len(drawn)
  figure, axes = figures.canvas(2.6 + 3.6 * len(levels), height, 1, len(levels), squeeze=False, sharey=True)
  for at, level in enumerate(levels):
    axis, own = axes[0][at], [r for r in rows if r['level'] == level]
    for number, (method, (colour, style)) in enumerate(drawn.items()):
      row = next((r for r in own if r['method'] == method), None)
      if row is None:
        continue
      offset = 0.5 * (number / max(1, len(drawn) - 1) - 0.5)
      y = [position + offset for position, k in enumerate(shown) if row[key][k] is not None]
      x = [100 * row[key][k] for k in shown if row[key][k] is not None]
      face = colour if style == 'solid' else 'white'
      between = [row.get('iou_intervals', {}) and row['iou_intervals'][k] for k in shown if row[key][k] is not None]
      for place, interval in zip(y, between, strict=True):
        if interval:
          axis.plot([100 * v for v in interval], [place, place], color=colour, linewidth=1, alpha=0.7, zorder=2)
      axis.scatter(x, y, s=34, c=face, edgecolors=colour, linewidths=1.4, marker='o' if style == 'solid' else 's',
                   label=method if at == 0 else None, zorder=3, clip_on=False)  # fmt: skip
    for position in range(1, len(shown)):
      axis.axhline(position - 0.5, color=figures.GRID, linewidth=0.8)
    names = [figures.short(result['classes'][k], 30) for k in shown]
    if at == 0 and 'reference_share' in own[0]:
      share = next(r for r in rows if r['level'] == levels[-1])['reference_share']
      names = [f'{name} ({100 * share[k]:.1f} %)' for name, k in zip(names, shown, strict=True)]
    if at == 0:
      axis.set_yticks(range(len(shown)), names, color=figures.INK)
    axis.set_ylim(len(shown) - 0.5, -0.5)
    axis.set_xlim(0, 100)
    axis.grid(axis='y', visible=False)
    axis.tick_params(axis='y', length=0)
    axis.set_xlabel('IoU on test, %' if key == 'iou' else 'average precision on test, %')
    axis.set_title(f'{comparison.PLURAL[level]}, linear probe')
  figure.legend(loc='outside lower left', ncols=2 if len(levels) > 1 else 1, fontsize=8.5)
  note = f' (share of test {comparison.PLURAL[levels[-1]]} in brackets)' if key == 'iou' else ''
  _header(figure, result, f'{result["data"]}, {result["title"]}: the classes one by one{note}')
  return figures.png(figure)

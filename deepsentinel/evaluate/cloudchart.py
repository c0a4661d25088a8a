"""The figure of `evaluate clouds`: skill against cloud cover, and how much of an embedding is left."""

import pathlib
from typing import Any

from deepsentinel import provenance
from deepsentinel.evaluation import robustness
from deepsentinel.report import figures

# Of a view: colour, dashed where the model is told which pixels are cloud.
_LINES = {
  's1': (figures.RUN_COLOURS[4], False),
  's2': (figures.RUN_COLOURS[0], False),
  's2_told': (figures.RUN_COLOURS[0], True),
  'fused': (figures.RUN_COLOURS[2], False),
  'fused_told': (figures.RUN_COLOURS[2], True),
}
_PANELS = {
  'all': 'Land cover, all pixels',
  'cloud': 'Land cover, pixels under cloud',
  'clear': 'Land cover, pixels under clear sky',
}


@figures.styled
def draw(path: pathlib.Path, result: dict[str, Any]) -> None:
  """Writes the figure as PNG; `result` is what robustness.json holds."""
  figure, axes = figures.canvas(9.6, 7.4, 2, 2)
  for axis, (part, title) in zip(axes.ravel(), _PANELS.items(), strict=False):
    bands = _skill(axis, result['curves'][part])
    axis.set_title(title)
    axis.set_ylabel('skill')
  left = axes.ravel()[3]
  for view, values in result['embedding_kept'].items():
    colour, dashed = _LINES[view]
    left.plot(result['shares'], values, color=colour, linestyle='--' if dashed else '-', marker='o', markersize=3.5)
  left.set_title('Embedding of the patch')
  left.set_ylabel('what is left of the clear one')
  for axis in axes.ravel():
    axis.set_xlim(-0.03, 1.03)
    axis.set_xlabel('cloud share of the patch')
    axis.axhline(0, color=figures.MUTED, linewidth=0.8)
    axis.axhline(1, color=figures.MUTED, linewidth=0.8, linestyle=':')
  lowest = min(axis.get_ylim()[0] for axis in axes.ravel())
  for axis in axes.ravel():
    axis.set_ylim(lowest, 1.12)
  handles, labels = axes[0, 0].get_legend_handles_labels()
  figure.legend(handles, labels, loc='outside lower center', ncols=3, fontsize=9)
  world = (
    'SyntheticEarth, a simulated world: not a statement about the Earth' if result['synthetic'] else result['data']
  )
  models = f'{result["models"]} checkpoint' + ('s' if result['models'] > 1 else '')
  seen = f'{result["patches"]} {result["split"]} patches, {models}'
  figure.suptitle(
    f'Quality against cloud cover. {world}\n{seen}. Skill: 0 the majority class, '
    f'1 both sensors without a cloud.{bands}',
    fontsize=9.5, x=0.012, ha='left', color=figures.INK,
  )  # fmt: skip
  with provenance.whole(path) as file:
    file.write(figures.png(figure))


def _skill(axis, views: dict[str, list[dict[str, Any]]]) -> str:
  """Draws a line a view; what its bands are, as a sentence, '' where there are none."""
  known = [entry for entries in views.values() for entry in entries if entry['skill'] is not None]
  # Of two seeds Student's interval says nothing.
  kind = 'seeds' if all(len(entry['skill_of_models']) > 2 for entry in known) else 'places'
  for view, entries in views.items():
    colour, dashed = _LINES[view]
    shown = [entry for entry in entries if entry['skill'] is not None]
    x = [entry['cloud_share'] for entry in shown]
    axis.plot(
      x, [entry['skill'] for entry in shown], color=colour, linestyle='--' if dashed else '-', marker='o',
      markersize=3.5, label=robustness.TITLES[view],
    )  # fmt: skip
    if shown and not dashed and all(entry[kind] for entry in shown):
      low, high = zip(*(entry[kind] for entry in shown), strict=True)
      axis.fill_between(x, low, high, color=colour, alpha=0.14, linewidth=0)
  if not known or not all(entry[kind] for entry in known):
    return ''
  what = "Student's 95 % interval over seeds" if kind == 'seeds' else 'bootstrap over 50 km blocks, 95 %'
  return f' Bands: {what}.'

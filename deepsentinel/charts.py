"""How every chart of ours looks: one style and one palette, by Matplotlib's Agg (no display needed)."""

import functools
import io

# Okabe and Ito's palette: told apart with any colour vision.
COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9')
INK, MUTED, GRID = '#1B2430', '#5B6675', '#E3E7ED'
_STYLE = {
  'font.size': 10,
  'axes.titlesize': 10.5,
  'axes.titleweight': 'bold',
  'axes.titlelocation': 'left',
  'axes.edgecolor': '#C4CBD5',
  'axes.labelcolor': MUTED,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.grid': True,
  'axes.axisbelow': True,
  'grid.color': GRID,
  'text.color': INK,
  'xtick.color': MUTED,
  'ytick.color': MUTED,
  'legend.frameon': False,
  'figure.facecolor': 'white',
}


def figure(width: float, height: float, rows: int = 1, cols: int = 1):
  """(figure, axes), inches; axes [rows, cols] where there are several. Without pyplot, which keeps every figure."""
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  made = Figure(figsize=(width, height), layout='constrained')
  FigureCanvasAgg(made)
  return made, made.subplots(rows, cols)


def png(figure) -> bytes:
  """The figure as the bytes of a PNG."""
  buffer = io.BytesIO()
  figure.savefig(buffer, format='png', dpi=150)
  return buffer.getvalue()


def styled(draw):
  """Draws under this style without touching Matplotlib's global settings."""

  @functools.wraps(draw)
  def wrapped(*args, **kwargs):
    import matplotlib

    with matplotlib.rc_context(_STYLE):
      return draw(*args, **kwargs)

  return wrapped

"""Tables and figures of one or more runs as one HTML page.

python -m deepsentinel.report RUN... --out=report.html [--embedding=DIR]
"""

import sys

from absl import app, flags

_OUT = flags.DEFINE_string('out', 'report.html', 'HTML file to write.')
_EMBEDDING = flags.DEFINE_string('embedding', '', 'Folder of an embedding map (with embedding.png) to show.')


def main(argv: list[str]) -> None:
  from deepsentinel.report import html

  try:
    path = html.write_report(argv[1:], _OUT.value, embedding=_EMBEDDING.value or None)
  except ValueError as error:
    sys.exit(f'error: {error}')
  print(f'{path} ({path.stat().st_size / 1e6:.1f} MB): open it in a browser; it needs nothing else.')


if __name__ == '__main__':
  app.run(main)

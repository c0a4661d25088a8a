"""Tables and figures of one or more runs as one HTML page.

python -m deepsentinel.report RUN... --out=report.html [--embedding=DIR]
"""

from absl import flags

from deepsentinel import commandline

_OUT = flags.DEFINE_string('out', 'report.html', 'HTML file to write.')
_EMBEDDING = flags.DEFINE_string('embedding', '', 'Folder of an embedding map (with embedding.png) to show.')


def main(runs: list[str]) -> None:
  from deepsentinel.report import html

  path = html.write_report(runs, _OUT.value, embedding=_EMBEDDING.value or None)
  print(f'{path} ({path.stat().st_size / 1e6:.1f} MB): open it in a browser; it needs nothing else.')


if __name__ == '__main__':
  commandline.run(main, arguments='RUN...')

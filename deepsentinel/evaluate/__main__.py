"""Evaluates frozen encoders; the first word says how, and each has its --help.

python -m deepsentinel.evaluate --checkpoint=RUN --data=...            probes on records of one's own (probe.py)
python -m deepsentinel.evaluate benchmark NAME --dir=DIR --checkpoint=RUN    published benchmarks (benchmark.py)
python -m deepsentinel.evaluate clouds --checkpoint=RUN --out=DIR      quality against cloud cover (clouds.py)
"""

import importlib
import sys

from absl import flags

from deepsentinel import commandline

# First word -> (module with its flags and `main`, its positional arguments). Without a word: probes.
COMMANDS = {
  'clouds': ('deepsentinel.evaluate.clouds', 'clouds'),
  'benchmark': ('deepsentinel.evaluate.benchmark', 'benchmark NAME'),
}
_PROBE = ('deepsentinel.evaluate.probe', '')

if __name__ == '__main__':
  _module, _arguments = COMMANDS.get(next(iter(sys.argv[1:]), ''), _PROBE)
  _command = importlib.import_module(_module)
  flags.adopt_module_key_flags(_command)  # so that --help shows them
  __doc__ = _command.__doc__ or ''
  commandline.run(_command.main, arguments=_arguments, words=list(COMMANDS), resumes=True)

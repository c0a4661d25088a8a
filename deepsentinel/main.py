"""One experiment: pretrain an encoder, fine-tune it on land cover, test it, write a report.

    python -m deepsentinel.main --config=configs/t2v_resnet18attn.py --workdir=runs/t2v_resnet18attn

Any value of the configuration can be given as a flag, e.g. --config.pretrain.batch_size=256. The same command resumes
a run that was interrupted, and says so when it is finished. Run it once per process on several hosts, with
--coordinator, --processes and --process (or --coordinator=auto under Slurm).
"""

import pathlib
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from deepsentinel.train import xla

_CONFIG = config_flags.DEFINE_config_file('config', None, 'File of the configuration.', lock_config=True)
_WORKDIR = flags.DEFINE_string('workdir', '', 'Directory of the experiment; default runs/NAME of the configuration.')
_COORDINATOR = flags.DEFINE_string('coordinator', '', "HOST:PORT of process 0 of several, or 'auto' under Slurm.")
_PROCESSES = flags.DEFINE_integer('processes', 0, 'Number of processes.', lower_bound=0)
_PROCESS = flags.DEFINE_integer('process', -1, 'Number of this process, from 0.')
_PROGRESS = flags.DEFINE_bool('progress', True, 'Show progress bars.')


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'Unexpected arguments {argv[1:]}; values are given as --config.key=value.')
  logging.set_verbosity(logging.WARNING)
  xla.prepare_backend()
  from deepsentinel import experiment
  from deepsentinel.train import parallel

  config = _CONFIG.value
  try:
    parallel.initialise(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    workdir = pathlib.Path(_WORKDIR.value or pathlib.Path('runs') / config.name)
    experiment.run(config, workdir, progress_bar=_PROGRESS.value)
  except ValueError as error:
    sys.exit(f'error: {error}')


def _parse_flags(argv: list[str]) -> list[str]:
  """A misspelt key or a value of the wrong type is one sentence, not a traceback."""
  try:
    return flags.FLAGS(argv)
  except (AttributeError, KeyError) as error:
    cause = error.args[0].args[0] if isinstance(error.args[0], KeyError) else error.args[0]
    cause = ': '.join(str(cause).split('\n'))
    sys.exit(f'error: unknown key of the configuration {cause} (configs/common.py lists every key)')
  except (flags.Error, TypeError, ValueError, OSError) as error:
    sys.exit(f'error: {error}')


if __name__ == '__main__':
  flags.mark_flag_as_required('config')
  app.run(main, flags_parser=_parse_flags)

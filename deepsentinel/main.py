"""One experiment: pretrain an encoder, fine-tune it on land cover, test it, write a report.

    python -m deepsentinel.main --config=configs/t2v_resnet18attn.py --workdir=runs/t2v_resnet18attn

Any value of the configuration can be given as a flag, e.g. --config.pretrain.batch_size=256. The same command resumes
a run that was interrupted, and says so when it is finished. Run it once per process on several hosts, with
--coordinator, --processes and --process (or --coordinator=auto under Slurm).
"""

import pathlib

from absl import flags
from ml_collections import config_flags

from deepsentinel import commandline
from deepsentinel.train import xla

_CONFIG = config_flags.DEFINE_config_file('config', None, 'File of the configuration.', lock_config=True)
_WORKDIR = flags.DEFINE_string('workdir', '', 'Directory of the experiment; default runs/NAME of the configuration.')
_COORDINATOR = flags.DEFINE_string('coordinator', '', "HOST:PORT of process 0 of several, or 'auto' under Slurm.")
_PROCESSES = flags.DEFINE_integer('processes', 0, 'Number of processes.', lower_bound=0)
_PROCESS = flags.DEFINE_integer('process', -1, 'Number of this process, from 0.')
_PROFILE = flags.DEFINE_bool('profile', False, "Write a JAX trace of a few steps to each stage's profile/.")
_PROGRESS = flags.DEFINE_bool('progress', True, 'Show progress bars.')


def main(_: list[str]) -> None:
  xla.prepare_backend()
  from deepsentinel import experiment
  from deepsentinel.train import parallel

  config = _CONFIG.value
  parallel.initialise(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
  parallel.require_devices()
  workdir = pathlib.Path(_WORKDIR.value or pathlib.Path('runs') / config.name)
  experiment.run(config, workdir, progress_bar=_PROGRESS.value, profile=_PROFILE.value)


if __name__ == '__main__':
  commandline.run(main, required=['config'], settings='configs/common.py', resumes=True)

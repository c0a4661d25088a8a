r"""Exports a checkpoint to share: weights for JAX and for PyTorch, the sensor contract, a model card, checksums.

    python -m deepsentinel.export --checkpoint=runs/quickstart --out=shared/quickstart

The folder takes the place of the run wherever a checkpoint is asked for, and so does its URL once it is copied to a web
server or a bucket:

    python -m deepsentinel.embed --checkpoint=https://example.org/quickstart#sha256=HEX ...

where HEX, if it is given, is what SHA256SUMS says of model.safetensors. What the evaluate commands found of this very
checkpoint goes into the model card with --evaluation=OUT,OUT: probes of the frozen encoder beside their baselines, and
quality under cloud. PyTorch needs the folder alone:
modeling_deepsentinel.py in it imports neither JAX nor DeepSentinel.
"""

import pathlib

from absl import flags

from deepsentinel import commandline

_CHECKPOINT = flags.DEFINE_string('checkpoint', None, 'run directory, or one of its stages', required=True)
_STAGE = flags.DEFINE_enum('stage', '', ['', 'pretrain', 'finetune'], 'whose model; default: the last there is')
_OUT = flags.DEFINE_string('out', None, 'the folder to share; its name is the name of the model', required=True)
_LICENCE = flags.DEFINE_string('licence', '', "of the weights, as Hugging Face names it, e.g. 'cc-by-4.0'")
_PYTORCH = flags.DEFINE_bool('pytorch', None, 'weights for PyTorch as well; default: where the encoder is known there')
_EVALUATION = flags.DEFINE_multi_string(
  'evaluation', [], 'folder or JSON that deepsentinel.evaluate wrote of this checkpoint; several with commas'
)


def main(_: list[str]) -> None:
  from deepsentinel.export import folder

  done = folder.export(
    _CHECKPOINT.value,
    pathlib.Path(_OUT.value),
    stage=_STAGE.value or None,
    licence=_LICENCE.value,
    pytorch=_PYTORCH.value,
    evaluation=[name for value in _EVALUATION.value for name in value.split(',') if name],
  )
  for note in done.notes:
    print(note)
  print(f'{done.folder}: {", ".join(done.files)}')
  print(f'weights: #sha256={done.sha256}')


if __name__ == '__main__':
  commandline.run(main, resumes=True)

r"""Prints the layers of a config's encoder and header: input, operation, output shape, parameters.

    python -m deepsentinel.describe --config=configs/t2v_resnet18attn.py

These are the tables 2 to 8 of the paper, read off the modules themselves. Shapes are NCHW as in the paper; the arrays
themselves are NHWC.
"""

from absl import flags
from ml_collections import config_flags

from deepsentinel import commandline

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'Experiment config, e.g. configs/t2v_resnet18attn.py.', lock_config=True
)
_CLASSES = flags.DEFINE_integer(
  'classes', 0, "Classes of the header; 0 takes the config's target, 7 is the paper's count.", lower_bound=0
)
_MARKDOWN = flags.DEFINE_boolean('markdown', False, 'Print Markdown.')


def main(_: list[str]) -> None:
  from deepsentinel import layertables

  print(layertables.describe(_CONFIG.value, classes=_CLASSES.value, markdown=_MARKDOWN.value))


if __name__ == '__main__':
  commandline.run(main, required=['config'], settings='configs/common.py')

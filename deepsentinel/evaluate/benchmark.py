"""Scores frozen encoders on a published benchmark with its published splits.

    python -m deepsentinel.evaluate benchmark NAME --dir=DIR --checkpoint=RUN --out=benchmarks/NAME

NAME: eurosat (multispectral, 10 classes), bigearthnet_v2 (lists of 19 classes, macro and micro mAP) or sen1floods11
(hand-labelled water, IoU of cells and of pixels). The data are yours to fetch; an error says where they are and how
they have to lie. The encoder stays frozen: linear and nearest-neighbour probes fitted on train, chosen on validation,
scored once on test, beside band statistics, the same network with random weights, and the majority.

EuroSAT and Sen1Floods11 are Sentinel-2 L1C. A checkpoint of L2A refuses them, unless --accept_level=L1C says that its
pixels are to be taken as they are; the result then says so. --bands=VV,VH leaves the other bands away.

--encoder=torchgeo:ResNet18_Weights.SENTINEL2_ALL_MOCO puts an encoder of torchgeo under the same probes (pip install
torchgeo), with its own order and scale of bands; torchgeo:resnet18 the same with random weights.
"""

import pathlib

from absl import flags

_DIR = flags.DEFINE_string('dir', None, 'folder of the benchmark', required=True)
_CHECKPOINT = flags.DEFINE_multi_string('checkpoint', [], 'run directory; several with commas, or repeated')
_ENCODER = flags.DEFINE_multi_string('encoder', [], 'an encoder of another project: torchgeo:WEIGHTS; may be repeated')
_STAGE = flags.DEFINE_enum('stage', 'pretrain', ['pretrain', 'finetune'], 'whose encoder')
_BANDS = flags.DEFINE_list('bands', [], 'bands to use; all that the benchmark has where empty')
_ACCEPT_LEVEL = flags.DEFINE_enum(
  'accept_level', '', ['', 'L1C', 'L2A'], 'take pixels of this level though a checkpoint was trained on the other',
  case_sensitive=False,
)  # fmt: skip
_LISTS = flags.DEFINE_string('lists', 'published', "of EuroSAT: 'published' splits, or 'spatial' ones by longitude")
_FRACTIONS = flags.DEFINE_list('fractions', ['1'], 'shares of the labels, above 0 up to 1')
_FOREST = flags.DEFINE_bool('forest', True, 'of Sen1Floods11: the per-pixel random forest beside the probes')
_SEED = flags.DEFINE_integer('seed', 0, 'of subsets of labels and of random encoders', lower_bound=0)
_OUT = flags.DEFINE_string('out', '', 'folder for the results, or a JSON file; printed in any case')
_PROGRESS = flags.DEFINE_bool('progress', True, 'show progress bars')


def main(arguments: list[str]) -> None:
  """benchmark NAME"""
  from deepsentinel.evaluate import output, run, standard

  if len(arguments) != 2:
    raise ValueError(f'benchmark wants one name, of {", ".join(standard.NAMES)}: `benchmark NAME --dir=DIR`.')
  request = standard.Request(
    name=arguments[1], directory=pathlib.Path(_DIR.value).expanduser(),
    checkpoints=output.split_names(_CHECKPOINT.value), encoders=_ENCODER.value,
    stage=_STAGE.value, bands=_BANDS.value, accept_level=_ACCEPT_LEVEL.value.upper(), lists=_LISTS.value,
    fractions=run.parse_fractions(_FRACTIONS.value), forest=_FOREST.value, seed=_SEED.value, progress=_PROGRESS.value,
  )  # fmt: skip
  output.deliver(lambda: standard.evaluate(request), _OUT.value)

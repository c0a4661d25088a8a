"""Probes frozen encoders with the labels of prepared records, beside what any claim must beat.

    python -m deepsentinel.evaluate --checkpoint=RUN,RUN --data=deepsentinel_labelled/demo --out=evaluation

Where records have label maps: linear and nearest-neighbour probes of patches and of cells of 16 x 16 pixels (a place
has the class of most of its labelled pixels), fitted on train, their hyper-parameter chosen on validation, scored once
on test; with 5, 10, 25 and 100 % of the labels, by nested subsets that are the same for every method. Beside them the
majority class, band statistics, a per-pixel random forest, and the same architecture with random weights. Intervals are
a bootstrap over spatial blocks of test patches. Works on a run that is still training too (its last checkpoint).

Where records have class lists only: every patch gets the classes that at least half of its k nearest neighbours have,
leaving itself out, over all --splits together; beside it the same of band statistics, and the prior.

Under --out: evaluation.json, evaluation.csv, efficiency.png, classes.png; or only the JSON, where --out ends in .json.
Features are kept in ~/.cache/deepsentinel (or $DEEPSENTINEL_CACHE), so the same command computes none again.
"""

from absl import flags

_CHECKPOINT = flags.DEFINE_multi_string(
  'checkpoint', None, 'run directory, or one of its stages; several separated by commas, or the flag repeated',
  required=True,
)  # fmt: skip
_DATA = flags.DEFINE_string('data', 'deepsentinel_labelled', 'prepared record set: a directory, or a name in data_dir')
_DATA_DIR = flags.DEFINE_string('data_dir', '', 'where prepared record sets lie; default TFDS_DATA_DIR')
_SPLITS = flags.DEFINE_list('splits', ['train', 'validation', 'test'], 'of class lists: splits to pool')
_STAGE = flags.DEFINE_enum('stage', 'pretrain', ['pretrain', 'finetune'], 'whose encoder')
_TARGET = flags.DEFINE_string('target', 'corine_level1', 'what to predict; as config.finetune.target')
_FRACTIONS = flags.DEFINE_list('fractions', ['0.05', '0.1', '0.25', '1'], 'shares of the labels, above 0 up to 1')
_CELLS = flags.DEFINE_integer('cells', 16, 'cells looked at of each patch, drawn; 0: all', lower_bound=0)
_FOREST = flags.DEFINE_bool('forest', True, 'the per-pixel random forest beside the probes')
_SEED = flags.DEFINE_integer('seed', 0, 'of the subsets of labels, the forest and the random encoder', lower_bound=0)
_K = flags.DEFINE_integer('k', 5, 'of class lists: neighbours', lower_bound=1)
_OUT = flags.DEFINE_string('out', '', 'folder for the results, or a JSON file; printed in any case')
_PROGRESS = flags.DEFINE_bool('progress', True, 'show progress bars')


def main(_: list[str]) -> None:
  from deepsentinel.evaluate import output, run

  request = run.Request(
    checkpoints=output.split_names(_CHECKPOINT.value),
    data=_DATA.value, data_dir=_DATA_DIR.value, splits=_SPLITS.value, stage=_STAGE.value, target=_TARGET.value,
    fractions=run.parse_fractions(_FRACTIONS.value), cells=_CELLS.value, forest=_FOREST.value, seed=_SEED.value,
    k=_K.value, progress=_PROGRESS.value,
  )  # fmt: skip
  output.deliver(lambda: run.evaluate(request), _OUT.value)

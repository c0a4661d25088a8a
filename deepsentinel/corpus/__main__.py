"""Samples a corpus: points on land, pairs of Sentinel-1 and Sentinel-2 scenes, patches, labels, splits.

python -m deepsentinel.corpus --config=configs/corpora/demo_labelled.py --out=corpora/demo_labelled

The same command goes on where a killed one stopped, fetches anew what is gone or damaged, and says so when nothing is
left to do. Any setting of the config can be given on the command line, e.g. --config.patches=20 --config.workers=4;
configs/corpora/common.py explains each. In the folder: manifest.parquet (GeoParquet, a row per patch),
patches/ID/{s2,s1,corine,osm,landcover}.tif, corpus.json, and for the eye corpus.html, points.png, samples.png.

python -m deepsentinel.corpus publish corpora/demo_labelled gs://BUCKET/demo_labelled

copies a corpus, or records that `tfds build` made, to a store on a network, with checksums and a card.
"""

import logging
import pathlib
import re
import shlex
import sys

from absl import flags
from ml_collections import config_flags

from deepsentinel import commandline

_CONFIG = config_flags.DEFINE_config_file('config', None, 'A file of configs/corpora.', lock_config=True)
_OUT = flags.DEFINE_string('out', None, 'The corpus folder; made if it is not there.')
_RETRY_FAILED = flags.DEFINE_bool('retry_failed', False, 'Fetch the patches again that failed in earlier runs.')
_CHECK_FILES = flags.DEFINE_bool(
  'check_files', True, 'Compare the files of earlier runs with their checksums first; reads all of them.'
)
_RUNNER = flags.DEFINE_string(
  'runner', '', "Fetch on other machines: one of Apache Beam's runners, such as DataflowRunner, FlinkRunner or "
  'SparkRunner (docs/beam.md). Without it, --config.workers processes of this machine fetch.',
)  # fmt: skip
_STAGING = flags.DEFINE_string(
  'staging', '', 'With --runner: where its workers leave what they fetched until it is taken from there, e.g. '
  'gs://BUCKET/staging, or a folder that they share with this machine.',
)  # fmt: skip
_BEAM_OPTIONS = flags.DEFINE_string(
  'beam_options', '', "With --runner: Beam's own options, e.g. '--project=... --region=... --num_workers=8'."
)
_VERIFY = flags.DEFINE_bool('verify', False, 'With publish: read every file back and compare its checksum.')


def main(_: list[str]) -> None:
  from deepsentinel.corpus import beam, sample

  for chatty in ('pyogrio', 'rasterio'):
    logging.getLogger(chatty).setLevel(logging.WARNING)
  cluster = None
  if _RUNNER.value:
    cluster = beam.Cluster(_RUNNER.value, _STAGING.value, _BEAM_OPTIONS.value)
  elif _STAGING.value or _BEAM_OPTIONS.value:
    raise ValueError('--staging and --beam_options are for a fetch on other machines: name one with --runner=NAME.')
  corpus = sample.run(
    _CONFIG.value, str(_OUT.value), retry_failed=_RETRY_FAILED.value, check_files=_CHECK_FILES.value, cluster=cluster
  )
  kind = 'labelled' if corpus.labelled else 'mines' if corpus.mines else 'unlabelled'
  # Of the builders' configs the one for a corpus of this name; those of one's own share 'custom'.
  name = str(corpus.card['name'])
  config = 'demo' if name == f'demo_{kind}' else name if re.fullmatch(rf'{kind}_\d+k', name) else 'custom'
  build = f'tfds build tfds_builders/deepsentinel_{kind} --config={config}'
  print(f'Next: DEEPSENTINEL_CORPUS={shlex.quote(str(corpus.path))} {build}')


def send(arguments: list[str]) -> None:
  """publish FOLDER URL"""
  from deepsentinel.corpus import publish

  if len(arguments) != 3:
    raise ValueError('publish wants a folder and a URL: python -m deepsentinel.corpus publish FOLDER gs://BUCKET/NAME')
  _, folder, url = arguments
  sent = publish.publish(pathlib.Path(folder), url)
  read = f'; {publish.verify(url)} files were read back' if _VERIFY.value else ''
  print(f'Published: {url}; {sent} files were not there yet{read}.')


if __name__ == '__main__' and 'publish' in sys.argv[1:2]:
  commandline.run(send, arguments='publish FOLDER URL', resumes=True)
elif __name__ == '__main__':
  commandline.run(main, required=['config', 'out'], settings='configs/corpora/common.py', resumes=True)

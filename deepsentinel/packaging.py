"""What the two TFDS builders share: configs, features, and the way from a corpus folder to sharded TFRecords.

The builders in `tfds_builders/` are thin: `tfds build` puts only that folder on the path, and Beam workers must be able
to import the functions they run. This is the only module of the package that imports tensorflow_datasets.
"""

import contextlib
import dataclasses
import fcntl
import functools
import importlib
import json
import os
import pathlib
import shutil
import sys
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import example_serializer

from deepsentinel import commandline, schema, sensors
from deepsentinel.corpus import card, examples, settings

ENVIRONMENT = 'DEEPSENTINEL_CORPUS'
PUBLISHED_PATCH_PX = 256
# Beam's own default first tries to download a helper program; this one runs in-process, without a network.
LOCAL_BEAM_RUNNER = 'BundleBasedDirectRunner'


@dataclasses.dataclass(eq=False)
class CorpusConfig(tfds.core.BuilderConfig):
  """One size of a data set.

  Attributes:
    corpus: name of its config in configs/corpora and of its folder below corpora/; '' where the user names the folder.
  """

  corpus: str = ''


def features(
  spec: sensors.SensorSpec, patch_px: int, labelled: bool, landcover: bool = False
) -> tfds.features.FeaturesDict:
  """TFDS features of a record: raw tensors first, then scalars."""
  entries: dict[str, Any] = {}
  for field in schema.tensor_fields(spec, patch_px, labelled, landcover).values():
    entries[field.name] = tfds.features.Tensor(
      shape=field.shape, dtype=np.dtype(field.dtype).type, encoding=tfds.features.Encoding.BYTES, doc=field.description
    )
  for column in schema.SCALARS:
    if column.dtype == 'string':
      entries[column.name] = tfds.features.Text(doc=column.description)
    elif column.dtype == 'float64':
      # tf.train.Example knows only float32, in which a northing is off by up to half a metre.
      entries[column.name] = tfds.features.Tensor(
        shape=(), dtype=np.float64, encoding=tfds.features.Encoding.BYTES, doc=column.description
      )
    else:
      entries[column.name] = tfds.features.Scalar(np.dtype(column.dtype).type, doc=column.description)
  return tfds.features.FeaturesDict(entries)


class _Serializer(example_serializer.ExampleSerializer):
  """TFDS's own, with the features of a record in one order: else a protobuf map has another in every process, and a
  build that was killed and begun again would write other bytes than an undisturbed one."""

  def serialize_example(self, example: Any) -> bytes:
    return self.get_tf_example(example).SerializeToString(deterministic=True)


example_serializer.ExampleSerializer = _Serializer  # TFDS has no argument for it


@contextlib.contextmanager
def only_writer(partial: pathlib.Path) -> Iterator[None]:
  """Holds the data set's folder for one build, and removes what killed builds of the same version left there.

  Args:
    partial: the folder TFDS writes into, 'incomplete.XXXXXX_1.0.0'; it becomes '1.0.0' when it is whole.
  Raises:
    ValueError: another process is building the same data set.
  """
  parent = os.open(partial.parent, os.O_RDONLY)
  try:
    try:
      # The kernel drops the lock with the process, however that ends.
      fcntl.flock(parent, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise ValueError(
        f'Another process is building into {partial.parent}. Wait for it, or choose another --data_dir.'
      ) from None
    for left in partial.parent.glob(f'incomplete.??????_{partial.name.partition("_")[2]}'):
      if left.name != partial.name:
        shutil.rmtree(left)
    yield
  finally:
    os.close(parent)


class CorpusBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
  """Packages a corpus folder. Subclasses set LABELLED, CONFIGS and BUILDER_CONFIGS."""

  LABELLED: ClassVar[bool]
  CONFIGS: ClassVar[tuple[CorpusConfig, ...]]
  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES: ClassVar[dict[str, str]] = {'1.0.0': 'First release.'}

  def __init__(self, **kwargs: Any):
    if 'tensorflow_datasets.scripts.cli.build' in sys.modules:  # `tfds build`, not a program that uses the builder
      commandline.show_errors_in_one_sentence(resumes=True)
    super().__init__(**kwargs)

  @tfds.core.utils.classproperty
  @classmethod
  def builder_configs(cls) -> dict[str, CorpusConfig]:
    """All configs by name. BUILDER_CONFIGS holds the demo alone, because without --config all of *that* is built."""
    return {config.name: config for config in cls.CONFIGS}

  def _info(self) -> tfds.core.DatasetInfo:
    # Features follow the corpus, which is known for certain only when it is packaged (--manual_dir) or was packaged.
    prepared = pathlib.Path(self.data_dir)
    if (prepared / 'features.json').is_file():
      known = tfds.features.FeaturesDict.from_config(prepared)
    else:
      known = features(sensors.SensorSpec(), PUBLISHED_PATCH_PX, self.LABELLED)
    return self.dataset_info_from_configs(
      features=known,
      metadata=tfds.core.MetadataDict(),
    )

  def _find_corpus(self, manual_dir: os.PathLike | None) -> pathlib.Path | None:
    """--manual_dir, $DEEPSENTINEL_CORPUS or corpora/<name>; None if there is none. The first two must hold a corpus."""
    for origin, folder in (('--manual_dir', manual_dir), (f'${ENVIRONMENT}', os.environ.get(ENVIRONMENT))):
      if folder:
        path = pathlib.Path(folder).expanduser().resolve()
        if not (path / 'corpus.json').is_file():
          raise ValueError(
            f'{origin} names {path}, which is no corpus folder: it holds no corpus.json. '
            f'Sample one with `python -m deepsentinel.corpus --config=configs/corpora/NAME.py --out={path}`.'
          )
        return path
    name = self.builder_config.corpus
    path = pathlib.Path('corpora', name).resolve()
    return path if name and (path / 'corpus.json').is_file() else None

  def _require_corpus(self, manual_dir: os.PathLike | None) -> card.Corpus:
    """The whole corpus to package. The demo's own is sampled, or sampled to its end, where that is still to do."""
    config = self.builder_config
    path = self._find_corpus(manual_dir)
    own = pathlib.Path('corpora', config.corpus).resolve()
    corpus = None if path is None else card.Corpus(path)
    if corpus is not None and corpus.card['complete']:
      return corpus
    if config.name == 'demo' and path in (None, own):
      sample = importlib.import_module(f'configs.corpora.{config.corpus}').get_config()
      return importlib.import_module('deepsentinel.corpus').run(sample, own)
    command = f'python -m deepsentinel.corpus --config=configs/corpora/{config.corpus or "NAME"}.py --out='
    if path is not None:
      raise ValueError(
        f'The corpus {path} is not sampled to its end. Run the command that samples it again, '
        f'`{command}{path}`: it goes on where it stopped.'
      )
    if not config.corpus:
      raise ValueError(
        f"{self.name}, config '{config.name}', packages a corpus folder of your own: name it with --manual_dir=DIR or "
        f'{ENVIRONMENT}=DIR. `{command}DIR` samples one.'
      )
    raise ValueError(
      f"{self.name}, config '{config.name}', packages a corpus that is not there: no corpora/{config.corpus} below "
      f'{pathlib.Path.cwd()}. Sample it with `{command}corpora/{config.corpus}`, or name its folder with '
      f'--manual_dir=DIR or {ENVIRONMENT}=DIR.'
    )

  def _check_corpus(self, corpus: card.Corpus) -> None:
    """ValueError for a corpus that is not of this data set's kind."""
    if self.LABELLED and not corpus.labelled:
      raise ValueError(
        f'The corpus {corpus.path} has no labels. Package it with `tfds build tfds_builders/deepsentinel_unlabelled`.'
      )

  def download_and_prepare(self, *, download_config: tfds.download.DownloadConfig | None = None, **kwargs: Any) -> None:
    """As TFDS does it; ValueError where the records there are of another corpus than is named, which it would keep."""
    self._require_same_corpus(download_config or tfds.download.DownloadConfig())
    super().download_and_prepare(download_config=download_config, **kwargs)

  def _require_same_corpus(self, download_config: tfds.download.DownloadConfig) -> None:
    metadata = pathlib.Path(self.data_dir, 'metadata.json')
    if not metadata.is_file() or download_config.download_mode.overwrite_dataset:
      return
    path = self._find_corpus(download_config.manual_dir)
    there, here = json.loads(metadata.read_text()).get('card'), path and card.Corpus(path).card
    if not there or not here:
      return
    differing = [f'{key}: {there.get(key)} there, {here.get(key)} here' for key in ('name', 'seed', 'counts')
                 if there.get(key) != here.get(key)]  # fmt: skip
    was, now = (dict(settings.flatten(about['config'])) for about in (there, here))
    differing += [f'{key}: {was[key]!r} there, {now[key]!r} here' for key in sorted({*was} & {*now})
                  if was[key] != now[key] and key.partition('.')[0] not in settings.FREE]  # fmt: skip
    if differing:
      raise ValueError(
        f'{self.data_dir} holds the records of another corpus than {path} ({"; ".join(differing[:3])}). --overwrite '
        "puts this one's in their place; --data_dir=DIR or another --config keeps both."
      )

  def _download_and_prepare(self, dl_manager, download_config):
    # Not `dl_manager.manual_dir`, which falls back to a folder the user never named.
    corpus = self._require_corpus(download_config.manual_dir)
    self._check_corpus(corpus)
    self._corpus = corpus
    # TFDS made `info` with the builder; this is its own attribute, replaced before anything is written with it.
    self.info._features = features(corpus.spec, corpus.patch_px, self.LABELLED, bool(corpus.landcover))
    self.info.metadata.update({'card': {**corpus.card, 'labelled': self.LABELLED}})
    self._use_beam = bool(download_config.beam_options or download_config.beam_runner)
    if self._use_beam:
      _choose_runner(download_config)
    # Beam builders ignore max_examples_per_split, so the ids are capped for both kinds.
    self._cap = download_config.max_examples_per_split
    partial = pathlib.Path(self.data_dir)
    with only_writer(partial) if partial.parent.is_dir() else contextlib.nullcontext():
      super()._download_and_prepare(dl_manager, download_config)

  def _split_generators(self, dl_manager) -> dict[str, Any]:
    corpus = os.fspath(self._corpus.path)
    return {
      split: self._generate_examples(ids[: self._cap], corpus)
      for split, ids in examples.split_ids(self._corpus).items()
    }

  def _generate_examples(self, ids: list[str], corpus_dir: str) -> Any:
    if not self._use_beam:
      return examples.Examples(ids, corpus_dir, self.LABELLED)
    import apache_beam as beam

    read = functools.partial(examples.keyed_example, corpus_dir=corpus_dir, labelled=self.LABELLED)
    # Create puts all ids into one bundle: Reshuffle spreads them over the workers.
    return beam.Create(ids) | beam.Reshuffle() | beam.Map(read)


def _choose_runner(download_config: tfds.download.DownloadConfig) -> None:
  """Names the local runner where the user named none."""
  from apache_beam.options import pipeline_options

  options = download_config.beam_options or pipeline_options.PipelineOptions(flags=[])
  if not download_config.beam_runner and not options.view_as(pipeline_options.StandardOptions).runner:
    download_config.beam_runner = LOCAL_BEAM_RUNNER
  download_config.beam_options = options

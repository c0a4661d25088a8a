"""The builder on a tiny corpus of mines: the scene of every patch arrives in the records."""

import pytest
import tensorflow_datasets as tfds

from deepsentinel.data import records
from tests import tiny_records
from tfds_builders.deepsentinel_mines import deepsentinel_mines_dataset_builder as under_test


def build(corpus, data_dir):
  builder = under_test.Builder(data_dir=data_dir, config='custom')
  builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=corpus))
  return builder


def test_scenes_arrive(tmp_path):
  corpus = tiny_records.write_corpus(tmp_path / 'corpus', patches=6, patch_px=16, labelled=False, mines=True)
  builder = build(corpus, tmp_path / 'tfds')
  manifest = tiny_records.geopandas.read_parquet(corpus / 'manifest.parquet').set_index('id')
  seen = {}
  for split in builder.info.splits:
    for example in tfds.as_numpy(builder.as_dataset(split=split)):
      seen[example['id'].decode()] = int(example['scene'])
    table = records.RecordSet(builder.data_dir, split).table
    assert dict(zip(table['id'], table['scene'], strict=True)).items() <= seen.items()
  assert seen == {i: manifest['scene'][i] for i in seen}
  assert set(seen.values()) == {1, 2}


def test_another_corpus_is_refused(tmp_path):
  corpus = tiny_records.write_corpus(tmp_path / 'corpus', patches=2, patch_px=16, labelled=False)
  with pytest.raises(ValueError, match=r'is not of mines: .* `tfds build tfds_builders/deepsentinel_unlabelled`'):
    build(corpus, tmp_path / 'tfds')


def test_dataset_card_is_found_and_its_tags_are_valid():
  metadata = under_test.Builder.get_metadata()
  assert 'coal mine' in metadata.description
  assert '@' in metadata.citation
  assert set(metadata.tags) <= set(tfds.core.dataset_metadata.valid_tags())

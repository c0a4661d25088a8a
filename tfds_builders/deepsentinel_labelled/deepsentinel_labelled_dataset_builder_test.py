"""The builder on a tiny corpus: what TFDS reads back is what the corpus holds."""

import numpy as np
import pytest
import rasterio
import tensorflow_datasets as tfds

from tests import tiny_records
from tfds_builders.deepsentinel_labelled import deepsentinel_labelled_dataset_builder as under_test

SIZES = {'train': 4, 'validation': 1, 'test': 1}


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
  return tiny_records.write_corpus(tmp_path_factory.mktemp('corpus'), patches=6, patch_px=16, labelled=True)


@pytest.fixture(scope='module')
def builder(corpus, tmp_path_factory):
  builder = under_test.Builder(data_dir=tmp_path_factory.mktemp('tfds'), config='custom')
  builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=corpus))
  return builder


def test_sizes_of_splits(builder):
  assert {name: split.num_examples for name, split in builder.info.splits.items()} == SIZES


def test_examples_equal_the_files_of_the_corpus(builder, corpus):
  manifest = tiny_records.geopandas.read_parquet(corpus / 'manifest.parquet').set_index('id')
  seen = []
  for split in SIZES:
    for example in tfds.as_numpy(builder.as_dataset(split=split)):
      patch = example['id'].decode()
      seen.append(patch)
      for field in ('s2', 's1', 'corine', 'osm'):
        with rasterio.open(corpus / 'patches' / patch / f'{field}.tif') as file:
          expected = np.moveaxis(file.read(), 0, -1)
        np.testing.assert_array_equal(example[field].reshape(expected.shape), expected)
      assert example['y0_m'] == manifest['y0_m'][patch]
      assert example['s2_time'] == manifest['s2_time'][patch]
      assert example['s1_pass'].decode() == manifest['s1_pass'][patch]
  assert sorted(seen) == sorted(manifest.query('state == "done" and split != "buffer"').index)


def test_reopens_without_the_corpus_and_keeps_the_card(builder):
  again = under_test.Builder(data_dir=builder._data_dir_root, config='custom')
  assert again.info.features['s2'].shape == (16, 16, 12)
  assert sorted(again.info.features) == sorted(builder.info.features)
  assert again.info.metadata['card']['name'] == 'tiny'
  assert len(list(again.as_dataset(split='train'))) == SIZES['train']


def test_dataset_card_is_found_and_its_tags_are_valid():
  metadata = under_test.Builder.get_metadata()
  assert 'Sentinel-1' in metadata.description
  assert '@' in metadata.citation
  assert metadata.tags
  assert set(metadata.tags) <= set(tfds.core.dataset_metadata.valid_tags())

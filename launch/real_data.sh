#!/usr/bin/env bash
# The main job on real Sentinel-1/2 samples: BigEarthNet v2 pairs, TerraMesh stacks and a Major-TOM scene in the folder
# named by DEEPSENTINEL_DATA. Run it again after any interruption and it goes on where it stopped.
#
#   DEEPSENTINEL_DATA=DIR bash launch/real_data.sh [OUT] [SIZE]      SIZE: full (default) or tiny (what the tests run)
set -euo pipefail
out=${1:-runs/real_data}
size=${2:-full}
: "${DEEPSENTINEL_DATA:?name the folder of real samples (bigearthnet_v2/, terramesh/, major_tom/)}"
export DEEPSENTINEL_DATA TF_CPP_MIN_LOG_LEVEL=3
data="$out/tensorflow_datasets"
main_flags=(--config=configs/bigearthnet.py)
[ "$size" = tiny ] && main_flags+=(--config.encoder.width=8 --config.pretrain.duration.steps=4 --config.finetune.duration.steps=4
  --config.pretrain.batch_size=4)

# 24 pairs of 120 px with class lists; one has CORINE pixels.
python -m deepsentinel.corpus --config=configs/corpora/bigearthnet_v2.py --out="$out/corpora/bigearthnet"
tfds build tfds_builders/deepsentinel_unlabelled --config=custom --manual_dir="$out/corpora/bigearthnet" --data_dir="$data"
python -m deepsentinel.corpus --config=configs/corpora/bigearthnet_v2_mapped.py --out="$out/corpora/bigearthnet_mapped"
tfds build tfds_builders/deepsentinel_labelled --config=custom --manual_dir="$out/corpora/bigearthnet_mapped" --data_dir="$data"
python -m deepsentinel.main "${main_flags[@]}" --config.data.data_dir="$data" --workdir="$out/runs/bigearthnet"
python -m deepsentinel.evaluate --checkpoint="$out/runs/bigearthnet" --data=deepsentinel_unlabelled/custom --data_dir="$data" \
  --out="$out/knn.json"

# Six neighbouring patches and a seventh join to 240 x 360 px: embedded with windows of 128 px.
mosaic="$out/mosaic"
mkdir -p "$mosaic"
for sensor in s2 s1; do
  patches=("$out"/corpora/bigearthnet/patches/*_T33UUP_{37,38}_{88,89,90}/$sensor.tif)
  rio merge --overwrite "${patches[@]}" "$mosaic/$sensor.tif"
done
python -m deepsentinel.embed --checkpoint="$out/runs/bigearthnet" --source=local --out="$out/maps/mosaic" --window_px=128 \
  --s2="$mosaic/s2.tif" --s2_unit=reflectance_x1e4 --s1="$mosaic/s1.tif" --s1_unit=db_x100 --s1_quantity=sigma0_ellipsoid \
  --option='s2_bands=["B1","B2","B3","B4","B5","B6","B7","B8","B8A","B9","B11","B12"]' --option='s1_bands=["VV","VH"]'

# Two TerraMesh places: gamma0 of another processing, so a corpus and a model of its own.
python -m deepsentinel.corpus --config=configs/corpora/terramesh.py --out="$out/corpora/terramesh"
tfds build tfds_builders/deepsentinel_unlabelled --config=custom --manual_dir="$out/corpora/terramesh" --data_dir="$data/terramesh"
python -m deepsentinel.main "${main_flags[@]}" --config.name=terramesh --config.data.data_dir="$data/terramesh" \
  --config.data.labelled= --config.data.crop_px=128 --config.pretrain.duration.steps=4 --config.pretrain.batch_size=2 \
  --workdir="$out/runs/terramesh"

# A whole Sentinel-2 scene without radar, by the encoder that was trained with sensor dropout.
python -m deepsentinel.embed --checkpoint="$out/runs/bigearthnet" --stage=pretrain --source=local --out="$out/maps/major_tom" \
  --s2="$(dirname "$(find "$DEEPSENTINEL_DATA/major_tom" -name B02.tif | head -n 1)")" --s2_unit=reflectance_x1e4

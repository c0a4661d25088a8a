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
run="$out/runs/bigearthnet"
results="$out/report.html $out/knn.json $out/maps/mosaic/embedding.png $out/maps/major_tom/embedding.png"
if [ -e "$out/finished" ]; then
  echo "$out is finished: $results (remove $out/finished to check every step again)"
  exit
fi
window=(--window_px=128)
main_flags=(--config=configs/bigearthnet.py --config.data.data_dir="$data")
if [ "$size" = tiny ]; then
  main_flags+=(--config.encoder.name=resnet10 --config.encoder.width=8 --config.pretrain.batch_size=4
    --config.pretrain.duration.steps=4 --config.finetune.duration.steps=4)
  window=()  # attention alone needs one
fi

# 24 pairs of 120 px with class lists; one of them has CORINE pixels.
python -m deepsentinel.corpus --config=configs/corpora/bigearthnet_v2.py --out="$out/corpora/bigearthnet"
tfds build tfds_builders/deepsentinel_unlabelled --config=custom --manual_dir="$out/corpora/bigearthnet" --data_dir="$data"
python -m deepsentinel.corpus --config=configs/corpora/bigearthnet_v2_mapped.py --out="$out/corpora/bigearthnet_mapped"
tfds build tfds_builders/deepsentinel_labelled --config=custom --manual_dir="$out/corpora/bigearthnet_mapped" --data_dir="$data"
python -m deepsentinel.main "${main_flags[@]}" --workdir="$run"
python -m deepsentinel.evaluate --checkpoint="$run" --data=deepsentinel_unlabelled/custom --data_dir="$data" --out="$out/knn.json"

# Six neighbouring patches join to 240 x 360 px. The file names are the products': they say when each was taken.
s2="$out/mosaic/S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP.tif"
s1="$out/mosaic/S1B_IW_GRDH_1SDV_20170612T165809_33UUP.tif"
mkdir -p "$out/mosaic"
rio merge --overwrite "$out"/corpora/bigearthnet/patches/*_T33UUP_{37,38}_{88,89,90}/s2.tif "$s2"
rio merge --overwrite "$out"/corpora/bigearthnet/patches/*_T33UUP_{37,38}_{88,89,90}/s1.tif "$s1"
python -m deepsentinel.embed --checkpoint="$run" --stage=pretrain "${window[@]}" --out="$out/maps/mosaic" \
  --s2="$s2" --s2_unit=reflectance_x1e4 --s1="$s1" --s1_unit=db_x100 --s1_quantity=sigma0_ellipsoid \
  --option='s2_bands=["B1","B2","B3","B4","B5","B6","B7","B8","B8A","B9","B11","B12"]' --option='s1_bands=["VV","VH"]'

# A whole Sentinel-2 scene without radar, by the same encoder: it was trained with sensor dropout.
python -m deepsentinel.embed --checkpoint="$run" --stage=pretrain --out="$out/maps/major_tom" \
  --s2="$DEEPSENTINEL_DATA/major_tom" --s2_unit=reflectance_x1e4
python -m deepsentinel.report "$run" --embedding="$out/maps/mosaic" --out="$out/report.html"

# Two TerraMesh places: gamma0 of another processing, so a corpus and a model of their own.
python -m deepsentinel.corpus --config=configs/corpora/terramesh.py --out="$out/corpora/terramesh"
tfds build tfds_builders/deepsentinel_unlabelled --config=custom --manual_dir="$out/corpora/terramesh" --data_dir="$data/terramesh"
python -m deepsentinel.main "${main_flags[@]}" --config.name=terramesh --config.data.data_dir="$data/terramesh" \
  --config.data.labelled= --config.data.crop_px=128 --config.pretrain.duration.steps=4 --config.pretrain.batch_size=2 \
  --workdir="$out/runs/terramesh"
touch "$out/finished"
echo "Finished: $results"

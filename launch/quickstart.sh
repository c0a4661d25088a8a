#!/usr/bin/env bash
# The main job, end to end, on SyntheticEarth. Every line is a command of the README; run it again after any
# interruption and it goes on where it stopped.
#
#   bash launch/quickstart.sh [OUT] [SIZE]      SIZE: full (default) or tiny (what the tests run, a minute or two)
set -euo pipefail
out=${1:-quickstart}
size=${2:-full}
export TF_CPP_MIN_LOG_LEVEL=3
data="$out/tensorflow_datasets"
corpus_flags=()
main_flags=(--config=configs/quickstart.py --config.data.data_dir="$data")
embed_flags=(--bounds=11.85,52.45,12.1,52.6 --date=2018-06-15 --max_cloud=0.1)
if [ "$size" = tiny ]; then
  corpus_flags+=(--config.patches=24 --config.patch_px=64 --config.workers=1)
  main_flags+=(--config.encoder.name=resnet10 --config.encoder.width=8 --config.data.crop_px=32 --config.pretrain.batch_size=4
    --config.finetune.batch_size=4 --config.evaluation.batch_size=8
    --config.pretrain.duration.steps=4 --config.finetune.duration.steps=4)
  embed_flags=(--bounds=12.20,52.30,12.24,52.32 --date=2018-06-15)
fi

for kind in unlabelled labelled; do
  python -m deepsentinel.corpus --config=configs/corpora/demo_$kind.py --out="$out/corpora/demo_$kind" "${corpus_flags[@]}"
  DEEPSENTINEL_CORPUS="$out/corpora/demo_$kind" tfds build tfds_builders/deepsentinel_$kind --config=demo --data_dir="$data"
done
python -m deepsentinel.main "${main_flags[@]}" --workdir="$out/runs/tile2vec"
python -m deepsentinel.main "${main_flags[@]}" --workdir="$out/runs/none" --config.pretrain.objective=none
python -m deepsentinel.embed --checkpoint="$out/runs/tile2vec" --source=synthetic "${embed_flags[@]}" --out="$out/embedding"
python -m deepsentinel.report "$out/runs/tile2vec" "$out/runs/none" --embedding="$out/embedding" --out="$out/report.html"

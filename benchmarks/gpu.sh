#!/bin/sh
# What only a GPU can show: the tests that need one, the quickstart, the larger recipe of the film reviews, speed, and
# rounds on real comparisons from a base of 60 million parameters.
#   DATA=FOLDER sh benchmarks/gpu.sh
set -eu
: "${DATA:?the folder of movie_reviews, sst2_train, sst2_dev, hh_harmless, judged_comparisons and judged_reference}"
: "${OUT:=runs/gpu}" "${PYTHON:=.venv/bin/python}"
"$PYTHON" -c 'import sys, torch; sys.exit(None if torch.cuda.is_available() else "torch finds no GPU")'
"$PYTHON" -m pytest -q -rs tests/generation tests/stages/test_ppo.py tests/rewards
"$PYTHON" -m loopwright run recipes/quickstart.yaml --set device=cuda --out "$OUT/quickstart"
"$PYTHON" -m loopwright run recipes/movie_reviews_large.yaml --set data_dir="$DATA" --set device=cuda --out "$OUT/reviews"
cat "$OUT"/quickstart/summary.json "$OUT"/reviews/summary.json
for size in 0.5B 1.5B; do "$PYTHON" benchmarks/gpu_engine.py --size "$size"; done
"$PYTHON" benchmarks/gpu_engine.py --parts large
"$PYTHON" benchmarks/real_rounds.py --data "$DATA" --size large --out "$OUT/real"

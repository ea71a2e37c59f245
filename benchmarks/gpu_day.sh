#!/bin/bash
# What only a GPU can tell, in three parts of less than ten minutes each, by value: bash benchmarks/gpu_day.sh A
#     A   right or wrong: build, values and derivatives, graphs, no waiting for the device, exact continuation
#     B   how fast: the step by options at 64 to 1024 pixels, memory, profile, bandwidth of the operators
#     C   a run on pictures of your own: DATA=FILE.zip OPTS='--nhwc=0' bash benchmarks/gpu_day.sh C
# Nothing stops at a failure; each step has a time limit of its own, and the last line names the steps that failed.
# $OUT/A.log, ... hold all that they print. No network is needed. Settings, as environment variables:
#     OUT         where the results go                     [gpu_day]
#     DEVICE      cuda, or cpu to see whether it runs      [cuda]
#     BUDGET      seconds of a part                        [570]
#     PY          Python                                   [python3]
#     REFERENCE   checkout of StyleGAN2-ADA to compare with in part B
#     DATA, OPTS  of part C: images of one size, further options of train.py
set -u
cd "$(dirname "$0")/.."
PART=${1:-}; OUT=$(realpath -m "${OUT:-gpu_day}"); DEVICE=${DEVICE:-cuda}; BUDGET=${BUDGET:-570}; PY=${PY:-python3}
case $PART in A|B|C) ;; *) grep '^# ' benchmarks/gpu_day.sh; exit 2 ;; esac
WORK=$(mktemp -d); trap 'rm -rf "$WORK"' EXIT
LOG=$OUT/$PART.log; FAILED=(); SECONDS=0
mkdir -p "$OUT"; : > "$LOG"
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 PYTHONWARNINGS=default::RuntimeWarning
TINY=() CONFIG=256-auto TURN=(--iterations=16 --rounds=2)
if [ "$DEVICE" = cpu ]; then
    export CUDA_VISIBLE_DEVICES=
    TINY=(--tiny) CONFIG=16-tiny TURN=(--iterations=1 --rounds=1)
fi

say() { echo "## $*" | tee -a "$LOG"; }

step() {                        # step LIMIT NAME COMMAND...: runs it within its limit and the budget
    local limit=$1 name=$2 left=$((BUDGET - SECONDS)) began=$SECONDS rc=0; shift 2
    if [ $left -lt 10 ]; then say "$name: left out, no time"; FAILED+=("$name"); return; fi
    say "$name"
    timeout -k 10 $((limit < left ? limit : left)) "$@" > "$WORK/step.txt" 2>&1 || rc=$?
    cat "$WORK/step.txt" >> "$LOG"
    tail -n 30 "$WORK/step.txt" | cut -c1-230
    [ $rc = 0 ] || FAILED+=("$name")
    say "$name: exit $rc, $((SECONDS - began)) s"
}

on_gpu() {                      # the same, left out on a CPU
    if [ "$DEVICE" = cpu ]; then say "$2: left out, needs a GPU"; else step "$@"; fi
}

part_a() {
    step 300 'doctor: the build' "$PY" -m torch_utils.doctor --build
    step 120 'a first step' "$PY" benchmarks/train_step.py --config=$CONFIG "${TURN[@]}"
    step 120 'no waiting, equal graphs' "$PY" -m pytest -m gpu -p no:cacheprovider \
        --deselect tests/test_ops_gpu.py::test_all_checks_on_the_gpu \
        tests/test_training_speed.py tests/test_training_cuda_graphs.py tests/test_training_real_images.py tests/test_ops_gpu.py tests/test_warnings.py
    on_gpu 200 'every case of the operators' "$PY" benchmarks/gpu_check.py
    step 120 'repeatable, exact continuation' "$PY" benchmarks/gpu_day.py exact "${TINY[@]}"
}

part_b() {
    local step_of=("$PY" benchmarks/train_step.py)
    step 330 'the step by options' "$PY" benchmarks/gpu_day.py speed --out="$OUT/B.jsonl" "${TINY[@]}"
    step 60 'profile' "${step_of[@]}" --config=$CONFIG --profile
    step 80 'bandwidth of the operators' "$PY" benchmarks/ops.py --device="$DEVICE" --seconds=0.03 ${TINY:+--quick}
    [ -z "${REFERENCE:-}" ] ||
        step 120 'the reference' "${step_of[@]}" --config=$CONFIG --beside="$REFERENCE" "${TURN[@]}"
    on_gpu 200 'torch.compile' "${step_of[@]}" --config=64-auto --vary=--compile=1 "${TURN[@]}"
}

until_time() { timeout "$@" || [ $? = 124 ]; }      # told to end, training saves its state: no failure
export -f until_time

newest() { ls -d $1 2> /dev/null | tail -n 1; }      # the last path of a pattern

part_c() {
    local runs=$WORK/runs samples=$WORK/samples
    local train=("$PY" train.py --outdir="$runs" --data="${DATA:?a zip or folder from dataset_tool.py}"
                 --device="$DEVICE" --cfg=auto --aug=ada --mirror=1 --metrics=none --health=0 --tick=4 --snap=2 ${OPTS:-})
    step 420 'training' bash -c 'until_time "$@"' bash 390 "${train[@]}"
    local run; run=$(newest "$runs/0*")
    step 40 'samples' "$PY" generate.py --network="$(newest "$run/network-snapshot-*.safetensors")" \
        --grid=8x6 --outdir="$samples"
    step 40 'sheet' "$PY" benchmarks/gpu_day.py sheet --run="$run" --samples="$samples" --out="$OUT/C.jpg"
    step 60 'the same command continues' bash -c 'until_time "$@"' bash 40 "${train[@]}"
}

GPU=$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2> /dev/null)
say "part $PART, $(date -u +%H:%M:%S), $DEVICE, $GPU"
case $PART in A) part_a ;; B) part_b ;; C) part_c ;; esac
if [ ${#FAILED[@]} = 0 ]; then say "part $PART: all right, $SECONDS s"; exit 0; fi
say "part $PART: $SECONDS s, failed: $(printf '%s; ' "${FAILED[@]}")"
exit 1

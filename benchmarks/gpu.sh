#!/bin/sh
# All that only a GPU can tell, in pieces of less than ten minutes each; from the repository's folder:
#   sh benchmarks/gpu.sh                  all pieces, into runs/gpu
#   sh benchmarks/gpu.sh training fp8     some of them
#   sh benchmarks/gpu.sh --tiny           tiny models on a CPU, to see that all of it runs
# A piece that fails is named at the end; the others run.
set -u
PYTHON=${PYTHON:-python}
OUT=${OUT:-runs/gpu}

size="--rounds 10" width="--width 2048" blocks="--blocks 24" fusion="" tokens="" step="" train="" tiny=""
if [ "${1:-}" = --tiny ]; then
    shift
    tiny=yes
    fusion="--device cpu --rounds 1 --blocks 2 --layers 3 --tokens 8 --channels 64"
    size="--device cpu --rounds 1 --text-layers 3"
    width="--width 256" blocks="--blocks 2" tokens="--tokens 6" step="--batch-size 2"
    train="--no-compile --side 64"
fi

piece() {  # name, module, options
    name=$1 module=$2
    shift 2
    echo "=== $name ==="
    timeout 600 "$PYTHON" -m "benchmarks.$module" --out "$OUT/$name" "$@" || failed="$failed $name"
}

failed=""
for name in ${*:-sampling strategies fusion step training checkpointing fsdp2 fp8 text}; do
    case $name in
    sampling) piece "$name" sampling_reference $size $width $blocks $tokens ;;
    strategies) piece "$name" sampling_strategies $size $width $blocks $tokens ;;
    fusion) piece "$name" fusion --compile $fusion ;;
    step) piece "$name" training $size $width $blocks $tokens $step ;;
    training) piece "$name" gpu_training $size $width $blocks $tokens $step $train ;;
    checkpointing) piece "$name" gpu_training --checkpointing $size $width $blocks $tokens $step $train ;;
    fsdp2) piece "$name" gpu_training --way fsdp2 $size $width $blocks $tokens $step $train ;;
    fp8)
        if [ -z "$tiny" ] && "$PYTHON" -c "import torchao" 2> /dev/null; then
            piece "$name" gpu_training --way fp8 $size $width $blocks
        else
            echo "=== fp8 is left out: it needs a GPU and the package torchao ==="
        fi ;;
    text) piece "$name" text_encoder $size $width $tokens $step ;;
    *) echo "There is no piece $name." >&2; exit 2 ;;
    esac
done
[ -z "$failed" ] || { echo "These pieces failed:$failed" >&2; exit 1; }

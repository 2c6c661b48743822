#!/usr/bin/env bash
# One command for a machine with a GPU: builds, tests on the device, measures, sanitizes, and writes one Markdown page. Unattended,
# without network, within PENSTOCK_GPU_SECONDS (480). What fails or does not fit is said on the page, and the rest goes on: the page
# grows step by step, and holds what there is whenever the script is stopped.
#
#   native-engine/bench/gpu.sh               with CMake and CUDA 12.8 or later
#   native-engine/bench/gpu.sh --emulated    the same steps on the emulator: proves the script, measures nothing
#
# The page is $OUT/gpu-results.md, and the steps' logs are beside it, gpu-logs.tar.gz; bench/gpu-results.md where OUT is not set (of
# the emulator: in the build folder). GoogleTest comes from the system, or from sources in PENSTOCK_GOOGLETEST (default:
# build-cuda/googletest, else /usr/src/googletest). cuBLASLt comes from the toolkit, else from Python's nvidia-cublas. Builds in
# PENSTOCK_GPU_BUILD (default: build-cuda/gpu-on). With PENSTOCK_LLAMA_CPP llama.cpp computes the same models in the same run: its
# llama-batched-bench, or the folder of its sources, which are built first (over five minutes on 16 cores).
# Exit code: 0 all is well, 1 something failed or is missing, 2 nothing was begun.
set -u
[ -n "${OUT:-}" ] && OUT=$(realpath "$OUT")
cd "$(dirname "$0")/.." || exit 2

mode=${PENSTOCK_CUDA:-ON}
for argument in "$@"; do
  case $argument in
    --emulated) mode=EMULATED ;;
    *)
      echo "gpu.sh: unknown option $argument; there is --emulated" >&2
      exit 2
      ;;
  esac
done

# Where a toolkit and a driver's tools are that nobody has put on PATH.
for folder in "${CUDA_HOME:-}" /usr/local/cuda /usr/local/nvidia; do
  [ -n "$folder" ] && [ -d "$folder/bin" ] && PATH=$PATH:$folder/bin
done

# Before anything is begun, and before a page that is there is lost.
need() {
  echo "gpu.sh: $1" >&2
  exit 2
}
command -v cmake >/dev/null || need 'there is no cmake on PATH'
if [ "$mode" = ON ]; then
  command -v nvidia-smi >/dev/null || need 'there is no GPU here (no nvidia-smi); --emulated goes through the steps without one'
  nvidia-smi -L 2>/dev/null | grep -q '^GPU 0' || need 'nvidia-smi finds no GPU; --emulated goes through the steps without one'
  command -v nvcc >/dev/null || need 'there is a GPU but no nvcc, neither on PATH nor in CUDA_HOME or /usr/local/cuda'
fi

limit=${PENSTOCK_GPU_SECONDS:-480}
page=${OUT:-bench}/gpu-results.md
build=${PENSTOCK_GPU_BUILD:-build-cuda/gpu-$(echo "$mode" | tr '[:upper:]' '[:lower:]')}
logs=$build/logs
jobs=$(nproc 2>/dev/null || echo 4)
# Models of 16 GB are written; in memory that takes seconds.
shm_kib=$(df --output=avail -k /dev/shm 2>/dev/null | tail -n 1 || true)
[ "${shm_kib:-0}" -gt 25000000 ] && export TMPDIR=/dev/shm
scratch=$(mktemp -d)
failed=0
finish() {
  rm -rf "$scratch"
  # Where it fits into what a lent machine sends back; the page has the ends of those that matter.
  [ -n "${OUT:-}" ] && tar -C "$build" -czf "$OUT/gpu-logs.tar.gz" logs 2>/dev/null
}
trap finish EXIT
trap 'exit 1' TERM INT HUP
rm -rf "$logs"
mkdir -p "$logs" "$(dirname "$page")"

# What the emulator computes in seconds: the script's own test needs no more.
small=()
only='.'
# shape, type, who multiplies
models=('8b Q4_0 own' '8b Q8_0 own' '1b Q8_0 own' '8b F16 own')
if [ "$mode" = EMULATED ]; then
  small=(--small 1)
  [ -n "${OUT:-}" ] || page=$build/gpu-results.md # bench/ is for what a card has said
  only=${PENSTOCK_GPU_ONLY:-'^cuda_(blocks|pack)_test$'}
  models=('tiny Q8_0 own')
fi

# Each argument a line.
say() { printf '%s\n' "$@" >>"$page"; }
left() { echo $((limit - SECONDS)); }

# step NAME SECONDS COMMAND...: its output goes to a log; 124 where it took longer than SECONDS or than is left.
step() {
  local name=$1 most=$2 begun=$SECONDS code
  shift 2
  [ "$most" -le "$(left)" ] || most=$(left)
  [ "$most" -ge 1 ] || return 124
  timeout --kill-after=5 "$most" "$@" >"$logs/$name.log" 2>&1
  code=$?
  printf '%s: exit %s, %s s\n' "$name" "$code" "$((SECONDS - begun))"
  return "$code"
}

# outcome CODE NAME: what the page says of a step that failed.
outcome() {
  [ "$1" = 0 ] && return
  failed=1
  if [ "$1" = 124 ] || [ "$1" = 137 ]; then
    say "**$2 is not finished: out of time.**" ''
  else
    say "**$2 failed (exit $1):**" '' '```' "$(tail -n 15 "$logs/$2.log")" '```' ''
  fi
}

options=(-DPENSTOCK_CUDA="$mode" -DPENSTOCK_TESTS=ON -DPENSTOCK_GRAMMARS=OFF -DPENSTOCK_WARNINGS_ARE_ERRORS=OFF
  -DCMAKE_BUILD_TYPE=Release)
keep_going=-k
for sources in ${PENSTOCK_GOOGLETEST:-} "$PWD/build-cuda/googletest"; do
  [ -f "$sources/CMakeLists.txt" ] && options+=(-DPENSTOCK_GOOGLETEST="$sources") && break
done
if [ "$mode" = ON ]; then
  capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader -i 0 | tr -d '. \r')
  options+=(-DCMAKE_CUDA_ARCHITECTURES="${capability:-90}")
  toolkit=$(dirname "$(dirname "$(realpath "$(command -v nvcc)")")")
  if [ ! -f "$toolkit/include/cublasLt.h" ] && [ ! -f "$toolkit/targets/x86_64-linux/include/cublasLt.h" ]; then
    wheels=$(python3 -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])' 2>/dev/null)/nvidia/cu13
    [ -f "$wheels/include/cublasLt.h" ] && options+=(-DPENSTOCK_CUBLASLT_ROOT="$wheels")
  fi
fi
command -v ninja >/dev/null && options+=(-G Ninja) && keep_going='-k 0'
if command -v ccache >/dev/null; then
  options+=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache -DCMAKE_C_COMPILER_LAUNCHER=ccache)
fi

run_tests() {
  local name code summary
  say '## Tests on the device' ''
  if [ "$with_tests" = no ]; then
    say '**Skipped: GoogleTest is not here.** It is taken from the system (libgtest-dev), or from its sources in' \
      '`PENSTOCK_GOOGLETEST`, `native-engine/build-cuda/googletest` or `/usr/src/googletest`.' ''
    failed=1
    return
  fi
  say '| binary | tests | failed | skipped | s |' '| --- | ---: | ---: | ---: | ---: |'
  # One that hangs may cost itself, not what comes behind it.
  local until=$((SECONDS + 160))
  for name in $test_names; do
    local begun=$SECONDS
    if [ ! -x "$build/$name" ]; then
      say "| $name | not built | | | |"
      failed=1
      continue
    fi
    step "$name" "$((until - SECONDS < 60 ? until - SECONDS : 60))" "$build/$name" --gtest_brief=1
    code=$?
    if [ "$code" = 124 ] || [ "$code" = 137 ]; then
      say "| $name | not finished: out of time | | | $((SECONDS - begun)) |"
      failed=1
      continue
    fi
    summary=$(grep -E '^\[==========\] [0-9]+ tests? ' "$logs/$name.log" | tail -n 1 | grep -oE '[0-9]+' | head -n 1)
    local wrong skipped
    wrong=$(grep -oE '^\[  FAILED  \] [A-Za-z0-9_/]+\.[A-Za-z0-9_/]+' "$logs/$name.log" | sort -u | wc -l)
    skipped=$(grep -oE '^\[  SKIPPED \] [0-9]+' "$logs/$name.log" | grep -oE '[0-9]+')
    [ "$code" = 0 ] || wrong="**$wrong** (exit $code)"
    [ "$code" = 0 ] || failed=1
    say "| $name | ${summary:-?} | $wrong | ${skipped:-0} | $((SECONDS - begun)) |"
  done
  say ''
  for name in $test_names; do
    grep -hE -A 12 'Failure$|^terminate|what\(\):' "$logs/$name.log" 2>/dev/null | head -n 24 >"$scratch/why"
    if [ -s "$scratch/why" ]; then say "$name:" '' '```' "$(cat "$scratch/why")" '```' ''; fi
  done
}

# sanitize TOOL: every kernel's tests in turn, until the time of all is over. Findings on stdout.
sanitize() {
  local tool=$1 until=$2 name code
  for name in $kernel_tests; do
    [ -x "$build/$name" ] || continue
    local most=$((until - SECONDS))
    if [ "$most" -lt 3 ]; then
      echo "| $tool | $name | not run: out of time |"
      continue
    fi
    # None may take more than half of what is left for all.
    [ "$most" -lt 30 ] || most=$((most / 2))
    timeout --kill-after=5 "$most" compute-sanitizer --tool "$tool" --error-exitcode 9 --print-limit 10 "$build/$name" \
      --gtest_brief=1 >"$logs/$tool-$name.log" 2>&1
    code=$?
    if [ "$code" = 124 ] || [ "$code" = 137 ]; then
      echo "| $tool | $name | not finished: out of time |"
    else
      echo "| $tool | $name | $(grep -E 'ERROR SUMMARY|RACECHECK SUMMARY' "$logs/$tool-$name.log" | tail -n 1 | sed 's/^=* *//' || true)$(
        [ "$code" = 0 ] || printf ' **(exit %s)**' "$code") |"
    fi
  done
}

run_sanitizers() {
  say '## compute-sanitizer' ''
  if ! command -v compute-sanitizer >/dev/null; then
    say 'Skipped: compute-sanitizer is not here.' ''
    return
  fi
  if [ "$with_tests" = no ]; then
    say 'Skipped: it runs the tests, which are not built.' ''
    return
  fi
  say '| tool | binary | result |' '| --- | --- | --- |'
  local tool until=$((limit - 5)) pids=()
  for tool in memcheck racecheck synccheck initcheck; do
    sanitize "$tool" "$until" >"$scratch/$tool" &
    pids+=("$!")
  done
  wait "${pids[@]}"
  for tool in memcheck racecheck synccheck initcheck; do cat "$scratch/$tool" >>"$page"; done
  say ''
  grep -q 'exit 9' "$scratch"/memcheck "$scratch"/racecheck "$scratch"/synccheck "$scratch"/initcheck && failed=1
  for tool in memcheck racecheck synccheck initcheck; do
    grep -hE '^=========' "$logs/$tool"-*.log 2>/dev/null | grep -vE 'SUMMARY|COMPUTE-SANITIZER' | head -n 20 >"$scratch/why"
    if [ -s "$scratch/why" ]; then say "$tool:" '' '```' "$(cat "$scratch/why")" '```' ''; fi
  done
}

# The same model by llama.cpp: prompts in chunks of 512 as ours, flash attention, its best of two; beside what `log` says of ours.
run_peer() {
  local name=$1 model=$2 log=$3 until=$4
  say ''
  local options=(-m "$model" -c 40960 -b 2048 -ub 512 -ngl 99 -fa on --output-format jsonl)
  step "$name-prompts" "$((until - SECONDS < 40 ? until - SECONDS : 40))" "$peer" "${options[@]}" -npp 512,512,4096,4096 -ntg 1 -npl 1 ||
    outcome "$?" "$name-prompts"
  step "$name-decode" "$((until - SECONDS < 60 ? until - SECONDS : 60))" "$peer" "${options[@]}" -npp 1024 -ntg 64 -npl 1,1,8,8,32,32 ||
    outcome "$?" "$name-decode"
  say '| work | tokens/s | llama.cpp | ours against it |' '| --- | ---: | ---: | ---: |'
  cat "$logs/$name-prompts.log" "$logs/$name-decode.log" 2>/dev/null |
    sed -nE 's/.*"pp": ([0-9]+),.*"pl": ([0-9]+),.*"speed_pp": ([0-9.]+),.*"speed_tg": ([0-9.]+),.*/\1 \2 \3 \4/p' >"$scratch/peer"
  awk -F' *[|] *' '
    FNR == NR {
      split($0, n, " ")
      if (n[2] == 1 && n[3] > prompt[n[1]]) prompt[n[1]] = n[3]
      if (n[1] == 1024 && n[4] > decode[n[2]]) decode[n[2]] = n[4]
      next
    }
    match($2, /^prefill of [0-9]+/) { theirs = prompt[substr($2, 12)] + 0 }
    match($2, /^decode, batch [0-9]+/) { theirs = decode[substr($2, 15, RLENGTH - 14)] + 0 }
    /^\| (prefill|decode)/ && theirs > 0 { printf "| %s | %s | %.0f | %.2fx |\n", $2, $3, theirs, $3 / theirs }
  ' "$scratch/peer" "$log" >>"$page"
}

run_engine() {
  say '## Engine' '' 'Weights of noise in the shape of Llama 3.1 8B and Llama 3.2 1B; greedy tokens, drawn on the device. The bound of a
decode step is the weights, keys and values at the rate of reads; that of a prompt its products at the rate of mma.sync.' ''
  local model shape type gemm code name until=$1
  for model in "${models[@]}"; do
    read -r shape type gemm <<<"$model"
    name=engine-$shape-$type-$gemm
    if [ "$((until - SECONDS))" -lt 15 ]; then
      say "$model: not run, out of time." ''
      failed=1
      continue
    fi
    step "$name" "$((until - SECONDS < 75 ? until - SECONDS : 75))" "$build/cuda-bench" engine --shape "$shape" --type "$type" \
      --gemm "$gemm" --path "$scratch/model.gguf" --keep 1 ${small[@]+"${small[@]}"}
    code=$?
    grep -E '^(\||\*\*|$)' "$logs/$name.log" >>"$page"
    [ -n "$peer" ] && [ "$code" = 0 ] && [ "$gemm" = own ] && run_peer "peer-$name" "$scratch/model.gguf" "$logs/$name.log" "$until"
    rm -f "$scratch/model.gguf"
    say ''
    outcome "$code" "$name"
  done
}

: >"$page"
say '# CUDA: measured' ''
if [ "$mode" = EMULATED ]; then
  say '**Emulated, no speed: the steps of this page were taken on the emulator, and no time on it means anything.**' ''
else
  say "$(nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,clocks.max.memory,power.limit --format=csv,noheader -i 0)" ''
fi
say "Commit ${PENSTOCK_COMMIT:-$(git rev-parse --short HEAD 2>/dev/null || echo unknown)}, $(date -u +%Y-%m-%dT%H:%MZ), \
$(nvcc --version 2>/dev/null | grep -oE 'V[0-9.]+' || echo 'nvcc not on PATH'), $(c++ --version | head -n 1)" ''

test_names=$(find tests -name 'cuda_*_test.cc' -exec basename {} .cc \; | grep -E "$only" | sort | tr '\n' ' ')
# Of those that launch kernels, what has few enough launches for the sanitizers, which take a hundred times as long; the ones that
# launch none are nothing to them.
kernel_tests=$(tr ' ' '\n' <<<"$test_names" | grep -vE 'model|decoder|engine|serve|graph|cublaslt|ipc|plan|pack' | tr '\n' ' ')
with_tests=yes
step configure 90 cmake -S . -B "$build" "${options[@]}"
code=$?
if [ "$code" != 0 ] && grep -q 'GTest::' "$logs/configure.log"; then
  echo 'GoogleTest is not here: tests are skipped.'
  with_tests=no
  test_names=
  kernel_tests=
  step configure 90 cmake -S . -B "$build" "${options[@]}" -DPENSTOCK_TESTS=OFF
  code=$?
fi
outcome "$code" configure
if [ "$code" = 0 ]; then
  # shellcheck disable=SC2086 # names without spaces, one target each
  step build $((limit > 400 ? limit - 200 : limit / 2)) cmake --build "$build" --parallel "$jobs" --target cuda-bench $test_names \
    -- $keep_going
  outcome "$?" build
fi
peer=
if [ -f "${PENSTOCK_LLAMA_CPP:-}" ] && [ -x "${PENSTOCK_LLAMA_CPP:-}" ]; then
  peer=$PENSTOCK_LLAMA_CPP
elif [ "$code" = 0 ] && [ -n "${PENSTOCK_LLAMA_CPP:-}" ]; then
  # shellcheck disable=SC2016 # expanded by the inner shell
  step peer-build "$((limit / 2))" bash -c 'cmake -S "$1" -B "$2" -DCMAKE_BUILD_TYPE=Release -DGGML_CUDA=ON \
      -DCMAKE_CUDA_ARCHITECTURES="$3" -DBUILD_SHARED_LIBS=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
      -DLLAMA_BUILD_SERVER=OFF -DGGML_CUDA_NCCL=OFF &&
    cmake --build "$2" --parallel "$4" --target llama-batched-bench' \
    peer-build "$PENSTOCK_LLAMA_CPP" "$build/llama.cpp" "${capability:-90}" "$jobs"
  code=$?
  outcome "$code" peer-build
  [ "$code" = 0 ] && peer=$build/llama.cpp/bin/llama-batched-bench
fi
if [ -x "$build/cuda-bench" ]; then
  step facts 40 "$build/cuda-bench" facts ${small[@]+"${small[@]}"}
  code=$?
  [ "$code" = 0 ] && cat "$logs/facts.log" >>"$page"
  say ''
  outcome "$code" facts
fi
run_tests
if [ -x "$build/cuda-bench" ]; then
  say '## Kernels' '' 'Calls replayed as a graph, the best of five rounds, weights and caches cold. The bound is the larger of bytes at
the rate of copies or reads and operations at the rate of mma.sync, both measured above.' ''
  step kernels 100 "$build/cuda-bench" kernels ${small[@]+"${small[@]}"}
  code=$?
  grep '^|' "$logs/kernels.log" >>"$page"
  say ''
  outcome "$code" kernels
fi
if [ -x "$build/cuda-bench" ]; then
  grep -q 'cuBLASLt: found' "$logs/configure.log" && models+=('8b F16 cublaslt')
  # Of what is left, what the sanitizers need at least is theirs.
  run_engine $((limit - 100))
fi
run_sanitizers
say "$SECONDS s of $limit."
echo "$page: $([ "$failed" = 0 ] && echo complete || echo 'something failed or is missing')"
exit "$failed"

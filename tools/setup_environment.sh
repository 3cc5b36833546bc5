#!/usr/bin/env bash
# Makes .venv with everything the project needs. Called by the Makefile; safe to run again at any time: finished steps
# are skipped, an interrupted one is taken up again.
#
# Environment variables, all optional:
#   PYTHON          the interpreter the .venv is made with (default: python3.11, else another 3.10-3.12)
#   VENV            where the environment is made (default: .venv beside this checkout's Makefile)
#   CMT_BIAS_CACHE  where the compiled mmcv wheel is kept (default: ~/.cache/cmt-bias)
#   FORCE_CUDA      1: compile mmcv's CUDA operators, 0: leave them out (default: 1 if torch sees a GPU and nvcc is there)
#   TORCH           the torch to install, such as torch==2.1.2 (default: the one in requirements/build.txt)
#   SPCONV          the spconv to install (default: spconv-cu126==2.3.8 on a GPU that can be used, else the CPU build)
#   REQUIRE_HASHES  0: take what the package index gives, without comparing it with the hashes of the tested files
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
ROOT=$PWD
VENV=${VENV:-$ROOT/.venv}
STATE=$VENV/.setup
# Without a home (a container with an unknown user), or with one that cannot be written to, all stays in the .venv.
CACHE=${CMT_BIAS_CACHE:-${XDG_CACHE_HOME:-${HOME:+$HOME/.cache}}/cmt-bias}
if [ "$CACHE" = /cmt-bias ] || ! mkdir -p "$CACHE" 2>/dev/null || [ ! -w "$CACHE" ]; then CACHE=$STATE/cache; fi
PY=$VENV/bin/python
MMCV_VERSION=2.1.0
TOTAL_STEPS=9
HEARTBEAT_SECONDS=30
STEP=0
CHILD=
CONSTRAINTS=

export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

fail() {
    printf '\nset-up: %s\n' "$1" >&2
    shift
    printf '        %s\n' "$@" >&2
    exit 1
}

stop_child() {
    [ -z "$CHILD" ] || kill "$CHILD" 2>/dev/null || true
    exit 130
}
trap stop_child INT TERM

duration() {
    local seconds=$1
    if [ "$seconds" -ge 60 ]; then
        printf '%d min %02d s' $((seconds / 60)) $((seconds % 60))
    else
        printf '%d s' "$seconds"
    fi
}

# What a running step has reached, as far as its log tells: "[n/m]" from the compiler, or the package pip works on.
progress_of() {
    local log=$1 compiled package
    compiled=$(grep -oE '^ *\[[0-9]+/[0-9]+\]' "$log" 2>/dev/null | tail -n 1 | tr -d ' []' || true)
    if [ -n "$compiled" ]; then
        printf ', compiled %s files' "$compiled"
        return
    fi
    package=$(grep -oE '^ *(Collecting|Downloading|Building wheels? for|Installing collected) [a-zA-Z0-9_.]+' "$log" 2>/dev/null |
        tail -n 1 || true)
    # shellcheck disable=SC2086
    [ -z "$package" ] || printf ', %s' "$(echo $package)"
}

# run_logged LOG COMMAND...: the command with its output in LOG and a sign of life on the terminal.
run_logged() {
    local log=$1 started=$SECONDS next=$HEARTBEAT_SECONDS status=0
    shift
    "$@" >>"$log" 2>&1 </dev/null &
    CHILD=$!
    while kill -0 "$CHILD" 2>/dev/null; do
        sleep 0.2
        if [ $((SECONDS - started)) -ge "$next" ]; then
            printf '      ... working for %s%s\n' "$(duration $((SECONDS - started)))" "$(progress_of "$log")"
            next=$((next + HEARTBEAT_SECONDS))
        fi
    done
    wait "$CHILD" || status=$?
    CHILD=
    return $status
}

# pip writes a distribution's RECORD last: a distribution without one was cut off, and pip would take it for installed.
remove_half_installed() {
    "$PY" - <<'PYTHON'
import pathlib, shutil, sysconfig
for name in {'purelib', 'platlib'}:
    folder = pathlib.Path(sysconfig.get_path(name))
    for info in folder.glob('*.dist-info'):
        if not (info / 'RECORD').exists():
            shutil.rmtree(info)
    for leftover in folder.glob('~*'):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
PYTHON
}

# step NAME "what it does, and how long" "files it depends on" FUNCTION
step() {
    local name=$1 title=$2 inputs=$3 function=$4 digest log=$STATE/$1.log started=$SECONDS
    STEP=$((STEP + 1))
    # shellcheck disable=SC2086
    digest=$({ echo "$name $ROOT ${FORCE_CUDA:-} ${SPCONV:-} ${TORCH:-}"; cat $inputs /dev/null; } | cksum)
    if [ -f "$STATE/$name.done" ] && [ "$(cat "$STATE/$name.done")" = "$digest" ]; then
        return 0
    fi
    printf '[%d/%d] %s\n' "$STEP" "$TOTAL_STEPS" "$title"
    rm -f "$STATE/$name.done"
    if [ -f "$STATE/interrupted" ]; then
        remove_half_installed
    fi
    echo "$name" >"$STATE/interrupted"
    : >"$log"
    if ! "$function" "$log"; then
        tail -n 30 "$log" >&2
        fail "the step \"$title\" failed; the last lines of its log are above." \
            "Whole log: $log" "After mending the cause, run the same command again: it goes on from here."
    fi
    rm -f "$STATE/interrupted"
    echo "$digest" >"$STATE/$name.done"
    printf '      done in %s\n' "$(duration $((SECONDS - started)))"
}

python_fits() {
    "$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1
}

find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        python_fits "$PYTHON" || fail "PYTHON=$PYTHON does not run, is not Python 3.10-3.12, or lacks the venv module." \
            "Give another one, or none: then python3.11 is looked for."
        echo "$PYTHON"
        return
    fi
    for candidate in python3.11 python3.12 python3.10 python3 python; do
        if python_fits "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    fail "no usable Python found: 3.11 is wanted (3.10 and 3.12 do), with its venv module." \
        "Debian, Ubuntu: sudo apt install python3.11 python3.11-venv python3.11-dev" \
        "or name one: PYTHON=/path/to/python3.11 make demo"
}

make_venv() {
    local python
    if [ -x "$PY" ] && "$PY" -m pip --version >/dev/null 2>&1 && python_fits "$PY"; then
        return
    fi
    python=$(find_python)
    printf 'Making %s with %s\n' "$VENV" "$("$python" --version 2>&1)"
    "$python" -m venv --clear "$VENV"
}

pip_install() {
    local log=$1
    shift
    PIP_CONSTRAINT=$CONSTRAINTS run_logged "$log" "$PY" -m pip install "$@"
}

install_pip() { pip_install "$1" -U 'pip>=24,<26'; }

install_torch() { pip_install "$1" "${TORCH:-$(grep '^torch==' requirements/build.txt)}"; }

# The tested files, each compared with its hash; what follows then finds them installed.
install_locked() {
    local left_out='^$'
    # On a GPU spconv is another build, with its own cumm.
    if [ -n "${SPCONV:-}" ] || gpu_is_there; then left_out='^(spconv|cumm)=='; fi
    awk -v left_out="$left_out" '/^[A-Za-z0-9]/ { keep = $0 !~ left_out } /^#/ { keep = 0 } keep' \
        requirements/hashes-python311.txt >"$STATE/hashes.txt"
    run_logged "$1" "$PY" -m pip install --require-hashes --no-deps -r "$STATE/hashes.txt"
}

install_build_tools() {
    grep -v '^torch==' requirements/build.txt >"$STATE/build.txt"
    pip_install "$1" -r "$STATE/build.txt"
}

# operators_work CUDA: mmcv installs without complaint when nothing was compiled, so only a call of an operator tells.
operators_work() {
    "$PY" - "$MMCV_VERSION" "$1" >/dev/null 2>&1 <<'PYTHON'
import sys
import mmcv, torch
from mmcv.ops import Voxelization
assert mmcv.__version__ == sys.argv[1]
layer = Voxelization([1.0, 1.0, 1.0], [0, 0, 0, 4, 4, 4], max_num_points=2, max_voxels=4)
for device in ['cpu', 'cuda'] if sys.argv[2] == '1' and torch.cuda.is_available() else ['cpu']:
    assert len(layer(torch.full((3, 4), 0.5, device=device))[0]) == 1
PYTHON
}

gpu_is_there() { "$PY" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; }

# 1 or 0: whether to compile mmcv's CUDA operators.
cuda_operators_wanted() {
    if [ -n "${FORCE_CUDA:-}" ]; then
        echo "$FORCE_CUDA"
    elif command -v nvcc >/dev/null && gpu_is_there; then
        echo 1
    else
        echo 0
    fi
}

require_compiler() {
    local header
    command -v c++ >/dev/null || command -v g++ >/dev/null || fail "no C++ compiler found; mmcv's operators are compiled." \
        "Debian, Ubuntu: sudo apt install build-essential"
    header=$("$PY" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h
    [ -f "$header" ] || fail "$header is missing; mmcv's operators are compiled against it." \
        "Debian, Ubuntu: sudo apt install python3-dev (of the same version as $("$PY" --version))"
}

# wheel_folder CUDA: where the wheel for this Python, torch and machine is kept.
wheel_folder() {
    "$PY" - "$CACHE" "$1" <<'PYTHON'
import os, platform, sys, torch
key = f'cp{sys.version_info[0]}{sys.version_info[1]}-torch{torch.__version__}-{platform.machine()}'
print(os.path.join(sys.argv[1], 'wheels', key + ('-cuda' if sys.argv[2] == '1' else '')))
PYTHON
}

# build_mmcv LOG FOLDER CUDA: the wheel appears in FOLDER whole or not at all.
build_mmcv() {
    local log=$1 folder=$2 cuda=$3 build_folder
    build_folder=$(mktemp -d)
    if ! build_mmcv_wheel "$log" "$build_folder" "$cuda"; then
        rm -rf "$build_folder"
        return 1
    fi
    mkdir -p "$folder"
    cp "$build_folder"/mmcv-*.whl "$folder/.partial"
    mv "$folder/.partial" "$folder/$(basename "$build_folder"/mmcv-*.whl)"
    rm -rf "$build_folder"
}

build_mmcv_wheel() {
    local source="mmcv==$MMCV_VERSION"
    # From 2.14 on torch's headers are C++20, and mmcv asks for C++17.
    if "$PY" -c 'import sys, torch; sys.exit(torch.__version__ < "2.14")'; then
        run_logged "$1" "$PY" -m pip download --no-build-isolation --no-deps --no-binary mmcv -d "$2" "$source" || return 1
        tar -xf "$2/mmcv-$MMCV_VERSION.tar.gz" -C "$2" || return 1
        source=$2/mmcv-$MMCV_VERSION
        sed -i 's/-std=c++17/-std=c++20/' "$source/setup.py" || return 1
    fi
    # pip's own cache knows the Python that a wheel was built for, but neither the torch nor the operators.
    MMCV_WITH_OPS=1 FORCE_CUDA=$3 run_logged "$1" "$PY" -m pip wheel -v --no-build-isolation --no-deps --no-cache-dir \
        -w "$2" "$source"
}

install_mmcv() {
    local log=$1 cuda folder
    cuda=$(cuda_operators_wanted)
    folder=$(wheel_folder "$cuda")
    # Operators made for another torch may run, and be wrong.
    if [ "$(cat "$STATE/mmcv_made_for" 2>/dev/null || basename "$folder")" = "$(basename "$folder")" ] &&
        operators_work "$cuda"; then
        return
    fi
    if ls "$folder"/mmcv-"$MMCV_VERSION"-*.whl >/dev/null 2>&1; then
        install_mmcv_wheel "$log" "$folder" || return 1
        if operators_work "$cuda"; then
            return
        fi
        printf '      the kept wheel does not work with this torch: compiling anew\n'
        rm -f "$folder"/mmcv-*.whl
    fi
    require_compiler
    build_mmcv "$log" "$folder" "$cuda" || return 1
    install_mmcv_wheel "$log" "$folder" || return 1
    operators_work "$cuda"
}

install_mmcv_wheel() {
    pip_install "$1" --force-reinstall --no-deps "$2"/mmcv-"$MMCV_VERSION"-*.whl &&
        pip_install "$1" "$2"/mmcv-"$MMCV_VERSION"-*.whl && basename "$2" >"$STATE/mmcv_made_for"
}

# Without nvcc mmcv has no CUDA operators, and a GPU that torch sees would only make every run fail: hide it then.
choose_device() {
    : >"$STATE/run_environment"
    if ! gpu_is_there; then
        return
    fi
    if operators_work 1; then
        [ -n "${SPCONV:-}" ] || SPCONV=spconv-cu126==2.3.8
        return
    fi
    echo 'CUDA_VISIBLE_DEVICES=' >"$STATE/run_environment"
    printf '      There is a GPU, but no CUDA toolkit (nvcc) that mmcv could be compiled with: make runs all on the CPU.\n'
    printf '      To use the GPU, install the toolkit, then: FORCE_CUDA=1 make setup\n'
}

install_stack() {
    local SPCONV=${SPCONV:-} # what is found for this GPU is no choice that the other steps depend on
    choose_device
    if [ -n "${SPCONV:-}" ]; then
        grep -v '^spconv' requirements/mminstall.txt >"$STATE/mminstall.txt"
        pip_install "$1" -r "$STATE/mminstall.txt" "$SPCONV"
    else
        pip_install "$1" -r requirements/mminstall.txt
    fi
}

install_requirements() { pip_install "$1" -r requirements/runtime.txt -r requirements/tests.txt; }

install_project() { pip_install "$1" -e . --no-deps --no-build-isolation; }

check_environment() {
    # shellcheck disable=SC2046
    run_logged "$1" env $(cat "$STATE/run_environment") "$PY" tools/doctor.py
}

# choice NAME: the environment variable, or what it was at an earlier call, so that plain `make test` keeps it.
choice() {
    local name=$1 kept=$STATE/choice_$1
    if [ -n "${!name:-}" ]; then
        echo "${!name}" >"$kept"
    elif [ -f "$kept" ]; then
        printf -v "$name" '%s' "$(cat "$kept")"
    fi
}

# The first line: what is to come. Nothing where nothing is left to do.
announce() {
    [ ! -f "$STATE/check.done" ] || return 0
    local cores minutes python=$PY tag torch
    cores=$(nproc 2>/dev/null || echo 2)
    minutes=$((4 + 22 / cores))
    # Is there a wheel for this Python and torch? Begins as in wheel_folder, which needs both installed.
    [ -x "$PY" ] || python=$(find_python 2>/dev/null) || true
    tag=$("$python" -c 'import sys; print("cp%d%d" % sys.version_info[:2])' 2>/dev/null) || true
    torch=${TORCH:-$(cat "$STATE/choice_TORCH" 2>/dev/null || grep '^torch==' requirements/build.txt || true)}
    if ls "$CACHE/wheels/$tag-${torch/==/}"*/mmcv-"$MMCV_VERSION"-*.whl >/dev/null 2>&1; then minutes=5; fi
    printf 'Set-up: about %d minutes; all %d cores while mmcv is compiled, 1 GB of downloads, 4 GB in %s, a wheel in %s.\n' \
        "$minutes" "$cores" "$VENV" "$CACHE"
}

main() {
    local stack
    announce
    make_venv
    mkdir -p "$STATE"
    if command -v flock >/dev/null; then
        exec 9>"$STATE/lock"
        flock -n 9 || { printf 'Waiting for another set-up of %s to finish\n' "$VENV"; flock 9; }
    fi
    choice FORCE_CUDA
    choice SPCONV
    choice TORCH
    # The lock is of the default torch: what was chosen has to be known here.
    CONSTRAINTS=requirements/constraints.txt
    LOCKED=
    if "$PY" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' && [ -z "${TORCH:-}" ]; then
        CONSTRAINTS="$CONSTRAINTS requirements/lock-python311.txt"
        [ "${REQUIRE_HASHES:-1}" = 0 ] || LOCKED=1
    fi
    stack="$CONSTRAINTS requirements/build.txt requirements/mminstall.txt"
    step pip 'pip (seconds)' '' install_pip
    step torch 'torch (200 MB without CUDA: about a minute)' requirements/build.txt install_torch
    if [ -n "$LOCKED" ]; then
        step locked 'the tested packages, compared with their hashes (about 2 minutes)' \
            requirements/hashes-python311.txt install_locked
    else
        STEP=$((STEP + 1))
    fi
    step build 'what mmcv is built with (seconds)' requirements/build.txt install_build_tools
    step mmcv "mmcv $MMCV_VERSION with compiled operators (11 minutes on 2 cores; seconds if its wheel is kept)" \
        "$stack" install_mmcv
    step stack 'mmengine, mmdet, mmdet3d, spconv (about 3 minutes)' "$stack" install_stack
    step requirements 'further requirements, test and lint tools (about a minute)' \
        "$stack requirements/runtime.txt requirements/tests.txt" install_requirements
    step project 'cmt-bias itself, editable, with its C++ loop (seconds)' 'setup.py projects/cmt_bias/ops/cpu_kernel.cpp' \
        install_project
    step check 'check of the environment (seconds)' "$stack requirements/runtime.txt requirements/tests.txt" \
        check_environment
}

main

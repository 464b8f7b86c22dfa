#!/usr/bin/env bash
# bash build/gpu-check/run.sh [DEVICE [CHECK...]]
# Runs what `bash build.sh gpu-check` packed on a machine that has a Python with torch, g++ and no .NET. DEVICE is cuda, or cpu for a dry run; without a CHECK all run.
# LIBTORCH names the libtorch; without it, that of python3 (PEFT_CHECK_PYTHON names another), else the one that the system installed.
set -euo pipefail

device="${1:-cuda}"
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
export PEFT_CHECK_PYTHON="${PEFT_CHECK_PYTHON:-python3}" HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

libtorch="${LIBTORCH:-$("$PEFT_CHECK_PYTHON" -c 'import os, torch; print(os.path.dirname(torch.__file__))' 2>/dev/null || true)}"
mkdir -p "$work/program" "$work/golden"
tar -xJf "$root/artifacts/gpu-check.tar.xz" -C "$work/program"
for domain in adapters families diffusion; do tar -xzf "$root/tests/golden/$domain.tar.gz" -C "$work/golden"; done
cp -r "$root/assets" "$root/README.md" "$root/build/gpu-check/peft_speed.py" "$work"
echo "Compiling the shim against ${libtorch:-the installed libtorch} ..."
bash "$root/src/TorchSharp.SystemLibtorch/native/build.sh" "$work/program/libPeftTorchShim.so" "$libtorch"
"$work/program/GpuCheck" "$work" "$device" "${@:2}"

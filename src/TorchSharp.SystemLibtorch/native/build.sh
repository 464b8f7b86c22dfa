#!/usr/bin/env bash
# bash build.sh LIBRARY [LIBTORCH]
# Compiles the shim: against the libtorch of a folder (an unpacked zip, or the torch folder of a Python installation), else against the
# one that the system's package manager installed.
set -euo pipefail

library="$1" libtorch="${2:-}"
options=(-O2 -fPIC -shared -fvisibility=hidden -Wall -Wextra)
standard=17

if [[ -n "$libtorch" ]]; then
    if [[ ! -f "$libtorch/include/ATen/ATen.h" || ! -f "$libtorch/lib/libtorch_cpu.so" ]]; then
        echo "shim : error PEFT0002: LIBTORCH=$libtorch has no include/ATen/ATen.h and lib/libtorch_cpu.so. It is to name an unpacked libtorch with its headers, or the torch folder of a Python installation."
        exit 1
    fi
    libtorch="$(cd "$libtorch" && pwd)"
    options+=(-isystem "$libtorch/include" -L "$libtorch/lib" "-Wl,-rpath,$libtorch/lib")

    # Newer headers ask for a newer C++, and say so.
    grep -q 'C++20 or later' "$libtorch/include/ATen/ATen.h" && standard=20

    # Python's wheels of torch before 2.7 have the strings of an older C++ library in their functions' names.
    LC_ALL=C grep -qa 'torchCheckFailEPKcS2_jRKSs' "$libtorch/lib/libc10.so" && options+=(-D_GLIBCXX_USE_CXX11_ABI=0)
fi

# The kernels of a GPU are registered by a library that nothing here refers to.
libraries=(-ltorch_cpu -lc10)
for gpu in torch_cuda torch_hip; do
    [[ -n "$libtorch" && -f "$libtorch/lib/lib$gpu.so" ]] && libraries+=(-Wl,--no-as-needed "-l$gpu" -Wl,--as-needed)
done

mkdir -p "$(dirname "$library")"
"${CXX:-g++}" "-std=c++$standard" "${options[@]}" "$(dirname "${BASH_SOURCE[0]}")/shim.cpp" -o "$library.new" "${libraries[@]}"
mv "$library.new" "$library"

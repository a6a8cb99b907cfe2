#!/usr/bin/env bash
# Compiles digest.cu to digest_ptx.h and to python/weightcast/digest.ptx, which are checked in so that addon and package
# are built without a CUDA toolkit.
# Needs nvcc of CUDA 12 or 13. The kernel uses nothing newer than PTX 6.3 and sm_70, but nvcc names its own version in
# what it writes, and drivers refuse PTX of a later version than theirs: so the two lines are set back, and ptxas shows
# that the text is still sound.
set -euo pipefail
cd "$(dirname "$0")"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

nvcc -std=c++17 -O3 --ptx -arch=compute_75 digest.cu -o "$scratch/digest.ptx"
sed -i -e 's/^\.version .*/.version 6.3/' -e 's/^\.target .*/.target sm_70/' -e '/^\/\//d' -e '/^$/d' "$scratch/digest.ptx"
for arch in sm_75 sm_80 sm_90 sm_100 sm_120; do
  ptxas -arch=$arch "$scratch/digest.ptx" -o /dev/null
done
{
  echo '#pragma once'
  echo
  echo '/// Made by build.sh from digest.cu; not to be edited.'
  echo "/// SHA-256 of digest.cu: $(sha256sum digest.cu | cut -d' ' -f1)"
  echo
  echo 'namespace weightcast::cuda {'
  echo
  printf 'inline constexpr char kDigestPtx[] = R"ptx('
  cat "$scratch/digest.ptx"
  echo ')ptx";'
  echo
  echo '}  // namespace weightcast::cuda'
} >digest_ptx.h
cp "$scratch/digest.ptx" ../../../../python/weightcast/digest.ptx

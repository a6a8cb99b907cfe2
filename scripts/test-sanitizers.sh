#!/usr/bin/env bash
# The addon's tests under AddressSanitizer and UndefinedBehaviorSanitizer, or with `thread` as the first argument under
# ThreadSanitizer. Builds a second addon in build/sanitizers-*/.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
checks=address,undefined
runtimes=(libasan.so libubsan.so)
if [ "${1:-}" = thread ]; then
  shift
  checks=thread
  runtimes=(libtsan.so)
fi
tree=$root/build/sanitizers-${checks%%,*}

# node-gyp builds in one place only, so the second build has a tree of its own. Copies keep their times, so make sees what changed.
mkdir -p "$tree"
rm -rf "$tree/native"
cp -a native binding.gyp package.json "$tree/"
ln -sfn "$root/node_modules" "$tree/node_modules"
(
  cd "$tree"
  export CXXFLAGS="-fsanitize=$checks -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g1 -O1"
  # Templates of the C++ library come from the addon: node has some too, whose atomics ThreadSanitizer does not see.
  export LDFLAGS="-fsanitize=$checks -Wl,-Bsymbolic-functions"
  node-gyp configure build -j max >make.log 2>&1 || { cat make.log; exit 1; }
)

node scripts/compile-tests.mjs

# Node is not built with sanitizers: their runtime has to be there before it, and what Node itself leaks is not ours.
LD_PRELOAD=$(for runtime in "${runtimes[@]}"; do printf '%s:' "$(g++ -print-file-name="$runtime")"; done)
export LD_PRELOAD=${LD_PRELOAD%:}
export ASAN_OPTIONS=detect_leaks=0:abort_on_error=1:handle_segv=0
export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
export TSAN_OPTIONS=suppressions=$root/scripts/thread-sanitizer.txt:report_signal_unsafe=0:halt_on_error=1:exitcode=66
# The fakes of the tests are built alike.
export WEIGHTCAST_TEST_SANITIZERS=$checks
export WEIGHTCAST_ADDON="$tree/build/Release/weightcast.node"
node scripts/test.mjs "${@:-test/native}"

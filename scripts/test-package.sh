#!/usr/bin/env bash
# Packs the npm package, installs it where there is no compiler, and runs its command and its library. Ends with 77 where no
# package index can be reached.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

npm pack --silent --pack-destination "$scratch" >"$scratch/said"
package=$scratch/$(tail -1 "$scratch/said")
echo "$(basename "$package"): $(stat -c %s "$package") bytes"

# What npm itself needs, and nothing that compiles.
mkdir "$scratch/bin" "$scratch/app"
for tool in node npm sh env; do ln -s "$(readlink -f "$(command -v $tool)")" "$scratch/bin/$tool"; done
registry=$(npm config get registry)
alone() { env -i HOME="$scratch" PATH="$scratch/bin" npm_config_registry="$registry" "$@"; }
cd "$scratch/app"
echo '{ "name": "app", "type": "module" }' >package.json
npm ping --silent --fetch-retries=1 >/dev/null 2>&1 || { echo "no npm registry can be reached" >&2; exit 77; }
alone npm install --silent --no-audit --no-fund "$package"
if [ -e node_modules/weightcast/build ]; then echo "it was compiled"; exit 1; fi
alone node node_modules/weightcast/dist/src/cli/main.js doctor
alone node --input-type=module -e '
  import { Cluster } from "weightcast";
  // Starting asks nothing of the engine.
  const instances = [{ name: "none", endpoint: "http://127.0.0.1:9", ranks: [0] }];
  const cluster = await Cluster.start({ ranks: 1, instances, devices: { kind: "host", namespace: process.argv[1] } });
  await cluster.stop();
' "package-$$"
echo "the package works as it was built"

# Its declarations stand alone: no types of Node.js are installed or named beside it.
cat >app.ts <<'TYPESCRIPT'
import { Cluster, type UpdateReport } from 'weightcast';

const cluster = await Cluster.start({ ranks: 1, instances: [{ name: 'a', endpoint: 'http://127.0.0.1:9', ranks: [0] }] });
const report: UpdateReport = await cluster.update('step-100');
await cluster.stop();
export const outcomes: string[] = report.instances.map(({ outcome }) => outcome);
TYPESCRIPT
node "$root/node_modules/typescript/bin/tsc" --noEmit --strict --module nodenext app.ts
echo "its declarations stand alone"

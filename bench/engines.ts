/**
 * `npm run bench:engines -- --only NAME...`: whether a real vLLM on a GPU answers after updates as one that was started
 * with the weights, and how long the updates take. WEIGHTCAST_PYTHON names a Python with vLLM 0.17 or newer, msgpack and
 * pyzmq, and checkpoint-engine for the row of its own extension; rows of more GPUs than there are run only if they are named.
 * Rows are added to those of earlier runs. `--parallel N`: rows at once, each with two engines, or three; default 2.
 * WEIGHTCAST_BENCH_LOGS names a folder for what engines log and hold, WEIGHTCAST_COMMIT the commit where there is no repository.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { probeCuda } from '../src/native-bridge/probe.ts';
import { packageRoot } from '../src/package-root.ts';
import { Row } from './engines/row.ts';
import { type Family, rows } from './engines/rows.ts';
import { writeRow } from './engines/table.ts';
import { gpuEnvironment } from './gpu/environment.ts';

const { values } = parseArgs({
  options: { only: { type: 'string', multiple: true }, parallel: { type: 'string', default: '2' } },
});
const python = process.env.WEIGHTCAST_PYTHON ?? 'python3';
const gpus = probeCuda().devices.length;
const wanted = rows.filter(({ name, gpus: needed = 1 }) => values.only?.includes(name) ?? needed <= gpus);
const unknown = values.only?.filter((name) => !rows.some((row) => row.name === name)) ?? [];
if (unknown.length > 0)
  throw new Error(`--only ${unknown[0]}: there are ${rows.map(({ name }) => name).join(', ')}`);
const scratch = mkdtempSync(`${tmpdir()}/weightcast-engines-`);

function writeModels(families: ReadonlySet<Family>): void {
  const script = fileURLToPath(new URL('bench/engines/models.py', packageRoot));
  execFileSync(python, [script, scratch, ...families], { stdio: ['ignore', 'inherit', 'ignore'] });
}

function environment(): string[] {
  const version = execFileSync(python, ['-c', 'import importlib.metadata as m; print(m.version("vllm"))']);
  return [...gpuEnvironment(true), `vLLM: ${version.toString().trim()}`];
}

async function runNext(waiting: Row[], measuredOn: readonly string[]): Promise<void> {
  for (let row = waiting.shift(); row !== undefined; row = waiting.shift()) {
    const outcome = await row.run();
    writeRow(outcome, measuredOn);
    console.log(JSON.stringify(outcome));
  }
}

try {
  writeModels(new Set(wanted.map(({ family }) => family)));
  const waiting = wanted.map((settings) => new Row(settings, { python, models: scratch }));
  const measuredOn = environment();
  await Promise.all(Array.from({ length: Number(values.parallel) }, () => runNext(waiting, measuredOn)));
} finally {
  rmSync(scratch, { recursive: true, force: true });
}

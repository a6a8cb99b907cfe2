/**
 * `npm run bench:engine-loader`: what vLLM's real loader costs a worker for each tensor of a model with 128 experts, in
 * weightcast's buckets and in vLLM's own reload of the same tensors, in the same run. WEIGHTCAST_PYTHON names a Python with
 * vLLM 0.22 or newer.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { loadavg, tmpdir } from 'node:os';
import { fileURLToPath } from 'node:url';
import { packageRoot } from '../src/package-root.ts';
import { writeReport } from './report.ts';

/** Tensors: as in buckets of 128 and 512 MiB of Kimi-K2 in FP8. */
const buckets = [18, 72];

const python = process.env.WEIGHTCAST_PYTHON ?? 'python3';
const script = fileURLToPath(new URL('bench/engines/loading.py', packageRoot));
const scratch = mkdtempSync(`${tmpdir()}/weightcast-loader-`);

interface Measured {
  readonly tensors: number;
  readonly microseconds: Readonly<Record<string, number>>;
}

function measure(): Measured {
  const packages = fileURLToPath(new URL('python', packageRoot));
  const output = execFileSync(python, [script, scratch, ...buckets.map(String)], {
    env: { ...process.env, PYTHONPATH: packages },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  return JSON.parse(output.toString().trim().split('\n').at(-1)!) as Measured;
}

try {
  const { tensors, microseconds } = measure();
  const { vllm } = microseconds;
  const version = execFileSync(python, ['-c', 'import importlib.metadata as m; print(m.version("vllm"))']);
  writeReport({
    name: 'engine-loader',
    title: "What vLLM's loader takes for a tensor",
    command: 'npm run bench:engine-loader',
    method: `Processor time of the worker's process for one reload of a Qwen3-MoE of 128 experts and 12 layers, ${tensors} tiny tensors, on the CPU: vLLM's own layerwise reload in one call, and weightcast's update in buckets of so many tensors; in turns, the least of five each. With reads recorded the worker sees which part of each tensor the loaders read, as in the first update of a layout, and in each update by parts. Next to nothing of it is copying: it is what Python takes for a tensor, on a GPU's host as here. Experts on a CPU are refused by weightcast, since vLLM packs them once; here that is left out.`,
    environment: [
      `load of the machine in the last minute: ${loadavg()[0]!.toFixed(1)}`,
      `vLLM: ${version.toString().trim()}`,
    ],
    figures: [
      { name: "vLLM's own reload, one tensor", value: vllm!, unit: 'µs' },
      ...buckets.flatMap((size) => {
        const taken = microseconds[size]!;
        return [
          { name: `buckets of ${size}, one tensor`, value: taken, unit: 'µs' },
          { name: `buckets of ${size} / vLLM's own`, value: taken / vllm!, unit: '', atMost: 1.25 },
          {
            name: `buckets of ${size}, reads recorded`,
            value: microseconds[`${size} recorded`]!,
            unit: 'µs',
          },
        ];
      }),
    ],
  });
} finally {
  rmSync(scratch, { recursive: true, force: true });
}

import assert from 'node:assert/strict';
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { torchForm } from '../../src/engines/worker-link/torch-form.ts';
import type { WorkerLink } from '../../src/engines/worker-link/worker-link.ts';
import type { Scope } from '../checkpoint/safetensors-files.ts';
import { runPython } from './python-interpreter.ts';

const root = fileURLToPath(packageRoot);

/** Where a program of test/gpu/workers misbehaves. */
export interface WorkerFault {
  readonly at: number | 'post-hook';
  readonly does: 'raise' | 'die' | 'hang' | 'wait' | 'keep';
}

export interface Ended {
  readonly ended: string;
  readonly message?: string;
  readonly result?: unknown;
  /** When each bucket was loaded: start and end, milliseconds of the monotonic clock. */
  readonly loads?: readonly (readonly [number, number])[];
}

/** An engine worker in Python (test/gpu/workers/engine_stub.py says what it understands). */
export class PythonWorker {
  readonly process: ChildProcessWithoutNullStreams;
  readonly #lines: AsyncIterator<string>;
  #errors = '';

  private constructor(t: Scope, program: string, values: readonly string[], env: NodeJS.ProcessEnv) {
    const path = join(root, 'test/gpu/workers', program);
    const packages = [join(root, 'python'), process.env.PYTHONPATH].filter(Boolean).join(':');
    this.process = spawn(process.env.WEIGHTCAST_PYTHON!, [path, ...values], {
      env: { ...process.env, PYTHONPATH: packages, ...env },
    });
    this.process.stderr.on('data', (data) => {
      this.#errors += data;
    });
    this.#lines = createInterface(this.process.stdout)[Symbol.asyncIterator]();
    t.after(() => this.kill());
  }

  /** Resolves when it takes commands. */
  static async start(
    t: Scope,
    program: string,
    values: readonly string[],
    env: NodeJS.ProcessEnv = {},
  ): Promise<PythonWorker> {
    const worker = new PythonWorker(t, program, values, env);
    assert.deepEqual(await worker.next(), { ready: true });
    return worker;
  }

  command(command: object): void {
    this.process.stdin.write(`${JSON.stringify(command)}\n`);
  }

  /** The next thing it says. */
  async next<T = unknown>(): Promise<T> {
    const { value, done } = await this.#lines.next();
    if (done) assert.fail(`the worker has ended: ${this.#errors}`);
    return JSON.parse(value) as T;
  }

  /** How its exchange ends; what it says before is passed over. */
  async ended(): Promise<Ended> {
    for (;;) {
      const said = await this.next<object>();
      if ('ended' in said) return said as Ended;
    }
  }

  async compare(tensors: readonly TestTensor[]): Promise<{ equal: number; wrong: string[] }> {
    const directory = mkdtempSync(join(tmpdir(), 'weightcast-test-'));
    try {
      this.command({ compare: writeExpected(directory, tensors) });
      return await this.next();
    } finally {
      rmSync(directory, { recursive: true, force: true });
    }
  }

  async kill(): Promise<void> {
    if (this.process.exitCode !== null || this.process.signalCode !== null) return;
    const exited = once(this.process, 'exit');
    this.process.kill('SIGKILL');
    await exited;
  }
}

export interface TestTensor {
  readonly name: string;
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly data: Uint8Array;
}

function writeExpected(directory: string, tensors: readonly TestTensor[]): string {
  let offset = 0;
  const rows = tensors.map((tensor) => {
    const bytes = tensor.data.byteLength;
    const row = { name: tensor.name, ...torchForm(tensor), offset, bytes };
    offset += bytes;
    return row;
  });
  const data = join(directory, 'data');
  writeFileSync(data, Buffer.concat(tensors.map((tensor) => tensor.data)));
  const path = join(directory, 'expected.json');
  writeFileSync(path, JSON.stringify({ data, tensors: rows }));
  return path;
}

/**
 * Sends tensors as a rank does: packed into buckets, which go through the two halves of a link buffer in turn. `write`
 * puts bytes into it.
 */
export async function sendBuckets(
  link: WorkerLink,
  bufferBytes: number,
  write: (offset: number, data: Uint8Array) => void | Promise<void>,
  tensors: readonly TestTensor[],
): Promise<void> {
  const slotBytes = bufferBytes / 2;
  for (const [index, bucket] of packed(tensors, slotBytes).entries()) {
    const base = (index % 2) * slotBytes;
    for (const { data, offset } of bucket) await write(base + offset, data);
    const announced = bucket.map(({ name, dtype, shape, offset }) => ({
      name,
      dtype,
      shape,
      offset: base + offset,
    }));
    await link.load(announced);
  }
}

type PackedTensor = TestTensor & { readonly offset: number };

function packed(tensors: readonly TestTensor[], slotBytes: number): PackedTensor[][] {
  const buckets: PackedTensor[][] = [];
  let end = Number.POSITIVE_INFINITY;
  for (const tensor of tensors) {
    const bytes = tensor.data.byteLength;
    assert.ok(bytes <= slotBytes, 'a tensor fits a slot');
    if (end + bytes > slotBytes) {
      buckets.push([]);
      end = 0;
    }
    buckets.at(-1)!.push({ ...tensor, offset: end });
    end = Math.ceil((end + bytes) / 256) * 256;
  }
  return buckets;
}

const findInstalled = `
import importlib.util, json, os, sys
spec = importlib.util.find_spec("checkpoint_engine")
folder = spec.submodule_search_locations[0] if spec else None
print(json.dumps(folder and os.path.join(folder, "worker.py")))
`;

import { packageRoot } from '../../src/package-root.ts';

/**
 * The path of checkpoint-engine's `worker.py`, of version 0.4.0 or later, or null: what
 * WEIGHTCAST_CHECKPOINT_ENGINE names (the file, or a checkout of the project), or what is installed.
 */
export function originalWorker(): string | null {
  const named = process.env.WEIGHTCAST_CHECKPOINT_ENGINE;
  if (named === undefined)
    return process.env.WEIGHTCAST_PYTHON ? (runPython(findInstalled, null) as string) : null;
  const path = named.endsWith('.py') ? named : join(named, 'checkpoint_engine/worker.py');
  assert.ok(existsSync(path), `WEIGHTCAST_CHECKPOINT_ENGINE: there is no ${path}`);
  return path;
}

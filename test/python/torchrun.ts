import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { type AddressInfo, createServer } from 'node:net';
import { delimiter } from 'node:path';
import { fileURLToPath } from 'node:url';
import { packageRoot } from '../../src/package-root.ts';
import type { TestScope } from './engine-worker.ts';

export interface Torchrun {
  readonly output: () => string;
  readonly ended: Promise<{ readonly status: number | null; readonly output: string }>;
}

/** `torchrun --nproc-per-node RANKS …` with this repository's package; it ends with the test. */
export async function torchrun(
  t: TestScope,
  ranks: number,
  words: readonly string[],
  environment: Readonly<Record<string, string>>,
): Promise<Torchrun> {
  const port = await pairOfFreePorts();
  const options = [
    '--nproc-per-node',
    String(ranks),
    '--master-addr',
    '127.0.0.1',
    '--master-port',
    String(port),
  ];
  const packages = [fileURLToPath(new URL('python', packageRoot)), process.env.PYTHONPATH].filter(Boolean);
  const child = spawn(process.env.WEIGHTCAST_PYTHON!, ['-m', 'torch.distributed.run', ...options, ...words], {
    env: { ...process.env, PYTHONPATH: packages.join(delimiter), OMP_NUM_THREADS: '1', ...environment },
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding('utf8').on('data', (text) => {
      output += text;
    });
  const ended = once(child, 'close').then(([status]) => ({ status: status as number | null, output }));
  // It ends its workers, which lead sessions of their own.
  t.after(async () => {
    child.kill('SIGTERM');
    await ended;
  });
  return { output: () => output, ended };
}

/** Torchrun has the first for itself; a `ParameterServer` takes the next. */
export async function pairOfFreePorts(): Promise<number> {
  for (;;) {
    const first = await listening(0);
    const { port } = first.address() as AddressInfo;
    const second = await listening(port + 1).catch(() => null);
    first.close();
    second?.close();
    if (second !== null) return port;
  }
}

async function listening(port: number) {
  const server = createServer().listen(port, '127.0.0.1');
  await once(server, 'listening');
  return server;
}

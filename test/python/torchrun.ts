import { delimiter } from 'node:path';
import { fileURLToPath } from 'node:url';
import { packageRoot } from '../../src/package-root.ts';
import type { Scope } from '../checkpoint/safetensors-files.ts';
import { freePorts } from '../free-ports.ts';
import { Program, type Variables } from '../program.ts';

/** `torchrun --nproc-per-node RANKS …` with this repository's package. */
export async function torchrun(
  test: Scope,
  ranks: number,
  words: readonly string[],
  variables: Variables,
): Promise<Program> {
  // Torchrun has the first port for itself; a `ParameterServer` takes the next.
  const port = await freePorts(2);
  const options = ['--nproc-per-node', ranks, '--master-addr', '127.0.0.1', '--master-port', port].map(
    String,
  );
  const packages = [fileURLToPath(new URL('python', packageRoot)), process.env.PYTHONPATH].filter(Boolean);
  return new Program(
    test,
    [process.env.WEIGHTCAST_PYTHON!, '-m', 'torch.distributed.run', ...options, ...words],
    { variables: { PYTHONPATH: packages.join(delimiter), OMP_NUM_THREADS: '1', ...variables } },
  );
}

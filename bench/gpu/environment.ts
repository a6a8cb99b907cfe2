import { spawnSync } from 'node:child_process';
import { probeNccl } from '../../src/native-bridge/nccl-collective.ts';
import { probeCuda } from '../../src/native-bridge/probe.ts';

/** The first GPU and the versions of driver and CUDA; with `withTorch` also those of NCCL and Python's torch. */
export function gpuEnvironment(withTorch: boolean): string[] {
  const { version, devices } = probeCuda();
  const smi = run('nvidia-smi', ['--query-gpu=driver_version', '--format=csv,noheader']).split('\n')[0]!;
  const gpu = `GPU: ${devices[0]!.name}, driver ${smi || 'of an unknown version'}, CUDA ${version}`;
  if (!withTorch) return [gpu];
  const torch = run(process.env.WEIGHTCAST_PYTHON ?? 'python3', [
    '-c',
    'import torch; print(torch.__version__)',
  ]);
  return [gpu, `NCCL: ${ncclVersion()}`, `torch: ${torch || 'unknown'}`];
}

function ncclVersion(): string {
  try {
    return probeNccl().version;
  } catch {
    return 'none';
  }
}

function run(command: string, words: readonly string[]): string {
  return spawnSync(command, words, { encoding: 'utf8', timeout: 30_000 }).stdout?.trim() ?? '';
}

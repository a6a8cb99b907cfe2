import { spawn, spawnSync } from 'node:child_process';
import { statfsSync } from 'node:fs';

/** Set in a process that has a /dev/shm of its own. */
const variable = 'WEIGHTCAST_OWN_SHM';
const sizeBytes = 2 ** 30;

/**
 * Runs this program again in a mount namespace with a small /dev/shm of its own, where filling it harms nobody else. Resolves
 * with false where that is not possible or has been done; the program is then to run here.
 */
export async function ranWithOwnSharedMemory(): Promise<boolean> {
  if (hasOwnSharedMemory()) {
    // Whoever started it here has died.
    process.on('disconnect', () => process.kill(process.pid, 'SIGTERM'));
    return false;
  }
  if (process.getuid?.() !== 0) return false;
  const script = `mount -t tmpfs -o size=${sizeBytes} tmpfs /dev/shm && exec "$@"`;
  const words = ['--mount', 'sh', '-c', script, 'sh'];
  if (spawnSync('unshare', [...words, 'true']).status !== 0) return false;
  const program = [process.execPath, ...process.execArgv, ...process.argv.slice(1)];
  const child = spawn('unshare', [...words, ...program], {
    stdio: ['inherit', 'inherit', 'inherit', 'ipc'],
    env: { ...process.env, [variable]: '1' },
    // Signals reach it once, through this process, and not from the terminal too.
    detached: true,
  });
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => child.kill(signal));
  process.exitCode = await new Promise<number>((resolve) => {
    child.once('error', () => resolve(1));
    child.once('exit', (code) => resolve(code ?? 1));
  });
  return true;
}

export function hasOwnSharedMemory(): boolean {
  return process.env[variable] !== undefined;
}

/** Bytes of /dev/shm that are free. */
export function freeSharedMemory(): number {
  const { bavail, bsize } = statfsSync('/dev/shm');
  return bavail * bsize;
}

import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface, type Interface } from 'node:readline';
import { fileURLToPath } from 'node:url';

/** Compiles and runs plain-transfer.cc, which moves bytes by memcpy, bare sockets or direct reads. */
export class PlainTransfer {
  readonly #directory = mkdtempSync(join(tmpdir(), 'weightcast-bench-'));
  readonly #child: ChildProcess;
  readonly #answers: AsyncIterator<string>;

  constructor() {
    const program = join(this.#directory, 'plain-transfer');
    const source = fileURLToPath(new URL('plain-transfer.cc', import.meta.url));
    execFileSync(process.env.CXX ?? 'c++', ['-O2', '-std=c++17', '-pthread', '-o', program, source]);
    this.#child = spawn(program, { stdio: ['pipe', 'pipe', 'inherit'] });
    const lines: Interface = createInterface(this.#child.stdout!);
    this.#answers = lines[Symbol.asyncIterator]();
  }

  /** Bytes per second; `parallel`: number of threads or streams; `path`: what to `read`. */
  async rate(
    command: 'memcpy' | 'tcp' | 'loop' | 'read',
    parallel: number,
    pieceBytes: number,
    bytes: number,
    path = '',
  ): Promise<number> {
    this.#child.stdin!.write(`${command} ${parallel} ${pieceBytes} ${bytes} ${path}\n`);
    const { value, done } = await this.#answers.next();
    if (done) throw new Error(`plain-transfer ended during ${command}`);
    return bytes / Number(value);
  }

  close(): void {
    this.#child.kill('SIGKILL');
    rmSync(this.#directory, { recursive: true, force: true });
  }
}

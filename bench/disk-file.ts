import { execFileSync } from 'node:child_process';
import { copyFileSync, mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';

/** A file of a directory on a disk, whose part in the page cache can be asked for and dropped (dd and fincore do that). */
export class DiskFile {
  readonly path: string;
  readonly #directory: string;

  constructor(directory: string, original: string) {
    this.#directory = mkdtempSync(join(directory, 'weightcast-bench-'));
    this.path = join(this.#directory, 'model.safetensors');
    copyFileSync(original, this.path);
    // The kernel drops only what is written.
    execFileSync('dd', [`of=${this.path}`, 'conv=notrunc,fdatasync', 'count=0'], { stdio: 'ignore' });
  }

  /** Bytes of it that the page cache has. */
  cachedBytes(): number {
    const words = ['--bytes', '--noheadings', '--output', 'RES', this.path];
    return Number(execFileSync('fincore', words, { encoding: 'utf8' }));
  }

  dropFromCache(): void {
    execFileSync('dd', [`if=${this.path}`, 'iflag=nocache', 'count=0'], { stdio: 'ignore' });
    const left = this.cachedBytes();
    if (left > 0) throw new Error(`the page cache keeps ${left} bytes of ${this.path}: is it on a disk?`);
  }

  fetchIntoCache(): void {
    execFileSync('dd', [`if=${this.path}`, 'of=/dev/null', 'bs=4M'], { stdio: 'ignore' });
  }

  remove(): void {
    rmSync(this.#directory, { recursive: true, force: true });
  }
}

import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { formatBytes } from './units.ts';

/**
 * Files that options and requests name, and that are read as a whole. They may be anything: a device has no end, a FIFO
 * blocks whoever opens it, and the text of a file of some GiB ends the process.
 */

/** An index of 2,000,000 tensors fits. */
export const mostTextBytes = 2 ** 28;
const pieceBytes = 1 << 20;

/** A file's text; of standard input if it is 0. Throws the system's own error, and one for what is longer than any such file. */
export function readText(path: string | 0): string {
  const descriptor = path === 0 ? 0 : openSync(path, 'r');
  try {
    if (fstatSync(descriptor).size > mostTextBytes) throw tooLong();
    const pieces: Buffer[] = [];
    for (let bytes = 0; ; ) {
      const piece = Buffer.allocUnsafe(pieceBytes);
      const read = readSync(descriptor, piece);
      if (read === 0) return Buffer.concat(pieces).toString('utf8');
      bytes += read;
      if (bytes > mostTextBytes) throw tooLong();
      pieces.push(piece.subarray(0, read));
    }
  } finally {
    if (path !== 0) closeSync(descriptor);
  }
}

/** The same of a regular file, for a process that has other things to do meanwhile: rejects for a FIFO, and does not wait. */
export async function readRegularFile(path: string): Promise<Buffer> {
  const file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    const found = await file.stat();
    if (!found.isFile()) throw refusal('it is not a regular file');
    if (found.size > mostTextBytes) throw tooLong();
    return await file.readFile();
  } finally {
    await file.close();
  }
}

function tooLong(): Error {
  return refusal(`it is longer than ${formatBytes(mostTextBytes)}`);
}

/** With a code, as the system's own errors have. */
function refusal(message: string): Error {
  return Object.assign(new Error(message), { code: 'WEIGHTCAST_TEXT_FILE' });
}

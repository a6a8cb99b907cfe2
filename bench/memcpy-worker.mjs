// A thread of plain-memcpy.ts. Plain JavaScript, because worker threads load no TypeScript under Node 20.
import { parentPort } from 'node:worker_threads';

/** Of source and destination: larger than any cache. */
const bufferBytes = 256 * 2 ** 20;
/** One call: `TypedArray.set` of bytes is the C library's memmove. */
const pieceBytes = 4 * 2 ** 20;

const source = new Uint8Array(bufferBytes).fill(1);
const destination = new Uint8Array(bufferBytes).fill(2);
parentPort.on('message', (bytes) => {
  for (let done = 0; done < bytes; done += pieceBytes) {
    const at = done % bufferBytes;
    destination.set(source.subarray(at, at + Math.min(pieceBytes, bytes - done)), at);
  }
  parentPort.postMessage('done');
});
parentPort.postMessage('ready');

/** `npm run bench:fabric`: reads from a peer on this host, compared with plain memcpy and plain sockets in the same run. */
import { fork } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { type FabricPeer, HostFabric } from '../src/native-bridge/fabric.ts';
import { Mapping, ThreadPool } from '../src/native-bridge/memory.ts';
import { median } from './median.ts';
import { PlainTransfer } from './plain-transfer.ts';
import { type Figure, writeReport } from './report.ts';

const pieceSize = 16 << 20;
const segmentSize = 256 << 20;
/** Bytes moved by each measurement. */
const movedBytes = 2 ** 31;
const roundCount = 9;
const streamCount = 4;
const deadlineMilliseconds = 60_000;
const threads = availableParallelism();

async function readRate(
  peer: FabricPeer,
  token: Uint8Array,
  destination: Mapping,
  pieceBytes: number,
): Promise<number> {
  const began = performance.now();
  for (let done = 0; done < movedBytes; done += pieceBytes) {
    const offset = done % segmentSize;
    await peer.read(token, Float64Array.of(offset, offset, pieceBytes), destination, {
      timeoutMilliseconds: deadlineMilliseconds,
    });
  }
  return (1e3 * movedBytes) / (performance.now() - began);
}

type Rates = Record<
  'memcpy' | 'memcpyThreads' | 'shm' | 'sockets' | 'socketLoop' | 'tcp' | 'tcpSegment',
  number
>;

async function measure(): Promise<Rates[]> {
  const secret = randomBytes(32);
  const path = `/dev/shm/weightcast-bench-${process.pid}`;
  const source = fork(fileURLToPath(new URL('fabric-source.ts', import.meta.url)), [
    secret.toString('hex'),
    `${path}-source`,
    String(segmentSize),
  ]);
  const plain = new PlainTransfer();
  const pool = new ThreadPool(threads);
  const fabric = HostFabric.open({ secret, pool, streams: streamCount });
  const destination = Mapping.create(path, segmentSize);
  try {
    const [report] = (await once(source, 'message')) as [{ address: number[]; token: number[] }];
    const token = Uint8Array.from(report.token);
    const connect = (kind: 'shm' | 'tcp') =>
      fabric.connect(Uint8Array.from(report.address), {
        name: 'the source',
        timeoutMilliseconds: 10_000,
        kind,
      });
    const [shm, tcp] = await Promise.all([connect('shm'), connect('tcp')]);
    const rounds: Rates[] = [];
    // The first round warms up and is not counted. What is compared is measured one right after the other.
    for (let round = 0; round <= roundCount; round += 1) {
      rounds.push({
        memcpy: await plain.rate('memcpy', 1, pieceSize, movedBytes),
        shm: await readRate(shm, token, destination, pieceSize),
        memcpyThreads: await plain.rate('memcpy', threads, pieceSize, movedBytes),
        sockets: await plain.rate('tcp', streamCount, pieceSize, movedBytes),
        tcp: await readRate(tcp, token, destination, pieceSize),
        socketLoop: await plain.rate('loop', streamCount, pieceSize, movedBytes),
        tcpSegment: await readRate(tcp, token, destination, segmentSize),
      });
    }
    return rounds.slice(1);
  } finally {
    fabric.close();
    pool.close();
    plain.close();
    destination.unlink();
    source.disconnect();
    await once(source, 'exit');
  }
}

function figuresOf(rounds: readonly Rates[]): Figure[] {
  const rate = (name: string, key: keyof Rates): Figure => ({
    name,
    value: median(rounds.map((round) => round[key])) / 1e9,
    unit: 'GB/s',
  });
  const ratio = (name: string, key: keyof Rates, to: keyof Rates, atLeast?: number): Figure => ({
    name,
    value: median(rounds.map((round) => round[key] / round[to])),
    unit: '',
    ...(atLeast === undefined ? {} : { atLeast }),
  });
  return [
    rate('memcpy, one thread', 'memcpy'),
    rate(`memcpy, ${threads} threads`, 'memcpyThreads'),
    rate(`shm, ${threads} threads`, 'shm'),
    ratio('shm to memcpy of one thread', 'shm', 'memcpy', 0.9),
    ratio('shm to memcpy of as many threads', 'shm', 'memcpyThreads', 0.9),
    rate(`sockets, ${streamCount} streams, piece by piece`, 'sockets'),
    rate(`tcp, ${streamCount} streams, piece by piece`, 'tcp'),
    ratio('tcp to sockets', 'tcp', 'sockets', 0.9),
    rate(`sockets, ${streamCount} streams, without a stop`, 'socketLoop'),
    rate(`tcp, ${streamCount} streams, the whole segment at once`, 'tcpSegment'),
    ratio('tcp of the whole segment to sockets without a stop', 'tcpSegment', 'socketLoop', 0.9),
  ];
}

writeReport({
  name: 'fabric',
  title: 'Reading from a peer',
  command: 'npm run bench:fabric',
  method:
    `Single reads of ${pieceSize >> 20} MiB of a segment of ${segmentSize >> 20} MiB in another process, the next when the one ` +
    `before has resolved in JavaScript; against memcpy(3), and against send(2) and recv(2) on blocking sockets of two ` +
    `processes over loopback (bench/plain-transfer.cc), in which all threads or streams share each piece and wait for ` +
    `each other after it. "Without a stop" they do not wait. All memory was touched before. Rates and ratios are ` +
    `medians of ${roundCount} rounds, in each of which every way moves ${movedBytes / 2 ** 30} GiB.`,
  figures: figuresOf(await measure()),
});

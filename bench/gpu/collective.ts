/**
 * `npx tsx bench/gpu/collective.ts [kinds] [world sizes] [GPUs] [openings]`, such as `nccl,shm 2,4 1 10`: broadcasts among
 * processes that are spread over that many GPUs, through NCCL (2.30.7 or newer if they share a GPU) and as copies from
 * process to process. Prints one line per number. A rate is what each rank receives, from the first call to the last end.
 */
import { randomBytes } from 'node:crypto';
import { systemClock } from '../../src/native-bridge/clock.ts';
import type { OpenOptions, Span } from '../../test/gpu/fixtures/collective-rank.ts';
import { RankProcess } from '../../test/gpu/rank-process.ts';
import { median } from '../median.ts';

const mebibyte = 2 ** 20;
const pieces = [8, 32, 64, 128, 256];
const movedMebibytes = 4096;
const timeoutMilliseconds = 30_000;

const [kinds = 'nccl,shm', worldSizes = '2,4', devices = '1', openings = '10'] = process.argv.slice(2);

class Group {
  readonly ranks: readonly RankProcess[];
  readonly #kind: OpenOptions['kind'];
  readonly #prefix = `/dev/shm/weightcast-bench-${randomBytes(6).toString('hex')}`;
  /** Every rank is the root in turn, as in an update. */
  readonly #inTurn: readonly number[];
  #communicators = 0;

  constructor(kind: OpenOptions['kind'], worldSize: number) {
    this.#kind = kind;
    this.#inTurn = Array.from({ length: worldSize }, (_, rank) => rank);
    this.ranks = Array.from(
      { length: worldSize },
      (_, rank) => new RankProcess(rank, rank % Number(devices)),
    );
  }

  async open(): Promise<number> {
    this.#communicators += 1;
    const controlPath = `${this.#prefix}-${this.#communicators}`;
    const id =
      this.#kind === 'nccl'
        ? await this.ranks[0]!.call('uniqueId')
        : Buffer.from(controlPath).toString('base64');
    const worldSize = this.ranks.length;
    const options = { kind: this.#kind, id, controlPath, worldSize, timeoutMilliseconds };
    return span(await Promise.all(this.ranks.map((rank) => rank.call('open', options))));
  }

  async close(): Promise<number> {
    return span(await Promise.all(this.ranks.map((rank) => rank.call('close'))));
  }

  async broadcasts(bytes: number, count: number, depth: number, roots = this.#inTurn): Promise<number> {
    const options = { roots, bytes, count, depth, timeoutMilliseconds };
    return span(await Promise.all(this.ranks.map((rank) => rank.call('broadcasts', options))));
  }

  /** GB/s. */
  async rate(bytes: number, depth: number, roots = this.#inTurn): Promise<number> {
    const count = Math.ceil((movedMebibytes * mebibyte) / bytes);
    await this.broadcasts(bytes, 3, depth, roots);
    return (count * bytes) / (await this.broadcasts(bytes, count, depth, roots)) / 1e6;
  }

  freeBytes(): Promise<number> {
    return this.ranks[0]!.call('freeBytes');
  }

  /** Milliseconds from an abort on rank 0 until the broadcasts of all other ranks have failed. */
  async abort(): Promise<number> {
    const [aborting, ...waiting] = this.ranks as [RankProcess, ...RankProcess[]];
    const options = { roots: [0], bytes: 64 * mebibyte, count: 1, depth: 1, timeoutMilliseconds };
    const told = waiting.map((rank) => rank.call('broadcasts', options).catch(() => systemClock.now()));
    await new Promise((resolve) => setTimeout(resolve, 100));
    const abortedAt = systemClock.now();
    await aborting.call('abort');
    return Math.max(...((await Promise.all(told)) as number[])) - abortedAt;
  }

  async end(): Promise<void> {
    await Promise.all(this.ranks.map((rank) => rank.end()));
  }
}

/** From the first start to the last end, in milliseconds. */
function span(spans: readonly Span[]): number {
  return (
    Math.max(...spans.map(({ endedAt }) => endedAt)) - Math.min(...spans.map(({ startedAt }) => startedAt))
  );
}

async function measure(kind: OpenOptions['kind'], worldSize: number): Promise<void> {
  const print = (name: string, value: number, unit: string) =>
    console.log(
      `${`${kind}, ${worldSize} ranks on ${devices}: ${name}`.padEnd(60)} ${value.toFixed(3).padStart(10)} ${unit}`,
    );
  const group = new Group(kind, worldSize);
  const ranksOfFirst = worldSize / Number(devices);
  await Promise.all(group.ranks.map((rank) => rank.call('allocate', pieces.at(-1)! * mebibyte)));
  const free = await group.freeBytes();
  print('open the first communicator', await group.open(), 'ms');
  print(
    'device memory of an unused communicator',
    (free - (await group.freeBytes())) / ranksOfFirst / mebibyte,
    'MiB a rank',
  );
  print('first broadcast, 8 MiB', await group.broadcasts(8 * mebibyte, 1, 1), 'ms');
  print(
    'device memory of a communicator',
    (free - (await group.freeBytes())) / ranksOfFirst / mebibyte,
    'MiB a rank',
  );
  for (const piece of pieces) print(`pieces of ${piece} MiB`, await group.rate(piece * mebibyte, 3), 'GB/s');
  print('pieces of 32 MiB, all from one rank', await group.rate(32 * mebibyte, 3, [0]), 'GB/s');
  print('pieces of 32 MiB, one at a time', await group.rate(32 * mebibyte, 1), 'GB/s');
  const closed = [await group.close()];
  const opened: number[] = [];
  for (let number = 0; number < Number(openings); number += 1) {
    opened.push(await group.open());
    await group.broadcasts(8 * mebibyte, 1, 1);
    closed.push(await group.close());
  }
  print('open a later communicator, median', median(opened), 'ms');
  print('open a later communicator, slowest', Math.max(...opened), 'ms');
  print('close, median', median(closed), 'ms');
  await group.open();
  await group.broadcasts(8 * mebibyte, 1, 1);
  print('abort, until it reaches all ranks', await group.abort(), 'ms');
  await group.close();
  print('device memory not released', (free - (await group.freeBytes())) / mebibyte, 'MiB');
  await group.end();
}

for (const kind of kinds.split(',') as OpenOptions['kind'][]) {
  for (const worldSize of worldSizes.split(',')) await measure(kind, Number(worldSize));
}

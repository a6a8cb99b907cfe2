import assert from 'node:assert/strict';
import { readdirSync, rmSync } from 'node:fs';
import { type TestContext, test } from 'node:test';
import { sharedMemoryName } from '../shared-memory-name.ts';
import type { BroadcastsOptions, OpenOptions } from './fixtures/collective-rank.ts';
import { RankProcess } from './rank-process.ts';

export interface SuiteOptions {
  readonly kind: OpenOptions['kind'];
  /** Of one broadcast. */
  readonly bytes: number;
  /** Over how many GPUs the ranks are spread. */
  readonly devices: number;
  /** What the ranks' processes find in their environment, beside this one's. */
  readonly environment: Readonly<Record<string, string>>;
  /** Why it cannot run here. */
  readonly skip: string | false;
  /** Why several ranks cannot share a GPU. Default: they can. */
  readonly skipShared?: string | false;
}

const patience = 60_000;
/** What the driver takes and gives in the background. */
const toleranceBytes = 4 << 20;
const censusNames = ['descriptors', 'threads'] as const;

/** Ranks that are processes and share a GPU. */
class Group {
  readonly ranks: readonly RankProcess[];
  readonly #kind: OpenOptions['kind'];
  readonly #bytes: number;
  readonly #prefix = sharedMemoryName();
  #communicators = 0;

  constructor({ kind, bytes }: SuiteOptions, ranks: readonly RankProcess[]) {
    this.ranks = ranks;
    this.#kind = kind;
    this.#bytes = bytes;
  }

  /** Starts the processes and gives each a staging and a link buffer. */
  static async start(t: TestContext, options: SuiteOptions, worldSize: number): Promise<Group> {
    const ranks = Array.from(
      { length: worldSize },
      (_, rank) => new RankProcess(rank, rank % options.devices, options.environment),
    );
    const group = new Group(options, ranks);
    t.after(async () => {
      await Promise.all(ranks.map((rank) => rank.kill()));
      for (const name of group.remains()) rmSync(`/dev/shm/${name}`, { force: true });
    });
    await Promise.all(ranks.map((rank) => rank.call('allocate', options.bytes)));
    return group;
  }

  remains(): string[] {
    return readdirSync('/dev/shm').filter((name) => name.startsWith(this.#prefix));
  }

  /** What a member of a new communicator opens it with. */
  async newCommunicator(timeoutMilliseconds = patience): Promise<OpenOptions> {
    this.#communicators += 1;
    const controlPath = `/dev/shm/${this.#prefix}-${this.#communicators}`;
    const id =
      this.#kind === 'nccl'
        ? await this.ranks[0]!.call('uniqueId')
        : Buffer.from(controlPath).toString('base64');
    return { kind: this.#kind, id, controlPath, worldSize: this.ranks.length, timeoutMilliseconds };
  }

  async open(): Promise<void> {
    const options = await this.newCommunicator();
    await Promise.all(this.ranks.map((rank) => rank.call('open', options)));
  }

  async close(): Promise<void> {
    await Promise.all(this.ranks.map((rank) => rank.call('close')));
  }

  order(options: Partial<BroadcastsOptions> = {}): BroadcastsOptions {
    return { roots: [0], bytes: this.#bytes, count: 1, depth: 1, timeoutMilliseconds: patience, ...options };
  }

  async broadcasts(options: Partial<BroadcastsOptions> = {}): Promise<void> {
    await Promise.all(this.ranks.map((rank) => rank.call('broadcasts', this.order(options))));
  }

  /** Sends new content from a rank and looks that all have it. */
  async deliver(root: RankProcess, bytes = this.#bytes): Promise<void> {
    const seed = 1 + Math.floor(Math.random() * 1e9);
    await root.call('fill', seed, bytes);
    await this.broadcasts({ roots: [root.rank], bytes });
    const held = await Promise.all(this.ranks.map((rank) => rank.call('holds', seed, bytes)));
    assert(
      held.every((holds) => holds),
      `ranks of ${held.join()} hold what rank ${root.rank} sent`,
    );
  }

  async census() {
    const counts = await Promise.all(
      this.ranks.map(async (rank) => [await rank.call('descriptors'), await rank.call('threads')]),
    );
    return { counts, freeBytes: await this.ranks[0]!.call('freeBytes') };
  }
}

async function assertGivenBack(rank: RankProcess, before: number): Promise<void> {
  const deadline = performance.now() + 5_000;
  let now = await rank.call('freeBytes');
  while (now < before - toleranceBytes && performance.now() < deadline) {
    await new Promise((resolve) => setTimeout(resolve, 100));
    now = await rank.call('freeBytes');
  }
  assert(now >= before - toleranceBytes, `${before - now} bytes of device memory did not come back`);
}

/** What every collective among CUDA devices has to do, tried with a process for each rank. */
export function testCollective(options: SuiteOptions): void {
  const { kind, bytes, devices, skipShared = false } = options;
  const skipOf = (ranks: number) => options.skip || (ranks > devices && skipShared);
  const name = devices === 1 ? kind : `${kind} on ${devices} GPUs`;

  for (const worldSize of [2, 4]) {
    test(`${name}: ${worldSize} processes receive bit by bit what each of them sends`, {
      skip: skipOf(worldSize),
    }, async (t) => {
      const group = await Group.start(t, options, worldSize);
      await group.open();
      // No whole number of words, so that pieces of every size are taken.
      for (const root of group.ranks) await group.deliver(root, bytes - 3);
      await group.close();
      assert.deepEqual(group.remains(), []);
    });
  }

  test(`${name}: a member that is killed in the middle of a broadcast is lost to the others within two seconds`, {
    skip: skipOf(3),
  }, async (t) => {
    const group = await Group.start(t, options, 3);
    const [first, second, victim] = group.ranks as [RankProcess, RankProcess, RankProcess];
    const freeBytes = await first.call('freeBytes');
    await group.open();
    const order = group.order({ count: 1e6, depth: 4 });
    victim.call('broadcasts', order).catch(() => {});
    const failures = [first, second].map((rank) =>
      rank.call('broadcasts', order).then(
        () => assert.fail('a million broadcasts have ended'),
        (error: Error) => ({ error, at: performance.now() }),
      ),
    );
    await new Promise((resolve) => setTimeout(resolve, 500));
    const killedAt = performance.now();
    await victim.kill();
    for (const { error, at } of await Promise.all(failures)) {
      assert.equal(error.name, 'PeerLostError', error.message);
      assert.match(error.message, /rank 2 is gone/);
      assert(at - killedAt < 2_000, `noticed after ${at - killedAt} ms`);
    }
    const rest = new Group(options, [first, second]);
    await rest.close();
    await assertGivenBack(first, freeBytes);
    await rest.open();
    await rest.deliver(second);
    await rest.close();
    await assertGivenBack(first, freeBytes);
  });

  test(`${name}: an abort ends what is under way on all members, and a new communicator works`, {
    skip: skipOf(2),
  }, async (t) => {
    const group = await Group.start(t, options, 2);
    const [waiting, aborting] = group.ranks as [RankProcess, RankProcess];
    await group.open();
    await group.deliver(waiting);
    // It waits for rank 1, which takes no part.
    const rejected = assert.rejects(waiting.call('broadcasts', group.order({ roots: [1] })), {
      name: 'AbortedError',
      message: /aborted by rank 1/,
    });
    await new Promise((resolve) => setTimeout(resolve, 200));
    const abortedAt = performance.now();
    await aborting.call('abort');
    await rejected;
    assert(performance.now() - abortedAt < 2_000);
    await assert.rejects(aborting.call('broadcasts', group.order()), { name: 'AbortedError' });
    await group.close();
    await group.open();
    await group.deliver(aborting);
  });

  test(`${name}: a broadcast that a member leaves out is a deadline for the others`, {
    skip: skipOf(2),
  }, async (t) => {
    const group = await Group.start(t, options, 2);
    await group.open();
    await group.deliver(group.ranks[0]!);
    const order = group.order({ roots: [1], timeoutMilliseconds: 500 });
    await assert.rejects(group.ranks[0]!.call('broadcasts', order), {
      name: 'DeadlineError',
      message: /broadcast 1 on rank 0: rank 0 waited for rank 1/,
    });
    await assert.rejects(group.ranks[1]!.call('broadcasts', order), { name: 'DeadlineError' });
  });

  test(`${name}: 20 communicators in a row leave nothing behind`, { skip: skipOf(2) }, async (t) => {
    const group = await Group.start(t, options, 2);
    const round = async () => {
      await group.open();
      await group.broadcasts({ count: 4, depth: 2 });
      await group.close();
    };
    // The first ones also load kernels and fill pools of the driver and of NCCL.
    for (let number = 0; number < 3; number += 1) await round();
    const before = await group.census();
    for (let number = 0; number < 20; number += 1) await round();
    await assertGivenBack(group.ranks[0]!, before.freeBytes);
    const after = await group.census();
    for (const [rank, counts] of after.counts.entries()) {
      for (const [index, count] of counts.entries()) {
        const allowed = before.counts[rank]![index]!;
        assert(count <= allowed, `rank ${rank} has ${count} ${censusNames[index]}, it had ${allowed}`);
      }
    }
    assert.deepEqual(group.remains(), []);
  });

  if (kind === 'nccl') {
    test(`${name}: a member that never comes is a deadline for the others, who give everything back`, {
      skip: skipOf(2),
    }, async (t) => {
      const group = await Group.start(t, options, 2);
      const [waiting] = group.ranks as [RankProcess, RankProcess];
      const wait = async () => {
        const order = await group.newCommunicator(1_000);
        await assert.rejects(waiting.call('open', order), { name: 'DeadlineError' });
      };
      // The first one leaves the kernels of NCCL in the context.
      await wait();
      const freeBytes = await waiting.call('freeBytes');
      await wait();
      await assertGivenBack(waiting, freeBytes);
    });
  }
}

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { settle } from '../../../simulation/clock.ts';
import { AgentRank } from '../../../src/actors/agents/agent-rank.ts';
import { HostsActor, type HostsInbox, hostsSpawnOptions } from '../../../src/actors/agents/hosts.ts';
import type { ActorRef } from '../../../src/actors/kernel/index.ts';
import type { AgentMessage } from '../../../src/actors/protocol/agent.ts';
import { ask } from '../../../src/actors/protocol/ask.ts';
import { toHosts } from '../../../src/actors/protocol/hosts.ts';
import { makeSystem, soon } from '../kernel/harness.ts';

const cutOffMilliseconds = 60_000;
const startMilliseconds = 1_000;
const graceMilliseconds = 10_000;

/** Host b, whose agents only keep what they are told. */
function startHosts({ startsAgain = true } = {}) {
  const { system, clock } = makeSystem();
  /** Those that had to be started: whether in place of a lost one. */
  const needed: boolean[] = [];
  const connected = new Set<string>();
  const ports = {
    hosts: [{ name: 'b', mayRun: false }],
    isSuccessor: false,
    ...{ cutOffMilliseconds, startMilliseconds, graceMilliseconds },
    need: (_host: string, isLost: boolean) => void needed.push(isLost),
    isClusterEnd: () => false,
    isConnected: (node: string) => connected.has(node),
    startsAgain: () => startsAgain,
    onKilled: () => {},
  };
  const hosts = system.spawn<HostsInbox>('hosts', () => new HostsActor(ports), hostsSpawnOptions);
  const lost: string[] = [];
  let lives = 0;
  return {
    clock,
    needed,
    connected,
    lost,
    order: async (): Promise<AgentRank> => {
      lives += 1;
      const order = { host: 'b', rank: 0, node: `node-${lives}`, role: 'r', order: {} };
      const tell = system.tell.bind(system);
      const onEnded = (node: string) => void lost.push(node);
      const rank = new AgentRank(order, { tell, graceMilliseconds, hint: () => undefined, onEnded });
      system.tell(hosts, { type: 'order', rank });
      await settle();
      return rank;
    },
    /** An agent that has found these nodes running; `end` cuts it off. */
    join: async (...nodes: string[]) => {
      const told: AgentMessage[] = [];
      let end!: () => Promise<void>;
      const agent = await new Promise<ActorRef<AgentMessage>>((resolve) => {
        system.spawn<AgentMessage>(`agent-${performance.now()}`, () => ({
          started: (context) => {
            end = async () => {
              await context.stop();
              await settle();
            };
            resolve(context.self);
          },
          receive: (message) => void told.push(message),
        }));
      });
      const ranks = nodes.map((node) => ({ rank: 0, node, pid: 7, role: 'r' }));
      const fields = { host: 'b', agent, machine: 'm', machineName: 'm', ranks };
      const joined = ask(system, hosts as never, toHosts.introduce, fields, soon);
      return { told, joined, end: () => end() };
    },
    rankEnded: (node: string) =>
      system.tell(hosts, { type: 'rank-ended', host: 'b', node, pid: 7, how: 'SIGKILL', wasKilled: false }),
    endOthers: () => system.tell(hosts, { type: 'end-others' }),
  };
}

test('a rank that is removed while its agent is away is gone at once, and ends when the agent is back', async () => {
  const { order, join, lost } = startHosts();
  const rank = await order();
  const first = await join();
  await first.joined;
  assert.equal(rank.node, 'node-1');
  await first.end();
  await rank.stop(undefined, { isHostFree: true });
  assert.deepEqual([await rank.exited, lost], ['its host is cut off', ['node-1']]);

  const again = await order();
  const second = await join('node-1');
  await second.joined;
  await settle();
  const [ended, launched] = second.told;
  assert.deepEqual(ended, { type: 'end-rank', node: 'node-1', graceMilliseconds, isForGood: true });
  assert.equal(launched?.type, 'launch');
  // Nor does it become the rank when that agent is lost, too.
  void again.stop(undefined, { isHostFree: true });
  await second.end();
  const third = await order();
  await (await join('node-1')).joined;
  assert.equal(third.node, 'node-3');
});

test('a rank whose agent is lost while it is being removed is gone with it; one that only ends comes back', async () => {
  const { order, join, clock } = startHosts();
  const [removed, ending] = [await order(), await order()];
  const { joined, end } = await join();
  await joined;
  const stopped = removed.stop(undefined, { isHostFree: false });
  void ending.stop();
  await end();
  await stopped;
  assert.deepEqual([removed.hasEnded, ending.hasEnded], [true, false]);
  await clock.advance(cutOffMilliseconds);
  assert.equal(await ending.exited, 'its host was cut off, and ends it');
});

test('a rank that talks to the supervisor is not cut off, however long its agent is away', async () => {
  const { order, join, clock, connected } = startHosts();
  const [well, silent] = [await order(), await order()];
  const { joined, end } = await join();
  await joined;
  connected.add(well.node!);
  await end();
  await clock.advance(3 * cutOffMilliseconds);
  assert.deepEqual([well.hasEnded, silent.hasEnded], [false, true]);
  connected.clear();
  await clock.advance(cutOffMilliseconds);
  assert.equal(await well.exited, 'its host was cut off, and ends it');
});

test('a rank whose agent is not started again is not kept, though it talks to the supervisor', async () => {
  const { order, join, clock, connected } = startHosts({ startsAgain: false });
  const rank = await order();
  const { joined, end } = await join();
  await joined;
  connected.add(rank.node!);
  await end();
  await clock.advance(cutOffMilliseconds);
  assert.equal(await rank.exited, 'its host was cut off, and ends it');
});

test('a rank that ends right after its agent has introduced it is started again, and not adopted', async () => {
  const { order, join, rankEnded } = startHosts();
  const { joined, told } = await join('old');
  rankEnded('old');
  await joined;
  await settle();
  const rank = await order();
  assert.equal(rank.isSurvivor, false);
  assert.deepEqual(
    told.map(({ type }) => type),
    ['launch'],
  );
});

test("ranks that nobody has asked for end, and leave the host's memory to the others", async () => {
  const { join, endOthers } = startHosts();
  const { joined, told } = await join('old');
  await joined;
  endOthers();
  await settle();
  assert.deepEqual(told, [{ type: 'end-rank', node: 'old', graceMilliseconds, isForGood: false }]);
});

test('an agent that many attempts have not brought may still come, and nothing is started beside it', async () => {
  const { order, join, clock, needed } = startHosts();
  const rank = await order();
  const attempts = 20_000;
  await clock.advance(attempts * startMilliseconds);
  assert.deepEqual([needed.length, needed[0], needed[1]], [1 + attempts, false, true]);
  await (await join()).joined;
  assert.equal(rank.node, 'node-1');
  await clock.advance(cutOffMilliseconds);
  assert.equal(needed.length, 1 + attempts);
});

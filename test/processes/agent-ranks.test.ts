import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import type { EndedRank } from '../../src/actors/agents/agent.ts';
import { SharedDirectory } from '../../src/native-bridge/memory.ts';
import { AgentRanks } from '../../src/processes/agent-ranks.ts';
import { ChildList } from '../../src/processes/child-list.ts';
import { replaceFileIfRoom } from '../../src/processes/replace-file.ts';
import { silentLog } from '../actors/kernel/harness.ts';
import { temporaryDirectory } from '../checkpoint/safetensors-files.ts';

/** The ranks of an agent: these nodes, which an earlier agent has left. `ended` resolves with the next one that ends. */
async function openRanks(context: TestContext, ...nodes: string[]) {
  const directory = `/dev/shm/weightcast-${randomBytes(6).toString('hex')}-b`;
  const errors: string[] = [];
  const holder = new SharedDirectory(directory);
  const list = new ChildList(directory);
  for (const [rank, node] of nodes.entries()) {
    const { pid } = spawn('sleep', ['600'], { detached: true, stdio: 'ignore' });
    list.add({ rank, node, pid: pid!, name: node, role: 'r' });
  }
  const key = 'a'.repeat(40);
  const document = {
    ...{ format: 'weightcast-join-1' as const, host: 'b', endpoint: 'tcp://127.0.0.1:1' },
    ...{ hubPublicKey: key, publicKey: key, secretKey: key, directory, inherited: {}, environment: {} },
    ...{ startTimeoutMilliseconds: 1_000, stopTimeoutMilliseconds: 1_000, orphanTimeoutMilliseconds: 1_000 },
  };
  const log = { ...silentLog, error: (_facts: object, words?: string) => void errors.push(words ?? '') };
  const ranks = await AgentRanks.open(document, {}, log);
  context.after(async () => {
    await ranks.endAll(0);
    ranks.close();
    holder.close();
    rmSync(directory, { recursive: true, force: true });
  });
  const ended = () => new Promise<EndedRank>((resolve) => ranks.onEnded(resolve));
  return { ranks, directory, errors, holder, ended };
}

const grace = 60_000;

test("the host's memory goes with its last rank only if no other is placed there", async (t) => {
  const { ranks, directory, holder, ended } = await openRanks(t, 'x', 'y');
  holder.close();
  const weights = join(directory, 'weights');
  writeFileSync(weights, '');
  let next = ended();
  ranks.end('x', grace, false);
  await next;
  next = ended();
  // Another one of the host waits to be started again.
  ranks.end('y', grace, false);
  await next;
  assert.deepEqual([ranks.running, existsSync(weights)], [[], true]);
  // That one is removed, too.
  next = ended();
  ranks.end('z', grace, true);
  assert.deepEqual(await next, { node: 'z', pid: null, how: 'it does not run', wasKilled: false });
  assert.equal(existsSync(weights), false);
  assert.equal(JSON.parse(readFileSync(join(directory, 'agent'), 'utf8')).pid, process.pid);
});

test('an agent that cannot write its directory says so in its log, and how ranks end to the supervisor', async (t) => {
  const { ranks, directory, errors, ended } = await openRanks(t, 'x');
  for (const name of ['agent', 'children']) {
    rmSync(join(directory, name));
    mkdirSync(join(directory, name));
  }
  const next = ended();
  ranks.end('x', grace, true);
  assert.equal((await next).node, 'x');
  assert.equal(errors.length, 2);
});

test('a file that there is no room to replace stays as it was', (t) => {
  const directory = temporaryDirectory(t);
  const path = join(directory, 'record');
  replaceFileIfRoom(path, 'first');
  symlinkSync('/dev/full', join(directory, 'new-record'));
  replaceFileIfRoom(path, 'second');
  assert.equal(readFileSync(path, 'utf8'), 'first');
  // What was begun is not left.
  replaceFileIfRoom(path, 'third');
  assert.equal(readFileSync(path, 'utf8'), 'third');
});

import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { packageRoot } from '../../src/package-root.ts';
import type { Scope } from '../checkpoint/safetensors-files.ts';
import { writeWeightcast } from '../commands.ts';
import { type DaemonBench, startDaemonBench } from '../daemon/harness.ts';
import { eventually } from '../eventually.ts';

/** A daemon with a second host, whose agent is started by what is tested, and an engine whose ranks are there. */
export interface LauncherBench extends DaemonBench {
  readonly host: string;
  /** Variables of a launcher: what it starts finds this repository's package and command. */
  readonly variables: Readonly<Record<string, string>>;
  /** The words of the command `weightcast`. */
  readonly command: string;
  /** Path of a file of the case, in the repository. */
  path(name: string): string;
  /** Updates the engine by ranks that the agent starts. */
  update(): Promise<void>;
  /** After the launcher's end: none of what it has started runs, and the host's memory is gone. */
  isClean(): Promise<void>;
}

/** In the environment of all that a launcher starts. */
const mark = 'WEIGHTCAST_TEST_LAUNCH';

export async function startLauncherBench(test: Scope, host: string): Promise<LauncherBench> {
  const hosts = { [host]: { joins: true as const, fabricAddresses: ['127.0.0.1'] } };
  const bench = await startDaemonBench(test, { cluster: { listen: 'tcp://127.0.0.1:*', hosts } });
  const command = writeWeightcast(bench.scratch);
  const name = basename(bench.scratch);
  const marked = `${mark}=${name}`;
  return {
    ...bench,
    host,
    command,
    variables: {
      [mark]: name,
      PYTHONPATH: fileURLToPath(new URL('python', packageRoot)),
      WEIGHTCAST_COMMAND: command,
      WEIGHTCAST_SOCKET: bench.daemon.socket,
      OMP_NUM_THREADS: '1',
    },
    path: (name) => join(fileURLToPath(packageRoot), 'test/launchers', name),
    update: async () => {
      const added = await bench.ask('POST', '/v1/instances', { ...bench.instance, host });
      assert.ok(added.status < 300, JSON.stringify(added.body));
      const model = await bench.makeModel(2);
      const registered = await bench.ask('POST', '/v1/checkpoints', { name: 'two', path: model });
      assert.ok(registered.status < 300, JSON.stringify(registered.body));
      const { status, body } = await bench.ask('POST', '/v1/updates', { checkpoint: 'two' });
      assert.equal(status, 200, JSON.stringify(body));
      assert.deepEqual(
        body.report.instances.map((one: { outcome: string }) => one.outcome),
        ['updated'],
      );
      const pids = markedProcesses(marked);
      const ranks =
        body === null
          ? []
          : (await bench.ask('GET', '/v1/status')).body.ranks.map((one: { pid: number }) => one.pid);
      assert.equal(ranks.length, 2);
      for (const rank of ranks) assert.ok(pids.includes(rank), 'a rank is what the launcher has started');
    },
    isClean: async () => {
      await eventually('nothing of the launcher runs', () => markedProcesses(marked).length === 0);
      const { join_file } = (await bench.ask('GET', `/v1/hosts/${host}/join-file`)).body;
      const { directory } = JSON.parse(join_file);
      await eventually(`${directory} is gone`, () => !existsSync(directory));
    },
  };
}

function markedProcesses(marked: string): number[] {
  return readdirSync('/proc').flatMap((entry) => {
    if (!/^\d+$/.test(entry) || Number(entry) === process.pid) return [];
    try {
      return readFileSync(`/proc/${entry}/environ`, 'utf8').split('\0').includes(marked)
        ? [Number(entry)]
        : [];
    } catch {
      return [];
    }
  });
}

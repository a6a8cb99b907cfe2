/** Signals to a daemon that is at work: who waits is told, and nothing is left. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { basename, join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { writeQwen3Model } from '../../scenarios/qwen3-model.ts';
import { startReferenceEngine } from '../../scenarios/reference-engine/index.ts';
import { f32, temporaryDirectory, writeSafetensors } from '../checkpoint/safetensors-files.ts';
import { eventually } from '../cluster/harness.ts';
import { listening } from '../listening.ts';
import { Program } from '../program.ts';
import { type Answer, ask } from './ask.ts';
import { sharedOf } from './harness.ts';

class Serving {
  readonly socket: string;
  readonly namespace: string;
  readonly scratch: string;
  readonly #command: Program;
  readonly #faults: string;

  constructor(t: TestContext) {
    this.scratch = temporaryDirectory(t);
    this.namespace = basename(this.scratch);
    this.socket = join(this.scratch, 'd.sock');
    this.#faults = join(this.scratch, 'faults');
    writeFileSync(this.#faults, '');
    const words = ['serve', '--socket', this.socket, '--devices', `host:${this.namespace}`];
    const program = fileURLToPath(new URL('../../src/cli/main.js', import.meta.url));
    const variables = { WEIGHTCAST_FAULTS: `@${this.#faults}` };
    this.#command = new Program(t, [process.execPath, program, ...words], {
      variables,
      lastSignal: 'SIGKILL',
    });
  }

  async ready(): Promise<void> {
    await this.#command.says('press Ctrl-C');
  }

  /** With a rank, whose engine does not run. */
  async withRank(): Promise<void> {
    await this.ready();
    await this.done('POST', '/v1/instances', { name: 'a', endpoint: 'http://127.0.0.1:1', ranks: [0] });
  }

  /** The next time that a process reaches that point it waits for a minute. */
  delay(point: string): void {
    writeFileSync(this.#faults, `${point}:delay=60000`);
  }

  async isDelayed(): Promise<void> {
    const fired = `${this.#faults}.fired`;
    await eventually('it waits', () => existsSync(fired) && readFileSync(fired, 'utf8').includes('delay'));
  }

  ask(method: string, path: string, body?: unknown): Promise<Answer> {
    return ask(this.socket, method, path, body);
  }

  async done(method: string, path: string, body: unknown): Promise<void> {
    const { status, text } = await this.ask(method, path, body);
    assert.equal(status, 200, text);
  }

  /** `waiting`: the answer that a client waits for as the signal comes. */
  async endsBy(signal: NodeJS.Signals, waiting: Promise<Answer>): Promise<Answer> {
    const { daemon, ranks } = (await this.ask('GET', '/v1/status')).body;
    const directories = sharedOf(daemon.pid);
    assert.equal(directories.length, 2);
    const pids: number[] = [daemon.pid, ...ranks.flatMap(({ pid }: { pid: number | null }) => pid ?? [])];
    this.#command.kill(signal);
    const [answer, { code, errors }] = await Promise.all([waiting, this.#command.ended]);
    assert.deepEqual([code, errors], [0, '']);
    for (const path of [this.socket, ...directories]) assert.ok(!existsSync(path), path);
    await eventually('its ranks have ended', () => pids.every((pid) => !existsSync(`/proc/${pid}`)));
    return answer;
  }
}

test('SIGINT while an instance is added: who adds it is told', async (t) => {
  const serving = new Serving(t);
  await serving.ready();
  const silent = createServer();
  const endpoint = await listening(t, silent);
  const asked = once(silent, 'request');
  const adding = serving.ask('POST', '/v1/instances', { name: 'a', endpoint, ranks: [0] });
  await asked;
  const { status, body } = await serving.endsBy('SIGINT', adding);
  assert.deepEqual([status, body.error.message], [503, 'the daemon is stopping']);
});

test('SIGHUP while a checkpoint is loaded: who registers it is told', async (t) => {
  const serving = new Serving(t);
  await serving.withRank();
  const model = join(serving.scratch, 'm.safetensors');
  writeSafetensors(model, [f32('w', 1_024)]);
  serving.delay('rank:load');
  const registering = serving.ask('POST', '/v1/checkpoints', { name: 'c', path: model });
  await serving.isDelayed();
  const { status, text } = await serving.endsBy('SIGHUP', registering);
  assert.ok(status >= 500, text);
});

test('SIGTERM in an update: who updates is told what became of it, and the engine is free', async (t) => {
  const serving = new Serving(t);
  await serving.ready();
  const model = join(serving.scratch, 'model');
  await writeQwen3Model({ directory: model, bytes: 8 * 2 ** 20, seed: 1 });
  const { namespace: deviceNamespace } = serving;
  const engine = await startReferenceEngine({
    name: 'e',
    model,
    ranks: 1,
    deviceNamespace,
    deviceCapacity: 2 ** 27,
    faults: { hangAtBucket: 1, rank: 0, once: true },
  });
  t.after(() => engine.stop());
  const instance = { name: 'a', endpoint: engine.endpoint, ranks: [0], pause: 'abort' };
  await serving.done('POST', '/v1/instances', instance);
  await serving.done('POST', '/v1/checkpoints', { name: 'c', path: model });
  const updating = serving.ask('POST', '/v1/updates', { checkpoint: 'c', bucket_bytes: 2 ** 20 });
  await eventually('the update touches the engine', async () => {
    const [update] = (await serving.ask('GET', '/v1/status')).body.updates;
    return update?.progress?.done_bytes > 0;
  });
  const { status, body, text } = await serving.endsBy('SIGTERM', updating);
  assert.ok(status >= 400 && body.error.instances?.[0]?.name === 'a', text);
});

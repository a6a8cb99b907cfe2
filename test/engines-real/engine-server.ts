import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout } from 'node:timers/promises';
import type { Scope } from '../checkpoint/safetensors-files.ts';
import { freePorts } from '../free-ports.ts';

/** An idle machine of two cores takes half a minute to start vLLM. */
const startSeconds = 400;
const stopSeconds = 30;

/** A real engine's HTTP server, and the processes that it consists of. */
export abstract class EngineServer {
  endpoint = '';
  #process: ChildProcess | null = null;
  #log = '';

  /** Resolves when it serves the model. */
  protected static async startServer<Server extends EngineServer>(
    t: Scope,
    server: Server,
    python: string,
    values: readonly string[],
    environment: Readonly<Record<string, string>>,
  ): Promise<Server> {
    const port = await freePorts(1);
    server.endpoint = `http://127.0.0.1:${port}`;
    const child = spawn(python, [...values, '--host', '127.0.0.1', '--port', `${port}`], {
      // Its workers are in its process group, and end with it.
      detached: true,
      env: { ...process.env, ...environment },
    });
    server.#process = child;
    for (const stream of [child.stdout!, child.stderr!]) {
      stream.on('data', (data) => {
        server.#log += data;
      });
    }
    t.after(() => server.stop());
    await server.#untilHealthy();
    return server;
  }

  /** What it has printed so far. */
  get log(): string {
    return this.#log;
  }

  post(path: string, body: object = {}): Promise<unknown> {
    const init = {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(body),
    };
    return this.#ask(path, init);
  }

  get(path: string): Promise<unknown> {
    return this.#ask(path, {});
  }

  async stop(): Promise<void> {
    if (this.#hasEnded()) return;
    const child = this.#process!;
    const exited = once(child, 'exit');
    child.kill('SIGTERM');
    await Promise.race([exited, setTimeout(stopSeconds * 1_000, null, { ref: false })]);
    try {
      process.kill(-child.pid!, 'SIGKILL');
    } catch {
      // All of the group have ended.
    }
    await exited;
  }

  #hasEnded(): boolean {
    return this.#process!.exitCode !== null || this.#process!.signalCode !== null;
  }

  async #ask(path: string, init: RequestInit): Promise<unknown> {
    const response = await fetch(`${this.endpoint}${path}`, init);
    const text = await response.text();
    const log = response.status === 500 ? `\n${this.#log.slice(-10_000)}` : '';
    assert.equal(response.status, 200, `${path}: ${text}${log}`);
    return JSON.parse(text);
  }

  async #untilHealthy(): Promise<void> {
    const end = performance.now() + startSeconds * 1_000;
    for (;;) {
      if (this.#hasEnded()) assert.fail(`the engine has ended: ${this.#log.slice(-30_000)}`);
      const healthy = await fetch(`${this.endpoint}/health`).then(
        ({ status }) => status === 200,
        () => false,
      );
      if (healthy) return;
      if (performance.now() > end) assert.fail(`the engine is not up: ${this.#log.slice(-5_000)}`);
      await setTimeout(500);
    }
  }
}

import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  checkEngineOptions,
  createEngineClient,
  type EngineOptions,
} from '../../src/engines/engine-options.ts';
import { LmdeployClient } from '../../src/engines/lmdeploy.ts';
import { SglangClient } from '../../src/engines/sglang.ts';
import { VllmClient } from '../../src/engines/vllm.ts';
import { systemClock } from '../../src/native-bridge/clock.ts';

const endpoint = 'http://127.0.0.1:8000';

const clients = { vllm: VllmClient, sglang: SglangClient, lmdeploy: LmdeployClient };

const accepted: Omit<EngineOptions, 'endpoint'>[] = [
  {},
  { engine: 'vllm', link: 'checkpoint-engine', pause: 'keep' },
  { engine: 'vllm', pause: 'wait', resetCache: true },
  { engine: 'sglang', link: 'checkpoint-engine', pause: 'retract' },
  { engine: 'sglang', pause: 'abort', resetCache: true },
  { engine: 'sglang', pause: 'caller', resetCache: true },
  { engine: 'vllm', pause: 'caller' },
  { engine: 'sglang', pause: 'in_place', resetCache: false },
  { engine: 'lmdeploy', pause: 'abort' },
  { engine: 'lmdeploy', link: 'checkpoint-engine', pause: 'caller' },
];
for (const options of accepted) {
  test(`accepted: ${JSON.stringify(options)}`, async () => {
    checkEngineOptions('a', { endpoint, ...options });
    const client = createEngineClient({ endpoint, ...options }, systemClock);
    assert.ok(client instanceof clients[options.engine ?? 'vllm']);
    await client.close();
  });
}

const refused: [object, string][] = [
  [
    { engine: 'lmdeploy' },
    'pause of lmdeploy is one of abort, caller: it takes weights only while it sleeps',
  ],
  [{ engine: 'lmdeploy', pause: 'wait' }, 'pause of lmdeploy is "wait"; it is one of abort, caller'],
  [
    { engine: 'lmdeploy', link: 'weightcast', pause: 'abort' },
    'link of lmdeploy is "checkpoint-engine": its workers have no other',
  ],
  [
    { engine: 'lmdeploy', hasDraftModel: true, pause: 'abort' },
    'hasDraftModel is for engines that load the weights twice; an LMDeploy loads both models at once',
  ],
  [{ engine: 'tgi' }, 'engine is "tgi"; it is one of vllm, sglang, lmdeploy'],
  [{ link: 'pickle' }, 'link is "pickle"; it is one of weightcast, checkpoint-engine'],
  [{ pause: 'retract' }, 'pause of vllm is "retract"; it is one of abort, wait, keep, caller'],
  [
    { engine: 'sglang', pause: 'wait' },
    'pause of sglang is "wait"; it is one of abort, retract, in_place, caller',
  ],
  [
    { engine: 'sglang', pause: 'retract', resetCache: true },
    'resetCache cannot be combined with pause "retract": SGLang flushes its cache only when no request waits, and the retracted ones do',
  ],
  [
    { pause: 'keep', resetCache: true },
    'resetCache cannot be combined with pause "keep": the requests that are kept use the cache',
  ],
  [
    { engine: 'sglang', pause: 'in_place', resetCache: true },
    'resetCache cannot be combined with pause "in_place": the requests that are kept use the cache',
  ],
];
for (const [options, message] of refused) {
  test(`refused with the instance's name: ${JSON.stringify(options)}`, () => {
    assert.throws(() => checkEngineOptions('blue', { endpoint, ...options } as EngineOptions), {
      name: 'UsageError',
      message: `instance blue: ${message}`,
    });
  });
}

test('an API key that no header can carry is refused, also for an engine on a Unix socket', () => {
  for (const endpoint of ['http://127.0.0.1:8000', 'unix:/tmp/engine.sock']) {
    assert.throws(() => checkEngineOptions('a', { endpoint, apiKey: 'key\n' }), {
      name: 'UsageError',
      message: /API key contains characters/,
    });
  }
});

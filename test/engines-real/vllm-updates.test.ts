import assert from 'node:assert/strict';
import { test } from 'node:test';
import { allArrived } from '../../simulation/all-arrived.ts';
import type { Cluster, ProofOptions, UpdateReport } from '../../src/index.ts';
import { type Break, breakOff, readTensors } from './broken-update.ts';
import { freshAnswers, startCluster } from './one-engine.ts';
import { type Answer, model, skip, startOnCpu, type VllmServer } from './vllm-server.ts';

/** The ways in which vLLM asks our worker for an update, and what it is started with for each. */
const faces = {
  'worker extension': ['--worker-extension-cls', 'weightcast.worker.VllmWorkerExtension'],
  'weight-transfer engine': ['--weight-transfer-config', '{"backend": "weightcast"}'],
} as const;

/** Several buckets: the largest tensors have as many bytes, and most layers end within one. */
const bucketBytes = 2 ** 21;

/** What a vLLM answers that was started with the weights. */
const fresh = (name: string) => freshAnswers((scope) => startOnCpu(scope, name));

const ofB = skip ? [] : await fresh('B');

async function update(cluster: Cluster, name: string, verify: ProofOptions = {}): Promise<UpdateReport> {
  await cluster.register(name, model(name));
  try {
    return await cluster.update(name, { bucketBytes, verify });
  } finally {
    await cluster.unregister(name);
  }
}

/** Of B, what `begun` has of it, and halves of two fused modules, which then are A's. */
async function tensorsOfBegun() {
  const begun = /^model\.(embed_tokens|layers\.0|layers\.1\.input_layernorm)\./;
  const halves = /^model\.layers\.1\.(self_attn\.q_proj|mlp\.up_proj)\.weight$/;
  return (await readTensors(model('B'))).filter(({ name }) => begun.test(name) || halves.test(name));
}

for (const [face, options] of Object.entries(faces)) {
  test(`vLLM, by its ${face}`, { skip }, async (t) => {
    const server = await startOnCpu(t, 'A', options);
    const ofA = await server.answers();
    assert.notDeepEqual(ofA, ofB);
    const cluster = await startCluster(t, { endpoint: server.endpoint });

    await t.test(
      'answers after each of several updates as one that was started with the weights',
      async () => {
        for (const [name, answers] of [
          ['B', ofB],
          ['A', ofA],
          ['B', ofB],
        ] as const) {
          const report = await update(cluster, name);
          assert.ok(allArrived(report));
          assert.ok(report.buckets > 5);
          assert.deepEqual(await server.answers(), answers);
          if (face === 'weight-transfer engine') {
            const { weight_version } = (await server.get('/weight_info')) as { weight_version: string };
            assert.equal(weight_version, `${name}@${report.digest}`);
          }
        }
        assert.match(server.log, /'reload': 'layerwise', 'coverage': 'complete'/);
      },
    );

    await t.test(
      'has whole layers after an update that broke off, old or new, and takes the next',
      async (t) => {
        await update(cluster, 'begun');
        const ofBegun = await server.answers();
        for (const how of ['abort', 'rank lost', 'load fails'] satisfies Break[]) {
          await update(cluster, 'A');
          const answer = await breakOff(t, server.endpoint, await tensorsOfBegun(), how);
          assert.match(
            answer,
            {
              abort: /aborted the update: the test breaks it off/,
              'rank lost': /has vanished/,
              'load fails':
                /worker 0 of .* failed in update_weights_from_weightcast: \S*LoadFailed: tensor '\S+', \S+ \[[\d, ]+\]: RuntimeError: /,
            }[how],
          );
          assert.deepEqual(await server.answers(), ofBegun, how);
        }
        await update(cluster, 'B');
        assert.deepEqual(await server.answers(), ofB);
      },
    );

    await t.test('says which parameters a checkpoint lacks, and takes the next', async () => {
      await assert.rejects(update(cluster, 'short'), {
        message: /model\.layers\.2\.mlp\.down_proj\.weight, model\.norm\.weight; /,
      });
      assert.equal((await server.answers()).length, ofA.length);
      await update(cluster, 'A');
      assert.deepEqual(await server.answers(), ofA);
    });

    await t.test('proves its answers, and is paused and broken if they are not those expected', async () => {
      const answersA = await server.promptLogprobs();
      const report = await update(cluster, 'A', { answers: answersA });
      assert.equal(report.instances[0]?.proofs.answering, 'holds');
      await assert.rejects(update(cluster, 'B', { answers: answersA }), {
        name: 'VerificationError',
        message:
          /^instance engine does not answer as expected: prompt \d of \d .* is broken and stays paused/,
      });
      assert.deepEqual(await server.get('/is_paused'), { is_paused: true });
      const [instance] = (await cluster.status()).instances;
      assert.deepEqual([instance?.state, instance?.isPaused], ['broken', true]);
      await update(cluster, 'A', { answers: answersA });
      assert.deepEqual(await server.get('/is_paused'), { is_paused: false });
      assert.deepEqual(await server.answers(), ofA);
    });

    if (face === 'weight-transfer engine') {
      await t.test('answers with the old weights between the start of a session and its update', async () => {
        await server.post('/start_weight_update');
        assert.deepEqual(await server.answers(), ofA);
        // The session that nobody finished is in nobody's way.
        await update(cluster, 'B');
        assert.deepEqual(await server.answers(), ofB);
      });
    }
  });
}

test('a vLLM that started with dummy weights, and packs a tied head for itself, answers as a fresh one', {
  skip,
}, async (t) => {
  const expected = await fresh('tied');
  const options = [...faces['weight-transfer engine'], '--load-format', 'dummy'];
  const server = await startOnCpu(t, 'tied', options);
  assert.notDeepEqual(await server.answers(), expected);
  await update(await startCluster(t, { endpoint: server.endpoint }), 'tied');
  assert.deepEqual(await server.answers(), expected);
});

for (const [face, option] of Object.entries(faces))
  test(`a draft model takes the weights apart from the target, and drafts what that accepts: ${face}`, {
    skip,
  }, async (t) => {
    // Drafting for itself, a model accepts every token, and next to none of one with other weights.
    const speculation = { method: 'draft_model', model: model('A'), num_speculative_tokens: 3 };
    const options = [...option, '--speculative-config', JSON.stringify(speculation)];
    const server = await startOnCpu(t, 'A', options);
    assert.equal(await acceptance(server), 1);
    const cluster = await startCluster(t, { endpoint: server.endpoint, hasDraftModel: true });
    for (const name of ['B', 'A']) {
      await update(cluster, name);
      assert.equal(await acceptance(server), 1, name);
    }
    await cluster.stop();
    await update(await startCluster(t, { endpoint: server.endpoint }), 'B');
    // Verified several at a time, tokens have the last digit of their probabilities otherwise.
    const texts = (answers: readonly Answer[]) => answers.map(([text]) => text);
    assert.deepEqual(texts(await server.answers()), texts(ofB));
    assert.ok((await acceptance(server)) < 0.5);
  });

/** The share of drafted tokens that the target accepts while it answers. */
async function acceptance(server: VllmServer): Promise<number> {
  const count = async (what: string) => {
    const text = await (await fetch(`${server.endpoint}/metrics`)).text();
    return Number(new RegExp(`^vllm:spec_decode_num_${what}_tokens_total{.*} (.*)$`, 'm').exec(text)?.[1]);
  };
  const before = [await count('accepted'), await count('draft')] as const;
  await server.answers();
  return ((await count('accepted')) - before[0]) / ((await count('draft')) - before[1]);
}

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { allArrived } from '../../simulation/all-arrived.ts';
import { type Break, breakOff, readTensors } from './broken-update.ts';
import { freshAnswers, startCluster, update } from './one-engine.ts';
import { type Face, faces, sharedEngines } from './shared-engines.ts';
import { type Answer, model, skip, startOnCpu, type VllmServer } from './vllm-server.ts';

/** Of B, what `begun` has of it, and halves of two fused modules, which then are A's. */
async function tensorsOfBegun() {
  const begun = /^model\.(embed_tokens|layers\.0|layers\.1\.input_layernorm)\./;
  const halves = /^model\.layers\.1\.(self_attn\.q_proj|mlp\.up_proj)\.weight$/;
  return (await readTensors(model('B'))).filter(({ name }) => begun.test(name) || halves.test(name));
}

for (const face of Object.keys(faces) as Face[]) {
  test(`vLLM, by its ${face}`, { skip }, async (t) => {
    const { engines, ofA, ofB } = await sharedEngines();
    const { server } = engines[face];
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
          const report = await update(cluster, model(name));
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
        await update(cluster, model('begun'));
        const ofBegun = await server.answers();
        for (const how of ['abort', 'rank lost', 'load fails'] satisfies Break[]) {
          await update(cluster, model('A'));
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
        await update(cluster, model('B'));
        assert.deepEqual(await server.answers(), ofB);
      },
    );

    await t.test('says which parameters a checkpoint lacks, and takes the next', async () => {
      await assert.rejects(update(cluster, model('short')), {
        message: /model\.layers\.2\.mlp\.down_proj\.weight, model\.norm\.weight; /,
      });
      assert.equal((await server.answers()).length, ofA.length);
      await update(cluster, model('A'));
      assert.deepEqual(await server.answers(), ofA);
    });

    await t.test('proves its answers, and is paused and broken if they are not those expected', async () => {
      const answersA = await server.promptLogprobs();
      const report = await update(cluster, model('A'), { answers: answersA });
      assert.equal(report.instances[0]?.proofs.answering, 'holds');
      await assert.rejects(update(cluster, model('B'), { answers: answersA }), {
        name: 'VerificationError',
        message:
          /^instance engine does not answer as expected: prompt \d of \d .* is broken and stays paused/,
      });
      assert.deepEqual(await server.get('/is_paused'), { is_paused: true });
      const [instance] = (await cluster.status()).instances;
      assert.deepEqual([instance?.state, instance?.isPaused], ['broken', true]);
      await update(cluster, model('A'), { answers: answersA });
      assert.deepEqual(await server.get('/is_paused'), { is_paused: false });
      assert.deepEqual(await server.answers(), ofA);
    });

    if (face === 'weight-transfer engine') {
      await t.test('answers with the old weights between the start of a session and its update', async () => {
        await server.post('/start_weight_update');
        assert.deepEqual(await server.answers(), ofA);
        // The session that nobody finished is in nobody's way.
        await update(cluster, model('B'));
        assert.deepEqual(await server.answers(), ofB);
      });

      await t.test(
        'is of no known version once it has reloaded its own files, until it is updated',
        async () => {
          await server.post('/collective_rpc', { method: 'reload_weights' });
          assert.deepEqual(await server.answers(), ofA);
          const [instance] = (await cluster.status()).instances;
          assert.deepEqual([instance!.state, instance!.version], ['unknown', null]);
          assert.match(instance!.problem!, /workers hold other weights than weightcast gave them/);
          await update(cluster, model('B'));
          assert.equal((await cluster.status()).instances[0]!.state, 'serving');
        },
      );
    }
  });
}

test('a vLLM that started with dummy weights, and packs a tied head for itself, answers as a fresh one', {
  skip,
}, async (t) => {
  const options = [...faces['weight-transfer engine'], '--load-format', 'dummy'];
  const [expected, server] = await Promise.all([
    freshAnswers((scope) => startOnCpu(scope, 'tied')),
    startOnCpu(t, 'tied', options),
  ]);
  assert.notDeepEqual(await server.answers(), expected);
  await update(await startCluster(t, { endpoint: server.endpoint }), model('tied'));
  assert.deepEqual(await server.answers(), expected);
});

test('a draft model takes the weights apart from the target, and drafts what that accepts, by either face', {
  skip,
}, async (t) => {
  const { ofB } = await sharedEngines();
  // Drafting for itself, a model accepts every token, and next to none of one with other weights.
  const speculation = { method: 'draft_model', model: model('A'), num_speculative_tokens: 3 };
  const options = ['--speculative-config', JSON.stringify(speculation)];
  const starts = Object.values(faces).map((face) => startOnCpu(t, 'A', [...face, ...options]));
  for (const server of await Promise.all(starts)) {
    assert.equal(await acceptance(server), 1);
    const cluster = await startCluster(t, { endpoint: server.endpoint, hasDraftModel: true });
    for (const name of ['B', 'A']) {
      await update(cluster, model(name));
      assert.equal(await acceptance(server), 1, name);
    }
    await cluster.stop();
    await update(await startCluster(t, { endpoint: server.endpoint }), model('B'));
    // Verified several at a time, tokens have the last digit of their probabilities otherwise.
    const texts = (answers: readonly Answer[]) => answers.map(([text]) => text);
    assert.deepEqual(texts(await server.answers()), texts(ofB));
    assert.ok((await acceptance(server)) < 0.5);
  }
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

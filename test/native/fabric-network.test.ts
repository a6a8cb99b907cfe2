import assert from 'node:assert/strict';
import { fork } from 'node:child_process';
import { type TestContext, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { type HostNetwork, whyNoNamespaces } from '../../scenarios/host-network.ts';
import { patience, timeBudget } from '../patience.ts';
import { TestCluster } from './fabrics.ts';
import type { ReadOrder, ReadResult } from './fixtures/fabric-reader.ts';
import { Program } from './harness.ts';
import { testNetwork } from './namespaces.ts';

const skip = whyNoNamespaces() ?? false;
const bytes = (4 << 20) + 777;

interface SourceReport {
  readonly address: number[];
  readonly token: number[];
}

/** Programs of fixtures/ on the hosts of a network. */
class Hosts {
  readonly network: HostNetwork;
  readonly #cluster: TestCluster;
  readonly #test: TestContext;

  constructor(test: TestContext, count: number) {
    this.#test = test;
    this.#cluster = new TestCluster(test);
    this.network = testNetwork(test, count);
  }

  async source(host: number): Promise<{ program: Program; report: SourceReport }> {
    const program = this.#start(host, 'fabric-source');
    return { program, report: await program.message<SourceReport>() };
  }

  async reader(host: number): Promise<Program> {
    const program = this.#start(host, 'fabric-reader');
    assert.equal(await program.message(), 'ready');
    return program;
  }

  #start(host: number, fixture: string): Program {
    const path = fileURLToPath(new URL(`fixtures/${fixture}.js`, import.meta.url));
    const values = [this.#cluster.host.namespace, this.#cluster.secret.toString('hex'), String(bytes)];
    const [command, ...words] = this.network.launcher(host);
    const program = new Program(
      fork(path, values, {
        execPath: command!,
        execArgv: [...words, process.execPath],
      }),
    );
    this.#test.after(() => program.kill());
    return program;
  }
}

async function read(reader: Program, order: ReadOrder): Promise<ReadResult[]> {
  reader.send(order);
  assert.equal(await reader.message(), 'reading');
  return reader.message<ReadResult[]>();
}

test('a host reads from three others over the network, which it tells from its own', { skip }, async (t) => {
  const hosts = new Hosts(t, 4);
  const [reader, ...sources] = await Promise.all([
    hosts.reader(0),
    hosts.source(0),
    hosts.source(1),
    hosts.source(2),
    hosts.source(3),
  ]);
  const results = await read(reader, {
    sources: sources.map(({ report }) => report),
    times: 3,
    timeoutMilliseconds: patience,
  });
  assert.deepEqual(
    results.map(({ kind, message, right }) => [kind, message, right]),
    [
      ['shm', null, true],
      ['tcp', null, true],
      ['tcp', null, true],
      ['tcp', null, true],
    ],
  );
});

test('a link that goes silent while it carries a read is a lost peer or a deadline, whichever is sooner', {
  skip,
}, async (t) => {
  const hosts = new Hosts(t, 2);
  const [reader, { report }] = await Promise.all([hosts.reader(0), hosts.source(1)]);
  for (const [timeoutMilliseconds, code, atMost] of [
    [1_500, 'WEIGHTCAST_DEADLINE', 2_500],
    [60_000, 'WEIGHTCAST_PEER_LOST', 10_000],
  ] as const) {
    reader.send({ sources: [report], times: 100_000, timeoutMilliseconds });
    assert.equal(await reader.message(), 'reading');
    hosts.network.silence(1);
    const silenced = performance.now();
    const [result] = await reader.message<ReadResult[]>();
    assert.equal(result!.code, code, result!.message ?? '');
    assert.match(result!.message!, /source 0/);
    const milliseconds = performance.now() - silenced;
    assert(milliseconds < timeBudget(atMost), `${milliseconds} ms`);
    hosts.network.mend(1);
  }
  const [mended] = await read(reader, { sources: [report], times: 1, timeoutMilliseconds: patience });
  assert.deepEqual([mended!.kind, mended!.message, mended!.right], ['tcp', null, true]);
});

test('a host that is silent from the start is a deadline, and one that is gone a lost peer', {
  skip,
}, async (t) => {
  const hosts = new Hosts(t, 2);
  const [reader, { program, report }] = await Promise.all([hosts.reader(0), hosts.source(1)]);
  hosts.network.silence(1);
  reader.send({ sources: [report], times: 1, timeoutMilliseconds: 500 });
  const [silent] = await reader.message<ReadResult[]>();
  assert.deepEqual(
    [silent!.code, silent!.message],
    ['WEIGHTCAST_DEADLINE', 'connecting to source 0 took longer than 500 ms'],
  );
  hosts.network.mend(1);
  await program.kill();
  reader.send({ sources: [report], times: 1, timeoutMilliseconds: patience });
  const [gone] = await reader.message<ReadResult[]>();
  assert.equal(gone!.code, 'WEIGHTCAST_PEER_LOST', gone!.message ?? '');
  assert(gone!.milliseconds < timeBudget(1_000), `${gone!.milliseconds} ms`);
});

import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import type { TestContext } from 'node:test';

/** Why there can be no network namespaces here; undefined if there can. */
export function whyNoNamespaces(): string | undefined {
  if (process.getuid?.() !== 0) return 'network namespaces need root';
  const name = `wc-${randomBytes(3).toString('hex')}`;
  if (spawnSync('ip', ['netns', 'add', name]).status !== 0) return '`ip netns add` does not work here';
  spawnSync('ip', ['netns', 'delete', name]);
  return undefined;
}

/** Hosts of one network: namespaces joined by a bridge, each with an address of its own, gone after the test. */
export class TestNetwork {
  readonly #prefix = `wc${randomBytes(3).toString('hex')}`;

  constructor(test: TestContext, hosts: number) {
    test.after(() => {
      for (let host = 0; host < hosts; host += 1) spawnSync('ip', ['netns', 'delete', this.namespace(host)]);
      spawnSync('ip', ['netns', 'delete', this.#switch]);
    });
    this.#run('netns', 'add', this.#switch);
    this.#run('-n', this.#switch, 'link', 'add', 'bridge', 'type', 'bridge');
    this.#run('-n', this.#switch, 'link', 'set', 'bridge', 'up');
    for (let host = 0; host < hosts; host += 1) this.#join(host);
  }

  namespace(host: number): string {
    return `${this.#prefix}-${host}`;
  }

  address(host: number): string {
    return `10.213.0.${host + 1}`;
  }

  /** The other end of the host's cable: it stays up at the host, which is not told that nothing arrives any more. */
  silence(host: number): void {
    this.#run('-n', this.#switch, 'link', 'set', `port${host}`, 'nomaster');
  }

  mend(host: number): void {
    this.#run('-n', this.#switch, 'link', 'set', `port${host}`, 'master', 'bridge');
  }

  get #switch(): string {
    return `${this.#prefix}-switch`;
  }

  #join(host: number): void {
    const name = this.namespace(host);
    this.#run('netns', 'add', name);
    this.#run(
      '-n',
      this.#switch,
      'link',
      'add',
      `port${host}`,
      'type',
      'veth',
      'peer',
      'name',
      'eth0',
      'netns',
      name,
    );
    this.#run('-n', this.#switch, 'link', 'set', `port${host}`, 'master', 'bridge', 'up');
    this.#run('-n', name, 'address', 'add', `${this.address(host)}/24`, 'dev', 'eth0');
    this.#run('-n', name, 'link', 'set', 'eth0', 'up');
    this.#run('-n', name, 'link', 'set', 'lo', 'up');
  }

  #run(...words: string[]): void {
    const { status, stderr } = spawnSync('ip', words, { encoding: 'utf8' });
    if (status !== 0) throw new Error(`ip ${words.join(' ')}: ${stderr}`);
  }
}

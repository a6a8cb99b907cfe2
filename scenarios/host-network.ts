import { spawnSync } from 'node:child_process';
import { randomBytes, randomInt } from 'node:crypto';
import { WeightcastError } from '../src/errors.ts';

/** Why there can be no network namespaces here; undefined if there can. */
export function whyNoNamespaces(): string | undefined {
  if (process.getuid?.() !== 0) return 'network namespaces need root';
  const name = `wc-${randomBytes(3).toString('hex')}`;
  if (spawnSync('ip', ['netns', 'add', name]).status !== 0) return '`ip netns add` does not work here';
  spawnSync('ip', ['netns', 'delete', name]);
  return undefined;
}

/**
 * Hosts of one network on this machine: network namespaces whose cables end at one switch, which is a namespace too.
 * Needs root and iproute2. {@link close} removes everything.
 */
export class HostNetwork {
  readonly #prefix = `wc${randomBytes(3).toString('hex')}`;
  readonly #subnet: string;
  readonly #hosts: number;
  #hasUplink = false;

  /** Throws a WeightcastError with what `ip` says; then nothing is left. */
  constructor(hosts: number) {
    this.#hosts = hosts;
    this.#subnet = `10.213.${randomInt(256)}`;
    try {
      run('ip', 'netns', 'add', this.#switch);
      run('ip', '-n', this.#switch, 'link', 'add', 'bridge', 'type', 'bridge');
      run('ip', '-n', this.#switch, 'link', 'set', 'bridge', 'up');
      for (let host = 0; host < hosts; host += 1) this.#addHost(host);
    } catch (error) {
      this.close();
      throw error;
    }
  }

  namespace(host: number): string {
    return `${this.#prefix}-${host}`;
  }

  address(host: number): string {
    return `${this.#subnet}.${host + 1}`;
  }

  /** Words before a command that is to run on the host. */
  launcher(host: number): string[] {
    return ['ip', 'netns', 'exec', this.namespace(host)];
  }

  /** Gives this machine itself a cable to the switch; returns its address. */
  connectHere(): string {
    const address = `${this.#subnet}.254`;
    const cable = `${this.#prefix}-up`;
    this.#hasUplink = true;
    run(
      'ip',
      '-n',
      this.#switch,
      ...'link add here type veth peer name'.split(' '),
      cable,
      'netns',
      String(process.pid),
    );
    run('ip', '-n', this.#switch, ...'link set here master bridge up'.split(' '));
    run('ip', 'address', 'add', `${address}/24`, 'dev', cable);
    run('ip', 'link', 'set', cable, 'up');
    return address;
  }

  /** From now on nothing goes faster through the host's cable, in either direction; `rate` as tc has it: `200mbit`. */
  limit(host: number, rate: string): void {
    const bucket = ['root', 'tbf', 'rate', rate, 'burst', '256kb', 'latency', '50ms'];
    run('tc', '-n', this.namespace(host), 'qdisc', 'replace', 'dev', 'eth0', ...bucket);
    run('tc', '-n', this.#switch, 'qdisc', 'replace', 'dev', `port${host}`, ...bucket);
  }

  /** The other end of the host's cable: it stays up at the host, which is not told that nothing arrives any more. */
  silence(host: number): void {
    run('ip', '-n', this.#switch, 'link', 'set', `port${host}`, 'nomaster');
  }

  mend(host: number): void {
    run('ip', '-n', this.#switch, 'link', 'set', `port${host}`, 'master', 'bridge');
  }

  /** Never throws, and may be called twice. */
  close(): void {
    if (this.#hasUplink) spawnSync('ip', ['link', 'delete', `${this.#prefix}-up`]);
    for (let host = 0; host < this.#hosts; host += 1)
      spawnSync('ip', ['netns', 'delete', this.namespace(host)]);
    spawnSync('ip', ['netns', 'delete', this.#switch]);
  }

  get #switch(): string {
    return `${this.#prefix}-switch`;
  }

  #addHost(host: number): void {
    const name = this.namespace(host);
    const port = `port${host}`;
    run('ip', 'netns', 'add', name);
    run('ip', '-n', this.#switch, 'link', 'add', port, ...'type veth peer name eth0 netns'.split(' '), name);
    run('ip', '-n', this.#switch, 'link', 'set', port, 'master', 'bridge', 'up');
    run('ip', '-n', name, 'address', 'add', `${this.address(host)}/24`, 'dev', 'eth0');
    run('ip', '-n', name, 'link', 'set', 'eth0', 'up');
    run('ip', '-n', name, 'link', 'set', 'lo', 'up');
  }
}

function run(command: string, ...words: string[]): void {
  const { status, stderr, error } = spawnSync(command, words, { encoding: 'utf8' });
  if (status === 0) return;
  throw new WeightcastError(`${command} ${words.join(' ')}: ${(error?.message ?? stderr).trim()}`);
}

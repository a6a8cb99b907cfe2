import { spawnSync } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { UsageError, WeightcastError } from '../src/errors.ts';

let networks = 0;

/** With the process that makes it, so that the next run of tests removes what a killed one has left (scripts/sweep-tests.mjs). */
function namespacePrefix(): string {
  networks += 1;
  return `wc-${process.pid}-${networks.toString(36)}`;
}

/** Why network namespaces cannot be used here; undefined if they can. */
export function whyNoNamespaces(): string | undefined {
  if (process.getuid?.() !== 0) return 'network namespaces need root';
  const name = `${namespacePrefix()}-try`;
  if (spawnSync('ip', ['netns', 'add', name]).status !== 0) return '`ip netns add` does not work here';
  spawnSync('ip', ['netns', 'delete', name]);
  return undefined;
}

/**
 * Simulates a network of hosts on this machine with network namespaces, which veth pairs connect to a bridge in another
 * namespace. Needs root and iproute2. {@link close} removes everything.
 */
export class HostNetwork {
  readonly #prefix = namespacePrefix();
  readonly #subnet: string;
  readonly #hosts: number;
  #hasUplink = false;

  /** Throws a WeightcastError with the error of `ip`; then nothing is left behind. */
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

  /** The prefix of a command that runs on the host. */
  launcher(host: number): string[] {
    return ['ip', 'netns', 'exec', this.namespace(host)];
  }

  /** Connects this machine itself to the network; returns its address there. */
  connectHere(): string {
    const address = `${this.#subnet}.254`;
    const cable = this.#cable;
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

  /** Limits the host's link in both directions; `rate` as in tc, such as `200mbit`. */
  limit(host: number, rate: string): void {
    const bucket = ['root', 'tbf', 'rate', rate, 'burst', '256kb', 'latency', '50ms'];
    run('tc', '-n', this.namespace(host), 'qdisc', 'replace', 'dev', 'eth0', ...bucket);
    run('tc', '-n', this.#switch, 'qdisc', 'replace', 'dev', `port${host}`, ...bucket);
  }

  /** Drops all traffic of the host without notice: its link stays up. */
  silence(host: number): void {
    run('ip', '-n', this.#switch, 'link', 'set', `port${host}`, 'nomaster');
  }

  /** Undoes {@link silence}. */
  mend(host: number): void {
    run('ip', '-n', this.#switch, 'link', 'set', `port${host}`, 'master', 'bridge');
  }

  /** Never throws; may be called twice. */
  close(): void {
    if (this.#hasUplink) spawnSync('ip', ['link', 'delete', this.#cable]);
    for (let host = 0; host < this.#hosts; host += 1)
      spawnSync('ip', ['netns', 'delete', this.namespace(host)]);
    spawnSync('ip', ['netns', 'delete', this.#switch]);
  }

  /** The kernel takes 15 characters. */
  get #cable(): string {
    return `${this.#prefix}-up`.slice(-15);
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

/** A host of this name in a network of its own, and what a cluster has to be told of it. Throws `UsageError` where there is none. */
export function hostBehindNetwork(name: string) {
  const obstacle = whyNoNamespaces();
  if (obstacle !== undefined) throw new UsageError(obstacle);
  const network = new HostNetwork(1);
  const host = { launcher: network.launcher(0), fabricAddresses: [network.address(0)] };
  return { network, cluster: { hosts: { [name]: host }, listen: `tcp://${network.connectHere()}:*` } };
}

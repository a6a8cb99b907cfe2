import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import type { EndedRank, HostRanks } from '../actors/agents/agent.ts';
import type { AgentMessage } from '../actors/protocol/agent.ts';
import type { RunningRank } from '../actors/protocol/hosts.ts';
import { describe } from '../errors.ts';
import { SharedDirectory } from '../native-bridge/memory.ts';
import type { Logger } from '../ports.ts';
import { type Child, ChildList } from './child-list.ts';
import { type OwnedProcess, startProcess } from './child-process.ts';
import { parseConfiguration, type RankConfiguration, rankOrder } from './configuration.ts';
import { startTimeOf } from './is-running.ts';
import { type JoinDocument, keysOf } from './join-document.ts';
import { replaceFileIfRoom } from './replace-file.ts';
import { Survivor } from './survivor.ts';

const pollMilliseconds = 20;
/** A process that was killed is gone in a moment, unless the kernel holds it in a driver. */
const goneMilliseconds = 5_000;

interface Running extends RunningRank {
  readonly process: OwnedProcess;
  /** Whether each order to end it has killed it. */
  readonly stops: Promise<{ readonly wasKilled: boolean }>[];
  /** Resolves when it has ended and the supervisor has been told. */
  over: Promise<void>;
}

/**
 * The rank processes of this host that its agent has started, and those that an earlier agent has and which have outlived it.
 * The agent holds the host's directory in shared memory, so that a rank which is started again finds its weights.
 */
export class AgentRanks implements HostRanks {
  /** Names of those that did not end by themselves when there was no supervisor to be told. */
  readonly killed: string[] = [];
  readonly #document: JoinDocument;
  readonly #variables: Readonly<Record<string, string>>;
  readonly #log: Logger;
  readonly #running = new Map<string, Running>();
  #directory: SharedDirectory;
  #list: ChildList;
  /** No rank is placed on this host any more: its memory goes when none runs. */
  #isFree = false;
  #listener: ((ended: EndedRank) => void) | null = null;

  private constructor(
    document: JoinDocument,
    variables: Readonly<Record<string, string>>,
    survivors: readonly Child[],
    log: Logger,
  ) {
    this.#document = document;
    this.#variables = variables;
    this.#log = log;
    this.#directory = new SharedDirectory(document.directory);
    this.#list = new ChildList(document.directory);
    this.#writeRecord();
    for (const child of survivors) this.#watch(child, new Survivor(child));
  }

  /** Takes the place of an earlier agent of the host, which it kills if that hangs. `variables`: for its ranks. */
  static async open(
    document: JoinDocument,
    variables: Readonly<Record<string, string>>,
    log: Logger,
  ): Promise<AgentRanks> {
    await endPredecessor(document.directory);
    return new AgentRanks(document, variables, ChildList.read(document.directory), log);
  }

  get running(): RunningRank[] {
    return [...this.#running.values()].map(({ rank, node, pid, role }) => ({ rank, node, pid, role }));
  }

  onEnded(listener: ((ended: EndedRank) => void) | null): void {
    this.#listener = listener;
  }

  launch({ rank, node, role, order }: Extract<AgentMessage, { type: 'launch' }>): void {
    const configuration: RankConfiguration = {
      ...parseConfiguration(rankOrder, order),
      endpoint: this.#document.endpoint,
      keys: keysOf(this.#document),
      parent: 'agent',
    };
    const process = startProcess(
      // Seen from the folder of whichever entry this is part of.
      '../processes/rank-process',
      import.meta.url,
      configuration,
      undefined,
      [],
      this.#variables,
    );
    const running = { rank, node, role, pid: process.pid };
    this.#isFree = false;
    this.#watch(running, process);
    this.#record(() => this.#list.add({ ...running, name: this.#nameOf(running) }));
  }

  end(node: string, graceMilliseconds: number, isForGood: boolean): void {
    this.#isFree ||= isForGood;
    const running = this.#running.get(node);
    if (running !== undefined) return void this.#stop(running, graceMilliseconds);
    if (this.#isFree && this.#running.size === 0) this.#record(() => this.#renewDirectory());
    this.#listener?.({ node, pid: null, how: 'it does not run', wasKilled: false });
  }

  /** Resolves when none is left. */
  async endAll(graceMilliseconds: number): Promise<void> {
    await Promise.all([...this.#running.values()].map((running) => this.#stop(running, graceMilliseconds)));
  }

  close(): void {
    this.#directory.close();
  }

  #watch(rank: RunningRank, process: OwnedProcess): void {
    const running: Running = { ...rank, process, stops: [], over: Promise.resolve() };
    this.#running.set(rank.node, running);
    running.over = process.exited.then((how) => this.#ended(running, how));
  }

  async #ended(running: Running, how: string): Promise<void> {
    const { rank, node, pid, stops } = running;
    const wasKilled = (await Promise.all(stops)).some((stop) => stop.wasKilled);
    this.#running.delete(node);
    this.#record(() => this.#list.remove(pid));
    if (this.#isFree && this.#running.size === 0) this.#record(() => this.#renewDirectory());
    this.#log.info({ rank, how }, 'a rank has ended');
    if (this.#listener !== null) this.#listener({ node, pid, how, wasKilled });
    else if (wasKilled) this.killed.push(this.#nameOf(running));
  }

  async #stop(running: Running, graceMilliseconds: number): Promise<void> {
    running.stops.push(running.process.stop(graceMilliseconds));
    await running.over;
  }

  #nameOf({ rank, pid }: RunningRank): string {
    return `rank ${rank} on host ${this.#document.host} (process ${pid})`;
  }

  /** A directory that cannot be written harms those who look into it later, and nothing that runs. */
  #record(change: () => void): void {
    try {
      change();
    } catch (thrown) {
      this.#log.error(
        { directory: this.#document.directory, error: describe(thrown) },
        'the directory of this host cannot be written',
      );
    }
  }

  /** Nothing of ranks that were removed stays, and the next ones of this host can tell. */
  #renewDirectory(): void {
    this.#isFree = false;
    this.#directory.close();
    this.#directory = new SharedDirectory(this.#document.directory);
    this.#list = new ChildList(this.#document.directory);
    this.#writeRecord();
  }

  #writeRecord(): void {
    const record = { pid: process.pid, startTime: startTimeOf(process.pid) };
    replaceFileIfRoom(recordOf(this.#document.directory), JSON.stringify(record));
  }
}

function recordOf(directory: string): string {
  return join(directory, 'agent');
}

/** Its ranks live on. */
async function endPredecessor(directory: string): Promise<void> {
  let record: { readonly pid: number; readonly startTime: string };
  try {
    record = JSON.parse(readFileSync(recordOf(directory), 'utf8'));
  } catch {
    return;
  }
  const runs = () => record.pid !== process.pid && startTimeOf(record.pid) === record.startTime;
  if (!runs()) return;
  process.kill(record.pid, 'SIGKILL');
  for (let waited = 0; runs() && waited < goneMilliseconds; waited += pollMilliseconds)
    await wait(pollMilliseconds);
}

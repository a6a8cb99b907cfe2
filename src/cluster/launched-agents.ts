import { hostname } from 'node:os';
import { RestartBackoff } from '../actors/supervisor/restart-backoff.ts';
import { describe } from '../errors.ts';
import { systemClock } from '../native-bridge/clock.ts';
import { createLog } from '../observe/log.ts';
import { killedExitCode } from '../processes/agent-exit.ts';
import { type OwnedProcess, startProcess } from '../processes/child-process.ts';
import { directoryOf, type SupervisorConfiguration } from '../processes/configuration.ts';
import { inheritedVariables, type JoinDocument, joinFormat } from '../processes/join-document.ts';
import { stopTimes } from '../processes/stop-times.ts';
import { endSurvivors } from '../processes/survivor.ts';
import type { KeyPair } from '../transport/curve.ts';

interface Agent {
  readonly backoff: RestartBackoff;
  /** Null while it waits before it is started again. */
  process: OwnedProcess | null;
  endpoint: string;
  cancelWait: () => void;
}

/**
 * The agents that this process has started by launchers: its children and not the supervisor's, so that they outlive that.
 * One that ends is started again, more and more slowly but for ever.
 */
export class LaunchedAgents {
  readonly #configuration: SupervisorConfiguration;
  readonly #keys: Readonly<Record<string, KeyPair>>;
  readonly #onEnded: (host: string, how: string) => void;
  readonly #agents = new Map<string, Agent>();
  #isClosed = false;

  /** `keys`: of hosts by name. `onEnded`: is told how an agent ended, or the launcher that should have started it. */
  constructor(
    configuration: SupervisorConfiguration,
    keys: Readonly<Record<string, KeyPair>>,
    onEnded: (host: string, how: string) => void,
  ) {
    this.#configuration = configuration;
    this.#keys = keys;
    this.#onEnded = onEnded;
  }

  /** By what the agent of a host, also of one that joins by itself, becomes a member of the cluster at `endpoint`. */
  documentOf(host: string, endpoint: string): JoinDocument {
    return joinDocumentOf(host, this.#keys[host]!, endpoint, this.#configuration);
  }

  /** The supervisor at `endpoint` needs one there; `isLost`: the last one is of no use any more. */
  need(host: string, endpoint: string, isLost: boolean): void {
    if (this.#isClosed || this.#configuration.hosts[host]?.launcher === undefined) return;
    const agent = this.#agents.get(host);
    if (agent === undefined) {
      const backoff = new RestartBackoff(systemClock, { next: Math.random });
      const started = { backoff, process: null, endpoint, cancelWait: () => {} };
      this.#agents.set(host, started);
      this.#start(host, started);
      return;
    }
    agent.endpoint = endpoint;
    // Its end, or its launcher's, starts another one, which takes its ranks over.
    if (isLost) agent.process?.kill();
  }

  /** Resolves with what they had to kill, or this process had to. */
  async close(): Promise<string[]> {
    this.#isClosed = true;
    const { grace: graceMilliseconds, lostRank } = stopTimes(this.#configuration.stopTimeoutMilliseconds);
    const ends = [...this.#agents].map(async ([host, { process, cancelWait }]) => {
      cancelWait();
      if (process === null) return [];
      const { wasKilled } = await process.stop(graceMilliseconds);
      if (wasKilled) return [`the agent of host ${host}`];
      return (await process.exited) === `exit code ${killedExitCode}` ? [`ranks on host ${host}`] : [];
    });
    const ended = (await Promise.all(ends)).flat();
    // On hosts that are really this machine: those elsewhere end when they have been alone for long.
    const { host, hosts } = this.#configuration;
    const directories = Object.keys(hosts).map((name) => directoryOf(host.directory, name));
    const left = await Promise.all(directories.map((path) => endSurvivors(path, lostRank)));
    return [...ended, ...left.flat()];
  }

  #start(host: string, agent: Agent): void {
    const { launcher } = this.#configuration.hosts[host]!;
    const document = this.documentOf(host, agent.endpoint);
    let process: OwnedProcess;
    try {
      process = startProcess('../processes/agent-process', import.meta.url, document, undefined, launcher);
    } catch (thrown) {
      // This may be a trainer's process, which has other things to do.
      return this.#ended(host, agent, describe(thrown));
    }
    agent.process = process;
    agent.backoff.ready();
    void process.exited.then((how) => this.#ended(host, agent, how));
  }

  #ended(host: string, agent: Agent, how: string): void {
    agent.process = null;
    if (this.#isClosed) return;
    createLog('cluster').warn({ host, how }, 'the agent of a host has ended; starting another one');
    this.#onEnded(host, how);
    agent.cancelWait = systemClock.after(agent.backoff.next(), () => this.#start(host, agent));
  }
}

/** By what the agent of a host joins the cluster. */
function joinDocumentOf(
  host: string,
  keys: KeyPair,
  endpoint: string,
  configuration: SupervisorConfiguration,
): JoinDocument {
  const { startTimeoutMilliseconds, stopTimeoutMilliseconds, orphanTimeoutMilliseconds } = configuration;
  return {
    format: joinFormat,
    host,
    endpoint: withinReach(endpoint),
    hubPublicKey: configuration.keys.hub.publicKey,
    ...keys,
    directory: directoryOf(configuration.host.directory, host),
    startTimeoutMilliseconds,
    stopTimeoutMilliseconds,
    orphanTimeoutMilliseconds,
    inherited: inheritedVariables(process.env),
    environment: { ...configuration.hosts[host]?.environment },
  };
}

/** Other hosts find one that listens on all of its addresses by its name. */
function withinReach(endpoint: string): string {
  return endpoint.replace(/^tcp:\/\/(?:0\.0\.0\.0|\[::\]):/, `tcp://${hostname()}:`);
}

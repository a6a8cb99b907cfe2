import type * as z from 'zod';
import type { ActorRef, ActorSystem } from '../actors/kernel/index.ts';
import { ask, type Question } from '../actors/protocol/ask.ts';
import type { SupervisorExchange, SupervisorMessage } from '../actors/protocol/supervisor.ts';
import { PeerLostError } from '../errors.ts';
import { type OwnedProcess, startProcess } from '../processes/child-process.ts';
import type { SupervisorConfiguration } from '../processes/configuration.ts';
import { processVariable } from '../processes/process-variable.ts';
import type { LaunchedAgents } from './launched-agents.ts';
import type { LeftEngines } from './left-engines.ts';
import { SupervisorFate } from './supervisor-fate.ts';

/** After the hub of a supervisor that ends has gone, its process says why, or how it ended. */
const reasonMilliseconds = 2_000;

/** What an exchange of the supervisor's table takes and answers. */
export type FieldsOf<E extends SupervisorExchange> = Parameters<typeof ask<E>>[3];
export type AnswerTo<E extends SupervisorExchange> = z.infer<E['reply']>;

/** One supervisor, from the start of its process to its end. */
export class SupervisorLife {
  readonly ref: ActorRef<SupervisorMessage>;
  readonly process: OwnedProcess;
  readonly fate: SupervisorFate;

  constructor(configuration: SupervisorConfiguration, engines: LeftEngines, agents: LaunchedAgents) {
    this.fate = new SupervisorFate(engines, agents);
    this.ref = { node: configuration.node, name: 'supervisor', generation: 0 };
    const heard = (message: unknown) => this.fate.heard(message);
    const entry = '../processes/supervisor-process';
    const variables = { [processVariable]: 'supervisor' };
    this.process = startProcess(entry, import.meta.url, configuration, heard, [], variables);
    void this.process.exited.then((how) => this.fate.ended(how));
  }

  /** Rejects with `PeerLostError` when its process ends before it has answered. */
  async ask<E extends SupervisorExchange>(
    system: ActorSystem,
    exchange: E,
    fields: FieldsOf<E>,
    deadlineMilliseconds: number,
  ): Promise<AnswerTo<E>> {
    const { lost: signal } = this.fate;
    const ref = this.ref as ActorRef<Question<E>>;
    try {
      return await ask(system, ref, exchange, fields, { deadlineMilliseconds, signal });
    } catch (error) {
      // Its connection may go before its process says why.
      if (error instanceof PeerLostError && error.message.startsWith(ref.node))
        await this.fate.reason(reasonMilliseconds);
      throw signal.aborted ? signal.reason : error;
    }
  }
}

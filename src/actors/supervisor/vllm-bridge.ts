import type { CallOptions, EngineClient } from '../../engines/engine-client.ts';
import { AbortedError, asFailure, type WeightcastError } from '../../errors.ts';
import type { Actor, Context, Reply } from '../kernel/index.ts';
import type { BridgeMessage } from '../protocol/bridge.ts';

interface Call {
  readonly abort: AbortController;
  readonly reply: Reply<object>;
}

/**
 * The supervisor's half of the bridge to one engine instance, the only one that sends it HTTP requests. The other half,
 * the worker link, is in each rank.
 *
 * A call may take minutes, so it runs beside the mailbox, and `abandon` aborts it. There is one call at a time.
 */
export class VllmBridgeActor implements Actor<BridgeMessage> {
  readonly #client: EngineClient;
  #running: Call | null = null;

  constructor(client: EngineClient) {
    this.#client = client;
  }

  receive(message: BridgeMessage, context: Context<BridgeMessage>): void {
    switch (message.type) {
      case 'await-healthy':
        return this.#call(message, context, (options) => this.#client.ready(options));
      case 'pause':
        return this.#call(message, context, (options) => this.#client.pause(message.mode, options));
      case 'resume':
        return this.#call(message, context, (options) => this.#client.resume(options));
      case 'trigger': {
        const { links, version, resetCache } = message;
        const update = { links, version, resetCache };
        return this.#call(message, context, (options) => this.#client.update(update, options));
      }
      case 'abandon':
        this.#abort(new AbortedError(message.reason));
        return context.reply(message, {});
    }
  }

  async stopping(): Promise<void> {
    this.#abort(new AbortedError(`the bridge to ${this.#client.endpoint} is stopping`));
    await this.#client.close();
  }

  #call(
    message: Exclude<BridgeMessage, { type: 'abandon' }>,
    context: Context<BridgeMessage>,
    send: (options: CallOptions) => Promise<void>,
  ): void {
    this.#abort(new AbortedError(`a later call to ${this.#client.endpoint} replaced this one`));
    const call = { abort: new AbortController(), reply: context.deferReply(message) };
    this.#running = call;
    const { timeoutMilliseconds } = message;
    send({ timeoutMilliseconds, signal: call.abort.signal }).then(
      () => this.#end(call, null),
      (error) => this.#end(call, asFailure(error)),
    );
  }

  #abort(reason: WeightcastError): void {
    const call = this.#running;
    if (call === null) return;
    this.#end(call, reason);
    call.abort.abort();
  }

  /** Does nothing for a call that was aborted. */
  #end(call: Call, error: WeightcastError | null): void {
    if (this.#running !== call) return;
    this.#running = null;
    if (error === null) call.reply.succeed({});
    else call.reply.fail(error);
  }
}

import type { EngineClient } from '../../engines/engine-client.ts';
import { AbortedError, type WeightcastError } from '../../errors.ts';
import type { Actor, Context, Reply } from '../kernel/index.ts';
import type { BridgeMessage } from '../protocol/bridge.ts';

type BridgeInbox =
  | BridgeMessage
  | { readonly type: 'call-ended'; readonly call: number; readonly error: WeightcastError | null };

/**
 * The supervisor's half of the bridge to one engine instance: it asks the engine to update, and is the only one
 * that does. The other half, the worker link, lives with each rank.
 *
 * A call may take minutes, so it runs beside the mailbox and `abandon` can end it.
 */
export class VllmBridgeActor implements Actor<BridgeInbox> {
  readonly #client: EngineClient;
  /** One call at a time; numbered, so that the end of an abandoned call is not taken for a newer one's. */
  #call: { number: number; abort: AbortController; reply: Reply<object> } | null = null;
  #calls = 0;

  constructor(client: EngineClient) {
    this.#client = client;
  }

  receive(message: BridgeInbox, context: Context<BridgeInbox>): void {
    switch (message.type) {
      case 'await-healthy': {
        const { timeoutMilliseconds } = message;
        const reply = context.deferReply(message);
        this.#start(reply, context, (signal) => this.#client.ready({ timeoutMilliseconds, signal }));
        return;
      }
      case 'pause': {
        const { mode, timeoutMilliseconds } = message;
        const reply = context.deferReply(message);
        this.#start(reply, context, (signal) => this.#client.pause(mode, { timeoutMilliseconds, signal }));
        return;
      }
      case 'resume': {
        const { timeoutMilliseconds } = message;
        const reply = context.deferReply(message);
        this.#start(reply, context, (signal) => this.#client.resume({ timeoutMilliseconds, signal }));
        return;
      }
      case 'trigger': {
        const { links, version, resetCache, timeoutMilliseconds } = message;
        const order = { links, version, resetCache };
        const reply = context.deferReply(message);
        this.#start(reply, context, (signal) => this.#client.update(order, { timeoutMilliseconds, signal }));
        return;
      }
      case 'abandon':
        this.#end(new AbortedError(message.reason));
        context.reply(message, {});
        return;
      case 'call-ended':
        if (message.call === this.#call?.number) this.#end(message.error);
        return;
    }
  }

  async stopping(): Promise<void> {
    this.#end(new AbortedError(`the bridge to ${this.#client.endpoint} is stopping`));
    await this.#client.close();
  }

  #start(
    reply: Reply<object>,
    context: Context<BridgeInbox>,
    call: (signal: AbortSignal) => Promise<void>,
  ): void {
    this.#end(new AbortedError(`a newer call to ${this.#client.endpoint} took its place`));
    const abort = new AbortController();
    this.#calls += 1;
    const number = this.#calls;
    this.#call = { number, abort, reply };
    context.pipe(
      call(abort.signal),
      () => ({ type: 'call-ended', call: number, error: null }),
      (error) => ({ type: 'call-ended', call: number, error }),
    );
  }

  #end(error: WeightcastError | null): void {
    const call = this.#call;
    if (call === null) return;
    this.#call = null;
    call.abort.abort();
    if (error === null) call.reply.succeed({});
    else call.reply.fail(error);
  }
}

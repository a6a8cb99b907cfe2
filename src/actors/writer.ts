import type { Actor, Context } from './kernel/index.ts';
import type { WriterMessage } from './protocol/writer.ts';

/** Stands for a process that writes tensors into host memory and keeps that mapped. */
export class WriterActor implements Actor<WriterMessage> {
  readonly #forget: (segments: readonly string[]) => void;

  constructor(forget: (segments: readonly string[]) => void) {
    this.#forget = forget;
  }

  receive(message: WriterMessage, context: Context<WriterMessage>): void {
    this.#forget(message.segments);
    context.reply(message, {});
  }
}

import type { Actor, Context } from './kernel/index.ts';
import type { WriterMessage } from './protocol/writer.ts';

/** Unmaps segments that this process has written, when the supervisor releases them. */
export class WriterActor implements Actor<WriterMessage> {
  readonly #release: (segments: readonly string[]) => void;

  constructor(release: (segments: readonly string[]) => void) {
    this.#release = release;
  }

  receive(message: WriterMessage, context: Context<WriterMessage>): void {
    this.#release(message.segments);
    context.reply(message, {});
  }
}

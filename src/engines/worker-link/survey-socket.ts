import { randomBytes } from 'node:crypto';
import { Reply, Request } from 'zeromq';
import { describe, WorkerLinkError } from '../../errors.ts';
import { maxMessageBytes } from './link-socket.ts';
import { decodeSurvey, encodeSurvey } from './messages.ts';
import type { LiveDigests } from './worker-link.ts';
import { acceptWorkersOnly } from './worker-users.ts';

/** Whoever asks listens before it asks. */
const answerMilliseconds = 30_000;

/** Takes what the workers of an engine say that they hold (`EngineClient.survey`). They are on this host. */
export class SurveySocket {
  readonly address: string;
  readonly #socket: Reply;
  readonly #taken: LiveDigests[] = [];
  #failure: Error | null = null;

  private constructor(address: string, socket: Reply) {
    this.address = address;
    this.#socket = socket;
  }

  /** Rejects with `WorkerLinkError` if no socket can be bound. */
  static async bind(): Promise<SurveySocket> {
    const address = `ipc://@weightcast-survey-${randomBytes(8).toString('hex')}.sock`;
    const socket = new Reply({ linger: 0, maxMessageSize: maxMessageBytes });
    acceptWorkersOnly(socket);
    try {
      await socket.bind(address);
    } catch (error) {
      socket.close();
      throw new WorkerLinkError(`cannot bind ${address}: ${describe(error)}`, { cause: error });
    }
    const survey = new SurveySocket(address, socket);
    survey.#serve().catch(() => {});
    return survey;
  }

  /** What has come so far. Throws `ProtocolError` if a worker said something else. */
  get taken(): readonly LiveDigests[] {
    if (this.#failure !== null) throw this.#failure;
    return this.#taken;
  }

  close(): void {
    this.#socket.close();
  }

  /** Until the socket is closed. */
  async #serve(): Promise<void> {
    for (;;) {
      const frames = await this.#socket.receive();
      try {
        this.#taken.push(...decodeSurvey(Buffer.concat(frames)));
      } catch (error) {
        this.#failure = error instanceof Error ? error : new Error(describe(error));
      }
      await this.#socket.send('');
    }
  }
}

/** A worker's end. Rejects if nobody takes it within {@link answerMilliseconds}. */
export async function sendSurvey(
  address: string,
  device: string,
  models: readonly LiveDigests[],
): Promise<void> {
  const socket = new Request({
    linger: 0,
    sendTimeout: answerMilliseconds,
    receiveTimeout: answerMilliseconds,
  });
  try {
    socket.connect(address);
    await socket.send(encodeSurvey(device, models));
    await socket.receive();
  } catch (error) {
    throw new WorkerLinkError(`nobody at ${address} takes what this worker holds: ${describe(error)}`, {
      cause: error,
    });
  } finally {
    socket.close();
  }
}

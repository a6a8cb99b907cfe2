import type { Server } from 'node:http';

/** Between two looks whether an update has ended. */
const busyMilliseconds = 1_000;

/** Ends a daemon that was started for one trainer, some time after its last client. */
export class Linger {
  readonly #milliseconds: number;
  readonly #isBusy: () => boolean;
  readonly #end: () => void;
  #clients = 0;
  #timer: NodeJS.Timeout | null = null;

  /** A client has a connection open, or has asked for an update that runs: `isBusy`. */
  constructor(seconds: number, isBusy: () => boolean, end: () => void) {
    this.#milliseconds = seconds * 1_000;
    this.#isBusy = isBusy;
    this.#end = end;
    this.#wait(this.#milliseconds);
  }

  watch(server: Server): void {
    server.on('connection', (connection) => {
      this.#clients += 1;
      this.close();
      connection.once('close', () => {
        this.#clients -= 1;
        if (this.#clients === 0) this.#wait(this.#milliseconds);
      });
    });
  }

  close(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
  }

  #wait(milliseconds: number): void {
    this.close();
    this.#timer = setTimeout(() => {
      if (this.#isBusy()) this.#wait(busyMilliseconds);
      else this.#end();
    }, milliseconds).unref();
  }
}

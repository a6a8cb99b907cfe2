interface Listening {
  readonly callbacks: Set<(signal: AbortSignal) => void>;
  readonly stop: () => void;
}

/**
 * Calls back when signals abort. One listener is added to a signal, however many callbacks wait for it, and removed
 * with the last of them: Node warns from the eleventh listener on and searches all of them to remove one.
 * `AbortSignal.any` would do neither, but a long-lived signal keeps a reference to each signal made from it.
 */
export class AbortListeners {
  readonly #signals = new Map<AbortSignal, Listening>();

  /** Does nothing for a signal that has aborted. */
  add(signal: AbortSignal, callback: (signal: AbortSignal) => void): void {
    if (signal.aborted) return;
    const listening = this.#signals.get(signal) ?? this.#listen(signal);
    listening.callbacks.add(callback);
  }

  remove(signal: AbortSignal, callback: (signal: AbortSignal) => void): void {
    const listening = this.#signals.get(signal);
    if (listening?.callbacks.delete(callback) && listening.callbacks.size === 0) listening.stop();
  }

  #listen(signal: AbortSignal): Listening {
    const callbacks: Listening['callbacks'] = new Set();
    const stop = () => {
      signal.removeEventListener('abort', onAbort);
      this.#signals.delete(signal);
    };
    const onAbort = () => {
      stop();
      for (const callback of callbacks) callback(signal);
    };
    signal.addEventListener('abort', onAbort);
    const listening = { callbacks, stop };
    this.#signals.set(signal, listening);
    return listening;
  }
}

import { toWire, type WireError } from '../../src/errors.ts';
import { createLog } from '../../src/observe/log.ts';
import { takeLifeline } from '../../src/processes/lifeline.ts';

/** Tells the parent of this process, unless that has ended already; then standard input has ended, too. */
export function tell<Message extends object>(message: Message): void {
  if (process.connected) process.send!(message, () => {});
}

/** The life of a process of the engine: it serves until its parent releases it, whom it tells why it cannot. */
export function runChild(
  name: string,
  serve: (configuration: unknown, released: Promise<void>) => Promise<void>,
): void {
  const live = async () => {
    const { configuration, released } = await takeLifeline();
    try {
      await serve(
        configuration,
        released.then(() => {}),
      );
    } catch (error) {
      tell<{ type: 'failed'; error: WireError }>({ type: 'failed', error: toWire(error) });
      await released;
    }
  };
  live().then(
    () => process.exit(0),
    (error) => {
      createLog(name).error({}, toWire(error).message);
      process.exit(1);
    },
  );
}

import { asFailure } from '../errors.ts';
import { createLog } from '../observe/log.ts';
import { runAgent } from './agent.ts';
import { killedExitCode } from './agent-exit.ts';
import { parseJoinText } from './join-document.ts';
import { takeLifeline } from './lifeline.ts';

/**
 * The process of an agent that the cluster's owner has started by a launcher. When standard input ends without a word, the
 * owner or the launcher has died: the supervisor says which, as it ends with the owner.
 */
async function main(): Promise<readonly string[]> {
  const { configuration, released, signalled } = await takeLifeline();
  const document = parseJoinText(JSON.stringify(configuration), 'standard input');
  const ending = new AbortController();
  void released.then((how) => how !== 'orphaned' && ending.abort());
  void signalled.then(() => ending.abort());
  return runAgent(document, ending.signal);
}

main().then(
  (killed) => {
    if (killed.length > 0)
      createLog('agent').error({}, `these did not end and were killed: ${killed.join(', ')}`);
    process.exit(killed.length > 0 ? killedExitCode : 0);
  },
  (error) => {
    const { code, message, exitCode } = asFailure(error);
    createLog('agent').error({ code }, message);
    process.exit(exitCode);
  },
);

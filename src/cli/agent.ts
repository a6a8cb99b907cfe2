import { hostname } from 'node:os';
import { Command } from 'commander';
import { UsageError } from '../errors.ts';
import { joinFileIn } from '../processes/join-directory.ts';
import { parseJoinText, readJoinFile } from '../processes/join-document.ts';
import { runCommand } from './interrupt.ts';

interface Options {
  readonly join?: string;
  readonly joinDir?: string;
}

const joinVariable = 'WEIGHTCAST_JOIN';

const explanation = `
A cluster has a join file for each host with "joins": Cluster.saveJoinFile, or weightcast join-file of a daemon. It is a
secret, and valid as long as the cluster lives. ${joinVariable} holds the path of the file, or its text:

  WEIGHTCAST_JOIN="$(cat node-2.join)" weightcast agent

The agent ends with the cluster (exit code 0), with its ranks after SIGTERM (0), and when it has heard of no supervisor for
orphanTimeoutMilliseconds of the cluster (1), or of none at all for startTimeoutMilliseconds; with 2 for a wrong join file.
Variables of its environment are those of its ranks.`;

export function agentCommand(): Command {
  return new Command('agent')
    .description(
      'Start, watch and end the ranks of this host for a cluster that was started elsewhere: run it on each host, once, by what starts processes there (Slurm, Kubernetes, Ray, torchrun, ssh).',
    )
    .option('--join <file>', `join file of this host; - for standard input (default: ${joinVariable})`)
    .option(
      '--join-dir <directory>',
      'directory with the join files of all hosts, each called as its host: WEIGHTCAST_HOST, SLURMD_NODENAME, or this machine',
    )
    .addHelpText('after', explanation)
    .action((options: Options) => runCommand((signal) => agent(options, signal)));
}

async function agent(options: Options, signal: AbortSignal): Promise<void> {
  const document = documentOf(options);
  // Late, because other commands need none of it.
  const { runAgent } = await import('../processes/agent.ts');
  const killed = await runAgent(document, signal, () =>
    process.stderr.write(`host ${document.host} has joined the cluster; press Ctrl-C to leave it\n`),
  );
  if (killed.length > 0) process.stderr.write(`these did not end and were killed: ${killed.join(', ')}\n`);
}

function documentOf({ join, joinDir }: Options) {
  if (join !== undefined && joinDir !== undefined) throw new UsageError('give either --join or --join-dir');
  if (joinDir !== undefined) return readJoinFile(joinFileIn(joinDir, process.env, hostname()));
  return join === undefined ? joinFromEnvironment() : readJoinFile(join);
}

function joinFromEnvironment() {
  const value = process.env[joinVariable];
  if (value === undefined || value === '')
    throw new UsageError(`give --join or --join-dir, or the join file's path or text in ${joinVariable}`);
  // What is no path may be the secret, of which no error may say a word.
  return /[{\n]/.test(value) ? parseJoinText(value, joinVariable) : readJoinFile(value);
}

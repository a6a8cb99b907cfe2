import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { type Scope, temporaryDirectory } from '../checkpoint/safetensors-files.ts';
import { eventually } from '../eventually.ts';
import { freePorts } from '../free-ports.ts';
import { Program } from '../program.ts';

/** Why Slurm cannot run here, or false. */
export function withoutSlurm(): string | false {
  if (process.getuid!() !== 0) return 'slurmd starts jobs as root only';
  const missing = ['munged', 'slurmctld', 'slurmd', 'srun'].filter(
    (name) => spawnSync('sh', ['-c', `command -v ${name}`]).status !== 0,
  );
  return missing.length > 0 && `${missing.join(', ')} cannot be found`;
}

/** Slurm's controller with two nodes on this machine; resolves with SLURM_CONF when both are idle. It ends with the test. */
export async function startSlurm(test: Scope, nodes: readonly [string, string]): Promise<string> {
  const home = temporaryDirectory(test);
  for (const name of ['state', 'spool', 'run', 'log']) mkdirSync(join(home, name));
  const key = join(home, 'munge.key');
  writeFileSync(key, randomBytes(1_024), { mode: 0o400 });
  const socket = join(home, 'run/munge.sock');
  const munged = ['pid-file', 'seed-file', 'log-file'].map((name) => `--${name}=${join(home, 'run', name)}`);
  new Program(test, [
    'munged',
    '--foreground',
    '--force',
    `--key-file=${key}`,
    `--socket=${socket}`,
    ...munged,
  ]);
  const configuration = join(home, 'slurm.conf');
  const [controller, first] = [await freePorts(1), await freePorts(nodes.length)];
  writeFileSync(configuration, configurationOf(home, socket, controller, nodes, first));
  new Program(test, ['slurmctld', '-D', '-f', configuration]);
  for (const node of nodes) new Program(test, ['slurmd', '-D', '-N', node, '-f', configuration]);
  await eventually('both nodes are idle', () => {
    const { stdout } = spawnSync('sinfo', ['--noheader', '--format=%t %D'], {
      env: { ...process.env, SLURM_CONF: configuration },
      encoding: 'utf8',
    });
    return stdout.trim() === 'idle 2';
  });
  return configuration;
}

/** Without cgroups and accounting, which a container may not have: they do not matter to what starts a program. */
function configurationOf(
  home: string,
  socket: string,
  controllerPort: number,
  nodes: readonly string[],
  firstPort: number,
): string {
  const name = hostname();
  const node = (node: string, index: number) =>
    `NodeName=${node} NodeHostname=${name} NodeAddr=127.0.0.1 Port=${firstPort + index} CPUs=1`;
  return `ClusterName=weightcast
SlurmctldHost=${name}(127.0.0.1)
SlurmctldPort=${controllerPort}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=${socket}
StateSaveLocation=${home}/state
SlurmdSpoolDir=${home}/spool/%n
SlurmctldPidFile=${home}/run/slurmctld.pid
SlurmdPidFile=${home}/run/slurmd-%n.pid
SlurmctldLogFile=${home}/log/slurmctld
SlurmdLogFile=${home}/log/slurmd-%n
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
KillWait=30
${nodes.map(node).join('\n')}
PartitionName=all Nodes=${nodes.join(',')} Default=YES MaxTime=INFINITE State=UP
`;
}

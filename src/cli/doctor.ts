import { Command } from 'commander';
import { examine, findingLines } from '../doctor/examine.ts';
import { thisHost } from '../doctor/host.ts';

export function doctorCommand(): Command {
  return new Command('doctor')
    .description('Check what this machine has for weightcast, what is slow or missing, and how to fix it.')
    .option('--json', 'print findings as JSON')
    .action((options: { readonly json?: true }) => {
      const findings = examine(thisHost);
      const text = options.json ? JSON.stringify(findings, null, 2) : findingLines(findings).join('\n');
      process.stdout.write(`${text}\n`);
      if (findings.some(({ verdict, needed }) => needed && verdict === 'missing')) process.exitCode = 1;
    });
}

#!/usr/bin/env node
import { readFileSync } from 'node:fs';
import { Command } from 'commander';
import { packageRoot } from '../package-root.ts';
import { agentCommand } from './agent.ts';
import { baselineCommand } from './baseline.ts';
import { doctorCommand } from './doctor.ts';
import { addCommand, removeCommand } from './instances.ts';
import { joinFileCommand } from './join-file.ts';
import { registerCommand } from './register.ts';
import { resumeCommand } from './resume.ts';
import { serveCommand } from './serve.ts';
import { statusCommand } from './status.ts';
import { stopCommand } from './stop.ts';
import { unregisterCommand } from './unregister.ts';
import { updateCommand } from './update.ts';

// Who reads has read enough, as `head` does: what is being done is done all the same.
for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {});

const { version } = JSON.parse(readFileSync(new URL('package.json', packageRoot), 'utf8'));

const program = new Command('weightcast')
  .description('Change the weights of running LLM inference engines in place.')
  .version(version)
  .addCommand(updateCommand())
  .addCommand(baselineCommand())
  .addCommand(resumeCommand())
  .addCommand(serveCommand(version))
  .addCommand(agentCommand())
  .addCommand(joinFileCommand())
  .addCommand(statusCommand())
  .addCommand(registerCommand())
  .addCommand(unregisterCommand())
  .addCommand(addCommand())
  .addCommand(removeCommand())
  .addCommand(stopCommand())
  .addCommand(doctorCommand())
  .showHelpAfterError('(see --help)')
  .configureOutput({ outputError: (text, write) => write(text) });

// A wrong option ends like every other usage error: one line and exit code 2.
program.exitOverride((error) => process.exit(error.exitCode === 0 ? 0 : 2));
for (const command of program.commands)
  command.exitOverride((error) => process.exit(error.exitCode === 0 ? 0 : 2));

await program.parseAsync();

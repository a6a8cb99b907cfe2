/** With which an agent ends that had to kill ranks: launchers pass exit codes on. */
export const killedExitCode = 9;

/** Set in the environment of a cluster's processes: a module that is loaded before them must not start clusters. */
export const processVariable = 'WEIGHTCAST_PROCESS';

/** Options and arguments that several commands have. */
import { Option } from 'commander';

/** Those of every command, given before or after its name. */
export type Global = { readonly sshConfig?: string; readonly fleet?: string };

export const A_HOST = 'ssh://[user@]host[:port], or local';
export const ANY_HOST = 'name in the fleet file, ssh://[user@]host[:port], or local';

export const JSON_OUTPUT = ['--json', 'one JSON object on standard output'] as const;
export const LEARN = [
  '--learn <seconds>',
  'listen for so long who exchanges datagrams with unconnected UDP sockets (default: 1)',
  Number,
] as const;
export const LABEL = [
  '--label <key=value>',
  'for osmosis drain: where it may be placed, beside which others (anti-affinity=GROUP, prefer-apart=GROUP), and --select; may be repeated',
  repeated,
] as const;

/** Of an option that may be given several times. */
export function repeated(value: string, before: readonly string[] = []): string[] {
  return [...before, value];
}

export function passphraseFile(what = 'its passphrase is the first line of this file'): Option {
  return new Option('--passphrase-file <file>', what).conflicts('keyFile');
}

export function passphrase(what: string): Option {
  return new Option('--passphrase', what).conflicts(['keyFile', 'passphraseFile']);
}

/** A migration that has not happened: what would move, from where to where, and what stands in the way. */
import { endpointText } from '../../agent/address.ts';
import { leaseText } from '../lease.ts';
import type { Plan } from '../plan.ts';
import { bytesText, countText, plainText } from './format.ts';

const COMMAND_COLUMNS_MAX = 60;
const FILES_MAX = 20;

/** Lines, each with its newline. */
export function planText(plan: Plan): string {
  const failed = plan.checks.filter(({ ok }) => !ok).length;
  const lines = [
    `${plan.cell}: from ${plan.from} to ${plan.to}, about ${bytesText(plan.image_bytes_estimate)} of image`,
    ...section(
      'processes',
      plan.processes.map(({ pid, command, resident_bytes }) => [
        String(pid),
        bytesText(resident_bytes),
        shortened(command),
      ]),
    ),
    ...section(
      'peers',
      plan.peers.map((peer) => [peer.address, countText(peer.flows, 'connection'), agentText(peer)]),
    ),
    ...section(
      'listens on',
      plan.listeners.map((listener) => [listener]),
    ),
    ...forwardSection(plan),
    ...section(
      'published',
      (plan.publish ?? []).map(({ protocol, wire, local }) => [
        `${protocol} ${endpointText(wire)}`,
        `for ${endpointText(local)}`,
      ]),
    ),
    ...filesSection(plan),
    ...section(
      'checks',
      plan.checks.map(({ name, ok, message }) => [ok ? 'ok' : 'FAIL', name, message]),
    ),
    failed === 0
      ? 'It can move. Nothing has been touched.'
      : `It cannot move: ${countText(failed, 'check')} failed. Nothing has been touched.`,
  ];
  return lines.map((line) => `${line}\n`).join('');
}

function agentText({ agent, registered, suspended }: Plan['peers'][number]): string {
  if (suspended) return 'suspended: it learns of the move when it is resumed';
  if (!agent) return 'NO AGENT: a legacy peer';
  return registered ? 'agent, agreed beforehand: it is told once, when the process has moved' : 'agent';
}

function forwardSection({ forward_new, from }: Plan): string[] {
  if (forward_new === undefined) return [];
  const { lease_s, endpoints, relays } = forward_new;
  const relayed = relays ? [[`those of hosts without an agent by way of ${from}`]] : [];
  const heading = `new connections follow, renewed for ${leaseText(lease_s)} at a time`;
  return section(heading, [...endpoints.map((endpoint) => [endpoint]), ...relayed]);
}

/** Those that would be touched, and those that stand in the way. */
function filesSection({ sync }: Plan): string[] {
  if (sync === undefined) return [];
  const more = sync.files.length - FILES_MAX;
  const rows = sync.files
    .slice(0, FILES_MAX)
    .map(({ path, state, bytes }) => [state, bytesText(bytes), shortened(path)]);
  return section('files', more > 0 ? [...rows, ['…', '', `${more} more (--json names up to 1000)`]] : rows);
}

/** A heading and aligned columns; nothing at all for no rows. */
function section(heading: string, rows: readonly (readonly string[])[]): string[] {
  if (rows.length === 0) return [];
  const width = (column: number) => Math.max(...rows.map((row) => row[column]?.length ?? 0));
  const line = (row: readonly string[]) => row.map((cell, column) => cell.padEnd(width(column))).join('  ');
  return [heading, ...rows.map((row) => `  ${line(row)}`.trimEnd())];
}

/** Commands come from other people's processes: control characters stay out of the terminal. */
function shortened(command: string): string {
  const clean = plainText(command);
  return clean.length <= COMMAND_COLUMNS_MAX ? clean : `${clean.slice(0, COMMAND_COLUMNS_MAX - 1)}…`;
}

/** What doctor prints for people. */
import { tableLines } from '../display/table.ts';
import type { Finding } from './finding.ts';
import type { Way } from './ways.ts';

/** What concerns several hosts: which of them reach which, and their clocks. */
export type Between = { readonly reach: readonly Way[]; readonly clock?: Finding };

const MARKS = { ok: 'ok', note: 'note', warn: 'WARN', fail: 'FAIL' } as const;
const INDENT = '      ';

export type HostReport = { readonly host: string; readonly findings: readonly Finding[] };

export function reportText(hosts: readonly HostReport[], between: Between | undefined): string {
  const parts = hosts.map(({ host, findings }) => `${host}\n${findingLines(findings).join('')}`);
  if (between !== undefined) parts.push(`between them\n${findingLines(betweenFindings(between)).join('')}`);
  const all = [...hosts.flatMap(({ findings }) => findings), ...(between ? betweenFindings(between) : [])];
  return `${parts.join('\n')}\n${summary(all)}\n`;
}

function betweenFindings({ reach, clock }: Between): Finding[] {
  const named = reach.map((way) => ({ ...way, check: `${way.from} to ${way.to}, port 18018` }));
  return clock === undefined ? named : [...named, clock];
}

/** A line each, and below those that are not well why it matters and what to type. */
function findingLines(findings: readonly Finding[]): string[] {
  const [, ...lines] = tableLines(
    ['', '', ''],
    findings.map(({ status, check, what }) => [`  ${MARKS[status]}`, check, what]),
  );
  return findings.flatMap(({ why, remedy }, index) => [
    lines[index] ?? '',
    ...(why === undefined ? [] : [`${INDENT}why: ${why}\n`]),
    ...(remedy === undefined ? [] : [`${INDENT}do:  ${remedy}\n`]),
  ]);
}

function summary(all: readonly Finding[]): string {
  const count = (wanted: Finding['status']) => all.filter(({ status }) => status === wanted).length;
  const [failures, warnings] = [count('fail'), count('warn')];
  if (failures + warnings === 0) return 'All is well.';
  return `${failures} ${failures === 1 ? 'thing has' : 'things have'} to be mended (FAIL), ${warnings} to know of (WARN).`;
}

import { describe, expect, it } from 'vitest';
import { clockFinding } from './clock.ts';
import { type Asker, askedAddresses, type Reached, ways } from './ways.ts';

const BRIDGE = '172.17.0.1';

function asker(host: string, addresses: string[], reached?: Reached): Asker {
  return {
    host,
    addresses,
    ...(reached === undefined ? { message: 'its agent does not answer' } : { reached }),
  };
}
function row(address: string, answer: Reached[number]['answer']): Reached[number] {
  return { address, answer };
}
function statuses(askers: readonly Asker[]): string[] {
  return ways(askers).map(({ from, to, status }) => `${from} ${to} ${status}`);
}

describe('the ways between hosts', () => {
  it('are well where an agent answers at every address that only it has', () => {
    const alpha = asker('a', ['10.0.0.1', BRIDGE], [row('10.0.0.2', 'agent')]);
    const beta = asker('b', ['10.0.0.2', BRIDGE], [row('10.0.0.1', 'agent')]);
    expect(askedAddresses([alpha, beta])).toEqual(['10.0.0.1', '10.0.0.2']);
    expect(statuses([alpha, beta])).toEqual(['a b ok', 'b a ok']);
  });

  it('are each looked at in both directions', () => {
    const alpha = asker('a', ['10.0.0.1'], [row('10.0.0.2', 'silent')]);
    const beta = asker('b', ['10.0.0.2'], [row('10.0.0.1', 'agent')]);
    expect(statuses([alpha, beta])).toEqual(['a b fail', 'b a ok']);
  });

  it('tell a host without an agent from one that is silent', () => {
    const reached = [row('10.0.0.2', 'closed'), row('10.0.0.3', 'silent')];
    const [closed, silent] = ways([
      asker('a', ['10.0.0.1'], reached),
      asker('b', ['10.0.0.2']),
      asker('c', ['10.0.0.3']),
    ]);
    expect(closed?.remedy).toMatch(/start the agent of b/);
    expect(silent?.remedy).toMatch(/nft list ruleset/);
  });

  it('are noted where they could not be tried, or by some addresses only', () => {
    const two = asker('b', ['10.0.0.2', 'fd00::2']);
    const alpha = asker('a', ['10.0.0.1'], [row('10.0.0.2', 'agent'), row('fd00::2', 'no-route')]);
    expect(statuses([alpha, two])).toEqual(['a b note', 'b a note']);
  });
});

describe('clocks', () => {
  it('of several hosts are compared with one another, not with this machine’s', () => {
    const clock = (ms: number) => ({ host: `h${ms}`, skew: { ms, uncertainty_ms: 10 } });
    expect(clockFinding([clock(9_000), clock(9_100)]).status).toBe('ok');
    expect(clockFinding([clock(0), clock(9_100)])).toMatchObject({
      status: 'warn',
      what: expect.stringMatching(/9100 ms between h0/),
    });
    expect(clockFinding([clock(9_000)]).status).toBe('warn');
    expect(clockFinding([{ host: 'a', skew: { ms: 700, uncertainty_ms: 300 } }]).status).toBe('ok');
    expect(clockFinding([{ host: 'a', skew: undefined }]).status).toBe('note');
  });
});

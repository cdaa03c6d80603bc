import { expect, test } from 'vitest';
import { pinText, trustText } from './commands/trust.ts';
import { addressesOf, checkPins, introductions, type PinRow } from './trust.ts';

const alpha = { host: 'alpha', fingerprint: 'SHA256:a', addresses: ['10.77.1.2', 'fd77::1', '172.17.0.1'] };
const beta = { host: 'beta', fingerprint: 'SHA256:b', addresses: ['10.77.2.2', '172.17.0.1'] };
const peer = { host: 'peer', fingerprint: 'SHA256:p', addresses: ['10.77.4.2'] };

test('every host pins the addresses of the others, and none that several have', () => {
  const { pins, shared } = introductions([alpha, beta, peer]);
  expect(shared).toEqual(['172.17.0.1']);
  expect(pins[0]).toEqual([
    { address: '10.77.2.2', identity: 'SHA256:b' },
    { address: '10.77.4.2', identity: 'SHA256:p' },
  ]);
  expect(pins[2]?.map(({ address }) => address)).toEqual(['10.77.1.2', 'fd77::1', '10.77.2.2']);
});

test('a host that is named twice does not pin itself, and is not in its own way', () => {
  const { pins, shared } = introductions([alpha, { ...alpha, host: '10.77.1.2' }, peer]);
  expect(shared).toEqual([]);
  expect(pins[0]).toEqual([{ address: '10.77.4.2', identity: 'SHA256:p' }]);
});

const row = (action: PinRow['action'], before?: string): PinRow => ({
  address: '10.77.4.2',
  fingerprint: 'SHA256:new',
  action,
  ...(before === undefined ? {} : { before }),
});

test('what would overrule an operator is refused by name', () => {
  checkPins('alpha', [row('pinned'), row('unchanged'), row('replaced', 'SHA256:old')]);
  const check = (each: PinRow) => () => checkPins('alpha', [row('pinned'), each]);
  expect(check(row('conflict', 'SHA256:old'))).toThrow(
    '10.77.4.2 is pinned to SHA256:old, not to SHA256:new',
  );
  expect(check(row('revoked'))).toThrow('SHA256:new, now at 10.77.4.2, has been revoked');
});

test('an address is itself; what is no host is refused', async () => {
  expect(await addressesOf('fd77::1', undefined)).toEqual(['fd77::1']);
  await expect(addressesOf('-x', undefined)).rejects.toMatchObject({ code: 'USAGE' });
});

test('the list says who is known, who was refused and who is revoked', () => {
  const known = [{ address: '10.77.4.2', fingerprint: 'SHA256:p', how: 'pinned' as const, since: 0 }];
  const refused = [
    { address: '10.77.4.2', fingerprint: 'SHA256:x', why: 'mismatch' as const, count: 3, last: 0 },
  ];
  const revoked = [{ fingerprint: 'SHA256:r', since: 0 }];
  const listed = { ...alpha, public_key: 'ssh-ed25519 A', policy: 'first-use' as const };
  expect(trustText('alpha', { ...listed, known, refused, revoked }).split('\n')).toEqual([
    'alpha: its own identity is SHA256:a; policy first-use',
    '  10.77.4.2  SHA256:p  pinned 1970-01-01T00:00:00.000Z',
    '  MISMATCH: 10.77.4.2 has shown SHA256:x, refused 3 times, last 1970-01-01T00:00:00.000Z',
    '  revoked: SHA256:r, 1970-01-01T00:00:00.000Z',
  ]);
  expect(trustText('alpha', { ...listed, known: [], refused: [], revoked: [] })).toContain(
    'no other identity',
  );
});

test('a pin says what it replaces, and what it would', () => {
  expect(pinText('alpha', [row('replaced', 'SHA256:old'), row('unchanged')], true).split('\n')).toEqual([
    'alpha:',
    '  10.77.4.2  SHA256:new  would be pinned in place of SHA256:old',
    '  10.77.4.2  SHA256:new  is pinned already',
  ]);
});

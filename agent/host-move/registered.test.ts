import { expect, test } from 'vitest';
import { flowKey } from '../address.ts';
import { flowWith } from '../test-support.ts';
import { LABELS_LISTED_MAX } from '../wire/h2o-labels.ts';
import { areListable, isRegistered, REGISTERED_MS_MAX, UNASKED_FLOWS_MAX } from './registered.ts';

const flows = [flowWith(51_000), flowWith(51_001)];
const claimed = new Set(flows.map((flow) => flowKey(flow)));

test('a peer that holds every flow, and was heard within a minute', () => {
  expect(isRegistered(flows, { claimed, age_ms: REGISTERED_MS_MAX })).toBe(true);
  expect(isRegistered(flows, { claimed, age_ms: REGISTERED_MS_MAX + 1 })).toBe(false);
  expect(isRegistered([...flows, flowWith(51_002)], { claimed, age_ms: 0 })).toBe(false);
});

test('no more flows than it can enter while the process stands still', () => {
  const many = Array.from({ length: UNASKED_FLOWS_MAX + 1 }, (_, index) => flowWith(20_000 + index));
  const standing = { claimed: new Set(many.map((flow) => flowKey(flow))), age_ms: 0 };
  expect(isRegistered(many.slice(1), standing)).toBe(true);
  expect(isRegistered(many, standing)).toBe(false);
});

test('labels that one MOVE can list: nobody has armed them', () => {
  const client = (port: number) => ({ ...flowWith(5_432), local: { address: '10.77.1.2', port } });
  const ports = Array.from({ length: LABELS_LISTED_MAX + 1 }, (_, index) => client(30_000 + index));
  expect(areListable(ports.slice(1))).toBe(true);
  expect(areListable(ports)).toBe(false);
  // One endpoint, however many flows.
  expect(areListable(Array.from({ length: 1_000 }, (_, index) => flowWith(20_000 + index)))).toBe(true);
});

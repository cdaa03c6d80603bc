import { randomBytes } from 'node:crypto';

/** A locally administered unicast address, for an end of a veth. */
export function localMac(): string {
  const bytes = [0x02, ...randomBytes(5)];
  return bytes.map((byte) => byte.toString(16).padStart(2, '0')).join(':');
}

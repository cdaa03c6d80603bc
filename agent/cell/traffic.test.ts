import { expect, it } from 'vitest';
import { parseCarried } from './traffic.ts';

const SS = `ESTAB 0 0 10.77.1.2:7000 10.77.4.2:51000 ino:1234 sk:5 cgroup:/ <-> cubic wscale:7,7 rto:204 bytes_sent:90 bytes_acked:80 bytes_received:70 segs_out:1
SYN-SENT 0 1 10.77.1.2:7000 10.77.4.2:51001 ino:1235 sk:6 cubic rto:1000
TIME-WAIT 0 0 10.77.1.2:7000 10.77.4.2:51002 timer:(timewait,59sec,0) ino:0 sk:7
`;

it('reads what ss says, by inode', () => {
  expect([...parseCarried(SS)]).toEqual([
    [1234, { in: 70, out: 80 }],
    [1235, { in: 0, out: 0 }],
  ]);
  expect(parseCarried('').size).toBe(0);
});

/** Kinds and options of sockets that can't move: each is refused by its own name, with process and descriptor, in the plan. */
import { afterAll, beforeAll, describe, expect, it, type TestContext } from 'vitest';
import { EXIT_STATUS } from '../agent/error.ts';
import { execOn, spawnOn } from '../fixtures/lab/hosts.ts';
import { migrateArgs, osmosis } from './cli.ts';
import { leftSince, type Traces, traces } from './traces.ts';

/** A device of the source that no cell has. */
const DEVICE = 'refused0';
const POLL_MS = 50;
const POLLS_MAX = 100;

const PAIR = `
listener = socket.create_server(("127.0.0.1", 0))
near = socket.create_connection(listener.getsockname())
far, _ = listener.accept()
`;

/** The smallest program that a kernel takes: r0 = 0; exit. Its licence stands behind it. 321: bpf(2). */
const EBPF_FILTER = `
import ctypes
code = ctypes.create_string_buffer(struct.pack("<BBhi", 0xb7, 0, 0, 0) + struct.pack("<BBhi", 0x95, 0, 0, 0))
licence = ctypes.create_string_buffer(b"GPL")
attr = struct.pack("<IIQQIIQII", 1, 2, ctypes.addressof(code), ctypes.addressof(licence), 0, 0, 0, 0, 0)
held = ctypes.CDLL(None, use_errno=True).syscall(321, 5, attr, len(attr))
if held < 0: raise OSError(ctypes.get_errno(), "bpf")
listener = socket.create_server(("0.0.0.0", 0))
listener.setsockopt(socket.SOL_SOCKET, 50, held)
os.close(held)
`;

/** What it is, the Python that opens it, what the plan says of it. */
const CASES = [
  ['raw', 'held = socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)', 'a raw socket'],
  ['raw IPv6', 'held = socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58)', 'a raw socket'],
  ['packet', 'held = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)', 'AF_PACKET'],
  ['ICMP', 'held = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 1)', 'ICMP'],
  [
    'UDP-Lite',
    'held = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 136); held.bind(("", 0))',
    'UDP-Lite',
  ],
  ['UDP-Lite, not bound', 'held = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 136)', 'UDP-Lite'],
  ['SCTP', 'held = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132)', 'SCTP'],
  ['DCCP', 'held = socket.socket(socket.AF_INET, 6, 33)', 'DCCP'],
  ['MPTCP', 'held = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262); held.listen()', 'MPTCP'],
  ['MPTCP, not bound', 'held = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)', 'MPTCP'],
  ['TIPC', 'held = socket.socket(30, socket.SOCK_STREAM, 0)', 'TIPC'],
  ['VSOCK', 'held = socket.socket(40, socket.SOCK_STREAM, 0)', 'VSOCK'],
  ['AF_XDP', 'held = socket.socket(44, socket.SOCK_RAW, 0)', 'AF_XDP'],
  ['AF_ALG', 'held = socket.socket(38, socket.SOCK_SEQPACKET, 0)', 'AF_ALG'],
  ['kernel TLS', `${PAIR}near.setsockopt(6, 31, b"tls")`, 'kTLS'],
  [
    'TCP MD5 signatures',
    'held = socket.create_server(("0.0.0.0", 0)); held.setsockopt(6, 14, struct.pack("<H2xI120xBBHi80s", 2, 0x0204400a, 0, 0, 3, 0, b"key"))',
    'TCP_MD5SIG',
  ],
  ['TCP repair', 'held = socket.socket(); held.bind(("", 0)); held.setsockopt(6, 19, 1)', 'TCP_REPAIR'],
  ['an eBPF filter', EBPF_FILTER, 'SO_ATTACH_BPF'],
  [
    'a device that a cell has not',
    `held = socket.socket(); held.setsockopt(socket.SOL_SOCKET, 25, b"${DEVICE}"); held.listen()`,
    `the device ${DEVICE}`,
  ],
] as const;

let before: Traces;

beforeAll(async () => {
  before = await traces(['alpha', 'beta']);
  await execOn('alpha', ['ip', 'link', 'add', DEVICE, 'type', 'veth', 'peer', 'name', `${DEVICE}b`]);
  await execOn('alpha', ['sysctl', '-qw', 'net.ipv4.ping_group_range=0 2147483647']);
});

afterAll(async () => {
  await execOn('alpha', ['ip', 'link', 'delete', DEVICE], { reject: false });
});

/** A process that has such a socket open. */
async function holder(index: number, statements: string, skip: TestContext['skip']): Promise<number> {
  const said = `/tmp/refused-${index}`;
  const script = `import os, socket, struct, time
try:
    exec(${JSON.stringify(statements)})
    said = "open"
except OSError as error:
    said = str(error)
with open("${said}.new", "w") as file:
    file.write(said)
os.rename("${said}.new", "${said}")
time.sleep(120)
`;
  await execOn('alpha', ['rm', '-f', said]);
  const { pid } = await spawnOn('alpha', ['python3', '-c', script]);
  let stdout = '';
  for (let poll = 0; poll < POLLS_MAX && stdout === ''; poll++) {
    stdout = (await execOn('alpha', ['cat', said], { reject: false })).stdout;
    if (stdout === '') await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
  if (stdout !== 'open') {
    await execOn('alpha', ['kill', String(pid)]);
    skip(`SKIPPED: this kernel gives no process such a socket: ${stdout}`);
  }
  return pid;
}

describe('the plan refuses a socket of the kind', () => {
  it.for(CASES.map((one, index) => [...one, index] as const))(
    '%s',
    async ([, statements, message, index], { expect, skip }) => {
      const pid = await holder(index, statements, skip);
      const [plan, outcome] = await Promise.all([
        osmosis(migrateArgs(pid, 'alpha', 'beta', '--dry-run')),
        osmosis(migrateArgs(pid, 'alpha', 'beta')),
      ]);
      expect(outcome.object).toMatchObject({ ok: false, code: 'PREFLIGHT', phase: 'plan', owner: 'source' });
      expect(outcome.exitCode).toBe(EXIT_STATUS.PREFLIGHT);
      expect(outcome.object.message).toContain(message);
      expect(outcome.object.message).toMatch(new RegExp(`process ${pid} .*fd \\d+`));
      expect(plan.stdout).toContain(message);
      await execOn('alpha', ['kill', String(pid)]);
    },
  );

  it('and leaves nothing behind', async () => {
    await execOn('alpha', ['ip', 'link', 'delete', DEVICE]);
    expect(await leftSince(before)).toEqual({});
  });
});

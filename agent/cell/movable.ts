/** What keeps a program movable that is started in a cell: CRIU saves neither an io_uring nor an MPTCP socket. */
import { writeFileSync } from 'node:fs';
import { execa } from 'execa';

/** io_uring_setup(2) has one number on every architecture; include/uapi/asm-generic/unistd.h */
const IO_URING_SETUP = 425;
const ENOSYS = 38;
/** include/uapi/linux/bpf_common.h and seccomp.h */
const BPF_LOAD_WORD = 0x20;
const BPF_JUMP_EQUAL = 0x15;
const BPF_RETURN = 0x06;
const SECCOMP_ALLOW = 0x7fff0000;
const SECCOMP_ERRNO = 0x00050000;
/** Of struct seccomp_data. */
const OFFSET_OF_NUMBER = 0;
const INSTRUCTION_BYTES = 8;
const HELP_MS_MAX = 5_000;
/** Go's name for it; from 1.24 on its listeners are MPTCP sockets unless this says otherwise. */
const GO_SETTING = 'multipathtcp=0';

/** What was done to a program, for whoever started it. */
export type Movable = {
  /** It gets ENOSYS for io_uring_setup, as on a kernel without, and so do its children. */
  readonly io_uring: 'denied' | 'allowed';
  readonly mptcp: 'off' | 'as it is';
};
export const AS_IT_IS: Movable = { io_uring: 'allowed', mptcp: 'as it is' };

/** A classic BPF program, struct sock_filter by struct: io_uring_setup fails with ENOSYS, all else is allowed. */
export function ioUringFilter(): Buffer {
  const instructions = [
    [BPF_LOAD_WORD, 0, 0, OFFSET_OF_NUMBER],
    [BPF_JUMP_EQUAL, 0, 1, IO_URING_SETUP],
    [BPF_RETURN, 0, 0, SECCOMP_ERRNO | ENOSYS],
    [BPF_RETURN, 0, 0, SECCOMP_ALLOW],
  ] as const;
  const program = Buffer.alloc(instructions.length * INSTRUCTION_BYTES);
  instructions.forEach(([code, ifTrue, ifFalse, operand], index) => {
    const at = index * INSTRUCTION_BYTES;
    program.writeUInt16LE(code, at);
    program.writeUInt8(ifTrue, at + 2);
    program.writeUInt8(ifFalse, at + 3);
    program.writeUInt32LE(operand, at + 4);
  });
  return program;
}

const filterFile = (directory: string) => `${directory}/no-io-uring.bpf`;

/** Once for all programs. */
export function writeIoUringFilter(directory: string): void {
  writeFileSync(filterFile(directory), ioUringFilter(), { mode: 0o600 });
}

/** `argv` behind the filter that was written to `directory`. */
export function withoutIoUring(directory: string, argv: readonly string[]): string[] {
  return ['setpriv', '--seccomp-filter', filterFile(directory), '--', ...argv];
}

/** Whether the host's setpriv(1) can do that: util-linux 2.41 and newer. */
export async function canFilter(): Promise<boolean> {
  const { stdout } = await execa('setpriv', ['--help'], { reject: false, timeout: HELP_MS_MAX });
  return stdout.includes('--seccomp-filter');
}

/** What is there of GODEBUG stays. */
export function withoutMptcp(env: Readonly<Record<string, string>>): Record<string, string> {
  const given = env.GODEBUG?.split(',').filter((setting) => !setting.startsWith('multipathtcp=')) ?? [];
  return { ...env, GODEBUG: [...given.filter(Boolean), GO_SETTING].join(',') };
}

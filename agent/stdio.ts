/**
 * `osmosis agent stdio`: joins standard input and output to the agent's socket, for SSH to run, as Docker does with
 * `system dial-stdio`. Imports next to nothing: its start is part of every migration.
 */
import { connect } from 'node:net';

/** sysexits(3) EX_UNAVAILABLE: no agent behind the socket. */
const STATUS_UNAVAILABLE = 69;

export function runStdio(socketPath: string): void {
  const socket = connect({ path: socketPath, allowHalfOpen: true });
  socket.on('error', (error) => {
    process.stderr.write(
      `osmosis: the agent does not answer at ${socketPath} (${error.message}); start it: osmosis agent\n`,
    );
    process.exit(STATUS_UNAVAILABLE);
  });
  // What the agent said last must be out before this process is gone.
  const exit = () => process.stdout.write('', () => process.exit(0));
  socket.on('end', exit);
  socket.on('close', exit);
  process.stdin.on('error', () => socket.destroy());
  process.stdout.on('error', () => socket.destroy());
  // A client that is gone must be seen as gone by the agent at once: it undoes what is not committed.
  process.stdin.on('end', () => socket.end());
  process.stdin.pipe(socket, { end: false });
  socket.pipe(process.stdout, { end: false });
}

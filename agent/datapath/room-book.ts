/** The rooms of a host in the kernel and in the datapath's map: made, let out, taken away. What a room is says rooms.ts. */
import { setTimeout as sleep } from 'node:timers/promises';
import { deleteLine, programPath, updateLine } from './bpftool.ts';
import { decodeRoom, encodeId, encodeRoom } from './layout.ts';
import type { Mirror } from './mirror.ts';
import type { RoomCounts, Side } from './model.ts';
import { createRoom, LATE_MS_MAX, letOut, PASSING_MS, ROOMS_MAX, removeRoom } from './rooms.ts';
import type { Access } from './rule-book.ts';
import type { Run } from './run.ts';
import { soleValue } from './snapshot.ts';

/** What it needs of the datapath. */
type RoomAccess = Pick<Access, 'pinDir' | 'dump' | 'write'> & {
  readonly run: Run;
  readonly putSide: (side: Side) => Promise<void>;
};

export class RoomBook {
  readonly #access: RoomAccess;

  constructor(access: RoomAccess) {
    this.#access = access;
  }

  /** Whether it is there then. */
  async open({ rooms }: Mirror, side: number): Promise<boolean> {
    const { run, pinDir, write } = this.#access;
    if (rooms.has(side)) return true;
    if (rooms.size >= ROOMS_MAX) return false;
    const room = await createRoom(run, side, programPath(pinDir, 'from_room'));
    rooms.set(side, room);
    await write([updateLine(pinDir, 'rooms', encodeId(room.far), encodeRoom(room, LATE_MS_MAX))]);
    return true;
  }

  /** Undefined where there is none. */
  async release(mirror: Mirror, side: number): Promise<RoomCounts | undefined> {
    const { run, dump, putSide } = this.#access;
    if (!mirror.rooms.has(side)) return undefined;
    await letOut(run, side);
    const current = mirror.sides.get(side);
    if (current?.waits === true) await putSide({ ...current, waits: false });
    // What has found the side as it was before.
    await sleep(PASSING_MS);
    const all = (await dump('rooms')).map((element) => decodeRoom(element.key, soleValue(element)));
    await this.remove(mirror, side);
    return all.find((each) => each.side === side);
  }

  /** With all that waits in it. */
  async remove({ rooms }: Mirror, side: number): Promise<void> {
    const { run, pinDir, write } = this.#access;
    const room = rooms.get(side);
    if (room === undefined) return;
    await removeRoom(run, side);
    rooms.delete(side);
    await write([deleteLine(pinDir, 'rooms', encodeId(room.far))]);
  }
}

/**
 * A suspended cell comes back while the other end of its connection goes from host to host: over a network that loses, repeats
 * and reorders, its HOLD and MOVE are taken by whoever has that end, once, and the answer says where that is.
 */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { temporaryDirectory } from '../test-support.ts';
import { decode, type Sealed } from '../wire/h2o.ts';
import { HOPS_AT, HOPS_MAX, isDrop, type Label } from '../wire/h2o-layout.ts';
import { consumeFromCell, type PeerState } from '../wire/h2o-peer.ts';
import {
  consumeAck,
  createHold,
  createMove,
  deriveSession,
  generateKeyPair,
  sessionTag,
} from '../wire/h2o-session.ts';
import { HandedOver } from './handed-over.ts';

const SCHEDULES = 400;
const SIMULATION_MS_MAX = 60_000;
const SETTLING_STEPS_MAX = 200;
const BACK = '10.77.1.2';
const HOSTS = ['10.77.2.2', '10.77.3.2', '10.77.4.2', '10.77.5.2'] as const;
type Host = (typeof HOSTS)[number];
const [FIRST] = HOSTS;

const [cellKeys, peerKeys, nextKeys] = [generateKeyPair(), generateKeyPair(), generateKeyPair()];
const pair = {
  cell: new Uint8Array(16).fill(3),
  epoch: 0,
  cellPublicKey: cellKeys.publicKey,
  peerPublicKey: peerKeys.publicKey,
};
const derived = deriveSession({ ...pair, secretKey: cellKeys.secretKey, role: 'cell' });
if (isDrop(derived)) throw new Error('a weak key');
const session = derived;
const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex');
const NAME = { cell: hex(pair.cell), tag: hex(sessionTag(pair)) };
const HELD: PeerState = { pair, secretKey: peerKeys.secretKey, epoch: 5, armed: [], session };
const HOLD = createHold(session, 6, { padded: true });
const endpoint = (address: string, port: number) => ({ address, port });
const labelTo = (virtual: string, port: number, wire: string): Label => ({
  protocol: 'tcp',
  virtual: endpoint(virtual, port),
  wire: endpoint(wire, 40_000),
});
const MOVE = createMove(session, {
  epoch: 7,
  nextPublicKey: nextKeys.publicKey,
  transaction: new Uint8Array(8),
  labels: [labelTo('10.77.9.9', 7000, BACK)],
  padded: true,
});

type Flight = { readonly from: string; readonly to: string; readonly datagram: Uint8Array };

class Simulated {
  readonly inFlight: Flight[] = [];
  readonly #handed: ReadonlyMap<string, HandedOver>;
  #at: Host = FIRST;
  #state: PeerState | undefined = HELD;
  /** It is on its way: nobody takes anything. */
  #going: PeerState | undefined;
  readonly #travels: Host[] = [];
  accepted: ('hold' | 'move')[] = [];
  movedAt: Host | undefined;
  isHeld = false;
  ends: readonly Label[] | undefined;
  longestAnswer = 0;

  constructor(directory: string) {
    this.#handed = new Map(
      HOSTS.map((host) => {
        const send = (datagram: Uint8Array, to: string) => this.#send(host, to, datagram);
        return [host, new HandedOver({ send }, `${directory}/${host}`)];
      }),
    );
  }

  #send(from: string, to: string, datagram: Uint8Array): void {
    expect(datagram[HOPS_AT]).toBeLessThanOrEqual(HOPS_MAX);
    this.inFlight.push({ from, to, datagram });
  }

  /** The cell's side: first whether it is waited for, then that it is back. */
  say(): void {
    this.#send(BACK, FIRST, this.isHeld ? MOVE : HOLD);
  }

  /** The other end leaves, or arrives; as often as messages can follow it. */
  travel(to: Host): void {
    if (this.#going !== undefined) {
      this.#arrive(to);
      return;
    }
    if (this.movedAt !== undefined || this.#travels.length >= HOPS_MAX - 1 || to === this.#at) return;
    this.#going = this.#state;
    this.#state = undefined;
  }

  #arrive(to: Host): void {
    const state = this.#going;
    this.#going = undefined;
    if (to === this.#at || state === undefined) {
      this.#state = state;
      return;
    }
    this.#handed.get(this.#at)?.add({ ...NAME, to });
    this.#handed.get(to)?.takeBack(NAME);
    this.#travels.push(to);
    this.#at = to;
    this.#state = { ...state, ends: [labelTo('10.77.2.2', 51_000, to)] };
  }

  get isGoing(): boolean {
    return this.#going !== undefined;
  }

  deliver({ from, to, datagram }: Flight): void {
    const decoded = decode(datagram);
    if (isDrop(decoded)) throw new Error(decoded.drop);
    const sealed = decoded.message as Sealed;
    const sender = { address: from, port: 18_018 };
    if (to === BACK) this.#atCell(sealed);
    else if (sealed.type === 'ack') this.#handed.get(to)?.answer(sealed, sender);
    else if (to === this.#at) this.#atEnd(sealed, from);
    else this.#handed.get(to)?.pass(sealed, sender);
  }

  #atEnd(sealed: Sealed, from: string): void {
    if (this.#state === undefined) return;
    const consumed = consumeFromCell(this.#state, sealed, () => nextKeys);
    this.#state = consumed.state;
    if (consumed.outcome === 'dropped') return;
    if (consumed.outcome === 'accepted') {
      const { type } = consumed.message;
      if (type === 'hold' || type === 'move') this.accepted.push(type);
      if (type === 'move') this.movedAt = this.#at;
    }
    expect(consumed.ack.length).toBeLessThanOrEqual(sealed.datagram.length);
    this.#send(this.#at, from, consumed.ack);
  }

  #atCell(sealed: Sealed): void {
    const sent = this.isHeld ? ({ type: 'move', epoch: 7 } as const) : ({ type: 'hold', epoch: 6 } as const);
    const ack = consumeAck(session, sent, sealed);
    if (isDrop(ack)) return;
    if (ack.acknowledged === 'move') this.ends = ack.ends ?? [labelTo('10.77.2.2', 51_000, FIRST)];
    this.isHeld = true;
  }
}

const step = fc.record({ pick: fc.nat(0xffff), host: fc.constantFrom(...HOSTS) });

function take(simulated: Simulated, { pick, host }: { pick: number; host: Host }): void {
  const { inFlight } = simulated;
  const flight = inFlight[(pick >> 3) % Math.max(inFlight.length, 1)];
  const kind = pick % 8;
  if (kind === 0) simulated.travel(host);
  else if (kind <= 2) simulated.say();
  else if (flight !== undefined) {
    // Delivered, delivered and again later, or lost.
    if (kind !== 3) inFlight.splice(inFlight.indexOf(flight), 1);
    if (kind !== 4) simulated.deliver(flight);
  }
}

test('whoever has the other end takes what the cell says, once, and says where it is', {
  timeout: SIMULATION_MS_MAX,
}, () => {
  const directory = temporaryDirectory();
  let [run, far] = [0, 0];
  fc.assert(
    fc.property(fc.array(step, { minLength: 10, maxLength: 120, size: 'max' }), (steps) => {
      const simulated = new Simulated(`${directory}/${run++}`);
      for (const each of steps) take(simulated, each);
      if (simulated.isGoing) simulated.travel('10.77.5.2');
      for (let settling = 0; simulated.ends === undefined; settling++) {
        expect(settling).toBeLessThan(SETTLING_STEPS_MAX);
        simulated.say();
        for (const flight of simulated.inFlight.splice(0)) simulated.deliver(flight);
      }
      expect(simulated.accepted.filter((type) => type === 'move')).toHaveLength(1);
      expect(simulated.accepted.filter((type) => type === 'hold').length).toBeLessThanOrEqual(1);
      expect(simulated.ends.map(({ wire }) => wire.address)).toEqual([simulated.movedAt]);
      if (simulated.movedAt !== FIRST) far++;
    }),
    {
      numRuns: SCHEDULES,
      ...(process.env.OSMOSIS_SEED && { seed: Number(process.env.OSMOSIS_SEED) }),
    },
  );
  expect(far).toBeGreaterThan(SCHEDULES / 10);
});

/**
 * For tests: one cell, its peer and the hosts that it moves between, over a network that loses, repeats, delays and
 * reorders, and agents that crash. The messages, and what the peer side accepts, are the real ones (wire/h2o*.ts); around
 * them is what the agents keep, in the order in which they write it down. Whoever schedules picks one of `choices()`.
 */
import assert from 'node:assert/strict';
import type { Endpoint } from '../address.ts';
import {
  answers,
  decode,
  encodeHello,
  encodeWelcome,
  type Hello,
  newTransaction,
  type Sealed,
  splitHello,
  type Welcome,
} from '../wire/h2o.ts';
import { armedLabels, type Claim, claimedFlows } from '../wire/h2o-claims.ts';
import {
  IDENTITY_BYTES,
  isDrop,
  KEY_BYTES,
  type Label,
  RECEIPT_BYTES,
  SIGNATURE_BYTES,
} from '../wire/h2o-layout.ts';
import {
  arm,
  consumeFromCell,
  isPairOf,
  isPast,
  type PeerState,
  pairFor,
  stateFor,
} from '../wire/h2o-peer.ts';
import {
  consumeAck,
  createArm,
  createBye,
  createMove,
  deriveSession,
  generateKeyPair,
  type KeyPair,
  type Session,
} from '../wire/h2o-session.ts';
import {
  consumeQuery,
  consumeVerdict,
  createQuery,
  createVerdict,
  newQueryNonce,
} from '../wire/h2o-verdict.ts';
import { Receipts } from './receipts.ts';

const HOSTS = ['10.77.1.2', '10.77.2.2', '10.77.3.2'] as const;
export type Host = (typeof HOSTS)[number];
const PEER = '10.77.4.2';
/** Of a host that takes no part in it, and sends with others' addresses. */
const STRANGER = '10.77.9.9';
/** Whom to believe is decided before what is simulated here. */
const NO_RECEIPT = new Uint8Array(RECEIPT_BYTES);
const UNSIGNED = { identity: new Uint8Array(IDENTITY_BYTES), signature: new Uint8Array(SIGNATURE_BYTES) };
/** What is under way at once: more is lost, oldest first. */
const IN_FLIGHT_MAX = 12;

type Flight = {
  readonly to: Host | typeof PEER;
  readonly from: Host | typeof PEER;
  readonly bytes: Uint8Array;
};
export type Choice = { readonly name: string; readonly take: () => void };

/** What the cell's host has written down of its pair with the peer. */
type Keys = {
  readonly pair: KeyPair;
  readonly epoch: number;
  last: number;
  peerPublicKey: Uint8Array | undefined;
  /** For this pair, from this host. */
  receipt?: Uint8Array;
};

type Stage = 'announcing' | 'armed' | 'frozen' | 'restored' | 'redirecting' | 'confirmed' | 'undone';
type Migration = {
  readonly to: Host;
  /** The peer has agreed in the background, and hears of it by the MOVE. */
  readonly isUnasked: boolean;
  stage: Stage;
  readonly parts: Map<number, Hello>;
  readonly labels: Label[];
  readonly transaction: Uint8Array;
  /** At the source, durable. */
  decision: 'commit' | 'abort' | undefined;
  readonly secret: { readonly migration: Uint8Array; readonly key: Uint8Array };
  readonly nonce: Uint8Array;
  /** Of labels that no HELLO has armed. */
  arming:
    | {
        readonly session: Session;
        readonly epoch: number;
        readonly transaction: Uint8Array;
        /** Not acknowledged yet, by part. */
        readonly waiting: Map<number, Uint8Array>;
      }
    | undefined;
  /** At the destination, written down before it restores. */
  move:
    | {
        readonly datagram: Uint8Array;
        readonly session: Session;
        readonly epoch: number;
        readonly next: KeyPair;
      }
    | undefined;
  acknowledged: Uint8Array | undefined;
};

type Bye = {
  readonly datagram: Uint8Array;
  readonly session: Session;
  readonly epoch: number;
  isOver: boolean;
};

/** What the peer's agent has written down. */
type Peer = {
  readonly state: PeerState | undefined;
  readonly active: 0 | 1;
  /** It holds the flows for the cell, whether that announces a move or not. */
  readonly isClaimed: boolean;
  readonly slots: readonly [string | undefined, string | undefined];
};

export class SimulatedHandoff {
  readonly #endpoints: readonly Endpoint[];
  /** The labels of one ARM part; undefined where HELLOs arm them. */
  readonly #labelsPerPart: number | undefined;
  readonly #cell = new Uint8Array(16).fill(0xc0);
  #home: Host = HOSTS[0];
  readonly #running = new Set<Host>([HOSTS[0]]);
  #keys: Keys = { pair: nextKeyPair(), epoch: 0, last: 0, peerPublicKey: undefined };
  #derived: { readonly of: Uint8Array; readonly session: Session } | undefined;
  #migration: Migration | undefined;
  #bye: Bye | undefined;
  #orchestrated = true;
  #inFlight: Flight[] = [];
  /** Everything that was ever sent. */
  readonly sent: Flight[] = [];
  readonly #heard = new Set<string>();
  readonly #receipts = new Receipts();
  #peer: Peer = { state: undefined, active: 0, isClaimed: false, slots: [HOSTS[0], undefined] };
  /** In the background: what was asked and not answered yet, and the pair that all was agreed in. */
  #asked = new Map<number, Hello>();
  #registered: Keys | undefined;
  /** In the kernel: it outlives the peer's agent. */
  #understood: { active: string; other: string | undefined } = { active: HOSTS[0], other: undefined };
  readonly #acks = new Set<string>();
  moves = 0;
  /** Of these: without a word to the peer before. */
  unasked = 0;
  aborts = 0;

  constructor(endpoints: number, labelsPerPart?: number) {
    this.#labelsPerPart = labelsPerPart;
    this.#endpoints = Array.from({ length: endpoints }, (_, index) => ({
      address: HOSTS[0],
      port: 7000 + index,
    }));
  }

  get owner(): readonly Host[] {
    return [...this.#running];
  }

  get seenAt(): string {
    return this.#understood.active;
  }

  /** All that the peer's agent keeps, and where its kernel sends to: for comparison. */
  get peerText(): string {
    return JSON.stringify([this.#peer, this.#understood.active], (_, value) =>
      value instanceof Uint8Array ? Buffer.from(value).toString('hex') : (value as unknown),
    );
  }

  get isSettled(): boolean {
    const stage = this.#migration?.stage;
    return (
      (stage === undefined || stage === 'confirmed' || stage === 'undone') && this.#bye?.isOver !== false
    );
  }

  /** Everything that may happen next. `isFair`: only what a network without faults and a patient operator do. */
  choices(isFair = false): Choice[] {
    const steps = [...this.#migrationSteps(isFair), ...this.#byeSteps()];
    const flights = this.#inFlight.map((flight) => flight);
    steps.push(...flights.map((flight) => ({ name: 'deliver', take: () => this.#deliver(flight, false) })));
    if (isFair) return steps;
    steps.push(
      ...flights.map((flight) => ({
        name: 'deliver, and again later',
        take: () => this.#deliver(flight, true),
      })),
    );
    steps.push(...flights.map((flight) => ({ name: 'lose', take: () => this.#remove(flight) })));
    for (const host of this.#running) steps.push({ name: 'say something', take: () => this.#say(host) });
    steps.push({ name: 'spoof', take: () => this.#spoof() });
    return steps;
  }

  /** Everything that the peer has ever heard comes once more, long after, backwards and forwards. */
  replay(): void {
    const heard = this.sent.filter(({ to, bytes }) => to === PEER && this.#heard.has(hex(bytes)));
    for (const flight of [...heard.toReversed(), ...heard]) this.#atPeer(flight, 'nothing');
  }

  #migrationSteps(isFair: boolean): Choice[] {
    const migration = this.#migration;
    const step = (name: string, take: () => void): Choice => ({ name, take });
    if (migration === undefined || migration.stage === 'confirmed' || migration.stage === 'undone') {
      if (isFair || this.#bye?.isOver === false) return [];
      const elsewhere = HOSTS.filter((host) => host !== this.#home);
      const isAgreed = this.#registered === this.#keys;
      return [
        ...elsewhere.map((to) => step(`migrate to ${to}`, () => this.#begin(to, false))),
        ...(isAgreed
          ? elsewhere.map((to) => step(`migrate unasked to ${to}`, () => this.#begin(to, true)))
          : []),
        ...(isAgreed || this.#endpoints.length > 1 ? [] : [step('register', () => this.#register())]),
      ];
    }
    const { stage } = migration;
    const abort = step('abort', () => this.#decide(migration, 'abort'));
    const dies = () => {
      this.#orchestrated = false;
    };
    const death = this.#orchestrated ? [step('the orchestrator dies', dies)] : [];
    const lost = isFair ? [] : death;
    if (stage === 'announcing')
      return [
        step('HELLO', () => this.#announce(migration)),
        ...(isFair && this.#orchestrated ? [] : [abort]),
        ...lost,
      ];
    if (stage === 'armed')
      return [step('freeze', () => this.#freeze(migration)), ...(isFair ? [] : [abort]), ...lost];
    if (stage === 'frozen')
      return [...(this.#orchestrated ? this.#restoringSteps(migration) : []), abort, ...lost];
    if (stage === 'restored') return this.#restoredSteps(migration, abort, lost);
    return this.#redirectSteps(migration);
  }

  #restoringSteps(migration: Migration): Choice[] {
    const unarmed = [...(migration.arming?.waiting.values() ?? [])];
    if (unarmed.length === 0) return [{ name: 'restore', take: () => this.#restore(migration) }];
    const arm = () => {
      for (const datagram of unarmed) this.#send(migration.to, PEER, datagram);
    };
    return [{ name: 'ARM', take: arm }];
  }

  #restoredSteps(migration: Migration, abort: Choice, lost: readonly Choice[]): Choice[] {
    if (migration.decision === undefined) {
      const commit = { name: 'commit', take: () => this.#decide(migration, 'commit') };
      return [...(this.#orchestrated ? [commit] : []), abort, ...lost];
    }
    const told = {
      name: 'told the verdict',
      take: () => this.#learn(migration, migration.decision ?? 'abort'),
    };
    const query = createQuery(migration.secret, migration.nonce);
    const ask = { name: 'QUERY', take: () => this.#send(migration.to, this.#home, query) };
    return [...(this.#orchestrated ? [told] : []), ask, ...lost];
  }

  #redirectSteps(migration: Migration): Choice[] {
    const { move, to } = migration;
    assert(move);
    const steps: Choice[] = [];
    if (migration.acknowledged === undefined)
      steps.push({ name: 'MOVE', take: () => this.#send(to, PEER, move.datagram) });
    // The head start is over, or the peer has answered; MOVE was sent at least once before.
    const isDeaf = migration.isUnasked && migration.acknowledged === undefined;
    if (!this.#running.has(to) && !isDeaf && this.sent.some(({ bytes }) => bytes === move.datagram))
      steps.push({ name: 'resume', take: () => this.#run(to) });
    if (this.#running.has(to) && migration.acknowledged !== undefined)
      steps.push({ name: 'confirm', take: () => this.#confirm(migration) });
    return steps;
  }

  #byeSteps(): Choice[] {
    const bye = this.#bye;
    return bye?.isOver === false
      ? [{ name: 'BYE', take: () => this.#send(this.#home, PEER, bye.datagram) }]
      : [];
  }

  /** The flows as they are, to be kept for the cell. */
  #register(): void {
    const claims = this.#endpoints.map(
      (local): Claim => ({ protocol: 'tcp', local, peerAddress: PEER, peerPorts: [51_000] }),
    );
    const parts = splitHello({ ...this.#helloOf(newTransaction(), claims), keeps: true });
    this.#asked = new Map(parts.map((part) => [part.part, part]));
    this.#ask();
  }

  #ask(): void {
    const receipt = this.#keys.receipt ?? NO_RECEIPT;
    for (const part of this.#asked.values()) this.#send(this.#home, PEER, encodeHello({ ...part, receipt }));
  }

  #helloOf(transaction: Uint8Array, claims: readonly Claim[]) {
    const { epoch, pair } = this.#keys;
    const receipt = this.#keys.receipt ?? NO_RECEIPT;
    return { ...UNSIGNED, cell: this.#cell, transaction, epoch, publicKey: pair.publicKey, receipt, claims };
  }

  #begin(to: Host, isUnasked: boolean): void {
    this.#orchestrated = true;
    // As docs/h2o.md assumes: what was never heard of an earlier migration is not heard first now.
    this.#inFlight = this.#inFlight.filter(({ bytes, to: at }) => at !== PEER || this.#heard.has(hex(bytes)));
    const labels = this.#endpoints.map(
      (virtual, index): Label => ({ protocol: 'tcp', virtual, wire: { address: to, port: 40_000 + index } }),
    );
    const claims = labels.map(
      ({ protocol, virtual, wire }): Claim => ({
        protocol,
        local: virtual,
        peerAddress: PEER,
        peerPorts: [51_000],
        ...(this.#labelsPerPart === undefined && { arm: wire }),
      }),
    );
    const transaction = newTransaction();
    const hello = this.#helloOf(transaction, claims);
    this.#migration = {
      to,
      isUnasked,
      stage: isUnasked ? 'armed' : 'announcing',
      parts: new Map(splitHello(hello).map((part) => [part.part, part])),
      labels,
      transaction,
      decision: undefined,
      secret: {
        migration: new Uint8Array(16).fill(this.sent.length),
        key: new Uint8Array(KEY_BYTES).fill(7),
      },
      nonce: newQueryNonce(),
      arming: undefined,
      move: undefined,
      acknowledged: undefined,
    };
  }

  #announce({ parts }: Migration): void {
    const { receipt } = this.#keys;
    const said = [...parts.values()].slice(0, receipt === undefined ? 1 : undefined);
    for (const part of said)
      this.#send(this.#home, PEER, encodeHello({ ...part, receipt: receipt ?? NO_RECEIPT }));
  }

  /**
   * Another host claims the flows from the address where they are: with keys of its own, and with those that it has seen
   * there. It has receipts for both, which were sent to its own address.
   */
  #spoof(): void {
    const claims = this.#endpoints.map((local, index): Claim => {
      const arm = { address: STRANGER, port: 40_000 + index };
      return { protocol: 'tcp', local, peerAddress: PEER, peerPorts: [51_000], arm };
    });
    const { epoch, pair } = this.#keys;
    const before = this.peerText;
    for (const its of [
      { cell: new Uint8Array(16).fill(0xee), epoch: 0, publicKey: nextKeyPair().publicKey },
      { cell: this.#cell, epoch, publicKey: pair.publicKey },
    ]) {
      const offer = { ...UNSIGNED, ...its, transaction: newTransaction() };
      const receipt = this.#receipts.of(offer, STRANGER);
      for (const part of splitHello({ ...offer, receipt, claims }))
        this.#atPeer({ from: this.#home, to: PEER, bytes: encodeHello(part) }, 'nothing');
    }
    assert.equal(this.peerText, before, 'whoever is elsewhere claims nothing');
  }

  #freeze(migration: Migration): void {
    this.#running.delete(this.#home);
    migration.stage = 'frozen';
    if (this.#labelsPerPart !== undefined) this.#createArming(migration, this.#labelsPerPart);
  }

  #createArming(migration: Migration, labelsPerPart: number): void {
    const [session, epoch, transaction] = [this.#session(), ++this.#keys.last, newTransaction()];
    const parts = Math.ceil(migration.labels.length / labelsPerPart);
    const labelsOf = (part: number) =>
      migration.labels.slice(part * labelsPerPart, (part + 1) * labelsPerPart);
    const datagrams = Array.from({ length: parts }, (_, part) =>
      createArm(session, { epoch, part, parts, transaction, labels: labelsOf(part) }),
    );
    migration.arming = { session, epoch, transaction, waiting: new Map(datagrams.entries()) };
  }

  /** Computed once: public-key operations would be most of what a schedule takes. */
  #session(): Session {
    const { pair, epoch, peerPublicKey } = this.#keys;
    if (this.#derived !== undefined && this.#derived.of === peerPublicKey) return this.#derived.session;
    assert(peerPublicKey);
    const { secretKey, publicKey: cellPublicKey } = pair;
    const session = deriveSession({
      cell: this.#cell,
      epoch,
      cellPublicKey,
      peerPublicKey,
      secretKey,
      role: 'cell',
    });
    assert(!isDrop(session));
    this.#derived = { of: peerPublicKey, session };
    return session;
  }

  #restore(migration: Migration): void {
    // No BYE takes an epoch where it is undone, and none may be that of two MOVEs.
    if (migration.isUnasked) this.#keys.last++;
    const [session, next] = [this.#session(), nextKeyPair()];
    const epoch = migration.isUnasked ? this.#keys.last : this.#keys.last + 1;
    const { labels } = migration;
    const { transaction } = migration.arming ?? migration;
    const datagram = createMove(session, { epoch, transaction, labels, nextPublicKey: next.publicKey });
    migration.move = { datagram, session, epoch, next };
    migration.stage = 'restored';
  }

  /** At the source: whoever is first has decided. Before the destination has restored nothing is left to learn there. */
  #decide(migration: Migration, wish: 'commit' | 'abort'): void {
    migration.decision ??= wish;
    if (migration.decision === 'commit') return;
    if (migration.stage !== 'restored') migration.stage = 'undone';
    this.#run(this.#home);
    this.aborts++;
    if (!migration.isUnasked) this.#sayBye();
  }

  #sayBye(): void {
    if (this.#keys.peerPublicKey === undefined) return;
    const [session, epoch] = [this.#session(), ++this.#keys.last];
    this.#bye = { datagram: createBye(session, { epoch, reason: 'aborted' }), session, epoch, isOver: false };
  }

  #learn(migration: Migration, verdict: 'commit' | 'abort'): void {
    if (migration.stage === 'restored') migration.stage = verdict === 'commit' ? 'redirecting' : 'undone';
  }

  #run(host: Host): void {
    this.#running.add(host);
    assert.equal(this.#running.size, 1, 'one owner');
  }

  /** A packet of the process: the peer's kernel has to know where it comes from. */
  #say(host: Host): void {
    const { active, other } = this.#understood;
    assert(host === active || host === other, `a packet from ${host} draws a reset`);
  }

  #confirm(migration: Migration): void {
    const { move, acknowledged, to } = migration;
    assert(move);
    this.#keys = { pair: move.next, epoch: move.epoch, last: move.epoch, peerPublicKey: acknowledged };
    this.#home = to;
    migration.stage = 'confirmed';
    this.moves++;
    if (migration.isUnasked) this.unasked++;
  }

  #send(from: Flight['from'], to: Flight['to'], bytes: Uint8Array): void {
    const flight = { from, to, bytes };
    this.sent.push(flight);
    this.#inFlight = [...this.#inFlight, flight].slice(-IN_FLIGHT_MAX);
  }

  #remove(flight: Flight): void {
    this.#inFlight = this.#inFlight.filter((each) => each !== flight);
  }

  #deliver(flight: Flight, again: boolean): void {
    if (!again) this.#remove(flight);
    if (flight.to === PEER) this.#atPeer(flight, CRASHES[this.sent.length % CRASHES.length] ?? 'nothing');
    else this.#atCell(flight);
  }

  #atCell({ to, from, bytes }: Flight): void {
    const decoded = decode(bytes);
    assert(!isDrop(decoded));
    const { message } = decoded;
    const migration = this.#migration;
    if (message.type === 'welcome') {
      this.#atRegistration(message);
      const part = migration?.parts.get(message.part);
      if (migration?.stage !== 'announcing' || part === undefined || !answers(message, part)) return;
      if (message.receipt !== undefined) {
        this.#keys.receipt = message.receipt;
        return;
      }
      if (!message.claimable.every(Boolean)) {
        this.#decide(migration, 'abort');
        return;
      }
      migration.parts.delete(message.part);
      this.#keys.peerPublicKey = message.publicKey;
      if (migration.parts.size === 0) migration.stage = 'armed';
    } else if (message.type === 'ack') this.#atCellAck(message);
    else if (message.type === 'query' && migration?.decision !== undefined && to === this.#home) {
      const query = consumeQuery(migration.secret, message);
      if (!isDrop(query)) this.#send(to, from, createVerdict(migration.secret, query, migration.decision));
    } else if (message.type === 'verdict' && migration !== undefined) {
      const answer = consumeVerdict(migration.secret, migration.nonce, message);
      if (!isDrop(answer) && answer.verdict !== 'undecided') this.#learn(migration, answer.verdict);
    }
  }

  #atRegistration(message: Welcome): void {
    const part = this.#asked.get(message.part);
    if (part === undefined || !answers(message, part)) return;
    if (message.receipt !== undefined) {
      this.#keys.receipt = message.receipt;
      this.#ask();
      return;
    }
    if (!message.claimable.every(Boolean)) return;
    this.#asked.delete(message.part);
    this.#keys.peerPublicKey = message.publicKey;
    if (this.#asked.size === 0) this.#registered = this.#keys;
  }

  #atCellAck(message: Sealed): void {
    const [move, bye, arming] = [this.#migration?.move, this.#bye, this.#migration?.arming];
    for (const part of arming?.waiting.keys() ?? []) {
      const sent = { type: 'arm', epoch: arming?.epoch ?? 0, part } as const;
      if (arming !== undefined && !isDrop(consumeAck(arming.session, sent, message)))
        arming.waiting.delete(part);
    }
    if (move !== undefined && this.#migration !== undefined) {
      const ack = consumeAck(move.session, { type: 'move', epoch: move.epoch }, message);
      if (!isDrop(ack) && ack.acknowledged === 'move') this.#migration.acknowledged = ack.nextPublicKey;
    }
    if (bye !== undefined && !isDrop(consumeAck(bye.session, { type: 'bye', epoch: bye.epoch }, message)))
      bye.isOver = true;
  }

  /** The peer's agent crashes after what it does, after it has written that down, or not at all. */
  #atPeer({ from, bytes }: Flight, crash: Crash): void {
    const decoded = decode(bytes);
    assert(!isDrop(decoded));
    if (crash !== 'before it is written') this.#heard.add(hex(bytes));
    const written = this.#peer;
    const answer =
      decoded.message.type === 'hello'
        ? this.#hello(decoded.message, from)
        : this.#sealed(decoded.message as Sealed);
    if (crash === 'before it is written') this.#peer = written;
    if (crash === 'nothing' && answer !== undefined) this.#send(PEER, from as Host, answer);
  }

  /** As h2o/admission.ts and h2o/remote-cells.ts: from where the flows are, and not of another pair. */
  #hello(hello: Hello, from: string): Uint8Array {
    const { state, active, slots } = this.#peer;
    const known = state === undefined ? [] : [state];
    const isOthers = (state?.pair.epoch ?? 0) > 0 && !known.some((each) => isPairOf(hello, each));
    const found = from === slots[active] && !isOthers ? pairFor(hello, known) : undefined;
    const { cell, transaction, epoch, part, parts, claims } = hello;
    const welcome = { ...UNSIGNED, type: 'welcome', cell, transaction, epoch, part, parts } as const;
    const none = claimedFlows(claims).map(() => false);
    if (!this.#receipts.isShown(hello, from)) {
      const receipt = this.#receipts.of(hello, from);
      return encodeWelcome({ ...welcome, claimable: none, publicKey: new Uint8Array(KEY_BYTES), receipt });
    }
    if (found === undefined || isPast(found, hello))
      return encodeWelcome({ ...welcome, claimable: none, publicKey: new Uint8Array(KEY_BYTES) });
    const [label] = armedLabels(claims);
    const isClaimed = this.#peer.isClaimed || hello.keeps === true;
    if (label === undefined) this.#peer = { ...this.#peer, state: found, isClaimed };
    else {
      const to = label.wire.address;
      this.#peer = {
        state: arm(found, hello),
        active,
        isClaimed,
        slots: slotsWith(active, slots[active], to),
      };
      this.#understood = { active: this.#understood.active, other: to };
    }
    return encodeWelcome({
      ...welcome,
      claimable: none.map(() => true),
      publicKey: found.pair.peerPublicKey,
    });
  }

  #sealed(sealed: Sealed): Uint8Array | undefined {
    const { active, slots, state: known } = this.#peer;
    const state = stateFor(sealed, known === undefined ? [] : [known]);
    if (state === undefined) return undefined;
    const consumed = consumeFromCell(state, sealed, nextKeyPair);
    if (consumed.outcome === 'dropped') {
      this.#peer = { ...this.#peer, state: consumed.state };
      return undefined;
    }
    if (consumed.outcome === 'duplicate') {
      assert(this.#acks.has(hex(consumed.ack)), 'a replay is answered by the ACK that was given before');
      return consumed.ack;
    }
    const { message } = consumed;
    const other = active === 0 ? 1 : 0;
    if (message.type === 'move') {
      const [label] = message.labels;
      // Flows that nothing was armed of, and that nobody has claimed, are forgotten: nothing flips.
      const { isClaimed } = this.#peer;
      const to = slots[other] === undefined && !isClaimed ? undefined : label?.wire.address;
      assert(to, 'a MOVE finds the flows that it moves');
      this.#understood = { active: to, other: undefined };
      this.#peer = {
        state: consumed.state,
        active: other,
        isClaimed,
        slots: slotsWith(other, to, undefined),
      };
    } else if (message.type === 'arm') {
      const to = message.labels[0]?.wire.address;
      this.#understood = { ...this.#understood, other: to };
      this.#peer = { ...this.#peer, state: consumed.state, slots: slotsWith(active, slots[active], to) };
    } else {
      this.#understood = { ...this.#understood, other: undefined };
      const slotsNow = slotsWith(active, slots[active], undefined);
      this.#peer = { ...this.#peer, state: consumed.state, active, slots: slotsNow };
    }
    this.#acks.add(hex(consumed.ack));
    return consumed.ack;
  }
}

function slotsWith(active: 0 | 1, its: string | undefined, other: string | undefined): Peer['slots'] {
  return active === 0 ? [its, other] : [other, its];
}

/** Made once and taken in turn: making them would be most of what a schedule takes. */
const KEY_PAIRS = Array.from({ length: 64 }, generateKeyPair);
let keyPairsTaken = 0;

function nextKeyPair(): KeyPair {
  const pair = KEY_PAIRS[keyPairsTaken++ % KEY_PAIRS.length];
  assert(pair);
  return pair;
}

const CRASHES = [
  'nothing',
  'nothing',
  'nothing',
  'before it is written',
  'nothing',
  'before it answers',
  'nothing',
] as const;
type Crash = (typeof CRASHES)[number];

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex');
}

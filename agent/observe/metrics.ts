/**
 * What Prometheus is told of this agent. Names begin with osmosis_, units are seconds and bytes, and labels have few values: never
 * one per cell, flow or peer. What is counted as it happens is counted here; the rest is looked up when somebody asks.
 */
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import type { ErrorCode } from '../error.ts';
import { VERSION } from '../version.ts';
import type { Ended, Outcome, Role, Step, Tally } from './journal.ts';

/** From a step of a few milliseconds to a process that stands still for as long as it may. */
const SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300];
/** The event loop is looked at this often, once somebody has asked. */
const LOOP_MS = 100;
/** Of `code` where this host has not failed. */
const NO_CODE = 'none';

/** One gauge or counter, by the values of its labels. */
export type Sample = readonly [value: number, labels?: Readonly<Record<string, string>>];
/** A family that is looked up: `samples` of all of its values. */
export type Family = {
  readonly name: string;
  readonly help: string;
  readonly type: 'gauge' | 'counter';
  readonly labels?: readonly string[];
  readonly samples: readonly Sample[];
};

export class Metrics implements Tally {
  readonly #registry = new Registry();
  readonly #looked = new Map<string, Gauge | Counter>();
  #hasDefaults = false;
  readonly #ended = this.#counter('osmosis_migrations_total', 'Migrations that have ended here', [
    'role',
    'kind',
    'outcome',
    'code',
  ]);
  readonly #image = this.#counter('osmosis_image_bytes_total', 'Bytes of images, before compression', [
    'role',
  ]);
  readonly #step = this.#histogram('osmosis_migration_step_seconds', 'What the steps of migrations took', [
    'role',
    'step',
  ]);
  readonly #frozen = this.#histogram(
    'osmosis_frozen_seconds',
    'Source: from the freeze until it was decided, or until the process went on in place',
    ['outcome'],
  );
  readonly #woken = this.#histogram(
    'osmosis_restored_seconds',
    'Destination: from the whole image until the process ran',
    [],
  );
  readonly #turned = this.#histogram(
    'osmosis_peer_acknowledged_seconds',
    'Destination: from MOVE until a peer has acknowledged it',
    [],
  );

  constructor() {
    const info = new Gauge({
      name: 'osmosis_agent_info',
      help: 'Always 1',
      labelNames: ['version', 'node'],
      registers: [this.#registry],
    });
    info.set({ version: VERSION, node: process.version }, 1);
  }

  ended({ role, kind, outcome, code }: Ended): void {
    this.#ended.inc({ role, kind, outcome, code: code ?? (NO_CODE satisfies string | ErrorCode) });
  }

  step(role: Role, step: Step, seconds: number): void {
    this.#step.observe({ role, step }, seconds);
  }

  frozen(outcome: Outcome, seconds: number): void {
    this.#frozen.observe({ outcome }, seconds);
  }

  woken(seconds: number): void {
    this.#woken.observe(seconds);
  }

  turned(seconds: number): void {
    this.#turned.observe(seconds);
  }

  image(role: Role, bytes: number): void {
    this.#image.inc({ role }, bytes);
  }

  /** All of it in Prometheus' text format, with `families` as they are now. */
  async text(families: readonly Family[]): Promise<string> {
    // What watches the event loop costs a little: nothing before somebody asks.
    if (!this.#hasDefaults)
      collectDefaultMetrics({ register: this.#registry, eventLoopMonitoringPrecision: LOOP_MS });
    this.#hasDefaults = true;
    for (const family of families) this.#take(family);
    return await this.#registry.metrics();
  }

  #take({ name, help, type, labels = [], samples }: Family): void {
    const options = { name, help, labelNames: labels, registers: [this.#registry] };
    const known = this.#looked.get(name) ?? (type === 'gauge' ? new Gauge(options) : new Counter(options));
    this.#looked.set(name, known);
    // A counter of the kernel's, or of another part: it is as it is said to be.
    known.reset();
    for (const [value, of = {}] of samples) known.inc(of, value);
  }

  #counter(name: string, help: string, labelNames: string[]): Counter {
    return new Counter({ name, help, labelNames, registers: [this.#registry] });
  }

  #histogram(name: string, help: string, labelNames: string[]): Histogram {
    return new Histogram({ name, help, labelNames, buckets: SECONDS, registers: [this.#registry] });
  }
}

export const CONTENT_TYPE = Registry.PROMETHEUS_CONTENT_TYPE;

import type { Phase } from '../agent/phases.ts';
import type { MigrationEvent } from './events.ts';

/** Times the phases, and tells of each. */
export class PhaseClock {
  readonly times: Partial<Record<Phase, number>> = {};
  readonly #emit: (event: MigrationEvent) => void;
  #current: Phase = 'plan';
  #started: number | undefined;

  constructor(emit: (event: MigrationEvent) => void) {
    this.#emit = emit;
  }

  get current(): Phase {
    return this.#current;
  }

  enter(phase: Phase): void {
    this.finish();
    this.#current = phase;
    this.#started = performance.now();
    this.#emit({ event: 'phase', phase, state: 'start' });
  }

  finish(): void {
    if (this.#started === undefined) return;
    const ms = performance.now() - this.#started;
    this.times[this.#current] = Math.round(ms * 10) / 10;
    this.#started = undefined;
    this.#emit({ event: 'phase', phase: this.#current, state: 'done', ms });
  }

  fail(): void {
    this.#started = undefined;
    this.#emit({ event: 'phase', phase: this.#current, state: 'failed' });
  }
}

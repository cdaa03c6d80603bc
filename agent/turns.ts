/** Steps that must not meet half done: one after the other, in the order in which they were asked for. */
export class Turns {
  #last: Promise<unknown> = Promise.resolve();

  /** Settles as the step does. A step that fails does not stop those behind it. */
  run<T>(step: () => Promise<T>): Promise<T> {
    const done = this.#last.then(step);
    this.#last = done.catch(() => undefined);
    return done;
  }

  /** Once every step that was asked for so far is done. */
  async idle(): Promise<void> {
    await this.#last;
  }
}

/**
 * Steps that two may ask for at the same time, such as the orchestrator and what its going away begins: whoever comes while
 * one is under way waits for that one. Once it has ended, well or not, it may be done anew.
 */
export class UnderWay<T> {
  readonly #steps = new Map<string, Promise<T>>();

  join(id: string, step: () => Promise<T>): Promise<T> {
    const running = this.#steps.get(id);
    if (running !== undefined) return running;
    const begun = step().finally(() => this.#steps.delete(id));
    this.#steps.set(id, begun);
    return begun;
  }
}

import { EventEmitter } from 'node:events';
import fc from 'fast-check';
import { beforeEach, describe, expect, it } from 'vitest';
import { KEPT_BYTES_MAX, Keyboard } from './keyboard.ts';

class Typed extends EventEmitter {
  readonly calls: string[] = [];
  setRawMode(on: boolean): void {
    this.calls.push(on ? 'raw' : 'cooked');
  }
  resume(): void {
    this.calls.push('resume');
  }
  pause(): void {
    this.calls.push('pause');
  }
}

describe('Keyboard', () => {
  let typed: Typed;
  let rung: string[];
  let keyboard: Keyboard;
  let got: string[];
  const type = (text: string) => typed.emit('data', Buffer.from(text));
  const listen = () => keyboard.passTo((keys) => got.push(keys.toString()));
  beforeEach(() => {
    typed = new Typed();
    [rung, got] = [[], []];
    keyboard = new Keyboard(typed, (text) => rung.push(text));
    keyboard.start();
  });

  it('keeps what is typed until somebody takes it, in order', () => {
    type('a');
    type('b');
    listen();
    type('c');
    expect(got).toEqual(['ab', 'c']);
  });

  it('whatever is typed, and whenever it is kept, arrives once and in order', () => {
    fc.assert(
      fc.property(
        fc.array(fc.oneof(fc.constant('keep'), fc.constant('pass'), fc.nat(9)), { maxLength: 50 }),
        (steps) => {
          const one = new Typed();
          const under = new Keyboard(one, () => {});
          let [said, heard] = ['', ''];
          under.start();
          for (const step of steps) {
            if (step === 'keep') under.keep();
            else if (step === 'pass') under.passTo((keys) => (heard += keys));
            else {
              said += step;
              one.emit('data', Buffer.from(String(step)));
            }
          }
          under.passTo((keys) => (heard += keys));
          expect(heard).toBe(said);
        },
      ),
    );
  });

  it('makes two pastes of one that is under way, wherever it is cut', () => {
    listen();
    type('\u001b[20');
    type('0~first');
    expect(keyboard.keep().toString()).toBe('\u001b[201~');
    type(' second\u001b[201~');
    listen();
    expect(got.at(-1)).toBe('\u001b[200~ second\u001b[201~');
    expect(keyboard.keep()).toHaveLength(0);
  });

  it('says that there is no room, and drops what comes then', () => {
    type('x'.repeat(KEPT_BYTES_MAX));
    type('yz');
    expect(rung).toEqual(['\u0007']);
    expect([keyboard.takeDropped(), keyboard.takeDropped()]).toEqual([2, 0]);
    listen();
    expect(got.join('')).toBe('x'.repeat(KEPT_BYTES_MAX));
  });

  it.for([
    ['C-\\', '\u001c'],
    ['C-a', '\u0001'],
    ['C-]', '\u001d'],
    ['C-^', '\u001e'],
  ] as const)('%s and d leaves while keys are kept, and not while they are passed on', ([key, byte]) => {
    let left = 0;
    keyboard.leaveBy(key, () => left++);
    listen();
    type(`${byte}d`);
    expect(left).toBe(0);
    keyboard.keep();
    type(`more${byte}`);
    type('d');
    expect(left).toBe(1);
    expect(keyboard.take()).toHaveLength(0);
  });

  it('leaves by no key where there is none', () => {
    keyboard.leaveBy('none', () => rung.push('left'));
    type('\u001cd');
    expect(rung).toEqual([]);
  });

  it('gives the terminal back', () => {
    keyboard.stop();
    expect(typed.calls).toEqual(['raw', 'resume', 'cooked', 'pause']);
    expect(typed.listenerCount('data')).toBe(0);
  });
});

import { readdirSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { temporaryDirectory } from '../test-support.ts';
import { Store } from './store.ts';

type Item = { id: number; key?: Uint8Array; note?: string | undefined };

function storeIn(directory = join(temporaryDirectory(), 'a', 'b')) {
  return { directory, store: new Store<Item>(directory) };
}

test('items come back in another agent, with their bytes', () => {
  const { directory, store } = storeIn();
  store.put('one', { id: 1, key: Uint8Array.of(1, 2), note: undefined });
  store.put('two', { id: 2 });
  const again = new Store<Item>(directory).all().sort((left, right) => left.id - right.id);
  expect(again).toEqual([{ id: 1, key: Uint8Array.of(1, 2) }, { id: 2 }]);
});

test('the same name replaces; removing twice is no error', () => {
  const { directory, store } = storeIn();
  store.put('one', { id: 1 });
  store.put('one', { id: 2 });
  expect(store.all()).toEqual([{ id: 2 }]);
  store.remove('one');
  store.remove('one');
  expect([store.all(), readdirSync(directory)]).toEqual([[], []]);
});

test('half-written and foreign files are left out', () => {
  const { directory, store } = storeIn();
  store.put('one', { id: 1 });
  writeFileSync(join(directory, 'two.cbor'), Uint8Array.of(0xa1, 0x62));
  writeFileSync(join(directory, 'three.cbor.new'), Uint8Array.of(0xa0));
  expect(store.all()).toEqual([{ id: 1 }]);
});

test('nobody but root reads them', () => {
  const { directory, store } = storeIn();
  store.put('one', { id: 1 });
  expect(statSync(directory).mode & 0o777).toBe(0o700);
  expect(statSync(join(directory, 'one.cbor')).mode & 0o777).toBe(0o600);
});

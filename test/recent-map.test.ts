import assert from 'node:assert/strict';
import { test } from 'node:test';
import { RecentMap } from '../src/recent-map.ts';

test('the least recently used entry goes first', () => {
  const map = new RecentMap<string, number>(2);
  map.set('a', 1);
  map.set('b', 2);
  assert.equal(map.get('a'), 1);
  map.set('c', 3);
  assert.deepEqual(
    [...map],
    [
      ['a', 1],
      ['c', 3],
    ],
  );
  assert.equal(map.get('b'), undefined);
});

test('an entry that is set again is used, and counts once', () => {
  const map = new RecentMap<string, number>(2);
  for (const key of ['a', 'b', 'a', 'c']) map.set(key, 0);
  assert.deepEqual([...map.keys()], ['a', 'c']);
});

test('entries make room by their sizes, but the last one stays', () => {
  const map = new RecentMap<string, number>(10, (size) => size);
  map.set('a', 4);
  map.set('b', 6);
  map.set('c', 5);
  assert.deepEqual([...map.keys()], ['c'], 'without b it would be too much, too');
  map.set('d', 20);
  assert.deepEqual([...map.keys()], ['d']);
  map.delete('d');
  map.set('e', 10);
  assert.deepEqual([...map.keys()], ['e']);
});

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { settle } from '../../../simulation/clock.ts';
import type { ActorRef, Context } from '../../../src/actors/kernel/index.ts';
import { contextOf, makeSystem, Probe, soon, type TestMessage } from './harness.ts';

const most = 4_096;

function spawnChildren(parent: Context<TestMessage>, count: number): ActorRef<TestMessage>[] {
  return Array.from({ length: count }, (_, child) =>
    parent.spawn(`child-${child}`, () => new Probe(`child-${child}`, [])),
  );
}

test('thousands of children answer, end one by one, and the rest end with their parent', async () => {
  const { system } = makeSystem();
  const parent = await contextOf(system, 'parent');
  const children = spawnChildren(parent, most);
  const answers = await Promise.all(
    children.map((child, value) => parent.ask(child, { type: 'echo', value }, soon)),
  );
  assert.deepEqual(answers, [...children.keys()]);
  for (const child of children.slice(0, most / 2)) await parent.stop(child);
  assert.equal(system.census.actors, 1 + most / 2);
  await system.stop(60_000);
  assert.equal(system.census.actors, 0);
});

test('one child too many is refused by name, and one that ended makes room', async () => {
  const { system } = makeSystem();
  const parent = await contextOf(system, 'parent');
  const [first] = spawnChildren(parent, most);
  const spawnOne = () => parent.spawn('one-more', () => new Probe('one-more', []));
  assert.throws(spawnOne, {
    code: 'WEIGHTCAST_OVERLOADED',
    message: 'parent has 4096 children, the maximum; one-more was not started',
  });
  await parent.stop(first);
  assert.equal(await parent.ask(spawnOne(), { type: 'echo', value: 1 }, soon), 1);
});

test('actors without a parent are limited as well', () => {
  const { system } = makeSystem();
  for (let actor = 0; actor < most; actor += 1) system.spawn(`${actor}`, () => new Probe('actor', []));
  assert.throws(() => system.spawn('one-more', () => new Probe('actor', [])), {
    code: 'WEIGHTCAST_OVERLOADED',
    message: /one-more was not started/,
  });
});

test('no two actors have one name', async () => {
  const { system } = makeSystem();
  const parent = await contextOf(system, 'parent');
  parent.spawn('child', () => new Probe('child', []));
  assert.throws(() => parent.spawn('child', () => new Probe('child', [])), /named parent\/child is running/);
  assert.throws(() => system.spawn('parent', () => new Probe('other', [])), /named parent is running/);
});

test('an actor may have any name, in refs and errors as it was given', async () => {
  const names = [
    'node-2:8000',
    'http://host:8000/v1',
    'two words',
    '引擎一',
    'a/b',
    'ÿ\n',
    '#1@x',
    '__proto__',
    '',
  ];
  const { system } = makeSystem();
  const parent = await contextOf(system, 'parent');
  for (const name of names) {
    const child = parent.spawn(name, () => new Probe(name, []));
    assert.equal(child.name, `parent/${name}`);
    assert.equal(await parent.ask(child, { type: 'echo', value: name }, soon), name);
    const top = system.spawn(name, () => new Probe(name, []));
    await assert.rejects(system.ask(top, { type: 'throw', value: new Error('end') }, soon), (error: Error) =>
      // An error is one line, whatever it names.
      error.message.startsWith(`${name.trim()} crashed on throw`.trim()),
    );
  }
  await settle();
  assert.equal(system.census.actors, 1 + names.length);
});

import { describe, expect, it } from 'vitest';
import { jumpArguments } from './socket.ts';

describe('jumpArguments', () => {
  it('jumps through the last host, reached through those before it', () => {
    expect(jumpArguments('u@j1:23,j2', { hostname: '10.0.0.1', port: 2222 }, '/f')).toEqual([
      ...['-F', '/f'],
      ...['-o', 'BatchMode=yes'],
      ...['-J', 'u@j1:23'],
      ...['-W', '10.0.0.1:2222'],
      'ssh://j2',
    ]);
  });

  it('brackets IPv6', () => {
    expect(jumpArguments('j', { hostname: 'fd00::1', port: 22 }, undefined)).toEqual([
      ...['-o', 'BatchMode=yes'],
      ...['-W', '[fd00::1]:22'],
      'ssh://j',
    ]);
  });
});

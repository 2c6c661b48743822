import { describe, expect, test } from 'vitest'
import { applyReport, type EpochHistory, joinEpoch, ReplayMemory } from '../../../../gateway/fleet/membership.ts'
import { backendUrl } from '../../../../gateway/fleet/url.ts'
import { LineLimiter } from '../../../../gateway/observe/limiter.ts'

describe('epochs', () => {
  test('a new one retires the old one for good, the same one may join again', () => {
    let history: EpochHistory | undefined = { retired: [] }
    history = joinEpoch(history, 'a')
    history = history && joinEpoch(history, 'a')
    history = history && joinEpoch(history, 'b')
    expect(history).toEqual({ current: 'b', retired: ['a'] })
    expect(history && joinEpoch(history, 'a')).toBeUndefined()
  })

  test('of many restarts are remembered up to a bound', () => {
    let history: EpochHistory = { retired: [] }
    for (let life = 0; life < 100; life++) history = joinEpoch(history, `life-${life}`) ?? history
    expect(history.current).toBe('life-99')
    expect(history.retired.length).toBeLessThanOrEqual(16)
  })
})

describe('reports', () => {
  const presence = { epoch: 'a', sequence: 4, frames: [], reportedAtMs: 0 }
  test.each([
    ['in order', 5, 'continue', 5, 9, 'apply'],
    ['after a gap', 7, 'resync', 7, 9, 'drop'],
    ['repeated', 4, 'continue', 4, 0, 'ignore'],
    ['overtaken', 2, 'continue', 4, 0, 'ignore'],
  ] as const)('%s', (_, sequence, next, kept, reportedAtMs, kv) => {
    const applied = applyReport(presence, { epoch: 'a', sequence, frames: [] }, 9)
    expect(applied).toMatchObject({ next, kv, presence: { sequence: kept, reportedAtMs } })
  })

  test('after a gap say nothing of what is held until the backend has joined again', () => {
    const gap = applyReport(presence, { epoch: 'a', sequence: 7, frames: [] }, 9)
    const after = applyReport(gap.presence, { epoch: 'a', sequence: 8, frames: [] }, 10)
    expect(after).toMatchObject({ next: 'resync', kv: 'drop', presence: { sequence: 8, reportedAtMs: 10 } })
    const joined = { epoch: 'a', frames: [], reportedAtMs: 11 }
    expect(applyReport(joined, { epoch: 'a', sequence: 9, frames: [] }, 12)).toMatchObject({
      next: 'continue',
      kv: 'apply',
    })
  })

  test('of another epoch or of nobody known ask for everything', () => {
    const asked = { next: 'resync', kv: 'ignore' }
    expect(applyReport(presence, { epoch: 'b', sequence: 5, frames: [] }, 9)).toEqual({ presence, ...asked })
    expect(applyReport(undefined, { epoch: 'a', sequence: 0, frames: [] }, 9)).toEqual({
      presence: undefined,
      ...asked,
    })
  })
})

test('the replay memory takes an id once, and refuses rather than forgets when it is full', () => {
  const memory = new ReplayMemory(2)
  expect(memory.firstUse('a', 100, 0)).toBe(true)
  expect(memory.firstUse('a', 100, 1)).toBe(false)
  expect(memory.firstUse('b', 50, 1)).toBe(true)
  expect(memory.firstUse('c', 100, 2)).toBe(false)
  expect(memory.firstUse('c', 100, 50)).toBe(true)
})

test.each([
  ['http://10.0.0.5:7801', 'http://10.0.0.5:7801'],
  ['https://gpu.example.com/agent/', 'https://gpu.example.com/agent'],
  ['HTTP://Host:80/', 'http://host'],
  ['ftp://host', undefined],
  ['file:///etc/passwd', undefined],
  ['http://u:p@host', undefined],
  ['http://host?x', undefined],
  ['http://host#x', undefined],
  ['//host', undefined],
])('the address %s is called as %s', (text, url) => {
  expect(backendUrl(text)).toBe(url)
})

test('a flood of one kind of line is cut, counted, and leaves other kinds alone', () => {
  const limiter = new LineLimiter()
  const written = Array.from({ length: 1000 }, () => limiter.take('flood', 0)).filter(({ write }) => write).length
  expect(written).toBe(200)
  expect(limiter.take('other', 0).write).toBe(true)
  expect(limiter.take('flood', 1000)).toEqual({ write: true, droppedBefore: 800 })
})

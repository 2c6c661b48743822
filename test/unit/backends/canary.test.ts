import { describe, expect, onTestFinished, test } from 'vitest'
import { CanaryReference } from '../../../backends/canary-reference.ts'
import { eventsOf, type HarnessOptions, startHarness, textOf, until } from './support/harness.ts'

/** An engine is asked as soon as it is idle, and has as long as a busy machine takes. */
const TIMING = { idleMs: 1, timeoutMs: 20_000, pollMs: 10 }
/** Of one question: eight, and the second half of them again. */
const TOKENS = 12

async function start(options: HarnessOptions = {}) {
  const harness = await startHarness({ canary: TIMING, ...options })
  onTestFinished(() => harness.stop())
  const health = async () => {
    const response = await fetch(`${harness.url}/health`)
    return { status: response.status, body: (await response.json()) as { live: boolean; engines: object[] } }
  }
  const count = async (outcome: string) => {
    const text = await (await fetch(`${harness.url}/metrics`)).text()
    return Number(new RegExp(`^penstock_canary_total\\{.*outcome="${outcome}"\\} (\\d+)$`, 'm').exec(text)?.[1])
  }
  const frame = () => harness.gateway.reports.at(-1)?.frames[0]
  return { ...harness, health, count, frame }
}

describe('an idle engine', () => {
  test('is asked the same again and again, and stays ready while it says the same', async () => {
    const { count, health, frame } = await start()
    await until(async () => (await count('passed')) >= 3)
    expect(await count('wrong')).toBe(0)
    expect(await health()).toMatchObject({ status: 200 })
    await until(() => frame() !== undefined)
    expect(frame()).not.toHaveProperty('notReady')
  })

  test('is not asked before it has been idle for the time', async () => {
    const { count, dispatch } = await start({ canary: { idleMs: 60_000, pollMs: 1 } })
    await eventsOf(await dispatch())
    expect(await count('passed')).toBe(0)
  })

  test('that says something else is given no more work, lives, and says why', async () => {
    // The first answer is right and what the others are held against; the failures are too far apart to end the process.
    const { frame, health, dispatch, count } = await start({
      engine: { wrongAfterTokens: TOKENS },
      canary: { ...TIMING, pollMs: 1000, idleMs: 1 },
    })
    await until(async () => (await count('wrong')) >= 1)
    await until(() => frame()?.notReady !== undefined)
    expect(frame()).toMatchObject({ draining: true, notReady: 'canary_wrong' })
    expect(frame()?.canaryFailures).toBeGreaterThanOrEqual(1)
    expect(await health()).toMatchObject({ status: 503, body: { live: true, engines: [{ notReady: 'canary_wrong' }] } })
    expect((await dispatch()).status).toBe(503)
  })

  test('that says nothing in time is given no more work, and is restarted after some failures', async () => {
    const { logs, agent, count, health } = await start({
      engine: { stuckAfterTokens: TOKENS },
      canary: { ...TIMING, timeoutMs: 500 },
    })
    const first = agent.enginePid
    await until(() => agent.enginePid !== undefined && agent.enginePid !== first)
    expect(logs.join('\n')).toContain('canary_timeout 3 times in a row')
    // The next life answers as the first one did, and nothing is held against it.
    await until(async () => (await health()).status === 200)
    expect(await count('timeouts')).toBeGreaterThanOrEqual(3)
  })

  test('that says something else in a later life than in its first is found out too', async () => {
    const { logs, agent, count } = await start({ engine: { wrongAfterTokens: TOKENS, crashAfterTokens: 5 * TOKENS } })
    const first = agent.enginePid
    await until(() => agent.enginePid !== undefined && agent.enginePid !== first)
    await until(async () => (await count('wrong')) >= 3)
    expect(logs.join('\n')).toContain('canary_wrong')
  })
})

describe('a first answer', () => {
  test('is believed only where both ways to compute it agree', async () => {
    const { logs, count, frame } = await start({ engine: { wrongByTheWay: true }, canary: { ...TIMING, pollMs: 1000 } })
    await until(async () => (await count('wrong')) >= 1)
    await until(() => frame()?.notReady !== undefined)
    expect(frame()).toMatchObject({ draining: true, notReady: 'canary_wrong' })
    expect(await count('passed')).toBe(0)
    expect(logs.join('\n')).toContain('canary_failed')
  })

  test.each([
    ['certain beyond all', 0.5],
    // 456 tokens, of which none is likelier than another.
    ['flat', -Math.log(456) - 0.01],
  ])('whose probabilities are %s is wrong, whatever its tokens', async (_, logprob) => {
    const { count } = await start({ engine: { logprob, vocabSize: 456 } })
    await until(async () => (await count('wrong')) >= 1)
    expect(await count('passed')).toBe(0)
  })
})

describe('the answer of several engines', () => {
  test('is the one that most have given, and among as many the first', () => {
    const reference = new CanaryReference()
    expect(reference.expected).toBeUndefined()
    expect(reference.hear('a', [1])).toBe(true)
    expect(reference.hear('b', [2])).toBe(false)
    expect(reference.hear('a', [1])).toBe(true)
    expect(reference.hear('c', [2])).toBe(true)
    expect(reference.expected).toEqual([2])
    expect(reference.hear('a', [1])).toBe(false)
    expect(reference.hear('b', [2])).toBe(true)
  })

  test('is not changed by an engine that changes its mind', () => {
    const reference = new CanaryReference()
    expect(reference.hear('a', [1])).toBe(true)
    for (let turn = 2; turn < 10; turn++) expect(reference.hear('a', [turn])).toBe(false)
    expect(reference.hear('a', [1])).toBe(true)
  })
})

test('a request that comes while an engine is asked does not wait for it', async () => {
  // The answer to the question alone would take as long as the test may.
  const { dispatch, count, agent } = await start({
    engine: { tokenIntervalMs: 50 },
    canary: { idleMs: 1, pollMs: 10, timeoutMs: 60_000 },
  })
  await until(() => agent.openDispatches === 0)
  for (let call = 0; call < 5; call++) {
    const events = await eventsOf(await dispatch({ maxOutputTokens: 3 }))
    expect(textOf(events)).not.toBe('')
    await new Promise((resolve) => setTimeout(resolve, 60))
  }
  expect(await count('cancelled')).toBeGreaterThan(0)
  expect(await count('timeouts')).toBe(0)
})

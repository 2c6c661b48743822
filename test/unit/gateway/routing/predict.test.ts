import fc from 'fast-check'
import { expect, test } from 'vitest'
import { Figures } from '../../../../gateway/routing/figures.ts'
import { type Given, type Prediction, predict, predictAlone } from '../../../../gateway/routing/predict.ts'
import { backend, frame } from './fleet-support.ts'

const none = (): Prediction => ({ ttftMs: 0, waitMs: 0, workMs: 0, itlMs: 0, itlAloneMs: 0, place: 'here' })
const upTo = (max: number) => fc.double({ min: 0, max, noNaN: true })

/** Engines in every state that a frame can tell of, with and without what they would measure. */
const engine = fc
  .record({
    kvBlocksTotal: fc.nat(4000),
    kvBlocksUsed: fc.nat(4000),
    sequencesRunning: fc.nat(40),
    sequencesWaiting: fc.nat(40),
    sequencesMax: fc.nat(40),
    requestsQueued: fc.nat(20),
    prefillTokensQueued: fc.nat(50_000),
    decodeKvTokens: fc.nat(100_000),
    measuredPrefillTokensPerSecond: fc.option(upTo(20_000), { nil: undefined }),
    stepModel: fc.option(
      fc.record({ baseMs: upTo(50), prefillTokenMs: upTo(1), decodeSequenceMs: upTo(5), kvTokenMs: upTo(0.01) }),
      { nil: undefined },
    ),
  })
  .map(({ measuredPrefillTokensPerSecond, stepModel, ...rest }) => {
    const { measuredPrefillTokensPerSecond: _, stepModel: __, ...base } = frame(rest)
    return {
      ...base,
      ...(measuredPrefillTokensPerSecond === undefined ? {} : { measuredPrefillTokensPerSecond }),
      ...(stepModel === undefined ? {} : { stepModel }),
    }
  })

test('the short way to a prediction says what the long one says, of a backend that was sent nothing and computes prompts itself', () => {
  fc.assert(
    fc.property(
      fc.array(engine, { minLength: 1, maxLength: 3 }),
      fc.record({ promptTokens: fc.integer({ min: 1, max: 20_000 }), sequences: fc.integer({ min: 1, max: 60 }) }),
      fc.nat(256),
      upTo(1),
      fc.nat(5000),
      fc.nat(300),
      (frames, { promptTokens, sequences }, output, cachedShare, usualTokens, wayMs) => {
        const snapshot = { staleAfterMs: 3500, backends: [backend('a'), backend('b', {}, { frames })] }
        const figures = new Figures(snapshot, { model: 'm', wantsGrammar: false }, new Map([['b', wayMs]]), 0)
        const given: Given = {
          size: { promptTokens, sequences, kvTokens: promptTokens + sequences * output },
          uncachedTokens: Math.max(1, promptTokens * cachedShare),
          usualTokens,
          offer: undefined,
        }
        const long = predict(none(), figures, 1, given)
        const short = none()
        predictAlone(short, figures.hot, 1, given)
        for (const part of ['ttftMs', 'waitMs', 'workMs', 'itlMs'] as const)
          expect(short[part]).toBeCloseTo(long[part], 6 - Math.ceil(Math.log10(1 + long[part])))
      },
    ),
    { numRuns: 500 },
  )
})

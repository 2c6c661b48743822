// The fit against engines that are made up: it must find their costs through noise, forget an old load, and never tell nonsense.
import { describe, expect, test } from 'vitest'
import { StepFit, type StepSample, stepMs } from '../../../../backends/handoff/step-model.ts'
import type { StepModel } from '../../../../protocol/capacity.ts'

const TRUE: StepModel = { baseMs: 8, prefillTokenMs: 1.5, decodeSequenceMs: 0.7, kvTokenMs: 0.002 }

/** Numbers in [0, 1), the same on every run. */
function random(seed: number): () => number {
  let state = seed
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 32
  }
}

type Mix = 'prompts' | 'decoding' | 'both'
function sample(model: StepModel, mix: Mix, next: () => number, noise: number): StepSample {
  const prefillTokens = mix === 'decoding' ? 0 : 1 + Math.floor(next() * 128)
  const decodeSequences = mix === 'prompts' ? 0 : 1 + Math.floor(next() * 16)
  const kvTokens = Math.floor(decodeSequences * (50 + next() * 2000))
  const step = { prefillTokens, decodeSequences, kvTokens }
  return { ...step, tookMs: stepMs(model, step) * (1 + noise * (next() - 0.5)) }
}
const mixed = (next: () => number): Mix => (['prompts', 'decoding', 'both'] as const)[Math.floor(next() * 3)] ?? 'both'

/** The largest error of a prediction, in parts of the truth. */
function worst(fitted: StepModel | undefined, model: StepModel): number {
  if (fitted === undefined) return Number.POSITIVE_INFINITY
  const steps = [
    { prefillTokens: 128, decodeSequences: 0, kvTokens: 0 },
    { prefillTokens: 64, decodeSequences: 8, kvTokens: 8000 },
    { prefillTokens: 0, decodeSequences: 1, kvTokens: 300 },
    { prefillTokens: 0, decodeSequences: 16, kvTokens: 20_000 },
  ]
  return Math.max(...steps.map((step) => Math.abs(stepMs(fitted, step) / stepMs(model, step) - 1)))
}

describe('the model of a step', () => {
  test('is not told before there is enough to fit', () => {
    const fit = new StepFit()
    const next = random(1)
    for (let at = 0; at < 100; at++) fit.add(sample(TRUE, 'decoding', next, 0))
    expect(fit.model).toBeUndefined()
    for (let at = 0; at < 4; at++) fit.add(sample(TRUE, 'prompts', next, 0))
    expect(fit.model).toBeDefined()
  })

  test('of an engine that hands its prompts to others takes their cost from the engine’s own meter', () => {
    const fit = new StepFit()
    const next = random(1)
    for (let at = 0; at < 100; at++) fit.add({ ...sample(TRUE, 'decoding', next, 0), prefillTokensPerSecond: 500 })
    expect(fit.model?.prefillTokenMs).toBe(2)
    expect(fit.model?.baseMs).toBeCloseTo(TRUE.baseMs, 0)
  })

  test('of an engine that only ever computes full steps of prompts puts their cost on the tokens', () => {
    const fit = new StepFit()
    const next = random(16)
    for (let at = 0; at < 100; at++)
      fit.add({ prefillTokens: 128, decodeSequences: 0, kvTokens: 0, tookMs: 200 * (0.9 + 0.2 * next()) })
    expect(fit.model?.prefillTokenMs).toBeGreaterThan(0.85 * (200 / 128))
    expect(stepMs(fit.model ?? TRUE, { prefillTokens: 128, decodeSequences: 0, kvTokens: 0 }) / 200).toBeCloseTo(1, 1)
  })

  test('of an engine that only ever decodes one sequence puts its cost on the step', () => {
    const fit = new StepFit()
    const step = { prefillTokens: 0, decodeSequences: 1, kvTokens: 0, tookMs: 30, prefillTokensPerSecond: 500 }
    for (let at = 0; at < 100; at++) fit.add(step)
    expect(fit.model?.baseMs).toBeGreaterThan(0.85 * 30)
  })

  test.each([1, 2, 3, 4, 5, 6, 7, 8])('is found through noise of a fifth (seed %i)', (seed) => {
    const fit = new StepFit()
    const next = random(seed)
    for (let at = 0; at < 600; at++) fit.add(sample(TRUE, mixed(next), next, 0.2))
    expect(worst(fit.model, TRUE)).toBeLessThan(0.1)
  })

  test('follows an engine that became twice as slow', () => {
    const fit = new StepFit()
    const next = random(9)
    const slow: StepModel = { baseMs: 16, prefillTokenMs: 3, decodeSequenceMs: 1.4, kvTokenMs: 0.004 }
    for (let at = 0; at < 600; at++) fit.add(sample(TRUE, mixed(next), next, 0.1))
    for (let at = 0; at < 2500; at++) fit.add(sample(slow, mixed(next), next, 0.1))
    expect(worst(fit.model, slow)).toBeLessThan(0.1)
  })

  test('remembers what a prompt takes through an hour of decoding', () => {
    const fit = new StepFit()
    const next = random(10)
    for (let at = 0; at < 300; at++) fit.add(sample(TRUE, mixed(next), next, 0.1))
    for (let at = 0; at < 10_000; at++) fit.add(sample(TRUE, 'decoding', next, 0.1))
    expect(fit.model?.prefillTokenMs).toBeCloseTo(TRUE.prefillTokenMs, 0)
  })

  test('is not spoiled by a process that was stopped', () => {
    const fit = new StepFit()
    const next = random(11)
    for (let at = 0; at < 600; at++) {
      const one = sample(TRUE, mixed(next), next, 0.1)
      fit.add(at % 50 === 40 ? { ...one, tookMs: one.tookMs + 30_000 } : one)
    }
    expect(worst(fit.model, TRUE)).toBeLessThan(0.25)
  })

  test.each([12, 13, 14, 15])(
    'has no cost below zero and none that is no number, whatever it is told (seed %i)',
    (seed) => {
      const fit = new StepFit()
      const next = random(seed)
      for (let at = 0; at < 400; at++) {
        fit.add({
          tookMs: next() < 0.1 ? 0 : 10 ** (8 * next() - 4),
          prefillTokens: Math.floor(next() * 3) * 64,
          decodeSequences: Math.floor(next() * 3),
          kvTokens: Math.floor(next() ** 8 * 2 ** 32),
        })
        for (const cost of Object.values(fit.model ?? {})) {
          expect(Number.isFinite(cost)).toBe(true)
          expect(cost).toBeGreaterThanOrEqual(0)
          expect(cost).toBeLessThanOrEqual(60_000)
        }
      }
      expect(fit.model).toBeDefined()
    },
  )

  test('holds where two costs only ever rise together', () => {
    const fit = new StepFit()
    for (let at = 0; at < 200; at++) {
      const decodeSequences = 1 + (at % 8)
      const step = { prefillTokens: at % 5 === 0 ? 32 : 0, decodeSequences, kvTokens: 100 * decodeSequences }
      fit.add({ ...step, tookMs: stepMs(TRUE, step) })
    }
    const step = { prefillTokens: 0, decodeSequences: 4, kvTokens: 400 }
    expect(stepMs(fit.model ?? TRUE, step) / stepMs(TRUE, step)).toBeCloseTo(1, 2)
  })
})

// The figures of the two arrangements as text. Owns targets and ratios. Pure.
import { figure, quantile, spreadOf, spreadText } from '../gateway/statistics.ts'
import type { Mix, MixResult } from './mix.ts'

/** p99 between tokens while a long prompt is computed: one process over prefill and decode apart. */
const GAP_RATIO_MIN = 3
/** Throughput apart over that of one process. */
const THROUGHPUT_RATIO_MIN = 0.85

export type Round = { together: MixResult; apart: MixResult }

export type Run = {
  machine: string
  commit: string | undefined
  date: string
  model: string
  mix: Mix
  /** What each arrangement was started with. */
  arrangements: { together: string; apart: string }
  rounds: Round[]
  foreignShare: number | undefined
}

const LABELS = [
  ['between tokens while a long prompt is computed, p50 ms', (result: MixResult) => quantile(result.disturbedMs, 0.5)],
  ['the same, p99 ms', (result: MixResult) => quantile(result.disturbedMs, 0.99)],
  ['between tokens otherwise, p50 ms', (result: MixResult) => quantile(result.calmMs, 0.5)],
  ['the same, p99 ms', (result: MixResult) => quantile(result.calmMs, 0.99)],
  ['first token of the long prompt, p50 ms', (result: MixResult) => quantile(result.firstTokenMs, 0.5)],
  ['tokens per second, prompts and answers', (result: MixResult) => result.tokensPerSecond],
] as const

export function markdownOf(run: Run): string {
  const { mix, rounds, arrangements } = run
  const rows = LABELS.map(([label, value]) => {
    const together = rounds.map((round) => value(round.together))
    const apart = rounds.map((round) => value(round.apart))
    const ratios = rounds.map((round) => value(round.together) / value(round.apart))
    return `| ${label} | ${spreadText(spreadOf(together))} | ${spreadText(spreadOf(apart))} | ${spreadText(spreadOf(ratios))} |`
  })
  const gap = spreadOf(rounds.map(({ together, apart }) => gapOf(together) / gapOf(apart))).median
  const throughput = spreadOf(
    rounds.map(({ together, apart }) => apart.tokensPerSecond / together.tokensPerSecond),
  ).median
  const verdict = (value: number, least: number) =>
    `${figure(value)} (${value >= least ? 'met' : 'missed'}: at least ${least})`
  const foreign =
    run.foreignShare === undefined ? '' : `, others used ${Math.round(run.foreignShare * 100)} % of the cores`
  return [
    `${run.machine}; ${run.model}; commit ${run.commit ?? 'unknown'}, ${run.date}; ${rounds.length} rounds in turn${foreign}.`,
    `Load: ${mix.streams} streams of ${mix.streamTokens} tokens, among them ${mix.prompts} prompts of ${mix.promptTokens} tokens, one after the other.`,
    '',
    `| median (least to most) | ${arrangements.together} | ${arrangements.apart} | first over second |`,
    '| --- | --- | --- | --- |',
    ...rows,
    '',
    `p99 between tokens while a long prompt arrives, one process over two: ${verdict(gap, GAP_RATIO_MIN)}.`,
    `Throughput, two processes over one: ${verdict(throughput, THROUGHPUT_RATIO_MIN)}.`,
    '',
  ].join('\n')
}

const gapOf = (result: MixResult): number => quantile(result.disturbedMs, 0.99)

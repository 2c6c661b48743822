// `penstock bench`: what a deployment does under some load, from where it is called. Owns the load and what is counted; a comparison
// with other gateways is `npm run bench:gateway`.
import { Penstock, PenstockError } from '../../sdk/src/index.ts'
import { urlOf } from '../access.ts'
import { type Arguments, type Command, text } from '../command.ts'
import type { Context } from '../context.ts'
import { CliFailure, EXIT, wrongUsage } from '../failure.ts'
import { fields } from '../output.ts'
import { keyOf, told } from './chat.ts'

const REQUESTS_MAX = 100_000
const CONCURRENCY_MAX = 256
const PROMPT = 'Count from one to twenty in words.'

export const benchCommand: Command = {
  path: ['bench'],
  summary: 'Stream a number of answers at once and say how fast they came. They are billed like any others.',
  flags: {
    model: { type: 'string', value: 'MODEL', help: 'which model', required: true },
    requests: { type: 'string', value: 'N', help: 'how many in all; default 32' },
    concurrency: { type: 'string', value: 'N', help: 'how many at once; default 4' },
    'max-tokens': { type: 'string', value: 'N', help: 'longest answer; default 64' },
    prompt: { type: 'string', value: 'TEXT', help: 'what to ask' },
  },
  examples: [
    {
      line: 'penstock bench --model smollm2-135m-instruct --requests 64 --concurrency 8',
      what: 'percentiles of first token and whole answer',
    },
  ],
  run: bench,
}

type Sample = { firstTokenMs: number; totalMs: number; tokens: number }

async function bench(context: Context, args: Arguments) {
  const requests = numberOf(args, 'requests', 32, REQUESTS_MAX)
  const concurrency = Math.min(requests, numberOf(args, 'concurrency', 4, CONCURRENCY_MAX))
  const maxTokens = numberOf(args, 'max-tokens', 64, REQUESTS_MAX)
  const model = text(args, 'model') ?? ''
  const content = text(args, 'prompt') ?? PROMPT
  const client = new Penstock({ gateway: { baseUrl: urlOf(args, context.env), apiKey: await keyOf(context, args) } })
  const samples: Sample[] = []
  const failures = new Map<string, number>()
  let refusal: PenstockError | undefined
  let left = requests
  const startedMs = performance.now()
  const work = async (): Promise<void> => {
    while (left > 0 && !context.signal.aborted) {
      left--
      try {
        samples.push(await one(context, client, { model, content, maxTokens }))
      } catch (error) {
        const reason = (error as Error).message
        if (error instanceof PenstockError) refusal ??= error
        failures.set(reason, (failures.get(reason) ?? 0) + 1)
      }
    }
  }
  await Promise.all(Array.from({ length: concurrency }, work))
  const seconds = (performance.now() - startedMs) / 1000
  if (samples.length === 0) {
    if (refusal !== undefined) throw told(refusal)
    const [reason = 'Nothing was asked.'] = failures.keys()
    throw new CliFailure(EXIT.unavailable, `No answer came: ${reason}`)
  }
  const tokens = samples.reduce((sum, sample) => sum + sample.tokens, 0)
  const percentilesOf = (of: (sample: Sample) => number) => {
    const sorted = samples.map(of).sort((a, b) => a - b)
    const at = (share: number) =>
      Math.round(sorted[Math.min(sorted.length - 1, Math.ceil(share * sorted.length) - 1)] ?? 0)
    return { p50: at(0.5), p95: at(0.95), p99: at(0.99) }
  }
  const data = {
    answered: samples.length,
    failed: Object.fromEntries(failures),
    seconds,
    requests_per_second: samples.length / seconds,
    output_tokens_per_second: tokens / seconds,
    first_token_ms: percentilesOf(({ firstTokenMs }) => firstTokenMs),
    total_ms: percentilesOf(({ totalMs }) => totalMs),
  }
  const span = ({ p50, p95, p99 }: { p50: number; p95: number; p99: number }) => `p50 ${p50}, p95 ${p95}, p99 ${p99} ms`
  const lines = fields(
    [
      ['answers', `${data.answered} of ${requests}, ${concurrency} at once, in ${seconds.toFixed(1)} s`],
      ['first token', span(data.first_token_ms)],
      ['whole', span(data.total_ms)],
      [
        'rate',
        `${data.requests_per_second.toFixed(2)} answers/s, ${data.output_tokens_per_second.toFixed(1)} tokens/s`,
      ],
      ...[...failures].map(([reason, count]) => ['failed', `${count}: ${reason}`] as const),
    ],
    context.paint,
  )
  return { data, lines, exitCode: failures.size === 0 ? EXIT.done : EXIT.failed }
}

async function one(
  context: Context,
  client: Penstock,
  asked: { model: string; content: string; maxTokens: number },
): Promise<Sample> {
  const startedMs = performance.now()
  let firstTokenMs: number | undefined
  let tokens = 0
  const stream = await client.chat.completions.create(
    {
      model: asked.model,
      messages: [{ role: 'user', content: asked.content }],
      max_tokens: asked.maxTokens,
      stream: true,
      stream_options: { include_usage: true },
    },
    { signal: context.signal },
  )
  for await (const chunk of stream) {
    if (!('choices' in chunk)) continue
    if ((chunk.choices[0]?.delta.content ?? '') !== '') firstTokenMs ??= performance.now() - startedMs
    tokens = chunk.usage?.completion_tokens ?? tokens
  }
  const totalMs = performance.now() - startedMs
  return { firstTokenMs: firstTokenMs ?? totalMs, totalMs, tokens }
}

function numberOf(args: Arguments, name: string, fallback: number, most: number): number {
  const words = text(args, name)
  const value = words === undefined ? fallback : Number(words)
  if (!Number.isInteger(value) || value < 1 || value > most)
    throw wrongUsage(`--${name} ${words}: must be 1 to ${most}.`)
  return value
}

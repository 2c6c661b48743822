// The load by which roles are compared: streams that run, and long prompts that arrive among them. Owns the requests and what
// is timed, at the client; starting systems is scripts/bench-disaggregation.ts, figures report.ts.
import { setTimeout as sleep } from 'node:timers/promises'

export type Mix = {
  /** Streams that run all the time. */
  streams: number
  streamTokens: number
  /** Prompts that arrive one after the other, each when the one before has its first token and `pauseMs` are over. */
  prompts: number
  promptTokens: number
  promptOutputTokens: number
  pauseMs: number
}

export type MixResult = {
  /** Between two pieces of a running stream, while a long prompt was being computed. */
  disturbedMs: number[]
  /** The same while none was. */
  calmMs: number[]
  /** Of the long prompts. */
  firstTokenMs: number[]
  /** Prompt and output tokens of everything, over the time of everything. */
  tokensPerSecond: number
}

export type Endpoint = { baseUrl: string; apiKey: string; model: string }

/** Random ids below every vocabulary, above the control tokens: a prompt that no cache knows. */
const TOKEN_MIN = 1000
const TOKENS = 20_000
/** End tokens of the models benched: an answer has its full length. */
const NEVER: Record<string, number> = { '0': -100, '1': -100, '2': -100 }
/** Until all streams run. */
const SETTLE_MS = 1500

type Piece = { atMs: number; tokens: number }

/** Runs the load once. @throws Error for an answer that is not whole: its figures would be of something else */
export async function runMix(endpoint: Endpoint, mix: Mix): Promise<MixResult> {
  const startedMs = performance.now()
  const running = Array.from({ length: mix.streams }, () => stream(endpoint, 32, mix.streamTokens))
  await sleep(SETTLE_MS)
  const windows: { fromMs: number; toMs: number }[] = []
  const prompts: ReturnType<typeof stream>[] = []
  for (let index = 0; index < mix.prompts; index++) {
    const fromMs = performance.now()
    const prompt = stream(endpoint, mix.promptTokens, mix.promptOutputTokens)
    prompts.push(prompt)
    await Promise.race([prompt.first, prompt.done])
    windows.push({ fromMs, toMs: performance.now() })
    await sleep(mix.pauseMs)
  }
  const streams = await Promise.all(running.map(({ done }) => done))
  await Promise.all(prompts.map(({ done }) => done))
  const seconds = (performance.now() - startedMs) / 1000
  const tokens = mix.streams * (32 + mix.streamTokens) + mix.prompts * (mix.promptTokens + mix.promptOutputTokens)
  const disturbedMs: number[] = []
  const calmMs: number[] = []
  for (const pieces of streams) {
    for (const [index, { atMs }] of pieces.entries()) {
      const before = pieces[index - 1]
      if (before === undefined) continue
      const gapMs = atMs - before.atMs
      // A gap belongs to a prompt where any of it lies within: its end may be when the prompt is done.
      const isDisturbed = windows.some(({ fromMs, toMs }) => atMs >= fromMs && before.atMs <= toMs)
      ;(isDisturbed ? disturbedMs : calmMs).push(gapMs)
    }
  }
  return {
    disturbedMs,
    calmMs,
    firstTokenMs: windows.map(({ fromMs, toMs }) => toMs - fromMs),
    tokensPerSecond: tokens / seconds,
  }
}

/** One streamed completion. `first` resolves with its first piece, `done` with all. */
function stream(
  endpoint: Endpoint,
  promptTokens: number,
  maxTokens: number,
): { first: Promise<void>; done: Promise<Piece[]> } {
  let onFirst = () => {}
  const first = new Promise<void>((resolve) => {
    onFirst = resolve
  })
  const done = read(endpoint, promptTokens, maxTokens, onFirst)
  // Whoever waits for the first piece alone must not hang where there is none.
  done.catch(() => {})
  return { first, done }
}

async function read(
  endpoint: Endpoint,
  promptTokens: number,
  maxTokens: number,
  onFirst: () => void,
): Promise<Piece[]> {
  const response = await fetch(`${endpoint.baseUrl}/v1/completions`, {
    method: 'POST',
    headers: { authorization: `Bearer ${endpoint.apiKey}`, 'content-type': 'application/json' },
    body: JSON.stringify({
      model: endpoint.model,
      prompt: Array.from({ length: promptTokens }, () => TOKEN_MIN + Math.floor(Math.random() * TOKENS)),
      max_tokens: maxTokens,
      temperature: 0,
      logit_bias: NEVER,
      stream: true,
      stream_options: { include_usage: true },
    }),
  })
  if (!response.ok) throw new Error(`HTTP ${response.status}: ${await response.text()}`)
  const pieces: Piece[] = []
  let outputTokens: number | undefined
  let pending = ''
  const decoder = new TextDecoder()
  for await (const chunk of response.body ?? []) {
    const atMs = performance.now()
    pending += decoder.decode(chunk, { stream: true })
    const lines = pending.split('\n')
    pending = lines.pop() ?? ''
    let tokens = 0
    for (const line of lines) {
      if (!line.startsWith('data: {')) continue
      const event = JSON.parse(line.slice(6)) as {
        error?: object
        choices?: object[]
        usage?: { completion_tokens: number }
      }
      if (event.error !== undefined) throw new Error(line)
      if (event.choices !== undefined && event.choices.length > 0) tokens++
      outputTokens = event.usage?.completion_tokens ?? outputTokens
    }
    if (tokens === 0) continue
    if (pieces.length === 0) onFirst()
    pieces.push({ atMs, tokens })
  }
  if (outputTokens !== maxTokens) throw new Error(`an answer has ${outputTokens} tokens instead of ${maxTokens}`)
  return pieces
}

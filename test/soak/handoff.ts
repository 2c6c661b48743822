// Prefill and decode apart under load, with an engine or an agent killed or stopped in each phase of a hand-over, by a seeded plan. Owns
// the system, the rounds and what has to hold after each: right tokens or a typed loss, one bill, nothing held anywhere.
//
// Two agents with a prefill and a decode engine each serve a model that the launcher's own engine serves under another name: what that
// says, undisturbed and with a cache of its own, is what they have to say.
import { randomUUID } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import OpenAI from 'openai'
import { FurtherAgent } from '../e2e/support/agent.ts'
import { System, TINY_MODEL } from '../e2e/support/system.ts'
import { PHASES, type Phase, type Strike, type Struck, VICTIMS, type Victim } from './strike.ts'

const APART_MODEL = 'tiny-apart'
const WORDS = 'river water stone valley mountain rain sea boat bridge fish tree wind cloud sun moon star'.split(' ')
const PROMPT_WORDS = 1200
const OUTPUT_TOKENS = 96
const REQUESTS = 6
/** Of a whole round; a request's own deadline is the gateway's ten minutes, and nothing may take so long. */
const ROUND_MS = 90_000
/** How long what is stopped stays so: some are back before anybody misses them, some are given up. */
const STOPPED_MS = [50, 500, 3_000]
/** What a caller may be told where nobody could go on. */
const LOSSES = new Set(['backend_lost', 'engine_lost', 'no_target', 'overloaded', 'unavailable'])

export type Round = {
  number: number
  phase: Phase
  victim: Victim
  signal: 'SIGKILL' | 'SIGSTOP'
  after: number
  stoppedMs: number
}
export type Outcome = { round: Round; hasStruck: boolean; right: number; lost: string[]; problems: string[] }

/** Deterministic, and a different one for each seed. */
function numbers(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

/** Every phase with every victim and both signals in each turn of as many rounds, in another order each time. */
export function* plan(seed: number): Generator<Round> {
  const random = numbers(seed)
  const pick = <T>(from: readonly T[]): T => from[Math.floor(random() * from.length)] as T
  const all = PHASES.flatMap((phase) =>
    VICTIMS.flatMap((victim) => (['SIGKILL', 'SIGSTOP'] as const).map((signal) => ({ phase, victim, signal }))),
  )
  for (let number = 0; ; ) {
    const left = [...all]
    while (left.length > 0) {
      const [next] = left.splice(Math.floor(random() * left.length), 1)
      if (next !== undefined)
        yield { number: number++, ...next, after: Math.floor(random() * 3), stoppedMs: pick(STOPPED_MS) }
    }
  }
}

type Asked = { requestId: string; content: string; text?: string; error?: string }
type Engine = {
  sequences_running: number
  sequences_waiting: number
  kv_blocks_used: number
  transfer: { reservations: number } | null
}
type Backend = { id: string; state: string; models: (Engine & { model: string; draining: boolean })[] }

export class HandoffSoak {
  readonly #system: System
  readonly #agents: FurtherAgent[]
  readonly #client: OpenAI
  readonly #key: { id: string; org: string }
  /** Of claims. */
  readonly #folder = mkdtempSync(join(tmpdir(), 'penstock-soak-'))

  private constructor(system: System, agents: FurtherAgent[], key: { id: string; key: string; org: string }) {
    this.#system = system
    this.#agents = agents
    this.#key = key
    this.#client = new OpenAI({ baseURL: `${system.baseUrl}/v1`, apiKey: key.key, maxRetries: 0, timeout: ROUND_MS })
  }

  static async start(): Promise<HandoffSoak> {
    const system = await System.start({ model: TINY_MODEL, args: ['--engines', 'both', '--threads', '1'] })
    const agents: FurtherAgent[] = []
    try {
      const must = async (method: string, path: string, body: unknown) => {
        const { status } = await system.admin(method, path, body)
        if (status >= 300) throw new Error(`${method} ${path}: ${status}`)
      }
      const usd_per_million = { input_uncached: '0.02', input_cache_read: '0.002', output_text: '0.06' }
      await must('POST', '/prices', { provider: 'fleet', model: APART_MODEL, usd_per_million })
      const targets = [{ provider: 'fleet', model: APART_MODEL, context_tokens: 32_768 }]
      await must('PUT', `/models/${APART_MODEL}`, { targets })
      const preload = new URL('./phases.ts', import.meta.url).href
      const args = ['--engines', 'prefill,decode', '--threads', '1', '--kv-mib', '64']
      for (let index = 0; index < 2; index++) {
        agents.push(await FurtherAgent.join(system, args, { modelName: APART_MODEL, preload }))
      }
      return new HandoffSoak(system, agents, await system.newKey())
    } catch (error) {
      await Promise.all(agents.map((agent) => agent.end('SIGKILL')))
      await system.discard()
      throw error
    }
  }

  async stop(): Promise<void> {
    await Promise.all(this.#agents.map((agent) => agent.end('SIGKILL').catch(() => {})))
    await this.#system.discard()
    rmSync(this.#folder, { recursive: true, force: true })
  }

  async round(round: Round): Promise<Outcome> {
    const contents = Array.from({ length: REQUESTS }, (_, index) => story(round.number * REQUESTS + index))
    const problems: string[] = []
    const { phase, victim, signal, after, stoppedMs } = round
    const struck = this.#strike({ phase, victim, signal, after }, stoppedMs)
    const asked = await Promise.all(contents.map((content) => this.#ask(content)))
    const hasStruck = await struck()
    await this.#recovered()
    let right = 0
    const lost: string[] = []
    for (const { requestId, content, text, error } of asked) {
      if (error === undefined) {
        const expected = await this.#said(content)
        if (text === expected) right++
        else problems.push(`${requestId}: another answer: ${JSON.stringify(text)}, not ${JSON.stringify(expected)}`)
      } else if (LOSSES.has(error)) lost.push(error)
      else problems.push(`${requestId}: ${error}`)
      problems.push(...(await this.#billed(requestId, error === undefined)))
    }
    return { round, hasStruck, right, lost, problems }
  }

  /** Over all rounds: nothing is set aside, and the ledger says what the rows say. */
  async books(): Promise<string[]> {
    await this.#system.untilIdle()
    const { org } = this.#key
    await System.until(async () => {
      const { body } = await this.#system.admin<{ held_nanousd: string }>('GET', `/organisations/${org}/limits/state`)
      return body.held_nanousd === '0'
    })
    const { body } = await this.#system.admin<Record<string, unknown>>('GET', `/ledger/check?org=${org}`)
    return body.ok === true && body.balanced === true && body.complete === true
      ? []
      : [`the books: ${JSON.stringify(body)}`]
  }

  /** Arms both agents; who gets there first is struck, the other goes on. @returns disarms them, and says whether one was */
  #strike(given: Omit<Strike, 'claim'>, stoppedMs: number): () => Promise<boolean> {
    const strike: Strike = { ...given, claim: join(this.#folder, randomUUID()) }
    const children = this.#agents.map(({ process: child }) => child)
    let hasStruck = false
    let resumed = Promise.resolve()
    const told = (message: unknown) => {
      const { pid } = message as Struck
      hasStruck = true
      if (strike.signal === 'SIGSTOP') resumed = sleep(stoppedMs).then(() => resume(pid))
    }
    for (const child of children) child.on('message', told).send({ strike })
    return async () => {
      for (const child of children) {
        if (child.connected) child.send({ strike: undefined })
        child.off('message', told)
      }
      await resumed
      return hasStruck
    }
  }

  async #ask(content: string): Promise<Asked> {
    const asked: Asked = { requestId: '', content }
    try {
      const { data, request_id: requestId } = await this.#client.chat.completions
        .create({ ...questionOf(content), model: APART_MODEL, stream: true })
        .withResponse()
      asked.requestId = requestId ?? ''
      let text = ''
      for await (const chunk of data) text += chunk.choices[0]?.delta.content ?? ''
      asked.text = text
    } catch (thrown) {
      const { code, message, requestID } = thrown as InstanceType<typeof OpenAI.APIError>
      asked.requestId ||= requestID ?? ''
      asked.error = code ?? message
    }
    return asked
  }

  /** By the launcher's own engine, which nothing happens to. */
  async #said(content: string): Promise<string | undefined> {
    const { choices } = await this.#system.client.chat.completions.create({ ...questionOf(content), model: TINY_MODEL })
    return choices[0]?.message.content ?? undefined
  }

  /** Agents that were killed live again; every engine is there, holds nothing and waits for nothing. */
  async #recovered(): Promise<void> {
    for (const agent of this.#agents) {
      const { exitCode, signalCode } = agent.process
      if (exitCode !== null || signalCode !== null) await agent.again()
    }
    const isQuiet = ({ draining, ...load }: Backend['models'][number]) =>
      !draining &&
      load.sequences_running + load.sequences_waiting + load.kv_blocks_used + (load.transfer?.reservations ?? 0) === 0
    await within(ROUND_MS, 'an engine still holds something, or is not back', async () => {
      const { body } = await this.#system.admin<{ data: Backend[] }>('GET', '/backends')
      const own = body.data.filter(({ id }) => this.#agents.some(({ backendId }) => backendId === id))
      return (
        own.length === 2 &&
        own.every(({ state, models }) => state === 'live' && models.length === 2 && models.every(isQuiet))
      )
    })
  }

  async #billed(requestId: string, isWhole: boolean): Promise<string[]> {
    const id = requestId.replace(/^req_/, '')
    const rows = await System.until(async () => {
      const found = await this.#system.sql`SELECT status FROM usage_requests WHERE request_id = ${id}`
      return found.length > 0 ? found : undefined
    })
    const charged = await this.#system.sql`
      SELECT sum(output_text)::int AS output FROM usage_attempts
      WHERE request_id = ${id} AND kind = 'attempt' AND charge = 'customer' GROUP BY attempt`
    const outputs = charged.map(({ output }) => output as number)
    if (rows.length !== 1) return [`${requestId}: ${rows.length} rows`]
    if (isWhole && (outputs.length !== 1 || outputs[0] !== OUTPUT_TOKENS || rows[0]?.status !== 'ok'))
      return [`${requestId}: ${rows[0]?.status}, charged ${JSON.stringify(outputs)} of ${OUTPUT_TOKENS}`]
    return outputs.length > 1 || (outputs[0] ?? 0) > OUTPUT_TOKENS
      ? [`${requestId}: lost, charged ${JSON.stringify(outputs)}`]
      : []
  }
}

function resume(pid: number): void {
  try {
    process.kill(pid, 'SIGCONT')
  } catch {
    // Given up meanwhile, and ended.
  }
}

const questionOf = (content: string) => ({
  max_tokens: OUTPUT_TOKENS,
  temperature: 0,
  messages: [{ role: 'user' as const, content }],
})

function story(seed: number): string {
  const random = numbers(seed + 1)
  return Array.from({ length: PROMPT_WORDS }, () => WORDS[Math.floor(random() * WORDS.length)]).join(' ')
}

async function within(ms: number, otherwise: string, check: () => Promise<boolean>): Promise<void> {
  const untilMs = performance.now() + ms
  while (!(await check())) {
    if (performance.now() > untilMs) throw new Error(otherwise)
    await sleep(50)
  }
}

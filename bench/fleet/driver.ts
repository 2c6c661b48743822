// A Worker in front of the Fleet object, without the rest of the gateway: makes backends, signs their reports ahead of time and
// sends them on command, and walks an index of its own. Owns the commands; who sends them and what the figures mean is
// scripts/bench-fleet.ts. Time stands still in a Worker that computes, so all is timed from outside.
//
//   GET /health
//   GET /join?backends=64            as many more backends
//   GET /sign?reports=1000&chunks=0  reports of all backends in turn, each telling so many chunks that nobody told yet
//   GET /send                        what was signed
//   GET /part?name=signature&times=1000   what a part of taking a report costs: its signature, or reading its body
//   GET /view?times=1000&loops=8     matches of prompts that were told, as an isolate asks for them
//   GET /index?backends=64&chunks=1000000   an index of so many chunks in this isolate, in prompts that begin alike
//   GET /match?times=1000            prompts looked up in it
import { DatabasePool } from '../../gateway/db/pool.ts'
import { verifyBody } from '../../gateway/fleet/body-token.ts'
import { Fleet, type SignedBody } from '../../gateway/fleet/fleet.ts'
import { KvIndex } from '../../gateway/fleet/kv-index.ts'
import { KV_CHUNKS_PER_REPORT_MAX, ReportRequest } from '../../protocol/report.ts'
import { Backend } from './backends.ts'

export { DatabasePool, Fleet }

type Env = { FLEET: DurableObjectNamespace<Fleet> }

/** A long conversation behind a system prompt. */
const PROMPT_CHUNKS = 32
/** Of those the ones that many prompts begin with. */
const SHARED_CHUNKS = 8
const SYSTEM_PROMPTS = 16
const KEEP_ALIVE_EVERY = 100

const backends: Backend[] = []
let signed: SignedBody[] = []
const told: number[][] = []
let local: { index: KvIndex; prompts: number[][] } | undefined

const newChunk = (): number => Math.floor(Math.random() * Number.MAX_SAFE_INTEGER)
const newChunks = (count: number): number[] => Array.from({ length: count }, newChunk)
const anyOf = <T>(list: readonly T[]): T => list[Math.floor(Math.random() * list.length)] as T

export default {
  async fetch(request: Request, env: Env): Promise<Response> {
    const { pathname, searchParams: query } = new URL(request.url)
    const number = (name: string) => Number(query.get(name) ?? '0')
    const fleet = env.FLEET.getByName('default')
    switch (pathname) {
      case '/health':
        return new Response('ok')
      case '/join':
        for (let made = 0; made < number('backends'); made++) backends.push(await Backend.joined(fleet))
        return Response.json({ backends: backends.length })
      case '/sign':
        signed = []
        for (let made = 0; made < number('reports'); made++) {
          const chunks = newChunks(number('chunks'))
          if (chunks.length > 0) told.push(chunks.slice(0, PROMPT_CHUNKS))
          const backend = backends[made % backends.length]
          if (backend !== undefined) signed.push(await backend.report(chunks))
          if (made % KEEP_ALIVE_EVERY === 0) await keepAlive(fleet)
        }
        return Response.json({ bytes: signed[0]?.body.length ?? 0 })
      case '/send':
        return Response.json(await send(fleet))
      case '/part':
        for (let time = 0; time < number('times'); time++) {
          await part(query.get('name'), time)
          if (time % KEEP_ALIVE_EVERY === 0) await keepAlive(fleet)
        }
        return new Response('ok')
      case '/view':
        await inLoops(number('loops'), number('times'), async () => {
          const { matches } = await fleet.view({ chunks: anyOf(told), wantsSnapshot: false })
          if (matches.size === 0) throw new Error('what was told is not found')
        })
        return new Response('ok')
      case '/index':
        local = indexOf(number('backends'), number('chunks'))
        return Response.json({ chunks: local.index.chunks })
      case '/match': {
        let found = 0
        for (let time = 0; time < number('times'); time++)
          found += local?.index.match(anyOf(local.prompts), number('limit') || undefined).size ?? 0
        return Response.json({ found })
      }
      case '/drop':
        for (let time = 0; time < number('times'); time++) {
          local?.index.drop(`backend-${time}`)
          local?.index.apply(`backend-${time}`, { reset: true, stored: newChunks(100), removed: [] })
        }
        return Response.json({ chunks: local?.index.chunks })
      default:
        return new Response('no such command', { status: 404 })
    }
  },
}

async function inLoops(loops: number, times: number, once: (time: number) => Promise<void>): Promise<void> {
  let next = 0
  const loop = async () => {
    while (next < times) await once(next++)
  }
  await Promise.all(Array.from({ length: loops }, loop))
}

/** All backends at once, each with one report on its way at a time, as its agent does it. */
async function send(fleet: DurableObjectStub<Fleet>): Promise<{ done: number; reason?: string }> {
  const counts: { done: number; reason?: string } = { done: 0 }
  const one = async (first: number) => {
    for (let at = first; at < signed.length; at += backends.length) {
      const answer = await fleet.report(signed[at] as SignedBody)
      if (answer.ok && answer.value.next === 'continue') counts.done++
      else counts.reason ??= JSON.stringify(answer)
    }
  }
  await Promise.all(backends.map((_, first) => one(first)))
  return counts
}

/** The runtime lets go of an object that nobody has called for ten seconds, and of what it knew. */
async function keepAlive(fleet: DurableObjectStub<Fleet>): Promise<void> {
  await fleet.view({ chunks: [], wantsSnapshot: false })
}

async function part(name: string | null, time: number): Promise<void> {
  const { body, token } = signed[time % signed.length] as SignedBody
  const backend = backends[time % backends.length] as Backend
  if (name === 'signature') {
    const verified = await verifyBody({ ...backend.party, token, body, nowMs: Date.now() })
    if (!verified.ok) throw new Error(`the signature is not valid: ${verified.error}`)
  } else ReportRequest.parse(JSON.parse(new TextDecoder().decode(body)))
}

/** Backends with an equal part of all chunks; the system prompts are held by all of them. */
function indexOf(count: number, chunks: number): { index: KvIndex; prompts: number[][] } {
  const index = new KvIndex()
  const prompts: number[][] = []
  const systems = Array.from({ length: SYSTEM_PROMPTS }, () => newChunks(SHARED_CHUNKS))
  for (let at = 0; at < count; at++) {
    const name = `backend-${at}`
    index.apply(name, { reset: true, stored: systems.flat(), removed: [] })
    let stored: number[] = []
    for (let made = 0; made < chunks / count; made += PROMPT_CHUNKS - SHARED_CHUNKS) {
      const own = newChunks(PROMPT_CHUNKS - SHARED_CHUNKS)
      if (prompts.length < 10_000 || made === 0) prompts.push([...anyOf(systems), ...own])
      stored.push(...own)
      if (stored.length + PROMPT_CHUNKS < KV_CHUNKS_PER_REPORT_MAX) continue
      index.apply(name, { reset: false, stored, removed: [] })
      stored = []
    }
    index.apply(name, { reset: false, stored, removed: [] })
  }
  return { index, prompts }
}

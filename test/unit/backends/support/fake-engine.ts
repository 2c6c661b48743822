// A stand-in for the engine process, faithful to protocol/engine-frames.md: same arguments, same socket, same frames.
// It computes nothing: a sequence answers with its own prompt, over and over, and its embedding is made of the prompt's
// ids. Full blocks of prompts stay in a prefix cache that never fills.
// FAKE_ENGINE in the environment holds a JSON object of FakeEngineSettings.
import { createServer, type Socket } from 'node:net'
import { parseArgs } from 'node:util'
import {
  type BlockEvent,
  ENGINE_PROTOCOL,
  type EngineFrame,
  encodeFrame,
  type FinishReason,
  type Frame,
  FrameDecoder,
  type SampledToken,
  type Submit,
} from '../../../../protocol/engine-frames.ts'
import { FakeHandoff, type FakeHandoffSettings } from './fake-handoff.ts'

export type FakeEngineSettings = {
  handoff?: FakeHandoffSettings
  tokenIntervalMs?: number
  sequencesMax?: number
  contextTokens?: number
  vocabSize?: number
  /** Text for stderr, then exit code 2. */
  refuseModel?: string
  /** Exit code 1 after this many tokens in all. */
  crashAfterTokens?: number
  /** PINGs are not answered. */
  deaf?: boolean
  /** Of embeddings; 0: none are made. */
  embeddingDims?: number
  /** BLOCKS frames leave out one number. */
  skipBlocks?: boolean
  /** Nothing is computed though sequences run. */
  stuck?: boolean
  /** Other tokens than before, after so many in all. */
  wrongAfterTokens?: number
  /** Other tokens where they follow each other than where they follow from a prompt. */
  wrongByTheWay?: boolean
  /** What tokens' probabilities are said to be; default -0.5. */
  logprob?: number
  /** No more tokens, after so many in all. */
  stuckAfterTokens?: number
}

const settings: FakeEngineSettings = JSON.parse(process.env.FAKE_ENGINE ?? '{}')
const logprob = settings.logprob ?? -0.5
const { values } = parseArgs({
  options: {
    model: { type: 'string' },
    socket: { type: 'string' },
    threads: { type: 'string' },
    'kv-mib': { type: 'string' },
    'kv-type': { type: 'string' },
    quantize: { type: 'string' },
    'prefill-tokens': { type: 'string' },
    context: { type: 'string' },
    sequences: { type: 'string' },
    'kv-listen': { type: 'string' },
    'die-with-parent': { type: 'boolean' },
  },
})
if (settings.refuseModel !== undefined) {
  process.stderr.write(`${settings.refuseModel}\n`)
  process.exit(2)
}
if (values.socket === undefined || values.model === undefined) process.exit(2)

const sequencesMax = settings.sequencesMax ?? Number(values.sequences ?? 8)
const contextTokens = settings.contextTokens ?? Number(values.context ?? 512)
const embeddingDims = settings.embeddingDims ?? 64
const BLOCK_TOKENS = 16
const BLOCKS_TOTAL = 1024
const FINGERPRINT = 'fake;layers=2;kv_heads=2;head_dim=32;type=f16'

type Running = Submit & { sampled: number; credit: number; deadlineAtMs: number; cachedTokens?: number }
const sequences = new Map<bigint, Running>()
let owner: Socket | undefined
let step = 0n
let tokensInAll = 0

const send = (frame: EngineFrame) => owner?.write(encodeFrame(frame))

function finish(sequence: Running, reason: FinishReason) {
  sequences.delete(sequence.id)
  if (sequence.reservation !== undefined) handoff.release(sequence.reservation)
  const promptTokens = sequence.prompt.length
  send({
    type: 'finished',
    id: sequence.id,
    reason,
    promptTokens,
    cachedTokens: sequence.cachedTokens ?? 0,
    outputTokens: sequence.sampled,
  })
}

const cachedBlocks = new Set<bigint>()
let blocksSequence = 0n
const totals = { preemptions: 0n, promptTokens: 0n, cachedTokens: 0n }

/** Chained over the full blocks, so that equal hashes mean equal beginnings. */
function blockHashes(known: readonly number[], salt: bigint): bigint[] {
  const hashes: bigint[] = []
  let hash = salt
  for (let at = 0; at + BLOCK_TOKENS <= known.length; at += BLOCK_TOKENS) {
    for (const token of known.slice(at, at + BLOCK_TOKENS))
      hash = BigInt.asUintN(64, (hash ^ BigInt(token + 1)) * 0x100000001b3n)
    hashes.push(hash)
  }
  return hashes
}

/** One token is always computed. */
function admit(sequence: Running) {
  if (sequence.cachedTokens !== undefined) return
  const hashes = blockHashes([...sequence.prompt, ...(sequence.output ?? [])], sequence.salt)
  const missing = hashes.findIndex((hash) => !cachedBlocks.has(hash))
  const found = BLOCK_TOKENS * (missing < 0 ? hashes.length : missing)
  const reusable = found < sequence.prompt.length + sequence.sampled ? found : Math.max(0, found - BLOCK_TOKENS)
  sequence.cachedTokens = Math.min(reusable, sequence.prompt.length)
  totals.promptTokens += BigInt(sequence.prompt.length)
  totals.cachedTokens += BigInt(sequence.cachedTokens)
  send({ type: 'admitted', id: sequence.id, cachedTokens: sequence.cachedTokens, hashes })
  if (sequence.reservation !== undefined) handoff.release(sequence.reservation)
  store(hashes)
}

function store(hashes: readonly bigint[]) {
  const events = hashes.flatMap((hash, index) =>
    cachedBlocks.has(hash) ? [] : [{ kind: 'stored' as const, hash, parent: hashes[index - 1] ?? 0n }],
  )
  for (const { hash } of events) cachedBlocks.add(hash)
  if (events.length > 0) sendBlocks(events)
}

const cache = {
  blockTokens: BLOCK_TOKENS,
  blocksTotal: BLOCKS_TOTAL,
  has: (hash: bigint) => cachedBlocks.has(hash),
  store,
  hashes: blockHashes,
}
const handoff = new FakeHandoff(settings.handoff ?? {}, cache, values['kv-listen'], send)

function sendBlocks(events: BlockEvent[]) {
  blocksSequence += settings.skipBlocks ? 2n : 1n
  send({ type: 'blocks', sequence: blocksSequence, events })
}

/** The states depend on the pooling, so that a test sees which one was asked for. */
function embed(sequence: Running) {
  const { prompt, pooling } = sequence
  const seen = pooling === 'last' ? prompt.slice(-1) : prompt
  const values = Array.from({ length: embeddingDims }, (_, at) =>
    seen.reduce((sum, id) => sum + Math.cos(id * (at + 1)), 0),
  )
  send({ type: 'embedding', id: sequence.id, values })
  finish(sequence, 'stop')
}

function stats() {
  let blocksUsed = handoff.blocksUsed
  for (const s of sequences.values()) blocksUsed += Math.ceil((s.prompt.length + s.sampled) / BLOCK_TOKENS)
  const zero = {
    blocksCached: cachedBlocks.size,
    waiting: 0,
    prefillTokensQueued: 0n,
    decodeKvTokens: 0n,
    stepUs: 1000,
  }
  const rates = {
    prefillTokensPerSecond: 0,
    decodeTokensPerSecond: 0,
    memoryBytesPerSecond: 0,
    macsPerSecond: 0,
    busyShare: 0,
  }
  const counts = { stepPrefillTokens: 0, stepDecodeTokens: sequences.size }
  send({
    type: 'stats',
    step,
    blocksTotal: BLOCKS_TOTAL,
    blocksUsed,
    running: sequences.size + handoff.pushing,
    ...zero,
    ...counts,
    ...rates,
    ...totals,
  })
}

function sample(sequence: Running): number {
  const isWrong = tokensInAll >= (settings.wrongAfterTokens ?? Number.POSITIVE_INFINITY)
  const isOnItsWay = settings.wrongByTheWay === true && sequence.output === undefined && sequence.sampled > 0
  return (sequence.prompt[sequence.sampled % sequence.prompt.length] ?? 0) + (isWrong || isOnItsWay ? 1 : 0)
}

function tick() {
  if (settings.stuck || tokensInAll >= (settings.stuckAfterTokens ?? Number.POSITIVE_INFINITY)) return
  const tokens: SampledToken[] = []
  const before = sequences.size
  for (const sequence of [...sequences.values()]) {
    if (Date.now() > sequence.deadlineAtMs) {
      finish(sequence, 'deadline')
      continue
    }
    if (sequence.credit === 0) continue
    admit(sequence)
    if (sequence.pooling !== undefined) {
      embed(sequence)
      continue
    }
    const token = sample(sequence)
    sequence.sampled++
    tokensInAll++
    if (sequence.stopIds.includes(token)) {
      finish(sequence, 'stop')
      continue
    }
    sequence.credit--
    const top = Array.from({ length: sequence.logprobsTop ?? 0 }, (_, i) => ({
      token: token + i,
      logprob: logprob - i,
    }))
    tokens.push({ id: sequence.id, token, logprob: sequence.logprobsTop === undefined ? 0 : logprob, top })
    const full = sequence.prompt.length + sequence.sampled >= contextTokens
    if (sequence.sampled >= sequence.maxNewTokens || full) {
      send({ type: 'tokens', tokens: tokens.splice(0) })
      finish(sequence, 'length')
    }
  }
  if (tokens.length > 0) send({ type: 'tokens', tokens })
  if (before > 0) step++
  if (before > 0) stats()
  if (settings.crashAfterTokens !== undefined && tokensInAll >= settings.crashAfterTokens) process.exit(1)
}

function submit(frame: Submit) {
  const reject = (code: 'invalid' | 'too_long' | 'queue_full', message: string) =>
    send({ type: 'rejected', id: frame.id, code, message })
  if (frame.prompt.length === 0 || frame.maxNewTokens === 0) return reject('invalid', 'empty prompt or no tokens')
  const sampled = frame.output?.length ?? 0
  if (sampled > 0 && (sampled >= frame.maxNewTokens || frame.pooling !== undefined))
    return reject('invalid', 'too much output')
  if (frame.prompt.length + sampled >= contextTokens) return reject('too_long', `window ${contextTokens}`)
  if (sequences.size >= sequencesMax) return reject('queue_full', 'full')
  const deadlineAtMs = frame.deadlineMs === 0 ? Number.POSITIVE_INFINITY : Date.now() + frame.deadlineMs
  const running = { ...frame, sampled, credit: frame.creditTokens, deadlineAtMs }
  sequences.set(frame.id, running)
  if (frame.reservation === undefined || frame.creditTokens === 0) return
  // Said before the sequence is admitted; its probability tells it from one that was drawn here.
  if (handoff.takeFirst(frame.reservation, frame.seed)) sayFirst(running)
}

function sayFirst(sequence: Running) {
  const token = sample(sequence)
  sequence.sampled++
  tokensInAll++
  const isStop = sequence.stopIds.includes(token)
  const isLast = isStop || sequence.sampled >= sequence.maxNewTokens
  // It runs no other time.
  if (isLast) admit(sequence)
  if (isStop) return finish(sequence, 'stop')
  sequence.credit--
  send({ type: 'tokens', tokens: [{ id: sequence.id, token, logprob: -0.25, top: [] }] })
  if (isLast) finish(sequence, 'length')
}

function receive(frame: Frame) {
  switch (frame.type) {
    case 'hello': {
      const sizes = {
        vocabSize: settings.vocabSize ?? 512,
        contextTokens,
        blockTokens: BLOCK_TOKENS,
        blocksTotal: BLOCKS_TOTAL,
      }
      const rest = {
        sequencesMax,
        stepTokensMax: 512,
        threads: 1,
        kvFingerprint: FINGERPRINT,
        memoryBytesPerSecondMax: 0n,
        macsPerSecondMax: 0n,
      }
      const epoch = BigInt(process.pid)
      const can = { embeddingDims, features: { grammars: false } }
      send({
        type: 'ready',
        protocol: ENGINE_PROTOCOL,
        epoch,
        arch: 'fake',
        modelName: 'fake',
        ...sizes,
        ...rest,
        ...can,
        ...(handoff.address === undefined ? {} : { kvAddress: handoff.address }),
      })
      blocksSequence = 0n
      return sendBlocks([{ kind: 'cleared', hash: 0n, parent: 0n }])
    }
    case 'submit':
      return submit(frame)
    case 'cancel': {
      const sequence = sequences.get(frame.id)
      if (sequence !== undefined) finish(sequence, 'cancelled')
      else handoff.cancel(frame.id)
      return
    }
    case 'credit': {
      const sequence = sequences.get(frame.id)
      if (sequence !== undefined) sequence.credit += frame.tokens
      return
    }
    case 'reserve':
      return handoff.reserve(frame)
    case 'renew':
      return handoff.renew(frame.id, frame.leaseMs)
    case 'release':
      return handoff.release(frame.id)
    case 'push':
      return handoff.push(frame, (cachedTokens, hashes) =>
        send({ type: 'admitted', id: frame.id, cachedTokens, hashes }),
      )
    case 'ping':
      if (!settings.deaf) send({ type: 'pong', nonce: frame.nonce })
      return
    case 'shutdown':
      for (const sequence of [...sequences.values()]) finish(sequence, 'cancelled')
      owner?.end(() => process.exit(0))
      return
  }
}

createServer((socket) => {
  if (owner !== undefined) {
    socket.end(encodeFrame({ type: 'fatal', message: 'the engine is owned by another connection' }))
    return
  }
  owner = socket
  const decoder = new FrameDecoder()
  socket.on('data', (chunk) => {
    try {
      for (const frame of decoder.push(chunk)) receive(frame)
    } catch (thrown) {
      socket.end(encodeFrame({ type: 'fatal', message: String(thrown) }))
    }
  })
  socket.on('error', () => {})
  socket.on('close', () => {
    sequences.clear()
    owner = undefined
    handoff.clear()
  })
}).listen(values.socket)

setInterval(tick, settings.tokenIntervalMs ?? 2)
setInterval(stats, 200)
// The real engine asks the kernel to end it with its parent; a script can only look.
const parent = process.ppid
setInterval(() => {
  if (process.ppid !== parent) process.exit(0)
}, 50)

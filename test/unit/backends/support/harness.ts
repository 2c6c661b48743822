// Runs a whole agent against the fake engine and a fake gateway, in a folder of its own.
import { createHash, generateKeyPairSync, randomUUID } from 'node:crypto'
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { type CryptoKey, decodeJwt, importJWK, type JWK, jwtVerify, SignJWT } from 'jose'
import { Agent, type AgentOverrides } from '../../../../backends/agent.ts'
import type { Config } from '../../../../backends/config.ts'
import type { EngineTiming } from '../../../../backends/engine/spawn.ts'
import { DispatchEvent, type DispatchRequest } from '../../../../protocol/dispatch.ts'
import { type DesiredState, JoinRequest, ReportRequest } from '../../../../protocol/report.ts'
import type { FakeEngineSettings } from './fake-engine.ts'
import { writeTestModel } from './test-model.ts'

const MODEL = 'test-model'
const fakeEnginePath = fileURLToPath(new URL('./fake-engine.ts', import.meta.url))

/** An executable that runs the fake engine with the Node of this process. */
export function writeFakeEngine(folder: string): string {
  const path = join(folder, 'engine')
  writeFileSync(path, `#!/bin/sh\nexec '${process.execPath}' --no-warnings '${fakeEnginePath}' "$@"\n`)
  chmodSync(path, 0o755)
  return path
}

export type FakeGateway = {
  url: string
  joins: JoinRequest[]
  reports: ReportRequest[]
  leaves: unknown[]
  /** Status for the next joins and reports; 200 by default. */
  status: { join: number; report: number; next: 'continue' | 'resync'; desired?: DesiredState }
  privateKey: CryptoKey
  close: () => Promise<void>
}

const digest = (body: string | Uint8Array) => createHash('sha256').update(body).digest('base64url')

export async function startFakeGateway(): Promise<FakeGateway> {
  const pair = generateKeyPairSync('ed25519')
  const privateKey = (await importJWK({ ...pair.privateKey.export({ format: 'jwk' }) }, 'EdDSA')) as CryptoKey
  const publicJwk = { ...pair.publicKey.export({ format: 'jwk' }), kid: 'k1', alg: 'EdDSA', use: 'sig' }
  const joins: JoinRequest[] = []
  const reports: ReportRequest[] = []
  const leaves: unknown[] = []
  const status: FakeGateway['status'] = { join: 200, report: 200, next: 'continue' }
  const server: Server = createServer(async (request, response) => {
    const chunks: Buffer[] = []
    for await (const chunk of request) chunks.push(chunk as Buffer)
    const body = Buffer.concat(chunks)
    const reply = (code: number, value: unknown) => response.writeHead(code).end(JSON.stringify(value))
    if (request.url === '/.well-known/jwks.json') return reply(200, { keys: [publicJwk] })
    const parsed: unknown = JSON.parse(body.toString())
    const { backendId } = parsed as JoinRequest
    const key = joins.find((join) => join.backendId === backendId)?.publicKey ?? (parsed as JoinRequest).publicKey
    const token = request.headers.authorization?.replace('Bearer ', '') ?? ''
    if (decodeJwt(token).body_sha256 !== digest(body)) return reply(401, {})
    await jwtVerify(token, await importJWK({ ...key } as JWK, 'EdDSA'), { audience: 'penstock-gateway' })
    if (request.url === '/fleet/join') {
      joins.push(JoinRequest.parse(parsed))
      const reply200 = { backendId, reportIntervalMs: 1000, staleAfterMs: 5000 }
      return reply(status.join, status.join === 200 ? reply200 : {})
    }
    if (request.url === '/fleet/report') {
      reports.push(ReportRequest.parse(parsed))
      return reply(status.report, { next: status.next, desired: status.desired })
    }
    leaves.push(parsed)
    return reply(200, {})
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    joins,
    reports,
    leaves,
    status,
    privateKey,
    close: () => {
      server.closeAllConnections()
      return new Promise((resolve) => server.close(() => resolve()))
    },
  }
}

export type ClaimChanges = {
  aud?: string
  iss?: string
  jti?: string
  body_sha256?: string
  issuedAtS?: number
  expiresAtS?: number
}

export type Harness = {
  agent: Agent
  url: string
  gateway: FakeGateway
  stateDir: string
  logs: string[]
  failures: string[]
  token: (body: string, changes?: ClaimChanges) => Promise<string>
  post: (body: string, authorization?: string, signal?: AbortSignal) => Promise<Response>
  dispatch: (changes?: Partial<DispatchRequest>, signal?: AbortSignal) => Promise<Response>
  stop: () => Promise<void>
}

export type HarnessOptions = {
  engine?: FakeEngineSettings
  timing?: Partial<EngineTiming>
  config?: Partial<Config>
  handoff?: AgentOverrides['handoff']
  canary?: AgentOverrides['canary']
  /** Breaks ties between engines; default: the first one gets it. */
  random?: () => number
  /** Of several agents; whoever made it closes it. */
  gateway?: FakeGateway
}

export function dispatchRequest(changes: Partial<DispatchRequest> = {}): DispatchRequest {
  return {
    version: 1,
    requestId: 'req-1',
    attempt: 1,
    deadlineInMs: 20_000,
    priority: 0,
    tenant: 'tenant-a',
    model: MODEL,
    input: { kind: 'completion', prompts: [{ text: 'hello world' }], echo: false },
    sampling: {
      temperature: 0,
      topP: 1,
      topK: 0,
      minP: 0,
      presencePenalty: 0,
      frequencyPenalty: 0,
      repetitionPenalty: 1,
      logitBias: [],
    },
    n: 1,
    maxOutputTokens: 6,
    stop: [],
    ...changes,
  }
}

/** Starts everything and waits until the engine is ready (or has failed for good). */
export async function startHarness(options: HarnessOptions = {}): Promise<Harness> {
  const folder = mkdtempSync(join(tmpdir(), 'agent-test-'))
  const modelPath = join(folder, 'model.gguf')
  writeTestModel(modelPath)
  const gateway = options.gateway ?? (await startFakeGateway())
  const logs: string[] = []
  const failures: string[] = []
  const config: Config = {
    enginePath: writeFakeEngine(folder),
    modelPath,
    modelName: MODEL,
    gatewayUrl: gateway.url,
    stateDir: join(folder, 'state'),
    listenHost: '127.0.0.1',
    listenPort: 0,
    queueRequestsMax: 32,
    drainGraceMs: 2000,
    engines: ['both'],
    joinToken: 'join-me-once',
    ...options.config,
  }
  const env = { ...process.env, FAKE_ENGINE: JSON.stringify(options.engine ?? {}) }
  const log = (level: string, event: string, fields: object = {}) =>
    void logs.push(JSON.stringify({ level, event, ...fields }))
  const agent = await Agent.create(config, log, {
    engine: { env, timing: options.timing ?? {} },
    ...(options.handoff === undefined ? {} : { handoff: options.handoff }),
    ...(options.canary === undefined ? {} : { canary: options.canary }),
    random: options.random ?? (() => 0),
  })
  let url = ''
  await new Promise<void>((resolve, reject) => {
    agent
      .start({
        listening: (at) => {
          url = at
        },
        ready: () => resolve(),
        failed: (message) => {
          failures.push(message)
          resolve()
        },
      })
      .catch(reject)
  })
  const token = async (body: string, changes: ClaimChanges = {}) => {
    const nowS = Math.floor(Date.now() / 1000)
    return await new SignJWT({ body_sha256: changes.body_sha256 ?? digest(body) })
      .setProtectedHeader({ alg: 'EdDSA', kid: 'k1' })
      .setIssuer(changes.iss ?? 'penstock-gateway')
      .setAudience(changes.aud ?? `backend:${agent.backendId}`)
      .setIssuedAt(changes.issuedAtS ?? nowS)
      .setExpirationTime(changes.expiresAtS ?? nowS + 30)
      .setJti(changes.jti ?? randomUUID())
      .sign(gateway.privateKey)
  }
  const post: Harness['post'] = async (body, authorization, signal) =>
    await fetch(`${url}/dispatch`, {
      method: 'POST',
      headers: { authorization: authorization ?? `Bearer ${await token(body)}` },
      body,
      ...(signal === undefined ? {} : { signal }),
    })
  return {
    agent,
    url,
    gateway,
    stateDir: config.stateDir,
    logs,
    failures,
    token,
    post,
    dispatch: (changes, signal) => post(JSON.stringify(dispatchRequest(changes)), undefined, signal),
    stop: async () => {
      await agent.drain(0)
      if (options.gateway === undefined) await gateway.close()
      rmSync(folder, { recursive: true, force: true })
    },
  }
}

/** All events of a finished response, each checked against the schema. */
export async function eventsOf(response: Response): Promise<DispatchEvent[]> {
  const text = await response.text()
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => DispatchEvent.parse(JSON.parse(line)))
}

export async function* eventStream(response: Response): AsyncGenerator<DispatchEvent> {
  let rest = ''
  const decoder = new TextDecoder()
  for await (const chunk of response.body ?? []) {
    rest += decoder.decode(chunk as Uint8Array, { stream: true })
    const lines = rest.split('\n')
    rest = lines.pop() ?? ''
    for (const line of lines) yield DispatchEvent.parse(JSON.parse(line))
  }
}

/** Waits until an answer has begun, and leaves it open. @returns closes it. */
export async function begun(response: Response): Promise<() => Promise<void>> {
  const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader()
  if (reader === undefined) throw new Error('the response has no body')
  let text = ''
  while (!text.includes('"delta"')) {
    const { done, value = '' } = await reader.read()
    if (done) throw new Error(`the answer ended before it began: ${text}`)
    text += value
  }
  return async () => await reader.cancel()
}

export const textOf = (events: readonly DispatchEvent[], choice = 0): string =>
  events.map((event) => (event.type === 'delta' && event.choice === choice ? event.text : '')).join('')

/** Polls until the condition holds; the test's own timeout is the bound. */
export async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await condition())) await new Promise((resolve) => setTimeout(resolve, 5))
}

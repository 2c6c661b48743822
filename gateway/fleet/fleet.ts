// The Fleet Durable Object: who belongs to the fleet and what they last said. Owns enrolment (durable) and presence
// (memory: agents report each second and resend everything when asked). The rules of epochs are membership.ts, who holds
// which prompts' beginnings is kv-index.ts, what is wanted of a backend desired.ts, the HTTP side routes.ts and admin.ts.
import { DurableObject } from 'cloudflare:workers'
import { calculateJwkThumbprint, importJWK } from 'jose'
import type * as z from 'zod'
import type { CapacityFrame } from '../../protocol/capacity.ts'
import type { Failure } from '../../protocol/errors.ts'
import { CHUNKS_MAX } from '../../protocol/prefix.ts'
import {
  type DesiredState,
  type JoinReply,
  JoinRequest,
  LeaveRequest,
  PublicKeyJwk,
  type ReportReply,
  ReportRequest,
} from '../../protocol/report.ts'
import { err, ok, type Result } from '../../protocol/result.ts'
import { backendParty, base64url, bodyDigest, GATEWAY_ISSUER } from '../../protocol/signing.ts'
import type { Env } from '../env.ts'
import { log } from '../observe/log.ts'
import { parseJson } from '../routes/body.ts'
import { type FleetAnswer, type FleetQuestion, type FleetSnapshot, MATCHES_MAX } from '../routing/snapshot.ts'
import { verifyBody } from './body-token.ts'
import { type DesiredChange, DesiredStates } from './desired.ts'
import { KV_BOUNDS, KvIndex } from './kv-index.ts'
import {
  applyReport,
  type EpochHistory,
  FORGET_AFTER_MS,
  joinEpoch,
  type Presence,
  REPORT_INTERVAL_MS,
  ReplayMemory,
  STALE_AFTER_MS,
} from './membership.ts'
import { backendUrl } from './url.ts'

/** 256 bits: nobody guesses one, so a plain SHA-256 keeps it. */
const TOKEN_BYTES = 32
/** Backends one region holds. A snapshot of so many still fits one RPC answer (32 MiB). */
const BACKENDS_MAX = 5000
/** Unused enrolment tokens, so that a runaway script cannot fill the store. */
const TOKENS_MAX = 10_000
/** Tokens of some 45 s from every backend at one report a second. */
const REPLAY_IDS_MAX = 400_000
/** Between two looks for backends that have been silent for too long. */
const FORGET_INTERVAL_MS = 5000

/** A signed body as it came, not yet believed. */
export type SignedBody = { body: Uint8Array; token: string | undefined }

export type BackendSummary = {
  backendId: string
  url: string
  label: string
  enrolledAtMs: number
  /** `absent`: enrolled, and has not joined since it left or since this object began. */
  state: 'live' | 'stale' | 'draining' | 'absent'
  reportAgeMs: number | undefined
  /** Its last word about each model. */
  models: CapacityFrame[]
  /** Chunks of prompts that it is known to hold, and how many more it told that found no room. */
  kv: { chunks: number; leftOut: number }
  /** Undefined: nobody has asked for anything. */
  desired: DesiredState | undefined
}

type Enrolled = { backendId: string; url: string; publicKey: PublicKeyJwk; epochs: EpochHistory }
type Verifier = { x: string; key: CryptoKey; thumbprint: string }

const unauthorised: Failure = { code: 'invalid_api_key', message: 'The signature of this request is not valid.' }

export class Fleet extends DurableObject<Env> {
  readonly #sql: SqlStorage
  readonly #present = new Map<string, Presence>()
  readonly #verifiers = new Map<string, Verifier>()
  readonly #kv = new KvIndex(KV_BOUNDS, crypto.getRandomValues(new Int32Array(1))[0])
  readonly #desired: DesiredStates
  #forgotAtMs = 0
  readonly #begunAtMs = Date.now()
  /** Whoever has said goodbye to this life of the object: not awaited any more. */
  readonly #left = new Set<string>()
  readonly #replays = new ReplayMemory(REPLAY_IDS_MAX)
  /** Enrolled backends by id: read for each report, so kept in memory beside the table. */
  readonly #enrolled = new Map<string, Enrolled>()

  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env)
    this.#sql = ctx.storage.sql
    // One row: one enrolment token, by its SHA-256. Deleted when used, so a second use finds nothing.
    this.#sql.exec(
      `CREATE TABLE IF NOT EXISTS tokens (
         hash TEXT PRIMARY KEY, label TEXT NOT NULL, created_at_ms INTEGER NOT NULL, expires_at_ms INTEGER NOT NULL)`,
    )
    // One row: one enrolled backend. `epochs` is an EpochHistory.
    this.#sql.exec(
      `CREATE TABLE IF NOT EXISTS backends (
         backend_id TEXT PRIMARY KEY, url TEXT NOT NULL, label TEXT NOT NULL, public_key TEXT NOT NULL,
         epochs TEXT NOT NULL, enrolled_at_ms INTEGER NOT NULL)`,
    )
    this.#desired = new DesiredStates(this.#sql)
    for (const row of this.#sql.exec('SELECT backend_id, url, public_key, epochs FROM backends')) {
      const publicKey = PublicKeyJwk.parse(JSON.parse(String(row.public_key)))
      const epochs = JSON.parse(String(row.epochs)) as EpochHistory
      const backendId = String(row.backend_id)
      this.#enrolled.set(backendId, { backendId, url: String(row.url), publicKey, epochs })
    }
  }

  /** Makes a one-time enrolment token. It is shown here and never again; only its hash is kept. */
  async createToken(options: {
    label: string
    ttlMs: number
  }): Promise<Result<{ token: string; expiresAtMs: number }, Failure>> {
    const nowMs = Date.now()
    this.#sql.exec('DELETE FROM tokens WHERE expires_at_ms <= ?', nowMs)
    const held = Number(this.#sql.exec('SELECT count(*) AS held FROM tokens').one().held)
    if (held >= TOKENS_MAX) {
      return err({
        code: 'rate_limited',
        message: `${TOKENS_MAX} enrolment tokens are open; use some or let them expire.`,
      })
    }
    const token = `pst_enrol_${base64url(crypto.getRandomValues(new Uint8Array(TOKEN_BYTES)))}`
    const expiresAtMs = nowMs + options.ttlMs
    this.#sql.exec(
      'INSERT INTO tokens (hash, label, created_at_ms, expires_at_ms) VALUES (?, ?, ?, ?)',
      await tokenHash(token),
      options.label,
      nowMs,
      expiresAtMs,
    )
    return ok({ token, expiresAtMs })
  }

  /** First join: the one-time token enrols the presented key. Later joins: the key is the proof. */
  async join(signed: SignedBody): Promise<Result<JoinReply, Failure>> {
    const parsed = parseBody(JoinRequest, signed.body)
    if (!parsed.ok) return parsed
    const join = parsed.value
    const url = backendUrl(join.url)
    if (url === undefined) {
      return err({
        code: 'invalid_request',
        message: 'url must be http or https, without credentials, query or fragment.',
        param: 'url',
      })
    }
    const hash = join.token === undefined ? undefined : await tokenHash(join.token)
    const verifier = await this.#verify(signed, join.backendId, join.publicKey)
    if (verifier === undefined) return err(unauthorised)

    // Nothing below awaits, so what is read here stays true until it is written.
    const nowMs = Date.now()
    const known = this.#enrolled.get(join.backendId)
    if (known !== undefined && known.publicKey.x !== join.publicKey.x) {
      return err({
        code: 'permission_denied',
        message: 'This backend is enrolled with another key. Remove it first to enrol it anew.',
      })
    }
    const enrolled = known ?? { backendId: join.backendId, url, publicKey: join.publicKey, epochs: { retired: [] } }
    const epochs = joinEpoch(enrolled.epochs, join.epoch)
    if (epochs === undefined) {
      return err({
        code: 'permission_denied',
        message: 'A newer process has joined as this backend; this one is superseded.',
      })
    }
    const refused = this.ctx.storage.transactionSync((): Failure | undefined => {
      let label = ''
      if (known === undefined) {
        if (this.#enrolled.size >= BACKENDS_MAX) {
          return { code: 'overloaded', message: `The fleet is full: ${BACKENDS_MAX} backends are enrolled.` }
        }
        const used = this.#useToken(hash, nowMs)
        if (used === undefined) {
          return {
            code: 'invalid_api_key',
            message: 'This backend is not enrolled, and the enrolment token is missing, used or expired.',
          }
        }
        label = used.label
      }
      this.#sql.exec(
        `INSERT INTO backends (backend_id, url, label, public_key, epochs, enrolled_at_ms) VALUES (?, ?, ?, ?, ?, ?)
         ON CONFLICT (backend_id) DO UPDATE SET url = excluded.url, epochs = excluded.epochs`,
        join.backendId,
        url,
        label,
        JSON.stringify(join.publicKey),
        JSON.stringify(epochs),
        nowMs,
      )
      return undefined
    })
    if (refused !== undefined) return err(refused)
    this.#enrolled.set(join.backendId, { ...enrolled, url, epochs })
    this.#verifiers.set(join.backendId, verifier)
    this.#left.delete(join.backendId)
    this.#present.set(join.backendId, { epoch: join.epoch, frames: join.frames, reportedAtMs: nowMs })
    // Of another life, or with changes that were lost on the way. Its next report tells all there is.
    this.#kv.drop(join.backendId)
    log('info', 'backend_joined', { backendId: join.backendId, epoch: join.epoch, first: known === undefined })
    return ok({ backendId: join.backendId, reportIntervalMs: REPORT_INTERVAL_MS, staleAfterMs: STALE_AFTER_MS })
  }

  async report(signed: SignedBody): Promise<Result<ReportReply, Failure>> {
    const parsed = parseBody(ReportRequest, signed.body)
    if (!parsed.ok) return parsed
    const { backendId } = parsed.value
    const known = this.#enrolled.get(backendId)
    // Not enrolled, or removed: a join says what is missing, and needs a token then.
    if (known === undefined) return ok({ next: 'resync' })
    if (!(await this.#verify(signed, backendId, known.publicKey))) return err(unauthorised)
    const nowMs = Date.now()
    const { presence, next, kv } = applyReport(this.#present.get(backendId), parsed.value, nowMs)
    // It may have been removed while the signature was checked.
    if (presence === undefined || !this.#enrolled.has(backendId)) return ok({ next })
    this.#present.set(backendId, presence)
    this.#forgetSilent(nowMs)
    const changes = parsed.value.kv
    let isLost = next === 'resync'
    if (kv === 'drop') this.#kv.drop(backendId)
    if (kv === 'apply' && changes !== undefined && !this.#kv.apply(backendId, changes)) isLost = true
    const desired = this.#desired.of(backendId)
    return ok({ next: isLost ? 'resync' : 'continue', ...(desired === undefined ? {} : { desired }) })
  }

  /** An orderly goodbye: not routed to from now on. The enrolment stays. */
  async leave(signed: SignedBody): Promise<Result<Record<string, never>, Failure>> {
    const parsed = parseBody(LeaveRequest, signed.body)
    if (!parsed.ok) return parsed
    const { backendId, epoch } = parsed.value
    const known = this.#enrolled.get(backendId)
    if (known === undefined || !(await this.#verify(signed, backendId, known.publicKey))) return err(unauthorised)
    if (this.#present.get(backendId)?.epoch === epoch) {
      this.#present.delete(backendId)
      this.#kv.drop(backendId)
    }
    if (known.epochs.current === epoch) this.#left.add(backendId)
    log('info', 'backend_left', { backendId, epoch })
    return ok({})
  }

  /** What routing asks, in one call: everyone present, and who holds a prompt's beginning. */
  async view({ chunks, wantsSnapshot }: FleetQuestion): Promise<FleetAnswer> {
    this.#forgetSilent(Date.now())
    const matches = this.#kv.match(chunks.slice(0, CHUNKS_MAX), MATCHES_MAX)
    return wantsSnapshot ? { snapshot: this.#snapshot(), matches } : { matches }
  }

  #snapshot(): FleetSnapshot {
    const nowMs = Date.now()
    const backends: FleetSnapshot['backends'] = []
    for (const [backendId, presence] of this.#present) {
      const enrolled = this.#enrolled.get(backendId)
      // Who is present has joined, and its key was imported for that.
      const keyThumbprint = this.#verifiers.get(backendId)?.thumbprint
      if (enrolled === undefined || keyThumbprint === undefined) continue
      const reportAgeMs = Math.max(0, nowMs - presence.reportedAtMs)
      // What is wanted counts for routing before the agent has heard of it.
      const isDraining = this.#desired.of(backendId)?.draining === true
      const frames = isDraining ? presence.frames.map((frame) => ({ ...frame, draining: true })) : presence.frames
      backends.push({ backendId, url: enrolled.url, keyThumbprint, reportAgeMs, frames })
    }
    // Each backend that lives has reported by then.
    if (nowMs - this.#begunAtMs >= STALE_AFTER_MS) return { staleAfterMs: STALE_AFTER_MS, backends }
    const awaited = [...this.#enrolled.keys()].filter((id) => !this.#present.has(id) && !this.#left.has(id))
    return { staleAfterMs: STALE_AFTER_MS, backends, awaited }
  }

  /** Asks something of a backend, for as long as it is enrolled. */
  async desire(backendId: string, change: DesiredChange): Promise<Result<DesiredState, Failure>> {
    if (!this.#enrolled.has(backendId)) return err({ code: 'not_found', message: 'No such backend.' })
    const frames = this.#present.get(backendId)?.frames
    const unknown = Object.keys(change.roles ?? {}).find((name) => frames?.every(({ engine }) => engine !== name))
    if (unknown !== undefined) {
      const message = `This backend has no engine '${unknown}'.`
      return err({ code: 'invalid_request', message, param: 'roles' })
    }
    const desired = this.#desired.change(backendId, change)
    log('info', 'backend_desired', { backendId, revision: desired.revision, draining: desired.draining })
    return ok(desired)
  }

  /** Every enrolled backend, for administrators. */
  async list(): Promise<BackendSummary[]> {
    const nowMs = Date.now()
    const rows = this.#sql.exec(
      'SELECT backend_id, url, label, enrolled_at_ms FROM backends ORDER BY enrolled_at_ms, backend_id',
    )
    return rows.toArray().map((row) => {
      const backendId = String(row.backend_id)
      const presence = this.#present.get(backendId)
      const reportAgeMs = presence && Math.max(0, nowMs - presence.reportedAtMs)
      return {
        backendId,
        url: String(row.url),
        label: String(row.label),
        enrolledAtMs: Number(row.enrolled_at_ms),
        state: stateOf(presence, reportAgeMs),
        reportAgeMs,
        models: presence?.frames ?? [],
        kv: this.#kv.held(backendId),
        desired: this.#desired.of(backendId),
      }
    })
  }

  /** Ends an enrolment: routing stops within the snapshot's age, and only a new token lets the backend in again. */
  async remove(backendId: string): Promise<boolean> {
    this.#sql.exec('DELETE FROM backends WHERE backend_id = ?', backendId)
    this.#desired.remove(backendId)
    this.#present.delete(backendId)
    this.#kv.drop(backendId)
    this.#verifiers.delete(backendId)
    const removed = this.#enrolled.delete(backendId)
    if (removed) log('info', 'backend_removed', { backendId })
    return removed
  }

  /** Takes the token away; what it was labelled, or undefined where there is no such token. */
  #useToken(hash: string | undefined, nowMs: number): { label: string } | undefined {
    if (hash === undefined) return undefined
    const [row] = this.#sql
      .exec('DELETE FROM tokens WHERE hash = ? AND expires_at_ms > ? RETURNING label', hash, nowMs)
      .toArray()
    return row && { label: String(row.label) }
  }

  /** What silent backends hold is nothing to send prompts for, and takes room. */
  #forgetSilent(nowMs: number): void {
    if (nowMs - this.#forgotAtMs < FORGET_INTERVAL_MS) return
    this.#forgotAtMs = nowMs
    for (const [backendId, presence] of this.#present) {
      if (presence.forgotten || nowMs - presence.reportedAtMs < FORGET_AFTER_MS) continue
      this.#present.set(backendId, { ...presence, forgotten: true })
      this.#kv.drop(backendId)
    }
  }

  /** Signature, digest, times and single use. Undefined: not to be believed. */
  async #verify(signed: SignedBody, backendId: string, publicKey: PublicKeyJwk): Promise<Verifier | undefined> {
    const nowMs = Date.now()
    const known = this.#verifiers.get(backendId)
    let verifier: Verifier
    try {
      verifier = known?.x === publicKey.x ? known : await verifierOf(publicKey)
    } catch {
      return undefined
    }
    const verified = await verifyBody({
      token: signed.token,
      key: verifier.key,
      issuer: backendParty(backendId),
      audience: GATEWAY_ISSUER,
      body: signed.body,
      nowMs,
    })
    if (!verified.ok) {
      log('warn', 'fleet_token_refused', { backendId, fault: verified.error })
      return undefined
    }
    if (this.#enrolled.get(backendId)?.publicKey.x === publicKey.x) this.#verifiers.set(backendId, verifier)
    const first = this.#replays.firstUse(`${backendId} ${verified.value.jti}`, verified.value.expiresAtMs, nowMs)
    if (!first) log('warn', 'fleet_token_refused', { backendId, fault: 'replayed' })
    return first ? verifier : undefined
  }
}

async function verifierOf({ kty, crv, x }: PublicKeyJwk): Promise<Verifier> {
  const jwk = { kty, crv, x }
  return { x, key: (await importJWK(jwk, 'EdDSA')) as CryptoKey, thumbprint: await calculateJwkThumbprint(jwk) }
}

function stateOf(presence: Presence | undefined, reportAgeMs: number | undefined): BackendSummary['state'] {
  if (presence === undefined || reportAgeMs === undefined) return 'absent'
  if (reportAgeMs > STALE_AFTER_MS) return 'stale'
  return presence.frames.length > 0 && presence.frames.every((frame) => frame.draining) ? 'draining' : 'live'
}

function parseBody<T>(schema: z.ZodType<T>, body: Uint8Array): Result<T, Failure> {
  const json = parseJson(body)
  if (!json.ok) return json
  const parsed = schema.safeParse(json.value)
  if (parsed.success) return ok(parsed.data)
  const issue = parsed.error.issues[0]
  const param = issue?.path.join('.') ?? ''
  return err({
    code: 'invalid_request',
    message: issue?.message ?? 'The body is not valid.',
    ...(param === '' ? {} : { param }),
  })
}

const tokenHash = (token: string): Promise<string> => bodyDigest(new TextEncoder().encode(token))

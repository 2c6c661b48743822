// Membership in the fleet: join, report, leave. Owns when each is sent and what a failure means; bodies are protocol/report.ts,
// keys identity.ts, frames capacity.ts, and what is told of K and V prefix/held-chunks.ts.
//
//   joining ──reply──▶ joined ──resync, unknown, network fault──▶ joining …      any ──leave()──▶ left
//
// Joining again is always safe: it carries the whole state, and after the first time the key alone proves enrolment.
import { setTimeout as sleep } from 'node:timers/promises'
import { z } from 'zod'
import type { CapacityFrame } from '../protocol/capacity.ts'
import {
  type DesiredState,
  JOIN_PATH,
  JoinReply,
  type JoinRequest,
  KV_CHUNKS_PER_REPORT_MAX,
  LEAVE_PATH,
  type LeaveRequest,
  REPORT_PATH,
  ReportReply,
  type ReportRequest,
} from '../protocol/report.ts'
import type { Identity } from './identity.ts'
import { type Log, messageOf } from './log.ts'
import type { HeldChunks } from './prefix/held-chunks.ts'

/** Reports on change are this far apart at least. */
const CHANGE_INTERVAL_MIN_MS = 50
const REQUEST_TIMEOUT_MS = 5000
const LEAVE_TIMEOUT_MS = 2000
const RETRY_DELAY_MIN_MS = 250
const RETRY_DELAY_MAX_MS = 10_000
const REPLY_BYTES_MAX = 64 * 1024

export type ReporterOptions = {
  gatewayUrl: string
  publicUrl: string
  identity: Identity
  joinToken?: string
  /** Of this agent process. */
  epoch: string
  frames: () => CapacityFrame[]
  /** Differs when a report is due before its time. */
  fingerprint: () => string
  /** Absent: nothing is told of what the engines hold. */
  kv?: Pick<HeldChunks, 'reset' | 'take' | 'hasUntold'>
  /** Called with what an administrator wants, once for each revision; after a start with the last one. */
  onDesired?: (desired: DesiredState) => void
  log: Log
}

/** All digits of a double would be a quarter of a report, and nothing in it is measured with more than these. */
const SIGNIFICANT_DIGITS = 6

export const reportText = (body: object): string =>
  JSON.stringify(body, (_, value: unknown) =>
    typeof value === 'number' && !Number.isInteger(value) ? Number(value.toPrecision(SIGNIFICANT_DIGITS)) : value,
  )

class Refused extends Error {
  override name = 'Refused'
  readonly status: number
  constructor(status: number, text: string) {
    super(`HTTP ${status}: ${text}`)
    this.status = status
  }
}

export class Reporter {
  readonly #options: ReporterOptions
  readonly #stop = new AbortController()
  #running: Promise<void> | undefined
  #joined = false
  /** Never set back within this process: a report that arrives late, after a new join, must not look newer than the next. */
  #sequence = 0
  #intervalMs = 1000
  #reported = ''
  #desiredRevision: number | undefined
  #useToken: boolean
  #wake: (() => void) | undefined

  constructor(options: ReporterOptions) {
    this.#options = options
    this.#useToken = options.joinToken !== undefined
  }

  get joined(): boolean {
    return this.#joined
  }

  start(): void {
    this.#running ??= this.#run()
  }

  /** Something may have changed: report soon if it has. Cheap, call it as often as you like. */
  changed(): void {
    this.#wake?.()
  }

  /** Stops reporting and tells the gateway. Bounded by `LEAVE_TIMEOUT_MS`; failing to say so is not an error. */
  async leave(): Promise<void> {
    this.#stop.abort()
    await this.#running
    if (!this.#joined) return
    this.#joined = false
    const { identity, epoch, log } = this.#options
    const body: LeaveRequest = { version: 1, backendId: identity.backendId, epoch }
    try {
      await this.#post(LEAVE_PATH, body, LEAVE_TIMEOUT_MS)
      log('info', 'fleet_left')
    } catch (thrown) {
      log('warn', 'fleet_leave_failed', { reason: messageOf(thrown) })
    }
  }

  async #run(): Promise<void> {
    const { signal } = this.#stop
    let delayMs = RETRY_DELAY_MIN_MS
    while (!signal.aborted) {
      try {
        if (!this.#joined) await this.#join()
        else await this.#report()
        delayMs = RETRY_DELAY_MIN_MS
        if (this.#joined) await this.#nextTurn(signal)
      } catch (thrown) {
        if (signal.aborted) return
        // After a lost report the gateway's number and ours may differ: a join settles it.
        this.#joined = false
        const tokenMayHelp = thrown instanceof Refused && [401, 403].includes(thrown.status)
        if (tokenMayHelp && this.#options.joinToken !== undefined) this.#useToken = !this.#useToken
        this.#options.log('warn', 'fleet_unreachable', { reason: messageOf(thrown), retryInMs: delayMs })
        await sleep(delayMs * (0.5 + Math.random() / 2), undefined, { signal }).catch(() => {})
        delayMs = Math.min(delayMs * 2, RETRY_DELAY_MAX_MS)
      }
    }
  }

  async #join(): Promise<void> {
    const { identity, epoch, publicUrl, joinToken, frames, fingerprint, log } = this.#options
    this.#reported = fingerprint()
    const body: JoinRequest = {
      version: 1,
      backendId: identity.backendId,
      url: publicUrl,
      publicKey: identity.publicKey,
      epoch,
      frames: frames(),
    }
    if (this.#useToken && joinToken !== undefined) body.token = joinToken
    const reply = JoinReply.parse(await this.#post(JOIN_PATH, body, REQUEST_TIMEOUT_MS))
    this.#joined = true
    // The token is spent: from here on the key is enough.
    this.#useToken = false
    this.#intervalMs = reply.reportIntervalMs
    this.#options.kv?.reset()
    log('info', 'fleet_joined', { backendId: identity.backendId, reportIntervalMs: reply.reportIntervalMs })
  }

  async #report(): Promise<void> {
    const { identity, epoch, frames, fingerprint, kv, onDesired, log } = this.#options
    this.#reported = fingerprint()
    // Taken is told: where this report is lost a join follows, and everything is told anew.
    const changes = kv?.take(KV_CHUNKS_PER_REPORT_MAX)
    const body: ReportRequest = {
      version: 1,
      backendId: identity.backendId,
      epoch,
      sequence: this.#sequence++,
      frames: frames(),
      ...(changes === undefined ? {} : { kv: changes }),
    }
    const reply = ReportReply.parse(await this.#post(REPORT_PATH, body, REQUEST_TIMEOUT_MS))
    if (reply.next === 'resync') {
      log('info', 'fleet_resync')
      this.#joined = false
    }
    const { desired } = reply
    if (desired === undefined || desired.revision === this.#desiredRevision) return
    this.#desiredRevision = desired.revision
    onDesired?.(desired)
  }

  /** Something is to be told before the interval is over: also an idle engine's last changes. */
  #isDue(): boolean {
    return this.#options.fingerprint() !== this.#reported || this.#options.kv?.hasUntold === true
  }

  /** Until the interval is over, or sooner when something changed. */
  async #nextTurn(signal: AbortSignal): Promise<void> {
    await sleep(CHANGE_INTERVAL_MIN_MS, undefined, { signal }).catch(() => {})
    if (signal.aborted || this.#isDue()) return
    await new Promise<void>((resolve) => {
      const done = () => {
        clearTimeout(timer)
        signal.removeEventListener('abort', done)
        this.#wake = undefined
        resolve()
      }
      const timer = setTimeout(done, Math.max(0, this.#intervalMs - CHANGE_INTERVAL_MIN_MS))
      signal.addEventListener('abort', done, { once: true })
      this.#wake = () => {
        if (this.#isDue()) done()
      }
    })
  }

  async #post(path: string, body: object, timeoutMs: number): Promise<unknown> {
    const bytes = new TextEncoder().encode(reportText(body))
    const token = await this.#options.identity.sign(bytes)
    const stop = path === LEAVE_PATH ? [] : [this.#stop.signal]
    const response = await fetch(`${this.#options.gatewayUrl}${path}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', authorization: `Bearer ${token}` },
      body: bytes,
      redirect: 'error',
      signal: AbortSignal.any([AbortSignal.timeout(timeoutMs), ...stop]),
    })
    const text = (await response.text()).slice(0, REPLY_BYTES_MAX)
    if (!response.ok) throw new Refused(response.status, text.slice(0, 300))
    return text === '' ? {} : z.json().parse(JSON.parse(text))
  }
}

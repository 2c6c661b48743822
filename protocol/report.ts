// Wire 3, agent → gateway: join, report, leave. Owns the bodies; signatures are by the agent's Ed25519 key (see signing.ts).
import * as z from 'zod'
import { CapacityFrame, EngineRole } from './capacity.ts'
import { late } from './late.ts'

export const JOIN_PATH = '/fleet/join'
export const REPORT_PATH = '/fleet/report'
export const LEAVE_PATH = '/fleet/leave'
export const JWKS_PATH = '/.well-known/jwks.json'

/** An Ed25519 public key as a JWK (RFC 8037). */
export const PublicKeyJwk = late(() =>
  z.object({
    kty: z.literal('OKP'),
    crv: z.literal('Ed25519'),
    x: z.string().min(40).max(64),
    kid: z.string().min(1).max(128).optional(),
  }),
)
export type PublicKeyJwk = z.infer<typeof PublicKeyJwk>

export const JoinRequest = late(() =>
  z.object({
    version: z.literal(1),
    /** One-time enrolment token made by an administrator; unset when the key is enrolled already. */
    token: z.string().max(200).optional(),
    /** Chosen by the agent, stable over restarts. */
    backendId: z.uuid(),
    /** Where the gateway reaches this agent, e.g. http://127.0.0.1:7801. */
    url: z.url().max(500),
    publicKey: PublicKeyJwk,
    /** New for each life of the agent process. */
    epoch: z.string().min(1).max(64),
    frames: z.array(CapacityFrame).max(64),
  }),
)
export type JoinRequest = z.infer<typeof JoinRequest>

export const JoinReply = late(() =>
  z.object({
    backendId: z.uuid(),
    reportIntervalMs: z.number().int().positive(),
    /** A backend whose last report is older than this is not routed to. */
    staleAfterMs: z.number().int().positive(),
  }),
)
export type JoinReply = z.infer<typeof JoinReply>

/** Chunks told per report: a larger change goes on in the next one. 4,096 numbers are some 64 KiB. */
export const KV_CHUNKS_PER_REPORT_MAX = 4096

const isChunk = (value: unknown): boolean => Number.isSafeInteger(value) && (value as number) >= 0

/** One look per number: a schema for each of thousands would take longer than the signature's check. */
const Chunks = late(() =>
  z.custom<number[]>(
    (value) => Array.isArray(value) && value.length <= KV_CHUNKS_PER_REPORT_MAX && value.every(isChunk),
    `expected at most ${KV_CHUNKS_PER_REPORT_MAX} chunks`,
  ),
)

/**
 * Which beginnings of prompts the backend's engines hold K and V for, as changes since its last report. A chunk (see prefix.ts)
 * is held where one engine holds every block that its tokens and all before them fill.
 */
export const KvChanges = late(() =>
  z.object({
    /** What was told before is void: it is followed by all there is, over as many reports as it takes. */
    reset: z.boolean(),
    stored: Chunks,
    removed: Chunks,
  }),
)
export type KvChanges = z.infer<typeof KvChanges>

/** Chunks told with an answer: some 4 KiB. What is older goes with reports alone. */
export const KV_CHUNKS_PER_ANSWER_MAX = 256

/** How far whoever asks has been told of a backend's chunks: `version` counts changes within an agent's life. */
export const KvSeen = late(() => z.object({ epoch: z.string().max(64), version: z.number().int().nonnegative() }))
export type KvSeen = z.infer<typeof KvSeen>

/**
 * The same changes, beside an answer: the last word about each chunk that changed after what the asker has seen, so that news which
 * come twice or late change nothing. They are told again with reports.
 */
export const KvNews = late(() =>
  KvSeen.extend({
    /** Not all that changed is told: what the asker has been told before is void. */
    reset: z.boolean(),
    stored: Chunks,
    removed: Chunks,
  }),
)
export type KvNews = z.infer<typeof KvNews>

export const ReportRequest = late(() =>
  z.object({
    version: z.literal(1),
    backendId: z.uuid(),
    epoch: z.string().min(1).max(64),
    /** Rises by one per report within an epoch; a gap asks for a resync. */
    sequence: z.number().int().nonnegative(),
    frames: z.array(CapacityFrame).max(64),
    /** Absent: nothing changed. */
    kv: KvChanges.optional(),
  }),
)
export type ReportRequest = z.infer<typeof ReportRequest>

/** What an administrator wants of a backend. The agent gets there in its own time, and its frames say when it has. */
export const DesiredState = late(() =>
  z.object({
    /** Rises with each change; the agent acts once on each, and on the last one again after a restart. */
    revision: z.number().int().nonnegative(),
    /** Takes no new work; what runs ends, or moves elsewhere at the deadline. */
    draining: z.boolean(),
    /** By engine; engines not named keep the role that they were started with. */
    roles: z.record(z.string().max(64), EngineRole),
  }),
)
export type DesiredState = z.infer<typeof DesiredState>

export const ReportReply = late(() =>
  z.object({
    /** `resync`: send a full join again (unknown backend or epoch, or a sequence gap); K and V are told from the start after it. */
    next: z.enum(['continue', 'resync']),
    /** Absent: nobody has asked for anything. */
    desired: DesiredState.optional(),
  }),
)
export type ReportReply = z.infer<typeof ReportReply>

export const LeaveRequest = late(() =>
  z.object({ version: z.literal(1), backendId: z.uuid(), epoch: z.string().min(1).max(64) }),
)
export type LeaveRequest = z.infer<typeof LeaveRequest>

// Wire 2b, agent → agent: a decode backend asks a prefill backend of another host to compute a prompt and push its K and V.
// Owns the body, the answer and the claims of the grant. One POST, answered when the push is over: 200 with a PrefillReply, or a
// refusal like that of a dispatch. Closing the request is the cancel.
//
// Who may ask: `authorization: Bearer <grant>`, a token of the gateway for the prefill backend (aud), bound by `cnf.jkt` (RFC 7800)
// to the asking backend's key, and `x-penstock-proof: <JWT>`, signed by that key over exactly this body (body_sha256, aud: the
// prefill backend, header `jwk`). A grant counts once.
import * as z from 'zod'
import { GRAMMAR_KINDS } from './engine-sampling.ts'
import { late } from './late.ts'
import { CHUNKS_MAX } from './prefix.ts'

export const PREFILL_PATH = '/prefill'
export const PREFILL_PROOF_HEADER = 'x-penstock-proof'

export type PrefillGrantClaims = {
  iss: string
  /** backend:<prefill backend>. */
  aud: string
  iat: number
  exp: number
  jti: string
  /** The model that may be computed, and for which dispatch of whom. */
  model: string
  request_id: string
  /** The dispatch's: an asker that could name another's would learn what that one's prompts have left in the cache. */
  tenant: string
  /** Thumbprint (RFC 7638) of the asking backend's key. */
  cnf: { jkt: string }
}

const count = late(() => z.number().int().nonnegative())
/** As in the engine's frames. */
const U32 = count.max(0xffff_ffff)
/** 16 bytes in base64; as many characters may be 17 or 18. */
const Secret = late(() => z.string().regex(/^[A-Za-z0-9+/]{22}==$/))
/** 64-bit numbers that JSON cannot carry. */
const Hex64 = late(() => z.string().regex(/^[0-9a-f]{1,16}$/))

const F32 = late(() => z.number().min(-3e38).max(3e38))

/** First tokens to draw behind the prompt, as `PUSH.draw` of wire 5. An agent that does not know it computes the prompt alone. */
const Draw = late(() =>
  z.object({
    promptTokens: U32,
    /** Of a sequence each. */
    seeds: z.array(Hex64).min(1).max(256),
    temperature: F32,
    topP: F32,
    topK: U32,
    minP: F32,
    repetitionPenalty: F32,
    presencePenalty: F32,
    frequencyPenalty: F32,
    logprobsTop: z.number().int().min(0).max(20).optional(),
    bias: z.array(z.object({ id: U32, bias: F32 })).max(4096),
    grammar: z.object({ kind: z.enum(GRAMMAR_KINDS), text: z.string().max(256 * 1024) }).optional(),
  }),
)

/**
 * Which chunks (prefix.ts) the tokens are known to cover, so that the prefill backend can tell the fleet what its cache has from then on.
 * They are the asker's word, as what it reports of itself is: hints for routing, never proof. An agent that does not know them tells
 * nothing.
 */
const ChunkEnds = late(() =>
  z
    .array(z.object({ chunk: z.number().int().nonnegative().max(Number.MAX_SAFE_INTEGER), tokens: U32 }))
    .max(CHUNKS_MAX),
)

export const PrefillRequest = late(() =>
  z.object({
    version: z.literal(1),
    requestId: z.string().min(1).max(100),
    model: z.string().min(1).max(200),
    /** Of the asking engine: another layout is refused with `invalid_request`. */
    fingerprint: z.string().min(1).max(200),
    tokens: z.array(U32).min(1).max(4_000_000),
    draw: Draw.optional(),
    chunks: ChunkEnds.optional(),
    /** The first that is missing there. */
    firstBlock: U32,
    /** Where to push, and the right to. */
    address: z.string().min(1).max(500),
    transfer: z.object({ id: Hex64, generation: Hex64, secret: Secret }),
    priority: z.number().int().min(-100).max(100),
    deadlineInMs: z.number().int().positive(),
    /** Opaque, for fair sharing and for the prefix cache's salt. */
    tenant: z.string().min(1).max(100),
  }),
)
export type PrefillRequest = z.infer<typeof PrefillRequest>

export const PrefillReply = late(() =>
  z.object({
    /** Prompt tokens computed for this, and those that were in the prefill engine's cache. */
    computedTokens: count,
    cachedTokens: count,
    /**
     * Beyond the computation: what moving the blocks took. Null: beside other prompts nobody can say. Absent: an older agent, and the asker
     * goes by its own clock.
     */
    leftOverMs: z.number().nonnegative().nullable().optional(),
  }),
)
export type PrefillReply = z.infer<typeof PrefillReply>

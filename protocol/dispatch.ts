// Wire 2, gateway → agent: one POST /dispatch answered by newline-delimited JSON events. Owns both shapes.
//
//   accepted → (tokens | delta | thought | tool_call | capacity)* → finish per choice → usage → end of body
//       │              ├──────────── error (any time; carries the usage so far) → end of body
//       │              └──────────── moved (only where tokens are told) → end of body
//       └────→ (embedding | capacity)*, one embedding per prompt ──→ usage → end of body
//
// `accepted` comes again where more is known: how much of the prompt the engine found in its prefix cache.
//
// A stream that breaks off or is `moved` goes on elsewhere: a second dispatch carries in `resume` the tokens that were told,
// and its answer begins again from the first character. What the gateway has passed on it leaves out; the engine computes the
// same tokens from there on, since its draws depend on the seed and the number of tokens alone.
//
// A body that ends without `usage` or `error` means the agent died: the last counts seen are the usage.
import * as z from 'zod'
import { CapacityFrame, StepModel } from './capacity.ts'
import { ERROR_CODES } from './errors.ts'
import { late } from './late.ts'
import { MAX_GRAMMAR_BYTES } from './output-format.ts'
import { KvNews, KvSeen } from './report.ts'
import { MAX_EMBEDDING_INPUTS, MAX_TOOLS, MIN_REPETITION_PENALTY } from './request.ts'

export const DISPATCH_PATH = '/dispatch'
export const DISPATCH_CONTENT_TYPE = 'application/x-ndjson'

/** An event line longer than this is refused by the gateway: it bounds the memory of a hostile or broken peer. */
export const MAX_EVENT_BYTES = 1024 * 1024

const Sampling = late(() =>
  z.object({
    temperature: z.number().min(0).max(10),
    topP: z.number().gt(0).max(1),
    topK: z.number().int().min(0),
    minP: z.number().min(0).max(1),
    presencePenalty: z.number().min(-2).max(2),
    frequencyPenalty: z.number().min(-2).max(2),
    repetitionPenalty: z.number().min(MIN_REPETITION_PENALTY).max(10),
    seed: z.number().int().optional(),
    logitBias: z.array(z.object({ tokenId: z.number().int().min(0), bias: z.number().min(-100).max(100) })).max(1024),
  }),
)

const Prompt = late(() =>
  z.union([z.object({ text: z.string() }), z.object({ tokenIds: z.array(z.number().int().min(0)) })]),
)

const ToolCall = late(() => z.object({ id: z.string(), name: z.string(), arguments: z.string() }))

const Tool = late(() =>
  z.object({
    name: z.string().min(1).max(128),
    description: z.string().optional(),
    /** JSON schema of an object; absent: no parameters. */
    parameters: z.record(z.string(), z.unknown()).optional(),
  }),
)

const ToolChoice = late(() =>
  z.discriminatedUnion('mode', [
    z.object({ mode: z.enum(['auto', 'none', 'required']) }),
    z.object({ mode: z.literal('tool'), name: z.string() }),
  ]),
)

const Input = late(() =>
  z.discriminatedUnion('kind', [
    z.object({
      kind: z.literal('chat'),
      messages: z
        .array(
          z.object({
            role: z.enum(['system', 'developer', 'user', 'assistant', 'tool']),
            content: z.string(),
            name: z.string().optional(),
            /** Of assistants. */
            toolCalls: z.array(ToolCall).optional(),
            /** Of assistants: what they thought, for templates that show it. */
            thought: z.string().optional(),
            /** Of tools: the call that this answers. */
            toolCallId: z.string().optional(),
          }),
        )
        .min(1),
    }),
    z.object({
      kind: z.literal('completion'),
      prompts: z.array(Prompt).min(1),
      echo: z.boolean(),
    }),
    z.object({
      kind: z.literal('embedding'),
      prompts: z.array(Prompt).min(1).max(MAX_EMBEDDING_INPUTS),
      /** Absent: the model's own. */
      dimensions: z.number().int().positive().optional(),
    }),
  ]),
)

/** Output of one choice that a gateway remembers, so that it can go on elsewhere; a longer one cannot. */
export const MAX_RESUMED_TOKENS = 65_536

/** Prefill workers named per dispatch: the agent asks the next where one refuses. */
export const PREFILL_WORKERS_MAX = 4

/**
 * What the gateway knows of a prefill backend when it sends the dispatch, for the one of its engines that would get the prompt. Figures
 * to choose by, up to a second old: an agent that does not know them takes the backend for idle and as fast as its own engine, and so
 * does one that gets none from an older gateway.
 */
export const PrefillLoad = late(() =>
  z.object({
    /** Prompt tokens that are computed before this prompt. */
    prefillTokensQueued: z.number().int().nonnegative(),
    /** Absent: not measured. The first of them says more. */
    stepModel: StepModel.optional(),
    prefillTokensPerSecond: z.number().positive().optional(),
    /** The last of a prompt's chunks (prefix.ts) that its cache has, or is about to have; absent: none is known. */
    heldChunk: z.number().int().nonnegative().max(Number.MAX_SAFE_INTEGER).optional(),
  }),
)
export type PrefillLoad = z.infer<typeof PrefillLoad>

/** Another backend whose prefill engines may compute the prompt, and the right to ask it. */
export const PrefillWorker = late(() =>
  z.object({
    backendId: z.uuid(),
    url: z.url().max(500),
    /** A token of the gateway for that backend, bound to the key of the one that asks (see signing.ts); single use. */
    grant: z.string().min(1).max(2000),
    /** Other backends' word, by way of the gateway: one that is no load is none, and never the end of the request. */
    load: PrefillLoad.optional().catch(undefined),
  }),
)
export type PrefillWorker = z.infer<typeof PrefillWorker>

export const DispatchRequest = late(() =>
  z.object({
    /** 2 where tools or calls are part of the request: an agent that would leave them out refuses it. 3 where it resumes. */
    version: z.union([z.literal(1), z.literal(2), z.literal(3)]),
    requestId: z.string().min(1).max(100),
    /** 1 for the first target tried, and so on. */
    attempt: z.number().int().min(1),
    /** Time left until the request's deadline, counted from arrival: the two clocks need not agree. */
    deadlineInMs: z.number().int().positive(),
    /** Higher goes first; 0 is ordinary. */
    priority: z.number().int().min(-100).max(100),
    /** Opaque id for fair sharing between tenants; never a name. */
    tenant: z.string().min(1).max(100),
    model: z.string().min(1).max(200),
    input: Input,
    sampling: Sampling,
    n: z.number().int().min(1).max(128),
    maxOutputTokens: z.number().int().positive().optional(),
    stop: z.array(z.string().min(1)).max(16),
    logprobs: z.object({ top: z.number().int().min(0).max(20) }).optional(),
    /** Chats only. */
    tools: z.array(Tool).min(1).max(MAX_TOOLS).optional(),
    /** Default `auto`. */
    toolChoice: ToolChoice.optional(),
    /** Default true. */
    parallelToolCalls: z.boolean().optional(),
    /** Whether the model shall think first, for templates that can tell it. Default: the template's. */
    thinking: z.boolean().optional(),
    /** The gateway knows the event `thought`; without it thoughts are text. */
    tellsThoughts: z.boolean().optional(),
    /** The gateway knows the events `tokens` and `moved`; the seed is set then. */
    tellsTokens: z.boolean().optional(),
    /** Choices that began elsewhere; those not named are over. Needs the seed of the first dispatch. */
    resume: z
      .object({
        choices: z
          .array(
            z.object({
              choice: z.number().int().min(0),
              tokenIds: z.array(z.number().int().min(0)).max(MAX_RESUMED_TOKENS),
            }),
          )
          .min(1)
          .max(128),
      })
      .optional(),
    /** Best first. Absent: only engines of the same host may prefill. */
    prefill: z.array(PrefillWorker).max(PREFILL_WORKERS_MAX).optional(),
    /** What the gateway has been told of the backend's K and V; absent: it wants to hear nothing of it. */
    kvSeen: KvSeen.optional(),
    /** What the output must match. `param` is the caller's field it came in, for refusals. */
    grammar: z
      .object({
        kind: z.enum(['json_schema', 'regex', 'lark']),
        text: z.string().min(1).max(MAX_GRAMMAR_BYTES),
        param: z.string().max(100),
      })
      .optional(),
  }),
)
export type DispatchRequest = z.infer<typeof DispatchRequest>

const count = late(() => z.number().int().nonnegative())

/** Disjoint counts of one dispatch, over all its choices. Every sampled token counts, end-of-text tokens too. */
export const DispatchUsage = late(() =>
  z.object({
    /** Prompt tokens computed afresh, prompts summed once each (not per choice). */
    inputTokens: count,
    /** Prompt tokens served from the engine's prefix cache. */
    cachedInputTokens: count,
    outputTokens: count,
  }),
)
export type DispatchUsage = z.infer<typeof DispatchUsage>

/** `bytes` are the token's exact UTF-8 bytes: a token may be half a character. */
const TokenLogprob = late(() =>
  z.object({
    text: z.string(),
    bytes: z.array(z.number().int().min(0).max(255)),
    /** Natural logarithm, of the distribution before temperature and filters. */
    logprob: z.number(),
  }),
)
export const LogprobEntry = late(() => TokenLogprob.extend({ top: z.array(TokenLogprob) }))
export type LogprobEntry = z.infer<typeof LogprobEntry>

/**
 * `local`: the engine that decodes. `handed_over`: a prefill engine. `degraded`: it would have paid to hand over, and no prefill
 * engine could take it, so the decode engine computed it.
 */
export const PrefillPlace = late(() => z.enum(['local', 'handed_over', 'degraded']))
export type PrefillPlace = z.infer<typeof PrefillPlace>

export const DispatchEvent = late(() =>
  z.discriminatedUnion('type', [
    z.object({
      type: z.literal('accepted'),
      usage: DispatchUsage,
      queueMs: z.number().nonnegative(),
      /** Where the prompt is computed, once that is known. */
      prefill: PrefillPlace.optional(),
    }),
    /** Sampled since the last such event, in order, before the events that carry their text. */
    z.object({ type: z.literal('tokens'), choice: count, ids: z.array(count) }),
    /** This backend cannot go on; another one can. Text that was told so far stands. */
    z.object({ type: z.literal('moved'), reason: z.enum(['draining', 'engine_lost']), usage: DispatchUsage }),
    z.object({
      type: z.literal('delta'),
      choice: count,
      /** May be empty: text is held back while a character or a stop string is incomplete, the count is not. */
      text: z.string(),
      /** Tokens sampled for this choice so far. */
      outputTokens: count,
      logprobs: z.array(LogprobEntry).optional(),
    }),
    z.object({ type: z.literal('thought'), choice: count, text: z.string(), outputTokens: count }),
    z.object({
      type: z.literal('tool_call'),
      choice: count,
      /** Of the choice, from 0. A call may come in several events: `id` and `name` with the first, `arguments` in pieces. */
      call: count,
      id: z.string().optional(),
      name: z.string().optional(),
      arguments: z.string(),
      outputTokens: count,
    }),
    z.object({
      type: z.literal('finish'),
      choice: count,
      /** `tool_calls`: it ended by itself, with calls. */
      reason: z.enum(['stop', 'length', 'tool_calls']),
      outputTokens: count,
    }),
    z.object({
      type: z.literal('embedding'),
      /** The prompt's index; it is finished with this. */
      choice: count,
      /** Little-endian 32-bit floats in base64, a vector of length 1. */
      values: z.base64(),
    }),
    z.object({ type: z.literal('usage'), usage: DispatchUsage }),
    z.object({
      type: z.literal('error'),
      code: z.enum(ERROR_CODES),
      message: z.string(),
      param: z.string().optional(),
      retryAfterMs: z.number().nonnegative().optional(),
      usage: DispatchUsage.optional(),
    }),
    /** `kv`: what changed since the gateway was last told; absent: nothing, or it did not ask. */
    z.object({ type: z.literal('capacity'), frame: CapacityFrame, kv: KvNews.optional() }),
  ]),
)
export type DispatchEvent = z.infer<typeof DispatchEvent>

/**
 * A refusal before any event: the agent answers with this JSON body and an HTTP status of 400 (caller fault),
 * 401 (bad token), 404 (model not served here), 413, 429 or 503 (full, draining, engine down).
 */
export const DispatchRefusal = late(() =>
  z.object({
    code: z.enum(ERROR_CODES),
    message: z.string(),
    param: z.string().optional(),
    retryAfterMs: z.number().nonnegative().optional(),
  }),
)
export type DispatchRefusal = z.infer<typeof DispatchRefusal>

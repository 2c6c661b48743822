// How servers of OpenAI's dialect deviate from it, as data. Owns the table and what each column means; openai-encoder.ts and
// openai-messages.ts act on it. A registered provider names its row; one without a row is sent everything the caller asked
// for, since whether such a server knows it is the server's to say. Pure.
import type { ReasoningEffort } from '../../protocol/request.ts'
import type { UsageDialect } from './usage-dialect.ts'

/** What a server may lack. The names are those of the dialect's fields where it has one for them. */
export type Feature =
  | 'completions'
  | 'embeddings'
  | 'frequency_penalty'
  | 'image'
  | 'image_url'
  | 'json_schema'
  | 'logit_bias'
  | 'logprobs'
  | 'min_p'
  | 'n'
  | 'parallel_tool_calls'
  | 'presence_penalty'
  | 'repetition_penalty'
  | 'stop'
  | 'structured_outputs'
  | 'tool_choice'
  | 'top_k'

export type Preset = {
  /** The vendor's public address, offered where a provider is registered; calls use the registered one. */
  baseUrl?: string
  /** What its usage objects mean; offered like the address. */
  usageDialect: UsageDialect
  /** Asked for, these change the answer and the server does not do them: refused here, where it may ignore them silently. */
  lacks: readonly Feature[]
  limitField: 'max_tokens' | 'max_completion_tokens'
  /** Undefined: none; a seed is best effort everywhere, and left out. */
  seedField: 'seed' | 'random_seed' | undefined
  dimensionsField: 'dimensions' | 'output_dimension'
  /** Whether `stream_options` is known; without it usage comes by itself. */
  hasStreamOptions: boolean
  /** Whether `developer` is a role; else it is `system`. */
  hasDeveloperRole: boolean
  /** Whether a message may have a `name`. */
  hasNames: boolean
  /** Whether an assistant's refusal has its own field; else it is text. */
  hasRefusals: boolean
  /** Whether a tool may ask for `strict`; else it is left out. */
  hasStrict: boolean
  /** The word for "some tool must be called". */
  requiredChoice: 'required' | 'any'
  /** How long the id of a tool call is where only letters and digits of one length are taken. */
  callIdChars?: number
  /** A flag with the number of alternatives beside it, or that number alone. */
  logprobs: 'flag' | 'count'
  hasVerbosity: boolean
  hasPromptCacheKey: boolean
  /** The header that leads what has the same key to the machine that keeps it, where no field of the body does. */
  cacheKeyHeader?: string
  /** How parts say up to where the prompt is to be kept; undefined: not at all. `breakpoint`: to the models that know it. */
  cacheMarks: 'control' | 'breakpoint' | undefined
  /** How much to think. `effort`: a word; `object`: `reasoning` with a word or a budget; `toggle`: a word, and a switch. */
  reasoning: 'effort' | 'object' | 'toggle'
  /** Words it knows; the nearest one is sent. Undefined: all. */
  efforts?: readonly ReasoningEffort[]
  /** The field that keeps thoughts out of the answer when it is false. */
  thoughtSwitch?: 'include_reasoning'
  /** Where earlier thoughts are given back; undefined: nowhere. `chunks`: as parts of the content. */
  thoughtField?: 'reasoning_content' | 'reasoning' | 'reasoning_details' | 'chunks'
  /** Whether an answer of the assistant must stand between results of tools and what the user says next. */
  needsAnswerToResults?: boolean
  /**
   * Its defaults are those of the dialect: sampling equal to them is left out, since reasoning models refuse the fields
   * whatever they say.
   */
  hasDialectDefaults?: boolean
  /** With calls, thoughts must be given back, even where there were none. */
  needsThoughtsOfCalls?: boolean
  /** A router in front of many servers, which is told to use only those that know every field sent. */
  isRouter?: boolean
}

/** A server of which nothing is known. */
export const PLAIN: Preset = {
  usageDialect: 'openai',
  lacks: [],
  limitField: 'max_tokens',
  seedField: 'seed',
  dimensionsField: 'dimensions',
  hasStreamOptions: true,
  hasDeveloperRole: true,
  hasNames: true,
  hasRefusals: false,
  hasStrict: true,
  requiredChoice: 'required',
  logprobs: 'flag',
  hasVerbosity: false,
  hasPromptCacheKey: false,
  cacheMarks: undefined,
  reasoning: 'effort',
}

/** Extensions of self-hosted servers, which hosted ones ignore or refuse. */
const EXTENSIONS = ['top_k', 'min_p', 'repetition_penalty', 'structured_outputs'] as const

/** The dialect's own vendor: API reference, "Create chat completion". It refuses fields it does not know. */
export const OPENAI: Preset = {
  ...PLAIN,
  lacks: EXTENSIONS,
  limitField: 'max_completion_tokens',
  hasRefusals: true,
  hasVerbosity: true,
  hasPromptCacheKey: true,
  hasDialectDefaults: true,
}

const PRESETS = {
  // docs.mistral.ai/api, "Chat completion": a closed schema without stream_options (usage is in the last chunk), penalties
  // but no logit_bias, logprobs or names; `random_seed`; `any`; roles without developer. Its tokenizer takes ids of calls
  // that have nine letters and digits, and a user right behind a tool is an error (code 3230). Thoughts are parts of type
  // `thinking`; efforts are none and high.
  mistral: {
    ...PLAIN,
    baseUrl: 'https://api.mistral.ai/v1',
    lacks: [...EXTENSIONS, 'completions', 'logit_bias', 'logprobs'],
    seedField: 'random_seed',
    dimensionsField: 'output_dimension',
    hasStreamOptions: false,
    hasDeveloperRole: false,
    hasNames: false,
    requiredChoice: 'any',
    callIdChars: 9,
    needsAnswerToResults: true,
    efforts: ['none', 'high'],
    thoughtField: 'chunks',
  },
  // console.groq.com/docs/openai, "Currently Unsupported OpenAI Features": 400 for logprobs, logit_bias, top_logprobs,
  // messages[].name and n other than 1; no text completions. docs/reasoning: include_reasoning, efforts up to high.
  groq: {
    ...PLAIN,
    baseUrl: 'https://api.groq.com/openai/v1',
    lacks: [...EXTENSIONS, 'completions', 'embeddings', 'logit_bias', 'logprobs', 'n'],
    limitField: 'max_completion_tokens',
    hasDeveloperRole: false,
    hasNames: false,
    hasStrict: false,
    efforts: ['none', 'low', 'medium', 'high'],
    thoughtSwitch: 'include_reasoning',
  },
  // api-docs.deepseek.com/api/create-chat-completion: no n, seed, logit_bias, parallel_tool_calls, images or schemas.
  // guides/thinking_mode: a switch beside the effort, and after a call its reasoning_content must come back.
  deepseek: {
    ...PLAIN,
    baseUrl: 'https://api.deepseek.com',
    usageDialect: 'deepseek',
    lacks: [...EXTENSIONS, 'embeddings', 'image', 'json_schema', 'logit_bias', 'n', 'parallel_tool_calls'],
    seedField: undefined,
    hasDeveloperRole: false,
    hasStrict: false,
    reasoning: 'toggle',
    thoughtField: 'reasoning_content',
    needsThoughtsOfCalls: true,
  },
  // docs.x.ai, "Chat completions": logit_bias is listed as unsupported; reasoning models refuse penalties and stop
  // themselves. Efforts are none to high. Reasoning is counted beside the completion. developers/advanced-api-usage/
  // prompt-caching: prompts are kept by machine, and `x-grok-conv-id` leads to the same one.
  xai: {
    ...PLAIN,
    baseUrl: 'https://api.x.ai/v1',
    usageDialect: 'xai',
    lacks: [...EXTENSIONS, 'logit_bias'],
    limitField: 'max_completion_tokens',
    hasDeveloperRole: false,
    hasDialectDefaults: true,
    cacheKeyHeader: 'x-grok-conv-id',
    efforts: ['none', 'low', 'medium', 'high'],
  },
  // openrouter.ai/docs: use-cases/reasoning-tokens (`reasoning`, `reasoning_details` given back unchanged), features/
  // prompt-caching (`cache_control`), features/provider-routing (`require_parameters`, without which fields that a server
  // does not know are ignored), api-reference/parameters (no n).
  openrouter: {
    ...PLAIN,
    baseUrl: 'https://openrouter.ai/api/v1',
    lacks: ['n', 'structured_outputs'],
    hasVerbosity: true,
    hasPromptCacheKey: true,
    cacheMarks: 'control',
    reasoning: 'object',
    thoughtField: 'reasoning_details',
    isRouter: true,
  },
  // docs.together.ai/reference/chat-completions: `logprobs` is a number; top_k, min_p and repetition_penalty are known.
  together: {
    ...PLAIN,
    baseUrl: 'https://api.together.xyz/v1',
    lacks: ['structured_outputs'],
    hasDeveloperRole: false,
    hasNames: false,
    hasStrict: false,
    logprobs: 'count',
    efforts: ['low', 'medium', 'high'],
  },
  // docs.fireworks.ai/api-reference/post-chatcompletions: top_k, min_p and repetition_penalty are known. guides/reasoning:
  // thoughts come and go back as reasoning_content.
  fireworks: {
    ...PLAIN,
    baseUrl: 'https://api.fireworks.ai/inference/v1',
    lacks: ['structured_outputs'],
    hasDeveloperRole: false,
    efforts: ['none', 'low', 'medium', 'high', 'xhigh', 'max'],
    thoughtField: 'reasoning_content',
  },
  // inference-docs.cerebras.ai/resources/openai: no developer role; what else it does not know it refuses with 400.
  cerebras: {
    ...PLAIN,
    baseUrl: 'https://api.cerebras.ai/v1',
    lacks: [...EXTENSIONS, 'embeddings', 'logit_bias', 'n', 'parallel_tool_calls'],
    limitField: 'max_completion_tokens',
    hasDeveloperRole: false,
    hasNames: false,
    efforts: ['none', 'low', 'medium', 'high'],
  },
  // docs.ollama.com/api/openai-compatibility: tool_choice, logit_bias and n are not supported, and what is not is ignored;
  // images as base64 alone.
  ollama: {
    ...PLAIN,
    lacks: [...EXTENSIONS, 'image_url', 'logit_bias', 'n', 'parallel_tool_calls', 'tool_choice'],
    hasDeveloperRole: false,
    hasNames: false,
    hasStrict: false,
    efforts: ['none', 'low', 'medium', 'high', 'max'],
  },
  // docs.vllm.ai, serving/openai_compatible_server, "Extra parameters": top_k, min_p, repetition_penalty,
  // structured_outputs, include_reasoning. Templates know no developer. features/reasoning_outputs: `reasoning`.
  vllm: {
    ...PLAIN,
    hasDeveloperRole: false,
    efforts: ['none', 'low', 'medium', 'high'],
    thoughtSwitch: 'include_reasoning',
    thoughtField: 'reasoning',
  },
} as const satisfies Record<string, Preset>

export type PresetName = keyof typeof PRESETS
export const PRESET_NAMES = Object.keys(PRESETS) as PresetName[]

const isPresetName = (name: string): name is PresetName => Object.hasOwn(PRESETS, name)

/** The row of a registered provider; a name that this build does not know is a row of a newer one, and counts as none. */
export const presetOf = (name: string | undefined): Preset =>
  name !== undefined && isPresetName(name) ? PRESETS[name] : PLAIN

// A conversation as Bedrock's Converse interface has it. Owns turns, calls and their answers, images, thoughts with their
// signatures, and where the provider's cache may cut; the rest of the request is bedrock-encoder.ts. Pure.
import { CallIds } from '../../protocol/call-ids.ts'
import type { Failure } from '../../protocol/errors.ts'
import type { CacheHint, ChatMessage, ContentPart, Tool } from '../../protocol/request.ts'
import { ok, type Result } from '../../protocol/result.ts'
import { type BedrockFamily, hasCache, toolIdPattern } from './bedrock-models.ts'
import { failedResult, refuse } from './refusal.ts'
import { argumentsObject, objectSchema, plainToolName } from './tool-names.ts'

/** Who made a seal that Bedrock can read. */
export const BEDROCK_SEAL = 'bedrock'

/** The families' limit on cache points in one request; the last ones cover the most. */
const CACHE_POINTS_MAX = 4
/** Of ids of calls that are made here: all families take as many. */
const MADE_ID_CHARS = 9
const IMAGE_FORMAT: Record<string, string> = {
  'image/png': 'png',
  'image/jpeg': 'jpeg',
  'image/gif': 'gif',
  'image/webp': 'webp',
}

type Block = Record<string, unknown>
type Turn = { role: 'user' | 'assistant'; content: Block[] }

export type BedrockConversation = {
  system: Block[]
  messages: Turn[]
  tools: Block[]
  /** Calls or their answers stand in it: Bedrock wants tools beside them, whatever the caller offers. */
  hasCalls: boolean
}

export type ConversationRules = {
  family: BedrockFamily
  /** The model can be held to the schema of a tool's arguments. */
  hasStrictTools: boolean
}

/**
 * Neighbours of one role are one turn, answers of tools at its head. Instructions, wherever they stand, go into `system`,
 * the one place that all families have for them. Thoughts without a seal of Bedrock's are left out, as is empty text.
 */
export function bedrockConversation(
  messages: readonly ChatMessage[],
  tools: readonly Tool[],
  rules: ConversationRules,
): Result<BedrockConversation, Failure> {
  const writer = new Writer(rules)
  const written = tools.flatMap((tool) => writer.tool(tool))
  for (const message of messages) writer.message(message)
  if (writer.fault !== undefined) return writer.fault
  const { system, turns, hasCalls } = writer
  const points = writer.cutPoints()
  const cut = (blocks: Block[]) => blocks.filter((block) => !points.has(block))
  const conversation = turns.map(({ role, content }) => ({ role, content: cut(content) }))
  // Without any turn there is nothing to answer: the instructions are the question.
  if (conversation.length === 0) {
    return ok({ system: [], messages: [{ role: 'user', content: cut(system) }], tools: cut(written), hasCalls })
  }
  return ok({ system: cut(system), messages: conversation, tools: cut(written), hasCalls })
}

class Writer {
  readonly system: Block[] = []
  readonly turns: Turn[] = []
  hasCalls = false
  fault: Result<never, Failure> | undefined
  readonly #rules: ConversationRules
  readonly #ids: CallIds
  /** From the beginning of the prompt to its end. */
  readonly #points: Block[] = []

  constructor(rules: ConversationRules) {
    this.#rules = rules
    this.#ids = new CallIds(MADE_ID_CHARS, toolIdPattern(rules.family))
  }

  tool({ name, description, parameters, strict, cache }: Tool): Block[] {
    const toolSpec = {
      name: plainToolName(name),
      ...(description === undefined || description === '' ? {} : { description }),
      inputSchema: { json: objectSchema(parameters) },
      ...(strict === true && this.#rules.hasStrictTools ? { strict: true } : {}),
    }
    return [{ toolSpec }, ...this.#point(cache)]
  }

  message(message: ChatMessage): void {
    switch (message.role) {
      case 'system':
      case 'developer':
        this.system.push(...message.content.flatMap((part) => this.#blocks(part)))
        return
      case 'tool':
        this.#toolResult(message)
        return
      case 'user':
      case 'assistant': {
        const blocks = message.content.flatMap((part) => this.#blocks(part))
        if (blocks.length > 0) this.#turn(message.role).push(...blocks)
        return
      }
      default:
        message.role satisfies never
    }
  }

  /** The points that are too many. */
  cutPoints(): Set<Block> {
    return new Set(this.#points.slice(0, -CACHE_POINTS_MAX))
  }

  #turn(role: Turn['role']): Block[] {
    const last = this.turns.at(-1)
    if (last?.role === role) return last.content
    const content: Block[] = []
    this.turns.push({ role, content })
    return content
  }

  #toolResult(message: ChatMessage): void {
    this.hasCalls = true
    const content: Block[] = []
    let cache: CacheHint | undefined
    for (const { cache: hint, ...part } of message.content) {
      cache = hint ?? cache
      content.push(...this.#blocks(part))
    }
    // Other families refuse the field: the text says it.
    const hasStatus = this.#rules.family === 'claude' || this.#rules.family === 'nova'
    if (message.isError === true && !hasStatus) content.unshift({ text: failedResult('') })
    const toolResult = {
      toolUseId: this.#ids.of(message.toolCallId ?? ''),
      content,
      ...(message.isError === true && hasStatus ? { status: 'error' } : {}),
    }
    const turn = this.#turn('user')
    const isHead = (block: Block) => 'toolResult' in block || 'cachePoint' in block
    const head = turn.findIndex((block) => !isHead(block))
    turn.splice(head < 0 ? turn.length : head, 0, { toolResult }, ...this.#point(cache))
  }

  #blocks(part: ContentPart): Block[] {
    switch (part.type) {
      case 'text':
      case 'refusal':
        return part.text.trim() === '' ? [] : [{ text: part.text }, ...this.#point(part.cache)]
      case 'image': {
        const { source } = part
        const format = source.kind === 'data' ? IMAGE_FORMAT[source.mediaType] : undefined
        if (source.kind === 'url' || format === undefined) {
          const message = 'This model takes images as data only, not by address: send the image as a data URL.'
          this.fault ??= refuse('messages', message)
          return []
        }
        return [{ image: { format, source: { bytes: source.data } } }, ...this.#point(part.cache)]
      }
      case 'thought': {
        const { seal } = part
        if (seal?.by !== BEDROCK_SEAL) return []
        if (seal.isRedacted === true) return [{ reasoningContent: { redactedContent: seal.value } }]
        return [{ reasoningContent: { reasoningText: { text: part.text, signature: seal.value } } }]
      }
      case 'tool_call': {
        this.hasCalls = true
        const toolUse = {
          toolUseId: this.#ids.of(part.id),
          name: plainToolName(part.name),
          input: argumentsObject(part.arguments),
        }
        return [{ toolUse }, ...this.#point(part.cache)]
      }
      default:
        return part satisfies never
    }
  }

  #point(cache: CacheHint | undefined): Block[] {
    if (cache === undefined || !hasCache(this.#rules.family)) return []
    const point = { cachePoint: { type: 'default', ...(cache.ttl === '1h' ? { ttl: '1h' } : {}) } }
    this.#points.push(point)
    return [point]
  }
}

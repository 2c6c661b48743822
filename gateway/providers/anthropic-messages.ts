// A conversation as Anthropic's `system` and `messages`. Owns turns, calls and their answers, images, thoughts with their
// signatures, and where the provider's cache may cut; the rest of the request is anthropic-encoder.ts. Pure.
import { CallIds } from '../../protocol/call-ids.ts'
import type { CacheHint, ChatMessage, ContentPart, Tool } from '../../protocol/request.ts'
import type { ClaudeTraits } from './claude-models.ts'
import { argumentsObject, objectSchema, plainToolName } from './tool-names.ts'

/** Who made a seal that Anthropic can read. */
export const ANTHROPIC_SEAL = 'anthropic'

/** The vendor's limit on cache marks in one request; the last ones cover the most. */
const CACHE_MARKS_MAX = 4
/** Of ids of calls that are made here, as another provider's has characters that this one refuses. */
const MADE_ID_CHARS = 9
const TOOL_IDS = /^[A-Za-z0-9_-]{1,256}$/

export type Block = Record<string, unknown> & { type: string }
export type Turn = { role: 'user' | 'assistant' | 'system'; content: Block[] }

export type AnthropicConversation = {
  system: Block[]
  messages: Turn[]
  tools: Record<string, unknown>[]
}

/**
 * Neighbours of one role are one turn, and the answers of tools stand at its head, as the vendor demands. Instructions go
 * into `system`; those in the middle of a conversation stay where they are for models that know such turns, where a user
 * has spoken before and the user speaks not next. Thoughts without a seal of the vendor's are left out, as is empty text.
 */
export function anthropicConversation(
  messages: readonly ChatMessage[],
  tools: readonly Tool[],
  traits: ClaudeTraits,
): AnthropicConversation {
  const writer = new Writer(traits)
  const written = tools.map((tool) => writer.tool(tool))
  for (const [index, message] of messages.entries()) writer.message(message, messages.slice(index + 1))
  const { system, turns } = writer
  writer.cutMarks()
  // Without any turn there is nothing to answer: the instructions are the question.
  if (turns.length === 0) return { system: [], messages: [{ role: 'user', content: system }], tools: written }
  return { system, messages: turns, tools: written }
}

/** Whether the turn that goes on called tools without thinking first, in the vendor's sight. */
export function lacksThoughts(turns: readonly Turn[]): boolean {
  const last = turns.findLast((turn) => turn.role === 'assistant')
  if (last === undefined || !last.content.some((block) => block.type === 'tool_use')) return false
  const first = last.content[0]?.type
  return first !== 'thinking' && first !== 'redacted_thinking'
}

class Writer {
  readonly system: Block[] = []
  readonly turns: Turn[] = []
  readonly #traits: ClaudeTraits
  readonly #ids = new CallIds(MADE_ID_CHARS, TOOL_IDS)
  /** What carries a cache mark, from the beginning of the prompt to its end. */
  readonly #marked: Record<string, unknown>[] = []

  constructor(traits: ClaudeTraits) {
    this.#traits = traits
  }

  tool(tool: Tool): Record<string, unknown> {
    const { name, description, parameters, strict, eagerInput, inputExamples, cache } = tool
    return this.#mark(
      {
        name: plainToolName(name),
        ...(description === undefined ? {} : { description }),
        input_schema: objectSchema(parameters),
        ...(strict === true && this.#traits.hasSchemas ? { strict: true } : {}),
        ...(eagerInput === undefined ? {} : { eager_input_streaming: eagerInput }),
        ...(inputExamples === undefined ? {} : { input_examples: inputExamples }),
      },
      cache,
    )
  }

  message(message: ChatMessage, later: readonly ChatMessage[]): void {
    switch (message.role) {
      case 'system':
      case 'developer':
        this.#instructions(message, later)
        return
      case 'tool':
        this.#toolResult(message)
        return
      case 'user':
      case 'assistant': {
        const blocks = message.content.flatMap((part) => this.#block(part))
        if (blocks.length > 0) this.#turn(message.role).content.push(...blocks)
        return
      }
      default:
        message.role satisfies never
    }
  }

  /** Only the last marks stay. */
  cutMarks(): void {
    for (const block of this.#marked.slice(0, -CACHE_MARKS_MAX)) delete block.cache_control
  }

  #instructions(message: ChatMessage, later: readonly ChatMessage[]): void {
    const blocks = message.content.flatMap((part) => this.#block(part))
    if (blocks.length === 0) return
    const last = this.turns.at(-1)?.role
    const next = later.find(({ role }) => role !== 'system' && role !== 'developer')?.role
    const canStay = last === 'system' || (last === 'user' && next !== 'user' && next !== 'tool')
    if (this.#traits.hasSystemTurns && canStay) this.#turn('system').content.push(...blocks)
    else this.system.push(...blocks)
  }

  #turn(role: Turn['role']): Turn {
    const last = this.turns.at(-1)
    if (last?.role === role) return last
    const turn: Turn = { role, content: [] }
    this.turns.push(turn)
    return turn
  }

  #toolResult(message: ChatMessage): void {
    const content: Block[] = []
    let cache: CacheHint | undefined
    for (const { cache: hint, ...part } of message.content) {
      cache = hint ?? cache
      content.push(...this.#block(part))
    }
    const block: Block = {
      type: 'tool_result',
      tool_use_id: this.#ids.of(message.toolCallId ?? ''),
      ...(content.length === 0 ? {} : { content }),
      ...(message.isError === true ? { is_error: true } : {}),
    }
    const turn = this.#turn('user').content
    const head = turn.findIndex(({ type }) => type !== 'tool_result')
    turn.splice(head < 0 ? turn.length : head, 0, this.#mark(block, cache))
  }

  #block(part: ContentPart): Block[] {
    switch (part.type) {
      case 'text':
      case 'refusal':
        // The vendor refuses text of nothing but white space.
        if (part.text.trim() === '') return []
        return [this.#mark({ type: 'text', text: part.text }, part.cache)]
      case 'image': {
        const { source } = part
        const written =
          source.kind === 'url'
            ? { type: 'url', url: source.url }
            : { type: 'base64', media_type: source.mediaType, data: source.data }
        return [this.#mark({ type: 'image', source: written }, part.cache)]
      }
      case 'thought': {
        const { seal } = part
        if (seal?.by !== ANTHROPIC_SEAL) return []
        if (seal.isRedacted === true) return [{ type: 'redacted_thinking', data: seal.value }]
        return [{ type: 'thinking', thinking: part.text, signature: seal.value }]
      }
      case 'tool_call':
        return [
          this.#mark(
            {
              type: 'tool_use',
              id: this.#ids.of(part.id),
              name: plainToolName(part.name),
              input: argumentsObject(part.arguments),
            },
            part.cache,
          ),
        ]
      default:
        return part satisfies never
    }
  }

  #mark<T extends Record<string, unknown>>(block: T, cache: CacheHint | undefined): T {
    if (cache === undefined) return block
    const marked = { ...block, cache_control: { type: 'ephemeral', ttl: cache.ttl } }
    this.#marked.push(marked)
    return marked
  }
}

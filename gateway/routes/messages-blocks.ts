// Messages of the messages dialect into the internal form. Owns the mapping of each block, which role may have which, and that
// a tool's result becomes a message of its own. Pure.
import { type Block, type MessagesRequest, OWN_SEALS } from '../../protocol/dialects/messages.ts'
import type { Failure } from '../../protocol/errors.ts'
import type { CacheHint, ChatMessage, ContentPart, Seal } from '../../protocol/request.ts'
import { err, ok, type Result } from '../../protocol/result.ts'
import { imageData, imageUrl } from './images.ts'
import { invalid } from './schema-fault.ts'
import { readSeal } from './seals.ts'
import { turnFault } from './turns.ts'

type Message = MessagesRequest['messages'][number]
type Of<Type extends Block['type']> = Extract<Block, { type: Type }>
/** Messages as they grow, each with the index of the caller's message that it began in. */
type Made = ChatMessage & { from: number }

const at = (path: string, message: string): Failure => invalid(`${path}: ${message}`, path)

export function cacheHint(block: { cache_control?: { ttl?: '5m' | '1h' | null | undefined } | null | undefined }): {
  cache?: CacheHint
} {
  const control = block.cache_control
  return control === undefined || control === null ? {} : { cache: { ttl: control.ttl ?? '5m' } }
}

function imageOf(block: Of<'image'>, path: string): Result<ContentPart, Failure> {
  const { source } = block
  const read = source.type === 'url' ? imageUrl(source.url) : imageData(source.media_type, source.data)
  return read.ok
    ? ok({ type: 'image', source: read.value, ...cacheHint(block) })
    : err(at(`${path}.source`, read.error))
}

function textOrImage(block: Of<'text'> | Of<'image'>, path: string): Result<ContentPart, Failure> {
  return block.type === 'image' ? imageOf(block, path) : ok({ type: 'text', text: block.text, ...cacheHint(block) })
}

function resultParts(block: Of<'tool_result'>, path: string): Result<ContentPart[], Failure> {
  const { content } = block
  const parts: ContentPart[] = []
  if (typeof content === 'string') parts.push({ type: 'text', text: content })
  else {
    for (const [index, one] of (content ?? []).entries()) {
      const part = textOrImage(one, `${path}.content.${index}`)
      if (!part.ok) return part
      parts.push(part.value)
    }
  }
  // A tool may say nothing, a message of the internal form may not.
  if (parts.length === 0) parts.push({ type: 'text', text: '' })
  // A hint on the whole result is one on its end.
  Object.assign(parts[parts.length - 1] ?? {}, cacheHint(block))
  return ok(parts)
}

/** What an assistant said, thought and called. */
function assistantParts(blocks: readonly Block[], path: string): Result<ContentPart[], Failure> {
  const parts: ContentPart[] = []
  let ofNextCall: Seal | undefined
  for (const [index, block] of blocks.entries()) {
    switch (block.type) {
      case 'text':
        parts.push({ type: 'text', text: block.text, ...cacheHint(block) })
        break
      case 'tool_use': {
        const seal = ofNextCall === undefined ? {} : { seal: ofNextCall }
        ofNextCall = undefined
        const { id, name, input } = block
        parts.push({ type: 'tool_call', id, name, arguments: JSON.stringify(input), ...seal, ...cacheHint(block) })
        break
      }
      case 'thinking': {
        const proof = readSeal(block.signature, OWN_SEALS)
        parts.push({ type: 'thought', text: block.thinking, ...(proof === undefined ? {} : { seal: proof.seal }) })
        break
      }
      case 'redacted_thinking': {
        const proof = readSeal(block.data, OWN_SEALS, true)
        if (proof?.on === 'call') ofNextCall = proof.seal
        else if (proof !== undefined) parts.push({ type: 'thought', text: '', seal: proof.seal })
        break
      }
      case 'image':
      case 'tool_result':
        return err(at(`${path}.${index}.type`, `Blocks of type '${block.type}' can only be in 'user' messages.`))
      default:
        return block satisfies never
    }
  }
  return ok(parts)
}

/** Results of tools are messages of their own, between what else the user says. */
function addUser(made: Made[], blocks: readonly Block[], from: number): Failure | undefined {
  let said: ContentPart[] = []
  const flush = () => {
    if (said.length > 0) made.push({ role: 'user', content: said, from })
    said = []
  }
  for (const [index, block] of blocks.entries()) {
    const path = `messages.${from}.content.${index}`
    switch (block.type) {
      case 'text':
      case 'image': {
        const part = textOrImage(block, path)
        if (!part.ok) return part.error
        said.push(part.value)
        break
      }
      case 'tool_result': {
        const content = resultParts(block, path)
        if (!content.ok) return content.error
        flush()
        const isError = block.is_error === true ? { isError: true } : {}
        made.push({ role: 'tool', toolCallId: block.tool_use_id, content: content.value, ...isError, from })
        break
      }
      case 'tool_use':
      case 'thinking':
      case 'redacted_thinking':
        return at(`${path}.type`, `Blocks of type '${block.type}' can only be in 'assistant' messages.`)
      default:
        return block satisfies never
    }
  }
  flush()
  return undefined
}

function addSystem(made: Made[], blocks: readonly Block[], from: number): Failure | undefined {
  const content: ContentPart[] = []
  for (const [index, block] of blocks.entries()) {
    if (block.type !== 'text') {
      return at(
        `messages.${from}.content.${index}.type`,
        `Blocks of type '${block.type}' cannot be in 'system' messages.`,
      )
    }
    content.push({ type: 'text', text: block.text, ...cacheHint(block) })
  }
  made.push({ role: 'system', content, from })
  return undefined
}

function add(made: Made[], message: Message, from: number): Failure | undefined {
  const { role, content } = message
  const blocks: readonly Block[] = typeof content === 'string' ? [{ type: 'text', text: content }] : content
  if (role !== 'assistant') {
    if (blocks.length === 0) return at(`messages.${from}.content`, `A '${role}' message must not be empty.`)
    return role === 'user' ? addUser(made, blocks, from) : addSystem(made, blocks, from)
  }
  const parts = assistantParts(blocks, `messages.${from}.content`)
  if (!parts.ok) return parts.error
  const last = made.at(-1)
  // One turn may come in several messages: its calls are answered together.
  if (last?.role === 'assistant') last.content.push(...parts.value)
  else made.push({ role, content: parts.value, from })
  return undefined
}

/** The messages in the internal form, whose calls and results belong together; `err` with the path in this dialect. */
export function chatMessages(messages: readonly Message[]): Result<ChatMessage[], Failure> {
  const made: Made[] = []
  for (const [from, message] of messages.entries()) {
    const failure = add(made, message, from)
    if (failure !== undefined) return err(failure)
  }
  const fault = turnFault(made)
  if (fault === undefined) return ok(made.map(({ from: _, ...message }) => message))
  const path = `messages.${made[fault.at]?.from ?? 0}.content`
  const shown = fault.callId.slice(0, 100)
  switch (fault.reason) {
    case 'unknown': {
      const text = `unexpected 'tool_use_id' in a 'tool_result' block: '${shown}' is no 'tool_use' of the message before it.`
      return err(at(path, text))
    }
    case 'repeated':
      return err(at(path, `the id '${shown}' stands there twice.`))
    case 'unanswered': {
      const text = `each 'tool_use' needs its 'tool_result' at the start of the next message; '${shown}' has none.`
      return err(at(path, text))
    }
    default:
      return fault.reason satisfies never
  }
}

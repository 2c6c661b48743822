// A conversation as Gemini's `contents`. Owns turns, calls and their answers, images, and the signatures that go back word
// for word; the rest of the request is gemini-encoder.ts. Pure.
import type { Failure } from '../../protocol/errors.ts'
import { type ChatMessage, type ContentPart, messageText } from '../../protocol/request.ts'
import { ok, type Result } from '../../protocol/result.ts'
import { refuse } from './refusal.ts'

/** Who made a seal that Gemini can read. */
export const GEMINI_SEAL = 'gemini'

/**
 * In place of a signature for calls that another model made, or whose client lost it: models from the third generation
 * on refuse the first call of a turn without one, and Google names this value for such histories.
 */
const NO_SIGNATURE = 'skip_thought_signature_validator'

/** Older models take no pictures inside a tool's answer: they get them beside it. */
const OLDER = /(^|\/)gemini-(1|2)([.-]|$)/i

type Part = Record<string, unknown>
type Content = { role: 'user' | 'model'; parts: Part[] }

export type Conversation = { system: Part[]; contents: Content[] }

/** Instructions, wherever they stand, are told apart from the conversation: there is one place for them. */
export function geminiContents(messages: ChatMessage[], model: string): Result<Conversation, Failure> {
  const system: Part[] = []
  const contents: Content[] = []
  const names = new Map<string, string>()
  const isOlder = OLDER.test(model)
  let last: ChatMessage['role'] | undefined
  for (const message of messages) {
    if (message.role === 'system' || message.role === 'developer') {
      system.push({ text: messageText(message) })
      continue
    }
    const parts = partsOf(message, names, isOlder)
    if (!parts.ok) return parts
    if (parts.value.length === 0) continue
    const open = contents.at(-1)
    // Answers of tools stay together, as their calls were, and apart from what the user says after them.
    if (open !== undefined && last === message.role) open.parts.push(...parts.value)
    else contents.push({ role: message.role === 'assistant' ? 'model' : 'user', parts: parts.value })
    last = message.role
  }
  // Without any turn there is nothing to answer: the instructions are the question.
  if (contents.length === 0) return ok({ system: [], contents: [{ role: 'user', parts: system }] })
  return ok({ system, contents })
}

function partsOf(message: ChatMessage, names: Map<string, string>, isOlder: boolean): Result<Part[], Failure> {
  if (message.role === 'tool') return toolAnswer(message, names, isOlder)
  const parts: Part[] = []
  let hasSignedCall = false
  for (const part of message.content) {
    switch (part.type) {
      case 'text':
      case 'refusal':
        if (part.text !== '') parts.push({ text: part.text })
        break
      case 'image': {
        const image = imagePart(part)
        if (!image.ok) return image
        parts.push(image.value)
        break
      }
      case 'thought': {
        // Thoughts that Gemini did not sign mean nothing to it.
        if (part.seal?.by !== GEMINI_SEAL) break
        const signed = { text: part.text, thoughtSignature: part.seal.value }
        parts.push(part.text === '' ? signed : { ...signed, thought: true })
        break
      }
      case 'tool_call': {
        names.set(part.id, part.name)
        const own = part.seal?.by === GEMINI_SEAL ? part.seal.value : undefined
        // Of calls made side by side only the first one carries a signature.
        const signature = own ?? (hasSignedCall || isOlder ? undefined : NO_SIGNATURE)
        hasSignedCall = true
        parts.push({
          functionCall: { id: part.id, name: part.name, args: argumentsOf(part.arguments) },
          ...(signature === undefined ? {} : { thoughtSignature: signature }),
        })
        break
      }
      default:
        return part satisfies never
    }
  }
  return ok(parts)
}

/** Gemini has objects for arguments; what a model wrote otherwise is shown to it as it was. */
function argumentsOf(text: string): unknown {
  if (text.trim() === '') return {}
  try {
    const json: unknown = JSON.parse(text)
    if (typeof json === 'object' && json !== null && !Array.isArray(json)) return json
  } catch {
    // Not JSON: below.
  }
  return { arguments: text }
}

function toolAnswer(message: ChatMessage, names: Map<string, string>, isOlder: boolean): Result<Part[], Failure> {
  const id = message.toolCallId
  const name = id === undefined ? undefined : names.get(id)
  if (id === undefined || name === undefined) {
    return refuse('messages', 'A tool message answers a call that no earlier message of the conversation holds.')
  }
  const images: Part[] = []
  for (const part of message.content) {
    if (part.type !== 'image') continue
    const image = imagePart(part)
    if (!image.ok) return image
    images.push(image.value)
  }
  // As text: numbers of a JSON object would be rounded to floats on the way.
  const response = { [message.isError === true ? 'error' : 'output']: messageText(message) }
  const inside = images.length === 0 || isOlder ? {} : { parts: images }
  return ok([{ functionResponse: { id, name, response, ...inside } }, ...(isOlder ? images : [])])
}

function imagePart({ source }: ContentPart & { type: 'image' }): Result<Part, Failure> {
  if (source.kind === 'data') return ok({ inlineData: { mimeType: source.mediaType, data: source.data } })
  return refuse('messages', 'This model takes images as data only, not by address: send the image as a data URL.')
}

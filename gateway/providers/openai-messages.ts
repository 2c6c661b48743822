// Chat messages in OpenAI's form. Owns what becomes of each kind of part: calls, tool results, images, thoughts, refusals,
// cache hints. The other fields are openai-encoder.ts. Pure.
//
// Tool messages take text alone: images that a tool returned follow in one user message, behind the last of the results that
// belong together, each introduced by the id of its call. That a tool failed has no field: the text says it. Where a server
// takes no user behind a tool, a short answer of the assistant stands between them.

import { CallIds } from '../../protocol/call-ids.ts'
import type { ChatMessage, ContentPart, ImageSource } from '../../protocol/request.ts'
import { cacheField } from './cache-hints.ts'
import type { Preset } from './presets.ts'
import { failedResult } from './refusal.ts'

type Json = Record<string, unknown>
type Image = ContentPart & { type: 'image' }

/** Seals that a preset's servers made; its name is the mark. */
export type SealMark = string | undefined

const IMAGE_FOLLOWS = 'The result is an image, in the next user message.'
/** In the place of the answer that the assistant gave to results, and that the caller left out. */
const RESULTS_READ = 'I have read the results.'

/** @param mark Whose seals are given back; undefined: nobody's. */
export function openAiMessages(messages: readonly ChatMessage[], preset: Preset, mark: SealMark): Json[] {
  const ids = new CallIds(preset.callIdChars)
  const written: Json[] = []
  let images: Json[] = []
  const bridge = () => {
    if (preset.needsAnswerToResults === true && written.at(-1)?.role === 'tool') {
      written.push({ role: 'assistant', content: RESULTS_READ })
    }
  }
  const flush = () => {
    if (images.length > 0) {
      bridge()
      written.push({ role: 'user', content: images })
    }
    images = []
  }
  for (const message of messages) {
    if (message.role !== 'tool') flush()
    const name = message.name === undefined || !preset.hasNames ? {} : { name: message.name }
    switch (message.role) {
      case 'system':
      case 'developer': {
        const role = preset.hasDeveloperRole ? message.role : 'system'
        written.push({ role, content: contentOf(message.content, preset), ...name })
        break
      }
      case 'user':
        bridge()
        written.push({ role: 'user', content: contentOf(message.content, preset), ...name })
        break
      case 'assistant':
        written.push({ role: 'assistant', ...assistantFields(message.content, preset, mark, ids), ...name })
        break
      case 'tool': {
        const id = ids.of(message.toolCallId ?? '')
        const shown = message.content.filter((part): part is Image => part.type === 'image')
        if (shown.length > 0) {
          images.push(
            { type: 'text', text: `Returned by the tool call ${id}:` },
            ...shown.map((part) => imagePart(part)),
          )
        }
        written.push({ role: 'tool', tool_call_id: id, content: resultOf(message, preset, shown.length > 0), ...name })
        break
      }
      default:
        message.role satisfies never
    }
  }
  flush()
  return written
}

/** One text where no part needs to be told apart from its neighbours, the form that every server knows. */
function contentOf(parts: readonly ContentPart[], preset: Preset): string | Json[] {
  const isPlain = parts.every((part) => isSaid(part) && (part.cache === undefined || preset.cacheMarks === undefined))
  if (isPlain) return textOf(parts)
  return parts.flatMap((part): Json[] => {
    if (part.type === 'image') return [{ ...imagePart(part), ...cacheField(part.cache, preset) }]
    return isSaid(part) ? [{ type: 'text', text: part.text, ...cacheField(part.cache, preset) }] : []
  })
}

function resultOf(message: ChatMessage, preset: Preset, hasImages: boolean): string | Json[] {
  const texts = message.content.filter(isSaid)
  if (message.isError === true) {
    const [first, ...rest] = texts.filter(({ text }) => text !== '')
    return first === undefined
      ? failedResult('')
      : contentOf([{ ...first, text: failedResult(first.text) }, ...rest], preset)
  }
  if (textOf(texts) !== '') return contentOf(texts, preset)
  return hasImages ? IMAGE_FOLLOWS : ''
}

function assistantFields(parts: readonly ContentPart[], preset: Preset, mark: SealMark, ids: CallIds): Json {
  const calls = parts.flatMap((part) => (part.type === 'tool_call' ? [part] : []))
  const refusal = preset.hasRefusals ? joined(parts, 'refusal') : ''
  const said = parts.filter((part) => part.type === 'text' || (part.type === 'refusal' && refusal === ''))
  const hasText = said.length > 0
  // A message of calls alone has no content, which is not the same as an empty one.
  // A breakpoint stands in what is asked; in what was answered the vendor knows none.
  const marks = preset.cacheMarks === 'breakpoint' ? { ...preset, cacheMarks: undefined } : preset
  const content = hasText || (calls.length === 0 && refusal === '') ? contentOf(said, marks) : null
  return {
    content: preset.thoughtField === 'chunks' ? withChunks(parts, content) : content,
    ...(refusal === '' ? {} : { refusal }),
    ...thoughtFields(parts, preset, mark, calls.length > 0),
    ...(calls.length === 0
      ? {}
      : {
          tool_calls: calls.map((call) => ({
            id: ids.of(call.id),
            type: 'function',
            function: { name: call.name, arguments: call.arguments },
          })),
        }),
  }
}

function thoughtFields(parts: readonly ContentPart[], preset: Preset, mark: SealMark, hasCalls: boolean): Json {
  const thought = joined(parts, 'thought')
  const must = hasCalls && preset.needsThoughtsOfCalls === true
  switch (preset.thoughtField) {
    case undefined:
    case 'chunks':
      return {}
    case 'reasoning_content':
    case 'reasoning':
      return thought === '' && !must ? {} : { [preset.thoughtField]: thought }
    case 'reasoning_details': {
      const details = parts.flatMap((part) => (part.type === 'thought' ? detailsOf(part.seal, mark) : []))
      if (details.length > 0) return { reasoning_details: details }
      return thought === '' ? {} : { reasoning: thought }
    }
    default:
      return preset.thoughtField satisfies never
  }
}

/** What the decoder put into the seal; a caller may have changed it, so it is read as anything else from outside. */
function detailsOf(seal: { by: string; value: string } | undefined, mark: SealMark): unknown[] {
  if (seal === undefined || mark === undefined || seal.by !== mark) return []
  try {
    const details: unknown = JSON.parse(seal.value)
    return Array.isArray(details) ? details : []
  } catch {
    return []
  }
}

function withChunks(parts: readonly ContentPart[], content: string | Json[] | null): string | Json[] | null {
  const thought = joined(parts, 'thought')
  if (thought === '') return content
  const thinking = { type: 'thinking', thinking: [{ type: 'text', text: thought }] }
  if (content === null || content === '') return [thinking]
  return [thinking, ...(typeof content === 'string' ? [{ type: 'text', text: content }] : content)]
}

function imagePart(part: Image): Json {
  const detail = part.detail === undefined ? {} : { detail: part.detail }
  return { type: 'image_url', image_url: { url: urlOf(part.source), ...detail } }
}

const urlOf = (source: ImageSource): string =>
  source.kind === 'url' ? source.url : `data:${source.mediaType};base64,${source.data}`

const isSaid = (part: ContentPart): part is ContentPart & { type: 'text' | 'refusal' } =>
  part.type === 'text' || part.type === 'refusal'

const textOf = (parts: readonly ContentPart[]): string => parts.map((part) => (isSaid(part) ? part.text : '')).join('')

const joined = (parts: readonly ContentPart[], type: 'refusal' | 'thought'): string =>
  parts.map((part) => (part.type === type ? part.text : '')).join('')

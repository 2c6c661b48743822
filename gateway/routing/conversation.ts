// Which conversation a request belongs to, as a number, and which of several targets that number leads to. Owns both hashes:
// neither is a secret's, they only spread. Pure.
import type { InferenceRequest } from '../../protocol/request.ts'

/** Of a long first message this much tells one conversation from another. */
const TEXT_CHARS_MAX = 4096
/** Of images, a piece of the data. */
const IMAGE_CHARS_MAX = 256

/**
 * What stays the same over the turns of a conversation: everything up to the first thing the user said, the tools, and the
 * caller's own word for it.
 */
export function conversationText(request: InferenceRequest): string {
  const { input, tools = [], promptCacheKey = '' } = request
  const parts = [promptCacheKey, ...tools.map(({ name }) => name)]
  if (input.kind !== 'chat') {
    const [first] = input.prompts
    if (first !== undefined) parts.push('text' in first ? cut(first.text) : first.tokenIds.slice(0, 256).join(','))
    return parts.join('\n')
  }
  for (const { role, content } of input.messages) {
    parts.push(role)
    for (const part of content) {
      if (part.type === 'text') parts.push(cut(part.text))
      else if (part.type === 'image') {
        const { source } = part
        parts.push(source.kind === 'url' ? cut(source.url) : source.data.slice(0, IMAGE_CHARS_MAX))
      }
    }
    if (role === 'user') break
  }
  return parts.join('\n')
}

/**
 * A number in (0, 1), the same for the same text: 32-bit FNV-1a (Fowler, Noll, Vo), stirred by the finaliser of MurmurHash3
 * (Appleby), because the first alone hardly moves its high bits for texts that differ at their end.
 */
export function hashShare(text: string): number {
  let hash = 0x811c9dc5
  for (let index = 0; index < text.length; index++) hash = Math.imul(hash ^ text.charCodeAt(index), 0x01000193)
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b)
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35)
  hash ^= hash >>> 16
  return ((hash >>> 0) + 0.5) / 2 ** 32
}

/**
 * Rendezvous hashing: each name draws by the text and its weight, the highest wins. Whoever leaves or comes moves only the
 * conversations that were or will be its own (Thaler and Ravishankar, 1998; with weights: −weight / ln(draw)).
 * @param names At least one weight above zero, else the first name.
 */
export function rendezvous<T>(text: string, names: readonly { of: T; name: string; weight: number }[]): T | undefined {
  let most = Number.NEGATIVE_INFINITY
  let winner = names[0]
  for (const one of names) {
    const score = one.weight <= 0 ? Number.NEGATIVE_INFINITY : -one.weight / Math.log(hashShare(`${one.name}\n${text}`))
    if (score <= most) continue
    most = score
    winner = one
  }
  return winner?.of
}

const cut = (text: string): string => text.slice(0, TEXT_CHARS_MAX)

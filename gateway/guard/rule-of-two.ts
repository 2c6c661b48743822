// The two-of-three rule for agents. Owns which capabilities the tools of a request bring together and the words of a
// refusal; which tool has which capability is the organisation's to say. Pure.
import type { Failure } from '../../protocol/errors.ts'
import type { InferenceRequest } from '../../protocol/request.ts'
import { CAPABILITIES, CAPABILITIES_MAX, type Capability } from './capability.ts'

/** `pattern` is a tool's name, or the beginning of names followed by `*`. */
export type ToolTag = { pattern: string; capabilities: readonly Capability[] }

export type ToolTags = {
  tags: readonly ToolTag[]
  /** What a tool can reach that no tag names. */
  untagged: readonly Capability[]
}

const NAMES_SHOWN = 3
const NAME_CHARS_SHOWN = 64

/** Its exact tag, else that with the longest beginning, else what untagged tools have. */
export function capabilitiesOf(name: string, { tags, untagged }: ToolTags): readonly Capability[] {
  let best: ToolTag | undefined
  for (const tag of tags) {
    if (tag.pattern === name) return tag.capabilities
    const isPrefix = tag.pattern.endsWith('*') && name.startsWith(tag.pattern.slice(0, -1))
    if (isPrefix && tag.pattern.length > (best?.pattern.length ?? 0)) best = tag
  }
  return best?.capabilities ?? untagged
}

/**
 * A request is one step of a run: what it offers now counts together with what was called before in its messages.
 * @param allowed Of the key; absent: any CAPABILITIES_MAX of them.
 * @returns Failure `permission_denied` naming tools and capabilities, and what to take away.
 */
export function toolsRefusal(
  request: InferenceRequest,
  tags: ToolTags,
  allowed: readonly Capability[] | undefined,
): Failure | undefined {
  if (tags.tags.length === 0 && tags.untagged.length === 0) return undefined
  const offered = (request.tools ?? []).map(({ name }) => name)
  const called = calledTools(request)
  if (offered.length === 0 && called.length === 0) return undefined
  const holders = new Map<Capability, Set<string>>()
  for (const name of [...offered, ...called]) {
    for (const capability of capabilitiesOf(name, tags)) {
      const names = holders.get(capability) ?? new Set()
      holders.set(capability, names.add(name))
    }
  }
  const held = CAPABILITIES.filter((capability) => holders.has(capability))
  const shown = (capabilities: readonly Capability[]) =>
    capabilities.map((one) => `${one} (${namesText([...(holders.get(one) ?? [])])})`).join(', ')
  const beyond = allowed === undefined ? [] : held.filter((capability) => !allowed.includes(capability))
  if (allowed !== undefined && beyond.length > 0) {
    const may = allowed.length === 0 ? 'none of them' : allowed.join(' and ')
    return denied(
      `The tools of this request, with those called earlier in its messages, reach ${shown(beyond)}; ` +
        `this API key may use ${may}. Remove these tools and their calls.`,
    )
  }
  if (held.length <= CAPABILITIES_MAX) return undefined
  return denied(
    `The tools of this request, with those called earlier in its messages, combine ${shown(held)}; ` +
      `one run may combine at most ${CAPABILITIES_MAX} of ${CAPABILITIES.join(', ')}. ` +
      'Remove the tools of one of them, or begin a new conversation without their calls.',
  )
}

function calledTools({ input }: InferenceRequest): string[] {
  if (input.kind !== 'chat') return []
  const names = new Set<string>()
  for (const { content } of input.messages)
    for (const part of content) if (part.type === 'tool_call') names.add(part.name)
  return [...names]
}

function namesText(names: readonly string[]): string {
  const some = names.slice(0, NAMES_SHOWN).map((name) => name.slice(0, NAME_CHARS_SHOWN))
  return names.length > NAMES_SHOWN ? `${some.join(', ')} and ${names.length - NAMES_SHOWN} more` : some.join(', ')
}

const denied = (message: string): Failure => ({ code: 'permission_denied', message, param: 'tools' })

// What the generations of Claude understand, by their names. Owns the table: one model has many names (the vendor's own, of
// cloud platforms, with dates and versions), and its interface refuses what a generation does not know. Pure.

export type ClaudeTraits = {
  /**
   * `budget`: asked with a number of tokens; `either`: so, or left to itself under an effort; `adaptive`: only the latter;
   * `none`: thinks nothing.
   */
  thinking: 'none' | 'budget' | 'either' | 'adaptive'
  /** The word that keeps it from thinking before it answers; undefined: nothing does. */
  offWord: 'disabled' | 'between_tools' | undefined
  /** Can be made to call a tool. */
  hasForcedCalls: boolean
  /** Words for an effort that it knows beside `low`, `medium` and `high`. */
  highEfforts: readonly string[]
  /** Takes temperature, top_p and top_k. */
  hasSampling: boolean
  /** Can be held to a JSON schema, in answers and in a tool's arguments. */
  hasSchemas: boolean
  /** Takes instructions in the middle of a conversation. */
  hasSystemTurns: boolean
  /** Every model of the generation gives as much in one answer. */
  outputTokensSafe: number
}

const OLD: ClaudeTraits = {
  thinking: 'none',
  offWord: 'disabled',
  hasForcedCalls: true,
  highEfforts: [],
  hasSampling: true,
  hasSchemas: false,
  hasSystemTurns: false,
  outputTokensSafe: 4096,
}
const NEWEST: ClaudeTraits = {
  thinking: 'adaptive',
  offWord: 'disabled',
  hasForcedCalls: true,
  highEfforts: ['xhigh', 'max'],
  hasSampling: false,
  hasSchemas: true,
  hasSystemTurns: true,
  outputTokensSafe: 32_000,
}
/** Servers that speak the interface and are no Claude: the form that all of them have known from the start. */
const OTHERS: ClaudeTraits = { ...OLD, thinking: 'budget', outputTokensSafe: 8192 }

const VERSION_FIRST = /claude-(\d)(?:[-.](\d))?-[a-z]/
const FAMILY_FIRST = /claude-([a-z]+)-(\d{1,2})(?:[-.](\d{1,2}))?(?!\d)/
const BEFORE_THREE = /claude-(instant|v?[12](?!\d))/
/** These were never without thoughts. */
const LARGEST = /claude-(fable|mythos)/

export const isClaude = (model: string): boolean => model.toLowerCase().includes('claude')

/** An unknown Claude is taken for a new one. */
export function claudeTraits(model: string): ClaudeTraits {
  const name = model.toLowerCase()
  if (!isClaude(name)) return OTHERS
  const version = versionOf(name)
  if (version === undefined) return { ...NEWEST, ...boundTo(name, 0) }
  if (version < 305) return OLD
  if (version < 307) return { ...OLD, outputTokensSafe: 8192 }
  if (version < 400) return { ...OLD, thinking: 'budget', outputTokensSafe: 8192 }
  if (version < 406) {
    const hasSchemas = version >= 405 || (version >= 401 && name.includes('opus'))
    return { ...OLD, thinking: 'budget', hasSchemas, outputTokensSafe: 32_000 }
  }
  if (version < 407) {
    return { ...NEWEST, thinking: 'either', highEfforts: ['max'], hasSampling: true, hasSystemTurns: false }
  }
  return { ...NEWEST, ...boundTo(name, version), hasSystemTurns: version >= 408 }
}

/**
 * What thinking costs the newest of each size: they cannot be kept from it, or by another word, and no call is forced past it.
 * platform.claude.com/docs, "What's new in" Fable 5.1, Opus 5.5 and Sonnet 5.5. Of what a name does not tell, the vendor says no.
 */
function boundTo(name: string, version: number): Pick<ClaudeTraits, 'offWord' | 'hasForcedCalls'> {
  if (LARGEST.test(name)) return { offWord: undefined, hasForcedCalls: version < 501 }
  if (version < 505 || !/claude-(opus|sonnet)/.test(name)) return { offWord: 'disabled', hasForcedCalls: true }
  return { offWord: name.includes('sonnet') ? 'between_tools' : undefined, hasForcedCalls: false }
}

/** Major and minor as one number, 406 for 4.6; undefined where the name tells none. */
function versionOf(name: string): number | undefined {
  if (BEFORE_THREE.test(name)) return 200
  const [first, major, minor] = VERSION_FIRST.exec(name) ?? []
  if (first !== undefined) return Number(major) * 100 + Number(minor ?? 0)
  const [found, , familyMajor, familyMinor] = FAMILY_FIRST.exec(name) ?? []
  return found === undefined ? undefined : Number(familyMajor) * 100 + Number(familyMinor ?? 0)
}

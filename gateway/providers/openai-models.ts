// What OpenAI's models are known to take, by their names. Owns the table: which are served on the responses route alone, which
// take tools only there, and which never think. A deployment with a name of the operator's own says nothing. Pure.

export type OpenAiTraits = {
  /** The chat route does not know it. */
  needsResponses: boolean
  /** Thinks unless told otherwise, and takes tools on the chat route only when it is told not to. */
  needsResponsesForTools: boolean
  /** Undefined: the name does not tell. */
  thinks: boolean | undefined
  /** Parts may say up to where the prompt is to be kept. */
  hasCacheBreakpoints: boolean
}

const FAMILY = /(?:^|[/:])(gpt|o\d|codex|chatgpt|computer-use)/
const VERSION = /(?:^|[/:])gpt-(\d{1,2})(?:\.(\d{1,2}))?(?!\d)/
/** developers.openai.com/api/docs/models: these list the responses route, and no chat completions. */
const RESPONSES_ALONE = /(^|[-/:])(codex|pro|deep-research|computer-use)(-|$)/
const THINKS_ALWAYS = /(?:^|[/:])(o\d|codex)(-|$)/
/** The models of the vendor's own chat client answer at once. */
const CHAT_CLIENT = /(^|-)(chatgpt|chat)(-|$)/

/** developers.openai.com/api/docs/guides/responses-vs-chat-completions: from 5.4 on. */
const TOOLS_MOVED_WITH = 504
const FIRST_THINKING = 500
/** developers.openai.com/api/docs/guides/prompt-caching: from 5.6 on, which also bill what is written. */
const BREAKPOINTS_SINCE = 506
/** Azure's name for 3.5, where a name has no dot. */
const WITHOUT_DOT = '35'

export function openAiTraits(model: string): OpenAiTraits {
  const name = model.toLowerCase()
  const needsResponses = FAMILY.test(name) && RESPONSES_ALONE.test(name)
  const plain = { needsResponses, needsResponsesForTools: false, hasCacheBreakpoints: false }
  if (THINKS_ALWAYS.test(name)) return { ...plain, thinks: true }
  if (CHAT_CLIENT.test(name)) return { ...plain, thinks: false }
  const [found, major, minor] = VERSION.exec(name) ?? []
  if (found === undefined) return { ...plain, thinks: undefined }
  const version = major === WITHOUT_DOT ? 305 : Number(major) * 100 + Number(minor ?? 0)
  return {
    needsResponses,
    needsResponsesForTools: version >= TOOLS_MOVED_WITH,
    thinks: version >= FIRST_THINKING,
    hasCacheBreakpoints: version >= BREAKPOINTS_SINCE,
  }
}

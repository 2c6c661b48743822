// When two requests are the same request. Owns the canonical form and its digest; what an answer is kept under is nothing
// but this digest, so neither prompt nor organisation can be read off it. Pure.
import type { ChatMessage, InferenceRequest, Tool } from '../../protocol/request.ts'
import type { Target } from '../policy/plan.ts'

/** Part of every key: answers kept in an older form are not found any more, and age out. */
const FORM = 'penstock/answer/v2'

/** Headers of ours that change neither the answer nor who may give it; every other one makes another request. */
const WITHOUT_EFFECT: ReadonlySet<string> = new Set([
  'x-penstock-cache',
  'x-penstock-cache-ttl-s',
  'x-penstock-deadline-ms',
  'x-penstock-resumable',
  'x-penstock-tags',
])
const OWN_HEADER = 'x-penstock-'

/**
 * Whose request it is. Answers never cross an organisation's or a project's border, nor that of the end user to whom a
 * credential is bound: it was given out to be of no other's use.
 */
export type CacheOwner = { orgId: string; projectId: string; endUser?: string | undefined }

/** What the model's name stands for: a name that is moved to other targets has other answers. */
export type Served = Pick<Target, 'provider' | 'model' | 'serviceTier'>

/**
 * SHA-256, hex, of the owner, the model's targets, the caller's routing hints and the normalised request.
 * @param targets In the order of the catalog.
 * @param request After the content rules had their say: what they masked is masked here too.
 */
export async function answerKey(
  owner: CacheOwner,
  targets: readonly Served[],
  request: InferenceRequest,
  headers: Headers,
): Promise<string> {
  const hints = [...headers].filter(([name]) => name.startsWith(OWN_HEADER) && !WITHOUT_EFFECT.has(name))
  const { orgId, projectId, endUser } = owner
  const served = targets.map(({ provider, model, serviceTier }) => [provider, model, serviceTier])
  const text = canonicalJson([FORM, orgId, projectId, endUser, served, hints, normalised(request)])
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', new TextEncoder().encode(text)))
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, '0')).join('')
}

/**
 * The request without what changes no answer: the end user it names (a word for reports), the key and the marks by which
 * providers keep prompts. A seed, a temperature and a bound on the output do change it and stay.
 */
function normalised(request: InferenceRequest): unknown {
  const { input } = request
  const { logitBias } = request.sampling
  return {
    ...request,
    input: input.kind === 'chat' ? { ...input, messages: input.messages.map(withoutHints) } : input,
    sampling: { ...request.sampling, logitBias: logitBias.toSorted((a, b) => a.tokenId - b.tokenId) },
    tools: request.tools?.map((tool: Tool) => ({ ...tool, cache: undefined })),
    endUser: undefined,
    promptCacheKey: undefined,
    promptCacheMode: undefined,
  }
}

const withoutHints = (message: ChatMessage) => ({
  ...message,
  content: message.content.map((part) => ({ ...part, cache: undefined })),
})

/** JSON whose text depends on the value alone: keys in the order of their UTF-16 units, what is absent left out. */
export function canonicalJson(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map((one) => canonicalJson(one ?? null)).join(',')}]`
  if (typeof value !== 'object' || value === null) return JSON.stringify(value) ?? 'null'
  const fields: string[] = []
  for (const [name, one] of Object.entries(value).sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0))) {
    if (one !== undefined) fields.push(`${JSON.stringify(name)}:${canonicalJson(one)}`)
  }
  return `{${fields.join(',')}}`
}

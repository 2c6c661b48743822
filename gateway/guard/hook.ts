// Content rules of an organisation as they are stored and as they run. Owns the form of their settings, which is also the
// admin API's, and the making of finders out of them. Pure.
import * as z from 'zod'
import { late } from '../../protocol/late.ts'
import { err, ok, type Result } from '../../protocol/result.ts'
import { type Reach, reachOf } from '../policy/reach.ts'
import { type Finder, patternFinder } from './finder.ts'
import { parsePattern } from './pattern.ts'
import { PII_ENTITIES, piiFinder } from './pii.ts'

export const HOOK_STAGES = ['input', 'output'] as const
export type HookStage = (typeof HOOK_STAGES)[number]

const PATTERNS_MAX = 20
const MESSAGE_CHARS_MAX = 500
const WEBHOOK_TIMEOUT_MIN_MS = 10
/** A guard that thinks longer than this is felt by everybody who waits for it. */
const WEBHOOK_TIMEOUT_MAX_MS = 2_000
const WEBHOOK_TIMEOUT_DEFAULT_MS = 300

/** What a caller is told in place of an answer. */
const message = late(() =>
  z
    .string()
    .min(1)
    .max(MESSAGE_CHARS_MAX)
    .regex(/^[^\p{Cc}]*$/u, 'must not hold control characters')
    .exactOptional(),
)
/** `block` refuses, `mask` puts a word in the place of what was found, `flag` writes a line into the log. */
const action = late(() => z.enum(['block', 'mask', 'flag']))

/** What each kind of hook is told beside its name and its stages. */
export const HOOK_SETTINGS = {
  regex: late(() =>
    z.strictObject({
      patterns: z.array(z.string()).min(1).max(PATTERNS_MAX),
      ignore_case: z.boolean().default(false),
      action,
      /** In the place of a match. No quotes and no backslash: it may stand inside of JSON. */
      replacement: z
        .string()
        .max(64)
        .regex(/^[^"'\\\p{Cc}]*$/u, 'must not hold quotes, backslashes or control characters')
        .default('[REDACTED]'),
      message,
    }),
  ),
  pii: late(() =>
    z.strictObject({
      entities: z.array(z.enum(PII_ENTITIES)).min(1).max(PII_ENTITIES.length),
      action,
      message,
    }),
  ),
  webhook: late(() =>
    z.strictObject({
      url: z.string(),
      allow_private: z.boolean().default(false),
      timeout_ms: z.int().min(WEBHOOK_TIMEOUT_MIN_MS).max(WEBHOOK_TIMEOUT_MAX_MS).default(WEBHOOK_TIMEOUT_DEFAULT_MS),
      /** Where it is late, unreachable or answers nothing valid: `open` goes on without it, `closed` refuses. */
      on_failure: z.enum(['open', 'closed']),
      message,
    }),
  ),
} as const
export type HookKind = keyof typeof HOOK_SETTINGS

type Settings = { [K in HookKind]: z.infer<(typeof HOOK_SETTINGS)[K]> }

/** The stored JSON: kind and settings. */
export const StoredHook = late(() =>
  z.discriminatedUnion('kind', [
    z.object({ kind: z.literal('regex'), settings: HOOK_SETTINGS.regex }),
    z.object({ kind: z.literal('pii'), settings: HOOK_SETTINGS.pii }),
    z.object({ kind: z.literal('webhook'), settings: HOOK_SETTINGS.webhook }),
  ]),
)
export type StoredHook = z.infer<typeof StoredHook>

type Common = {
  hookId: string
  /** The administrator's name for it: in logs and refusals. */
  name: string
  stages: readonly HookStage[]
  /** Absent: every project of the organisation. */
  projectId?: string
  message: string
}

/** Looks at texts here. */
export type TextHook = Common & {
  kind: 'regex' | 'pii'
  action: Settings['pii']['action']
  finders: readonly Finder[]
  replacement: (label: string) => string
}

/** Asks somebody else. */
export type WebhookHook = Common & {
  kind: 'webhook'
  url: string
  reach: Reach
  timeoutMs: number
  onFailure: Settings['webhook']['on_failure']
  secretCiphertext: string
}

export type Hook = TextHook | WebhookHook

export type HookIdentity = Omit<Common, 'message'> & { secretCiphertext?: string }

/** A hook ready to run. @returns where it cannot be, the setting that is wrong and why. */
export function hookOf(identity: HookIdentity, stored: StoredHook): Result<Hook, { param: string; message: string }> {
  const { hookId, name, stages, projectId } = identity
  const common: Common = {
    hookId,
    name,
    stages,
    ...(projectId === undefined ? {} : { projectId }),
    message: stored.settings.message ?? `Refused by the content rule "${name}" of this organisation.`,
  }
  switch (stored.kind) {
    case 'regex': {
      const { patterns, ignore_case: ignoreCase, action, replacement } = stored.settings
      const finders: Finder[] = []
      for (const [index, text] of patterns.entries()) {
        const pattern = parsePattern(text, ignoreCase)
        if (!pattern.ok) return err({ param: `patterns[${index}]`, message: pattern.error })
        finders.push(patternFinder(`pattern ${index}`, pattern.value))
      }
      return ok({ ...common, kind: stored.kind, action, finders, replacement: () => replacement })
    }
    case 'pii': {
      const { entities, action } = stored.settings
      const finders = [...new Set(entities)].map(piiFinder)
      return ok({ ...common, kind: stored.kind, action, finders, replacement: (label) => `[${label}]` })
    }
    case 'webhook': {
      const { url, allow_private: allowPrivate, timeout_ms: timeoutMs, on_failure: onFailure } = stored.settings
      const { secretCiphertext } = identity
      if (secretCiphertext === undefined) return err({ param: 'secret', message: 'is required for a webhook' })
      const reach = reachOf(allowPrivate)
      return ok({ ...common, kind: stored.kind, url, reach, timeoutMs, onFailure, secretCiphertext })
    }
    default:
      return stored satisfies never
  }
}

/** The hooks of one stage for one project, in their order. */
export const hooksFor = (hooks: readonly Hook[], stage: HookStage, projectId: string): Hook[] =>
  hooks.filter((hook) => hook.stages.includes(stage) && (hook.projectId ?? projectId) === projectId)

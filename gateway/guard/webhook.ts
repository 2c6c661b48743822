// Asking an organisation's own service for its verdict on texts. Owns the message, its signature, and that no answer, a late
// one and an invalid one are all the same failure. Only registered addresses are called; redirects are not followed.
//
//   POST url   {"version": 1, "stage", "request_id", "org_id", "project_id", "key_id", "model", "texts": [{"role", "text"}]}
//              x-penstock-signature: t=<Unix seconds>,v1=<hex HMAC-SHA256 of "<t>.<body>" under the hook's secret>
//   200        {"action": "allow"} | {"action": "block", "message"?} | {"action": "mask", "texts": ["…", as many as came]}
import * as z from 'zod'
import type { Failure } from '../../protocol/errors.ts'
import { late } from '../../protocol/late.ts'
import { err, ok, type Result } from '../../protocol/result.ts'
import type { Job } from '../attempts/job.ts'
import { errorText, log } from '../observe/log.ts'
import { openSecret } from '../policy/secrets.ts'
import { readLimited } from '../providers/bounded-body.ts'
import type { HookStage, WebhookHook } from './hook.ts'
import { tooLong } from './work.ts'

/** Of the texts of one question, and of the answer: prompts of a few hundred pages. */
export const WEBHOOK_CHARS_MAX = 1024 * 1024
const ANSWER_BYTES_MAX = 4 * 1024 * 1024
const MESSAGE_CHARS_MAX = 500

const Verdict = late(() =>
  z.discriminatedUnion('action', [
    z.object({ action: z.literal('allow') }),
    z.object({ action: z.literal('block'), message: z.string().max(MESSAGE_CHARS_MAX).optional() }),
    z.object({ action: z.literal('mask'), texts: z.array(z.string()) }),
  ]),
)

export type AskedText = { role: string; text: string }

/** The time that one request's webhooks have together. */
export class HookBudget {
  #leftMs: number

  constructor(leftMs: number) {
    this.#leftMs = leftMs
  }

  /** What one may take of it. */
  share(timeoutMs: number): number {
    return Math.max(0, Math.min(timeoutMs, this.#leftMs))
  }

  spend(ms: number): void {
    this.#leftMs -= Math.max(0, ms)
  }
}

/** What the secret of a hook is sealed under; no provider's name holds a colon. */
export const hookSecretName = (hookId: string): string => `guard-hook:${hookId}`

/**
 * The texts as they may go on: the same, or masked ones.
 * @returns Failure `content_filtered` where the verdict is to block, `unavailable` where there is none and the hook is closed.
 *   Texts that are too long for it are refused by an open hook as well: nobody passes a rule by padding.
 */
export async function askWebhook(
  hook: WebhookHook,
  stage: HookStage,
  texts: readonly AskedText[],
  job: Job,
  budget: HookBudget,
): Promise<Result<string[], Failure>> {
  const chars = texts.reduce((sum, { text }) => sum + text.length, 0)
  if (chars > WEBHOOK_CHARS_MAX) return err(tooLong(hook, stage))
  const unchanged = texts.map(({ text }) => text)
  const begunAtMs = job.ports.nowMs()
  try {
    const verdict = await ask(hook, stage, texts, job, budget.share(hook.timeoutMs))
    switch (verdict.action) {
      case 'allow':
        return ok(unchanged)
      case 'block':
        return err({ code: 'content_filtered', message: publicMessage(verdict.message) ?? hook.message })
      case 'mask':
        if (verdict.texts.length !== texts.length) throw new Error('the answer has another number of texts')
        return ok(verdict.texts)
      default:
        return verdict satisfies never
    }
  } catch (error) {
    const { hookId, name, onFailure } = hook
    log('warn', 'guard_webhook_failed', {
      requestId: job.requestId,
      org: job.principal.orgId,
      hookId,
      hook: name,
      stage,
      onFailure,
      error: errorText(error),
    })
    if (onFailure === 'open') return ok(unchanged)
    const message = `The content rule "${name}" of this organisation cannot be asked right now.`
    return err({ code: 'unavailable', message, retryAfterMs: 1_000 })
  } finally {
    budget.spend(job.ports.nowMs() - begunAtMs)
  }
}

async function ask(
  hook: WebhookHook,
  stage: HookStage,
  texts: readonly AskedText[],
  job: Job,
  timeoutMs: number,
): Promise<z.infer<typeof Verdict>> {
  if (timeoutMs <= 0) throw new Error('no time is left for it')
  const { orgId, projectId, keyId } = job.principal
  const question = { version: 1, stage, request_id: job.requestId, org_id: orgId, project_id: projectId, key_id: keyId }
  const body = JSON.stringify({ ...question, model: job.request.model, texts })
  const secret = await openSecret(job.env.SECRETS_KEK, hookSecretName(hook.hookId), hook.secretCiphertext)
  if (!secret.ok) throw new Error(`its secret cannot be opened: ${secret.error.reason}`)
  const seconds = Math.floor(job.ports.nowMs() / 1000)
  const init = {
    method: 'POST',
    headers: {
      'content-type': 'application/json',
      'x-penstock-signature': `t=${seconds},v1=${await hmacHex(secret.value, `${seconds}.${body}`)}`,
    },
    body,
    redirect: 'manual',
    signal: AbortSignal.timeout(timeoutMs),
  } as const
  const response = await job.ports.fetch(hook.url, init, hook.reach)
  if (response.status !== 200) {
    await response.body?.cancel()
    throw new Error(`it answered ${response.status}`)
  }
  return verdictOf(await readLimited(response, ANSWER_BYTES_MAX))
}

/** What it says, in words that quote nothing of it. */
function verdictOf(text: string): z.infer<typeof Verdict> {
  let json: unknown
  try {
    json = JSON.parse(text)
  } catch {
    throw new Error('its answer is not JSON')
  }
  const parsed = Verdict.safeParse(json)
  if (!parsed.success) throw new Error('its answer is not a verdict')
  return parsed.data
}

async function hmacHex(secret: string, text: string): Promise<string> {
  const encoder = new TextEncoder()
  const parameters = { name: 'HMAC', hash: 'SHA-256' }
  const key = await crypto.subtle.importKey('raw', encoder.encode(secret), parameters, false, ['sign'])
  const signature = new Uint8Array(await crypto.subtle.sign('HMAC', key, encoder.encode(text)))
  return Array.from(signature, (byte) => byte.toString(16).padStart(2, '0')).join('')
}

/** Text of a service that the caller will read: no control characters. */
const publicMessage = (text: string | undefined): string | undefined => text?.replace(/\p{Cc}/gu, ' ')

// What is written down when a rule finds something: ids, names and counts, never any of the text. The log's own limit keeps
// a flood of findings from becoming a flood of lines.
import type { Job } from '../attempts/job.ts'
import { log } from '../observe/log.ts'
import type { Hook, HookStage } from './hook.ts'

const about = ({ requestId, principal }: Job, { hookId, name }: Hook, stage: HookStage) => ({
  requestId,
  org: principal.orgId,
  key: principal.keyPrefix,
  hookId,
  hook: name,
  stage,
})

export function noteBlock(job: Job, hook: Hook, stage: HookStage): void {
  log('info', 'guard_blocked', about(job, hook, stage))
}

/** @param found Labels, one for each finding. */
export function noteFlags(job: Job, hook: Hook, stage: HookStage, found: readonly string[]): void {
  if (found.length === 0) return
  const labels = [...new Set(found)].join(', ')
  log('info', 'guard_flagged', { ...about(job, hook, stage), labels, count: found.length })
}

/** There is more text than the rule may look at, and it only looks. */
export function noteSkip(job: Job, hook: Hook, stage: HookStage): void {
  log('info', 'guard_skipped', about(job, hook, stage))
}

// Which backends an answer that broke off does not go to next ○. Owns for how long each is left out; which of the others is best
// is routing/pick.ts.
import type { FleetSnapshot } from '../routing/snapshot.ts'

/** Reports that were on their way when a backend failed say nothing of how it is now. */
const REPORT_MARGIN_MS = 1500

type Failed = { engines: string; atMs: number; restMs?: number }

export class FailedBackends {
  readonly #failed = new Map<string, Failed>()

  /**
   * @param engines As they were when it was asked (`enginesOf`).
   * @param restMs It lives and cannot do it now, or ever: it is left out for this long. Default: until it shows that it lives.
   */
  note(backendId: string, engines: string, atMs: number, restMs?: number): void {
    this.#failed.set(backendId, { engines, atMs, ...(restMs === undefined ? {} : { restMs }) })
  }

  /** Those whose engines are the ones that failed, and which have not reported since. */
  leftOut(snapshot: FleetSnapshot, nowMs: number): Set<string> {
    const left = new Set<string>()
    for (const [backendId, { engines, atMs, restMs }] of this.#failed) {
      const sinceMs = nowMs - atMs
      if (restMs !== undefined) {
        if (sinceMs < restMs) left.add(backendId)
        continue
      }
      const backend = snapshot.backends.find((one) => one.backendId === backendId)
      const isBack = backend !== undefined && backend.reportAgeMs < sinceMs - REPORT_MARGIN_MS
      if (!isBack && enginesOf(snapshot, backendId) === engines) left.add(backendId)
    }
    return left
  }
}

/** The lives of a backend's engines. */
export function enginesOf(snapshot: FleetSnapshot, backendId: string): string {
  const frames = snapshot.backends.find((one) => one.backendId === backendId)?.frames ?? []
  return frames
    .map(({ epoch }) => epoch)
    .sort()
    .join(' ')
}

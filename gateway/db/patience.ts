// How long a caller with an older answer in hand waits for a newer one. Owns the wait; the work goes on behind it.

/** Long enough for any healthy statement, short beside a request's deadline: a silent database is not waited out. */
export const PATIENCE_MS = 1_000

/**
 * What the work gives within the time, or `undefined` where it takes longer; then it goes on unobserved, so it must
 * keep its own result. An error within the time is thrown.
 */
export async function withPatience<T>(work: Promise<T>, patienceMs: number): Promise<{ value: T } | undefined> {
  let timer: ReturnType<typeof setTimeout> | undefined
  const late = new Promise<undefined>((resolve) => {
    timer = setTimeout(() => resolve(undefined), patienceMs)
  })
  // The race has seen the error in time, or nobody is left whom it concerns.
  work.catch(() => {})
  try {
    return await Promise.race([work.then((value) => ({ value })), late])
  } finally {
    if (timer !== undefined) clearTimeout(timer)
  }
}

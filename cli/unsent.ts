// What --dry-run says. Owns its form; the change itself was never sent. Pure.
import type { Unsent } from './api.ts'
import type { Outcome } from './command.ts'
import { EXIT } from './failure.ts'

const SECRET_FIELD = /secret|token|password/i

/** Secrets in the body are not shown: a dry run is for logs. */
export function unsent({ method, path, body }: Unsent): NonNullable<Outcome> {
  const shown =
    body === undefined
      ? undefined
      : JSON.stringify(body, (name, value: unknown) => (SECRET_FIELD.test(name) ? '(hidden)' : value), 2)
  return {
    data: { dry_run: true, method, path, ...(shown !== undefined && { body: JSON.parse(shown) as unknown }) },
    lines: [
      'Nothing was changed. It would send:',
      '',
      `  ${method} ${path}`,
      ...(shown === undefined ? [] : shown.split('\n').map((line) => `  ${line}`)),
    ],
    exitCode: EXIT.changes,
  }
}

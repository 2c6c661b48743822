// What administrators want of each backend. Owns the durable record and its revisions; agents hear of it in the replies to
// their reports (fleet.ts), and their frames say what has become of it.
import { DesiredState } from '../../protocol/report.ts'

export type DesiredChange = {
  draining?: boolean | undefined
  /** Replaces all roles that were asked for before. */
  roles?: DesiredState['roles'] | undefined
}

const NOTHING: DesiredState = { revision: 0, draining: false, roles: {} }

export class DesiredStates {
  readonly #sql: SqlStorage
  /** Beside the table: read with each report. */
  readonly #states = new Map<string, DesiredState>()

  constructor(sql: SqlStorage) {
    this.#sql = sql
    // One row: what is wanted of one backend, from the first time that somebody wanted something. `state` is a DesiredState.
    sql.exec('CREATE TABLE IF NOT EXISTS desired (backend_id TEXT PRIMARY KEY, state TEXT NOT NULL)')
    for (const row of sql.exec('SELECT backend_id, state FROM desired'))
      this.#states.set(String(row.backend_id), DesiredState.parse(JSON.parse(String(row.state))))
  }

  /** Undefined: nobody has asked for anything. */
  of(backendId: string): DesiredState | undefined {
    return this.#states.get(backendId)
  }

  /** What is wanted from now on. Asking for what is wanted already is no change. */
  change(backendId: string, { draining, roles }: DesiredChange): DesiredState {
    const before = this.#states.get(backendId) ?? NOTHING
    const after = { ...before, draining: draining ?? before.draining, roles: sorted(roles ?? before.roles) }
    if (JSON.stringify(after) === JSON.stringify(before)) return before
    after.revision++
    this.#sql.exec(
      'INSERT INTO desired (backend_id, state) VALUES (?, ?) ON CONFLICT (backend_id) DO UPDATE SET state = excluded.state',
      backendId,
      JSON.stringify(after),
    )
    this.#states.set(backendId, after)
    return after
  }

  remove(backendId: string): void {
    this.#sql.exec('DELETE FROM desired WHERE backend_id = ?', backendId)
    this.#states.delete(backendId)
  }
}

const sorted = (roles: DesiredState['roles']): DesiredState['roles'] =>
  Object.fromEntries(Object.entries(roles).sort(([a], [b]) => (a < b ? -1 : 1)))

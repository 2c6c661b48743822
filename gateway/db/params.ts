// Parameters of a statement that is put together from pieces. Owns their places in the text.
import type { SqlValue } from './port.ts'

export class Params {
  readonly values: SqlValue[] = []

  /** The place of a value: `$1`, `$2`, … */
  add(value: SqlValue): string {
    this.values.push(value)
    return `$${this.values.length}`
  }
}

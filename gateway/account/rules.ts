// The rules in force. Owns where an account has them from and how old they may be: pushed by the admin API, read from the
// record where there are none, and read again in the background, so that news which was lost on its way heals by itself.
import { errorText } from '../observe/log.ts'
import type { RuleBook } from './limit.ts'
import type { AccountPorts } from './ports.ts'
import { decodeBook, encodeBook } from './rule-book.ts'
import { RuleIndex } from './rule-index.ts'

const TABLES = [
  'CREATE TABLE IF NOT EXISTS rules (only_row INTEGER PRIMARY KEY, version INTEGER NOT NULL, body TEXT NOT NULL)',
]

/** How long a change can stay unnoticed whose announcement was lost. */
export const RULES_FRESH_MS = 60_000
/** After a failed question the record is left alone this long. */
const RULES_RETRY_MS = 2_000

export type RulesListener = {
  /** Other rules are in force: called in the transaction that stores them. */
  changed(): void
  /** That transaction was undone. */
  undone(): void
}

export class Rules {
  readonly #ports: AccountPorts
  readonly #listener: RulesListener
  #orgId: string | undefined
  #book: RuleBook | undefined
  #index: RuleIndex | undefined
  /** When the record was asked last, and how that went. */
  #asked: { atMs: number; answered: boolean } | undefined
  #question: Promise<void> | undefined

  constructor(ports: AccountPorts, listener: RulesListener) {
    this.#ports = ports
    this.#listener = listener
    for (const statement of TABLES) ports.sql.exec(statement)
  }

  /** Reads the stored rules again. @param orgId Absent before the account knows whose it is. */
  load(orgId: string | undefined): void {
    this.#orgId = orgId
    const [row] = this.#ports.sql.exec<{ body: string }>('SELECT body FROM rules').toArray()
    this.#book = row === undefined ? undefined : decodeBook(row.body)
    this.#reindex()
  }

  /** `undefined` where no rules are known: nothing may be granted. */
  get index(): RuleIndex | undefined {
    return this.#index
  }

  get version(): number | undefined {
    return this.#book?.version
  }

  /** Puts a book in force; one that is not newer changes nothing. @throws Error where it cannot be enforced. */
  adopt(book: RuleBook): void {
    if (this.#book !== undefined && book.version <= this.#book.version) return
    const body = encodeBook(book)
    const before = this.#book
    try {
      this.#ports.transaction(() => {
        this.#ports.sql.exec(
          `INSERT INTO rules (only_row, version, body) VALUES (1, ?, ?)
           ON CONFLICT DO UPDATE SET version = excluded.version, body = excluded.body`,
          book.version,
          body,
        )
        this.#book = book
        this.#reindex()
        this.#listener.changed()
      })
    } catch (error) {
      this.#book = before
      this.#reindex()
      this.#listener.undone()
      throw error
    }
  }

  /** Asks the record where nothing is known; afterwards either the rules are, or the record could not be asked. */
  async makeKnown(orgId: string): Promise<void> {
    if (this.#book !== undefined || this.#pausedUntil(RULES_RETRY_MS, false)) return
    await this.#ask(orgId)
  }

  /** Asks the record in the background where the last answer is old. */
  refresh(orgId: string): void {
    if (this.#question !== undefined || this.#pausedUntil(RULES_FRESH_MS, true)) return
    if (this.#pausedUntil(RULES_RETRY_MS, false)) return
    void this.#ask(orgId)
  }

  /** One question at a time. Never rejects. */
  #ask(orgId: string): Promise<void> {
    this.#question ??= this.#read(orgId).finally(() => {
      this.#question = undefined
    })
    return this.#question
  }

  async #read(orgId: string): Promise<void> {
    try {
      this.adopt(await this.#ports.record.readRules(orgId))
      this.#asked = { atMs: this.#ports.now(), answered: true }
    } catch (error) {
      this.#asked = { atMs: this.#ports.now(), answered: false }
      this.#ports.log('warn', 'rules_unreadable', { orgId, error: errorText(error) })
    }
  }

  /** Whether the last question that went this way is younger than a pause. A clock set back ends the pause. */
  #pausedUntil(pauseMs: number, answered: boolean): boolean {
    if (this.#asked === undefined || this.#asked.answered !== answered) return false
    const sinceMs = this.#ports.now() - this.#asked.atMs
    return sinceMs >= 0 && sinceMs < pauseMs
  }

  #reindex(): void {
    this.#index =
      this.#book === undefined || this.#orgId === undefined ? undefined : new RuleIndex(this.#book, this.#orgId)
  }
}

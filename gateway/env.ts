// The Worker's bindings, the same in both homes (Cloudflare; workerd on any host). wrangler.toml declares them.
import type { Account } from './account/account.ts'
import type { Directory } from './auth/directory.ts'
import type { AnswerCache } from './cache/answer-cache.ts'
import type { DatabasePool } from './db/pool.ts'
import type { Fleet } from './fleet/fleet.ts'
import type { Runs } from './runs/runs.ts'

export type Env = {
  /** One object per organisation: limits, budgets, holds, outbox. Name: the organisation's id. */
  ACCOUNT: DurableObjectNamespace<Account>
  /** Membership and capacity of the backends. Name: the region, `default`. */
  FLEET: DurableObjectNamespace<Fleet>
  /** Durable copy of key → principal, so that a dead Postgres does not lock callers out. Name: two hex digits of the key's hash. */
  DIRECTORY: DurableObjectNamespace<Directory>
  /** Answers kept for keys that opted in. Name: the organisation's id, `/` and the first hex digit of the answer's key. */
  ANSWER_CACHE: DurableObjectNamespace<AnswerCache>
  /**
   * Stored responses: each with its conversation, and with its events where it runs in the background. Name: the organisation's
   * id, `/` and the first two hex digits of the response's name.
   */
  RUNS: DurableObjectNamespace<Runs>
  /** Holds the Postgres connections where no Hyperdrive does. Name: `pool`. */
  DATABASE_POOL: DurableObjectNamespace<DatabasePool>
  /** Files of the dashboard, by their names. Absent where it was not built. */
  ASSETS?: Fetcher
  /** Leads to public addresses alone. Set off Cloudflare only, where the Worker's own way out leads inside, too. */
  INTERNET?: Fetcher
  /** Set on Cloudflare only. */
  HYPERDRIVE?: Hyperdrive
  /** Set off Cloudflare only: postgres:// address for the pool. Secret. */
  DATABASE_URL?: string
  /**
   * Where a client's address is read: `peer` for the other end of the connection (workerd that clients reach directly), or
   * the name of a header that the proxy in front sets and overwrites, `cf-connecting-ip` on Cloudflare. Absent: nowhere.
   */
  CLIENT_ADDRESS?: string
  /** Guards /admin. At least 32 characters. Secret. */
  ADMIN_TOKEN: string
  /** Private Ed25519 JWK (with `kid`) that signs dispatches. Secret. */
  SIGNING_KEY_JWK: string
  /** Set under a launcher, which replaces one process by the next: who has it may take the objects away. Secret. */
  HANDOVER_KEY?: string
  /** 32 bytes, base64: encrypts provider secrets at rest (AES-GCM). Secret. */
  SECRETS_KEK: string
}

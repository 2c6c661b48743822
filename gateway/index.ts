// The Worker's entry: the HTTP app and the Durable Object classes that wrangler.toml names.
import { app } from './app.ts'

export { Account } from './account/account.ts'
export { Directory } from './auth/directory.ts'
export { AnswerCache } from './cache/answer-cache.ts'
export { DatabasePool } from './db/pool.ts'
export { Fleet } from './fleet/fleet.ts'
export { Runs } from './runs/runs.ts'

export default app

// The Worker's entry: the HTTP app and the Durable Object classes that wrangler.toml names, each with what lets another process take its
// objects over (handover/handover.ts).
import { Account as AccountObject } from './account/account.ts'
import { app } from './app.ts'
import { Directory as DirectoryObject } from './auth/directory.ts'
import { AnswerCache as AnswerCacheObject } from './cache/answer-cache.ts'
import { DatabasePool as DatabasePoolObject } from './db/pool.ts'
import { Fleet as FleetObject } from './fleet/fleet.ts'
import { handedOver, replaceable } from './handover/handover.ts'
import { Runs as RunsObject } from './runs/runs.ts'

export default { fetch: replaceable((request, env, context) => app.fetch(request, env, context)) }

export const Account = handedOver('ACCOUNT', AccountObject)
export const Directory = handedOver('DIRECTORY', DirectoryObject)
export const AnswerCache = handedOver('ANSWER_CACHE', AnswerCacheObject)
export const DatabasePool = handedOver('DATABASE_POOL', DatabasePoolObject)
export const Fleet = handedOver('FLEET', FleetObject)
export const Runs = handedOver('RUNS', RunsObject)

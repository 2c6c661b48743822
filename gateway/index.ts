// The Worker's entry: the HTTP app and the Durable Object classes that wrangler.toml names, each with what lets another process take its
// objects over (handover/handover.ts).
import { Account as AccountObject } from './account/account.ts'
import { app } from './app.ts'
import { Directory as DirectoryObject } from './auth/directory.ts'
import { AnswerCache as AnswerCacheObject } from './cache/answer-cache.ts'
import { DatabasePool as DatabasePoolObject } from './db/pool.ts'
import type { Env } from './env.ts'
import { Fleet as FleetObject } from './fleet/fleet.ts'
import { CLOSED, owned, replaceable } from './handover/handover.ts'
import { Runs as RunsObject } from './runs/runs.ts'

export default { fetch: replaceable((request, env, context) => app.fetch(request, env, context)) }

export class Account extends AccountObject {
  constructor(ctx: DurableObjectState, env: Env) {
    super(owned('ACCOUNT', ctx, env), env)
  }
  close(): void {
    this.ctx.abort(CLOSED)
  }
}

export class Directory extends DirectoryObject {
  constructor(ctx: DurableObjectState, env: Env) {
    super(owned('DIRECTORY', ctx, env), env)
  }
  close(): void {
    this.ctx.abort(CLOSED)
  }
}

export class AnswerCache extends AnswerCacheObject {
  constructor(ctx: DurableObjectState, env: Env) {
    super(owned('ANSWER_CACHE', ctx, env), env)
  }
  close(): void {
    this.ctx.abort(CLOSED)
  }
}

export class DatabasePool extends DatabasePoolObject {
  constructor(ctx: DurableObjectState, env: Env) {
    super(owned('DATABASE_POOL', ctx, env), env)
  }
  close(): void {
    this.ctx.abort(CLOSED)
  }
}

export class Fleet extends FleetObject {
  constructor(ctx: DurableObjectState, env: Env) {
    super(owned('FLEET', ctx, env), env)
  }
  close(): void {
    this.ctx.abort(CLOSED)
  }
}

export class Runs extends RunsObject {
  constructor(ctx: DurableObjectState, env: Env) {
    super(owned('RUNS', ctx, env), env)
  }
  close(): void {
    this.ctx.abort(CLOSED)
  }
}

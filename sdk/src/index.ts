// The public names of `@penstock/sdk`.
export { Breaker, type BreakerState } from './breaker.ts'
export {
  type Answered,
  answeredBy,
  type CreateChat,
  type CreateMessage,
  type CreateResponse,
  type EventStream,
  Penstock,
  type Restarted,
} from './client.ts'
export type { Dialect } from './dialect.ts'
export {
  type AttemptRecord,
  type ErrorCode,
  type ErrorFields,
  type ErrorOrigin,
  type PartialAnswer,
  PenstockError,
  StreamInterruptedError,
  type Usage,
} from './errors.ts'
export type {
  AfterContent,
  AttemptEvent,
  CallOptions,
  ClientOptions,
  DirectProvider,
  GatewayOptions,
  Hooks,
  RoutingHints,
  Secret,
  UsageEvent,
} from './options.ts'
export type * from './types.ts'
export type { UsageOutcome, UsageRecord, UsageReport } from './usage-queue.ts'

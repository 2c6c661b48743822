// How one gateway process makes room for the next on the same data folder: what the launcher asks of the one that leaves, and where
// that one finds its objects afterwards. Owns paths and bodies. Spoken on one machine, under a key that lives as long as the launcher.
import * as z from 'zod'
import { late } from './late.ts'

export const HANDOVER_PATH = '/.penstock/handover'
export const OBJECTS_PATH = '/.penstock/objects'
/** Carries the key. */
export const HANDOVER_HEADER = 'x-penstock-handover'

export const HandoverRequest = late(() =>
  z.discriminatedUnion('step', [
    /** Background responses that come from now on begin in the next process; those that run are to end here. */
    z.object({ step: z.literal('prepare') }),
    /** Gives up all objects. From then on they are asked for at `origin`. */
    z.object({
      step: z.literal('leave'),
      origin: z.url().max(500),
      /** What is still open after it is ended with an error. */
      drainMs: z.number().int().nonnegative(),
    }),
  ]),
)
export type HandoverRequest = z.infer<typeof HandoverRequest>

export const HandoverReply = late(() =>
  z.object({
    /** Background responses that run here. */
    runs: z.number().int().nonnegative(),
  }),
)
export type HandoverReply = z.infer<typeof HandoverReply>

// What befalls an agent in the middle of a hand-over: when, whom and how. Owns the phases, from the agent's side:
//
//   reserve ─▶ granted ─▶ pushing ─▶ committed ─▶ released (the sequence has the blocks, or they were let go) ─▶ decoding
export const PHASES = ['reserve', 'granted', 'pushing', 'committed', 'released', 'decoding'] as const
export type Phase = (typeof PHASES)[number]
export const VICTIMS = ['prefill-0', 'decode-0', 'agent'] as const
export type Victim = (typeof VICTIMS)[number]

/**
 * `after`: how many hand-overs of an agent reach the phase unharmed before. `claim`: a folder that does not exist; of several agents the
 * one that makes it is struck, and no other.
 */
export type Strike = { phase: Phase; victim: Victim; signal: 'SIGKILL' | 'SIGSTOP'; after: number; claim: string }
export type Struck = { pid: number }

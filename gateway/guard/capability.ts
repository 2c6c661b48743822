// What an agent's tools can reach. Owns the three capabilities and how many of them may be held at once. Pure.

/**
 * `files`: reads or changes files of whoever runs the tool. `network`: talks to hosts beyond it. `code`: runs what the
 * model writes.
 */
export const CAPABILITIES = ['files', 'network', 'code'] as const
export type Capability = (typeof CAPABILITIES)[number]

/** Any two are useful together; with all three whoever gets a word into the prompt can read, run and send away. */
export const CAPABILITIES_MAX = 2

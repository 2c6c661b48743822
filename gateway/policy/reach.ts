// How far a call may get that an administrator's registration leads to. Pure; the networks themselves are outbound.ts.

/** `public`: not into this network, whatever the name resolves to. */
export type Reach = 'public' | 'anywhere'

/** As the standard one; each call says how far it may get. */
export type Fetch = (url: string, init: RequestInit, reach: Reach) => Promise<Response>

/** Of what was registered. @param allowPrivate Whether it is meant to be inside. */
export const reachOf = (allowPrivate: boolean): Reach => (allowPrivate ? 'anywhere' : 'public')

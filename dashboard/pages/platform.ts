// The pages of the platform, fetched together when the first of them is opened. Owns nothing but that.
export { default as FleetPage } from './fleet.tsx'
export { default as PlaygroundPage } from './playground.tsx'
export { default as ProvidersPage } from './providers.tsx'

// The pages of control, fetched together when the first of them is opened. Owns nothing but that.
export { default as AuditPage } from './audit.tsx'
export { default as BillingPage } from './billing.tsx'
export { default as KeysPage } from './keys.tsx'
export { default as LimitsPage } from './limits.tsx'

// What only some kinds of provider need. Owns the stored form, which is also the admin API's and the configuration file's;
// which kind takes which option is providers/registration.ts. Pure.
import * as z from 'zod'
import { late } from '../../protocol/late.ts'
import { PROVIDER_APIS, type ProviderOptions } from './plan.ts'
import { Region } from './targets.ts'

const HEADERS_MAX = 16
/** What the gateway or the network says itself. */
const OWN_HEADER =
  /^(host|connection|te|trailer|upgrade|expect|keep-alive|accept|accept-encoding|(content|transfer|proxy)-.*|x-client-request-id)$/
/** Would carry what only a key may hold: headers can be read by every operator and stand in the configuration file. */
const SECRET_HEADER = /auth|key|token|secret|signature|credential|password|cookie/

const HeaderName = late(() =>
  z
    .string()
    .regex(/^[a-z0-9][a-z0-9-]{0,63}$/, 'must be 1-64 lower-case letters, digits and hyphens')
    .refine((name) => !OWN_HEADER.test(name), 'is set by the gateway itself')
    .refine((name) => !SECRET_HEADER.test(name), 'sounds like a secret, which has its place in a key'),
)
const HeaderValue = late(() =>
  z
    .string()
    .min(1)
    .max(500)
    .regex(/^[\x20-\x7e]+$/, 'must be visible ASCII'),
)

export const StoredOptions = late(() =>
  z.strictObject({
    /** Of a cloud provider's address and signature. */
    region: Region.exactOptional(),
    /** Version of the provider's API, as it writes it. */
    api_version: z
      .string()
      .regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/, 'must be 1-64 letters, digits, dots, hyphens and underscores')
      .exactOptional(),
    /** Sent with each call; readable by every operator, so no secrets. */
    headers: z
      .record(HeaderName, HeaderValue)
      .refine((headers) => Object.keys(headers).length <= HEADERS_MAX, `has more than ${HEADERS_MAX} entries`)
      .exactOptional(),
    /** Which of two routes serves conversations; `auto`: whichever a request needs. */
    api: z.enum(PROVIDER_APIS).exactOptional(),
    /** Whether what a model thinks may be asked for in summary, which not every account is allowed. */
    reasoning_summary: z.boolean().exactOptional(),
  }),
)
export type StoredOptions = z.infer<typeof StoredOptions>

export const optionsOf = (stored: StoredOptions): ProviderOptions => {
  const { region, api_version: apiVersion, headers, api, reasoning_summary: reasoningSummary } = stored
  return {
    ...(region === undefined ? {} : { region }),
    ...(apiVersion === undefined ? {} : { apiVersion }),
    ...(headers === undefined ? {} : { headers }),
    ...(api === undefined ? {} : { api }),
    ...(reasoningSummary === undefined ? {} : { reasoningSummary }),
  }
}

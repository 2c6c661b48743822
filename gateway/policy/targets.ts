// The stored form of a model's targets. Owns the JSON of `models.targets`, which is also the admin API's.
import * as z from 'zod'
import { late } from '../../protocol/late.ts'

/** Catalog name of the deployment's own backends; no upstream can be registered under it. */
export const FLEET = 'fleet'
/** Under which answers out of the response cache are recorded; reserved in the same way. */
export const CACHE = 'cache'
export const TARGETS_MAX = 16
export const TOKENS_MAX = 100_000_000

/** What callers name; may hold slashes and colons, as published model names do. */
export const ModelName = late(() =>
  z
    .string()
    .regex(
      /^[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}$/,
      'must be 1-128 letters, digits and ._:/@+- and begin with a letter or digit',
    ),
)

export const ProviderName = late(() =>
  z
    .string()
    .regex(/^[a-z0-9][a-z0-9-]{0,62}$/, 'must be 1-63 lower-case letters, digits and hyphens')
    .refine((name) => name !== CACHE, `"${CACHE}" means the response cache`),
)

/** How a provider calls the services it prices apart (`flex`, `priority`, …). */
export const ServiceTier = late(() =>
  z.string().regex(/^[a-z0-9][a-z0-9_-]{0,31}$/, 'must be 1-32 lower-case letters, digits, hyphens and underscores'),
)
/** The tier of whoever asks for none. */
export const STANDARD_TIER = 'standard'

/** Where a target computes, in the operator's words. */
export const Region = late(() =>
  z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/, 'must be 1-63 letters, digits, dots, hyphens and underscores'),
)
const WEIGHT_MAX = 1_000

const tokens = late(() => z.number().int().min(1).max(TOKENS_MAX))

export const StoredTargets = late(() =>
  z
    .array(
      z.strictObject({
        provider: ProviderName,
        model: ModelName,
        context_tokens: tokens,
        output_tokens_max: tokens.exactOptional(),
        /** Sent to the provider and looked up in the price book; absent: its standard service. */
        service_tier: ServiceTier.exactOptional(),
        /** Share among the targets where the model's policy is `weighted`. Default 1; 0: only after all others. */
        weight: z.number().int().min(0).max(WEIGHT_MAX).exactOptional(),
        region: Region.exactOptional(),
        /** What one image counts for at most; absent: IMAGE_TOKENS_MAX. */
        image_tokens_max: tokens.exactOptional(),
      }),
    )
    .min(1)
    .max(TARGETS_MAX),
)
export type StoredTargets = z.infer<typeof StoredTargets>

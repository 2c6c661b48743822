// How large a token's K and V are, by the layout that an engine names ○. Owns reading that name; whether two engines can be
// paired is decided by the whole text, which nobody takes apart.

/** Bytes per value, scales included: a q8_0 block of 32 values has one of 2 bytes. */
const VALUE_BYTES: Record<string, number> = { f32: 4, f16: 2, q8_0: 34 / 32 }

/** 0 where the text does not say. */
export function bytesPerToken(fingerprint: string): number {
  const fields = new Map(fingerprint.split(';').map((field) => field.split('=', 2) as [string, string | undefined]))
  const number = (name: string) => Number(fields.get(name))
  const bytes =
    2 * number('layers') * number('kv_heads') * number('head_dim') * (VALUE_BYTES[fields.get('type') ?? ''] ?? 0)
  return Number.isFinite(bytes) && bytes > 0 ? Math.round(bytes) : 0
}

// Filters as they stand in an address. Owns how typed values are read from and written to query parameters: what is
// missing or makes no sense is the default, what is the default is not written, parameters of others are left alone.
// ○ Pure.

export type Codec<T> = {
  read(text: string | undefined): T
  /** Absent: the default, which an address does not name. */
  write(value: T): string | undefined
}
export type Schema = Readonly<Record<string, Codec<unknown>>>
export type Values<S extends Schema> = { [Name in keyof S]: ReturnType<S[Name]['read']> }

/** One word of a list. */
export const oneOf = <W extends string>(words: readonly W[], fallback: W): Codec<W> => ({
  read: (text) => words.find((word) => word === text) ?? fallback,
  write: (value) => (value === fallback ? undefined : value),
})

/** Free text; absent where it is empty. */
export const optionalText: Codec<string | undefined> = {
  read: (text) => (text === undefined || text === '' ? undefined : text),
  write: (value) => (value === '' ? undefined : value),
}

export const wholeNumber = (fallback: number, min: number, max: number): Codec<number> => ({
  read: (text) => {
    const value = text !== undefined && /^\d{1,9}$/.test(text) ? Number(text) : Number.NaN
    return value >= min && value <= max ? value : fallback
  },
  write: (value) => (value === fallback ? undefined : String(value)),
})

export const flag = (fallback: boolean): Codec<boolean> => ({
  read: (text) => (text === '1' ? true : text === '0' ? false : fallback),
  write: (value) => (value === fallback ? undefined : value ? '1' : '0'),
})

/** Some words of a list, each once, in the order given. */
export const someOf = <W extends string>(words: readonly W[], fallback: readonly W[]): Codec<readonly W[]> => ({
  read: (text) => {
    if (text === undefined) return fallback
    const asked = text.split(',').flatMap((word) => words.filter((known) => known === word))
    return [...new Set(asked)]
  },
  write: (value) => (value.join(',') === fallback.join(',') ? undefined : value.join(',')),
})

export function readState<S extends Schema>(schema: S, params: URLSearchParams): Values<S> {
  const read = Object.entries(schema).map(([name, codec]) => [name, codec.read(params.get(name) ?? undefined)])
  return Object.fromEntries(read) as Values<S>
}

/** New parameters with some values changed. */
export function writeState<S extends Schema>(
  schema: S,
  params: URLSearchParams,
  change: Partial<Values<S>>,
): URLSearchParams {
  const next = new URLSearchParams(params)
  for (const [name, value] of Object.entries(change)) {
    const text = schema[name]?.write(value)
    if (text === undefined) next.delete(name)
    else next.set(name, text)
  }
  return next
}

// Series of numbers as a chart needs them. Owns stacking, the cut to the largest with the rest as one, and the borders of an
// axis. Amounts may be bigint: they are added exactly, and become floats only where a pixel is computed. ○ Pure.

export type Amount = number | bigint
export type Series = { id: string; label: string; values: readonly (Amount | undefined)[] }

/** The id of what is added up beyond the top. */
export const OTHER = '(other)'

export const plus = (a: Amount, b: Amount): Amount =>
  typeof a === 'bigint' && typeof b === 'bigint' ? a + b : Number(a) + Number(b)

/** Nothing at all has no sum: a gap in a line is not a zero. */
export const total = (values: readonly (Amount | undefined)[]): Amount | undefined =>
  values.reduce<Amount | undefined>((sum, value) => {
    if (value === undefined) return sum
    return sum === undefined ? value : plus(sum, value)
  }, undefined)

/** Upper edge of each series in a stack from the first one up. Gaps count nothing. */
export function stacked(series: readonly Pick<Series, 'values'>[]): number[][] {
  const length = Math.max(0, ...series.map(({ values }) => values.length))
  const below = new Array<number>(length).fill(0)
  return series.map(({ values }) => {
    for (let index = 0; index < length; index++) below[index] = (below[index] ?? 0) + Number(values[index] ?? 0)
    return [...below]
  })
}

/** The largest by their sums, and one series of all others where there are more; sums are kept. */
export function topSeries(series: readonly Series[], most: number, otherLabel = 'Other'): Series[] {
  const weight = (one: Series) => Number(total(one.values) ?? 0)
  const known = series.filter(({ id }) => id !== OTHER).sort((a, b) => weight(b) - weight(a))
  const rest = [...known.slice(most), ...series.filter(({ id }) => id === OTHER)]
  if (rest.length === 0) return known
  const length = Math.max(...rest.map(({ values }) => values.length))
  const values = Array.from({ length }, (_, index) => total(rest.map((one) => one.values[index])))
  return [...known.slice(0, most), { id: OTHER, label: otherLabel, values }]
}

/** Upper border and lines of an axis from zero: at most `lines` steps of 1, 2 or 5 times a power of ten. */
export function axisOf(largest: number, lines: number): { max: number; splits: number[] } {
  if (!(largest > 0)) return { max: 1, splits: [0, 1] }
  const rough = largest / lines
  const power = 10 ** Math.floor(Math.log10(rough))
  const step = ([1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999_999) ?? 10) * power
  const steps = Math.max(1, Math.ceil(largest / step - 1e-9))
  return { max: steps * step, splits: Array.from({ length: steps + 1 }, (_, index) => index * step) }
}

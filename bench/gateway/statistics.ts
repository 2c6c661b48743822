// Numbers of a run as a reader wants them. Pure.

/** A figure of several rounds. */
export type Spread = { median: number; least: number; most: number }

/** The value below which this share of the samples lies; NaN of none. */
export function quantile(samples: number[], share: number): number {
  const sorted = samples.toSorted((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? Number.NaN
}

export function spreadOf(samples: number[]): Spread {
  return { median: quantile(samples, 0.5), least: Math.min(...samples), most: Math.max(...samples) }
}

/** Three significant digits, thousands with a comma. */
export function figure(value: number): string {
  if (!Number.isFinite(value)) return 'not measured'
  if (value >= 100) return Math.round(value).toLocaleString('en')
  return value.toPrecision(3)
}

export const spreadText = ({ median, least, most }: Spread): string =>
  `${figure(median)} (${figure(least)} to ${figure(most)})`

// A line without axes beside a number. Owns its shape; the number says what matters, so it is hidden from screen readers.

/** @param values gaps break the line */
export function Sparkline({
  values,
  width = 96,
  height = 28,
}: {
  values: readonly (number | undefined)[]
  width?: number
  height?: number
}) {
  const known = values.filter((value) => value !== undefined)
  if (known.length < 2) return <svg class="sparkline" width={width} height={height} aria-hidden="true" />
  const most = Math.max(...known, 0)
  const least = Math.min(...known, 0)
  const x = (index: number) => (index / (values.length - 1)) * (width - 2) + 1
  const y = (value: number) =>
    most === least ? height - 2 : height - 2 - ((value - least) / (most - least)) * (height - 4)
  let isOpen = false
  const line = values
    .map((value, index) => {
      if (value === undefined) {
        isOpen = false
        return ''
      }
      const command = isOpen ? 'L' : 'M'
      isOpen = true
      return `${command}${x(index).toFixed(1)} ${y(value).toFixed(1)}`
    })
    .join('')
  return (
    <svg
      class="sparkline"
      viewBox={`0 0 ${width} ${height}`}
      width={width}
      height={height}
      preserveAspectRatio="none"
      aria-hidden="true"
    >
      <path d={line} />
    </svg>
  )
}

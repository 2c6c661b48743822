// Which of our own files a source includes, however deep. Owns the reading of #include lines; conditions around them are
// ignored, so the answer may be too large, never too small. Pure.

/**
 * @param path of the source, relative to the include folder; `read` gives undefined for what is not there
 * @returns the source and all that it includes, sorted
 */
export function includedFiles(path: string, read: (path: string) => string | undefined): string[] {
  const found = new Set<string>()
  const waiting = [path]
  for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
    if (found.has(next)) continue
    const text = read(next)
    if (text === undefined) continue
    found.add(next)
    for (const [, included = ''] of text.matchAll(/^\s*#\s*include\s*"([^"]+)"/gm)) waiting.push(included)
  }
  return [...found].sort()
}

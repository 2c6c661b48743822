// The text of an upstream's short answer. Owns the bound: an error page of a gigabyte is an attack, not an answer.

/** At most `bytesMax` bytes as text; the rest is dropped and the body closed. */
export async function readLimited(response: Response, bytesMax: number): Promise<string> {
  if (response.body === null) return ''
  const reader = response.body.getReader()
  const decoder = new TextDecoder()
  let text = ''
  let left = bytesMax
  try {
    while (left > 0) {
      const { done, value } = await reader.read()
      if (done) break
      text += decoder.decode(value.subarray(0, left), { stream: true })
      left -= value.byteLength
    }
    return text + decoder.decode()
  } finally {
    await reader.cancel().catch(() => {})
  }
}

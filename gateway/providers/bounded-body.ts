// The text of an upstream's short answer. Owns the bound: an error page of a gigabyte is an attack, not an answer.

/** At most `bytesMax` bytes as text; the rest is dropped and the body closed. */
export async function readLimited(response: Response, bytesMax: number): Promise<string> {
  if (response.body === null) return ''
  const reader = response.body.getReader()
  const decoder = new TextDecoder()
  const length = lengthOf(response.headers)
  let text = ''
  let left = bytesMax
  try {
    while (left > 0) {
      const { done, value } = await reader.read()
      if (done) break
      text += decoder.decode(value.subarray(0, left), { stream: true })
      left -= value.byteLength
      // Nothing can follow, and being told so takes another turn of the event loop.
      if (bytesMax - left === length) break
    }
    return text + decoder.decode()
  } finally {
    await reader.cancel().catch(() => {})
  }
}

/** As its sender said, where what arrives is as it was sent. */
function lengthOf(headers: Headers): number | undefined {
  const declared = headers.get('content-length')
  return declared === null || headers.has('content-encoding') ? undefined : Number(declared)
}

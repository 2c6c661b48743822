// Signature Version 4, by which AWS knows who calls. Owns the canonical request, the key of a day and the header; checked
// against the vectors that AWS publishes. Pure: the time is an argument. Source: "Create a signed AWS API request" in the
// IAM user guide.

const ALGORITHM = 'AWS4-HMAC-SHA256'
const encoder = new TextEncoder()

export type AwsCredentials = { accessKeyId: string; secretAccessKey: string; sessionToken?: string }

export type SignedCall = {
  method: string
  /** With its port where that is not the scheme's own. */
  host: string
  /** As it stands on the wire: it is encoded once more here, as all services but S3 have it. */
  path: string
  /** Names and values, not encoded. */
  query?: readonly (readonly [string, string])[]
  /** Those that are signed beside `host`; several values of one name in one, with commas between. */
  headers: Record<string, string>
  body: string
}

type SigningKey = ArrayBuffer | Uint8Array<ArrayBuffer>

export type SigningScope = { region: string; service: string; nowMs: number }

/** The headers to send beside the signed ones: `x-amz-date`, `x-amz-security-token`, `authorization`. */
export async function signV4(
  call: SignedCall,
  credentials: AwsCredentials,
  { region, service, nowMs }: SigningScope,
): Promise<Record<string, string>> {
  const time = new Date(nowMs).toISOString().replace(/[-:]|\.\d+/g, '')
  const day = time.slice(0, 8)
  const { accessKeyId, secretAccessKey, sessionToken } = credentials
  const added: Record<string, string> = {
    'x-amz-date': time,
    ...(sessionToken === undefined ? {} : { 'x-amz-security-token': sessionToken }),
  }
  const signed = Object.entries({ ...call.headers, host: call.host, ...added })
    .map(([name, value]) => [name.toLowerCase(), value.trim().replace(/ +/g, ' ')] as const)
    .sort(([a], [b]) => (a < b ? -1 : 1))
  const names = signed.map(([name]) => name).join(';')
  const canonical = [
    call.method,
    call.path.split('/').map(uriEncode).join('/'),
    canonicalQuery(call.query ?? []),
    ...signed.map(([name, value]) => `${name}:${value}`),
    '',
    names,
    await sha256(call.body),
  ].join('\n')
  const scope = `${day}/${region}/${service}/aws4_request`
  const toSign = [ALGORITHM, time, scope, await sha256(canonical)].join('\n')
  let key: SigningKey = new Uint8Array(encoder.encode(`AWS4${secretAccessKey}`))
  for (const part of [day, region, service, 'aws4_request']) key = await hmac(key, part)
  const signature = hex(await hmac(key, toSign))
  return {
    ...added,
    authorization: `${ALGORITHM} Credential=${accessKeyId}/${scope}, SignedHeaders=${names}, Signature=${signature}`,
  }
}

/** RFC 3986: everything but letters, digits and `-._~`. */
export const uriEncode = (text: string): string =>
  encodeURIComponent(text).replace(/[!'()*]/g, (char) => `%${char.charCodeAt(0).toString(16).toUpperCase()}`)

/** By the encoded names, and by the encoded values of one name. */
function canonicalQuery(query: readonly (readonly [string, string])[]): string {
  const encoded = query.map(([name, value]) => [uriEncode(name), uriEncode(value)] as const)
  const order = ([a, x]: readonly [string, string], [b, y]: readonly [string, string]): number =>
    a === b ? (x < y ? -1 : 1) : a < b ? -1 : 1
  return encoded
    .sort(order)
    .map(([name, value]) => `${name}=${value}`)
    .join('&')
}

const sha256 = async (text: string): Promise<string> => hex(await crypto.subtle.digest('SHA-256', encoder.encode(text)))

async function hmac(secret: SigningKey, text: string): Promise<ArrayBuffer> {
  const key = await crypto.subtle.importKey('raw', secret, { name: 'HMAC', hash: 'SHA-256' }, false, ['sign'])
  return crypto.subtle.sign('HMAC', key, encoder.encode(text))
}

const hex = (bytes: ArrayBuffer): string =>
  Array.from(new Uint8Array(bytes), (byte) => byte.toString(16).padStart(2, '0')).join('')

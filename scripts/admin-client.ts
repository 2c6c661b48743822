// A client of the gateway's admin API, as far as the launcher needs it. Owns requests and their errors in words.
import { z } from 'zod'

const REQUEST_TIMEOUT_MS = 15_000
/** The agent joins within seconds of its start; a token that nobody uses should not lie around. */
const ENROLMENT_TTL_S = 600

/** The admin API answered with an error. */
export class AdminError extends Error {
  override name = 'AdminError'
  readonly status: number
  /** What the API said, as it came. */
  readonly answer: string
  constructor(status: number, message: string, answer = '') {
    super(message)
    this.status = status
    this.answer = answer
  }
}

export class AdminClient {
  readonly #baseUrl: string
  readonly #token: string

  /** @param baseUrl of the gateway, without a slash at its end */
  constructor(baseUrl: string, token: string) {
    this.#baseUrl = baseUrl
    this.#token = token
  }

  /** A request to /admin/v1 + path; the answer is checked against `shape`. @throws AdminError */
  async call<T>(method: string, path: string, shape: z.ZodType<T>, body?: unknown): Promise<T> {
    const response = await fetch(`${this.#baseUrl}/admin/v1${path}`, {
      method,
      headers: { authorization: `Bearer ${this.#token}`, 'content-type': 'application/json' },
      ...(body !== undefined && { body: JSON.stringify(body) }),
      redirect: 'error',
      signal: AbortSignal.timeout(REQUEST_TIMEOUT_MS),
    })
    const text = await response.text()
    if (!response.ok) {
      throw new AdminError(response.status, `${method} ${path} answered ${response.status}: ${text}`, text)
    }
    return shape.parse(JSON.parse(text))
  }

  /** A one-time token with which an agent joins the fleet. */
  async createEnrolmentToken(): Promise<string> {
    const shape = z.object({ token: z.string() })
    const body = { label: 'npm start', ttl_seconds: ENROLMENT_TTL_S }
    return (await this.call('POST', '/backends/tokens', shape, body)).token
  }

  /** Where a browser gets into the dashboard as the operator, once and within ten minutes. */
  async createSignInLink(): Promise<string> {
    return (await this.call('POST', '/sign-in-links', z.object({ url: z.string() }), {})).url
  }
}

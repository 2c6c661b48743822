// Which addresses may become an upstream.
import { expect, test } from 'vitest'
import { parseUpstreamUrl } from '../../../../gateway/policy/upstream-url.ts'

const accepted = (text: string, allowPrivate: boolean) => {
  const parsed = parseUpstreamUrl(text, { allowPrivate })
  return parsed.ok ? parsed.value : false
}

test.each([
  ['https://api.example.com', 'https://api.example.com'],
  ['https://api.example.com/v1/', 'https://api.example.com/v1'],
  ['HTTPS://API.Example.com:443/v1//', 'https://api.example.com/v1'],
  ['https://api.example.com:8443/a/../v1', 'https://api.example.com:8443/v1'],
  ['https://8.8.8.8/v1', 'https://8.8.8.8/v1'],
  ['https://[2606:4700::1111]/v1', 'https://[2606:4700::1111]/v1'],
])('%s is a public upstream', (text, normal) => {
  expect(accepted(text, false)).toBe(normal)
  expect(accepted(text, true)).toBe(normal)
})

test.each([
  'http://127.0.0.1:8000/v1',
  'http://localhost:8000',
  'http://vllm.localhost',
  'http://gpu-1:8000',
  'http://vllm.default.svc.cluster.local:8000',
  'https://vllm.internal',
  'http://vllm.internal.',
  'http://10.1.2.3',
  'http://172.16.0.1',
  'http://172.31.255.255',
  'http://192.168.1.1',
  'https://100.64.0.1',
  'http://198.18.0.1',
  'http://[::1]:8000',
  'http://[fd00::1]',
  'http://[::ffff:127.0.0.1]',
  'http://0x7f.1',
  'http://2130706433',
  'http://0177.0.0.1',
  'http://①②⑦.0.0.1',
])('%s needs allow_private', (text) => {
  expect(accepted(text, false)).toBe(false)
  expect(accepted(text, true)).not.toBe(false)
})

test.each([
  ['plain http to a public name', 'http://api.example.com'],
  ['plain http to a public address', 'http://8.8.8.8'],
  ['a public address that looks private', 'http://172.32.0.1'],
  ['credentials', 'https://user:pass@api.example.com'],
  ['a user', 'https://user@api.example.com'],
  ['a host behind an @', 'https://api.example.com@evil.example'],
  ['a fragment', 'https://api.example.com/v1#x'],
  ['an empty fragment', 'https://api.example.com/v1#'],
  ['a query', 'https://api.example.com/v1?x=1'],
  ['another scheme', 'ftp://api.example.com'],
  ['a script', 'javascript:alert(1)'],
  ['a file', 'file:///etc/passwd'],
  ['a relative path', '/v1'],
  ['nothing', ''],
  ['only a scheme', 'https://'],
  ['600 characters', `https://api.example.com/${'x'.repeat(600)}`],
  ['cloud metadata', 'http://169.254.169.254/latest'],
  ['cloud metadata in one number', 'http://2852039166'],
  ['cloud metadata inside IPv6', 'https://[::ffff:169.254.169.254]'],
  ['link-local IPv6', 'http://[fe80::1]'],
  ['the unspecified address', 'http://0.0.0.0:8000'],
  ['the unspecified IPv6 address', 'http://[::]'],
  ['multicast', 'http://224.0.0.1'],
  ['broadcast', 'http://255.255.255.255'],
  ['NAT64', 'https://[64:ff9b::a9fe:a9fe]'],
  ['6to4', 'https://[2002:a9fe:a9fe::1]'],
  ['Teredo', 'https://[2001:0:a9fe:a9fe::1]'],
  ['IPv6 documentation', 'https://[2001:db8::1]'],
  ['an IPv4-compatible address', 'https://[::169.254.169.254]'],
])('%s is refused whatever is allowed, and not quoted', (_, text) => {
  for (const allowPrivate of [false, true]) {
    const parsed = parseUpstreamUrl(text, { allowPrivate })
    expect(parsed.ok).toBe(false)
    if (!parsed.ok && text.length > 8) expect(parsed.error).not.toContain(text.slice(8))
  }
})

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
  ['https://192.0.78.12/v1', 'https://192.0.78.12/v1'],
  ['https://172.15.255.255', 'https://172.15.255.255'],
  ['https://100.128.0.1', 'https://100.128.0.1'],
  ['https://localhost.example.com', 'https://localhost.example.com'],
  ['https://internal.example.com', 'https://internal.example.com'],
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
  'http://017700000001',
  'http://0x7f000001',
  'http://127.1',
  'http://0xa.1.2.3',
  'http://%31%32%37.0.0.1',
  'http://127.0.0.1.',
  'http://LOCALHOST',
  'http://localhost.',
  'http://localhost.localdomain',
  'https://vllm.default.svc',
  'https://db.private',
  'http://127.255.255.254',
  'http://10.255.255.255',
  'https://100.127.255.255',
  'http://198.19.255.255',
  'http://[fc00::1]',
  'http://[fdff:ffff::1]',
  'http://[0:0:0:0:0:0:0:1]',
  'http://[::ffff:a00:1]',
  'http://[::FFFF:192.168.0.1]',
  'http://[::ffff:100.64.0.1]',
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
  ['an IPv4-compatible private address', 'https://[::10.0.0.1]'],
  ['an IPv4-translated address', 'https://[::ffff:0:10.0.0.1]'],
  ['NAT64 of a private address', 'https://[64:ff9b::10.0.0.1]'],
  ['NAT64 of the local range', 'https://[64:ff9b:1::10.0.0.1]'],
  ['6to4 of a private address', 'https://[2002:a00:1::1]'],
  ['cloud metadata in octal', 'http://0251.0376.0251.0376'],
  ['cloud metadata in hexadecimal', 'http://0xa9fea9fe'],
  ['cloud metadata with a dot behind it', 'http://169.254.169.254.'],
  ['cloud metadata over IPv6', 'http://[fd00:ec2::254]'],
  ['cloud metadata inside IPv6 in hexadecimal', 'http://[::ffff:a9fe:a9fe]'],
  ['cloud metadata behind carrier-grade NAT', 'http://100.100.100.200'],
  ['cloud metadata at a public address', 'https://168.63.129.16'],
  ['cloud metadata by name', 'http://metadata.google.internal'],
  ['cloud metadata by name with a dot', 'http://metadata.google.internal.'],
  ['cloud metadata in the range of protocols', 'http://192.0.0.192'],
  ['this network', 'http://0.1.2.3'],
  ['a reserved address', 'http://240.0.0.1'],
  ['documentation', 'https://192.0.2.1'],
  ['more documentation', 'https://198.51.100.7'],
  ['still more documentation', 'https://203.0.113.7'],
  ['6to4 relays', 'https://192.88.99.1'],
  ['site-local IPv6', 'http://[fec0::1]'],
  ['IPv6 multicast', 'http://[ff02::1]'],
  ['the discard prefix', 'https://[100::1]'],
  ['ORCHID', 'https://[2001:20::1]'],
  ['newer IPv6 documentation', 'https://[3fff::1]'],
  ['a zone', 'http://[fe80::1%25eth0]'],
  ['an empty label', 'https://localhost..'],
  ['an empty label in the middle', 'https://api..example.com'],
  ['a line break', 'https://api.example\n.com'],
  ['a tab', 'https://api.exa\tmple.com'],
  ['a space before it', ' https://api.example.com'],
  ['a backslash', 'https://api.example.com\\@evil.example'],
  ['a password alone', 'https://:canary@api.example.com'],
  ['more than four parts', 'http://1.2.3.4.5'],
  ['a part too large', 'http://256.0.0.1'],
])('%s is refused whatever is allowed, and not quoted', (_, text) => {
  for (const allowPrivate of [false, true]) {
    const parsed = parseUpstreamUrl(text, { allowPrivate })
    expect(parsed.ok).toBe(false)
    if (!parsed.ok && text.length > 8) expect(parsed.error).not.toContain(text.slice(8))
  }
})

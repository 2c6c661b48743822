import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { workerdConfig } from '../../../scripts/workerd-config.ts'

const WRANGLER = `
name = "penstock"
main = "gateway/index.ts"
compatibility_date = "2026-11-09"
compatibility_flags = ["nodejs_compat"]
[vars]
GREETING = 'say "hi"'
LIMIT = 3
[[durable_objects.bindings]]
name = "ACCOUNT"
class_name = "Account"
[[durable_objects.bindings]]
name = "ACCOUNT_AGAIN"
class_name = "Account"
[[migrations]]
tag = "v1"
new_sqlite_classes = ["Account"]
`
const INPUTS = {
  wranglerToml: WRANGLER,
  modules: [
    { name: 'index.js', path: 'bundles/1/index.js' },
    { name: 'table.bin', path: 'bundles/1/table.bin' },
  ],
  secrets: ['ADMIN_TOKEN', 'DATABASE_URL'],
  storageDir: '/d/with "quotes"/objects',
  address: '127.0.0.1:8787',
}

const NEVER =
  '"0.0.0.0/8", "169.254.0.0/16", "168.63.129.16/32", "100.100.100.200/32", "224.0.0.0/4", ' +
  '"fe80::/10", "fd00:ec2::/32", "fd20:ce::254/128", "ff00::/8", "64:ff9b::a83f:8110/128", "64:ff9b::a9fe:0/112"'
const NOT_PUBLIC =
  '"192.0.0.0/24", "198.18.0.0/15", "fec0::/10", "::/96", "::ffff:0:0:0/96", "2001::/32", "2002::/16", "64:ff9b:1::/48", ' +
  '"64:ff9b::/104", "64:ff9b::a00:0/104", "64:ff9b::6440:0/106", "64:ff9b::7f00:0/104", ' +
  '"64:ff9b::ac10:0/108", "64:ff9b::c0a8:0/112"'

test('the configuration of workerd says what wrangler.toml says', () => {
  expect(
    workerdConfig(INPUTS),
  ).toBe(`# Generated from wrangler.toml by scripts/workerd-config.ts at each start; changes here are lost.
using Workerd = import "/workerd/workerd.capnp";

const config :Workerd.Config = (
  services = [
    (name = "gateway", worker = .gateway),
    # Backends and Postgres are on private addresses; which hosts are called is decided in the gateway, never by a caller.
    (name = "outside", network = (allow = ["public", "private"], deny = [${NEVER}], tlsOptions = (trustBrowserCas = true))),
    # What a public name resolves to is checked where the connection is made, so that no name leads inside, today or tomorrow.
    (name = "internet", network = (allow = ["public"], deny = [${NEVER}, ${NOT_PUBLIC}], tlsOptions = (trustBrowserCas = true))),
    (name = "objects", disk = (path = "/d/with \\"quotes\\"/objects", writable = true)),
  ],
  sockets = [(name = "http", address = "127.0.0.1:8787", http = (), service = "gateway")],
  v8Flags = ["--min-semi-space-size=16"],
);

const gateway :Workerd.Worker = (
  modules = [
    (name = "index.js", esModule = embed "bundles/1/index.js"),
    (name = "table.bin", data = embed "bundles/1/table.bin"),
  ],
  compatibilityDate = "2026-11-09",
  compatibilityFlags = [
    "nodejs_compat",
  ],
  bindings = [
    (name = "ACCOUNT", durableObjectNamespace = "Account"),
    (name = "ACCOUNT_AGAIN", durableObjectNamespace = "Account"),
    (name = "GREETING", text = "say \\"hi\\""),
    (name = "LIMIT", json = "3"),
    (name = "INTERNET", service = "internet"),
    (name = "ADMIN_TOKEN", fromEnvironment = "ADMIN_TOKEN"),
    (name = "DATABASE_URL", fromEnvironment = "DATABASE_URL"),
  ],
  durableObjectNamespaces = [
    (className = "Account", uniqueKey = "penstock-Account", enableSql = true),
  ],
  durableObjectStorage = (localDisk = "objects"),
  globalOutbound = "outside",
);
`)
})

test('every Durable Object of the real wrangler.toml gets a stable key and SQLite', () => {
  const wranglerToml = readFileSync(join(import.meta.dirname, '../../../wrangler.toml'), 'utf8')
  const text = workerdConfig({ ...INPUTS, wranglerToml })
  for (const name of ['Account', 'Fleet', 'Directory', 'DatabasePool']) {
    expect(text).toContain(`(className = "${name}", uniqueKey = "penstock-${name}", enableSql = true)`)
  }
})

test('a secret stands in the configuration by name only', () => {
  expect(workerdConfig(INPUTS)).toContain('fromEnvironment = "DATABASE_URL"')
  expect(workerdConfig(INPUTS)).not.toContain('postgres://')
})

test('a class without SQLite storage is refused, since its objects would be lost', () => {
  const wranglerToml = WRANGLER.replace('new_sqlite_classes = ["Account"]', 'new_sqlite_classes = []')
  expect(() => workerdConfig({ ...INPUTS, wranglerToml })).toThrow('class Account has no SQLite storage')
})

test('a module that workerd cannot load is named', () => {
  expect(() => workerdConfig({ ...INPUTS, modules: [{ name: 'a.py', path: 'a.py' }] })).toThrow('no way to load a.py')
})

test('the built dashboard is a folder that only its binding reads, and without one there is no binding', () => {
  const wranglerToml = readFileSync(join(import.meta.dirname, '../../../wrangler.toml'), 'utf8')
  const text = workerdConfig({ ...INPUTS, wranglerToml, assetsDir: '/d/dashboards/1' })
  expect(text).toContain('(name = "assets", disk = (path = "/d/dashboards/1")),')
  expect(text).toContain('(name = "ASSETS", service = "assets"),')
  expect(workerdConfig({ ...INPUTS, wranglerToml })).not.toContain('"assets"')
})
